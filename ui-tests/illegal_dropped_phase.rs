// A phase that is dropped is a shutdown that nobody finishes.
#![deny(unused_must_use)]
use winddown::{JobContext, JobController, Running, Scheduler, StepFailed};

async fn forget<C: JobController, S: Scheduler>(
    running: Running,
    job: &mut JobContext<C, S>,
) -> Result<(), StepFailed<Running>> {
    running.stop_with_checkpoint(job)?;
    Ok(())
}

async fn forget_successor<C: JobController, S: Scheduler>(running: Running, job: &mut JobContext<C, S>) {
    running.next(job).await.unwrap();
}

fn main() {}
