//! Metrics of shutdowns, through the facade of the crate `metrics`: install any exporter
//! of that crate, and [`follow`] your jobs.
//!
//! | name | labels | meaning |
//! |---|---|---|
//! | `winddown_jobs` | `phase` | followed jobs in this phase |
//! | `winddown_stops_total` | `evidence`, `reason` | stops, by the terminal phase and by why the job left `Running` |
//! | `winddown_phase_duration_seconds` | `phase` | how long jobs were in a phase |
//! | `winddown_escalations_total` | `phase`, `reason` | phases that were entered because something failed |
//! | `winddown_retries_total` | | retries of `drive` |
//! | `winddown_failures_total` | | failures of runs |
//! | `winddown_held_up_seconds_total` | `by` | how long stops were held up, by the kind of [the first culprit](crate::why) |
//!
//! Labels have few values: no job, worker or task. `deploy/metrics` has a dashboard and alert
//! rules.
//!
//! A job is looked at once per second; nothing is done per worker message. A stop is never held up.

#[cfg(feature = "testing")]
#[cfg(test)]
mod tests;

use std::time::Duration;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tokio::{runtime::Handle, time::Instant};

use crate::{
    machine::{JobContext, Phases, Progress, Visit},
    why::Who,
};

/// How often a job is looked at.
const EVERY: Duration = Duration::from_secs(1);

const JOBS: &str = "winddown_jobs";
const STOPS: &str = "winddown_stops_total";
const PHASE_DURATION: &str = "winddown_phase_duration_seconds";
const ESCALATIONS: &str = "winddown_escalations_total";
const RETRIES: &str = "winddown_retries_total";
const FAILURES: &str = "winddown_failures_total";
const HELD_UP: &str = "winddown_held_up_seconds_total";

/// The names of all metrics.
pub const NAMES: [&str; 7] = [JOBS, STOPS, PHASE_DURATION, ESCALATIONS, RETRIES, FAILURES, HELD_UP];

/// Gives the installed exporter the units and descriptions of all metrics.
pub fn describe() {
    describe_gauge!(JOBS, "Followed jobs in this phase");
    describe_counter!(STOPS, "Stops, by the terminal phase and by why the job left Running");
    describe_histogram!(PHASE_DURATION, Unit::Seconds, "How long jobs were in a phase");
    describe_counter!(ESCALATIONS, "Phases that were entered because something failed");
    describe_counter!(RETRIES, "Retries of drive");
    describe_counter!(FAILURES, "Failures of runs");
    describe_counter!(HELD_UP, Unit::Seconds, "How long stops were held up, by the first culprit");
}

/// Measures this job from now on, until it has stopped or its context is gone.
///
/// It needs a tokio runtime around it; without one it logs a warning, and nothing is measured.
pub fn follow<C, S>(job: &JobContext<C, S>) {
    let Ok(runtime) = Handle::try_current() else {
        tracing::warn!(job = %job.id(), "not measured: there is no tokio runtime to follow the job");
        return;
    };
    let (phases, progress) = (job.phases(), job.progress());
    runtime.spawn(measure(phases, progress));
}

async fn measure(mut phases: Phases, progress: tokio::sync::watch::Receiver<Progress>) {
    let mut before: Option<Visit> = None;
    let mut reason = None;
    let (mut retries, mut failures, mut looked) = (0, 0, Instant::now());
    loop {
        let visit = tokio::time::timeout(EVERY, phases.next()).await;
        let now = progress.borrow().clone();
        counter!(RETRIES).increment(rise(&mut retries, now.retries));
        counter!(FAILURES).increment(rise(&mut failures, now.status.failures));
        let whole = looked.elapsed().as_secs();
        if whole > 0 {
            looked += Duration::from_secs(whole);
            if let Some(first) = now.why().culprits.first() {
                counter!(HELD_UP, "by" => kind(&first.who)).increment(whole);
            }
        }
        match visit {
            Ok(Some(visit)) => {
                if before.is_some() && reason.is_none() {
                    reason = Some(visit.reason().kind().tag());
                }
                enter(before.as_ref(), &visit, reason);
                before = Some(visit);
            }
            Ok(None) => {
                if let Some(last) = before {
                    gauge!(JOBS, "phase" => last.phase.tag()).decrement(1.0);
                }
                return;
            }
            // A second has passed.
            Err(_) => {}
        }
    }
}

/// Takes a step from one phase to the next.
fn enter(before: Option<&Visit>, visit: &Visit, reason: Option<&'static str>) {
    if let Some(before) = before {
        let took = visit.entered.saturating_duration_since(before.entered);
        histogram!(PHASE_DURATION, "phase" => before.phase.tag()).record(took);
        gauge!(JOBS, "phase" => before.phase.tag()).decrement(1.0);
        let kind = visit.reason().kind();
        if kind.is_failure() {
            counter!(ESCALATIONS, "phase" => visit.phase.tag(), "reason" => kind.tag()).increment(1);
        }
    }
    gauge!(JOBS, "phase" => visit.phase.tag()).increment(1.0);
    if visit.phase.is_terminal() {
        let reason = reason.unwrap_or("unknown");
        counter!(STOPS, "evidence" => visit.phase.tag(), "reason" => reason).increment(1);
    }
}

/// How much a figure has risen.
fn rise(before: &mut u32, now: u32) -> u64 {
    let rise = now.saturating_sub(*before);
    *before = now;
    rise.into()
}

/// The kind of a culprit: few values, so that it can be a label.
fn kind(who: &Who) -> &'static str {
    match who {
        Who::Worker(_) | Who::MoreWorkers(_) => "worker",
        Who::Task { .. } | Who::MoreTasks(_) => "task",
        Who::Store => "store",
        Who::Scheduler => "scheduler",
        Who::Journal => "journal",
        Who::Run => "run",
    }
}
