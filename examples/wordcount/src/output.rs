//! The sink's files: exactly-once output by a two-phase commit.
//!
//! Each worker has its own folder. Between two barriers the sink collects counts; at a barrier
//! these become a *transaction*: a separate file, durable but *pending* (the first phase). Once the
//! checkpoint is durable, the file is renamed to its *committed* name (the second phase). The
//! worker's output is the sum of its committed files:
//!
//! | file | meaning |
//! |---|---|
//! | `EPOCH-RUN.pending` | the counts between the previous barrier and that of `EPOCH`; without effect until the checkpoint is complete |
//! | `EPOCH-RUN.counts` | the same, committed |
//! | `EPOCH.base` | all committed counts up to `EPOCH`, merged into one file; older bases and counts up to `EPOCH` have no effect any more |
//! | `….tmp` | a file that was being written; it has no meaning |
//!
//! Why a crash at any moment loses and duplicates nothing: a run starts from a complete checkpoint.
//! First [`Output::open`] renames the transactions that the checkpoint names (if they have not been
//! renamed yet), and deletes every other pending file, because its input is read again. A base
//! takes effect in one rename.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use winddown::{Epoch, RunId};

use crate::{durable, table, words::Counts};

/// More committed files than this are merged into the base while the job runs.
const MANY: usize = 64;

/// One transaction of one sink, as its checkpoint names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Transaction {
    /// The checkpoint at whose barrier it ended.
    pub(crate) epoch: Epoch,
    /// The run that wrote it: a run that failed before its checkpoint was complete leaves a file of the same epoch.
    pub(crate) run: RunId,
}

impl Transaction {
    /// The transactions in the commit data of a snapshot.
    pub(crate) fn decode(commit: &[u8]) -> Result<Vec<Self>, OutputError> {
        serde_json::from_slice(commit).map_err(|error| OutputError::CommitData(error.to_string()))
    }

    /// The commit data that names `transactions`.
    pub(crate) fn encode(transactions: &[Self]) -> Result<Vec<u8>, OutputError> {
        serde_json::to_vec(transactions).map_err(|error| OutputError::CommitData(error.to_string()))
    }

    fn file(self, ending: &str) -> String {
        format!("{:020}-{}.{ending}", self.epoch.get(), self.run.get())
    }
}

/// Why the output can't be written or trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// An error of the operating system.
    #[error("output in `{}`: {source}", folder.display())]
    Io {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Committed output is ahead of the checkpoint.
    #[error(
        "`{}` holds committed output of epoch {committed}, but the run starts from {}: going on would count words twice; \
         restore the checkpoints of the state directory, or start over with --fresh",
        folder.display(), from.map_or_else(|| "the beginning".to_owned(), |epoch| format!("epoch {epoch}"))
    )]
    Ahead {
        /// The folder.
        folder: PathBuf,
        /// The newest committed epoch.
        committed: Epoch,
        /// The checkpoint that the run starts from.
        from: Option<Epoch>,
    },
    /// A transaction that the checkpoint names is gone.
    #[error(
        "`{}` lacks the output of {}, which the checkpoint names; restore it, or start over with --fresh",
        folder.display(), transaction.epoch
    )]
    Lost {
        /// The folder.
        folder: PathBuf,
        /// What is missing.
        transaction: Transaction,
    },
    /// The content of a file is not what was written.
    #[error("`{}` is damaged: {problem}; restore it, or start over with --fresh", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another worker writes to the folder.
    #[error("`{}` is in use by another worker, left over from an earlier run: end that process, then try again", folder.display())]
    Held {
        /// The folder.
        folder: PathBuf,
    },
    /// A newer run has written to the folder.
    #[error("`{}` belongs to run {newer} by now, so the worker of run {run} writes nothing more to it", folder.display())]
    Superseded {
        /// The folder.
        folder: PathBuf,
        /// The run that the folder belongs to.
        newer: RunId,
        /// The run that came too late.
        run: RunId,
    },
    /// A checkpoint has commit data that no sink wrote.
    #[error("the sink's commit data can't be understood: {0}")]
    CommitData(String),
}

/// The files in a worker's folder.
#[derive(Debug, Default)]
struct Listing {
    /// The newest base.
    base: Option<Epoch>,
    /// Committed transactions that are not in the base, oldest first.
    committed: Vec<Transaction>,
    pending: Vec<Transaction>,
    /// Files without effect.
    garbage: Vec<PathBuf>,
}

impl Listing {
    fn newest(&self) -> Option<Epoch> {
        self.committed.iter().map(|transaction| transaction.epoch).max().max(self.base)
    }
}

/// The output of one worker.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    folder: PathBuf,
}

impl Output {
    /// Opens a worker's output for a run that starts from checkpoint `from` (from the beginning for `None`), in which the sink
    /// named `transactions`. Afterwards the committed files contain exactly what the checkpoint
    /// says.
    pub(crate) fn open(
        folder: PathBuf,
        from: Option<Epoch>,
        transactions: &[Transaction],
    ) -> Result<Self, OutputError> {
        let output = Self { folder };
        durable::create_folder(&output.folder).map_err(|error| output.failed(error))?;
        let found = output.list()?;
        if let Some(committed) = found.newest().filter(|&newest| Some(newest) > from) {
            return Err(OutputError::Ahead { folder: output.folder, committed, from });
        }
        output.commit(transactions)?;
        let pending = found.pending.iter().filter(|transaction| !transactions.contains(transaction));
        for transaction in pending {
            output.remove(&output.path(&transaction.file("pending")))?;
        }
        for path in &found.garbage {
            output.remove(path)?;
        }
        output.fold(1)?;
        Ok(output)
    }

    /// The first phase: makes the counts of a transaction durable, to be committed later.
    pub(crate) fn pre_commit(&self, transaction: Transaction, counts: &Counts) -> Result<(), OutputError> {
        let path = self.path(&transaction.file("pending"));
        durable::write(&path, &table::encode(counts)).map_err(|error| self.failed(error))
    }

    /// The second phase: commits transactions. Committed ones stay as they are.
    pub(crate) fn commit(&self, transactions: &[Transaction]) -> Result<(), OutputError> {
        for &transaction in transactions {
            let committed = self.path(&transaction.file("counts"));
            match durable::rename(&self.path(&transaction.file("pending")), &committed) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let folded = || Ok::<_, OutputError>(self.list()?.base >= Some(transaction.epoch));
                    if !committed.exists() && !folded()? {
                        return Err(OutputError::Lost { folder: self.folder.clone(), transaction });
                    }
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// Keeps the number of files small in a long run. Nothing may be pending that is older than what is committed.
    pub(crate) fn fold_if_many(&self) -> Result<(), OutputError> {
        self.fold(MANY)
    }

    /// All committed counts.
    pub(crate) fn totals(&self) -> Result<Counts, OutputError> {
        self.add_up(&self.list()?)
    }

    /// Merges all committed counts into one base, if there are `at_least` so many files of them.
    fn fold(&self, at_least: usize) -> Result<(), OutputError> {
        let found = self.list()?;
        let Some(newest) = found.committed.last().filter(|_| found.committed.len() >= at_least) else { return Ok(()) };
        let totals = self.add_up(&found)?;
        // From this rename on the older files have no effect; until then the new base does not
        // exist.
        durable::replace(&self.path(&base_file(newest.epoch)), &table::encode(&totals))
            .map_err(|error| self.failed(error))?;
        for path in self.list()?.garbage {
            self.remove(&path)?;
        }
        Ok(())
    }

    fn add_up(&self, found: &Listing) -> Result<Counts, OutputError> {
        let base = found.base.map(base_file);
        let committed = found.committed.iter().map(|transaction| transaction.file("counts"));
        let mut totals = Counts::default();
        for name in base.into_iter().chain(committed) {
            let path = self.path(&name);
            let contents = fs::read(&path).map_err(|error| self.failed(error))?;
            totals.merge(table::decode(&contents).map_err(|problem| OutputError::Damaged { path, problem })?);
        }
        Ok(totals)
    }

    fn list(&self) -> Result<Listing, OutputError> {
        let mut found = Listing::default();
        let mut bases = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|error| self.failed(error))? {
            let path = entry.map_err(|error| self.failed(error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((stem, ending)) = name.rsplit_once('.') else { continue };
            match (ending, parse(stem)) {
                (durable::UNFINISHED, _) => found.garbage.push(path),
                ("base", Some((epoch, None))) => bases.push(epoch),
                ("pending", Some((epoch, Some(run)))) => found.pending.push(Transaction { epoch, run }),
                ("counts", Some((epoch, Some(run)))) => found.committed.push(Transaction { epoch, run }),
                _ => {}
            }
        }
        found.base = bases.iter().copied().max();
        bases.retain(|&base| Some(base) != found.base);
        found.garbage.extend(bases.into_iter().map(|base| self.path(&base_file(base))));
        let (folded, live) = found.committed.iter().partition(|transaction| Some(transaction.epoch) <= found.base);
        found.committed = live;
        found.committed.sort_unstable();
        let folded: Vec<Transaction> = folded;
        found.garbage.extend(folded.into_iter().map(|transaction| self.path(&transaction.file("counts"))));
        Ok(found)
    }

    fn remove(&self, path: &Path) -> Result<(), OutputError> {
        durable::remove(path).map_err(|error| self.failed(error))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn failed(&self, source: io::Error) -> OutputError {
        OutputError::Io { folder: self.folder.clone(), source }
    }
}

fn base_file(epoch: Epoch) -> String {
    format!("{:020}.base", epoch.get())
}

/// `EPOCH` or `EPOCH-RUN`.
fn parse(stem: &str) -> Option<(Epoch, Option<RunId>)> {
    let (epoch, run) = match stem.split_once('-') {
        Some((epoch, run)) => (epoch, Some(RunId::new(run.parse().ok()?))),
        None => (stem, None),
    };
    Some((Epoch::new(epoch.parse().ok()?), run))
}

/// Writes what several workers have committed to one table for people, sorted by word.
pub(crate) fn merge(outputs: &[Output], path: &Path) -> Result<(), OutputError> {
    let mut totals = Counts::default();
    for output in outputs {
        totals.merge(output.totals()?);
    }
    durable::replace(path, &table::lines(&totals)).map_err(|source| OutputError::Io { folder: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
