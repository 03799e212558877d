//! A journal in memory that fails according to the test's script.

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use super::{lock, next_of};
use crate::{
    contracts::JobId,
    machine::{
        Journal, JournalError, PhaseKind, PhaseRecord,
        record::{Write, may_write},
    },
};

/// How a journal answers a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum JournalAnswer {
    /// It writes.
    #[default]
    Writes,
    /// It does not write, and reports that it is unavailable.
    Unavailable,
    /// It writes, but reports that it is unavailable, as if the answer was lost.
    WritesAndFails,
    /// It writes, and never answers.
    WritesAndHangs,
    /// It does not write, and never answers.
    Hangs,
}

#[derive(Debug, Default)]
struct Book {
    records: Vec<PhaseRecord>,
    answers: Vec<JournalAnswer>,
}

impl Book {
    fn newest(&self, job: &JobId) -> Option<&PhaseRecord> {
        self.records.iter().rev().find(|record| record.job == *job)
    }
}

/// A [`Journal`] in memory, with the contract's compare-and-set. It outlives the job that writes to
/// it, so a test can drop the job, load the record, and rehydrate.
///
/// ```
/// use winddown::{JobContext, OpenRun, PhaseKind, Policy, RunId, drive, testing::scripted::*};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let journal = ScriptedJournal::default();
/// journal.answers([JournalAnswer::WritesAndFails, JournalAnswer::Writes]);
///
/// let builder = JobContext::builder(&OpenRun::without_store("wordcount", RunId::new(1))).journal(journal.clone());
/// let (mut job, running) = builder.build(ScriptedController::new(4), ScriptedScheduler::new([1, 2]))?;
/// let stopping = running.force(&mut job)?;
/// let _receipt = drive(stopping, &mut job, &Policy::escalate()).await?;
/// assert_eq!(journal.phases().first(), Some(&PhaseKind::StoppingForce));
/// assert_eq!(journal.phases().last(), Some(&PhaseKind::StoppedKilled));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ScriptedJournal(Arc<Mutex<Book>>);

impl ScriptedJournal {
    /// It gives these answers to writes, in order; the last one is repeated.
    pub fn answers(&self, answers: impl IntoIterator<Item = JournalAnswer>) -> &Self {
        lock(&self.0).answers = answers.into_iter().collect();
        self
    }

    /// Every record that was written, the newest last.
    pub fn records(&self) -> Vec<PhaseRecord> {
        lock(&self.0).records.clone()
    }

    /// The phases of the records.
    pub fn phases(&self) -> Vec<PhaseKind> {
        lock(&self.0).records.iter().map(|record| record.phase).collect()
    }
}

impl Journal for ScriptedJournal {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        Ok(lock(&self.0).newest(job).cloned())
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        let answer = {
            let mut book = lock(&self.0);
            let answer = next_of(&mut book.answers);
            let writes = !matches!(answer, JournalAnswer::Unavailable | JournalAnswer::Hangs);
            if writes && may_write(book.newest(&record.job), record)? == Write::Needed {
                book.records.push(record.clone());
            }
            answer
        };
        match answer {
            JournalAnswer::Writes => Ok(()),
            JournalAnswer::Unavailable | JournalAnswer::WritesAndFails => {
                Err(JournalError::Unavailable("scripted".into()))
            }
            JournalAnswer::WritesAndHangs | JournalAnswer::Hangs => pending().await,
        }
    }
}
