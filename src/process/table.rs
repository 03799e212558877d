//! The workers that a scheduler knows, how it finds out that one is gone, and how it signals them. What looks at processes blocks for a moment:
//! async code calls it aside.

use std::{
    collections::{HashMap, HashSet, hash_map},
    io,
    process::{Child, ExitStatus},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::sync::watch;

use super::{
    cgroup::Group,
    members::{Found, Marks, survey_twice},
    proc::{self, gone_is_ok},
    record::{Records, Token},
};
use crate::{
    contracts::{JobId, RunId, WorkerId},
    mailbox::WorkerEnds,
    worker_env::Fences,
};

mod ticket;

pub(super) use ticket::{Called, Ticket};

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
    /// Its start was called, and nothing is done yet.
    Called,
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
    /// The operator was told that it can't be known whether it is gone.
    is_unknown: bool,
    end: watch::Sender<Option<End>>,
}

/// A worker that is not gone, and those of its processes that have to be signalled one by one.
struct Left {
    key: Key,
    found: Found,
}

/// Whose processes are looked at. Of a child of ours that lives nothing else need be known; but where no control group holds its children, they are
/// looked at while they have parents that tell whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Those of workers that have ended.
    Ended,
    /// And of those that no stop has come to yet.
    Unasked,
    All,
}

/// What a step of a stop has come to.
pub(super) struct Pressed {
    /// How many workers are left.
    pub(super) left: usize,
    /// Those of them that may not be signalled.
    pub(super) refused: Vec<(WorkerId, io::Error)>,
    /// Those of them of which nothing is left but what is unknown.
    pub(super) unknown: Vec<(WorkerId, String)>,
}

pub(super) struct Table {
    workers: Mutex<Workers>,
    records: Records,
    ends: WorkerEnds,
}

/// The workers, and which runs may have no more of them. Under one lock: a start is before a stop or after it.
#[derive(Default)]
struct Workers {
    entries: HashMap<Key, Entry>,
    fences: Fences,
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

    fn lock(&self) -> MutexGuard<'_, Workers> {
        // What is done under the lock leaves nothing half done.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a worker whose start was called, unless one of that name is there or the run was stopped with force. It does not block.
    pub(super) fn call(self: &Arc<Self>, key: Key, marks: Marks) -> Called {
        let mut workers = self.lock();
        if !workers.fences.lets_through(&key.job, key.run) {
            return Called::Stopped;
        }
        let token = marks.token.clone();
        match workers.enter(key.clone(), Body::Called, marks) {
            Some(end) => Called::Entered(Ticket::new(self, key, token, end)),
            None => Called::Taken,
        }
    }

    /// Enters a worker of an earlier scheduler. Two records of one name can't be: a record is removed before its worker's name is free again.
    pub(super) fn adopt(&self, key: Key, not_before: Instant, marks: Marks) {
        let mut workers = self.lock();
        // A stop of all runs is meant for this one too.
        workers.fences.lets_through(&key.job, key.run);
        workers.enter(key, Body::Adopted { not_before }, marks);
    }

    /// A stop with force begins: from here on no start of the run ends with a worker. It does not block.
    pub(super) fn fence(&self, job: &JobId, run: Option<RunId>) {
        let mut workers = self.lock();
        workers.fences.raise(job, run);
        let which = Which { job: Some(job.clone()), run };
        // Those that nothing was done for have never been.
        workers.entries.retain(|key, entry| !(which.has(key) && matches!(entry.body, Body::Called)));
    }

    /// The workers that are alive. Those that are gone are reaped and forgotten.
    pub(super) fn alive(&self, which: &Which) -> io::Result<Vec<Key>> {
        let mut keys: Vec<Key> = self.left(which, Look::Ended)?.into_iter().map(|left| left.key).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Looks at all workers. Those that no control group holds have their children looked at, whose parents may be gone the next time.
    pub(super) fn look(&self) -> io::Result<()> {
        self.left(&Which::default(), Look::All).map(drop)
    }

    /// One step of a stop: asks the workers that have not been asked, and kills if `force` says so or a worker's grace period is over.
    pub(super) fn press(&self, which: &Which, force: bool, grace: Duration) -> io::Result<Pressed> {
        let left = self.left(which, Look::Unasked)?;
        let mut pressed = Pressed { left: left.len(), refused: Vec::new(), unknown: Vec::new() };
        let mut workers = self.lock();
        for Left { key, found } in &left {
            // One whose process is not there yet is signalled by the next step.
            let Some(entry) = workers.entries.get_mut(key).filter(|entry| entry.has_process()) else { continue };
            if found.is_unknown() {
                pressed.unknown.push((key.worker, found.unknown_text()));
            }
            // A worker that may not be signalled keeps no other one from being signalled (invariant I9).
            if let Err(error) = entry.press(found, force, grace) {
                pressed.refused.push((key.worker, error));
            }
        }
        Ok(pressed)
    }

    fn left(&self, which: &Which, look: Look) -> io::Result<Vec<Left>> {
        let (mut left, mut suspects) = (Vec::new(), Vec::new());
        for (key, entry) in self.lock().entries.iter().filter(|(key, _)| which.has(key)) {
            let key = key.clone();
            let is_meant = look == Look::All || (look == Look::Unasked && entry.asked.is_none());
            let is_seen = is_meant && !entry.marks.holds_all;
            match &entry.body {
                Body::Called | Body::Starting => left.push(Left { key, found: Found::default() }),
                Body::Child(child) if !is_seen && !has_ended(child)? => {
                    left.push(Left { key, found: Found::default() });
                }
                Body::Child(_) | Body::Adopted { .. } => suspects.push((key, entry.marks.clone())),
            }
        }
        let marks: Vec<&Marks> = suspects.iter().map(|(_, marks)| marks).collect();
        let found = survey_twice(&marks)?;
        for ((key, marks), found) in suspects.into_iter().zip(found) {
            if !found.is_nothing() || !self.forget(&key, &marks.token)? {
                self.note(&key, &marks.token, &found);
                left.push(Left { key, found });
            }
        }
        Ok(left)
    }

    /// Keeps what was found of a worker for the next look.
    fn note(&self, key: &Key, token: &Token, found: &Found) {
        let mut workers = self.lock();
        let Some(entry) = workers.entries.get_mut(key).filter(|entry| entry.marks.token == *token) else { return };
        entry.marks.known = found.members.iter().map(|member| member.id).collect();
        if found.is_unknown() && !std::mem::replace(&mut entry.is_unknown, true) {
            tracing::warn!(
                job = %key.job, run = key.run.get(), worker = key.worker.get(),
                "a worker has ended, and may be alive all the same: {}", found.unknown_text()
            );
        }
    }

    /// Forgets a worker of which no process is left, and reaps it. False if it is too early to say.
    fn forget(&self, key: &Key, token: &Token) -> io::Result<bool> {
        let mut workers = self.lock();
        let Some(entry) = workers.entries.get(key).filter(|entry| entry.marks.token == *token) else {
            // Another call was faster.
            return Ok(true);
        };
        match &entry.body {
            Body::Adopted { not_before } if Instant::now() < *not_before => return Ok(false),
            Body::Child(child) if !has_ended(child)? => return Ok(false),
            _ => {}
        }
        // Before the name is free, so that there are never two records of one name.
        self.records.remove(token, entry.marks.group.as_ref());
        if let Some(Entry { body, end, .. }) = workers.entries.remove(key) {
            let status = match body {
                // What can't be known of the status is not known; that it has ended is.
                Body::Child(mut child) => child.try_wait().ok().flatten(),
                Body::Called | Body::Starting | Body::Adopted { .. } => None,
            };
            tracing::info!(job = %key.job, run = key.run.get(), worker = key.worker.get(), ?status, "a worker process is gone");
            end.send_replace(Some(status));
            self.ends.gone(&key.job, key.run, key.worker);
        }
        Ok(true)
    }
}

impl Workers {
    /// Gives what tells its end, unless a worker of that name is there.
    fn enter(&mut self, key: Key, body: Body, marks: Marks) -> Option<watch::Receiver<Option<End>>> {
        let hash_map::Entry::Vacant(place) = self.entries.entry(key) else { return None };
        let (end, receiver) = watch::channel(None);
        place.insert(Entry { body, marks, asked: None, told: HashSet::new(), is_unknown: false, end });
        Some(receiver)
    }
}

impl Entry {
    fn has_process(&self) -> bool {
        matches!(self.body, Body::Child(_) | Body::Adopted { .. })
    }

    fn press(&mut self, found: &Found, force: bool, grace: Duration) -> io::Result<()> {
        let first = self.asked.is_none();
        let asked = *self.asked.get_or_insert_with(Instant::now);
        let kill = force || asked.elapsed() >= grace;
        // All of it in one step, however fast it forks.
        let mut result = self.marks.group.as_ref().filter(|_| kill).map_or(Ok(()), Group::kill);
        let mut as_a_group = !first && matches!(self.body, Body::Child(_));
        if let Body::Child(child) = &self.body
            && (kill || first)
            && !has_ended(child)?
        {
            // It is our child, and reaped under this lock alone: the number is its own, and the kernel signals the group in one step, so
            // that no fork escapes.
            result =
                result.and(signal_all(kill, |signal| gone_is_ok(kill_process_group(Pid::from_child(child), signal))));
            as_a_group = true;
        }
        for member in &found.members {
            // A group that was asked as a whole is not asked again one by one: many programs take a second SIGTERM for "at once".
            let asked_with_group = as_a_group && self.marks.leader.is_some_and(|leader| leader.pid == member.group);
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
