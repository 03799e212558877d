//! One call from any phase to `Stopped`, with retries and an explicit policy, which loses nothing
//! on the way.

mod attachment;
mod policy;
mod receipt;
mod rehydrate;
mod report;
mod retry;
mod unfit;
mod worst_case;

pub use attachment::Attachment;
pub use policy::{OnSpentCheckpoint, Policy};
pub use receipt::{Leg, Receipt};
pub use rehydrate::{Rehydrated, rehydrate};
pub use report::{LegReport, ReceiptReport};
pub use unfit::{RehydrateError, Unfit};

use std::fmt;

use retry::{Retries, Verdict};

use crate::{
    clock::{MOMENT, after},
    contracts::{Scheduler, StopRequest},
    machine::{AnyPhase, AnyStopped, CheckpointStopping, JobContext, StepError, hold},
    text::rounded,
    why::{Culprit, Why},
};

/// Drives a job from any phase to `Stopped`.
///
/// Every phase is run, and its legal successor entered, until one is terminal. Retryable failures
/// are retried with exponential backoff and jitter, as often as [`Limits`](crate::limits::Limits)
/// allow; a stronger stop request cuts a backoff short. If the final checkpoint does not complete
/// in time, or can't complete at all, `policy` says what happens. A job without a controller
/// ([`Detached`](crate::contracts::Detached)) goes straight to `Stopping<Force>`.
///
/// [`Limits::worst_case`](crate::limits::Limits::worst_case) returns how long it can take.
///
/// # Errors
/// [`DriveError`] holds the phase that could not be left: try again, escalate, or let a person
/// decide.
///
/// # Cancel safety
/// Safe: if it is dropped, the phase stays in the job; [`JobContext::take_parked`] returns it.
pub async fn drive<C: Attachment, S: Scheduler>(
    phase: impl Into<AnyPhase>,
    job: &mut JobContext<C, S>,
    policy: &Policy,
) -> Result<Receipt, DriveError> {
    let mut parking = Parking { phase: Some(phase.into()), job };
    let mut retries = Retries::new(&parking.job.limits, policy);
    loop {
        let Some(phase) = parking.phase.as_mut() else { continue };
        let Err(failure) = C::run(phase, parking.job).await else {
            // The outcome is in the phase, so the step has no await at which the phase could be
            // lost.
            match parking.step() {
                Stepped::On => retries.start_over(),
                Stepped::Stopped(stopped) => return Ok(Receipt::new(parking.job, stopped, retries.used())),
                Stepped::Failed(error) => return Err(error),
            }
            continue;
        };
        parking.job.note_failure(&failure);
        if failure.is_superseded() {
            parking.job.note_superseded();
        }
        match retries.after(&failure, phase.kind()) {
            Verdict::Retry(delay) => {
                tracing::warn!(
                    job = %parking.job.id, run = parking.job.run.get(), phase = phase.kind().tag(), %failure,
                    wait = %rounded(delay), "will try again"
                );
                parking.job.note_retry();
                // Nothing is stronger than a kill, so no request is a reason to retry earlier.
                let level = if failure.is_schedulers() { Some(StopRequest::Force) } else { phase.kind().fulfils() };
                let until = phase.deadline_before(after(delay));
                if matches!(failure, StepError::Journal(_)) || matches!(phase, AnyPhase::StoppingForce(_)) {
                    // The controller's last command could not be recorded, or the record no longer
                    // matches it, so the controller must not continue with it (invariant I7).
                    // Only a new request is a reason to retry earlier: one that the phase could not
                    // take yet would end every wait at once, and spend all retries in no time.
                    hold(parking.job, level.max(parking.job.requested()), until).await;
                } else {
                    C::pause(parking.job, level, until).await;
                }
            }
            Verdict::Spent => {
                let kind = phase.kind();
                let Some(spent) = parking.phase.take() else { continue };
                match after_spent(spent, failure, parking.job, policy) {
                    Ok(next) => {
                        let tries_on = next.kind() == kind;
                        parking.phase = Some(next);
                        retries.start_over();
                        if tries_on {
                            // Without limit, but with a pause: retries and budget may be zero.
                            let breath = parking.job.limits.backoff_min.max(MOMENT);
                            C::pause(parking.job, kind.fulfils(), after(breath)).await;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// The reaction to a phase whose retries are spent, or that can't continue.
fn after_spent<C: Attachment, S: Scheduler>(
    phase: AnyPhase,
    failure: StepError,
    job: &mut JobContext<C, S>,
    policy: &Policy,
) -> Result<AnyPhase, DriveError> {
    match phase {
        // What can't be recorded can't be done, and after a conflict another controller drives the
        // job.
        phase if matches!(failure, StepError::Journal(_)) => Err(DriveError::new(phase, failure, job)),
        // The evidence is not proven yet, so there is a decision to make.
        AnyPhase::CheckpointStopping(phase) if phase.complete().is_none() => {
            after_spent_checkpoint(phase, failure, job, policy)
        }
        AnyPhase::Finishing(phase) if phase.complete().is_none() => {
            C::give_up(phase.into(), &failure, job).map_err(|phase| DriveError::new(phase, failure, job))
        }
        phase => Err(DriveError::new(phase, failure, job)),
    }
}

fn after_spent_checkpoint<C: Attachment, S: Scheduler>(
    mut phase: CheckpointStopping,
    failure: StepError,
    job: &mut JobContext<C, S>,
    policy: &Policy,
) -> Result<AnyPhase, DriveError> {
    let may_still_complete = failure.is_retryable() || matches!(failure, StepError::BudgetSpent { .. });
    match policy.on_spent_checkpoint {
        OnSpentCheckpoint::KeepTrying if may_still_complete => {
            phase.extend(job.limits.final_checkpoint, job);
            Ok(phase.into())
        }
        OnSpentCheckpoint::Escalate => {
            C::give_up(phase.into(), &failure, job).map_err(|phase| DriveError::new(phase, failure, job))
        }
        _ => Err(DriveError::new(phase.into(), failure, job)),
    }
}

/// Holds the phase while it is driven, and puts it into the job if the drive is dropped.
struct Parking<'a, C, S> {
    phase: Option<AnyPhase>,
    job: &'a mut JobContext<C, S>,
}

enum Stepped {
    On,
    Stopped(AnyStopped),
    Failed(DriveError),
}

impl<C: Attachment, S: Scheduler> Parking<'_, C, S> {
    fn step(&mut self) -> Stepped {
        let Some(phase) = self.phase.take() else { return Stepped::On };
        match C::step(phase, self.job) {
            Ok(next) => match AnyStopped::try_from(next) {
                Ok(stopped) => Stepped::Stopped(stopped),
                Err(next) => {
                    self.phase = Some(next);
                    Stepped::On
                }
            },
            Err(failed) => {
                let (phase, failure) = failed.into_parts();
                Stepped::Failed(DriveError::new(phase, *failure, self.job))
            }
        }
    }
}

impl<C, S> Drop for Parking<'_, C, S> {
    fn drop(&mut self) {
        if let Some(phase) = self.phase.take() {
            self.job.parked = Some(Box::new(phase));
        }
    }
}

/// The drive could not reach `Stopped`; the error holds the phase (invariant I6).
#[derive(Debug)]
#[must_use = "it holds the phase: take it with `into_phase`, or the shutdown is lost"]
pub struct DriveError {
    phase: Box<AnyPhase>,
    failure: Box<StepError>,
    why: Box<Why>,
}

impl DriveError {
    fn new<C: Attachment, S>(phase: AnyPhase, failure: StepError, job: &JobContext<C, S>) -> Self {
        Self { phase: Box::new(phase), failure: Box::new(failure), why: Box::new(C::why(job)) }
    }

    /// What the stop was waiting for when the drive gave up, with the most certain culprit first.
    pub fn why(&self) -> &Why {
        &self.why
    }

    /// The phase, to continue with.
    pub fn into_phase(self) -> AnyPhase {
        *self.phase
    }

    /// The phase and what went wrong.
    pub fn into_parts(self) -> (AnyPhase, Box<StepError>) {
        (*self.phase, self.failure)
    }

    /// What went wrong.
    pub fn error(&self) -> &StepError {
        &self.failure
    }
}

impl fmt::Display for DriveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shutdown is stuck in {}: {}", self.phase.kind(), self.failure)?;
        // A cause is told once.
        let failure = self.failure.to_string();
        let is_told = |culprit: &Culprit| culprit.error.as_ref().is_some_and(|error| failure.contains(&**error));
        match self.why.culprits.first().filter(|culprit| !is_told(culprit)) {
            Some(culprit) => write!(f, "; {culprit}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for DriveError {}
