//! A small process that outlives a killed scheduler just long enough to kill its workers.
//!
//! # Why a process of its own
//! The kernel's own means, `PR_SET_PDEATHSIG`, has to be set in the child between fork and exec (which takes `unsafe`), follows the
//! *thread* that forked and not the process, reaches the worker alone and not its children, and is lost at an exec that changes
//! privileges. A lifeline that the worker reads needs a worker that cooperates. So a watchdog holds one end of a socket whose other
//! end only the scheduler has: the kernel closes it however the scheduler dies.
//!
//! # Why this program a second time
//! A shell is not everywhere (images without a distribution have none), and a second implementation of "kill exactly these" in it
//! would be checked by nobody. A separate binary would have to be installed. The price is one line in `main`: [`init`].

use std::{
    collections::HashSet,
    env,
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    SPAWN,
    cgroup::Home,
    error::{ProcessError, WATCHDOG_ANSWER, state},
    folder::open_file,
    members::{Found, Marks, survey_twice},
    origin::Origin,
    proc,
    record::{Damaged, Loaded, Record, Records, Token},
    table::signal_all,
};

/// Set in the watchdog alone: what it is to watch.
pub(super) const PLAN: &str = "WINDDOWN_WATCHDOG";
const READY: &[u8] = b"ready\n";
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A worker whose start was cut off by the scheduler's death carries its token by then.
pub(super) const START_SETTLES: Duration = Duration::from_secs(1);
/// Workers that are not gone so long after SIGKILL hang in the kernel; a next scheduler finds them by their records.
const GIVE_UP: Duration = Duration::from_secs(60);

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// Which program watches over the workers in case that the scheduler is killed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Watchdog {
    /// This program, started a second time. Its `main` must call [`init`] first; [`open`](super::ProcessSchedulerBuilder::open)
    /// fails if it has not.
    #[default]
    ThisProgram,
    /// A program that calls [`init`] first, for a scheduler inside a program whose `main` is not yours (a test).
    Program {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
    },
    /// None. A worker that does not watch its [lifeline](super::WorkerEnv::lifeline) outlives a killed scheduler, until the next one is
    /// opened on the same state folder and told to stop it.
    Off,
}

/// Lets this program be its own watchdog: call it first in `main`, before anything is started or read. In the scheduler and in workers it
/// returns at once; in the watchdog it never returns.
///
/// ```
/// winddown::process::init();
/// println!("not the watchdog, so this is the program itself");
/// ```
pub fn init() {
    INITIALISED.store(true, Ordering::Release);
    if let Ok(plan) = env::var(PLAN) {
        let result = serde_json::from_str(&plan).map_err(|error| ProcessError::Watchdog { reason: error.to_string() });
        let result = result.and_then(|plan: Plan| plan.watch());
        std::process::exit(i32::from(result.inspect_err(|error| complain(error)).is_err()));
    }
}

/// What a watchdog is told. Its working folder is the state folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) scheduler: Token,
    pub(super) orphan_grace: Duration,
    /// The name of the lifeline, to be removed at the end.
    pub(super) lifeline: String,
    /// Where the workers' control groups are.
    pub(super) home: Option<Home>,
}

/// A watchdog that has said that it is there. It acts when `line` is closed.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) line: UnixStream,
}

impl Watchdog {
    /// Starts it and waits until it answers; blocks.
    pub(super) fn start(&self, folder: &Path, plan: &Plan) -> Result<Option<Running>, ProcessError> {
        let mut command = match self {
            Self::Off => return Ok(None),
            Self::ThisProgram if !INITIALISED.load(Ordering::Acquire) => return Err(ProcessError::NotInitialised),
            Self::ThisProgram => {
                // The link leads to this program even if its file was replaced meanwhile.
                let mut command = Command::new("/proc/self/exe");
                command.arg0("winddown-watchdog");
                command
            }
            Self::Program { program, args } => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
        };
        let failed = |reason: String| ProcessError::Watchdog { reason };
        let log = folder.join("watchdog.log");
        let open = || open_file(&log, File::options().append(true).create(true)).map_err(state(&log));
        let plan = serde_json::to_string(plan).map_err(|error| failed(error.to_string()))?;
        let (mut line, theirs) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
        command
            .env(PLAN, plan)
            // It is none of the worker's children, where this scheduler itself runs in a worker.
            .env_remove(SPAWN)
            .current_dir(folder)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(open()?)
            .stderr(open()?)
            // Ctrl-C in the terminal must not reach it.
            .process_group(0);
        let mut child =
            command.spawn().map_err(|error| failed(format!("{}: {error}", command.get_program().display())))?;
        // The command holds the other end too; without it the end of a watchdog that failed is seen at once.
        drop(command);
        let answer = await_answer(&mut line);
        if let Err(error) = answer {
            // It has been told nothing yet, so it can be killed at any moment.
            let _ = child.kill();
            let status = child.wait().map_err(|error| failed(error.to_string()))?;
            return Err(failed(format!("it did not answer ({error}; {status}); see {}", log.display())));
        }
        Ok(Some(Running { child, line }))
    }
}

fn await_answer(line: &mut UnixStream) -> io::Result<()> {
    line.set_read_timeout(Some(WATCHDOG_ANSWER))?;
    let mut answer = [0; READY.len()];
    line.read_exact(&mut answer)?;
    if answer != READY {
        return Err(io::Error::other(format!("expected {:?}, got {:?}", READY.escape_ascii(), answer.escape_ascii())));
    }
    line.set_read_timeout(None)?;
    line.set_nonblocking(true)
}

impl Plan {
    fn watch(&self) -> Result<(), ProcessError> {
        let line = io::stdin().as_fd().try_clone_to_owned().map_err(ProcessError::Proc)?;
        let mut line = UnixStream::from(line);
        let answered = line.write_all(READY);
        // Nothing is ever sent. An error is an end as well: nobody is there any more.
        while answered.is_ok() && matches!(line.read(&mut [0; 16]), Ok(1..)) {}
        let result = self.end_workers();
        let _ = fs::remove_file(&self.lifeline);
        result
    }

    /// SIGTERM at once, SIGKILL after the grace period, until no process of this scheduler's workers is left. What can't be read or seen is told
    /// of, and keeps nothing else from being ended.
    fn end_workers(&self) -> Result<(), ProcessError> {
        let mut work = Work {
            records: Records::below(Path::new("")),
            here: Origin::here(),
            home: self.home.clone(),
            ours: Vec::new(),
            nameless: Vec::new(),
            asked: HashSet::new(),
            said: HashSet::new(),
        };
        let began = Instant::now();
        loop {
            let kill = began.elapsed() >= self.orphan_grace;
            let left = work.step(&self.scheduler, kill, began.elapsed() < START_SETTLES);
            if matches!(left, Ok(0)) {
                return Ok(());
            }
            let give_up = self.orphan_grace.saturating_add(GIVE_UP);
            if began.elapsed() >= give_up {
                let left = left.map_err(ProcessError::Proc)?;
                return Err(ProcessError::Watchdog { reason: format!("{left} workers are alive after SIGKILL") });
            }
            sleep(LOOK_EVERY);
        }
    }
}

/// What a watchdog has found and said so far.
struct Work {
    records: Records,
    here: io::Result<Origin>,
    home: Option<Home>,
    /// The last ones that could be read.
    ours: Vec<Record>,
    /// The starts whose records are damaged: what carries their tokens is ended.
    nameless: Vec<Token>,
    asked: HashSet<proc::Identity>,
    said: HashSet<String>,
}

impl Work {
    /// How many workers are left.
    fn step(&mut self, scheduler: &Token, kill: bool, may_appear: bool) -> io::Result<usize> {
        match self.records.load() {
            Ok(Loaded { records, damaged }) => {
                self.ours = records;
                self.ours.retain(|record| record.schedulers.contains(scheduler));
                for Damaged { path, reason, token } in damaged {
                    self.say(format!(
                        "set aside a record that can't be read, and ends what carries its token: {}: {reason}",
                        path.display()
                    ));
                    self.nameless.push(token);
                }
            }
            // Those that are known are ended all the same.
            Err(error) => self.say(error.to_string()),
        }
        let here = self.here.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let mut marks: Vec<Marks> = self.ours.iter().map(|record| Marks::recorded(record, here)).collect();
        marks.extend(self.nameless.iter().map(|token| Marks::nameless(token, self.home.as_ref())));
        let found = survey_twice(&marks.iter().collect::<Vec<_>>()).inspect_err(|error| {
            self.said.insert(error.to_string()).then(|| complain(error));
        })?;
        let mut left = 0;
        for (position, (marks, found)) in marks.iter().zip(found).enumerate() {
            let record = self.ours.get(position);
            if found.is_nothing() && !(may_appear && marks.leader.is_none()) {
                self.records.remove(&marks.token, marks.group.as_ref());
                continue;
            }
            left += 1;
            let name = record.map_or_else(|| format!("the start {}", marks.token.as_str()), name);
            self.end(&name, marks, &found, kill);
        }
        Ok(left)
    }

    fn end(&mut self, name: &str, marks: &Marks, found: &Found, kill: bool) {
        if found.is_unknown() {
            self.say(format!("{name}: {}", found.unknown_text()));
        }
        if kill
            && let Some(group) = &marks.group
            && let Err(error) = group.kill()
        {
            self.say(format!("{name}: its control group: {error}"));
        }
        for member in &found.members {
            if (kill || self.asked.insert(member.id))
                && let Err(error) = signal_all(kill, |signal| proc::signal(member.id, signal))
            {
                self.say(format!("{name}: process {}: {error}", member.id.pid));
            }
        }
    }

    /// Each is said once.
    fn say(&mut self, what: String) {
        if !self.said.contains(&what) {
            complain(&what);
            self.said.insert(what);
        }
    }
}

/// Its standard error is `watchdog.log` in the state folder.
fn complain(what: impl std::fmt::Display) {
    eprintln!("winddown watchdog: {what}");
}

fn name(record: &Record) -> String {
    format!("worker {} of job `{}`, run {}", record.worker, record.job, record.run)
}
