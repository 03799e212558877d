// The methods behind the traits can't be called from outside.
use winddown::{Force, Graceful, JobContext, Running, Stopping, machine::WeakerThan};

fn mint() -> Running {
    Running::mint()
}

fn escalate<C, S>(stopping: Stopping<Graceful>, job: &mut JobContext<C, S>) -> Stopping<Force> {
    <Graceful as WeakerThan<Force>>::escalate(stopping, job, ())
}

fn main() {}
