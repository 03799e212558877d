// A stored record does not become a phase by parsing it.
use serde::{Deserialize, Deserializer};
use winddown::{CheckpointStopping, Checkpointed, Stopped};

fn checkpoint_stopping<'de, D: Deserializer<'de>>(record: D) -> Result<CheckpointStopping, D::Error> {
    CheckpointStopping::deserialize(record)
}

fn stopped<'de, D: Deserializer<'de>>(record: D) -> Result<Stopped<Checkpointed>, D::Error> {
    Stopped::<Checkpointed>::deserialize(record)
}

fn main() {}
