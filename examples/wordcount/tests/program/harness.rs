//! One input, one state directory, and the program on them.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use winddown::{
    FileJournal, PhaseKind,
    journal::{Journal, PhaseRecord},
};

/// The program.
pub(crate) const WORDCOUNT: &str = env!("CARGO_BIN_EXE_wordcount");

pub(crate) struct Case {
    dir: tempfile::TempDir,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl End {
    pub(crate) fn last_line(&self) -> &str {
        self.stdout.lines().last().unwrap_or_else(|| panic!("nothing on stdout: {self:?}"))
    }

    /// The JSON report.
    pub(crate) fn report(&self) -> serde_json::Value {
        serde_json::from_str(self.last_line()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn phases(&self) -> Vec<String> {
        let report = self.report();
        let phases = report["phases"].as_array().unwrap();
        phases.iter().map(|phase| phase["phase"].as_str().unwrap().to_owned()).collect()
    }
}

impl From<Output> for End {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Case {
    /// Without any file in the input.
    pub(crate) fn empty() -> Self {
        let case = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(case.input()).unwrap();
        case
    }

    /// With about `lines` lines in three files.
    pub(crate) fn new(lines: u64) -> Self {
        let case = Self::empty();
        fs::create_dir_all(case.input().join("deep")).unwrap();
        let mut random = Random::new(lines);
        for name in ["one.txt", "deep/two", "zz"] {
            fs::write(case.input().join(name), random.text(lines / 3)).unwrap();
        }
        case
    }

    pub(crate) fn input(&self) -> PathBuf {
        self.dir.path().join("input")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(WORDCOUNT);
        command.arg(self.input()).arg("--state-dir").arg(self.state()).args(line.split_whitespace());
        // As a shell starts it: Ctrl-C in a terminal goes to this group.
        command.process_group(0);
        command.current_dir(self.dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, line: &str) -> End {
        self.command(line).output().unwrap().into()
    }

    /// Starts the program.
    pub(crate) fn start(&self, line: &str) -> Child {
        self.command(line).spawn().unwrap()
    }

    /// Runs a command as a user pastes it.
    pub(crate) fn shell(&self, command: &str) -> End {
        Command::new("sh").args(["-c", command]).current_dir(self.dir.path()).output().unwrap().into()
    }

    /// Waits for the first checkpoint.
    pub(crate) fn await_checkpoint(&self) {
        self.await_state("a checkpoint", |state| {
            fs::read_dir(state.join("output/worker-0")).is_ok_and(|entries| entries.count() > 0)
        });
    }

    /// Waits until a run has been claimed, and its signal handlers stand.
    pub(crate) fn await_run(&self, run: u64) {
        let claim = format!("\"run\":{run}");
        self.await_state("the run", |state| {
            let log = fs::read_dir(state.join("checkpoints/wordcount/log"));
            log.is_ok_and(|entries| {
                entries.flatten().any(|entry| {
                    fs::read_to_string(entry.path()).is_ok_and(|text| text.replace(' ', "").contains(&claim))
                })
            })
        });
    }

    /// Does something with the journal of the state directory.
    pub(crate) fn with_journal<T>(&self, work: impl AsyncFnOnce(FileJournal) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { work(FileJournal::open(self.state().join("journal")).unwrap()).await })
    }

    /// How far the shutdown of the newest run is, as the journal has it.
    pub(crate) fn record(&self) -> Option<PhaseRecord> {
        self.with_journal(async |journal| journal.load(&"wordcount".into()).await.unwrap())
    }

    /// Waits until the journal has this phase.
    pub(crate) fn await_phase(&self, phase: PhaseKind) {
        self.await_state(phase.name(), |_| self.record().is_some_and(|record| record.phase() == phase));
    }

    /// Waits until a worker process has read its first line.
    pub(crate) fn await_first_line(&self, worker: usize) {
        self.await_state("a line", |state| {
            let meter = fs::read(state.join("processes/meter")).unwrap_or_default();
            meter.chunks(8).nth(worker - 1).is_some_and(|lines| lines.iter().any(|&byte| byte != 0))
        });
    }

    fn await_state(&self, what: &str, there: impl Fn(&Path) -> bool) {
        for _ in 0..2000 {
            if there(&self.state()) {
                return;
            }
            sleep(Duration::from_millis(5));
        }
        panic!("no sign of {what} in ten seconds");
    }

    /// The live worker processes, by worker.
    pub(crate) fn workers(&self) -> BTreeMap<u64, Pid> {
        let records = fs::read_dir(self.state().join("processes/scheduler/workers")).into_iter().flatten();
        let record = |entry: std::io::Result<fs::DirEntry>| {
            let path =
                entry.ok().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "json"))?;
            let record: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            let pid = Pid::from_raw(record["process"]["pid"].as_i64()?.try_into().ok()?);
            self.processes().contains(&pid).then_some((record["worker"].as_u64()?, pid))
        };
        records.filter_map(record).collect()
    }

    /// Waits until a run has so many worker processes.
    pub(crate) fn await_workers(&self, run: u64, count: usize) -> BTreeMap<u64, Pid> {
        self.await_run(run);
        self.await_state("the workers", |_| self.workers().len() == count);
        self.workers()
    }

    /// The process that ends the workers of a controller that died.
    pub(crate) fn watchdog(&self) -> Option<Pid> {
        let is_watchdog = |pid: &Pid| {
            proc_file(*pid, "environ").starts_with("WINDDOWN_WATCHDOG=")
                || proc_file(*pid, "environ").contains("\0WINDDOWN_WATCHDOG=")
        };
        self.processes().into_iter().find(is_watchdog)
    }

    /// The live processes that have this case's folder in their command line or environment, or
    /// that work in it.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let folder = self.dir.path().to_str().unwrap();
        let is_ours = |pid: &Pid| {
            let link = fs::read_link(format!("/proc/{pid}/cwd"));
            ["cmdline", "environ"].iter().any(|file| proc_file(*pid, file).contains(folder))
                || link.is_ok_and(|cwd| cwd.starts_with(folder))
        };
        let pids =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.map(Pid::from_raw).filter(is_ours).collect()
    }

    /// Every process ends within this time.
    pub(crate) fn assert_nothing_is_left(&self, within: Duration) {
        let end = Instant::now() + within;
        while !self.processes().is_empty() {
            assert!(Instant::now() < end, "{:?} are alive after {within:?}", self.processes());
            sleep(Duration::from_millis(20));
        }
    }

    fn files(&self) -> Vec<Vec<u8>> {
        contents(&self.input()).into_values().collect()
    }

    /// How many lines the input has.
    pub(crate) fn lines(&self) -> u64 {
        let lines = |text: &Vec<u8>| text.split_inclusive(|&byte| byte == b'\n').count();
        self.files().iter().map(lines).sum::<usize>() as u64
    }

    /// The result is exact, to the last word.
    pub(crate) fn assert_exact(&self) {
        let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for text in self.files() {
            for word in text.split(|byte| !byte.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
                *counts.entry(word.to_ascii_lowercase()).or_default() += 1;
            }
        }
        let lines = counts.iter().map(|(word, count)| format!("{}\t{count}\n", str::from_utf8(word).unwrap()));
        assert_eq!(fs::read_to_string(self.state().join("counts.tsv")).unwrap(), lines.collect::<String>());
    }
}

/// A test that has failed leaves no process behind either.
impl Drop for Case {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

/// A file of a process; empty if the process is gone, or a zombie.
fn proc_file(pid: Pid, file: &str) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).into_owned()
}

/// Waits until the program says `what` on stderr; what it says after that is lost.
pub(crate) fn await_line(child: &mut Child, what: &str) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains(what)));
    assert!(said.is_some(), "the program ended without saying `{what}`");
    // A closed pipe is no reason for it to end.
}

/// A frozen process stays frozen when its controller dies: its new parent is this process, of the
/// same session. Otherwise its group would be an orphaned one, which the kernel wakes up with a
/// SIGHUP.
#[cfg(target_os = "linux")]
pub(crate) fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
}

pub(crate) fn wait(child: Child) -> End {
    child.wait_with_output().unwrap().into()
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Every file under a folder, by its path in it, with its contents.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(top: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(top, &path, found);
            } else {
                found.insert(path.strip_prefix(top).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// Random numbers that are the same every time (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Lines of words in both cases, digits, other alphabets, broken UTF-8 and nothing; no newline
    /// at the end.
    fn text(&mut self, lines: u64) -> Vec<u8> {
        const SEPARATORS: [&[u8]; 8] = [b" ", b" ", b"  ", b", ", b"-", b"7", b"\xff\xfe", "\u{df}".as_bytes()];
        let mut text = Vec::new();
        for line in 0..lines {
            for _ in 0..self.below(8) {
                for _ in 0..=self.below(3) {
                    let letter = b"abcdXYZA"[usize::try_from(self.below(8)).unwrap()];
                    text.push(letter);
                }
                text.extend_from_slice(SEPARATORS[usize::try_from(self.below(8)).unwrap()]);
            }
            text.push(if line + 1 == lines { b'q' } else { b'\n' });
        }
        text
    }
}
