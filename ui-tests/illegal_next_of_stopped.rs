// `Stopped` is the end: it has no `next`.
use winddown::{Checkpointed, JobContext, JobController, Scheduler, Stopped};

async fn go_on<C: JobController, S: Scheduler>(stopped: Stopped<Checkpointed>, job: &mut JobContext<C, S>) {
    let _ = stopped.next(job).await;
}

fn main() {}
