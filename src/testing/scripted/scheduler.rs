//! A scheduler whose workers leave according to the test's script.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{lock, next_of};
use crate::contracts::{JobId, RunId, Scheduler, SchedulerError, WorkerId};

/// A call to the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// To ask the workers to leave: `stop_workers` without force.
    Ask,
    /// To kill them: `stop_workers` with force.
    Kill,
    /// To list the live workers: `workers_for_job`.
    List,
}

/// How a scheduler answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SchedulerAnswer {
    /// It does what the call asks for.
    #[default]
    Obeys,
    /// It returns `Ok`, and the workers are gone after this delay.
    ObeysAfter(Duration),
    /// It returns `Ok`, and nothing happens.
    Ignores,
    /// It reports that it is unavailable.
    Unavailable,
    /// It reports that it will never succeed.
    Refuses,
    /// It never answers.
    Hangs,
}

#[derive(Debug)]
struct Fleet {
    of: Option<(JobId, RunId)>,
    alive: Vec<WorkerId>,
    gone_at: Option<Instant>,
    answers: [Vec<SchedulerAnswer>; 3],
    calls: Vec<(Call, Option<RunId>, Instant)>,
}

/// A [`Scheduler`] that does what is asked of it, unless the test's script says otherwise.
///
/// ```
/// use std::time::Duration;
/// use winddown::{JobContext, OpenRun, Policy, RunId, drive, testing::scripted::*};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let scheduler = ScriptedScheduler::new([1, 2]);
/// scheduler.answers(Call::Kill, [SchedulerAnswer::Unavailable, SchedulerAnswer::ObeysAfter(Duration::from_secs(3))]);
///
/// let open = OpenRun::without_store("wordcount", RunId::new(1));
/// let (mut job, running) = JobContext::new(&open, ScriptedController::new(4), scheduler.clone())?;
/// let stopping = running.force(&mut job)?;
/// let receipt = drive(stopping, &mut job, &Policy::escalate()).await?;
/// assert_eq!((receipt.stopped().name(), receipt.retries()), ("killed", 1));
/// assert!(scheduler.alive().is_empty());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ScriptedScheduler(Arc<Mutex<Fleet>>);

impl ScriptedScheduler {
    /// A scheduler with these workers alive.
    pub fn new<W: Into<WorkerId>>(alive: impl IntoIterator<Item = W>) -> Self {
        let alive = alive.into_iter().map(Into::into).collect();
        Self(Arc::new(Mutex::new(Fleet { of: None, alive, gone_at: None, answers: Default::default(), calls: vec![] })))
    }

    /// Accepts calls only for this run of this job: any other call would touch other workers
    /// (invariant I11).
    ///
    /// # Panics
    /// A call about another job, another run, or all runs of the job panics.
    #[must_use]
    pub fn of_run(self, job: impl Into<JobId>, run: RunId) -> Self {
        lock(&self.0).of = Some((job.into(), run));
        self
    }

    /// It answers every call like this from now on.
    pub fn always(&self, answer: SchedulerAnswer) -> &Self {
        lock(&self.0).answers = std::array::from_fn(|_| vec![answer]);
        self
    }

    /// It gives these answers to such calls, in order; the last one is repeated.
    pub fn answers(&self, call: Call, answers: impl IntoIterator<Item = SchedulerAnswer>) -> &Self {
        lock(&self.0).answers[call as usize] = answers.into_iter().collect();
        self
    }

    /// The workers that are alive now.
    pub fn alive(&self) -> Vec<WorkerId> {
        let fleet = lock(&self.0);
        if fleet.gone_at.is_some_and(|at| at <= Instant::now()) { vec![] } else { fleet.alive.clone() }
    }

    /// The calls so far, and their runs.
    pub fn calls(&self) -> Vec<(Call, Option<RunId>)> {
        lock(&self.0).calls.iter().map(|(call, run, _)| (*call, *run)).collect()
    }

    /// When it got that call for the first time.
    pub fn called_at(&self, call: Call) -> Option<Instant> {
        lock(&self.0).calls.iter().find(|(it, ..)| *it == call).map(|(.., at)| *at)
    }

    async fn act(&self, call: Call, job: &JobId, run: Option<RunId>) -> Result<(), SchedulerError> {
        let answer = {
            let mut fleet = lock(&self.0);
            if let Some((of_job, of_run)) = &fleet.of {
                assert_eq!((job, run), (of_job, Some(*of_run)), "only this run may be touched (I11)");
            }
            let now = Instant::now();
            fleet.calls.push((call, run, now));
            let answer = next_of(&mut fleet.answers[call as usize]);
            match answer {
                SchedulerAnswer::Obeys if call != Call::List => fleet.gone_at = Some(now),
                // A repeated call does not restart the workers' leaving.
                SchedulerAnswer::ObeysAfter(after) if call != Call::List => {
                    fleet.gone_at.get_or_insert(now + after);
                }
                _ => {}
            }
            answer
        };
        match answer {
            SchedulerAnswer::Unavailable => Err(SchedulerError::Unavailable("scripted".into())),
            SchedulerAnswer::Refuses => Err(SchedulerError::Refused("scripted".into())),
            SchedulerAnswer::Hangs => pending().await,
            _ => Ok(()),
        }
    }
}

impl Scheduler for ScriptedScheduler {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        self.act(if force { Call::Kill } else { Call::Ask }, job, run).await
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        self.act(Call::List, job, run).await?;
        Ok(self.alive())
    }
}
