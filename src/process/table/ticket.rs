//! One call of `start`, from the moment it is made: it is entered before anything is done, and either ends as a worker that is entered, or is
//! undone.

use std::{process::Child, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Body, End, Entry, Found, Key, Table, Workers};
use crate::process::{
    cgroup::Group,
    proc,
    record::{Records, Token},
};

/// What has come of a call.
pub(in crate::process) enum Called {
    Entered(Ticket),
    /// A worker of that name is there, or was when it was last looked at.
    Taken,
    /// The run was stopped with force.
    Stopped,
}

/// An entered call. Dropped before there is a process, it is undone: the future was never polled to its end, the runtime went down, or the program
/// could not be started.
pub(in crate::process) struct Ticket {
    table: Arc<Table>,
    key: Key,
    token: Token,
    group: Option<Group>,
    end: watch::Receiver<Option<End>>,
    has_process: bool,
}

impl Ticket {
    pub(super) fn new(table: &Arc<Table>, key: Key, token: Token, end: watch::Receiver<Option<End>>) -> Self {
        Self { table: Arc::clone(table), key, token, group: None, end, has_process: false }
    }

    pub(in crate::process) fn records(&self) -> &Records {
        &self.table.records
    }

    pub(in crate::process) fn token(&self) -> &Token {
        &self.token
    }

    pub(in crate::process) fn end(&self) -> watch::Receiver<Option<End>> {
        self.end.clone()
    }

    /// The start is under way from here. False if it was stopped before.
    pub(in crate::process) fn begin(&mut self) -> bool {
        let mut workers = self.table.lock();
        let Some(entry) = self.entry(&mut workers) else { return false };
        entry.body = Body::Starting;
        true
    }

    /// It has this control group.
    pub(in crate::process) fn grouped(&mut self, group: Option<Group>) {
        self.group.clone_from(&group);
        if let Some(entry) = self.entry(&mut self.table.lock()) {
            entry.marks.group = group;
        }
    }

    /// It has a process now. False if the run was stopped with force meanwhile: then that is killed, and listed until it is gone.
    pub(in crate::process) fn started(mut self, child: Child, leader: proc::Identity, holds_all: bool) -> bool {
        self.has_process = true;
        let mut workers = self.table.lock();
        let is_stopped = workers.fences.refuses(&self.key.job, self.key.run);
        // Nothing removes an entry whose start is under way.
        let Some(entry) = self.entry(&mut workers) else { return !is_stopped };
        (entry.marks.leader, entry.marks.holds_all) = (Some(leader), holds_all);
        entry.body = Body::Child(child);
        if is_stopped && let Err(error) = entry.press(&Found::default(), true, Duration::ZERO) {
            // The stop tries again until it is gone.
            tracing::warn!(%error, worker = self.key.worker.get(), "can't kill a worker whose run was stopped during its start");
        }
        !is_stopped
    }

    fn entry<'a>(&self, workers: &'a mut Workers) -> Option<&'a mut Entry> {
        workers.entries.get_mut(&self.key).filter(|entry| entry.marks.token == self.token)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.has_process {
            return;
        }
        let mut workers = self.table.lock();
        self.table.records.remove(&self.token, self.group.as_ref());
        if self.entry(&mut workers).is_some() {
            workers.entries.remove(&self.key);
        }
    }
}
