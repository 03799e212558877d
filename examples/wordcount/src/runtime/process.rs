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
    net::Ipv4Addr,
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
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use winddown::{
    JobSender, ProcessScheduler,
    grpc::{GrpcTransport, Registration},
    process::{ProcessError, WorkerEnv, WorkerProcess},
};

use super::{KILL, NewRun, Runtime, kill, remote::Remote};
use crate::{meter::Meter, run_loop::JobError, screen::Screen};

pub(super) const SCHEDULER: &str = "scheduler";

/// How long to wait for a watchdog; one that was killed is replaced within a second.
const WATCHDOG: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Worker processes.
pub(crate) struct Process {
    scheduler: ProcessScheduler,
    remote: Remote,
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
        // Workers are on this machine, and strangers are not to reach the port.
        let remote = Remote::open(folder.clone(), workers, (Ipv4Addr::LOCALHOST, 0).into()).await?;
        let scheduler = ProcessScheduler::open(folder.join(SCHEDULER)).await?;
        Ok(Self { scheduler, remote, screen })
    }

    async fn start_workers(&self, new: &NewRun<'_>, watches: &mut JoinSet<()>) -> Result<(), JobError> {
        let told_of_one = Arc::new(AtomicBool::new(false));
        for (work, path) in new.workload.works.iter().zip(self.remote.assign(new)?) {
            let env = WorkerEnv::new(new.open, work.id(), format!("http://{}", self.remote.address));
            let process = self.start_process(env, &path).await?;
            let watch = Watch { process, mailbox: new.mailbox.clone(), told_of_one: Arc::clone(&told_of_one) };
            watches.spawn(watch.until_gone(work.id(), Arc::clone(&self.screen)));
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
        let (transport, registration) = self.remote.register(&new)?;
        let mut watches = JoinSet::new();
        if let Err(error) = self.start_workers(&new, &mut watches).await {
            drop(watches);
            kill(&self.scheduler, new.open.job(), Some(new.open.run())).await.map_err(JobError::System)?;
            return Err(error);
        }
        Ok((transport, Hold { _registration: registration, _watches: watches }))
    }

    fn scheduler(&self) -> &ProcessScheduler {
        &self.scheduler
    }

    fn meter(&self) -> &Meter {
        &self.remote.meter
    }

    /// Where a worker can't be killed, the watchdog goes on trying after the end of this process.
    async fn close(self) {
        let _ = timeout(KILL, self.scheduler.close()).await;
        self.remote.close().await;
    }
}

/// Waits for the end of one worker process, to show it to the user; the scheduler reports it to the
/// run.
struct Watch {
    process: WorkerProcess,
    mailbox: JobSender,
    /// The first worker that died is told of; others often follow because of it.
    told_of_one: Arc<AtomicBool>,
}

impl Watch {
    async fn until_gone(mut self, worker: winddown::WorkerId, screen: Arc<Screen>) {
        let status = self.process.gone().await;
        let well = status.is_some_and(|status| status.success());
        if !well && self.mailbox.requested().is_none() && !self.told_of_one.swap(true, Ordering::Relaxed) {
            let how = status.map_or_else(|| "nobody knows how".to_owned(), |status| status.to_string());
            let (pid, log) = (self.process.pid(), self.process.stderr().display());
            screen.say(&format!("worker {worker} (process {pid}) has ended: {how}; what it said is in {log}"));
        }
    }
}
