// A killed job is no job with a final checkpoint.
use winddown::{Checkpointed, Epoch, Killed, Stopped};

fn resume_exactly(stopped: Stopped<Checkpointed>) -> Epoch {
    stopped.evidence().epoch()
}

fn after_a_kill(stopped: Stopped<Killed>) -> Epoch {
    resume_exactly(stopped)
}

fn main() {}
