//! One file per worker in the state folder: what a restarted scheduler, and the watchdog, know of it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::{
    cgroup::Group,
    error::{ProcessError, state},
    folder,
    origin::Origin,
    proc::Identity,
};
use crate::contracts::{JobId, RunId, WorkerId};

/// The ending of a record that was set aside because it can't be read.
const DAMAGED: &str = "damaged";

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
    /// The user that `process` was started by.
    #[serde(default)]
    pub(super) user: Option<u32>,
    /// The control group that it was started in.
    #[serde(default)]
    pub(super) group: Option<Group>,
    /// Whether all of it is in there.
    #[serde(default)]
    pub(super) holds_all: bool,
    /// Where the scheduler was that started it.
    #[serde(default)]
    pub(super) origin: Option<Origin>,
}

/// A record that can't be read, and was set aside.
#[derive(Debug)]
pub(super) struct Damaged {
    pub(super) path: PathBuf,
    pub(super) reason: String,
    /// The start that it was of: that is in its name.
    pub(super) token: Token,
}

/// What the folder holds.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) records: Vec<Record>,
    pub(super) damaged: Vec<Damaged>,
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
        folder::make(&self.folder)
    }

    /// Writes or replaces a record in one step: a reader sees the old one, the new one or none.
    ///
    /// It is not synced to disk. A record has to outlive the scheduler, not the machine: with the machine the worker ends.
    pub(super) fn write(&self, record: &Record) -> Result<(), ProcessError> {
        let path = self.path(&record.token);
        let half = path.with_extension("tmp");
        let text = serde_json::to_vec(record).map_err(io::Error::other).map_err(state(&path))?;
        folder::open_file(&half, File::options().write(true).create(true).truncate(true))
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&half, &path))
            .map_err(state(path))
    }

    /// Forgets a worker that is gone, and its control group. It may be forgotten already.
    pub(super) fn remove(&self, token: &Token, group: Option<&Group>) {
        if let Some(group) = group {
            group.remove();
        }
        let path = self.path(token);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // The worker is found to be gone by its start time, whenever the record is read again.
                tracing::warn!(%error, path = %path.display(), "can't remove the record of a worker that is gone");
            }
            _ => {}
        }
    }

    /// All records. Nobody may write meanwhile, or a record may be missed; removing is harmless. One that can't be read is set aside: it gets
    /// another ending, and is named in the answer.
    pub(super) fn load(&self) -> Result<Loaded, ProcessError> {
        let mut loaded = Loaded::default();
        for entry in fs::read_dir(&self.folder).map_err(state(&self.folder))? {
            let path = entry.map_err(state(&self.folder))?.path();
            let Some(token) = token_of(&path) else { continue };
            match read(&path, &token) {
                Ok(record) => loaded.records.extend(record),
                Err(reason) => {
                    let aside = path.with_extension(DAMAGED);
                    match fs::rename(&path, &aside) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        renamed => renamed.map_err(state(&path))?,
                    }
                    loaded.damaged.push(Damaged { path: aside, reason, token });
                }
            }
        }
        Ok(loaded)
    }

    fn path(&self, token: &Token) -> PathBuf {
        self.folder.join(format!("{}.json", token.as_str()))
    }
}

/// The start that a file is the record of, by its name; what is no record has none.
fn token_of(path: &Path) -> Option<Token> {
    (path.extension()? == "json").then_some(())?;
    // A name that is not UTF-8 is none of ours.
    Some(Token(path.file_stem()?.to_str()?.to_owned()))
}

/// `None` if it is gone.
fn read(path: &Path, token: &Token) -> Result<Option<Record>, String> {
    let mut text = Vec::new();
    match folder::open_file(path, File::options().read(true)).and_then(|mut file| file.read_to_end(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| error.to_string())?,
    };
    let record: Record = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if record.token != *token {
        return Err(format!("it is the record of {}", record.token.as_str()));
    }
    Ok(Some(record))
}
