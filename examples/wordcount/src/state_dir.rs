//! The state directory: whose it is, and that only one run at a time uses it.
//!
//! | name | what it is |
//! |---|---|
//! | `wordcount.json` | the input and the number of workers that the directory belongs to |
//! | `.lock` | locked, by the operating system, as long as a run uses the directory |
//! | `checkpoints/` | the checkpoint store |
//! | `output/worker-N/` | what each worker has counted |
//! | `output/worker-N.lock` | which worker writes to it |
//! | `journal/` | how far the shutdown of the newest run is |
//! | `processes/` | where worker processes are recorded, if the job was ever run with them |
//! | `counts.tsv` | the result, once all input is consumed |
//! | `wordcount.wiping` | `--fresh` is at work; the next start finishes it if it was interrupted |

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use winddown::durable;

use crate::{
    input::{Fingerprint, Input},
    runtime::end_leftovers,
};

const IDENTITY: &str = "wordcount.json";
const LOCK: &str = ".lock";
const WIPING: &str = "wordcount.wiping";
const CHECKPOINTS: &str = "checkpoints";
const OUTPUT: &str = "output";
const JOURNAL: &str = "journal";
const PROCESSES: &str = "processes";
const COUNTS: &str = "counts.tsv";

/// How long to wait for the lock. A call that was killed while it started a process may hold it for
/// a moment longer, in the copy of itself that has not become that process yet.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_EVERY: Duration = Duration::from_millis(10);

/// The layout that this program writes.
const FORMAT: u32 = 2;

/// What a state directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    format: u32,
    workers: u32,
    files: Vec<Fingerprint>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        write!(f, "{} files of {bytes} bytes shared by {} workers", self.files.len(), self.workers)
    }
}

impl Identity {
    /// What is not the same in the input, if anything.
    fn difference(&self, got: &Self) -> Option<String> {
        let lacks = |one: &Self, other: &Self| {
            let names: HashSet<_> = one.files.iter().map(|file| &file.name).collect();
            other.files.iter().find(|file| !names.contains(&file.name)).map(|file| file.name.clone())
        };
        let mut pairs = self.files.iter().zip(&got.files);
        lacks(self, got)
            .map(|new| format!("`{new}` is new"))
            .or_else(|| lacks(got, self).map(|gone| format!("`{gone}` is missing")))
            .or_else(|| {
                let (expected, got) = pairs.find(|(expected, got)| expected != got)?;
                let same_name = expected.name == got.name;
                let what = if same_name { "has other contents" } else { "comes at another place" };
                Some(format!("`{}` {what}", got.name))
            })
            .or_else(|| (self.files.len() != got.files.len()).then(|| "a file is given more or less often".to_owned()))
    }
}

/// Why a state directory is refused. It is unchanged then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDirError {
    /// The operating system says so.
    #[error("state directory `{}` can't be used: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another run uses it.
    #[error(
        "state directory `{}` is in use: another wordcount runs on it; wait for its end, or choose another --state-dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// Somebody else's folder.
    #[error(
        "`{}` is not a wordcount state directory: expected a new or empty folder, or one with `{IDENTITY}` in it; \
         choose another --state-dir", .0.display()
    )]
    NotOurs(PathBuf),
    /// It belongs to another job.
    #[error(
        "state directory `{}` belongs to another job: expected {expected}, got {got}{difference}; give the same input and \
         --workers again, choose another --state-dir, or start over with --fresh",
        path.display()
    )]
    OtherJob {
        /// The directory.
        path: PathBuf,
        /// What it belongs to.
        expected: String,
        /// What was given.
        got: String,
        /// The first difference in the input.
        difference: String,
    },
    /// Workers of an earlier run may be alive.
    #[error(
        "state directory `{}`: workers of an earlier run can't be ended: {problem}; end them by hand, then try again",
        path.display()
    )]
    Leftovers {
        /// The directory.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// The identity file is not what this program writes.
    #[error(
        "`{}` can't be understood: {problem}; choose another --state-dir, or start over with --fresh", path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// A state directory that only this run uses, until this value is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Takes the directory for a job over `input` with `workers`, and creates it if needed. `fresh`
    /// first ends worker processes of earlier runs, then removes what earlier jobs left in the
    /// directory, but nothing that wordcount did not write. Without `fresh`, whoever continues the
    /// job ends them.
    pub(crate) fn open(path: &Path, input: &Input, workers: u32, fresh: bool) -> Result<Self, StateDirError> {
        let got = Identity { format: FORMAT, workers, files: input.fingerprints().to_vec() };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::create_folder(path).map_err(|error| failed(path, error))?;
            }
            Err(error) => return Err(failed(path, error)),
            Ok(_) if !is_usable(path)? => return Err(StateDirError::NotOurs(path.to_owned())),
            Ok(_) => {}
        }
        let state = Self { path: path.to_owned(), _lock: lock(path)? };
        let wipe = fresh || state.path.join(WIPING).exists();
        let found = match read_identity(path) {
            Ok(Some(expected)) if expected != got && !wipe => return Err(other_job(path, &expected, &got)),
            Err(error) if !wipe => return Err(error),
            found => found,
        };
        match found {
            Ok(None) => state.begin(&got)?,
            _ if wipe => state.wipe(&got)?,
            _ => {}
        }
        Ok(state)
    }

    /// Whether a folder is a state directory, so that it is never taken for input.
    pub(crate) fn is_at(path: &Path) -> bool {
        path.join(IDENTITY).exists() || path.join(WIPING).exists()
    }

    /// Where the checkpoint store lives.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// Where a worker's output lives.
    pub(crate) fn output(&self, worker: u32) -> PathBuf {
        self.path.join(OUTPUT).join(format!("worker-{worker}"))
    }

    /// Where it is written down how far a shutdown is.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// Where worker processes are recorded.
    pub(crate) fn processes(&self) -> PathBuf {
        self.path.join(PROCESSES)
    }

    /// Where the result is written.
    pub(crate) fn counts(&self) -> PathBuf {
        self.path.join(COUNTS)
    }

    fn begin(&self, identity: &Identity) -> Result<(), StateDirError> {
        let path = self.path.join(IDENTITY);
        let text = serde_json::to_vec_pretty(identity).map_err(io::Error::from);
        text.and_then(|text| durable::replace(&path, &text)).map_err(|error| failed(&path, error))
    }

    /// Starts over. The marker exists from before the first removal until the new identity is
    /// written, so an interruption leaves neither a mixture of two jobs nor a folder without an
    /// owner.
    fn wipe(&self, identity: &Identity) -> Result<(), StateDirError> {
        // Nobody else writes here from now on.
        end_leftovers(&self.processes())
            .map_err(|problem| StateDirError::Leftovers { path: self.path.clone(), problem: problem.to_string() })?;
        let marker = self.path.join(WIPING);
        let wiped = durable::write(&marker, b"")
            .and_then(|()| durable::remove_folder(&self.path.join(CHECKPOINTS)))
            .and_then(|()| durable::remove_folder(&self.path.join(OUTPUT)))
            // Runs are numbered anew, so the records of the old ones would be in the way.
            .and_then(|()| durable::remove_folder(&self.journal()))
            .and_then(|()| durable::remove_folder(&self.processes()))
            .and_then(|()| durable::remove(&self.path.join(COUNTS)));
        wiped.map_err(|error| failed(&self.path, error))?;
        self.begin(identity)?;
        durable::remove(&marker).map_err(|error| failed(&marker, error))
    }
}

/// An empty folder, or one of ours. An interrupted first start leaves only a lock, or also a
/// partial identity.
fn is_usable(path: &Path) -> Result<bool, StateDirError> {
    if StateDir::is_at(path) {
        return Ok(true);
    }
    for entry in fs::read_dir(path).map_err(|error| failed(path, error))? {
        let name = entry.map_err(|error| failed(path, error))?.file_name();
        if name != LOCK && name != *durable::unfinished(Path::new(IDENTITY)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lock(path: &Path) -> Result<File, StateDirError> {
    let lock = path.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&lock);
    let file = file.map_err(|error| failed(&lock, error))?;
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => return Ok(file),
            Err(fs4::TryLockError::WouldBlock) if Instant::now() < end => sleep(LOCK_EVERY),
            Err(fs4::TryLockError::WouldBlock) => return Err(StateDirError::InUse(path.to_owned())),
            Err(fs4::TryLockError::Error(error)) => return Err(failed(&lock, error)),
        }
    }
}

fn read_identity(path: &Path) -> Result<Option<Identity>, StateDirError> {
    let path = path.join(IDENTITY);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| failed(&path, error))?,
    };
    let unknown = |problem| StateDirError::Unknown { path: path.clone(), problem };
    let identity: Identity = serde_json::from_slice(&text).map_err(|error| unknown(error.to_string()))?;
    if identity.format != FORMAT {
        return Err(unknown(format!("expected format {FORMAT}, got {}", identity.format)));
    }
    Ok(Some(identity))
}

fn other_job(path: &Path, expected: &Identity, got: &Identity) -> StateDirError {
    StateDirError::OtherJob {
        path: path.to_owned(),
        expected: expected.to_string(),
        got: got.to_string(),
        difference: expected.difference(got).map_or_else(String::new, |difference| format!(" ({difference})")),
    }
}

fn failed(path: &Path, source: io::Error) -> StateDirError {
    StateDirError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
