// No successor enum turns `Stopped` into something else.
use winddown::{AfterCheckpointStopping, Checkpointed, CheckpointStopping, Stopped};

fn revive(stopped: Stopped<Checkpointed>) -> CheckpointStopping {
    stopped.into()
}

fn invent(stopped: Stopped<Checkpointed>) -> AfterCheckpointStopping {
    AfterCheckpointStopping::Immediate(stopped)
}

fn main() {}
