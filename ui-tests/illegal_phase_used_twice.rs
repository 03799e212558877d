// A phase is used up by its step.
use winddown::{JobContext, JobController, Running, Scheduler};

async fn twice<C: JobController, S: Scheduler>(running: Running, job: &mut JobContext<C, S>) {
    let _stopping = running.stop_with_checkpoint(job);
    let _again = running.stop_immediately(job);
}

fn main() {}
