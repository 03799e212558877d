//! Why does it not stop? Who holds a stop up, since when, and what an escalation would lose now.
//!
//! [`Why`] is made by a pure function from the live state, [`Progress::why`], so a dashboard, a
//! log line and a test get the same answer:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use winddown::{prelude::*, testing::scripted::{ScriptedScheduler, SchedulerAnswer}};
//!
//! let scheduler = ScriptedScheduler::new([1]);
//! scheduler.always(SchedulerAnswer::Unavailable);
//! let (mut job, running) = JobContext::new(&OpenRun::without_store("words", RunId::new(1)), Detached, scheduler)?;
//! let progress = job.progress();
//! let stop = tokio::spawn(async move { drive(running, &mut job, &Policy::escalate()).await });
//! tokio::time::sleep(std::time::Duration::from_secs(60)).await;
//! println!("{}", progress.borrow().why());
//! // Stopping<Force> since 1m …: 1. the scheduler has not answered … (6 failed tries): …
//! assert_eq!(progress.borrow().why().culprits[0].who, winddown::why::Who::Scheduler);
//! # stop.abort();
//! # Ok(())
//! # }
//! ```
//!
//! The order is by certainty: first what the machine itself waits for at this moment (the journal,
//! the scheduler, the store), then workers that are lost, that fail orders, or that are silent,
//! then orders without an answer, then tasks. Of tasks, those of the first operators come first,
//! because the others may only be waiting for them.

mod find;
mod text;

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    contracts::{Epoch, JobController, StopRequest, TaskId, WorkerId},
    limits::{duration_text, optional_duration_text},
    machine::{JobContext, PhaseKind, Progress},
};

/// What a stop waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Why {
    /// The phase that waits.
    pub phase: PhaseKind,
    /// For how long the job has been in it.
    #[serde(with = "duration_text")]
    pub elapsed: Duration,
    /// The limit that ends the wait, by its name in [`Limits`](crate::limits::Limits).
    pub limit: Option<String>,
    /// How long until it does; zero if it is late, `None` if nothing ends the wait.
    #[serde(with = "optional_duration_text")]
    pub left: Option<Duration>,
    /// Who holds it up: the most certain first. Empty if nobody does, for example because no stop
    /// was requested.
    pub culprits: Vec<Culprit>,
    /// What each stronger request would lose now, the weakest first.
    pub escalations: Vec<Escalation>,
}

/// One that holds a stop up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Culprit {
    /// Who.
    pub who: Who,
    /// What it has not done.
    pub what: Undone,
    /// For how long.
    #[serde(with = "optional_duration_text")]
    pub since: Option<Duration>,
    /// Tries that have failed.
    pub failed: u32,
    /// The last error. It may hold text of a worker; [`Display`](std::fmt::Display) escapes it.
    pub error: Option<Arc<str>>,
    /// How long the others took, if they have done it.
    #[serde(with = "optional_duration_text")]
    pub others: Option<Duration>,
}

/// Who holds a stop up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Who {
    /// A worker.
    Worker(WorkerId),
    /// A task.
    Task {
        /// The task.
        task: TaskId,
        /// The name of its operator.
        operator: Arc<str>,
        /// Where it runs.
        worker: WorkerId,
    },
    /// So many more tasks than are listed.
    MoreTasks(u32),
    /// So many more workers than are listed, with an order that they have not answered.
    MoreWorkers(u32),
    /// The checkpoint store.
    Store,
    /// The scheduler.
    Scheduler,
    /// The journal.
    Journal,
    /// The run itself, or the controller: the error says more.
    Run,
}

/// What somebody has not done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Undone {
    /// It did not answer this call or order.
    Answer(String),
    /// It did not carry out this call or order: there was an error.
    Failed(String),
    /// It has given no sign of life; this many of its tasks are waited for.
    Silent(u32),
    /// It is lost: no order reaches it, and this many of its tasks are waited for.
    Lost(u32),
    /// It has not left.
    Leave,
    /// It has not given its snapshot for this checkpoint.
    Snapshot(Epoch),
    /// It has not committed this checkpoint.
    Commit(Epoch),
    /// It has not ended.
    End,
    /// It has not made the manifest of this checkpoint durable.
    Manifest(Epoch),
}

/// What a stronger stop request would lose now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Escalation {
    /// The request.
    pub request: StopRequest,
    /// What it loses.
    pub loses: Loss,
}

/// What an escalation loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Loss {
    /// Nothing: it only shortens the wait for workers that have nothing left to do.
    Nothing,
    /// Only the proof: the checkpoint is durable, and the next run carries out its commits.
    Evidence(Epoch),
    /// The final checkpoint. The next run replays what came after the last complete one.
    FinalCheckpoint {
        /// The checkpoint that is given up.
        epoch: Epoch,
        /// The one from which the next run starts; `None`: from the beginning.
        back_to: Option<Epoch>,
    },
    /// The next run replays what came after this checkpoint; `None`: all.
    Replay(Option<Epoch>),
}

impl Why {
    /// Asks the controller of a job that is not being driven at the moment. While `drive` or `next`
    /// runs, use [`Progress::why`] of [`JobContext::progress`].
    pub fn of<C: JobController, S>(job: &JobContext<C, S>) -> Self {
        let mut progress = job.progress_now();
        progress.status = job.status();
        progress.set_holdups(Some(job.controller().holdups()));
        progress.why()
    }
}

impl Progress {
    /// Why the job has not stopped yet. This is a pure function of the progress and the time.
    ///
    /// What the workers owe is asked about once per
    /// [`Limits::health_every`](crate::limits::Limits::health_every), and only while the job's
    /// progress is watched.
    pub fn why(&self) -> Why {
        find::why(self, tokio::time::Instant::now())
    }
}
