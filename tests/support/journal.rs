//! A journal in memory that answers as the test says.

use std::{
    future::pending,
    sync::{Arc, Mutex},
};

use winddown::*;

use super::Answer;

/// A written record, and how much the collaborators had been told by then.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) record: PhaseRecord,
    pub(crate) told: usize,
    pub(crate) calls: usize,
    pub(crate) progressed: u32,
}

#[derive(Clone, Default)]
pub(crate) struct Notebook {
    pub(crate) written: Arc<Mutex<Vec<Written>>>,
    pub(crate) answers: Arc<Mutex<Vec<Answer>>>,
    witness: Option<(super::Scripted, super::Workers)>,
}

impl Notebook {
    /// It notes with each record how much the controller and the scheduler had been told.
    pub(crate) fn witnessing(controller: &super::Scripted, workers: &super::Workers) -> Self {
        Self { witness: Some((controller.clone(), workers.clone())), ..Self::default() }
    }

    pub(crate) fn last(&self) -> Option<PhaseRecord> {
        self.written.lock().unwrap().last().map(|written| written.record.clone())
    }

    pub(crate) fn phases(&self) -> Vec<PhaseKind> {
        let mut phases: Vec<_> = self.written.lock().unwrap().iter().map(|written| written.record.phase()).collect();
        phases.dedup();
        phases
    }

    fn answer(&self) -> Answer {
        let mut answers = self.answers.lock().unwrap();
        if answers.len() > 1 { answers.remove(0) } else { answers.first().copied().unwrap_or_default() }
    }
}

impl Journal for Notebook {
    async fn load(&self, _: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        Ok(self.last())
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        let answer = self.answer();
        match answer {
            Answer::Fails => return Err(JournalError::Unavailable("disk full".into())),
            Answer::Hangs => return pending().await,
            _ => {}
        }
        if may_write(self.last().as_ref(), record)? == Write::Needed {
            let (told, calls, progressed) = self.witness.as_ref().map_or((0, 0, 0), |(controller, workers)| {
                (controller.told().len(), workers.calls().len(), controller.script().progressed)
            });
            self.written.lock().unwrap().push(Written { record: record.clone(), told, calls, progressed });
        }
        // Written, but the answer is lost.
        if answer == Answer::Ignores { pending().await } else { Ok(()) }
    }
}
