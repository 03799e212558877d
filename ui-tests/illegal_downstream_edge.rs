// A downstream crate can't add an edge between our phases.
use winddown::{Checkpointed, Running, Stopped, machine::SuccessorOf};

impl SuccessorOf<Stopped<Checkpointed>> for Running {
    const WHEN: &'static str = "second thoughts";
}

fn main() {}
