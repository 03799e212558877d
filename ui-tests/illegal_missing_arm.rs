// Every successor has to be dealt with.
use winddown::{JobContext, JobController, Scheduler, machine::AfterCheckpointStopping};

async fn finish<C: JobController, S: Scheduler>(after: AfterCheckpointStopping, job: &mut JobContext<C, S>) {
    match after {
        AfterCheckpointStopping::Stopped(stopped) => drop(stopped),
        AfterCheckpointStopping::Immediate(stopping) => drop(stopping.next(job).await),
    }
}

fn main() {}
