//! The sink: a two-phase commit of the counts.

use std::{path::PathBuf, time::Instant};

use tokio::sync::mpsc;
use winddown::{Barrier, Epoch, TaskContext, TaskOrder, contracts::TaskError};

use crate::{
    claim::Claim,
    output::{Output, OutputError, Part},
    source::until_stopped,
    tasks::{Deltas, blocking},
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
        let restored = Part::restored(from, ctx.restored().map(|sink| &*sink.snapshot)).map_err(failure)?;
        // Held to the end of this task.
        let _claim = blocking(|| Claim::take(&folder, ctx.run())).map_err(failure)?;
        let mut output = blocking(|| Output::open(&folder, ctx.run(), from, &restored)).map_err(failure)?;
        // The final checkpoint, when its barrier has come.
        let mut last = None;
        loop {
            tokio::select! {
                biased;
                order = ctx.order() => match order {
                    TaskOrder::Commit { epoch, data } => {
                        let start = Instant::now();
                        let parts = Part::decode(&data).map_err(failure)?;
                        blocking(|| output.commit(epoch, &parts)).map_err(failure)?;
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
                        let start = Instant::now();
                        blocking(|| output.pre_commit(barrier.epoch, &counts)).map_err(failure)?;
                        tracing::debug!(epoch = %barrier.epoch, took_us = micros(start), "counts written");
                        let snapshot = Part::encode(&output.parts()).map_err(failure)?;
                        let commit = Some(output.pending()).filter(|pending| !pending.is_empty()).map(Part::encode);
                        let commit = commit.transpose().map_err(failure)?;
                        let ends = barrier.then_stop && commit.is_none();
                        ctx.events().checkpointed(barrier.epoch, snapshot, commit).await?;
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

/// The time since `start`: the log shows how much of a shutdown the disk takes.
fn micros(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A retry can only help after an I/O error, or when a worker of an older run still holds the
/// folder.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failure(error: OutputError) -> TaskError {
    match error {
        OutputError::Io { .. } | OutputError::Held { .. } => TaskError::retryable(error.to_string()),
        _ => TaskError::fatal(error.to_string()),
    }
}
