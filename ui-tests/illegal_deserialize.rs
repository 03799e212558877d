// A stored record does not become a phase by parsing it.
use serde::de::DeserializeOwned;
use winddown::{CheckpointStopping, Checkpointed, Stopped};

fn parse<T: DeserializeOwned>(_: &str) -> Option<T> {
    None
}

fn main() {
    let _ = parse::<CheckpointStopping>("{}");
    let _ = parse::<Stopped<Checkpointed>>("{}");
}
