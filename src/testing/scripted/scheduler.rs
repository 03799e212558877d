//! A scheduler whose workers leave when the test says so.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::{lock, next_of};
use crate::contracts::{JobId, RunId, Scheduler, SchedulerError, WorkerId};

/// What the scheduler was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// To have the workers leave: `stop_workers` without force.
    Ask,
    /// To kill them: `stop_workers` with force.
    Kill,
    /// Who is alive.
    List,
}

/// How a scheduler answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SchedulerAnswer {
    /// It does what it is asked.
    #[default]
    Obeys,
    /// It says `Ok`, and the workers are gone this much later.
    ObeysAfter(Duration),
    /// It says `Ok`, and nothing happens.
    Ignores,
    /// It says that it can't now.
    Unavailable,
    /// It says that it never will.
    Refuses,
    /// It says nothing.
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

/// A [`Scheduler`] that does what it is asked, unless the test says otherwise.
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

    /// It must be asked about this run of this job alone: any other call would touch somebody else's workers (invariant I11).
    ///
    /// # Panics
    /// A call about another job, another run, or all runs of the job panics.
    #[must_use]
    pub fn of_run(self, job: impl Into<JobId>, run: RunId) -> Self {
        lock(&self.0).of = Some((job.into(), run));
        self
    }

    /// It answers every call like this, for ever.
    pub fn always(&self, answer: SchedulerAnswer) -> &Self {
        lock(&self.0).answers = std::array::from_fn(|_| vec![answer]);
        self
    }

    /// It answers such calls like this, one after the other; the last answer is repeated.
    pub fn answers(&self, call: Call, answers: impl IntoIterator<Item = SchedulerAnswer>) -> &Self {
        lock(&self.0).answers[call as usize] = answers.into_iter().collect();
        self
    }

    /// Who is alive now.
    pub fn alive(&self) -> Vec<WorkerId> {
        let fleet = lock(&self.0);
        if fleet.gone_at.is_some_and(|at| at <= Instant::now()) { vec![] } else { fleet.alive.clone() }
    }

    /// What it was asked, and of which run.
    pub fn calls(&self) -> Vec<(Call, Option<RunId>)> {
        lock(&self.0).calls.iter().map(|(call, run, _)| (*call, *run)).collect()
    }

    /// When it was asked that for the first time.
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
                // Asked again, workers do not start to leave anew.
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
