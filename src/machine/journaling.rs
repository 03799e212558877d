//! Records what a job is about to do before it does it (invariant I7).

use std::{sync::Arc, time::SystemTime};

use tokio::time::timeout;

use super::{Call, JobContext};
use crate::{
    contracts::{Epoch, FinalCheckpoint, JobController, StopRequest},
    machine::{BoxJournal, Journal, JournalError, NothingAlive, PhaseKind, PhaseRecord},
};

/// The job's journal, and what has been written to it.
pub(crate) struct Journaling {
    journal: Option<BoxJournal>,
    revision: u64,
    attempt: u32,
    said: Option<Said>,
    facts: Facts,
    /// A record whose write has not been confirmed. The same record is written again before any
    /// other, because the first write may have arrived.
    pending: Option<Box<PhaseRecord>>,
}

/// The content of a record; a record is written only if this has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    phase: PhaseKind,
    requested: Option<StopRequest>,
    facts: Facts,
    killed_workers: bool,
}

impl Said {
    fn by(record: &PhaseRecord) -> Self {
        Self {
            phase: record.phase,
            requested: record.requested,
            facts: Facts { final_epoch: record.final_epoch, last_complete: record.last_complete },
            killed_workers: record.killed_workers,
        }
    }
}

/// What is known besides the phase. It outlives the controller that knew it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    final_epoch: Option<Epoch>,
    last_complete: Option<Epoch>,
}

impl Journaling {
    /// A journal that has `last` as its newest record of this run.
    pub(super) fn new(journal: Option<BoxJournal>, last: Option<&PhaseRecord>) -> Self {
        let (revision, attempt) = last.map_or((0, 1), |last| (last.revision, last.attempt.saturating_add(1)));
        let facts = last.map_or_else(Facts::default, |last| Facts {
            final_epoch: last.final_epoch,
            last_complete: last.last_complete,
        });
        Self { journal, revision, attempt, said: None, facts, pending: None }
    }
}

impl<C, S> JobContext<C, S> {
    /// Records the job in `journal` from now on. To continue without one, pass
    /// [`NoJournal`](crate::journal::NoJournal), for example to kill a job while the journal is
    /// unavailable.
    pub fn set_journal(&mut self, journal: impl Journal + 'static) {
        self.journaling.journal = Some(Arc::new(journal));
        self.journaling.said = None;
    }

    /// Makes durable that the job is in `phase` and about to act, unless it already is.
    ///
    /// Cancel safe: a record whose write has not been confirmed is written again.
    pub(crate) async fn write_down(&mut self, phase: PhaseKind) -> Result<(), JournalError> {
        self.say(phase, false).await
    }

    /// The same with what the controller knows now.
    pub(crate) async fn write_down_status(&mut self, phase: PhaseKind) -> Result<(), JournalError>
    where
        C: JobController,
    {
        if self.journaling.journal.is_none() {
            return Ok(());
        }
        let status = self.controller.status();
        let known = &mut self.journaling.facts;
        if let FinalCheckpoint::InFlight(epoch) | FinalCheckpoint::Complete(epoch) = status.final_checkpoint {
            known.final_epoch = Some(epoch);
        }
        known.last_complete = status.last_complete.or(known.last_complete);
        self.say(phase, false).await
    }

    /// Makes durable that the job has stopped in `terminal`. Nothing is alive at that time.
    pub(crate) async fn write_down_end(&mut self, terminal: PhaseKind, gone: NothingAlive) -> Result<(), JournalError> {
        self.say(terminal, gone.forced()).await
    }

    async fn say(&mut self, phase: PhaseKind, killed_workers: bool) -> Result<(), JournalError> {
        if self.journaling.journal.is_none() {
            return Ok(());
        }
        let facts @ Facts { final_epoch, last_complete } = self.journaling.facts;
        let said = Said { phase, requested: self.requested(), facts, killed_workers };
        self.note_call(Some(Call::Journal));
        self.settle_pending().await?;
        if self.journaling.said == Some(said) {
            self.note_call(None);
            return Ok(());
        }
        self.journaling.pending = Some(Box::new(PhaseRecord {
            job: self.id.clone(),
            run: self.run,
            revision: self.journaling.revision + 1,
            phase,
            requested: said.requested,
            final_epoch,
            last_complete,
            killed_workers,
            attempt: self.journaling.attempt,
            at: SystemTime::now(),
        }));
        self.settle_pending().await?;
        self.note_call(None);
        Ok(())
    }

    async fn settle_pending(&mut self) -> Result<(), JournalError> {
        let Journaling { journal: Some(journal), pending: Some(record), .. } = &self.journaling else { return Ok(()) };
        let after = self.limits.journal;
        timeout(after, journal.write_boxed(record)).await.map_err(|_| JournalError::TimedOut { after })??;
        let (revision, said) = (record.revision, Said::by(record));
        self.journaling.revision = revision;
        self.journaling.said = Some(said);
        self.journaling.pending = None;
        Ok(())
    }
}
