//! The source: reads a worker's share, and starts the barriers.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{self, Permit, error::SendError},
    time::{Instant, sleep, sleep_until},
};
use winddown::{
    Barrier, TaskContext, TaskOrder,
    contracts::{TaskError, WorkerStopMode},
};

use crate::{
    input::BLOCK,
    meter::Meter,
    share::{ReadError, Reader, Share},
    tasks::{Fault, Stall, Text, blocking, position},
};

/// Reads one share.
pub(crate) struct Source {
    pub(crate) worker: u32,
    pub(crate) share: Share,
    pub(crate) rate: Option<u64>,
    pub(crate) meter: Arc<Meter>,
    pub(crate) fault: Option<Fault>,
    pub(crate) stall: Option<Stall>,
    pub(crate) link: mpsc::Sender<Text>,
}

impl Source {
    /// Reads from the restored position to the end of the share, then waits for the final
    /// checkpoint.
    pub(crate) async fn run(self, mut ctx: TaskContext) -> Result<(), TaskError> {
        let start = match ctx.restored() {
            Some(restored) => position(&restored.snapshot)?,
            None => self.share.start(),
        };
        let mut reader = Reader::new(self.share, start).map_err(failure)?;
        self.meter.set(self.worker, start.lines);
        // One that has been passed already never comes.
        let fault = self.fault.filter(|fault| start.lines < fault.at_line);
        let mut stall = self.stall.filter(|stall| start.lines < stall.at_line);
        let mut pace = self.rate.map(Pace::new);
        // Barriers that were ordered and do not fit into the channel yet. Nothing is read
        // meanwhile, because they belong at the position that was reported with them.
        let mut barriers: VecDeque<Barrier> = VecDeque::new();
        let (mut ending, mut exhausted) = (false, false);
        loop {
            if let Some(Stall { time, .. }) = stall.take_if(|stall| reader.position().lines >= stall.at_line) {
                eprintln!("injected stall: the first source takes no order for {time:?}");
                sleep(time).await;
            }
            if reader.is_done() && !exhausted {
                exhausted = true;
                ctx.events().source_exhausted().await?;
            }
            tokio::select! {
                biased;
                order = ctx.order() => match order {
                    TaskOrder::Checkpoint(barrier) => {
                        let snapshot = serde_json::to_vec(&reader.position())
                            .map_err(|error| TaskError::fatal(error.to_string()))?;
                        ctx.events().checkpointed(barrier.epoch, snapshot.into(), None).await?;
                        barriers.push_back(barrier);
                    }
                    TaskOrder::Stop(WorkerStopMode::Graceful) => ending = true,
                    TaskOrder::Stop(WorkerStopMode::Immediate) => return Ok(()),
                    TaskOrder::Commit { .. } => {} // a source gives nothing to commit
                },
                room = room(&self.link, pace.as_ref().filter(|_| barriers.is_empty() && !ending)),
                    if !barriers.is_empty() || ending || !reader.is_done() =>
                {
                    let Ok(room) = room else { return until_stopped(&mut ctx).await };
                    if let Some(barrier) = barriers.pop_front() {
                        room.send(Text::Barrier(barrier));
                        if barrier.then_stop {
                            return Ok(());
                        }
                    } else if ending {
                        room.send(Text::End);
                        return Ok(());
                    } else {
                        room.send(read(&mut reader, pace.as_mut(), fault)?);
                        self.meter.set(self.worker, reader.position().lines);
                    }
                }
            }
        }
    }
}

/// Room for one message, when it is time for it.
///
/// Cancel safe: a dropped call has taken no room.
async fn room<'a>(link: &'a mpsc::Sender<Text>, pace: Option<&Pace>) -> Result<Permit<'a, Text>, SendError<()>> {
    if let Some(pace) = pace {
        sleep_until(pace.next).await;
    }
    link.reserve().await
}

fn read(reader: &mut Reader, pace: Option<&mut Pace>, fault: Option<Fault>) -> Result<Text, TaskError> {
    let mut lines = pace.as_ref().map_or(u64::MAX, |pace| pace.lines);
    if let Some(fault) = fault {
        match fault.at_line.saturating_sub(reader.position().lines) {
            0 => return Err(fault.error()),
            left => lines = lines.min(left),
        }
    }
    let mut batch = Vec::with_capacity(if pace.is_some() { 0 } else { BLOCK });
    let read = blocking(|| reader.read(lines, &mut batch)).map_err(failure)?;
    if let Some(pace) = pace {
        pace.spend(read);
    }
    Ok(Text::Batch(batch))
}

/// A retry may help after an I/O error, but not with other input.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn failure(error: ReadError) -> TaskError {
    match error {
        ReadError::Io { .. } => TaskError::retryable(error.to_string()),
        ReadError::Changed { .. } | ReadError::Foreign { .. } => TaskError::fatal(error.to_string()),
    }
}

/// The previous or next task has ended, because it was told to stop or because it failed. Either
/// way a stop order will come.
pub(crate) async fn until_stopped(ctx: &mut TaskContext) -> Result<(), TaskError> {
    while !matches!(ctx.order().await, TaskOrder::Stop(_)) {}
    Ok(())
}

/// Holds a number of lines per second.
#[derive(Debug)]
struct Pace {
    rate: u64,
    /// The most lines that may be read at once.
    lines: u64,
    /// When they may be.
    next: Instant,
}

impl Pace {
    /// Lines are read in batches of this time's worth.
    const BATCH: Duration = Duration::from_millis(50);

    fn new(rate: u64) -> Self {
        let batches = 1000 / u64::try_from(Self::BATCH.as_millis()).unwrap_or(1000);
        Self { rate, lines: (rate / batches).max(1), next: Instant::now() }
    }

    fn spend(&mut self, lines: u64) {
        // A source that was held back may catch up by one batch: the rate is a limit, not an
        // average over the run.
        let earliest = Instant::now().checked_sub(Self::BATCH).unwrap_or(self.next);
        #[expect(clippy::cast_precision_loss, reason = "a part of a line does not matter")]
        let time = Duration::from_secs_f64(lines as f64 / self.rate as f64);
        self.next = self.next.max(earliest) + time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_held_from_one_line_a_second_to_millions() {
        for rate in [1, 19, 1_000, 3_000_000] {
            let (start, mut pace, mut lines) = (Instant::now(), Pace::new(rate), 0);
            while start.elapsed() < Duration::from_secs(10) {
                sleep_until(pace.next).await;
                lines += pace.lines;
                pace.spend(pace.lines);
            }
            let most = rate * 10 + 2 * pace.lines;
            assert!((rate * 9..=most).contains(&lines), "{lines} lines in ten seconds at {rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_was_held_back_does_not_make_up_for_it() {
        let mut pace = Pace::new(1_000);
        pace.spend(1);
        tokio::time::advance(Duration::from_secs(60)).await;
        let mut at_once = 0;
        while pace.next <= Instant::now() {
            at_once += pace.lines;
            pace.spend(pace.lines);
        }
        assert!(at_once <= 2 * pace.lines, "{at_once}");
    }
}
