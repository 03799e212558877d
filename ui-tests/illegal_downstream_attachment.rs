// What is driven to a stop is a job's controller or `Detached`, and nothing else.
use winddown::{drive, JobContext, Policy, Running, Scheduler, drive::Attachment};

struct NoController;

impl Attachment for NoController {}

async fn stop<S: Scheduler>(running: Running, job: &mut JobContext<NoController, S>) {
    let _ = drive(running, job, &Policy::escalate()).await;
}

fn main() {}
