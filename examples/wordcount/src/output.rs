//! The sink's files: exactly-once output by a two-phase commit.
//!
//! Each worker has its own folder. Between two barriers the sink collects counts; at a barrier
//! these become a *transaction*: a separate file, durable but *pending* (the first phase). Once the
//! checkpoint is durable, the file is renamed to its *committed* name (the second phase). Now and
//! then the committed files are merged into one, the *base*.
//!
//! | file | meaning |
//! |---|---|
//! | `EPOCH-RUN.pending` | the counts between the previous barrier and that of `EPOCH`; without effect until the checkpoint is complete |
//! | `EPOCH-RUN.counts` | the same, committed |
//! | `EPOCH-RUN.base` | all committed counts up to `EPOCH`, merged into one file |
//!
//! Each checkpoint names the [parts](Part) that make up the output with it, with their lengths and
//! checksums. A run starts from a complete checkpoint, and accepts nothing but these parts: one
//! that is missing, or holds anything else, is an error, and every other file is deleted.
//!
//! Why a crash at any moment loses and duplicates nothing: a file that the last complete checkpoint
//! names is never changed and never deleted. Merged files stay until a later checkpoint, which
//! names the base in their place, is complete. [`Output::open`] renames the transactions that the
//! checkpoint names (if they have not been renamed yet); the input of all others is read again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use winddown::{Epoch, RunId, durable};

use self::part::{Named, Span};
pub(crate) use self::{error::OutputError, part::Part};
use crate::{table, words::Counts};

mod error;
mod part;

/// As many committed files are merged into a base while the job runs.
const MANY: usize = 64;

/// The output of one worker, in one run.
#[derive(Debug)]
pub(crate) struct Output {
    folder: PathBuf,
    run: RunId,
    /// The parts that are committed, oldest first.
    committed: Vec<Part>,
    /// The parts that are written and not committed. A checkpoint that was given up leaves its part
    /// here; the next one that completes commits both, since neither has the counts of the other.
    pending: Vec<Part>,
    /// The newest checkpoint that has been told its parts.
    told: Option<Epoch>,
    /// Parts that are in the base, and the newest checkpoint that may name them.
    merged: Vec<(Option<Epoch>, Part)>,
}

/// What lies in a worker's folder beside the committed parts that its checkpoint names.
#[derive(Debug, Default)]
struct Rest {
    /// Parts that the checkpoint names, and that are not renamed yet.
    pending: Vec<Part>,
    /// Files that no checkpoint needs any more.
    garbage: Vec<PathBuf>,
}

impl Output {
    /// Checks a worker's output before a run that starts from checkpoint `from` (from the beginning
    /// for `None`), whose sink named `parts`. Changes nothing.
    pub(crate) fn check(folder: &Path, from: Option<Epoch>, parts: &[Part]) -> Result<(), OutputError> {
        inspect(folder, from, parts).map(drop)
    }

    /// Opens a worker's output for `run`, which starts from checkpoint `from` (from the beginning
    /// for `None`), whose sink named `parts`. Afterwards these are committed, and nothing else is
    /// there. After an error nothing has changed, unless it is [`OutputError::Io`].
    pub(crate) fn open(folder: &Path, run: RunId, from: Option<Epoch>, parts: &[Part]) -> Result<Self, OutputError> {
        let Rest { pending, garbage } = inspect(folder, from, parts)?;
        durable::create_folder(folder).map_err(|error| failed(folder, error))?;
        let mut committed = parts.to_vec();
        committed.sort_unstable();
        let output =
            Self { folder: folder.to_owned(), run, committed, pending: Vec::new(), told: from, merged: Vec::new() };
        for part in pending {
            output.rename(part)?;
        }
        for path in garbage {
            output.remove(&path)?;
        }
        Ok(output)
    }

    /// The first phase: makes the counts up to the barrier of `epoch` durable, to be committed
    /// later. Without any word there is no part.
    pub(crate) fn pre_commit(&mut self, epoch: Epoch, counts: &Counts) -> Result<(), OutputError> {
        self.told = self.told.max(Some(epoch));
        if counts.is_empty() {
            return Ok(());
        }
        let contents = table::lines(counts);
        let part = Part::new(epoch, self.run, Span::Counts, &contents);
        if let Some(name) = part.pending() {
            durable::write(&self.folder.join(name), &contents).map_err(|error| failed(&self.folder, error))?;
        }
        self.pending.push(part);
        Ok(())
    }

    /// The parts that make up the output once the checkpoint of the last barrier is complete.
    pub(crate) fn parts(&self) -> Vec<Part> {
        [&*self.committed, &self.pending].concat()
    }

    /// Those of them that are still to be committed.
    pub(crate) fn pending(&self) -> &[Part] {
        &self.pending
    }

    /// The second phase, when the checkpoint of `epoch` is complete: makes `parts` count. Those
    /// that do already stay as they are.
    pub(crate) fn commit(&mut self, epoch: Epoch, parts: &[Part]) -> Result<(), OutputError> {
        for &part in parts {
            if let Some(at) = self.pending.iter().position(|&pending| pending == part) {
                self.rename(part)?;
                self.committed.push(self.pending.remove(at));
            } else if self.committed.last().is_none_or(|newest| newest.epoch < part.epoch) {
                return Err(missing(&self.folder, part));
            }
        }
        // This checkpoint names the base in their place.
        let (done, named) = self.merged.drain(..).partition(|&(named, _)| named < Some(epoch));
        self.merged = named;
        let done: Vec<_> = done;
        for (_, part) in done {
            self.remove(&self.folder.join(part.file()))?;
        }
        self.merge_if(MANY)
    }

    /// All committed counts.
    pub(crate) fn totals(&self) -> Result<Counts, OutputError> {
        let mut totals = Counts::default();
        for &part in &self.committed {
            let path = self.folder.join(part.file());
            let contents = read(&self.folder, &path)?.ok_or_else(|| missing(&self.folder, part))?;
            if let Some(got) = part.difference(&contents) {
                return Err(OutputError::WrongPart { path, expected: part, got });
            }
            totals.merge(table::decode(&contents).map_err(|problem| OutputError::Damaged { path, problem })?);
        }
        Ok(totals)
    }

    /// Merges all committed counts into one base, if there are `at_least` so many files of them.
    fn merge_if(&mut self, at_least: usize) -> Result<(), OutputError> {
        let Some(newest) = self.committed.last().filter(|_| self.committed.len() >= at_least) else { return Ok(()) };
        let contents = table::lines(&self.totals()?);
        let base = Part::new(newest.epoch, self.run, Span::Base, &contents);
        // Nobody trusts it before a complete checkpoint names it.
        durable::write(&self.folder.join(base.file()), &contents).map_err(|error| failed(&self.folder, error))?;
        let merged = std::mem::replace(&mut self.committed, vec![base]);
        self.merged.extend(merged.into_iter().map(|part| (self.told, part)));
        Ok(())
    }

    fn rename(&self, part: Part) -> Result<(), OutputError> {
        let Some(pending) = part.pending() else { return Ok(()) };
        match durable::rename(&self.folder.join(pending), &self.folder.join(part.file())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(&self.folder, part)),
            renamed => renamed.map_err(|error| failed(&self.folder, error)),
        }
    }

    /// Deletes a file that nothing needs. It is not synced: where a crash brings it back, the next
    /// run deletes it.
    fn remove(&self, path: &Path) -> Result<(), OutputError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&self.folder, error)),
            _ => Ok(()),
        }
    }
}

/// Compares a folder with the checkpoint that a run starts from.
fn inspect(folder: &Path, from: Option<Epoch>, parts: &[Part]) -> Result<Rest, OutputError> {
    let names = names(folder)?;
    let epochs = names.iter().filter_map(|name| match Named::parse(name)? {
        Named::Committed(epoch) => Some(epoch),
        Named::Pending => None,
    });
    if let Some(committed) = epochs.max().filter(|&newest| Some(newest) > from) {
        return Err(OutputError::Ahead { folder: folder.to_owned(), committed, from });
    }
    let mut rest = Rest::default();
    for &part in parts {
        let committed = folder.join(part.file());
        let mut found = read(folder, &committed)?.map(|contents| (committed, contents));
        if let (None, Some(name)) = (&found, part.pending()) {
            let pending = folder.join(name);
            found = read(folder, &pending)?.map(|contents| (pending, contents));
            rest.pending.extend(found.is_some().then_some(part));
        }
        let (path, contents) = found.ok_or_else(|| missing(folder, part))?;
        if let Some(got) = part.difference(&contents) {
            return Err(OutputError::WrongPart { path, expected: part, got });
        }
    }
    let committed = parts.iter().map(|part| part.file());
    let needed: Vec<_> = committed.chain(rest.pending.iter().filter_map(|part| part.pending())).collect();
    let garbage = names.into_iter().filter(|name| Named::parse(name).is_some() && !needed.contains(name));
    rest.garbage = garbage.map(|name| folder.join(name)).collect();
    Ok(rest)
}

fn names(folder: &Path) -> Result<Vec<String>, OutputError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed(folder, error))?,
    };
    // A name that is not UTF-8 is not ours.
    let names = entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose());
    names.collect::<Result<_, _>>().map_err(|error| failed(folder, error))
}

/// The contents of a file; `None` if it does not exist.
fn read(folder: &Path, path: &Path) -> Result<Option<Vec<u8>>, OutputError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        contents => contents.map(Some).map_err(|error| failed(folder, error)),
    }
}

fn missing(folder: &Path, part: Part) -> OutputError {
    OutputError::WrongPart { path: folder.join(part.file()), expected: part, got: "no file".to_owned() }
}

fn failed(folder: &Path, source: io::Error) -> OutputError {
    OutputError::Io { folder: folder.to_owned(), source }
}

/// Writes what several workers have committed to one table for people, sorted by word.
pub(crate) fn merge(outputs: &[Output], path: &Path) -> Result<(), OutputError> {
    let mut totals = Counts::default();
    for output in outputs {
        totals.merge(output.totals()?);
    }
    durable::replace(path, &table::lines(&totals)).map_err(|error| failed(path, error))
}

#[cfg(test)]
mod tests;
