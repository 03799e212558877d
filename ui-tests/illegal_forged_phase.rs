// A downstream crate can't add a phase.
use winddown::{PhaseKind, machine::Phase};

struct AlmostStopped;

impl Phase for AlmostStopped {
    const KIND: PhaseKind = PhaseKind::StoppedKilled;
}

fn main() {}
