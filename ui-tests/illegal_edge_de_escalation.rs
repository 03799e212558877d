// The same, as an edge.
use winddown::{Force, Graceful, Stopping, edge};

fn main() {
    edge::<Stopping<Force>, Stopping<Graceful>>();
}
