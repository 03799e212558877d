//! What all phases have in common: the work is done once, and its outcome is kept in the phase
//! until the step.

use tracing::Instrument;

use super::{Evidence, Stopped, Stopping, running::step_for};
use crate::{
    contracts::Scheduler,
    machine::{AnyPhase, Force, Held, JobContext, Phase, Reason, StepError, StepFailed, SuccessorOf},
};

/// A phase that has a successor. `C` is the job's controller; a forced stop works without one.
pub(crate) trait Work<C>: Phase {
    /// How the work ended, and so which edge is taken.
    type Exit: Clone + Send;
    /// What may follow.
    type After: Into<AnyPhase>;

    /// Where the outcome is kept.
    fn decided(&mut self) -> &mut Option<Self::Exit>;

    /// Does the work. Dropped and called again, it goes on.
    fn work<S: Scheduler>(
        &mut self,
        job: &mut JobContext<C, S>,
    ) -> impl Future<Output = Result<Self::Exit, StepError>> + Send;

    /// Takes the edge.
    fn step<S>(self, exit: Self::Exit, job: &mut JobContext<C, S>) -> Self::After;

    /// Whether the outcome says that no worker is alive. Then the scheduler is asked again before
    /// the step.
    fn is_stopped(_exit: &Self::Exit) -> bool {
        false
    }

    /// Asks the scheduler once more whether any worker of the run is alive.
    fn look_again<S: Scheduler>(
        &mut self,
        exit: Self::Exit,
        _job: &mut JobContext<C, S>,
    ) -> impl Future<Output = Result<Self::Exit, StepError>> + Send {
        std::future::ready(Ok(exit))
    }
}

/// Does the phase's work, once.
#[inline]
pub(crate) async fn run<P: Work<C>, C: Send, S: Scheduler>(
    phase: &mut P,
    job: &mut JobContext<C, S>,
) -> Result<(), StepError> {
    decide(phase, job).await.map(drop)
}

#[inline]
async fn decide<P: Work<C>, C: Send, S: Scheduler>(
    phase: &mut P,
    job: &mut JobContext<C, S>,
) -> Result<P::Exit, StepError> {
    job.check(phase)?;
    if let Some(exit) = phase.decided() {
        return Ok(exit.clone());
    }
    let span = job.span(P::KIND);
    let exit = phase.work(job).instrument(span).await?;
    *phase.decided() = Some(exit.clone());
    Ok(exit)
}

/// The same for the step: what an earlier call has proven of the workers is asked again.
#[inline]
async fn decide_at_last<P: Work<C>, C: Send, S: Scheduler>(
    phase: &mut P,
    job: &mut JobContext<C, S>,
) -> Result<P::Exit, StepError> {
    if !phase.decided().as_ref().is_some_and(P::is_stopped) {
        return decide(phase, job).await;
    }
    job.check(phase)?;
    let Some(exit) = phase.decided().take() else { return decide(phase, job).await };
    let exit = phase.look_again(exit, job).await?;
    *phase.decided() = Some(exit.clone());
    Ok(exit)
}

/// Does the work, then takes the edge. Dropped before, it leaves the phase in the job.
#[inline]
pub(super) fn next<P: Work<C>, C: Send, S: Scheduler>(
    phase: P,
    job: &mut JobContext<C, S>,
) -> impl Future<Output = Result<P::After, StepFailed<P>>> {
    let mut held = Held::new(phase, job);
    async move {
        let (phase, job) = held.lend();
        let decided = decide_at_last(phase, job).await;
        let phase = held.take();
        match decided {
            Ok(exit) => Ok(phase.step(exit, held.job)),
            Err(failure) => Err(StepFailed::new(phase, failure)),
        }
    }
}

/// Takes the edge right after [`run`]: nothing has come in between. A phase that has not decided
/// comes back, to be run again.
pub(crate) fn proceed<P: Work<C>, C, S>(mut phase: P, job: &mut JobContext<C, S>) -> AnyPhase {
    match phase.decided().take() {
        Some(exit) => phase.step(exit, job).into(),
        None => phase.into(),
    }
}

/// What [`AnyPhase`] does with each of its phases; the table makes the dispatch.
pub(crate) trait Walk<C>: Phase {
    /// Does the phase's work; a job that has stopped has none.
    fn run<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Takes the edge that the work has led to. It does not wait.
    fn proceed<S>(self, job: &mut JobContext<C, S>) -> AnyPhase;
}

impl<C: Send, E: Evidence> Walk<C> for Stopped<E>
where
    Self: Phase,
{
    async fn run<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
        job.check(self)
    }

    fn proceed<S>(self, _: &mut JobContext<C, S>) -> AnyPhase {
        self.into()
    }
}

/// The step to a forced stop, for a reason.
pub(super) fn to_force<P, C, S>(phase: P, reason: Reason, job: &mut JobContext<C, S>) -> Result<AnyPhase, StepFailed<P>>
where
    P: Phase,
    Stopping<Force>: SuccessorOf<P>,
{
    step_for::<_, Stopping<Force>, _, _>(phase, reason, job).map(Into::into)
}
