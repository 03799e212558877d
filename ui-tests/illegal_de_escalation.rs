// A stop never becomes weaker.
use winddown::{Force, Graceful, Immediate, JobContext, Stopping};

fn calm_down<C, S>(force: Stopping<Force>, job: &mut JobContext<C, S>) {
    let _ = force.escalate::<Graceful, _, _>(job);
}

fn soften<C, S>(immediate: Stopping<Immediate>, job: &mut JobContext<C, S>) {
    let _ = immediate.escalate::<Graceful, _, _>(job);
}

fn main() {}
