//! A real Flink cluster, its job, and its rows.

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    process::Command,
    sync::{Mutex, MutexGuard},
    time::{Instant, sleep},
};
use winddown_flink::{FlinkJob, JobState, RestClient, RestSettings};

/// One cluster at a time: each is three Java machines.
static ONE: Mutex<()> = Mutex::const_new(());

/// How long anything may take before a test says what it waited for.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    flink: PathBuf,
    folder: tempfile::TempDir,
    pub(crate) rest: String,
    _one: MutexGuard<'static, ()>,
}

/// What the command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) json: Value,
    /// For the message of an assertion that fails.
    #[expect(dead_code, reason = "it is read by `Debug`")]
    err: String,
}

impl Said {
    pub(crate) fn savepoint(&self) -> &str {
        self.json["savepoint"].as_str().unwrap_or_else(|| panic!("expected a savepoint: {self:?}"))
    }

    pub(crate) fn stopped(&self) -> &str {
        self.json["receipt"]["stopped"].as_str().unwrap_or("no")
    }
}

impl Cluster {
    /// A cluster of one `TaskManager`; `None`, loudly, where no Flink is.
    pub(crate) async fn start() -> Option<Self> {
        let Some(flink) = std::env::var_os("WINDDOWN_TEST_FLINK").map(PathBuf::from) else {
            // Not `eprintln!`: a test that passes keeps that to itself.
            let said = "\n*** WINDDOWN_TEST_FLINK does not say where a Flink is: a test is SKIPPED ***\n";
            std::io::stderr().write_all(said.as_bytes()).unwrap();
            return None;
        };
        let one = ONE.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { flink, folder, rest: String::new(), _one: one };
        cluster.rest = cluster.script(&["start", cluster.path(), "1"]).await;
        Some(cluster)
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    async fn script(&self, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/flink-cluster");
        let mut command = Command::new(script);
        let Output { status, stdout, stderr } =
            command.args(arguments).env("FLINK_CACHE", &self.flink).output().await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{arguments:?}: {out}{err}");
        out.trim().to_owned()
    }

    /// A job that has rows to lose: its first checkpoint is complete.
    pub(crate) async fn job(&self, savepoint: Option<&str>) -> String {
        let job = self.script(&["submit", self.path(), savepoint.unwrap_or("")]).await;
        assert_eq!(
            job.len(),
            32,
            "{job:?}: {}",
            std::fs::read_to_string(self.folder.path().join("submit.log")).unwrap()
        );
        let client = self.client();
        wait("a complete checkpoint", async || {
            let checkpoints: Value = client.get(&format!("/jobs/{job}/checkpoints")).await.unwrap();
            checkpoints["latest"]["completed"].is_object()
        })
        .await;
        job
    }

    /// Where the newest complete checkpoint of a job is.
    pub(crate) async fn last_checkpoint(&self, job: &str) -> String {
        let checkpoints: Value = self.client().get(&format!("/jobs/{job}/checkpoints")).await.unwrap();
        checkpoints["latest"]["completed"]["external_path"].as_str().unwrap().to_owned()
    }

    fn client(&self) -> RestClient {
        RestClient::new(RestSettings::new(&self.rest)).unwrap()
    }

    pub(crate) async fn state(&self, job: &str) -> JobState {
        FlinkJob::attach(&self.client(), job).await.unwrap().state().await.unwrap()
    }

    pub(crate) async fn stop(&self, job: &str, arguments: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_winddown-flink"));
        command.args(["stop", job, "--rest", &self.rest, "--json"]).args(arguments).kill_on_drop(true);
        let done = command.output().await.unwrap();
        let json = serde_json::from_slice(&done.stdout).unwrap_or_default();
        Said { code: done.status.code(), json, err: String::from_utf8_lossy(&done.stderr).into_owned() }
    }

    /// Sends a signal to the `TaskManager` of this number.
    pub(crate) fn signal(&self, task_manager: u32, signal: Signal) {
        let pid = std::fs::read_to_string(self.folder.path().join(format!("task-manager-{task_manager}.pid"))).unwrap();
        kill(Pid::from_raw(pid.trim().parse().unwrap()), signal).unwrap();
    }

    pub(crate) async fn add_task_manager(&self) {
        self.script(&["task-manager", self.path()]).await;
        let client = self.client();
        wait("another TaskManager", async || {
            let overview: Value = client.get("/overview").await.unwrap();
            overview["slots-available"].as_u64() >= Some(2)
        })
        .await;
    }

    pub(crate) async fn heard_from(&self, task_managers: usize) {
        let client = self.client();
        wait("the TaskManagers that are left", async || {
            let list: Value = client.get("/taskmanagers").await.unwrap();
            list["taskmanagers"].as_array().unwrap().len() == task_managers
        })
        .await;
    }

    /// The visible rows: each number once, and none left out. Two sources count in steps of two, so
    /// each has a run of odd or even numbers without a gap.
    pub(crate) fn exact_rows(&self) -> usize {
        let mut numbers = BTreeSet::new();
        let mut rows = 0;
        for entry in std::fs::read_dir(self.folder.path().join("sink")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with(['.', '_']) {
                continue;
            }
            for line in std::fs::read_to_string(path).unwrap().lines() {
                numbers.insert(line.split_once(',').unwrap().0.parse::<usize>().unwrap());
                rows += 1;
            }
        }
        assert_eq!(numbers.len(), rows, "a number is there twice");
        for odd in [0, 1] {
            let of_one: Vec<_> = numbers.iter().filter(|number| *number % 2 == odd).collect();
            let last = of_one.last().map_or(0, |last| last.div_ceil(2));
            assert_eq!(of_one.len(), last, "a number is missing below {:?}", of_one.last());
        }
        rows
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/flink-cluster");
        let _ = std::process::Command::new(script).args(["stop", self.path()]).status();
    }
}

pub(crate) async fn wait(what: &str, mut until: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !until().await {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(Duration::from_millis(100)).await;
    }
}
