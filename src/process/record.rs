//! One file per worker in the state folder: what a restarted scheduler, and the watchdog, know of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::{
    error::{ProcessError, state},
    proc::Identity,
};
use crate::contracts::{JobId, RunId, WorkerId};

/// A name that nothing else has: of one start of a worker, or of one scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        let filled = getrandom(&mut bytes, GetRandomFlags::empty())?;
        debug_assert_eq!(filled, bytes.len(), "the kernel gives up to 256 bytes whole");
        Ok(Self(format!("{:032x}", u128::from_ne_bytes(bytes))))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is known of one started worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) job: JobId,
    pub(super) run: RunId,
    pub(super) worker: WorkerId,
    /// This start's name, which the worker and its children carry in their environment.
    pub(super) token: Token,
    /// The scheduler that started it, and those that have adopted it since: it outlives none of them.
    pub(super) schedulers: Vec<Token>,
    /// The boot of the machine in which `process` means something.
    pub(super) boot: String,
    /// The worker's process, which leads its group; `None` from just before the start until just after it.
    pub(super) process: Option<Identity>,
}

/// The folder of records.
#[derive(Clone, Debug)]
pub(super) struct Records {
    folder: PathBuf,
}

impl Records {
    /// The records below this state folder.
    pub(super) fn below(state: &Path) -> Self {
        Self { folder: state.join("workers") }
    }

    pub(super) fn create_folder(&self) -> Result<(), ProcessError> {
        fs::create_dir_all(&self.folder).map_err(state(&self.folder))
    }

    /// Writes or replaces a record in one step: a reader sees the old one, the new one or none.
    ///
    /// It is not synced to disk. A record has to outlive the scheduler, not the machine: with the machine the worker ends.
    pub(super) fn write(&self, record: &Record) -> Result<(), ProcessError> {
        let path = self.path(&record.token);
        let half = path.with_extension("tmp");
        let text = serde_json::to_vec(record).map_err(io::Error::other).map_err(state(&path))?;
        fs::write(&half, text).and_then(|()| fs::rename(&half, &path)).map_err(state(path))
    }

    /// Forgets a worker that is gone. It may be forgotten already.
    pub(super) fn remove(&self, token: &Token) {
        let path = self.path(token);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The worker is found to be gone by its start time, whenever the record is read again.
                tracing::warn!(%error, path = %path.display(), "can't remove the record of a worker that is gone");
            }
            _ => {}
        }
    }

    /// All records. Nobody may write meanwhile, or a record may be missed; removing is harmless.
    pub(super) fn load(&self) -> Result<Vec<Record>, ProcessError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(state(&self.folder))? {
            let path = entry.map_err(state(&self.folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let text = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(state(&path))?,
            };
            let record: Record = serde_json::from_slice(&text)
                .map_err(|error| ProcessError::Record { path: path.clone(), reason: error.to_string() })?;
            if self.path(&record.token) != path {
                let reason = format!("it is the record of {}", record.token.as_str());
                return Err(ProcessError::Record { path, reason });
            }
            records.push(record);
        }
        Ok(records)
    }

    fn path(&self, token: &Token) -> PathBuf {
        self.folder.join(format!("{}.json", token.as_str()))
    }
}
