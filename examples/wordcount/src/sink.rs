//! The sink: a two-phase commit of the counts.

use std::{path::PathBuf, time::Instant};

use tokio::sync::mpsc;
use winddown::{Barrier, Epoch, TaskContext, TaskOrder, contracts::TaskError};

use crate::{
    claim::Claim,
    output::{Output, OutputError, Transaction},
    source::until_stopped,
    tasks::{Deltas, blocking},
    words::Counts,
};

/// Writes one worker's output.
pub(crate) struct Sink {
    pub(crate) folder: PathBuf,
    /// The checkpoint that the run starts from.
    pub(crate) from: Option<Epoch>,
    pub(crate) input: mpsc::Receiver<Deltas>,
}

impl Sink {
    /// Commits what the restored checkpoint names, then one transaction after the other.
    pub(crate) async fn run(self, mut ctx: TaskContext) -> Result<(), TaskError> {
        let Self { folder, from, mut input } = self;
        let restored = ctx.restored().and_then(|restored| restored.commit.as_deref());
        let restored = restored.map_or_else(|| Ok(Vec::new()), Transaction::decode).map_err(failure)?;
        // Held to the end of this task.
        let _claim = blocking(|| Claim::take(&folder, ctx.run())).map_err(failure)?;
        let output = blocking(|| Output::open(folder, from, &restored)).map_err(failure)?;
        let mut open = Open { output, uncommitted: Vec::new() };
        // The final checkpoint, when its barrier has come.
        let mut last = None;
        loop {
            tokio::select! {
                biased;
                order = ctx.order() => match order {
                    TaskOrder::Commit { epoch, data } => {
                        let start = Instant::now();
                        blocking(|| open.commit(epoch, &data)).map_err(failure)?;
                        tracing::debug!(%epoch, took_us = micros(start), "counts committed");
                        ctx.events().committed(epoch).await?;
                        if last == Some(epoch) {
                            return Ok(());
                        }
                    }
                    TaskOrder::Stop(_) => return Ok(()),
                    TaskOrder::Checkpoint(_) => {} // barriers come with the counts
                },
                deltas = input.recv(), if last.is_none() => match deltas {
                    Some(Deltas::Barrier(counts, barrier)) => {
                        let transaction = Transaction { epoch: barrier.epoch, run: ctx.run() };
                        let start = Instant::now();
                        let commit = blocking(|| open.pre_commit(transaction, &counts)).map_err(failure)?;
                        tracing::debug!(epoch = %barrier.epoch, took_us = micros(start), "counts written");
                        let ends = barrier.then_stop && commit.is_none();
                        ctx.events().checkpointed(barrier.epoch, bytes::Bytes::new(), commit).await?;
                        if ends {
                            return Ok(());
                        }
                        let Barrier { epoch, then_stop } = barrier;
                        last = then_stop.then_some(epoch);
                    }
                    Some(Deltas::End) => return Ok(()),
                    None => return until_stopped(&mut ctx).await,
                },
            }
        }
    }
}

/// An output and what has been written to it, but not been committed.
struct Open {
    output: Output,
    /// A checkpoint that was given up leaves its transaction here; the next one that completes commits both, since
    /// the counts of the one are not in the other.
    uncommitted: Vec<Transaction>,
}

impl Open {
    /// Writes a transaction. Gives the commit data of its checkpoint, if there is anything to commit.
    fn pre_commit(&mut self, transaction: Transaction, counts: &Counts) -> Result<Option<bytes::Bytes>, OutputError> {
        if !counts.is_empty() {
            self.output.pre_commit(transaction, counts)?;
            self.uncommitted.push(transaction);
        }
        if self.uncommitted.is_empty() {
            return Ok(None);
        }
        Transaction::encode(&self.uncommitted).map(|data| Some(data.into()))
    }

    fn commit(&mut self, epoch: Epoch, data: &[u8]) -> Result<(), OutputError> {
        self.output.commit(&Transaction::decode(data)?)?;
        self.uncommitted.retain(|transaction| transaction.epoch > epoch);
        self.output.fold_if_many()
    }
}

/// So long ago, for whoever wants to know how much of a shutdown is the disk's.
fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Only the disk may do better next time; and a worker of an older run leaves, sooner or later.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failure(error: OutputError) -> TaskError {
    match error {
        OutputError::Io { .. } | OutputError::Held { .. } => TaskError::retryable(error.to_string()),
        _ => TaskError::fatal(error.to_string()),
    }
}
