//! Looks at a journal's folder without changing anything in it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::format::{decode_any, key, refusal};
use crate::{
    contracts::JobId,
    envelope::Mismatch,
    machine::{JournalError, PhaseRecord},
};

/// A record in a journal's folder.
#[derive(Debug)]
#[non_exhaustive]
pub struct FoundRecord {
    /// Its file.
    pub path: PathBuf,
    /// Its content, if it is sound.
    pub record: Result<PhaseRecord, JournalError>,
}

/// Reads and verifies every record of a [`FileJournal`](super::FileJournal)'s folder, ordered by
/// name. It changes nothing there, takes no lock, and may be called while controllers are writing.
///
/// This makes blocking file system calls.
///
/// # Errors
/// The folder can't be read. A record that can't be read or is unsound is an error of its own.
pub fn inspect(folder: impl AsRef<Path>) -> io::Result<Vec<FoundRecord>> {
    let entries: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    let mut paths: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(|path| stem(path).is_some()).collect();
    paths.sort();
    Ok(paths.into_iter().map(|path| FoundRecord { record: read(&path), path }).collect())
}

/// What stands for the job in the name of a record's file.
fn stem(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix("job-")?.strip_suffix(".record")
}

fn read(path: &Path) -> Result<PhaseRecord, JournalError> {
    let name = stem(path).unwrap_or_default();
    let text = fs::read(path).map_err(|error| JournalError::Unavailable(error.into()))?;
    let sound = decode_any(&text).and_then(|record| match key(&record.job) {
        key if key == name => Ok(record),
        key => Err(Mismatch::new(format!("the record of `job-{name}`"), format!("that of `job-{key}`")).into()),
    });
    sound.map_err(|unsound| refusal(unsound, &JobId::from(name), path.display().to_string()))
}
