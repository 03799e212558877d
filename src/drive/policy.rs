//! What a drive may decide without asking.

/// What [`drive`](crate::drive::drive) does where the machine leaves a choice. There is no default: losing a final checkpoint is a decision
/// that the caller states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What follows a final checkpoint that can't be had.
    pub on_spent_checkpoint: OnSpentCheckpoint,
    /// A seed for the jitter of retries, for runs that must repeat; random if it is absent.
    pub jitter_seed: Option<u64>,
}

/// What follows when `CheckpointStopping` has spent its budget or its retries, or when its checkpoint can't complete any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnSpentCheckpoint {
    /// Try for another budget, without end, until the checkpoint completes or a user escalates. A checkpoint that can't complete any
    /// more (a task failed, a worker is lost, a newer run has fenced this one) is given back all the same.
    KeepTrying,
    /// Give the final checkpoint up: stop at once, or by force where a worker is lost. The next run replays from the last complete
    /// checkpoint.
    Escalate,
    /// Return the failure with the phase, and let the caller decide.
    GiveBack,
}

impl Policy {
    /// Keep trying for the final checkpoint until a user escalates.
    pub const fn keep_trying() -> Self {
        Self::new(OnSpentCheckpoint::KeepTrying)
    }

    /// Stop without the final checkpoint if it can't be had within its budget.
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

    /// Makes the jitter of retries repeatable.
    #[must_use]
    pub const fn jitter_seed(mut self, seed: u64) -> Self {
        self.jitter_seed = Some(seed);
        self
    }
}
