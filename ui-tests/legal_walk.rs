// The control: what the failing cases do wrong, done right.
use winddown::{Checkpointed, Detached, Epoch, JobContext, JobController, Running, Scheduler, Stopped, machine::AfterCheckpointStopping};

async fn stop<C: JobController, S: Scheduler>(job: &mut JobContext<C, S>, running: Running) -> Option<Epoch> {
    let stopping = running.stop_with_checkpoint(job).ok()?;
    match stopping.next(job).await.ok()? {
        AfterCheckpointStopping::Stopped(stopped) => Some(resume_exactly(&stopped)),
        AfterCheckpointStopping::Immediate(stopping) => {
            stopping.next(job).await.ok()?;
            None
        }
        AfterCheckpointStopping::Force(stopping) => {
            stopping.next(job).await.ok()?;
            None
        }
    }
}

async fn kill<S: Scheduler>(job: &mut JobContext<Detached, S>, running: Running) -> Option<()> {
    running.force(job).ok()?.next(job).await.ok().map(drop)
}

fn resume_exactly(stopped: &Stopped<Checkpointed>) -> Epoch {
    stopped.evidence().epoch()
}

fn main() {}
