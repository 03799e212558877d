//! The runs that have a context in this process. Two contexts of one run would undo each other's
//! work, and each would trust its own state.

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::Location,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use crate::contracts::{JobId, OpenRun, OtherRun, RunId};

type Place = &'static Location<'static>;

/// Where each was built.
static LIVE: LazyLock<Mutex<HashMap<(JobId, RunId), Place>>> = LazyLock::new(Mutex::default);

fn live() -> MutexGuard<'static, HashMap<(JobId, RunId), Place>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entry of a run, which has only one; dropped with the context that holds it.
#[derive(Debug)]
pub(super) struct Live(Option<(JobId, RunId)>);

impl Live {
    pub(super) fn claim(open: &OpenRun, place: Place) -> Result<Self, BuildError> {
        let key = (open.job().clone(), open.run());
        match live().entry(key.clone()) {
            Entry::Occupied(first) => {
                let (job, run) = key;
                Err(BuildError::Live { job, run, place: first.get().to_string() })
            }
            Entry::Vacant(free) => {
                free.insert(place);
                Ok(Self(Some(key)))
            }
        }
    }

    /// One that stands for a context in another process.
    pub(super) fn elsewhere() -> Self {
        Self(None)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(key) = self.0.take() {
            live().remove(&key);
        }
    }
}

/// Why a job's context was not built. Nothing has been done to the job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The controller belongs to another run.
    #[error(transparent)]
    OtherRun(#[from] OtherRun),
    /// The run already has a context in this process.
    #[error(
        "expected the only context of run {run} of job `{job}` in this process, but one that was built at {place} still exists: continue with that one, or drop it first"
    )]
    Live {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// Where the first one was built: file, line and column.
        place: String,
    },
}
