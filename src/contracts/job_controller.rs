//! The contract of a job controller, which talks to the workers of one run.

use std::time::Instant;

use super::{
    BoxError, Holdups, OpenRun, OrderReport, OtherRun, RunFailure, RunStatus, StoreError, WorkerEvent, WorkerStopMode,
};
use crate::contracts::{Epoch, RunId, TaskId, WorkerId};

/// Talks to the workers of one run, and tracks its state.
///
/// [`ClusterController`](crate::cluster::ClusterController) implements it over any
/// [`Transport`](super::Transport); implement it yourself if your control plane already tracks its
/// own state.
///
/// The methods come in four kinds, as in a protocol implementation without I/O:
///
/// - **getters**: [`status`](Self::status), [`failure`](Self::failure). They cost the same at any
///   number of tasks: a phase calls them on every message.
/// - **handle**: [`handle`](Self::handle) accepts an event, [`check_health`](Self::check_health)
///   checks heartbeats.
/// - **commands**: `begin_…` states the goal. They return at once, send nothing themselves, and are
///   idempotent: a repeated command only resends orders that failed or were never answered.
/// - **poll**: [`progress`](Self::progress) does the sending, publishing and waiting.
///
/// # What an implementer must keep
/// - Events of another run, of unknown workers and tasks, and duplicates change nothing (invariant
///   I11).
/// - [`RunStatus::final_checkpoint`] is `Complete` only when the manifest is durable, holds every
///   task of the run, and all commits are acknowledged (invariant I3): `Stopped<Checkpointed>`
///   depends on it.
/// - The order to a worker does not wait for any other worker (invariant I9).
///
/// `testing::conformance::controller` (feature `testing`) checks this, and what the methods below
/// say.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job controller, so this job can't be stopped with a checkpoint, gracefully or immediately",
    label = "this needs workers that can be told to stop",
    note = "a job without a controller (`Detached`) can only be stopped by force: `phase.force(&mut job)?`, then `Stopping<Force>::next`"
)]
pub trait JobController: Send {
    /// Checks that it controls that run; called when a job's context is built. A controller that
    /// was made for one run uses [`OpenRun::check`]; the default accepts every run.
    ///
    /// # Errors
    /// [`OtherRun`] if it was made for another one.
    fn is_for(&self, _open: &OpenRun) -> Result<(), OtherRun> {
        Ok(())
    }

    /// What is known about the run.
    fn status(&self) -> RunStatus;

    /// The first failure of the run, if there has been one. It stays; [`RunStatus::failures`]
    /// counts.
    fn failure(&self) -> Option<&RunFailure>;

    /// The newest failure of the run: the reason why a stop that cleans up after the first one
    /// gives up. By default the first one.
    fn latest_failure(&self) -> Option<&RunFailure> {
        self.failure()
    }

    /// The workers that the run still waits for, ordered by id: those that
    /// [`RunStatus::workers_left`] counts. It is called when a phase gives up, so that the log
    /// names the workers it waited for. A controller that does not know returns none.
    fn waits_for(&self) -> Vec<WorkerId> {
        Vec::new()
    }

    /// The workers that no order can reach although a task of theirs has not ended: those that
    /// [`RunStatus::workers_lost`] counts. Also for the log.
    fn lost_workers(&self) -> Vec<WorkerId> {
        Vec::new()
    }

    /// What the run waits for: who has not answered, and since when. A phase asks about once per
    /// [`Limits::health_every`](crate::limits::Limits::health_every), and only if someone watches
    /// its progress, so the answer may cost O(tasks). A controller that does not know says nothing.
    fn holdups(&self) -> Holdups {
        Holdups::default()
    }

    /// Whether a worker is gone, so that no order reaches all tasks any more. The first failure
    /// need not show it: a task that cannot reach its neighbour is often noticed before the
    /// worker's silence.
    fn has_lost_worker(&self) -> bool {
        self.status().workers_lost > 0 || self.failure().is_some_and(RunFailure::is_lost_worker)
    }

    /// Handles an event of a worker. `now` is the time of its arrival.
    ///
    /// # Errors
    /// [`Rejection`] says why the event changed nothing.
    fn handle(&mut self, event: WorkerEvent, now: Instant) -> Result<Applied, Rejection>;

    /// Looks for workers that have been silent for too long. A phase calls it only when no message
    /// is waiting, so that a backlog is never mistaken for silence.
    fn check_health(&mut self, now: Instant);

    /// Starts a checkpoint; `then_stop` makes it the final one. If `then_stop` is set, no periodic
    /// checkpoint is started after this call.
    ///
    /// # Errors
    /// [`ControllerError`] when no checkpoint can be started.
    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError>;

    /// Orders every worker to stop its tasks. A stronger mode replaces a weaker one; a weaker one
    /// changes nothing. No checkpoint is started after this.
    fn begin_stop(&mut self, mode: WorkerStopMode);

    /// Tells every worker that the run is over and that it may leave.
    fn begin_release(&mut self);

    /// Sends pending orders, publishes pending manifests, and takes periodic checkpoints when they
    /// are due. It returns when [`status`](Self::status) may have changed, and stays pending when
    /// there is nothing to do.
    ///
    /// # Errors
    /// [`ControllerError`] when an order or a manifest has failed after all of its retries. Each
    /// failure is returned once.
    ///
    /// # Cancel safety
    /// Implementations must be cancel safe: phases drop this future whenever a message or a stop
    /// request arrives, and call it again. Work in progress must not start over each time, or a
    /// stream of messages would starve it.
    fn progress(&mut self) -> impl Future<Output = Result<(), ControllerError>> + Send;
}

/// The result of a command to start a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckpointStart {
    /// It has been started.
    Started(Epoch),
    /// The final one is already in flight or complete; failed orders are sent again.
    AlreadyStarted(Epoch),
    /// Another one is in flight: try again when it has ended.
    Busy(Epoch),
}

/// What an accepted event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applied {
    /// Something new.
    Changed,
    /// Nothing new: a repeated or late event.
    Duplicate,
}

/// Why an event was rejected. Nothing has changed, except for a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// It comes from another run.
    #[error("expected an event of run {expected}, got one of run {got}")]
    OtherRun {
        /// The run of the controller.
        expected: RunId,
        /// The run of the event.
        got: RunId,
    },
    /// The run has no such worker.
    #[error("worker {0} is no worker of this run")]
    UnknownWorker(WorkerId),
    /// The run has no such task.
    #[error("task {0} is no task of this run")]
    UnknownTask(TaskId),
    /// The task is placed on another worker.
    #[error("task {task} runs on worker {expected}, but worker {got} reported it")]
    NotItsWorker {
        /// The task.
        task: TaskId,
        /// Where it is placed.
        expected: WorkerId,
        /// The worker that reported.
        got: WorkerId,
    },
    /// It refers to a checkpoint that was never started.
    #[error("expected an epoch up to {}, got {got}: no such checkpoint was started", newest.unwrap_or_default())]
    FutureEpoch {
        /// The newest checkpoint that was started.
        newest: Option<Epoch>,
        /// The epoch of the event.
        got: Epoch,
    },
    /// A task commits, but it had nothing to commit.
    #[error("task {task} reported a commit of epoch {epoch}, but had nothing to commit in it")]
    NothingToCommit {
        /// The task.
        task: TaskId,
        /// The epoch.
        epoch: Epoch,
    },
    /// A task that has ended reports something new.
    #[error("task {0} has ended and can't report anything new")]
    TaskEnded(TaskId),
    /// A task that is no source reports that it has read all of its input.
    #[error("task {0} is no source, but reported that it has read its whole input")]
    NotASource(TaskId),
}

/// Why a controller could not carry out a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// Some workers did not accept an order after all retries.
    #[error(transparent)]
    Orders(Box<OrderReport>),
    /// The manifest could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The checkpoint can't be started or completed in the current state of the run.
    #[error("no checkpoint is possible: {0}")]
    NoCheckpoint(String),
    /// The run has failed.
    #[error(transparent)]
    Run(#[from] RunFailure),
    /// An error of a user's own controller.
    #[error("the job controller failed: {0}")]
    Other(BoxError),
}

impl ControllerError {
    /// Whether a newer run has taken the job over, so that this controller must stop acting for it.
    pub const fn is_fenced(&self) -> bool {
        matches!(self, Self::Store(StoreError::Fenced { .. }))
    }

    /// Whether the same command may succeed when it is repeated.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Orders(_) | Self::Other(_) => true,
            Self::Store(error) => error.is_retryable(),
            Self::NoCheckpoint(_) | Self::Run(_) => false,
        }
    }
}

/// The controller of a job without one: it is gone, or never existed.
///
/// On a `JobContext<Detached, S>` only `Stopping<Force>::next` compiles: nothing can send orders to
/// the workers, so the scheduler kills them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Detached;

/// What a job's context can be built with: a controller, or [`Detached`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a job controller, so no job can be built with it",
    label = "expected a `JobController`, or `Detached` for a job that nobody controls"
)]
pub trait Attach {
    /// Checks that it is for that run.
    fn attaches(&self, open: &OpenRun) -> Result<(), OtherRun>;
}

#[diagnostic::do_not_recommend]
impl<C: JobController> Attach for C {
    fn attaches(&self, open: &OpenRun) -> Result<(), OtherRun> {
        self.is_for(open)
    }
}

#[diagnostic::do_not_recommend]
impl Attach for Detached {
    fn attaches(&self, _: &OpenRun) -> Result<(), OtherRun> {
        Ok(())
    }
}
