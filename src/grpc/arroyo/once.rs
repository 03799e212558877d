//! Orders that a worker may receive only once, because it cannot recognize a repeated one.

use std::sync::{Mutex, PoisonError};

use crate::contracts::{Command, Epoch, WorkerStopMode};

/// The newest order of each kind that may have arrived at one worker. An older or weaker one would
/// be of no use after it.
#[derive(Debug, Default)]
pub(super) struct Once(Mutex<Sent>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    checkpoint: Option<Epoch>,
    commit: Option<Epoch>,
    stop: Option<WorkerStopMode>,
    release: bool,
}

/// An order to be sent, and what had been sent before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    before: Sent,
    after: Sent,
}

impl Once {
    /// Takes the turn of an order; `None` if it may have arrived already.
    pub(super) fn take(&self, command: &Command) -> Option<Turn> {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *sent;
        let after = match command {
            Command::Checkpoint { epoch, .. } => Sent { checkpoint: before.checkpoint.max(Some(*epoch)), ..before },
            Command::Commit { epoch, .. } => Sent { commit: before.commit.max(Some(*epoch)), ..before },
            Command::Stop(mode) => Sent { stop: before.stop.max(Some(*mode)), ..before },
            Command::Release => Sent { release: true, ..before },
        };
        *sent = after;
        (before != after).then_some(Turn { before, after })
    }

    /// The order did not arrive: it may be sent again.
    pub(super) fn give_back(&self, turn: Turn) {
        let mut sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Turn { before, after } = turn;
        // Only what this order changed, and only if no newer one was sent since.
        if before.checkpoint != after.checkpoint && sent.checkpoint == after.checkpoint {
            sent.checkpoint = before.checkpoint;
        }
        if before.commit != after.commit && sent.commit == after.commit {
            sent.commit = before.commit;
        }
        if before.stop != after.stop && sent.stop == after.stop {
            sent.stop = before.stop;
        }
        sent.release &= before.release == after.release;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn checkpoint(epoch: u64) -> Command {
        Command::Checkpoint { epoch: Epoch::new(epoch), then_stop: false }
    }

    #[test]
    fn a6_an_order_goes_out_once_and_again_only_where_it_did_not_arrive() {
        let orders = [
            checkpoint(3),
            Command::Commit { epoch: Epoch::new(3), tasks: [].into() },
            Command::Stop(WorkerStopMode::Graceful),
            Command::Release,
        ];
        let once = Once::default();
        for order in &orders {
            let turn = once.take(order).unwrap();
            assert_eq!(once.take(order), None, "{order:?}");
            once.give_back(turn);
            assert!(once.take(order).is_some(), "{order:?} did not arrive");
        }
        for order in &orders {
            assert_eq!(once.take(order), None, "{order:?}: another kind of order changes nothing");
        }
    }

    #[test]
    fn a6_a_newer_order_is_another_and_an_older_one_is_not_sent_after_it() {
        let once = Once::default();
        let older = once.take(&checkpoint(3)).unwrap();
        assert!(once.take(&checkpoint(4)).is_some());
        once.give_back(older);
        assert_eq!((once.take(&checkpoint(4)), once.take(&checkpoint(3))), (None, None));
        assert!(once.take(&Command::Stop(WorkerStopMode::Immediate)).is_some());
        assert_eq!(once.take(&Command::Stop(WorkerStopMode::Graceful)), None);
    }
}
