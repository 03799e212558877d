//! The task that stays with a scheduler: it reaps workers that end by themselves, sees to it that a watchdog is there, and when the
//! scheduler is closed or dropped, waits for the end of both.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{net::UnixStream, signal::unix, sync::oneshot, time::sleep};

use super::{
    error::ProcessError,
    proc::gone_is_ok,
    table::{Table, Which},
    watchdog::{Plan, Running, Watchdog},
};

/// How often to look at what nobody tells of (children of workers, adopted workers), and to try again to have a watchdog.
const LOOK_ALWAYS: Duration = Duration::from_secs(1);
/// How long a watchdog may take to leave when nothing is left to do.
const WATCHDOG_LEAVES: Duration = Duration::from_secs(3);
/// How often to look at workers that are not our children, and at the watchdog, while the scheduler closes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Keeper {
    pub(super) table: Arc<Table>,
    pub(super) folder: PathBuf,
    pub(super) watchdog: Watchdog,
    pub(super) plan: Plan,
    /// The end of the lifeline that is open for writing: the only one.
    pub(super) lifeline: OwnedFd,
    /// Whether a watchdog is there, or none is wanted.
    pub(super) guarded: Arc<AtomicBool>,
    /// The state folder is ours for as long as this is open.
    pub(super) lock: File,
    pub(super) child_ended: unix::Signal,
}

/// A watchdog as the runtime sees it.
struct Watched {
    child: Child,
    line: UnixStream,
}

impl TryFrom<Running> for Watched {
    type Error = io::Error;

    fn try_from(Running { child, line }: Running) -> io::Result<Self> {
        Ok(Self { child, line: UnixStream::from_std(line)? })
    }
}

impl Keeper {
    /// Until `closing` is sent, or its sender dropped.
    pub(super) async fn keep(mut self, watchdog: Option<Running>, mut closing: oneshot::Receiver<()>) {
        let mut watched = self.watched(watchdog);
        let mut tick = tokio::time::interval(LOOK_ALWAYS);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = &mut closing => break,
                () = ended(watched.as_ref()) => {
                    tracing::error!("the watchdog of the process scheduler has ended; starting another");
                    self.guarded.store(false, Ordering::Release);
                    if let Some(watched) = watched.take() {
                        reap(watched.child).await;
                    }
                }
                _ = self.child_ended.recv() => self.settle(|table| table.alive(&Which::default()).map(drop)).await,
                _ = tick.tick() => {
                    if watched.is_none() && self.watchdog != Watchdog::Off {
                        watched = self.start_watchdog().await;
                    }
                    self.settle(Table::look).await;
                }
            }
        }
        self.close(watched).await;
    }

    /// Lets go of the lifeline and of the watchdog, which then ends the workers, and waits for all of them.
    async fn close(mut self, watched: Option<Watched>) {
        drop(self.lifeline);
        let mut watchdog = watched.map(|watched| watched.child);
        let mut gone_since = None;
        loop {
            let table = Arc::clone(&self.table);
            let left = tokio::task::spawn_blocking(move || table.alive(&Which::default())).await;
            let is_gone = matches!(&left, Ok(Ok(left)) if left.is_empty());
            if !is_gone {
                gone_since = None;
            }
            if let Some(child) = &mut watchdog {
                let patience = is_gone.then(|| gone_since.get_or_insert_with(Instant::now).elapsed());
                if has_left(child, patience.is_some_and(|patience| patience >= WATCHDOG_LEAVES)) {
                    watchdog = None;
                }
            }
            if watchdog.is_none() && is_gone {
                break;
            }
            tokio::select! {
                _ = self.child_ended.recv() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
        // Where there was a watchdog, it has done so.
        let _ = fs::remove_file(self.folder.join(&self.plan.lifeline));
        drop(self.lock);
    }

    async fn settle(&self, look: fn(&Table) -> io::Result<()>) {
        let table = Arc::clone(&self.table);
        // The runtime is going down if it can't be waited for.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || look(&table)).await {
            tracing::warn!(%error, "can't look at the worker processes");
        }
    }

    async fn start_watchdog(&self) -> Option<Watched> {
        let (watchdog, folder, plan) = (self.watchdog.clone(), self.folder.clone(), self.plan.clone());
        let started = tokio::task::spawn_blocking(move || watchdog.start(&folder, &plan)).await;
        let running = started.unwrap_or(Err(ProcessError::Runtime)).unwrap_or_else(|error| {
            tracing::error!(%error, "no worker is started until there is a watchdog");
            None
        });
        let watched = self.watched(running);
        self.guarded.store(watched.is_some(), Ordering::Release);
        watched
    }

    fn watched(&self, running: Option<Running>) -> Option<Watched> {
        let watched = running.map(Watched::try_from).transpose();
        watched.unwrap_or_else(|error| {
            // Its line is closed by this, so it ends the workers: as safe as it gets.
            tracing::error!(%error, "can't hold the line to the watchdog");
            self.guarded.store(false, Ordering::Release);
            None
        })
    }
}

/// Whether a watchdog that was let go of has ended. One that was stopped is told to go on, and one that has nothing left to do is killed if it does
/// not leave.
fn has_left(child: &mut Child, kill: bool) -> bool {
    if !matches!(child.try_wait(), Ok(None)) {
        return true;
    }
    // It is not reaped, so the number is its own. It may have ended in this moment.
    let _ = if kill { child.kill() } else { gone_is_ok(kill_process(Pid::from_child(child), Signal::CONT)) };
    false
}

/// Waits for the end of a watchdog, without end if there is none.
async fn ended(watched: Option<&Watched>) {
    let Some(Watched { line, .. }) = watched else { return std::future::pending().await };
    while line.readable().await.is_ok() {
        match line.try_read(&mut [0; 16]) {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => break,
        }
    }
}

async fn reap(mut child: Child) {
    // It has closed its line, so it has ended or is about to.
    let _ = tokio::task::spawn_blocking(move || child.wait()).await;
}
