// A stopped job can't take a checkpoint.
use winddown::{CheckpointStopping, Checkpointed, Stopped, edge};

fn main() {
    edge::<Stopped<Checkpointed>, CheckpointStopping>();
}
