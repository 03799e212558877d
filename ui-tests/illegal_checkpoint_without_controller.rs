// Nobody can take a checkpoint of a job without a controller.
use winddown::{Detached, JobContext, Running, Scheduler};

fn checkpoint<S: Scheduler>(running: Running, job: &mut JobContext<Detached, S>) {
    let _ = running.stop_with_checkpoint(job);
}

fn main() {}
