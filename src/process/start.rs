//! Starting one worker, so that it is never unknown: it is entered and recorded before its process exists.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tokio::sync::watch;

use super::{
    LIFELINE, SPAWN,
    error::{ProcessError, state},
    members::Marks,
    proc,
    record::{Record, Token},
    table::{Body, End, Key, Table, Which},
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
}

/// A started worker, as the caller gets it.
pub(super) struct Started {
    pub(super) pid: u32,
    pub(super) output: Output,
    pub(super) end: watch::Receiver<Option<End>>,
}

/// Starts a worker; blocks.
pub(super) fn start(
    table: &Table,
    place: &Place,
    env: &WorkerEnv,
    mut command: Command,
) -> Result<Started, ProcessError> {
    let WorkerEnv { job, run, worker, .. } = env;
    let (run, worker) = (*run, *worker);
    let key = Key { job: job.clone(), run, worker };
    let token = Token::random().map_err(ProcessError::Proc)?;
    // One of that name may be gone without anybody having looked yet.
    table.alive(&Which { job: Some(job.clone()), run: Some(run) }).map_err(ProcessError::Proc)?;
    let marks = Marks { leader: None, token: token.clone() };
    let Some(end) = table.enter(key.clone(), Body::Starting, marks) else {
        return Err(ProcessError::AlreadyAlive { job: job.clone(), run, worker });
    };
    let record = Record {
        job: job.clone(),
        run,
        worker,
        token,
        schedulers: vec![place.scheduler.clone()],
        boot: place.boot.clone(),
        process: None,
    };
    match launch(table, place, env, &mut command, record.clone()) {
        Ok((child, leader, output)) => {
            let pid = child.id();
            table.started(&key, child, leader);
            Ok(Started { pid, output, end })
        }
        Err(error) => {
            table.records().remove(&record.token);
            table.not_started(&key);
            Err(error)
        }
    }
}

fn launch(
    table: &Table,
    place: &Place,
    env: &WorkerEnv,
    command: &mut Command,
    mut record: Record,
) -> Result<(Child, proc::Identity, Output), ProcessError> {
    // Before the process, so that a worker whose scheduler dies in the next moment is found by its token.
    table.records().write(&record)?;
    let output = Output::create(&place.folder, env)?;
    let spawned = prepare(command, place, env, &record.token, &output).and_then(|()| {
        command.spawn().map_err(|error| ProcessError::Spawn {
            job: env.job.clone(),
            run: env.run,
            worker: env.worker,
            program: command.get_program().display().to_string(),
            error,
        })
    });
    let mut child = spawned.inspect_err(|_| output.discard())?;
    match identify(&child).and_then(|leader| {
        record.process = Some(leader);
        table.records().write(&record).map(|()| leader)
    }) {
        Ok(leader) => Ok((child, leader, output)),
        Err(error) => {
            // A worker without a record would be lost to the next scheduler. It has had no time to do anything.
            let killed = child.kill().and_then(|()| child.wait());
            tracing::warn!(%error, ?killed, "killed a worker that can't be recorded");
            output.discard();
            Err(error)
        }
    }
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
        .env(SPAWN, token.as_str())
        .stdin(Stdio::null())
        .stdout(open(&output.stdout)?)
        .stderr(open(&output.stderr)?)
        // It leads a group of its own: Ctrl-C in the terminal goes to the scheduler alone, and a kill reaches its children.
        .process_group(0);
    Ok(())
}

fn identify(child: &Child) -> Result<proc::Identity, ProcessError> {
    let pid = i32::try_from(child.id()).map_err(io::Error::other).map_err(ProcessError::Proc)?;
    // Our child is not reaped, so it is there, even if it has ended already.
    let process = proc::read(pid).map_err(ProcessError::Proc)?;
    process.map(|process| process.id).ok_or_else(|| ProcessError::Proc(io::Error::other(format!("no process {pid}"))))
}

fn open(path: &Path) -> Result<File, ProcessError> {
    File::options().append(true).create(true).open(path).map_err(state(path))
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
        let folder = folder.join("output").join(file_name(&env.job)).join(env.run.get().to_string());
        fs::create_dir_all(&folder).map_err(state(&folder))?;
        let file = |kind: &str| folder.join(format!("{}.{kind}", env.worker.get()));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let fresh = !stdout.exists() && !stderr.exists();
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
