//! One call of the word count, and what happens to it.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    plan::{CallPlan, Hit, Kill},
    processes::{self, Pid, Signal},
    tally::Hits,
};

/// The first argument that makes this program the word count.
pub(crate) const WORDCOUNT: &str = "wordcount";

/// A call that takes longer hangs: the longest stop of a round has to wait two seconds.
const PATIENCE: Duration = Duration::from_secs(180);

/// How long to wait for a worker that has not been started yet.
const AGAIN: Duration = Duration::from_millis(10);

/// What is the same for all calls of a round.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// `input/` and `state/` are in it.
    pub(crate) folder: &'a Path,
    /// Whether workers are processes.
    pub(crate) processes: bool,
    pub(crate) runtime: &'a str,
    pub(crate) workers: u32,
    /// Lines per second and worker.
    pub(crate) rate: u32,
    pub(crate) checkpoint_every: Duration,
}

/// How a call has ended, and what has happened to it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    pub(crate) hits: Hits,
    /// What it said on stderr, and what was done to it.
    pub(crate) log: String,
}

/// How a call has ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was killed.
    Killed(Kill),
    /// By itself, with this report.
    Report(Value),
}

impl Job<'_> {
    /// The call, without what happens to it.
    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(WORDCOUNT).arg(self.folder.join("input")).arg("--state-dir").arg(self.folder.join("state"));
        command.args(["--report", "json", "--restarts", "1000", "--runtime", self.runtime]);
        command.args(["--workers", &self.workers.to_string(), "--rate", &self.rate.to_string()]);
        command.args(["--checkpoint-every", &duration(self.checkpoint_every)]);
        Ok(command)
    }

    /// Makes a call, in which `plan` happens. `committed`: the lines that are done by now.
    ///
    /// # Errors
    /// When it can't be made, has not ended after a long time, or has ended as no call should.
    pub(crate) fn call(&self, plan: &CallPlan, committed: u64, random: &mut fastrand::Rng) -> Result<Outcome, String> {
        let mut command = self.command().map_err(|error| error.to_string())?;
        for (request, after) in &plan.stops {
            command.arg("--stop").arg(format!("{request}@{}", duration(*after)));
        }
        if let Some(hit) = plan.worker.filter(|_| !self.processes) {
            command.args(self.injection(hit, committed));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let log = format!("$ {command:?}\n# {plan:?}\n");
        let child = command.spawn().map_err(|error| format!("`{command:?}` can't be started: {error}"))?;
        let watch = Watch { job: self, plan, started: Instant::now(), agenda: Vec::new(), hits: Hits::default(), log };
        watch.until_end(child, random)
    }

    /// A task of the first worker that fails or stalls, for runtimes whose workers can't be killed
    /// or frozen from outside.
    fn injection(&self, hit: Hit, committed: u64) -> Vec<String> {
        let line = |after: Duration| {
            let read = after.as_millis() * u128::from(self.rate) / 1000;
            (u128::from(committed / u64::from(self.workers)) + read + 1).to_string()
        };
        match hit {
            Hit::Kill(after) | Hit::Terminate(after) => vec!["--fail-at-line".to_owned(), line(after)],
            Hit::Freeze(after, time) => {
                vec!["--stall-at-line".to_owned(), line(after), "--stall-for".to_owned(), duration(time)]
            }
        }
    }
}

/// As the command line takes it.
fn duration(time: Duration) -> String {
    format!("{}us", time.as_micros().max(1))
}

/// What is done at a time.
#[derive(Clone, Copy, Debug)]
enum Act {
    KillController(Kill),
    /// It happens to a worker that is chosen then.
    HitWorker(Hit),
    Thaw(Pid),
}

/// A call under way.
struct Watch<'a> {
    job: &'a Job<'a>,
    plan: &'a CallPlan,
    started: Instant,
    agenda: Vec<(Instant, Act)>,
    hits: Hits,
    log: String,
}

impl Watch<'_> {
    fn until_end(mut self, mut child: Child, random: &mut fastrand::Rng) -> Result<Outcome, String> {
        let lines = lines_of(&mut child)?;
        self.begin();
        let killed = self.attend(&lines, &mut child, random);
        // Whatever was wrong, nothing is left to run.
        if killed.is_err() {
            let _ = child.kill();
        }
        let mut report = String::new();
        if let Some(mut stdout) = child.stdout.take() {
            stdout.read_to_string(&mut report).map_err(|error| error.to_string())?;
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        let killed = killed?;
        for line in lines {
            self.hear(&line);
        }
        self.note(&format!("{status}"));
        // A kill may have come too late.
        let end = match (killed, status.code()) {
            (Some(kill), None) => End::Killed(kill),
            (_, Some(0)) => {
                self.note(report.trim_end());
                let last = report.lines().last().unwrap_or_default();
                End::Report(serde_json::from_str(last).map_err(|error| format!("no report ({error}): {}", self.log))?)
            }
            _ => return Err(format!("a call has failed ({status}):\n{}{report}", self.log)),
        };
        let Self { hits, log, .. } = self;
        Ok(Outcome { end, hits, log })
    }

    /// What is to be done at a time of its own.
    fn begin(&mut self) {
        if let Some(kill) = self.plan.kill
            && let (None, delay) = kill.delay()
        {
            self.agenda.push((self.started + delay, Act::KillController(kill)));
        }
        if let Some(hit) = self.plan.worker.filter(|_| self.job.processes) {
            let (Hit::Kill(after) | Hit::Terminate(after) | Hit::Freeze(after, _)) = hit;
            self.agenda.push((self.started + after, Act::HitWorker(hit)));
        }
    }

    /// Listens and acts until the call has ended or was killed.
    fn attend(
        &mut self,
        lines: &Receiver<String>,
        child: &mut Child,
        random: &mut fastrand::Rng,
    ) -> Result<Option<Kill>, String> {
        let patience = self.started + PATIENCE;
        loop {
            let next = self.agenda.iter().map(|(at, _)| *at).min().unwrap_or(patience);
            match lines.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(line) => self.hear(&line),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if Instant::now() >= patience => {
                    return Err(format!("a call has not ended within {PATIENCE:?}:\n{}", self.log));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            let due = self.agenda.iter().position(|(at, _)| *at <= now);
            match due.map(|due| self.agenda.swap_remove(due).1) {
                Some(Act::KillController(kill)) => {
                    child.kill().map_err(|error| error.to_string())?;
                    self.note("controller killed");
                    return Ok(Some(kill));
                }
                Some(act) => self.act(act, random),
                None => {}
            }
        }
    }

    fn act(&mut self, act: Act, random: &mut fastrand::Rng) {
        match act {
            Act::HitWorker(hit) => {
                let workers: Vec<_> = processes::workers(self.job.folder).into_iter().collect();
                let victim = workers.get(random.usize(..workers.len().max(1)));
                let signal = match hit {
                    Hit::Kill(_) => Signal::Kill,
                    Hit::Terminate(_) => Signal::Terminate,
                    Hit::Freeze(..) => Signal::Freeze,
                };
                let Some(&(worker, pid)) = victim.filter(|(_, pid)| processes::send(*pid, self.job.folder, signal))
                else {
                    // None is there yet, or any more.
                    return self.agenda.push((Instant::now() + AGAIN, act));
                };
                self.note(&format!("worker {worker} (process {pid}): {hit:?}"));
                match hit {
                    Hit::Kill(_) => self.hits.killed += 1,
                    Hit::Terminate(_) => self.hits.terminated += 1,
                    Hit::Freeze(_, time) => {
                        self.hits.frozen += 1;
                        self.agenda.push((Instant::now() + time, Act::Thaw(pid)));
                    }
                }
            }
            Act::Thaw(pid) => {
                processes::send(pid, self.job.folder, Signal::Thaw);
                self.note(&format!("process {pid} thawed"));
            }
            Act::KillController(_) => {}
        }
    }

    fn hear(&mut self, line: &str) {
        self.note(line);
        if !self.job.processes {
            self.hits.killed += u32::from(line.contains("injected failure") && line.contains(" follows "));
            self.hits.frozen += u32::from(line.contains("injected stall"));
        }
        if let Some(kill) = self.plan.kill
            && let (Some(what), delay) = kill.delay()
            && line.contains(&what)
            && !self.agenda.iter().any(|(_, act)| matches!(act, Act::KillController(_)))
        {
            self.agenda.push((Instant::now() + delay, Act::KillController(kill)));
        }
    }

    fn note(&mut self, line: &str) {
        // Writing to a string can't fail.
        let _ = writeln!(self.log, "{:8.3} {line}", self.started.elapsed().as_secs_f64());
    }
}

/// What a call says on stderr, as it comes; it ends with the call.
fn lines_of(child: &mut Child) -> Result<Receiver<String>, String> {
    let stderr = child.stderr.take().ok_or("the call has no stderr")?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}
