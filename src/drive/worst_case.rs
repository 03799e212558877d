//! The longest time that a shutdown can take, computed from its limits (invariant I5).

use std::time::Duration;

use crate::{drive::OnSpentCheckpoint, limits::Limits, machine::PhaseKind};

impl Limits {
    /// The longest time that [`drive`](crate::drive::drive) can take from entering `phase` until it
    /// returns, if no further stop request is made (a request starts the count again from the phase
    /// that it leads to). `None` means without limit, which is inherent in
    /// [`OnSpentCheckpoint::KeepTrying`].
    ///
    /// With *backoffs(n)* = 2 · Σ min(`backoff_min` · 2ⁱ, `backoff_max`) for *i* < *n* (jitter at
    /// most doubles a wait):
    ///
    /// | phase | worst case |
    /// |---|---|
    /// | `Stopping<Force>` | *F* = (1 + `scheduler_retries`) · `kill` + *backoffs*(`scheduler_retries`) |
    /// | `Stopping<Graceful>`, `Stopping<Immediate>` | `finish` + `release` + *F* |
    /// | `Recovering` | `recover` + `release` + *F* |
    /// | `CheckpointStopping` | `final_checkpoint` + `release` + *F*, plus `finish` if the policy escalates |
    /// | `Finishing` | `final_checkpoint` + `finish` + `release` + *F* |
    /// | `Running` | from the stop request: the longest of the above; the wait for a request has no end |
    ///
    /// The formulas also hold for workers that treat a repeated order as a second one, such as
    /// Arroyo's. They never get an order twice if the first one may have arrived, so a lost order
    /// costs the whole budget of its phase (`final_checkpoint`, `finish`, `recover` or `release`),
    /// where it would cost another worker one retry.
    ///
    /// With a journal, add *J* = (1 + `journal_retries`) · `journal` +
    /// *backoffs*(`journal_retries`) for each record: one per phase entered, one for the epoch of a
    /// final checkpoint, and one for the end ([`worst_record`](Self::worst_record)).
    ///
    /// ```
    /// use std::time::Duration;
    /// use winddown::{Limits, PhaseKind, drive::OnSpentCheckpoint};
    ///
    /// let limits = Limits { scheduler_retries: 0, ..Limits::default() };
    /// let graceful = limits.worst_case(PhaseKind::StoppingGraceful, OnSpentCheckpoint::Escalate);
    /// assert_eq!(graceful, Some(Duration::from_secs(60 + 10 + 30)));
    /// ```
    pub fn worst_case(&self, phase: PhaseKind, policy: OnSpentCheckpoint) -> Option<Duration> {
        let force = self.worst_force();
        let release = self.release.saturating_add(force);
        let cooperative = self.finish.saturating_add(release);
        let checkpoint = match policy {
            OnSpentCheckpoint::KeepTrying => None,
            OnSpentCheckpoint::Escalate => Some(self.final_checkpoint.saturating_add(cooperative)),
            OnSpentCheckpoint::GiveBack => Some(self.final_checkpoint.saturating_add(release)),
        };
        let finishing = self.final_checkpoint.saturating_add(cooperative);
        match phase {
            PhaseKind::Running => checkpoint.map(|checkpoint| checkpoint.max(finishing)),
            PhaseKind::Finishing => Some(finishing),
            PhaseKind::Recovering => Some(self.recover.saturating_add(release)),
            PhaseKind::CheckpointStopping => checkpoint,
            PhaseKind::StoppingGraceful | PhaseKind::StoppingImmediate => Some(cooperative),
            PhaseKind::StoppingForce => Some(force),
            _ => Some(Duration::ZERO),
        }
    }

    /// The longest time that [`drive`](crate::drive::drive) tries to write one record to the
    /// journal.
    pub fn worst_record(&self) -> Duration {
        let attempts = self.journal_retries.saturating_add(1);
        self.journal.saturating_mul(attempts).saturating_add(self.worst_backoffs(self.journal_retries))
    }

    fn worst_force(&self) -> Duration {
        let attempts = self.scheduler_retries.saturating_add(1);
        self.kill.saturating_mul(attempts).saturating_add(self.worst_backoffs(self.scheduler_retries))
    }

    fn worst_backoffs(&self, retries: u32) -> Duration {
        let mut wait = self.backoff_min;
        let mut sum = Duration::ZERO;
        for retry in 0..retries {
            if wait >= self.backoff_max || wait.is_zero() {
                // From here on every wait is the same.
                return sum
                    .saturating_add(wait.min(self.backoff_max).saturating_mul((retries - retry).saturating_mul(2)));
            }
            sum = sum.saturating_add(wait.saturating_mul(2));
            wait = wait.saturating_mul(2);
        }
        sum
    }
}
