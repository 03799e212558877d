//! The scheduler itself: opening a state folder, starting workers, and the [`Scheduler`] contract.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::sleep,
};

use super::{
    error::{ProcessError, state},
    keeper::Keeper,
    lock::lock,
    members::Marks,
    proc,
    record::{Records, Token},
    start::{Place, Started, start},
    table::{Body, End, Key, Table, Which},
    watchdog::{Plan, START_SETTLES, Watchdog},
};
use crate::{
    contracts::{EndListener, JobId, RunId, Scheduler, SchedulerError, WorkerId},
    worker_env::WorkerEnv,
};

/// How often a stop looks whether workers are gone. Where a look takes longer than half of it, it waits twice as long as that.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs workers as child processes. A cheap handle to clone; see the [module](super) for what it keeps.
///
/// When the last handle is dropped, it is as if the program had died: the watchdog ends the workers.
/// [`close`](Self::close) waits for that.
#[derive(Clone)]
pub struct ProcessScheduler {
    shared: Arc<Shared>,
}

struct Shared {
    table: Arc<Table>,
    place: Arc<Place>,
    grace: Duration,
    guarded: Arc<AtomicBool>,
    /// Dropped to end the keeper.
    closing: RwLock<Option<oneshot::Sender<()>>>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

/// Collects how a [`ProcessScheduler`] is to work.
#[derive(Clone, Debug)]
#[must_use = "call `open` to get the scheduler"]
pub struct ProcessSchedulerBuilder {
    folder: PathBuf,
    grace: Duration,
    orphan_grace: Duration,
    watchdog: Watchdog,
}

impl ProcessSchedulerBuilder {
    /// From SIGTERM to SIGKILL in a stop without force. 5 s: within the default [`Limits::release`](crate::limits::Limits::release), at
    /// whose end the phases kill anyway.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// From the scheduler's death to SIGKILL of its workers. 5 s.
    pub fn orphan_grace(mut self, grace: Duration) -> Self {
        self.orphan_grace = grace;
        self
    }

    /// Which program ends the workers when the scheduler dies.
    pub fn watchdog(mut self, watchdog: Watchdog) -> Self {
        self.watchdog = watchdog;
        self
    }

    /// Takes the state folder (it is created if it is missing), adopts the workers of an earlier scheduler, and starts the watchdog.
    ///
    /// It belongs to the runtime that it is called on, which needs its I/O and timer enabled: when the runtime is dropped, the watchdog ends
    /// the workers.
    ///
    /// # Errors
    /// - [`ProcessError::InUse`]: another scheduler has the folder.
    /// - [`ProcessError::NotInitialised`], [`ProcessError::Watchdog`]: there is no watchdog.
    /// - [`ProcessError::State`], [`ProcessError::Record`], [`ProcessError::Proc`]: the folder or `/proc` can't be used.
    ///
    /// # Cancel safety
    /// Safe: what a dropped call has started ends by itself. The folder may be in use for that long.
    pub async fn open(self) -> Result<ProcessScheduler, ProcessError> {
        let child_ended = signal(SignalKind::child()).map_err(ProcessError::Proc)?;
        let grace = self.grace;
        let opened = aside(move || self.prepare()).await.ok_or(ProcessError::Runtime)??;
        let Opened { lock, table, place, plan, lifeline, watchdog, running } = opened;
        let guarded = Arc::new(AtomicBool::new(true));
        let (closing, closed) = oneshot::channel();
        let keeper = Keeper {
            table: Arc::clone(&table),
            folder: place.folder.clone(),
            watchdog,
            plan,
            lifeline,
            guarded: Arc::clone(&guarded),
            lock,
            child_ended,
        };
        let keeper = tokio::spawn(keeper.keep(running, closed));
        let (closing, keeper) = (RwLock::new(Some(closing)), Mutex::new(Some(keeper)));
        let shared = Shared { table, place: Arc::new(place), grace, guarded, closing, keeper };
        Ok(ProcessScheduler { shared: Arc::new(shared) })
    }

    fn prepare(self) -> Result<Opened, ProcessError> {
        let Self { folder, orphan_grace, watchdog, .. } = self;
        fs::create_dir_all(&folder).map_err(state(&folder))?;
        let folder = fs::canonicalize(&folder).map_err(state(folder))?;
        let lock = lock(&folder)?;
        remove_old_lifelines(&folder)?;
        let records = Records::below(&folder);
        records.create_folder()?;
        let boot = proc::boot_id().map_err(ProcessError::Proc)?;
        let scheduler = Token::random().map_err(ProcessError::Proc)?;
        let table = Arc::new(adopt(records, &boot, &scheduler)?);

        let name = format!("lifeline-{}", scheduler.as_str());
        let path = folder.join(&name);
        let lifeline = make_lifeline(&path).map_err(state(&path))?;
        let plan = Plan { scheduler: scheduler.clone(), orphan_grace, lifeline: name };
        let running = watchdog.start(&folder, &plan).inspect_err(|_| {
            let _ = fs::remove_file(&path);
        })?;
        let place = Place { folder, lifeline: path, scheduler, boot };
        Ok(Opened { lock, table, place, plan, lifeline, watchdog, running })
    }
}

struct Opened {
    lock: File,
    table: Arc<Table>,
    place: Place,
    plan: Plan,
    lifeline: OwnedFd,
    watchdog: Watchdog,
    running: Option<super::watchdog::Running>,
}

impl ProcessScheduler {
    /// Starts to say how the scheduler is to work, with this state folder.
    pub fn builder(state: impl Into<PathBuf>) -> ProcessSchedulerBuilder {
        ProcessSchedulerBuilder {
            folder: state.into(),
            grace: Duration::from_secs(5),
            orphan_grace: Duration::from_secs(5),
            watchdog: Watchdog::default(),
        }
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
    /// - [`ProcessError::Spawn`]: the program can't be started.
    /// - [`ProcessError::Watchdog`], [`ProcessError::Closed`]: nobody would watch over it.
    /// - [`ProcessError::State`], [`ProcessError::Proc`]: it can't be recorded.
    ///
    /// After an error nothing of the attempt is left.
    ///
    /// # Cancel safety
    /// If it is dropped, the worker may start all the same; then it is listed, and can be stopped like any other.
    pub async fn start(&self, worker: WorkerEnv, command: Command) -> Result<WorkerProcess, ProcessError> {
        let shared = Arc::clone(&self.shared);
        let started = aside(move || {
            // Held until the worker is entered, so that one that is closing waits for it.
            let closing = shared.closing.read().unwrap_or_else(PoisonError::into_inner);
            if closing.is_none() {
                return Err(ProcessError::Closed);
            }
            if !shared.guarded.load(Ordering::Acquire) {
                return Err(ProcessError::Watchdog { reason: "it has ended, and is being started again".to_owned() });
            }
            start(&shared.table, &shared.place, &worker, command)
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
        loop {
            let began = Instant::now();
            let (table, which, grace) = (Arc::clone(&self.shared.table), which.clone(), self.shared.grace);
            let pressed = aside(move || table.press(&which, force, grace)).await.ok_or_else(going_down)?;
            let pressed = pressed.map_err(unavailable)?;
            match pressed.refused.first() {
                _ if pressed.left == 0 => return Ok(()),
                // Only when it is all that is left: the others are seen to their end first.
                Some((worker, error)) if pressed.refused.len() == pressed.left => {
                    let error = io::Error::new(error.kind(), format!("can't signal worker {worker}: {error}"));
                    return Err(SchedulerError::Refused(error.into()));
                }
                _ => sleep(LOOK_EVERY.max(began.elapsed() * 2)).await,
            }
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
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn going_down() -> SchedulerError {
    SchedulerError::Unavailable("the runtime is shutting down".into())
}

fn unavailable(error: io::Error) -> SchedulerError {
    SchedulerError::Unavailable(error.into())
}

/// Whoever opens one of them from now on finds nothing, which means the same as its end.
fn remove_old_lifelines(folder: &Path) -> Result<(), ProcessError> {
    for entry in fs::read_dir(folder).map_err(state(folder))? {
        let entry = entry.map_err(state(folder))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with("lifeline-")) {
            // A watchdog that is still at work may be faster.
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// A named pipe, and its end that is open for writing. Workers may read it as any user.
fn make_lifeline(path: &Path) -> io::Result<OwnedFd> {
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH)?;
    // Open for writing alone would wait for a reader.
    Ok(open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// The workers that earlier schedulers have left. They are under the new watchdog's eyes too, and stay under those of an older one.
fn adopt(records: Records, boot: &str, scheduler: &Token) -> Result<Table, ProcessError> {
    let found = records.load()?;
    let table = Table::new(records);
    for mut record in found {
        if record.boot != boot {
            // The machine was restarted since, so the worker is gone, and its numbers mean nothing any more.
            table.records().remove(&record.token);
            continue;
        }
        record.schedulers.push(scheduler.clone());
        table.records().write(&record)?;
        let mut not_before = Instant::now();
        if record.process.is_none() {
            not_before += START_SETTLES;
        }
        let marks = Marks::from(&record);
        let key = Key { job: record.job, run: record.run, worker: record.worker };
        // Two records of one name can't be: a record is removed before its worker's name is free again.
        table.enter(key, Body::Adopted { not_before }, marks);
    }
    table.alive(&Which::default()).map_err(ProcessError::Proc)?;
    Ok(table)
}
