//! Leads from a checked record back to a phase, by the same edges as in a normal run.

use super::{Checkpointed, Completed, Drained, Halted, Killed, NothingAlive, Running};
use crate::machine::{Force, Graceful, Immediate};
use crate::{
    contracts::Epoch,
    machine::{
        AnyPhase, CheckpointStopping, Finishing, JobContext, PhaseKind, PhaseRecord, ReasonKind, Recovering, Stopped,
        Stopping,
    },
};

/// The state of the job according to the checks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Replay {
    /// This phase, not yet at its end.
    Phase(PhaseKind),
    /// Its final checkpoint is durable and has nothing to commit (or has committed), every task
    /// ended with it, and nothing is alive.
    Checkpointed(Epoch, NothingAlive),
    /// The same for a job that ended by itself.
    Completed(Epoch, NothingAlive),
    /// One of the other ends.
    Drained(NothingAlive),
    /// See `Drained`.
    Halted(NothingAlive),
    /// See `Drained`.
    Killed(NothingAlive),
}

impl Replay {
    /// The same end, confirmed by a later answer.
    pub(crate) fn on_the_word_of(self, gone: NothingAlive) -> Self {
        match self {
            Self::Phase(kind) => Self::Phase(kind),
            Self::Checkpointed(epoch, _) => Self::Checkpointed(epoch, gone),
            Self::Completed(epoch, _) => Self::Completed(epoch, gone),
            Self::Drained(_) => Self::Drained(gone),
            Self::Halted(_) => Self::Halted(gone),
            Self::Killed(_) => Self::Killed(gone),
        }
    }
}

/// Takes the edges from `Running` to the phase in the record.
pub(crate) fn replay<C, S>(
    running: Running,
    replay: Replay,
    record: &PhaseRecord,
    job: &mut JobContext<C, S>,
) -> AnyPhase {
    match replay {
        Replay::Phase(kind) => to_phase(running, kind, job),
        Replay::Checkpointed(epoch, gone) => {
            let phase: CheckpointStopping = job.enter(running, (), ReasonKind::Resumed);
            let stopped: Stopped<Checkpointed> =
                job.enter(phase, (Checkpointed::proven(epoch), gone.witness(job)), ReasonKind::Resumed);
            stopped.into()
        }
        Replay::Completed(epoch, gone) => {
            let phase: Finishing = job.enter(running, (), ReasonKind::Resumed);
            let proof = (Completed::proven(epoch), gone.witness(job));
            let stopped: Stopped<Completed> = job.enter(phase, proof, ReasonKind::Resumed);
            stopped.into()
        }
        Replay::Drained(gone) => {
            let phase: Stopping<Graceful> = job.enter(running, (), ReasonKind::Resumed);
            let evidence = Drained::proven(record.last_complete);
            let stopped: Stopped<Drained> = job.enter(phase, (evidence, gone.witness(job)), ReasonKind::Resumed);
            stopped.into()
        }
        Replay::Halted(gone) => {
            let phase: Stopping<Immediate> = job.enter(running, (), ReasonKind::Resumed);
            let evidence = Halted::proven(record.last_complete);
            let stopped: Stopped<Halted> = job.enter(phase, (evidence, gone.witness(job)), ReasonKind::Resumed);
            stopped.into()
        }
        Replay::Killed(gone) => {
            let phase: Stopping<Force> = job.enter(running, (), ReasonKind::Resumed);
            let stopped: Stopped<Killed> =
                job.enter(phase, (Killed::proven(gone.confirmed_by()), gone.witness(job)), ReasonKind::Resumed);
            stopped.into()
        }
    }
}

fn to_phase<C, S>(running: Running, kind: PhaseKind, job: &mut JobContext<C, S>) -> AnyPhase {
    match kind {
        PhaseKind::Running => running.into(),
        PhaseKind::Finishing => job.enter::<_, Finishing>(running, (), ReasonKind::Resumed).into(),
        PhaseKind::Recovering => job.enter::<_, Recovering>(running, (), ReasonKind::Resumed).into(),
        PhaseKind::CheckpointStopping => job.enter::<_, CheckpointStopping>(running, (), ReasonKind::Resumed).into(),
        PhaseKind::StoppingGraceful => job.enter::<_, Stopping<Graceful>>(running, (), ReasonKind::Resumed).into(),
        PhaseKind::StoppingImmediate => job.enter::<_, Stopping<Immediate>>(running, (), ReasonKind::Resumed).into(),
        // Terminal ones are handled by their evidence, so none arrives here; force is safe for any.
        _ => job.enter::<_, Stopping<Force>>(running, (), ReasonKind::Resumed).into(),
    }
}
