//! The workers that a scheduler knows, how it notices that one is gone, and how it signals them.
//! Looking at processes blocks for a moment, so async code calls it on a blocking thread.

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

/// A selection of workers: of all jobs, of a job, of a run.
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

/// How a worker has ended; `None` if it was no child of this process, so that its status is not
/// known.
pub(super) type End = Option<ExitStatus>;

/// The state of a worker's process.
#[derive(Debug)]
pub(super) enum Body {
    /// `start` was called, and nothing is done yet.
    Called,
    /// It is being started.
    Starting,
    /// Our child. It stays a zombie until nothing else of it is left, and thereby keeps its group's
    /// number from being reused.
    Child(Child),
    /// Started by a scheduler that is gone. If the start was not completely recorded, the process
    /// may not be visible before this time.
    Adopted { not_before: Instant },
}

struct Entry {
    body: Body,
    marks: Marks,
    /// When it was first asked to leave; the grace period counts from here, however often it is
    /// asked.
    asked: Option<Instant>,
    /// The processes that were asked individually.
    told: HashSet<proc::Identity>,
    /// The operator was told that it is not known whether the worker is gone.
    is_unknown: bool,
    end: watch::Sender<Option<End>>,
}

/// A worker that is not gone, and those of its processes that have to be signalled individually.
struct Left {
    key: Key,
    found: Found,
}

/// The workers whose processes are examined. For a live child of ours this is not needed, unless no
/// control group holds its children: those are examined while they still have parents that show
/// where they belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Workers that have ended.
    Ended,
    /// Also workers that no stop has reached yet.
    Unasked,
    All,
}

/// The result of one step of a stop.
pub(super) struct Pressed {
    /// How many workers are left.
    pub(super) left: usize,
    /// Those that may not be signalled.
    pub(super) refused: Vec<(WorkerId, io::Error)>,
    /// Those with only unknown processes left.
    pub(super) unknown: Vec<(WorkerId, String)>,
}

pub(super) struct Table {
    workers: Mutex<Workers>,
    records: Records,
    ends: WorkerEnds,
}

/// The workers, and which runs may have no more of them. Behind one lock: every start is either
/// before a stop or after it.
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

    /// The receivers of workers' ends.
    pub(super) fn ends(&self) -> &WorkerEnds {
        &self.ends
    }

    fn lock(&self) -> MutexGuard<'_, Workers> {
        // No operation under the lock leaves a half-done change.
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a worker whose start was called, unless one with that name is there or the run was
    /// stopped with force. Does not block.
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

    /// Enters a worker of an earlier scheduler. There cannot be two records with one name: a record
    /// is removed before its worker's name is free again.
    pub(super) fn adopt(&self, key: Key, not_before: Instant, marks: Marks) {
        let mut workers = self.lock();
        // A stop of all runs includes this one.
        workers.fences.lets_through(&key.job, key.run);
        workers.enter(key, Body::Adopted { not_before }, marks);
    }

    /// Begins a stop with force: from here on, no start of the run results in a worker. Does not
    /// block.
    pub(super) fn fence(&self, job: &JobId, run: Option<RunId>) {
        let mut workers = self.lock();
        workers.fences.raise(job, run);
        let which = Which { job: Some(job.clone()), run };
        // Starts that have done nothing yet are removed, as if never called.
        workers.entries.retain(|key, entry| !(which.has(key) && matches!(entry.body, Body::Called)));
    }

    /// The workers that are alive. Those that are gone are reaped and removed.
    pub(super) fn alive(&self, which: &Which) -> io::Result<Vec<Key>> {
        let mut keys: Vec<Key> = self.left(which, Look::Ended)?.into_iter().map(|left| left.key).collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Examines all workers. If no control group holds a worker, its children are examined too,
    /// because their parents may be gone the next time.
    pub(super) fn look(&self) -> io::Result<()> {
        self.left(&Which::default(), Look::All).map(drop)
    }

    /// One step of a stop: asks the workers that have not been asked, and kills if `force` is set
    /// or a worker's grace period is over.
    pub(super) fn press(&self, which: &Which, force: bool, grace: Duration) -> io::Result<Pressed> {
        let left = self.left(which, Look::Unasked)?;
        let mut pressed = Pressed { left: left.len(), refused: Vec::new(), unknown: Vec::new() };
        let mut workers = self.lock();
        for Left { key, found } in &left {
            // A worker without a process yet is signalled by the next step.
            let Some(entry) = workers.entries.get_mut(key).filter(|entry| entry.has_process()) else { continue };
            if found.is_unknown() {
                pressed.unknown.push((key.worker, found.unknown_text()));
            }
            // A worker that may not be signalled keeps no other from being signalled (invariant
            // I9).
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

    /// Keeps the processes found for a worker for the next look.
    fn note(&self, key: &Key, token: &Token, found: &Found) {
        let mut workers = self.lock();
        let Some(entry) = workers.entries.get_mut(key).filter(|entry| entry.marks.token == *token) else { return };
        entry.marks.known = found.members.iter().map(|member| member.id).collect();
        if found.is_unknown() && !std::mem::replace(&mut entry.is_unknown, true) {
            tracing::warn!(
                job = %key.job, run = key.run.get(), worker = key.worker.get(),
                "a worker's process has ended, but the worker may still be alive: {}", found.unknown_text()
            );
        }
    }

    /// Removes a worker without any process left, and reaps it. False if it is too early to say.
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
        // Before the name is free, so that there are never two records with one name.
        self.records.remove(token, entry.marks.group.as_ref());
        if let Some(Entry { body, end, .. }) = workers.entries.remove(key) {
            let status = match body {
                // The status may be unknown; that the worker has ended is known.
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
    /// Returns a receiver of its end, unless a worker with that name is there.
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
        // The whole group in one step, however fast it forks.
        let mut result = self.marks.group.as_ref().filter(|_| kill).map_or(Ok(()), Group::kill);
        let mut as_a_group = !first && matches!(self.body, Body::Child(_));
        if let Body::Child(child) = &self.body
            && (kill || first)
            && !has_ended(child)?
        {
            // It is our child, and reaped only under this lock, so the number is still its own. The
            // kernel signals the group in one step, so no fork escapes.
            result =
                result.and(signal_all(kill, |signal| gone_is_ok(kill_process_group(Pid::from_child(child), signal))));
            as_a_group = true;
        }
        for member in &found.members {
            // A group that was asked as a whole is not asked again individually: many programs take
            // a second SIGTERM for "at once".
            let asked_with_group = as_a_group && self.marks.leader.is_some_and(|leader| leader.pid == member.group);
            if kill || (!asked_with_group && self.told.insert(member.id)) {
                result = result.and(signal_all(kill, |signal| proc::signal(member.id, signal)));
            }
        }
        result
    }
}

/// SIGKILL, or SIGTERM; then SIGCONT, because a stopped process cannot receive a SIGTERM.
pub(super) fn signal_all(kill: bool, send: impl Fn(Signal) -> io::Result<()>) -> io::Result<()> {
    if kill {
        return send(Signal::KILL);
    }
    send(Signal::TERM)?;
    send(Signal::CONT)
}

/// Whether all threads of a child have ended. Does not reap it.
fn has_ended(child: &Child) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(Pid::from_child(child)), options) {
        // The host program reaps children itself (it ignores SIGCHLD, for example): then the child
        // has ended.
        Err(rustix::io::Errno::CHILD) => Ok(true),
        status => Ok(status?.is_some()),
    }
}
