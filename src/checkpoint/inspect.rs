//! Looks at the logs in a local folder without changing anything in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use object_store::path::PathPart;

use super::{entry::Entry, log::number_of};
use crate::contracts::{Epoch, JobId, RunId};

/// The log of one job in a local folder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundLog {
    /// Its folder.
    pub path: PathBuf,
    /// The job, if any entry is sound.
    pub job: Option<JobId>,
    /// The entries with their numbers, the last one last. An unsound one says what is wrong.
    pub entries: Vec<(u64, Result<FoundEntry, String>)>,
}

/// An entry of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FoundEntry {
    /// A run has entered the log.
    Claim {
        /// The run.
        run: RunId,
    },
    /// A run has published a manifest.
    Manifest {
        /// The run.
        run: RunId,
        /// The checkpoint.
        epoch: Epoch,
        /// It is a final one.
        then_stop: bool,
        /// Tasks in it.
        tasks: usize,
        /// Tasks with something to commit: this many commits were ordered, and the next run orders
        /// them again.
        commits: usize,
    },
}

/// Reads and verifies every log of an
/// [`ObjectStoreCheckpoints::local`](super::ObjectStoreCheckpoints::local) folder, ordered by name.
/// It changes nothing there, and may be called while controllers are writing.
///
/// This makes blocking file system calls.
///
/// # Errors
/// The folder can't be read. An entry that can't be read or is unsound is an error of its own.
pub fn inspect(folder: impl AsRef<Path>) -> io::Result<Vec<FoundLog>> {
    let jobs: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    let mut logs = Vec::new();
    for job in jobs {
        let path = job.path().join("log");
        if path.is_dir() {
            let found = read(&path)?;
            logs.extend((!found.entries.is_empty()).then_some(found));
        }
    }
    logs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(logs)
}

fn read(path: &Path) -> io::Result<FoundLog> {
    let names: Vec<_> = fs::read_dir(path)?.collect::<io::Result<_>>()?;
    let numbered = names.iter().filter_map(|entry| Some((number_of(entry.file_name().to_str()?)?, entry.path())));
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort();
    let (mut job, mut entries) = (None, Vec::new());
    for (number, file) in numbered {
        let entry = match fs::read(&file) {
            // It was deleted meanwhile, because later ones no longer need it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => Err(error.to_string()),
            Ok(object) => decode(&object, number, path),
        };
        entries.push((number, entry.map(|entry| found(&entry, &mut job))));
    }
    Ok(FoundLog { path: path.to_owned(), job, entries })
}

fn decode(object: &[u8], number: u64, path: &Path) -> Result<Entry, String> {
    let entry = Entry::decode_any(object, number).map_err(|it| format!("expected {}, got {}", it.expected, it.got))?;
    let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
    let is_at_home = match entry.job.as_str() {
        "" => folder == "%",
        name => PathPart::from(name).as_ref() == folder,
    };
    if is_at_home {
        Ok(entry)
    } else {
        Err(format!("expected an entry of this folder, got one of job `{}`", entry.job))
    }
}

fn found(entry: &Entry, job: &mut Option<JobId>) -> FoundEntry {
    *job = Some(entry.job.clone());
    let run = entry.run;
    entry.manifest.as_ref().map_or(FoundEntry::Claim { run }, |manifest| FoundEntry::Manifest {
        run,
        epoch: manifest.epoch,
        then_stop: manifest.then_stop,
        tasks: manifest.tasks.len(),
        commits: manifest.tasks.iter().filter(|task| task.commit.is_some()).count(),
    })
}
