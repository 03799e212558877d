//! Real processes for tests: each test has a stage of its own, marks what it starts, and leaves no
//! process behind.
#![allow(dead_code, reason = "each test crate uses what it needs")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use winddown::{
    JobId, OpenRun, ProcessScheduler, RunId, Scheduler, WorkerId,
    process::{ProcessSchedulerBuilder, Watchdog, WorkerEnv, WorkerProcess},
};

/// Every wait ends within it. No figure that is promised: it only keeps a broken test from hanging.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// A grace period that never ends in a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);
pub(crate) const RUN: RunId = RunId::new(7);
const MARK: &str = "WINDDOWN_TEST_STAGE";

pub(crate) fn job() -> JobId {
    JobId::from("words")
}

/// A folder, and the processes that are marked with it.
pub(crate) struct Stage {
    folder: TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    /// Where scripts run, and leave their files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A scheduler whose watchdog is this test program, at the test `watchdog_entry`.
    pub(crate) fn builder(&self) -> ProcessSchedulerBuilder {
        ProcessScheduler::builder(self.state()).watchdog(watchdog())
    }

    /// One that waits for ever where it may wait.
    pub(crate) async fn open(&self) -> ProcessScheduler {
        self.builder().grace(NEVER).open().await.unwrap()
    }

    /// A shell script, in the stage's folder.
    pub(crate) fn sh(&self, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        self.mark(&mut command);
        command
    }

    /// This test program, at one of its tests.
    pub(crate) fn this_program(&self, test: &str) -> Command {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]);
        self.mark(&mut command);
        command
    }

    fn mark(&self, command: &mut Command) {
        command.env(MARK, self.folder.path()).current_dir(self.folder.path());
    }

    /// Starts a script as a worker, and waits until it has made the file `up-<worker>`.
    pub(crate) async fn start(&self, scheduler: &ProcessScheduler, number: u64, script: &str) -> WorkerProcess {
        let worker = WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(number), "http://127.0.0.1:1");
        let started = scheduler.start(worker, self.sh(script)).await.unwrap();
        self.file(&format!("up-{number}")).await;
        started
    }

    /// Waits for a file.
    pub(crate) async fn file(&self, name: &str) {
        until(name, || self.path(name).exists()).await;
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The live processes that this test has started, schedulers and watchdogs included.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let folder = self.folder.path();
        let marked = |pid: &i32| {
            let mark = format!("{MARK}={}", folder.display());
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let in_folder = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
            in_folder || environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        };
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(marked).filter(|pid| state(*pid).is_some_and(|state| state != 'Z')).collect()
    }

    pub(crate) fn watchdog(&self) -> Option<i32> {
        let is_watchdog = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"WINDDOWN_WATCHDOG="))
        };
        self.processes().into_iter().find(is_watchdog)
    }

    /// Every process of the test ends by itself.
    pub(crate) async fn nothing_is_left(&self) {
        until("the end of all processes", || self.processes().is_empty()).await;
    }

    /// The end of a test: everything is stopped, so closing finds nothing to do.
    pub(crate) async fn end(&self, scheduler: ProcessScheduler) {
        assert_eq!(scheduler.workers().await.unwrap(), []);
        assert_eq!(self.records(), 0);
        scheduler.close().await;
        self.nothing_is_left().await;
    }

    pub(crate) fn records(&self) -> usize {
        files(&self.state().join("workers")).len()
    }
}

/// A test that has failed leaves nothing behind either.
impl Drop for Stage {
    fn drop(&mut self) {
        for pid in self.processes() {
            signal(pid, Signal::KILL);
        }
    }
}

pub(crate) fn watchdog() -> Watchdog {
    let args = ["--exact", "watchdog_entry", "--nocapture"].map(Into::into).to_vec();
    Watchdog::Program { program: env::current_exe().unwrap(), args }
}

/// Field 3 of `/proc/<pid>/stat`.
pub(crate) fn state(pid: i32) -> Option<char> {
    stat(pid, 3)?.chars().next()
}

/// A field of `/proc/<pid>/stat`, counted as in its manual.
pub(crate) fn stat(pid: i32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(field - 3).map(str::to_owned)
}

pub(crate) fn signal(pid: i32, signal: Signal) {
    // It may be gone by now.
    let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
}

pub(crate) fn pid(worker: &WorkerProcess) -> i32 {
    worker.pid().try_into().unwrap()
}

/// The files and folders in a folder, by name.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn stop(scheduler: &ProcessScheduler, force: bool) {
    stop_run(scheduler, Some(RUN), force).await;
}

pub(crate) async fn stop_run(scheduler: &ProcessScheduler, run: Option<RunId>, force: bool) {
    tokio::time::timeout(SOON, scheduler.stop_workers(&job(), run, force)).await.expect("it ends").unwrap();
    assert_eq!(scheduler.workers_for_job(&job(), run).await.unwrap(), [], "it waits until all are gone");
}
