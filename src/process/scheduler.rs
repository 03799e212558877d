//! The scheduler: opening a state folder, starting workers, and the [`Scheduler`] contract.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::sleep,
};

use super::{
    error::ProcessError,
    members::Marks,
    open::{HeldBy, ProcessSchedulerBuilder},
    record::Token,
    start::{Place, Started, start, stopped},
    table::{Called, End, Key, Table, Which},
};
use crate::{
    contracts::{EndListener, JobId, RunId, Scheduler, SchedulerError, WorkerId},
    worker_env::WorkerEnv,
};

/// The interval at which a stop looks whether workers are gone. If a look takes longer than half of
/// it, the wait is twice as long as the look.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long only unknown processes may be left before a stop fails.
const UNKNOWN_SETTLES: Duration = Duration::from_secs(1);

/// Runs workers as child processes. A handle that is cheap to clone; see the [module](super) for
/// its guarantees.
///
/// Dropping the last handle has the same effect as the death of the program: the watchdog ends the
/// workers. [`close`](Self::close) waits for that.
#[derive(Clone)]
pub struct ProcessScheduler {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) table: Arc<Table>,
    pub(super) place: Place,
    pub(super) grace: Duration,
    pub(super) guarded: Arc<AtomicBool>,
    /// Dropped to end the keeper.
    pub(super) closing: RwLock<Option<oneshot::Sender<()>>>,
    pub(super) keeper: Mutex<Option<JoinHandle<()>>>,
}

impl ProcessScheduler {
    /// Starts a builder with this state folder.
    pub fn builder(state: impl Into<PathBuf>) -> ProcessSchedulerBuilder {
        ProcessSchedulerBuilder::new(state.into())
    }

    /// Opens a scheduler with default grace periods that is its own watchdog.
    ///
    /// # Errors
    /// As [`ProcessSchedulerBuilder::open`].
    ///
    /// # Cancel safety
    /// As [`ProcessSchedulerBuilder::open`].
    pub async fn open(state: impl Into<PathBuf>) -> Result<Self, ProcessError> {
        Self::builder(state).open().await
    }

    /// Starts a worker. The command may have its own arguments, working folder and environment (it
    /// inherits this process's unless it is cleared). The variables of [`WorkerEnv`] are added,
    /// standard input is empty, and output goes to files.
    ///
    /// # Errors
    /// - [`ProcessError::AlreadyAlive`]: a worker with that name is there.
    /// - [`ProcessError::Stopped`]: the run was stopped with force, before this call or during it.
    /// - [`ProcessError::Spawn`]: the program cannot be started.
    /// - [`ProcessError::Watchdog`], [`ProcessError::Closed`]: nothing would watch over it.
    /// - [`ProcessError::State`], [`ProcessError::Proc`]: it cannot be recorded.
    ///
    /// After an error nothing of the attempt is left; after [`Stopped`](ProcessError::Stopped) what
    /// is left is listed, and is being killed.
    ///
    /// # Cancel safety
    /// The worker is listed from the first poll on. If the future is dropped, the worker may still
    /// start, and can be stopped like any other.
    pub async fn start(&self, worker: WorkerEnv, command: Command) -> Result<WorkerProcess, ProcessError> {
        let shared = Arc::clone(&self.shared);
        let key = Key { job: worker.job.clone(), run: worker.run, worker: worker.worker };
        // Before anything that takes time, so that a later stop sees it.
        let mut called = shared.call(&key)?;
        let started = aside(move || {
            // Held until there is a process, so that a scheduler that is closing waits for it.
            let closing = shared.closing.read().unwrap_or_else(PoisonError::into_inner);
            if closing.is_none() {
                return Err(ProcessError::Closed);
            }
            if !shared.guarded.load(Ordering::Acquire) {
                return Err(ProcessError::Watchdog { reason: "it has ended, and is being started again".to_owned() });
            }
            if matches!(called, Called::Taken) {
                // One with that name may be gone, and nobody has looked yet.
                let which = Which { job: Some(key.job.clone()), run: Some(key.run) };
                shared.table.alive(&which).map_err(ProcessError::Proc)?;
                called = shared.call(&key)?;
            }
            match called {
                Called::Entered(ticket) => start(ticket, &shared.place, &worker, command),
                Called::Taken => Err(ProcessError::AlreadyAlive { job: key.job, run: key.run, worker: key.worker }),
                Called::Stopped => Err(stopped(&worker)),
            }
        });
        let Started { pid, output, end } = started.await.ok_or(ProcessError::Runtime)??;
        Ok(WorkerProcess { pid, stdout: output.stdout, stderr: output.stderr, end })
    }

    /// The workers of all jobs that are alive, including those of an earlier scheduler.
    ///
    /// # Errors
    /// [`SchedulerError`] if `/proc` cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks, and reaps what has ended.
    pub async fn workers(&self) -> Result<Vec<(JobId, RunId, WorkerId)>, SchedulerError> {
        let alive = self.alive(Which::default()).await?;
        Ok(alive.into_iter().map(|Key { job, run, worker }| (job, run, worker)).collect())
    }

    async fn alive(&self, which: Which) -> Result<Vec<Key>, SchedulerError> {
        let table = Arc::clone(&self.shared.table);
        aside(move || table.alive(&which)).await.ok_or_else(going_down)?.map_err(unavailable)
    }

    /// How it holds its workers, which decides whether it finds their hidden children.
    pub fn held_by(&self) -> HeldBy {
        self.shared.place.home.as_ref().map_or(HeldBy::Environment, |_| HeldBy::ControlGroup)
    }

    /// The state folder, absolute.
    pub fn state_folder(&self) -> &Path {
        &self.shared.place.folder
    }

    /// Ends what is left of the workers of *this* scheduler (SIGTERM, then SIGKILL after the orphan
    /// grace period), waits until all are gone, adopted ones too, and unlocks the state folder. To
    /// end the workers in another way, stop them first.
    ///
    /// Without a watchdog it waits until the workers have left by themselves.
    ///
    /// # Cancel safety
    /// Cancel safe: if it is dropped, the workers are ended all the same.
    pub async fn close(self) {
        // Waits a moment for starts in progress.
        self.shared.closing.write().unwrap_or_else(PoisonError::into_inner).take();
        let keeper = self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            // Only the end of the runtime can interrupt it.
            let _ = keeper.await;
        }
    }
}

impl Shared {
    fn call(&self, key: &Key) -> Result<Called, ProcessError> {
        let token = Token::random().map_err(ProcessError::Proc)?;
        Ok(self.table.call(key.clone(), Marks::new(token, Some(self.place.origin.clone()))))
    }
}

/// A started worker.
#[derive(Clone, Debug)]
pub struct WorkerProcess {
    pid: u32,
    stdout: PathBuf,
    stderr: PathBuf,
    end: watch::Receiver<Option<End>>,
}

impl WorkerProcess {
    /// The number of its process and of the process group that it leads.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file of its standard output.
    pub fn stdout(&self) -> &Path {
        &self.stdout
    }

    /// The file of its standard error.
    pub fn stderr(&self) -> &Path {
        &self.stderr
    }

    /// Waits until it is gone, including its children; for a program that wants the status. The run
    /// learns of it without this call, by
    /// [`JobContext::hear_of_ends`](crate::machine::JobContext::hear_of_ends). `None` if the status
    /// is not known.
    ///
    /// # Cancel safety
    /// Cancel safe: it only waits.
    pub async fn gone(&mut self) -> Option<ExitStatus> {
        // An error means that the scheduler's table is gone, and the worker's state with it.
        self.end.wait_for(Option::is_some).await.ok().and_then(|end| (*end).flatten())
    }
}

/// # How stops are bounded
/// Without force, SIGKILL comes after the grace period, which counts from the first such call; a
/// repeated call does not restart it. The kill itself has no bound here, because the kernel has
/// none: the phases give it [`Limits::kill`](crate::limits::Limits::kill).
impl Scheduler for ProcessScheduler {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        let which = Which { job: Some(job.clone()), run };
        if force {
            self.shared.table.fence(job, run);
        }
        let mut unknown_since = None;
        loop {
            let began = Instant::now();
            let (table, which, grace) = (Arc::clone(&self.shared.table), which.clone(), self.shared.grace);
            let pressed = aside(move || table.press(&which, force, grace)).await.ok_or_else(going_down)?;
            let pressed = pressed.map_err(unavailable)?;
            if pressed.left == 0 {
                return Ok(());
            }
            // Only when nothing else is left: the stop first waits for the end of the others.
            if pressed.left == pressed.refused.len() + pressed.unknown.len() {
                if let Some((worker, error)) = pressed.refused.first() {
                    let error = io::Error::new(error.kind(), format!("can't signal worker {worker}: {error}"));
                    return Err(SchedulerError::Refused(error.into()));
                }
                // A process that is starting or ending shows nothing for a moment.
                if unknown_since.get_or_insert(began).elapsed() >= UNKNOWN_SETTLES {
                    let workers = pressed.unknown.iter().map(|(worker, what)| format!("worker {worker}: {what}"));
                    let workers = workers.collect::<Vec<_>>().join("; ");
                    return Err(SchedulerError::Unavailable(
                        format!("can't know whether all is gone: {workers}").into(),
                    ));
                }
            } else {
                unknown_since = None;
            }
            sleep(LOOK_EVERY.max(began.elapsed() * 2)).await;
        }
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let alive = self.alive(Which { job: Some(job.clone()), run }).await?;
        let mut workers: Vec<WorkerId> = alive.into_iter().map(|key| key.worker).collect();
        // Different runs may have workers with the same id.
        workers.sort_unstable();
        workers.dedup();
        Ok(workers)
    }

    fn report_ends(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>) {
        self.shared.table.ends().report_to(job, run, to);
    }
}

impl fmt::Debug for ProcessScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { place, grace, .. } = &*self.shared;
        f.debug_struct("ProcessScheduler").field("place", place).field("grace", grace).finish_non_exhaustive()
    }
}

/// Runs a blocking closure on a blocking thread. `None` if the runtime is shutting down.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn going_down() -> SchedulerError {
    SchedulerError::Unavailable("the runtime is shutting down".into())
}

fn unavailable(error: io::Error) -> SchedulerError {
    SchedulerError::Unavailable(error.into())
}
