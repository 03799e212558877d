//! The worker kit: tasks as async code that answers checkpoint, commit and stop orders correctly.
//!
//! A task is an `async fn(TaskContext) -> Result<(), TaskError>`. A host (the [embedded
//! cluster](crate::embedded), a process, a pod) makes a [`Worker`] of its tasks, passes orders to
//! it, and receives its events through an [`EventSink`]. The same task runs in all of them.
//!
//! # Who gets which order
//! | order | reaches |
//! |---|---|
//! | [`TaskOrder::Checkpoint`] | sources: they emit a [`Barrier`], which travels with the data to all others |
//! | [`TaskOrder::Commit`] | the tasks that gave `commit` data in that checkpoint |
//! | [`TaskOrder::Stop`] graceful | sources: they end, and the others see the end of their input |
//! | [`TaskOrder::Stop`] immediate | every task |
//!
//! # The smallest exactly-once task
//! This task is source and sink in one: it counts up, and publishes what it has counted. What it
//! counted since the last checkpoint is `commit` data. It is published only once the checkpoint is
//! durable, and publishing it twice has the same effect as once.
//!
//! ```
//! use std::{collections::BTreeMap, sync::{Arc, Mutex}};
//! use tokio::{runtime::Handle, sync::mpsc};
//! use winddown::prelude::*;
//! use winddown::contracts::{Command, Event, Order, TaskCommit, TaskError, WorkerEvent};
//! use winddown::worker::{EventSink, SinkClosed, TaskSpec, Worker, WorkerOptions, WorkerSpec};
//!
//! /// What the world sees: per checkpoint, up to which number has been counted.
//! type Published = Arc<Mutex<BTreeMap<u64, u64>>>;
//!
//! fn number(bytes: &[u8]) -> u64 {
//!     bytes.try_into().map(u64::from_be_bytes).unwrap_or(0)
//! }
//!
//! async fn count(mut ctx: TaskContext, published: Published) -> Result<(), TaskError> {
//!     let commit = |data: &[u8]| {
//!         let (epoch, count) = data.split_at(8);
//!         published.lock().unwrap().insert(number(epoch), number(count)); // idempotent
//!     };
//!     let mut count = 0;
//!     if let Some(restored) = ctx.restored() {
//!         count = number(&restored.snapshot);
//!         restored.commit.iter().for_each(|data| commit(data)); // perhaps for the second time
//!     }
//!     let mut last = None; // the final checkpoint
//!     loop {
//!         tokio::select! {
//!             order = ctx.order() => match order {
//!                 TaskOrder::Checkpoint(barrier) => {
//!                     let state = u64::to_be_bytes(count);
//!                     let data = [barrier.epoch.get().to_be_bytes(), state].concat();
//!                     ctx.events().checkpointed(barrier.epoch, state.to_vec().into(), Some(data.into())).await?;
//!                     last = barrier.then_stop.then_some(barrier.epoch).or(last);
//!                 }
//!                 TaskOrder::Commit { epoch, data } => {
//!                     commit(&data);
//!                     ctx.events().committed(epoch).await?;
//!                     if last == Some(epoch) {
//!                         return Ok(());
//!                     }
//!                 }
//!                 TaskOrder::Stop(_) => return Ok(()),
//!             },
//!             () = tokio::task::yield_now(), if last.is_none() => count += 1, // nothing is counted after the last barrier
//!         }
//!     }
//! }
//!
//! /// Where the events go: here into a channel, in a job into its mailbox.
//! struct Events(mpsc::Sender<WorkerEvent>);
//!
//! impl EventSink for Events {
//!     async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
//!         self.0.send(event).await.map_err(|_| SinkClosed)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (run, task, epoch) = (RunId::new(1), TaskId::new(0, 0), Epoch::new(1));
//! let (sink, mut events) = mpsc::channel(8);
//! let published = Published::default();
//! let spec = WorkerSpec { run, worker: WorkerId::new(1), tasks: vec![TaskSpec::new(task, Role::Source)] };
//! let options = WorkerOptions { heartbeat: None, ..WorkerOptions::default() };
//! let worker = Worker::start(spec, options, &Handle::current(), Events(sink), |ctx| count(ctx, Arc::clone(&published)));
//!
//! // The part of the controller: a final checkpoint, and when its manifest is durable, the commit.
//! worker.handle(Order { run, command: Command::Checkpoint { epoch, then_stop: true } })?;
//! let Some(WorkerEvent { event: Event::CheckpointCompleted { commit: Some(data), .. }, .. }) = events.recv().await else {
//!     panic!("the task gives its state");
//! };
//! assert!(published.lock().unwrap().is_empty(), "nothing is seen before the checkpoint is durable");
//! worker.handle(Order { run, command: Command::Commit { epoch, tasks: [TaskCommit { task, data }].into() } })?;
//!
//! assert_eq!(events.recv().await.unwrap().event, Event::CommitCompleted { task, epoch });
//! assert_eq!(events.recv().await.unwrap().event, Event::TaskFinished { task });
//! assert_eq!(published.lock().unwrap().len(), 1);
//! # Ok(())
//! # }
//! ```

use std::sync::{Mutex, MutexGuard, PoisonError};

mod cell;
mod outbox;
mod running;
mod shared;
mod sink;
mod spec;
mod task;
#[cfg(test)]
pub(crate) mod test_support;
#[cfg(test)]
mod tests;

#[cfg(feature = "embedded")]
pub(crate) use running::Prepared;
pub use running::Worker;
pub use sink::{EventSink, SinkClosed};
pub use spec::{TaskSpec, WorkerOptions, WorkerSpec};
pub use task::{Barrier, TaskContext, TaskControl, TaskEvents, TaskOrder};

/// Locks a mutex whose critical sections call no user code, and therefore leave no half-done change
/// behind.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
