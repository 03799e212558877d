//! Workers as processes of this program, which report over gRPC.
//!
//! Below the state directory's `processes/`:
//!
//! | path | what it holds |
//! |---|---|
//! | `scheduler/` | the process scheduler's state folder: which workers are alive, and what they wrote (`output/wordcount/RUN/WORKER.stderr`) |
//! | `assignments/WORKER.json` | what the workers of the newest run were told |
//! | `meter` | how many lines each has read |

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::oneshot,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use winddown::{
    Event, JobSender, ProcessScheduler, RunId, WorkerEnv, WorkerEvent,
    grpc::{CallOptions, ControllerOptions, ControllerServer, GrpcTransport, Registration, ServeError},
    process::{ProcessError, WorkerProcess},
};

use super::{KILL, NewRun, Runtime, assignment::Assignment, kill};
use crate::{meter::Meter, run_loop::JobError, screen::Screen};

pub(super) const SCHEDULER: &str = "scheduler";
const ASSIGNMENTS: &str = "assignments";
pub(super) const METER: &str = "meter";

/// How long to wait for a watchdog; one that was killed is replaced within a second.
const WATCHDOG: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Worker processes.
pub(crate) struct Process {
    scheduler: ProcessScheduler,
    server: ControllerServer,
    controller: SocketAddr,
    /// Dropped to end the server.
    shutdown: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
    folder: PathBuf,
    meter: Arc<Meter>,
    screen: Arc<Screen>,
}

/// Dropped at the end of a run: then nobody listens to its workers any more.
pub(crate) struct Hold {
    _registration: Registration,
    _watches: JoinSet<()>,
}

impl Process {
    /// A scheduler and a controller's port for the runs of a job that keeps its files in `folder`.
    pub(crate) async fn open(folder: PathBuf, workers: u32, screen: Arc<Screen>) -> Result<Self, JobError> {
        fs::create_dir_all(&folder)?;
        // Of the last call, whose workers are gone.
        match fs::remove_file(folder.join(METER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let meter = Meter::shared(&folder.join(METER), workers)?;
        let scheduler = ProcessScheduler::open(folder.join(SCHEDULER)).await?;
        // Workers are on this machine, and strangers are not to reach the port.
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let controller = listener.local_addr()?;
        let server = ControllerServer::new(ControllerOptions::default());
        let (shutdown, told) = oneshot::channel::<()>();
        let serving = {
            let server = server.clone();
            tokio::spawn(async move { server.serve(listener, async { drop(told.await) }).await })
        };
        Ok(Self { scheduler, server, controller, shutdown, serving, folder, meter, screen })
    }

    async fn start_workers(&self, new: &NewRun<'_>, watches: &mut JoinSet<()>) -> Result<(), JobError> {
        // Those of the last run, whose workers are gone.
        let assignments = fs::canonicalize(&self.folder)?.join(ASSIGNMENTS);
        match fs::remove_dir_all(&assignments) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&assignments)?,
        }
        let workers = u32::try_from(new.plan.works.len()).unwrap_or(u32::MAX);
        let told_of_one = Arc::new(AtomicBool::new(false));
        for work in &new.plan.works {
            let path = assignments.join(format!("{}.json", work.id().get()));
            Assignment::new(workers, work, new.manifest).write(&path)?;
            let env = WorkerEnv::new(new.job.clone(), new.run, work.id(), format!("http://{}", self.controller));
            let process = self.start_process(env, &path).await?;
            let watch = Watch { process, mailbox: new.mailbox.clone(), told_of_one: Arc::clone(&told_of_one) };
            watches.spawn(watch.until_gone(new.run, work.id(), Arc::clone(&self.screen)));
        }
        Ok(())
    }

    /// Waits for the next watchdog, where the last one was killed.
    async fn start_process(&self, env: WorkerEnv, assignment: &Path) -> Result<WorkerProcess, ProcessError> {
        let end = Instant::now() + WATCHDOG;
        loop {
            match self.scheduler.start(env.clone(), this_program(assignment)).await {
                Err(ProcessError::Watchdog { .. }) if Instant::now() < end => sleep(LOOK_EVERY).await,
                started => return started,
            }
        }
    }
}

/// This program, even if its file was replaced meanwhile.
fn this_program(assignment: &Path) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("wordcount").arg(assignment);
    command
}

impl Runtime for Process {
    type Transport = GrpcTransport;
    type Scheduler = ProcessScheduler;
    type Hold = Hold;

    async fn start(&self, new: NewRun<'_>) -> Result<(Arc<GrpcTransport>, Hold), JobError> {
        let options = CallOptions { call: new.limits.order, ..CallOptions::default() };
        let transport = GrpcTransport::new(new.job.clone(), new.run, Arc::clone(&new.topology)).options(options);
        let transport = Arc::new(transport);
        // Before the first worker, which may be fast.
        let registered = self.server.register(Arc::clone(&transport), new.mailbox.clone());
        let registration = registered.map_err(|error| JobError::System(error.to_string()))?;
        let mut watches = JoinSet::new();
        if let Err(error) = self.start_workers(&new, &mut watches).await {
            drop(watches);
            kill(&self.scheduler, new.job, Some(new.run)).await.map_err(JobError::System)?;
            return Err(error);
        }
        Ok((transport, Hold { _registration: registration, _watches: watches }))
    }

    fn scheduler(&self) -> &ProcessScheduler {
        &self.scheduler
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Where a worker can't be killed, the watchdog goes on trying after the end of this process.
    async fn close(self) {
        let _ = timeout(KILL, self.scheduler.close()).await;
        drop(self.shutdown);
        if let Ok(Err(error)) = self.serving.await {
            tracing::warn!(%error, "the controller's server");
        }
    }
}

/// Waits for the end of one worker process, which is known at once; heartbeats would tell it much later.
struct Watch {
    process: WorkerProcess,
    mailbox: JobSender,
    /// The first worker that died is told of; others often follow because of it.
    told_of_one: Arc<AtomicBool>,
}

impl Watch {
    async fn until_gone(mut self, run: RunId, worker: winddown::WorkerId, screen: Arc<Screen>) {
        let status = self.process.gone().await;
        let well = status.is_some_and(|status| status.success());
        if !well && self.mailbox.requested().is_none() && !self.told_of_one.swap(true, Ordering::Relaxed) {
            let how = status.map_or_else(|| "nobody knows how".to_owned(), |status| status.to_string());
            let (pid, log) = (self.process.pid(), self.process.stderr().display());
            screen.say(&format!("{worker} (process {pid}) has ended: {how}; what it said is in {log}"));
        }
        // What it reported is in the mailbox already. If it had tasks that have not ended, the run has failed; if it has said so
        // itself, this changes nothing. Nobody listens any more when the run is over.
        let _ = self.mailbox.event(WorkerEvent::new(run, worker, Event::WorkerFinished)).await;
    }
}
