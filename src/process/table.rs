//! The workers that a scheduler knows, how it finds out that one is gone, and how it signals them. All of it blocks for a moment:
//! async code calls it aside.

use std::{
    collections::{HashMap, HashSet},
    io,
    process::{Child, ExitStatus},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::watch;

use super::{
    members::{Marks, survey_twice},
    proc::{self, Process, gone_is_ok},
    record::{Records, Token},
};
use crate::{
    contracts::{JobId, RunId, WorkerId},
    mailbox::WorkerEnds,
};

/// A worker's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) job: JobId,
    pub(super) run: RunId,
    pub(super) worker: WorkerId,
}

/// Which workers are meant: of all jobs, of a job, of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Which {
    pub(super) job: Option<JobId>,
    pub(super) run: Option<RunId>,
}

impl Which {
    fn has(&self, key: &Key) -> bool {
        self.job.as_ref().is_none_or(|job| *job == key.job) && self.run.is_none_or(|run| run == key.run)
    }
}

/// How a worker that is gone has ended; `None` if it was no child of this process, so that nobody told.
pub(super) type End = Option<ExitStatus>;

/// What stands for a worker's process here.
#[derive(Debug)]
pub(super) enum Body {
    /// It is being started at this moment.
    Starting,
    /// Our child. It stays a zombie, and so keeps the number of its group from being used again, until nothing else of it is left.
    Child(Child),
    /// Started by a scheduler that is gone. If the start was not recorded to its end, the process may not be seen before this time.
    Adopted { not_before: Instant },
}

struct Entry {
    body: Body,
    marks: Marks,
    /// When it was first asked to leave; the grace period counts from here, however often it is asked.
    asked: Option<Instant>,
    /// The processes that were asked one by one.
    told: HashSet<proc::Identity>,
    end: watch::Sender<Option<End>>,
}

/// A worker that is not gone, and those of its processes that have to be signalled one by one.
struct Left {
    key: Key,
    members: Vec<Process>,
}

/// What a step of a stop has come to.
pub(super) struct Pressed {
    /// How many workers are left.
    pub(super) left: usize,
    /// Those of them that may not be signalled.
    pub(super) refused: Vec<(WorkerId, io::Error)>,
}

pub(super) struct Table {
    workers: Mutex<HashMap<Key, Entry>>,
    records: Records,
    ends: WorkerEnds,
}

impl Table {
    pub(super) fn new(records: Records) -> Self {
        Self { workers: Mutex::default(), records, ends: WorkerEnds::default() }
    }

    pub(super) fn records(&self) -> &Records {
        &self.records
    }

    /// Who hears of the ends of workers.
    pub(super) fn ends(&self) -> &WorkerEnds {
        &self.ends
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // What is done under the lock leaves nothing half done.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a worker, unless one of that name is there. Gives what tells its end.
    pub(super) fn enter(&self, key: Key, body: Body, marks: Marks) -> Option<watch::Receiver<Option<End>>> {
        let (end, receiver) = watch::channel(None);
        match self.lock().entry(key) {
            std::collections::hash_map::Entry::Occupied(_) => None,
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Entry { body, marks, asked: None, told: HashSet::new(), end });
                Some(receiver)
            }
        }
    }

    /// A worker that was being started has a process now.
    pub(super) fn started(&self, key: &Key, child: Child, leader: proc::Identity) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.marks.leader = Some(leader);
            entry.body = Body::Child(child);
        }
    }

    /// A worker that was being started was not.
    pub(super) fn not_started(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// The workers that are alive. Those that are gone are reaped and forgotten.
    pub(super) fn alive(&self, which: &Which) -> io::Result<Vec<Key>> {
        let mut keys: Vec<Key> = self.left(which)?.into_iter().map(|left| left.key).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Asks the workers that are left to leave, or kills them: at once, or where the grace period is over.
    pub(super) fn press(&self, which: &Which, force: bool, grace: Duration) -> io::Result<Pressed> {
        let left = self.left(which)?;
        let mut pressed = Pressed { left: left.len(), refused: Vec::new() };
        let mut workers = self.lock();
        for Left { key, members } in &left {
            // One whose process is not there yet is signalled by the next step.
            let Some(entry) = workers.get_mut(key).filter(|entry| !matches!(entry.body, Body::Starting)) else {
                continue;
            };
            // A worker that may not be signalled keeps no other one from being signalled (invariant I9).
            if let Err(error) = entry.press(members, force, grace) {
                pressed.refused.push((key.worker, error));
            }
        }
        Ok(pressed)
    }

    fn left(&self, which: &Which) -> io::Result<Vec<Left>> {
        let (mut left, mut suspects) = (Vec::new(), Vec::new());
        for (key, entry) in self.lock().iter().filter(|(key, _)| which.has(key)) {
            let key = key.clone();
            match &entry.body {
                Body::Starting => left.push(Left { key, members: Vec::new() }),
                Body::Child(child) if !has_ended(child)? => left.push(Left { key, members: Vec::new() }),
                Body::Child(_) | Body::Adopted { .. } => suspects.push((key, entry.marks.clone())),
            }
        }
        let marks: Vec<&Marks> = suspects.iter().map(|(_, marks)| marks).collect();
        let members = survey_twice(&marks)?;
        for ((key, marks), members) in suspects.into_iter().zip(members) {
            if !members.is_empty() || !self.forget(&key, &marks.token) {
                left.push(Left { key, members });
            }
        }
        Ok(left)
    }

    /// Forgets a worker of which no process is left, and reaps it. False if it is too early to say.
    fn forget(&self, key: &Key, token: &Token) -> bool {
        let mut workers = self.lock();
        let Some(entry) = workers.get(key).filter(|entry| entry.marks.token == *token) else {
            // Another call was faster.
            return true;
        };
        if matches!(entry.body, Body::Adopted { not_before } if Instant::now() < not_before) {
            return false;
        }
        // Before the name is free, so that there are never two records of one name.
        self.records.remove(token);
        if let Some(Entry { body, end, .. }) = workers.remove(key) {
            let status = match body {
                Body::Child(mut child) => child.try_wait().ok().flatten(),
                Body::Starting | Body::Adopted { .. } => None,
            };
            tracing::info!(job = %key.job, run = key.run.get(), worker = key.worker.get(), ?status, "a worker process is gone");
            end.send_replace(Some(status));
            self.ends.gone(&key.job, key.run, key.worker);
        }
        true
    }
}

impl Entry {
    fn press(&mut self, members: &[Process], force: bool, grace: Duration) -> io::Result<()> {
        let first = self.asked.is_none();
        let asked = *self.asked.get_or_insert_with(Instant::now);
        let kill = force || asked.elapsed() >= grace;
        if let Body::Child(child) = &self.body
            && !has_ended(child)?
            && (kill || first)
        {
            // It is our child, and reaped under this lock alone: the number is its own, and the kernel signals the group in one step, so
            // that no fork escapes.
            signal_all(kill, |signal| gone_is_ok(kill_process_group(Pid::from_child(child), signal)))?;
        }
        let mut result = Ok(());
        for member in members {
            // A group that was asked as a whole is not asked again one by one: many programs take a second SIGTERM for "at once".
            let asked_with_group = !first
                && matches!(self.body, Body::Child(_))
                && self.marks.leader.is_some_and(|leader| leader.pid == member.group);
            if kill || (!asked_with_group && self.told.insert(member.id)) {
                result = result.and(signal_all(kill, |signal| proc::signal(member.id, signal)));
            }
        }
        result
    }
}

/// SIGKILL, or SIGTERM; then SIGCONT, since a process that was stopped can't take in a SIGTERM.
pub(super) fn signal_all(kill: bool, send: impl Fn(Signal) -> io::Result<()>) -> io::Result<()> {
    if kill {
        return send(Signal::KILL);
    }
    send(Signal::TERM)?;
    send(Signal::CONT)
}

/// Whether all threads of a child have ended. It is not reaped by this.
fn has_ended(child: &Child) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(Pid::from_child(child)), options) {
        // The host program reaps children behind our back (it ignores SIGCHLD, for example): then it has ended.
        Err(rustix::io::Errno::CHILD) => Ok(true),
        status => Ok(status?.is_some()),
    }
}
