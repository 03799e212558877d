//! The scheduler itself: opening a state folder, starting workers, and the [`Scheduler`] contract.

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

/// How often a stop looks whether workers are gone. Where a look takes longer than half of it, it waits twice as long as that.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long nothing but what is unknown may be left of a stop before it is an error.
const UNKNOWN_SETTLES: Duration = Duration::from_secs(1);

/// Runs workers as child processes. A cheap handle to clone; see the [module](super) for what it keeps.
///
/// When the last handle is dropped, it is as if the program had died: the watchdog ends the workers.
/// [`close`](Self::close) waits for that.
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
    /// Starts to say how the scheduler is to work, with this state folder.
    pub fn builder(state: impl Into<PathBuf>) -> ProcessSchedulerBuilder {
        ProcessSchedulerBuilder::new(state.into())
    }

    /// A scheduler with default grace periods that is its own watchdog.
    ///
    /// # Errors
    /// As [`ProcessSchedulerBuilder::open`].
    ///
    /// # Cancel safety
    /// As [`ProcessSchedulerBuilder::open`].
    pub async fn open(state: impl Into<PathBuf>) -> Result<Self, ProcessError> {
        Self::builder(state).open().await
    }

    /// Starts a worker. The command may have arguments, a working folder and an environment of its own (it inherits this process's
    /// unless it is cleared); the variables of [`WorkerEnv`] are added, standard input is empty, and output goes to files.
    ///
    /// # Errors
    /// - [`ProcessError::AlreadyAlive`]: a worker of that name is there.
    /// - [`ProcessError::Stopped`]: the run was stopped with force, before this call or during it.
    /// - [`ProcessError::Spawn`]: the program can't be started.
    /// - [`ProcessError::Watchdog`], [`ProcessError::Closed`]: nobody would watch over it.
    /// - [`ProcessError::State`], [`ProcessError::Proc`]: it can't be recorded.
    ///
    /// After an error nothing of the attempt is left; after [`Stopped`](ProcessError::Stopped) what is left is listed, and is being killed.
    ///
    /// # Cancel safety
    /// From its first poll on the worker is listed. If it is dropped, the worker may start all the same, and can be stopped like any other.
    pub async fn start(&self, worker: WorkerEnv, command: Command) -> Result<WorkerProcess, ProcessError> {
        let shared = Arc::clone(&self.shared);
        let key = Key { job: worker.job.clone(), run: worker.run, worker: worker.worker };
        // Before anything that takes time: a stop that comes later sees it.
        let mut called = shared.call(&key)?;
        let started = aside(move || {
            // Held until there is a process, so that one that is closing waits for it.
            let closing = shared.closing.read().unwrap_or_else(PoisonError::into_inner);
            if closing.is_none() {
                return Err(ProcessError::Closed);
            }
            if !shared.guarded.load(Ordering::Acquire) {
                return Err(ProcessError::Watchdog { reason: "it has ended, and is being started again".to_owned() });
            }
            if matches!(called, Called::Taken) {
                // One of that name may be gone without anybody having looked yet.
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

    /// The workers of all jobs that are alive, those of an earlier scheduler included.
    ///
    /// # Errors
    /// [`SchedulerError`] when `/proc` can't be read.
    ///
    /// # Cancel safety
    /// Safe: it only looks, and reaps what has ended.
    pub async fn workers(&self) -> Result<Vec<(JobId, RunId, WorkerId)>, SchedulerError> {
        let alive = self.alive(Which::default()).await?;
        Ok(alive.into_iter().map(|Key { job, run, worker }| (job, run, worker)).collect())
    }

    async fn alive(&self, which: Which) -> Result<Vec<Key>, SchedulerError> {
        let table = Arc::clone(&self.shared.table);
        aside(move || table.alive(&which)).await.ok_or_else(going_down)?.map_err(unavailable)
    }

    /// How it holds its workers: what finds a child of theirs that hides.
    pub fn held_by(&self) -> HeldBy {
        self.shared.place.home.as_ref().map_or(HeldBy::Environment, |_| HeldBy::ControlGroup)
    }

    /// The state folder, absolute.
    pub fn state_folder(&self) -> &Path {
        &self.shared.place.folder
    }

    /// Ends what is left of the workers of *this* scheduler (SIGTERM, then SIGKILL after the orphan grace period), waits until all are gone,
    /// adopted ones too, and gives the state folder free. Stop the workers first, if they are to end in another way.
    ///
    /// Without a watchdog it waits until the workers have left by themselves.
    ///
    /// # Cancel safety
    /// Safe: if it is dropped, the workers are ended all the same.
    pub async fn close(self) {
        // Waits for starts that are under way: a moment.
        self.shared.closing.write().unwrap_or_else(PoisonError::into_inner).take();
        let keeper = self.shared.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            // It can only be cut off by the end of the runtime.
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

/// A worker that was started.
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

    /// Where its standard output goes.
    pub fn stdout(&self) -> &Path {
        &self.stdout
    }

    /// Where its standard error goes.
    pub fn stderr(&self) -> &Path {
        &self.stderr
    }

    /// Waits until it is gone, its children included; for a program that wants the status. The run is told without it, by
    /// [`JobContext::hear_of_ends`](crate::machine::JobContext::hear_of_ends). `None` if the status can't be known.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn gone(&mut self) -> Option<ExitStatus> {
        // An error means that the scheduler's table is gone, and the worker's state with it.
        self.end.wait_for(Option::is_some).await.ok().and_then(|end| (*end).flatten())
    }
}

/// # How stops are bounded
/// Without force, SIGKILL comes after the grace period, which counts from the first such call and is not started again by a repeated one.
/// The kill itself has no bound here, since the kernel has none: the phases give it [`Limits::kill`](crate::limits::Limits::kill).
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
            // Only when it is all that is left: the others are seen to their end first.
            if pressed.left == pressed.refused.len() + pressed.unknown.len() {
                if let Some((worker, error)) = pressed.refused.first() {
                    let error = io::Error::new(error.kind(), format!("can't signal worker {worker}: {error}"));
                    return Err(SchedulerError::Refused(error.into()));
                }
                // A process that starts or ends shows nothing for a moment.
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
        // Runs may have workers of one id.
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

/// Runs what blocks on a thread that may. `None` if the runtime is shutting down.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn going_down() -> SchedulerError {
    SchedulerError::Unavailable("the runtime is shutting down".into())
}

fn unavailable(error: io::Error) -> SchedulerError {
    SchedulerError::Unavailable(error.into())
}
