// After a drain something may be left to replay, so it is no proof that nothing is.
use winddown::{Drained, Epoch, Stopped, machine::NothingToReplay};

fn hand_over<E: NothingToReplay>(stopped: &Stopped<E>) -> Epoch {
    stopped.evidence().final_epoch()
}

fn after_a_drain(stopped: &Stopped<Drained>) -> Epoch {
    hand_over(stopped)
}

fn main() {}
