//! The decisions that a drive makes by itself.

/// What [`drive`](crate::drive::drive) does when there is a choice. There is no default: whether to
/// lose a final checkpoint is the caller's explicit decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What to do if the final checkpoint does not complete.
    pub on_spent_checkpoint: OnSpentCheckpoint,
    /// A seed for the jitter of retries, for reproducible runs; random if absent.
    pub jitter_seed: Option<u64>,
}

/// What to do when `CheckpointStopping` has spent its budget or its retries, or when its checkpoint
/// can't complete any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnSpentCheckpoint {
    /// Grant another budget, without limit, until the checkpoint completes or a user escalates. If
    /// the checkpoint can't complete any more (a task failed, a worker is lost, a newer run has
    /// fenced this one), the failure is returned anyway.
    KeepTrying,
    /// Give up the final checkpoint: stop at once, or by force if a worker is lost. The next run
    /// replays from the last complete checkpoint.
    Escalate,
    /// Return the failure with the phase, and let the caller decide.
    GiveBack,
}

impl Policy {
    /// Keep trying for the final checkpoint until a user escalates.
    pub const fn keep_trying() -> Self {
        Self::new(OnSpentCheckpoint::KeepTrying)
    }

    /// Stop without the final checkpoint if it does not complete within its budget.
    pub const fn escalate() -> Self {
        Self::new(OnSpentCheckpoint::Escalate)
    }

    /// Return the failure with the phase.
    pub const fn give_back() -> Self {
        Self::new(OnSpentCheckpoint::GiveBack)
    }

    const fn new(on_spent_checkpoint: OnSpentCheckpoint) -> Self {
        Self { on_spent_checkpoint, jitter_seed: None }
    }

    /// Makes the jitter of retries reproducible.
    #[must_use]
    pub const fn jitter_seed(mut self, seed: u64) -> Self {
        self.jitter_seed = Some(seed);
        self
    }
}
