//! A worker that runs.

use std::{collections::HashMap, fmt, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use tokio::{runtime::Handle, sync::mpsc, task::AbortHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    EventSink, TaskContext, TaskControl, TaskEvents, WorkerOptions, WorkerSpec,
    cell::TaskCell,
    lock,
    outbox::{Book, Outbox, Pump, Queued},
    shared::Shared,
};
#[cfg(feature = "grpc")]
use crate::contracts::TaskId;
use crate::contracts::{BoxFuture, Event, Order, OrderError, TaskError};

/// A running worker: its tasks, the orders to them and the events from them. A cheap handle to clone; dropping the last one
/// aborts the tasks.
///
/// It knows nothing of how orders arrive and where events go: a host puts it behind its own transport.
#[derive(Clone)]
pub struct Worker {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    pump: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pump.abort();
        self.shared.kill();
    }
}

impl Worker {
    /// Starts a worker on `runtime` (which needs its timer enabled): calls `factory` once for each task, in the order of
    /// `spec`, and runs what it returns. Events go to `sink`.
    ///
    /// `runtime` is asked for, and not taken from the surroundings, so that a missing one is a compile error and no panic:
    /// `Handle::current()` is the one that an async caller runs on.
    pub fn start<S, F, Fut>(spec: WorkerSpec, options: WorkerOptions, runtime: &Handle, sink: S, factory: F) -> Self
    where
        S: EventSink,
        F: FnMut(TaskContext) -> Fut,
        Fut: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        Prepared::new(spec, options, runtime, factory).start(sink)
    }

    /// Takes an order in; never waits for a task. What comes of the order is told by events.
    ///
    /// An order is idempotent. A repeated one has no second effect on a task; instead what the worker has said so far is said
    /// again, since the first answer may have been lost. An order for a checkpoint before the newest one changes nothing.
    ///
    /// # Errors
    /// - [`Rejected`](crate::contracts::OrderErrorKind::Rejected): it is of another run, names a task of another worker, or asks for a
    ///   checkpoint that can't be: one after an immediate stop, or an epoch that was started with another `then_stop`.
    /// - [`Refused`](crate::contracts::OrderErrorKind::Refused): the task has not read the commits before this one.
    /// - [`NotRunning`](crate::contracts::OrderErrorKind::NotRunning): a stop, and every task has ended already; or a commit, and its
    ///   task has ended without it. The end events are said again.
    /// - [`Unreachable`](crate::contracts::OrderErrorKind::Unreachable): the worker was killed.
    pub fn handle(&self, order: Order) -> Result<(), OrderError> {
        self.inner.shared.handle(order)
    }

    /// Has the worker leave by itself: tasks that still run are told to stop at once, and are aborted after the grace period; then
    /// `WorkerFinished` is said.
    ///
    /// This is not [`Command::Release`](crate::contracts::Command::Release), by which a controller says that the run is over: a task that stops because of it
    /// has stopped in the middle of its work, and is reported as failed (retryable), so that no checkpoint takes it for finished.
    pub fn release(&self) {
        self.inner.shared.leave_by_itself();
    }

    /// Aborts every task, and says nothing any more: what a crash looks like from outside.
    ///
    /// Tasks end when they next yield. A task that never yields can't be ended: [`is_alive`](Self::is_alive) tells.
    pub fn kill(&self) {
        self.inner.pump.abort();
        self.inner.shared.kill();
    }

    /// Ends a task with this error, unless it has ended: what it has said will never be taken.
    #[cfg(feature = "grpc")]
    pub(crate) fn fail(&self, task: TaskId, error: TaskError) {
        self.inner.shared.fail(task, error);
    }

    /// Whether the worker may still run code: it has neither left nor been killed, or some task's future is not dropped yet.
    pub fn is_alive(&self) -> bool {
        !(self.inner.shared.gone.is_cancelled() && self.inner.shared.tracker.is_empty())
    }

    /// Waits for the [end](Self::ended), and says whether it was killed and so could not say so. It keeps no task alive.
    #[cfg(feature = "embedded")]
    pub(crate) fn killed(&self) -> impl Future<Output = bool> + Send + 'static {
        let shared = Arc::clone(&self.inner.shared);
        async move {
            shared.gone.cancelled().await;
            shared.tracker.wait().await;
            lock(&shared.life).killed
        }
    }

    #[cfg(feature = "embedded")]
    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.shared.runtime
    }

    /// Waits until the worker is not [alive](Self::is_alive) any more.
    ///
    /// # Cancel safety
    /// Cancel safe: it only watches.
    pub async fn ended(&self) {
        self.inner.shared.gone.cancelled().await;
        self.inner.shared.tracker.wait().await;
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("run", &self.inner.shared.run)
            .field("worker", &self.inner.shared.worker)
            .field("tasks", &self.inner.shared.cells.len())
            .field("alive", &self.is_alive())
            .finish_non_exhaustive()
    }
}

/// A worker whose tasks have been made and do not run yet: the user's factory has been called, and no more of the user's
/// code is met until it is started.
pub(crate) struct Prepared {
    shared: Shared,
    options: WorkerOptions,
    futures: Vec<BoxFuture<'static, Result<(), TaskError>>>,
    queue: mpsc::UnboundedReceiver<Queued>,
}

impl Prepared {
    pub(crate) fn new<F, Fut>(spec: WorkerSpec, options: WorkerOptions, runtime: &Handle, mut factory: F) -> Self
    where
        F: FnMut(TaskContext) -> Fut,
        Fut: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let WorkerSpec { run, worker, tasks } = spec;
        let (outbox, queue) = Outbox::new();
        let outbox = Arc::new(outbox);
        let mut cells = Vec::with_capacity(tasks.len());
        let mut index = HashMap::with_capacity(tasks.len());
        let mut futures: Vec<BoxFuture<'static, _>> = Vec::with_capacity(tasks.len());
        for (position, spec) in tasks.into_iter().enumerate() {
            let cell = Arc::new(TaskCell::new(spec.task, spec.role));
            index.insert(spec.task, position);
            cells.push(Arc::clone(&cell));
            let events = TaskEvents { cell: Arc::clone(&cell), index: position, outbox: Arc::clone(&outbox) };
            let control = TaskControl { cell };
            futures.push(Box::pin(factory(TaskContext { run, worker, restored: spec.restored, control, events })));
        }
        let shared = Shared {
            run,
            worker,
            grace: options.grace,
            cells,
            index,
            outbox,
            tracker: TaskTracker::new(),
            gone: CancellationToken::new(),
            runtime: runtime.clone(),
            life: std::sync::Mutex::default(),
        };
        Self { shared, options, futures, queue }
    }

    pub(crate) fn start<S: EventSink>(self, sink: S) -> Worker {
        let Self { shared, options, futures, queue } = self;
        let (outbox, book) = (Arc::clone(&shared.outbox), Book::new(futures.len()));
        let pump = Pump { sink, run: shared.run, worker: shared.worker, outbox, queue, book };
        let pump = shared.runtime.spawn(pump.run(options.heartbeat)).abort_handle();
        let spawn = |(index, (future, cell)): (usize, (_, &Arc<TaskCell>))| {
            let task = run_task(future, Arc::clone(cell), index, Arc::clone(&shared.outbox));
            shared.tracker.spawn_on(task, &shared.runtime).abort_handle()
        };
        let tasks = futures.into_iter().zip(&shared.cells).enumerate().map(spawn).collect();
        lock(&shared.life).tasks = tasks;
        // A closed tracker takes nothing back: it only lets `wait` see the end.
        shared.tracker.close();
        Worker { inner: Arc::new(Inner { shared: Arc::new(shared), pump }) }
    }
}

/// Runs one task to its end, and reports how it ended.
async fn run_task(
    mut future: BoxFuture<'static, Result<(), TaskError>>,
    cell: Arc<TaskCell>,
    index: usize,
    outbox: Arc<Outbox>,
) {
    let task = cell.task;
    let result = AssertUnwindSafe(future.as_mut()).catch_unwind().await;
    // What the task holds is given back before its end is reported; a panic in that is a failure of the task as well.
    let dropped = std::panic::catch_unwind(AssertUnwindSafe(|| drop(future)));
    let event = match result.and_then(|result| dropped.map(|()| result)) {
        Ok(Ok(())) => Event::TaskFinished { task },
        Ok(Err(error)) => Event::TaskFailed { task, error },
        // Whether a panic comes back in another run can't be known; who restarts jobs bounds it.
        Err(panic) => {
            let error = TaskError::retryable(format!("panicked: {}", panic_text(&*panic)));
            Event::TaskFailed { task, error }
        }
    };
    cell.end(|cut_short| {
        let event = match event {
            Event::TaskFinished { task } if cut_short => {
                let error = TaskError::retryable(
                    "stopped in the middle of its work: its worker leaves, and the run is not over",
                );
                Event::TaskFailed { task, error }
            }
            event => event,
        };
        outbox.put(Some(index), event, None);
    });
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&'static str>().copied();
    literal.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(the panic carries no text)")
}
