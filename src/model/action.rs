//! The actions that a [`RunModel`] requests.

use std::sync::Arc;

use super::RunModel;
use crate::contracts::{Command, Epoch, TaskCommit, WorkerId};

/// An action to take for a run; [`RunModel::poll_action`] returns it once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send `command` to all of these workers at once. It replaces the order of an earlier `Send`,
    /// even if no worker is left to receive it.
    Send {
        /// A checkpoint, a stop or the release.
        command: Command,
        /// The workers that need it.
        workers: Vec<WorkerId>,
    },
    /// Send each worker its part of the commit, to all at once: the second phase of the two-phase
    /// commit.
    Commit {
        /// The workers, each with the data of its own tasks.
        orders: Vec<(WorkerId, Command)>,
    },
    /// Make the [`manifest`](RunModel::manifest) of this checkpoint durable, then call
    /// [`published`](RunModel::published).
    Publish(Epoch),
}

/// An action that waits to be polled, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    Broadcast(Command),
    Publish(Epoch),
    Commit(Epoch),
}

impl RunModel {
    /// The next pending action; `None` if there is none. Each is returned once.
    ///
    /// The cost is proportional to its number of entries.
    pub fn poll_action(&mut self) -> Option<Action> {
        Some(match self.queue.pop_front()? {
            Queued::Publish(epoch) => Action::Publish(epoch),
            Queued::Commit(epoch) => Action::Commit { orders: self.commit_orders(epoch) },
            Queued::Broadcast(command) => {
                let workers = (0..).zip(self.topology.workers());
                let workers =
                    workers.filter(|(at, _)| self.wants_of(*at, &command)).map(|(_, worker)| *worker).collect();
                Action::Send { command, workers }
            }
        })
    }

    /// Whether `worker` still needs `command`. An order that is no longer needed does not have to
    /// be answered or resent: the worker has left, is lost or has no task left to obey, or the
    /// checkpoint has advanced or was given up.
    pub fn wants(&self, worker: WorkerId, command: &Command) -> bool {
        self.workers.index_of(worker).is_some_and(|at| self.wants_of(at, command))
    }

    fn wants_of(&self, worker: u32, command: &Command) -> bool {
        if !self.workers.is_reachable(worker) {
            return false;
        }
        let busy = self.workers.is_busy(worker);
        match command {
            Command::Checkpoint { epoch, .. } => busy && self.is_collecting(*epoch),
            Command::Commit { epoch, .. } => busy && self.is_committing(*epoch),
            Command::Stop(mode) => busy && self.stop == Some(*mode),
            Command::Release => self.released,
        }
    }

    /// One order for each worker that has tasks with something to commit, with the data of its own
    /// tasks, and of the whole operator if it commits as a whole.
    fn commit_orders(&self, epoch: Epoch) -> Vec<(WorkerId, Command)> {
        let workers = self.topology.workers();
        let mut parts = vec![(Vec::new(), Vec::new()); workers.len()];
        for (worker, commit, as_whole) in self.tasks.commits(&self.topology) {
            let (own, wholes): &mut (Vec<TaskCommit>, Vec<u32>) = &mut parts[worker as usize];
            match (as_whole, wholes.last() == Some(&commit.task.operator)) {
                (false, _) => own.push(commit),
                (true, false) => wholes.push(commit.task.operator),
                (true, true) => {}
            }
        }
        let mut orders = Vec::new();
        // Most workers of such operators host the same ones, so data that is the same for two
        // consecutive workers is built once.
        let mut shared: Option<(Vec<u32>, Arc<[TaskCommit]>)> = None;
        for ((at, worker), (mut own, wholes)) in (0..).zip(workers).zip(parts) {
            let tasks = match &shared {
                Some((of, tasks)) if own.is_empty() && *of == wholes => Arc::clone(tasks),
                _ => {
                    let is_shared = own.is_empty();
                    own.extend(wholes.iter().flat_map(|operator| self.tasks.commits_of(*operator)));
                    let tasks = Arc::from(own);
                    shared = is_shared.then(|| (wholes, Arc::clone(&tasks)));
                    tasks
                }
            };
            let command = Command::Commit { epoch, tasks };
            let is_empty = matches!(&command, Command::Commit { tasks, .. } if tasks.is_empty());
            if !is_empty && self.wants_of(at, &command) {
                orders.push((*worker, command));
            }
        }
        orders
    }
}
