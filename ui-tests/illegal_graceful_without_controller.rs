// Nobody can stop a job gracefully that has no controller.
use winddown::{Detached, Graceful, JobContext, Running, Scheduler, Stopping};

fn ask<S: Scheduler>(running: Running, job: &mut JobContext<Detached, S>) {
    let _ = running.stop_gracefully(job);
}

async fn wait<S: Scheduler>(stopping: Stopping<Graceful>, job: &mut JobContext<Detached, S>) {
    let _ = stopping.next(job).await;
}

fn main() {}
