//! The result of a drive.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    contracts::{ConfirmedBy, JobId, RunId, StopRequest},
    machine::{AnyStopped, JobContext, PhaseKind, Reason},
};

/// The record of a finished shutdown: the evidence as a typed value, and the phases on the way.
#[derive(Debug)]
#[must_use = "it holds the evidence of how the job stopped"]
pub struct Receipt {
    pub(super) job: JobId,
    pub(super) run: RunId,
    pub(super) stopped: AnyStopped,
    pub(super) legs: Vec<Leg>,
    pub(super) requested: Option<StopRequest>,
    pub(super) may_restart: bool,
    pub(super) retries: u32,
    pub(super) last_error: Option<Arc<str>>,
}

/// One phase of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The phase.
    pub phase: PhaseKind,
    /// Why it was entered.
    pub reason: Reason,
    /// How long the job was in it; zero for the terminal one.
    pub took: Duration,
}

impl Receipt {
    pub(super) fn new<C, S>(job: &JobContext<C, S>, stopped: AnyStopped, retries: u32) -> Self {
        let visits = job.walked();
        let ends = visits.iter().skip(1).chain(visits.last()).map(|visit| visit.entered);
        let legs = visits.iter().zip(ends);
        let legs =
            legs.map(|(visit, end)| Leg { phase: visit.phase, reason: visit.reason(), took: end - visit.entered });
        Self {
            job: job.id().clone(),
            run: job.run(),
            stopped,
            legs: legs.collect(),
            requested: job.requested(),
            may_restart: job.may_restart(),
            retries,
            last_error: job.progress_now().last_error,
        }
    }

    /// The job.
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The evidence: match on it to see the typed `Stopped<_>`.
    pub fn stopped(&self) -> &AnyStopped {
        &self.stopped
    }

    /// The evidence: match on it to get the typed `Stopped<_>`.
    pub fn into_stopped(self) -> AnyStopped {
        self.stopped
    }

    /// The phases since the job's context was built, the terminal one last.
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// The strongest stop request that was made.
    pub fn requested(&self) -> Option<StopRequest> {
        self.requested
    }

    /// Retries used by this drive.
    pub fn retries(&self) -> u32 {
        self.retries
    }

    /// The last error, even if a retry succeeded.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    /// Whether another run of the job may be started: only if no stop was requested (invariant I8),
    /// and no newer run or other controller has taken the job over (invariant I11).
    pub fn may_restart(&self) -> bool {
        self.may_restart
    }

    /// The time from building the job's context to `Stopped`.
    pub fn elapsed(&self) -> Duration {
        self.legs.iter().map(|leg| leg.took).sum()
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "job `{}`, run {}: {}", self.job, self.run, self.stopped.name())?;
        if let Some(epoch) = self.stopped.epoch() {
            write!(f, " (epoch {epoch})")?;
        }
        if self.stopped.confirmed_by() != ConfirmedBy::Host {
            write!(f, ", confirmed by {}", self.stopped.confirmed_by())?;
        }
        for leg in &self.legs {
            write!(f, "\n  {:<22} {:>9.3} s", leg.phase, leg.took.as_secs_f64())?;
            if leg.reason.kind().is_failure() {
                write!(f, "  {}", leg.reason)?;
            }
        }
        if self.retries > 0 {
            write!(f, "\n  retries: {}", self.retries)?;
        }
        match &self.last_error {
            Some(error) => write!(f, "\n  last error: {error}"),
            None => Ok(()),
        }
    }
}
