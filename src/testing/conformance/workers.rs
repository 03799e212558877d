//! The workers of a controller's check: they follow the check's script, and record their orders.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::sleep};

use crate::{
    contracts::{
        Command, Epoch, Event, Order, OrderError, OrderErrorKind, RunId, TaskId, Topology, Transport, WorkerEvent,
        WorkerId, WorkerStopMode,
    },
    mailbox::JobSender,
};

/// How long a slow worker takes to answer.
pub(super) const SLOW: Duration = Duration::from_millis(200);

/// The workers of one run: a [`Transport`] that any controller can use for its orders.
///
/// They can also wrap real workers ([`around`](Self::around)) whose tasks follow the check's script
/// (`task`, with the worker kit). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workers {
    run: RunId,
    topology: Arc<Topology>,
    events: JobSender,
    book: Arc<Mutex<Book>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    /// Orders whose sending has started.
    pub(super) begun: Vec<(WorkerId, Command)>,
    /// Orders that have arrived.
    pub(super) taken: Vec<(WorkerId, Command)>,
    /// Orders whose sending was `Ok`: they need not be resent.
    answered: Vec<(WorkerId, Command)>,
    /// Orders that were sent although the same order had been answered.
    pub(super) repeated: Vec<(WorkerId, Command)>,
    /// What has been committed.
    pub(super) commits: BTreeMap<(Epoch, TaskId), Bytes>,
    /// The number of reported snapshots.
    pub(super) given: usize,
    pub(super) silent: BTreeSet<WorkerId>,
    pub(super) refusing: BTreeSet<WorkerId>,
    pub(super) slow: bool,
    pub(super) keep_snapshot: BTreeSet<TaskId>,
    pub(super) keep_commit: BTreeSet<TaskId>,
    /// Tasks ignore a graceful stop.
    pub(super) keep_running: bool,
    tasks: BTreeMap<TaskId, Task>,
}

/// A task of a worker that is not real.
#[derive(Clone, Debug, Default)]
struct Task {
    is_finished: bool,
    snapshot_due: Option<(Epoch, bool)>,
    commit_due: Option<(Epoch, Bytes)>,
    /// The newest checkpoint that it is in, and whether that was the final one.
    given: Option<(Epoch, bool)>,
    /// The newest checkpoint that it has committed.
    committed: Option<Epoch>,
}

impl Task {
    fn obey(&mut self, id: TaskId, command: &Command, keep_running: bool, said: &mut Vec<Event>) {
        match command {
            Command::Checkpoint { epoch, .. } if self.given.is_some_and(|(given, _)| given == *epoch) => {
                self.say_snapshot(id, *epoch, said);
            }
            Command::Checkpoint { epoch, then_stop } if !self.is_finished => {
                self.snapshot_due = Some((*epoch, *then_stop));
            }
            Command::Commit { epoch, .. } if self.committed == Some(*epoch) => self.say_commit(id, *epoch, said),
            Command::Commit { epoch, tasks } => {
                let data = tasks.iter().find(|commit| commit.task == id).map(|commit| commit.data.clone());
                self.commit_due = data.map(|data| (*epoch, data)).or(self.commit_due.take());
            }
            Command::Stop(mode) => {
                self.is_finished |= *mode == WorkerStopMode::Immediate || !keep_running;
                said.extend(self.is_finished.then_some(Event::TaskFinished { task: id }));
            }
            Command::Checkpoint { .. } | Command::Release => {}
        }
    }

    fn say_snapshot(&self, task: TaskId, epoch: Epoch, said: &mut Vec<Event>) {
        let (snapshot, commit) = (state_of(task, epoch), rows_of(task, epoch));
        said.push(Event::CheckpointCompleted { task, epoch, snapshot, commit });
        said.extend(self.is_finished.then_some(Event::TaskFinished { task }));
    }

    fn say_commit(&self, task: TaskId, epoch: Epoch, said: &mut Vec<Event>) {
        said.push(Event::CommitCompleted { task, epoch });
        said.extend(self.is_finished.then_some(Event::TaskFinished { task }));
    }
}

/// What a task of a check gives to a checkpoint.
pub(super) fn state_of(task: TaskId, epoch: Epoch) -> Bytes {
    format!("state of task {task} at epoch {epoch}").into()
}

/// What it commits: every second task has something.
pub(super) fn rows_of(task: TaskId, epoch: Epoch) -> Option<Bytes> {
    (task.subtask % 2 == 1).then(|| format!("rows of task {task} at epoch {epoch}").into())
}

impl Workers {
    pub(super) fn new(run: RunId, topology: Arc<Topology>, events: JobSender) -> Self {
        let tasks = topology.task_ids().map(|task| (task, Task::default())).collect();
        let book = Book { tasks, ..Book::default() };
        Self { run, topology, events, book: Arc::new(Mutex::new(book)), changed: watch::Sender::new(()) }
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tasks give what they have kept back, and keep nothing back any more.
    pub(super) fn let_go(&self) {
        {
            let mut book = self.book();
            (book.keep_snapshot, book.keep_commit, book.keep_running) = Default::default();
        }
        self.give();
    }

    /// Tasks give what is due and no longer kept back.
    pub(super) fn give(&self) {
        self.changed.send_replace(());
        self.pump();
    }

    /// From now on this worker answers nothing, though it is alive.
    pub fn freeze(&self, worker: WorkerId) {
        self.book().silent.insert(worker);
    }

    /// Wraps real workers: the check sees and disturbs each order before `transport` delivers it.
    ///
    /// The tasks of the real workers must follow the check's script: use `Workers::task` (feature
    /// `worker`) as their code, or do the same. Events go to
    /// [`RunSetup::events`](super::RunSetup::events).
    pub fn around<T: Transport>(&self, transport: T) -> Around<T> {
        Around { workers: self.clone(), transport }
    }

    /// Notes an order; holds it back or refuses it if the check says so.
    async fn admit(&self, worker: WorkerId, order: &Order) -> Result<(), OrderError> {
        if order.run != self.run || !self.topology.workers().contains(&worker) {
            let message = format!(
                "expected an order to a worker of run {}, got one of run {} to worker {worker}",
                self.run, order.run
            );
            return Err(OrderError::new(OrderErrorKind::Rejected, message));
        }
        let (is_silent, is_refusing, is_slow) = {
            let mut book = self.book();
            let order = (worker, order.command.clone());
            if book.answered.contains(&order) {
                book.repeated.push(order.clone());
            }
            book.begun.push(order);
            (book.silent.contains(&worker), book.refusing.contains(&worker), book.slow)
        };
        if is_silent {
            pending::<()>().await;
        }
        if is_refusing {
            return Err(OrderError::new(OrderErrorKind::Refused, "the check says so"));
        }
        if is_slow {
            sleep(SLOW).await;
        }
        self.book().taken.push((worker, order.command.clone()));
        Ok(())
    }

    /// What a worker does that has nothing behind it. A repeated order has no second effect, and is
    /// answered again.
    fn obey(&self, worker: WorkerId, command: &Command) {
        let said = {
            let mut book = self.book();
            let keep_running = book.keep_running;
            let mut said = Vec::new();
            for (id, task) in &mut book.tasks {
                if self.topology.worker_of(*id) == Some(worker) {
                    task.obey(*id, command, keep_running, &mut said);
                }
            }
            said
        };
        for event in said {
            self.say(worker, event);
        }
        if let Command::Release = command {
            self.say(worker, Event::WorkerFinished);
        }
        self.pump();
    }

    /// Gives everything that is due and not kept back.
    fn pump(&self) {
        let ids: Vec<_> = self.topology.task_ids().collect();
        for id in ids {
            let Some(worker) = self.topology.worker_of(id) else { continue };
            for event in self.due(id) {
                self.say(worker, event);
            }
        }
    }

    fn due(&self, id: TaskId) -> Vec<Event> {
        let mut book = self.book();
        let (keeps_snapshot, keeps_commit) = (book.keep_snapshot.contains(&id), book.keep_commit.contains(&id));
        let Some(task) = book.tasks.get_mut(&id) else { return vec![] };
        let mut said = Vec::new();
        if let Some((epoch, then_stop)) = task.snapshot_due.take_if(|_| !keeps_snapshot) {
            task.given = Some((epoch, then_stop));
            task.is_finished = then_stop && rows_of(id, epoch).is_none();
            task.say_snapshot(id, epoch, &mut said);
            book.given += 1;
        } else if let Some((epoch, data)) = task.commit_due.take_if(|_| !keeps_commit) {
            task.is_finished |= task.given == Some((epoch, true));
            task.committed = Some(epoch);
            task.say_commit(id, epoch, &mut said);
            book.commits.insert((epoch, id), data);
        }
        said
    }

    fn say(&self, worker: WorkerId, event: Event) {
        // The mailbox has room for more than a check's few events; a check that is over reads it no
        // more.
        let _ = self.events.try_event(WorkerEvent::new(self.run, worker, event));
    }
}

impl Transport for Workers {
    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        self.admit(worker, &order).await?;
        self.obey(worker, &order.command);
        self.book().answered.push((worker, order.command));
        Ok(())
    }
}

/// Real workers behind those of a check: see [`Workers::around`].
#[derive(Clone, Debug)]
pub struct Around<T> {
    workers: Workers,
    transport: T,
}

impl<T: Transport> Transport for Around<T> {
    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        self.workers.admit(worker, &order).await?;
        self.transport.send(worker, order.clone()).await?;
        self.workers.book().answered.push((worker, order.command));
        Ok(())
    }
}

#[cfg(feature = "worker")]
mod kit {
    use super::{Workers, rows_of, state_of};
    use crate::{
        contracts::{Epoch, TaskError, TaskId, WorkerStopMode},
        worker::{Barrier, TaskContext, TaskOrder},
    };

    impl Workers {
        /// The code of a task that follows the check's script, for the worker kit.
        ///
        /// # Errors
        /// If events are no longer accepted.
        ///
        /// # Cancel safety
        /// A task that is dropped is gone.
        pub async fn task(self, mut ctx: TaskContext) -> Result<(), TaskError> {
            let (task, mut changed) = (ctx.task(), self.changed.subscribe());
            let (mut snapshot_due, mut commit_due, mut last) = (None, None, None);
            loop {
                if let Some(barrier) = snapshot_due.take_if(|_| !self.book().keep_snapshot.contains(&task)) {
                    let Barrier { epoch, then_stop } = barrier;
                    let commit = rows_of(task, epoch);
                    let is_last = then_stop && commit.is_none();
                    ctx.events().checkpointed(epoch, state_of(task, epoch), commit).await?;
                    self.book().given += 1;
                    if is_last {
                        return Ok(());
                    }
                    last = then_stop.then_some(epoch);
                }
                if let Some(epoch) = commit_due.take_if(|_| !self.book().keep_commit.contains(&task)) {
                    ctx.events().committed(epoch).await?;
                    if last == Some(epoch) {
                        return Ok(());
                    }
                }
                tokio::select! {
                    order = ctx.order() => match order {
                        TaskOrder::Checkpoint(barrier) => snapshot_due = Some(barrier),
                        TaskOrder::Commit { epoch, data } => {
                            self.committed(epoch, task, data);
                            commit_due = Some(epoch);
                        }
                        TaskOrder::Stop(WorkerStopMode::Graceful) if self.book().keep_running => {}
                        TaskOrder::Stop(_) => return Ok(()),
                    },
                    // The sender is in `self`, so it never closes.
                    _ = changed.changed() => {}
                }
            }
        }

        fn committed(&self, epoch: Epoch, task: TaskId, data: bytes::Bytes) {
            self.book().commits.insert((epoch, task), data);
        }
    }
}
