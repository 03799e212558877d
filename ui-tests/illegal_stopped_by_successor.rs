// No successor enum turns `Stopped` into something else.
use winddown::{CheckpointStopping, Checkpointed, Stopped, machine::AfterCheckpointStopping};

fn revive(stopped: Stopped<Checkpointed>) -> CheckpointStopping {
    stopped.into()
}

fn invent(stopped: Stopped<Checkpointed>) -> AfterCheckpointStopping {
    AfterCheckpointStopping::Immediate(stopped)
}

fn main() {}
