//! The state of each worker: how many of its tasks are running, and the time of its last sign of
//! life.
//!
//! The watched workers form a doubly linked list by index, in the order of their last sign of life.
//! A sign of life moves a worker to the end, so the one that has been silent longest is always the
//! first. Both operations cost O(1).

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::contracts::{Topology, WorkerId};

/// The worker is in the list.
const WATCHED: u32 = 1;
/// The worker reported that it leaves.
const LEFT: u32 = 1 << 1;
/// The worker was silent for too long, and has not reported since.
const LOST: u32 = 1 << 2;

#[derive(Clone, Copy, Debug)]
struct Node {
    prev: u32,
    next: u32,
    /// Tasks that have not ended.
    running: u32,
    flags: u32,
    last_seen: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Workers {
    /// One for each worker, and the head of the list at the end.
    nodes: Box<[Node]>,
    index: HashMap<WorkerId, u32>,
    /// The latest time so far: an older clock reading must not break the order of the list.
    latest: Instant,
    /// Workers that have not left and have a task that has not ended.
    expected: u32,
    /// Workers that are lost.
    lost: u32,
}

impl Node {
    /// No order reaches the worker, and one of its tasks has not ended.
    fn is_lost(&self) -> bool {
        self.running > 0 && self.flags & (LEFT | LOST) != 0
    }
}

impl Workers {
    pub(super) fn new(topology: &Topology, now: Instant) -> Self {
        let ids = topology.workers();
        let head = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let node = Node { prev: head, next: head, running: 0, flags: 0, last_seen: now };
        let mut nodes = vec![node; ids.len() + 1];
        for task in topology.task_ids() {
            if let Some(worker) = topology.worker_index_of(task) {
                nodes[worker as usize].running += 1;
            }
        }
        let mut workers = Self {
            nodes: nodes.into(),
            index: (0..).zip(ids).map(|(at, id)| (*id, at)).collect(),
            latest: now,
            expected: head,
            lost: 0,
        };
        for worker in 0..head {
            workers.watch(worker);
        }
        workers
    }

    /// The index of a worker; `None` if the run has no such worker.
    pub(super) fn index_of(&self, worker: WorkerId) -> Option<u32> {
        self.index.get(&worker).copied()
    }

    /// Workers that are still expected to report.
    pub(super) fn expected(&self) -> u32 {
        self.expected
    }

    /// Workers that no order can reach although a task of theirs has not ended.
    pub(super) fn lost(&self) -> u32 {
        self.lost
    }

    /// The latest time so far.
    pub(super) fn latest(&self) -> Instant {
        self.latest
    }

    /// The worker's last sign of life.
    pub(super) fn last_seen(&self, worker: u32) -> Instant {
        self.node(worker).last_seen
    }

    pub(super) fn has_left(&self, worker: u32) -> bool {
        self.node(worker).flags & LEFT != 0
    }

    /// Whether an order can reach the worker: it has neither left nor been lost.
    pub(super) fn is_reachable(&self, worker: u32) -> bool {
        self.node(worker).flags & (LEFT | LOST) == 0
    }

    /// Whether the worker has a task that has not ended.
    pub(super) fn is_busy(&self, worker: u32) -> bool {
        self.node(worker).running > 0
    }

    /// A sign of life. A lost worker that reports is watched again, because orders may reach it
    /// after all.
    pub(super) fn seen(&mut self, worker: u32, now: Instant) {
        self.latest = self.latest.max(now);
        let flags = self.node(worker).flags;
        if flags & WATCHED != 0 {
            self.unwatch(worker);
            self.watch(worker);
        } else if flags & (LOST | LEFT) == LOST {
            self.change(worker, |node| node.flags &= !LOST);
            if self.is_busy(worker) {
                self.watch(worker);
            }
        }
    }

    /// One of the worker's tasks has ended. After the last one the worker's silence no longer
    /// matters.
    pub(super) fn task_ended(&mut self, worker: u32) {
        self.change(worker, |node| node.running = node.running.saturating_sub(1));
        if !self.is_busy(worker) {
            self.expected -= u32::from(!self.has_left(worker));
            self.unwatch(worker);
        }
    }

    /// The worker leaves; returns the number of its tasks that have not ended.
    pub(super) fn leave(&mut self, worker: u32) -> u32 {
        self.unwatch(worker);
        self.change(worker, |node| node.flags = LEFT);
        let running = self.node(worker).running;
        self.expected -= u32::from(running > 0);
        running
    }

    /// When the worker that has been silent longest becomes overdue.
    pub(super) fn next_deadline(&self, limit: Duration) -> Option<Instant> {
        let head = self.head();
        let first = self.node(head).next;
        (first != head).then(|| self.node(first).last_seen.checked_add(limit))?
    }

    /// Removes one worker that has been silent for `limit`, and returns it with the time of its
    /// silence.
    pub(super) fn take_overdue(&mut self, limit: Duration, now: Instant) -> Option<(u32, Duration)> {
        let head = self.head();
        let first = self.node(head).next;
        if first == head {
            return None;
        }
        let silent_for = now.saturating_duration_since(self.node(first).last_seen);
        if silent_for < limit {
            return None;
        }
        self.unwatch(first);
        self.change(first, |node| node.flags |= LOST);
        Some((first, silent_for))
    }

    /// Changes a worker and updates the number of lost workers.
    fn change(&mut self, worker: u32, change: impl FnOnce(&mut Node)) {
        let node = &mut self.nodes[worker as usize];
        let before = node.is_lost();
        change(node);
        self.lost = self.lost - u32::from(before) + u32::from(node.is_lost());
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn head(&self) -> u32 {
        // `new` created one more node than there are workers, and their number fits in 24 bits.
        u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
    }

    /// Puts the worker at the end of the list.
    fn watch(&mut self, worker: u32) {
        let head = self.head();
        let last = self.node(head).prev;
        let node = &mut self.nodes[worker as usize];
        node.prev = last;
        node.next = head;
        node.flags |= WATCHED;
        node.last_seen = self.latest;
        self.nodes[last as usize].next = worker;
        self.nodes[head as usize].prev = worker;
    }

    fn unwatch(&mut self, worker: u32) {
        let Node { prev, next, flags, .. } = *self.node(worker);
        if flags & WATCHED == 0 {
            return;
        }
        self.nodes[prev as usize].next = next;
        self.nodes[next as usize].prev = prev;
        self.nodes[worker as usize].flags &= !WATCHED;
    }
}
