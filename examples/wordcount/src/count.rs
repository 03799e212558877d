//! The counting task.

use std::mem;

use tokio::sync::mpsc;
use winddown::{TaskContext, TaskOrder, contracts::TaskError};

use crate::{
    source::until_stopped,
    tasks::{Deltas, Text},
    words::Counts,
};

/// Counts words between barriers.
pub(crate) struct Count {
    pub(crate) input: mpsc::Receiver<Text>,
    pub(crate) link: mpsc::Sender<Deltas>,
}

impl Count {
    /// Counts until the final barrier, the end of the stream or a stop.
    pub(crate) async fn run(mut self, mut ctx: TaskContext) -> Result<(), TaskError> {
        let mut counts = Counts::default();
        loop {
            let text = tokio::select! {
                biased;
                order = ctx.order() => match order {
                    TaskOrder::Stop(_) => return Ok(()),
                    TaskOrder::Checkpoint(_) | TaskOrder::Commit { .. } => continue, // barriers come with the text
                },
                text = self.input.recv() => text,
            };
            match text {
                Some(Text::Batch(mut text)) => counts.add_text(&mut text),
                Some(Text::Barrier(barrier)) => {
                    // Everything goes to the sink, so the checkpoint need not hold any state of
                    // this task.
                    let deltas = Deltas::Barrier(mem::take(&mut counts), barrier);
                    if !self.forward(deltas, &mut ctx).await {
                        return Ok(());
                    }
                    ctx.events().checkpointed(barrier.epoch, bytes::Bytes::new(), None).await?;
                    if barrier.then_stop {
                        return Ok(());
                    }
                }
                Some(Text::End) => {
                    self.forward(Deltas::End, &mut ctx).await;
                    return Ok(());
                }
                None => return until_stopped(&mut ctx).await,
            }
        }
    }

    /// Whether the sink got it; if not, this task has been told to stop.
    async fn forward(&self, deltas: Deltas, ctx: &mut TaskContext) -> bool {
        loop {
            tokio::select! {
                biased;
                order = ctx.order() => if matches!(order, TaskOrder::Stop(_)) {
                    return false;
                },
                room = self.link.reserve() => {
                    let Ok(room) = room else {
                        // The sink has ended, so a stop order is on its way.
                        let _ = until_stopped(ctx).await;
                        return false;
                    };
                    room.send(deltas);
                    return true;
                }
            }
        }
    }
}
