//! What a [`RunModel`] wants done.

use std::sync::Arc;

use super::RunModel;
use crate::contracts::{Command, Epoch, TaskCommit, WorkerId};

/// Something that is to be done for a run; [`RunModel::poll_action`] gives it once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send `command` to each of these workers, to all at once. It replaces what an earlier `Send` ordered, also where
    /// no worker is left to send it to.
    Send {
        /// A checkpoint, a stop or the release.
        command: Command,
        /// The workers that it is of use to.
        workers: Vec<WorkerId>,
    },
    /// Send each worker its part of the commit, to all at once: the second phase of the two-phase commit.
    Commit {
        /// The workers, each with the data of its own tasks.
        orders: Vec<(WorkerId, Command)>,
    },
    /// Make the [`manifest`](RunModel::manifest) of this checkpoint durable, then call
    /// [`published`](RunModel::published).
    Publish(Epoch),
}

/// An action that waits to be polled: without the data that it is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Queued {
    Broadcast(Command),
    Publish(Epoch),
    Commit(Epoch),
}

impl RunModel {
    /// The next thing that is to be done; `None` when there is nothing. Each is given once.
    ///
    /// Building it costs as much as it has entries.
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

    /// Whether `command` is still of use at `worker`. An order that is not wanted any more need not be answered or sent
    /// again: the worker has left, is lost or has no task left to obey, or the checkpoint has gone on or was given up.
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

    /// One order for each worker that has tasks with something to commit, with the data of its own tasks only.
    fn commit_orders(&self, epoch: Epoch) -> Vec<(WorkerId, Command)> {
        let workers = self.topology.workers();
        let mut tasks_of = vec![Vec::new(); workers.len()];
        for (worker, task, data) in self.tasks.commits(&self.topology) {
            tasks_of[worker as usize].push(TaskCommit { task, data: data.clone() });
        }
        (0..)
            .zip(workers.iter().zip(tasks_of))
            .filter(|(_, (_, tasks))| !tasks.is_empty())
            .map(|(at, (worker, tasks))| (at, *worker, Command::Commit { epoch, tasks: Arc::from(tasks) }))
            .filter(|(at, _, command)| self.wants_of(*at, command))
            .map(|(_, worker, command)| (worker, command))
            .collect()
    }
}
