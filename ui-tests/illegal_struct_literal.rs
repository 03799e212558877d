// A phase can't be written down; it is reached by an edge.
use winddown::{CheckpointStopping, Checkpointed, Killed, Running, Stopped};

fn forge() -> CheckpointStopping {
    CheckpointStopping {}
}

fn forge_from(stopped: Stopped<Checkpointed>) -> CheckpointStopping {
    CheckpointStopping { entry: stopped.entry }
}

fn forge_evidence() -> Killed {
    Killed(())
}

fn forge_default() -> Running {
    Running::default()
}

fn main() {}
