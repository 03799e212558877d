//! What can go wrong when workers are started as processes.

use std::{io, path::PathBuf, time::Duration};

use crate::contracts::{JobId, RunId, WorkerId};

/// Why a process scheduler could not be opened, or a worker not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The state folder, or something in it, can't be used.
    #[error("can't use `{}` of the process scheduler's state folder: {error}", path.display())]
    State {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// The state folder, or one that leads to it, is not the scheduler's alone.
    #[error(
        "expected `{}` to belong to the user of the process scheduler, with no right to write for anybody else, got {got}: \
         somebody could {could}; `chown` it, `chmod go-w` it, or choose another state folder",
        path.display()
    )]
    Untrusted {
        /// The folder.
        path: PathBuf,
        /// Its owner or its mode.
        got: String,
        /// What that would allow.
        could: &'static str,
    },
    /// A worker's record can't be read, and what carries its token can't be ended.
    #[error(
        "the record of a worker is damaged, and was set aside as `{}` ({reason}); {left} processes that belong to it are alive \
         and can't be ended: end them, then try again",
        path.display()
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// How many processes are left.
        left: usize,
    },
    /// Another scheduler uses the state folder.
    #[error(
        "the state folder `{}` is in use by another process scheduler; give each its own, or close that one first",
        path.display()
    )]
    InUse {
        /// The state folder.
        path: PathBuf,
    },
    /// The kernel's view of processes can't be read, or signals about them not be had.
    #[error("can't watch processes (is /proc mounted?): {0}")]
    Proc(io::Error),
    /// Other processes can't be looked at, and workers can't be held in control groups: a child of a worker's could live on unseen.
    #[error(
        "expected to see every process in /proc, or a control group (cgroup v2 with `cgroup.kill`) to put workers in, got \
         neither: {hidden}, and {no_group}; mount /proc with `hidepid=0`, run with CAP_SYS_PTRACE or in the group of its \
         `gid=` option, or delegate a control group (systemd: `Delegate=yes`)"
    )]
    Hidden {
        /// What hides processes.
        hidden: String,
        /// Why there is no control group.
        no_group: String,
    },
    /// Control groups were asked for, and there are none.
    #[error(
        "expected a control group (cgroup v2 with `cgroup.kill`) to put workers in, got none: {reason}; delegate one \
         (systemd: `Delegate=yes`), or let the scheduler choose how to hold its workers"
    )]
    NoControlGroup {
        /// What is missing.
        reason: String,
    },
    /// The run was stopped with force, before the start or during it. Nothing of the attempt is left, or what is left is being killed.
    #[error(
        "worker {worker} of job `{job}`, run {run}, is not started: the run was stopped with force; start a new run"
    )]
    Stopped {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerId,
    },
    /// This program can't be its own watchdog, since its `main` never called [`init`](super::init).
    #[error(
        "expected `winddown::process::init()` as the first call of `main`: the watchdog is this program, started a second \
         time; call it, or choose another `Watchdog`"
    )]
    NotInitialised,
    /// The watchdog could not be started, or is gone and could not be started again.
    #[error("no watchdog, so no worker is started: {reason}")]
    Watchdog {
        /// What happened.
        reason: String,
    },
    /// A worker of that name is alive.
    #[error("worker {worker} of job `{job}`, run {run}, is alive already; stop it first, or use another id")]
    AlreadyAlive {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerId,
    },
    /// The worker's program could not be started. Nothing of the attempt is left.
    #[error("can't start worker {worker} of job `{job}`, run {run}: program `{program}`: {error}")]
    Spawn {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// The worker.
        worker: WorkerId,
        /// The program, as it was given.
        program: String,
        /// What the operating system said.
        error: io::Error,
    },
    /// The scheduler was closed.
    #[error("the process scheduler is closed: open another one to start workers")]
    Closed,
    /// The async runtime is shutting down.
    #[error("the runtime is shutting down, so nothing can be started")]
    Runtime,
}

/// How long a new watchdog may take to say that it is there.
pub(super) const WATCHDOG_ANSWER: Duration = Duration::from_secs(5);

/// An error about `path`, ready for `map_err`.
pub(super) fn state(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ProcessError {
    let path = path.into();
    move |error| ProcessError::State { path, error }
}
