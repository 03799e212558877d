//! Starting one worker, so that it is never unknown: it is entered and recorded before its process exists.

use std::{
    env,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tokio::sync::watch;

use super::{
    LIFELINE, SPAWN,
    cgroup::Home,
    error::{ProcessError, state},
    folder::{make, open_file},
    members::{Marks, gather},
    origin::Origin,
    proc,
    record::{Record, Token},
    table::{End, Ticket},
};
use crate::{contracts::JobId, worker_env::WorkerEnv};

/// What all workers of a scheduler have in common.
#[derive(Debug)]
pub(super) struct Place {
    /// The state folder, absolute.
    pub(super) folder: PathBuf,
    pub(super) lifeline: PathBuf,
    pub(super) scheduler: Token,
    pub(super) boot: String,
    pub(super) origin: Origin,
    /// Where the workers' control groups are made, if they are.
    pub(super) home: Option<Home>,
}

/// A started worker, as the caller gets it.
pub(super) struct Started {
    pub(super) pid: u32,
    pub(super) output: Output,
    pub(super) end: watch::Receiver<Option<End>>,
}

/// Starts a worker that is entered; blocks. Whatever happens, the entry is undone or stands for a process.
pub(super) fn start(
    mut ticket: Ticket,
    place: &Place,
    env: &WorkerEnv,
    mut command: Command,
) -> Result<Started, ProcessError> {
    if !ticket.begin() {
        return Err(stopped(env));
    }
    let record = Record {
        job: env.job.clone(),
        run: env.run,
        worker: env.worker,
        token: ticket.token().clone(),
        schedulers: vec![place.scheduler.clone()],
        boot: place.boot.clone(),
        process: None,
        user: None,
        group: None,
        holds_all: false,
        origin: Some(place.origin.clone()),
    };
    let Launched { child, leader, holds_all, output } = launch(&mut ticket, place, env, &mut command, record)?;
    let (pid, end) = (child.id(), ticket.end());
    // A stop may have come in the meantime: then it is killed by this.
    if ticket.started(child, leader, holds_all) { Ok(Started { pid, output, end }) } else { Err(stopped(env)) }
}

pub(super) fn stopped(env: &WorkerEnv) -> ProcessError {
    ProcessError::Stopped { job: env.job.clone(), run: env.run, worker: env.worker }
}

struct Launched {
    child: Child,
    leader: proc::Identity,
    holds_all: bool,
    output: Output,
}

fn launch(
    ticket: &mut Ticket,
    place: &Place,
    env: &WorkerEnv,
    command: &mut Command,
    mut record: Record,
) -> Result<Launched, ProcessError> {
    let spawn_error = |program: String, error| ProcessError::Spawn {
        job: env.job.clone(),
        run: env.run,
        worker: env.worker,
        program,
        error,
    };
    if let Some(home) = &place.home {
        let made = home.make(&record.token);
        record.group = Some(made.map_err(|error| spawn_error("(its control group)".to_owned(), error))?);
        ticket.grouped(record.group.clone());
    }
    // Before the process, so that a worker whose scheduler dies in the next moment is found by its token.
    ticket.records().write(&record)?;
    let output = Output::create(&place.folder, env)?;
    let spawned = prepare(command, place, env, &record.token, &output).and_then(|()| {
        command.spawn().map_err(|error| spawn_error(command.get_program().display().to_string(), error))
    });
    let mut child = spawned.inspect_err(|_| output.discard())?;
    match identify(&child, &mut record, place).and_then(|leader| ticket.records().write(&record).map(|()| leader)) {
        Ok(leader) => Ok(Launched { child, leader, holds_all: record.holds_all, output }),
        Err(error) => {
            // A worker without a record would be lost to the next scheduler. It has had no time to do anything.
            let killed = child.kill().and_then(|()| child.wait());
            tracing::warn!(%error, ?killed, "killed a worker that can't be recorded");
            output.discard();
            Err(error)
        }
    }
}

/// The token, after those of the starts that this scheduler itself is a part of: a worker of a worker's belongs to both.
fn nested(above: Option<String>, token: &Token) -> String {
    above.map_or_else(|| token.as_str().to_owned(), |above| format!("{above}/{}", token.as_str()))
}

fn prepare(
    command: &mut Command,
    place: &Place,
    env: &WorkerEnv,
    token: &Token,
    output: &Output,
) -> Result<(), ProcessError> {
    command
        .envs(env.variables())
        .env(LIFELINE, &place.lifeline)
        .env(SPAWN, nested(env::var(SPAWN).ok(), token))
        .stdin(Stdio::null())
        .stdout(open(&output.stdout)?)
        .stderr(open(&output.stderr)?)
        // It leads a group of its own: Ctrl-C in the terminal goes to the scheduler alone, and a kill reaches its children.
        .process_group(0);
    Ok(())
}

/// Puts it into its control group, and tells it apart from everybody else.
fn identify(child: &Child, record: &mut Record, place: &Place) -> Result<proc::Identity, ProcessError> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other).map_err(ProcessError::Proc)?;
    if let Some(group) = &record.group {
        group.take(pid).map_err(ProcessError::Proc)?;
    }
    // Our child is not reaped, so it is there, even if it has ended already.
    let process = proc::read(pid).map_err(ProcessError::Proc)?;
    let process = process.ok_or_else(|| ProcessError::Proc(io::Error::other(format!("no process {pid}"))))?;
    (record.process, record.user) = (Some(process.id), Some(proc::user(pid).map_err(ProcessError::Proc)?));
    if let Some(group) = record.group.clone() {
        let mut marks = Marks::new(record.token.clone(), Some(place.origin.clone()));
        (marks.leader, marks.group) = (record.process, record.group.clone());
        record.holds_all = gather(&marks, &group).map_err(ProcessError::Proc)?;
    }
    Ok(process.id)
}

fn open(path: &Path) -> Result<File, ProcessError> {
    open_file(path, File::options().append(true).create(true)).map_err(state(path))
}

/// The files that hold what a worker has written.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) stdout: PathBuf,
    pub(super) stderr: PathBuf,
    /// Whether this start has made the files.
    fresh: bool,
}

impl Output {
    fn create(folder: &Path, env: &WorkerEnv) -> Result<Self, ProcessError> {
        let mut folder = folder.to_owned();
        for part in ["output", &file_name(&env.job), &env.run.get().to_string()] {
            folder.push(part);
            make(&folder)?;
        }
        let file = |kind: &str| folder.join(format!("{}.{kind}", env.worker.get()));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        // Where it can't be known, they are somebody's.
        let is_missing = |path: &Path| path.try_exists().is_ok_and(|there| !there);
        let fresh = is_missing(&stdout) && is_missing(&stderr);
        Ok(Self { stdout, stderr, fresh })
    }

    /// Removes what a failed start has made; earlier output of the same worker stays.
    fn discard(&self) {
        if self.fresh {
            let _ = fs::remove_file(&self.stdout);
            let _ = fs::remove_file(&self.stderr);
        }
        // The run's folder and the job's, if nothing else is in them.
        for folder in self.stdout.ancestors().skip(1).take(2) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }
}

/// A job's name as the name of a folder: letters, digits, `-`, `_` and inner dots stay, every other byte becomes `%` and two digits.
fn file_name(job: &JobId) -> String {
    let hex = |digit: u8| char::from(b"0123456789ABCDEF"[usize::from(digit)]);
    let mut name = String::new();
    for (position, byte) in job.as_str().bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte.into()),
            b'.' if position > 0 => name.push('.'),
            _ => name.extend(['%', hex(byte >> 4), hex(byte & 15)]),
        }
    }
    // No other name gives a lone `%`.
    if name.is_empty() { "%".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobs_name_stays_below_the_output_folder_and_is_no_other_jobs() {
        let names = ["words", "", ".", "..", "../x", "a/b", "a%2Fb", "%", "a.b", "ä"];
        let folders: Vec<String> = names.iter().map(|name| file_name(&JobId::from(*name))).collect();
        assert_eq!(folders, ["words", "%", "%2E", "%2E.", "%2E.%2Fx", "a%2Fb", "a%252Fb", "%25", "a.b", "%C3%A4"]);
    }
}
