//! What a drive can do with a job with or without a controller.

use crate::contracts::{Detached, JobController};

/// A job's controller, or [`Detached`]. Sealed: it is implemented for every [`JobController`] and
/// for `Detached`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be driven to a stop: expected a job's controller, or `Detached` where there is none",
    label = "neither a `JobController` nor `Detached`",
    note = "implement `JobController` for it; a job without one is driven as `JobContext<Detached, S>`, see `JobContext::detach`"
)]
pub trait Attachment: sealed::Drive {}

#[diagnostic::do_not_recommend]
impl<A: sealed::Drive> Attachment for A {}

pub(super) mod sealed {
    use tokio::time::Instant;

    use super::{Detached, JobController};
    use crate::{
        contracts::{Scheduler, StopRequest},
        machine::{
            AnyPhase, Immediate, JobContext, ReasonKind, StepError, StepFailed, Stopping, hold, pause,
            phases::{sealed::Mint, work::proceed},
            step_for,
        },
        why::Why,
    };

    #[diagnostic::on_unimplemented(
        message = "`{Self}` can't be driven to a stop: expected a job's controller, or `Detached` where there is none",
        label = "neither a `JobController` nor `Detached`",
        note = "implement `JobController` for it; a job without one is driven as `JobContext<Detached, S>`, see `JobContext::detach`"
    )]
    pub trait Drive: Sized + Send {
        /// Runs the phase; its outcome stays in it.
        fn run<S: Scheduler>(
            phase: &mut AnyPhase,
            job: &mut JobContext<Self, S>,
        ) -> impl Future<Output = Result<(), StepError>> + Send;

        /// Steps to the successor, after a successful `run`. It does not wait.
        fn step<S: Scheduler>(phase: AnyPhase, job: &mut JobContext<Self, S>)
        -> Result<AnyPhase, StepFailed<AnyPhase>>;

        /// Waits out a backoff, unless a stop request stronger than `level` comes.
        fn pause<S: Scheduler>(
            job: &mut JobContext<Self, S>,
            level: Option<StopRequest>,
            until: Instant,
        ) -> impl Future<Output = ()> + Send;

        /// What the stop waits for.
        fn why<S>(job: &JobContext<Self, S>) -> Why;

        /// Gives up a final checkpoint because of an error.
        fn give_up<S: Scheduler>(
            phase: AnyPhase,
            why: &StepError,
            job: &mut JobContext<Self, S>,
        ) -> Result<AnyPhase, AnyPhase>;
    }

    #[diagnostic::do_not_recommend]
    impl<C: JobController> Drive for C {
        async fn run<S: Scheduler>(phase: &mut AnyPhase, job: &mut JobContext<Self, S>) -> Result<(), StepError> {
            phase.run(job).await
        }

        fn step<S: Scheduler>(
            phase: AnyPhase,
            job: &mut JobContext<Self, S>,
        ) -> Result<AnyPhase, StepFailed<AnyPhase>> {
            Ok(phase.proceed(job))
        }

        async fn pause<S: Scheduler>(job: &mut JobContext<Self, S>, level: Option<StopRequest>, until: Instant) {
            pause(job, level, until).await;
        }

        fn why<S>(job: &JobContext<Self, S>) -> Why {
            Why::of(job)
        }

        fn give_up<S: Scheduler>(
            phase: AnyPhase,
            why: &StepError,
            job: &mut JobContext<Self, S>,
        ) -> Result<AnyPhase, AnyPhase> {
            if job.controller.has_lost_worker() {
                let reason = job.why_lost();
                return phase.force(reason, job).map_err(StepFailed::into_phase);
            }
            let reason = job.why(why);
            match phase {
                AnyPhase::CheckpointStopping(phase) => {
                    step_for::<_, Stopping<Immediate>, _, _>(phase, reason, job).map(Into::into).map_err(any)
                }
                AnyPhase::Finishing(phase) => {
                    step_for::<_, Stopping<Immediate>, _, _>(phase, reason, job).map(Into::into).map_err(any)
                }
                other => return Err(other),
            }
            .map_err(StepFailed::into_phase)
        }
    }

    /// Nothing can send orders to the workers: from every phase straight to force (the original
    /// contract's rule).
    #[diagnostic::do_not_recommend]
    impl Drive for Detached {
        async fn run<S: Scheduler>(phase: &mut AnyPhase, job: &mut JobContext<Self, S>) -> Result<(), StepError> {
            match phase {
                AnyPhase::StoppingForce(phase) => phase.run(job).await,
                other => other.check(job),
            }
        }

        fn step<S: Scheduler>(
            phase: AnyPhase,
            job: &mut JobContext<Self, S>,
        ) -> Result<AnyPhase, StepFailed<AnyPhase>> {
            match phase {
                AnyPhase::StoppingForce(phase) => Ok(proceed(phase, job)),
                phase => phase.force(ReasonKind::NoController.into(), job),
            }
        }

        async fn pause<S: Scheduler>(job: &mut JobContext<Self, S>, level: Option<StopRequest>, until: Instant) {
            hold(job, level, until).await;
        }

        fn why<S>(job: &JobContext<Self, S>) -> Why {
            job.progress_now().why()
        }

        fn give_up<S: Scheduler>(
            phase: AnyPhase,
            _: &StepError,
            job: &mut JobContext<Self, S>,
        ) -> Result<AnyPhase, AnyPhase> {
            phase.force(ReasonKind::NoController.into(), job).map_err(StepFailed::into_phase)
        }
    }

    fn any<P: Into<AnyPhase>>(failed: StepFailed<P>) -> StepFailed<AnyPhase> {
        failed.map(Into::into)
    }

    impl AnyPhase {
        /// `at`, or the phase's own deadline if that is earlier: a backoff does not extend the
        /// phase.
        pub(in crate::drive) fn deadline_before(&self, at: Instant) -> Instant {
            let entry = match self {
                Self::CheckpointStopping(phase) if phase.complete().is_none() => phase.entry(),
                Self::Finishing(phase) if phase.complete().is_none() => phase.entry(),
                _ => return at,
            };
            entry.deadline.map_or(at, |deadline| deadline.min(at))
        }
    }
}
