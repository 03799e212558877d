//! Why output can't be written or trusted.

use std::{io, path::PathBuf};

use winddown::{Epoch, RunId};

use super::Part;

/// Why output can't be written or trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// The operating system says so.
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
    /// A part is missing, or its file holds something else.
    #[error(
        "`{}` is not the part of the output that the checkpoint names: expected {expected}, got {got}; restore this file \
         from a backup, or start over with --fresh",
        path.display()
    )]
    WrongPart {
        /// The file.
        path: PathBuf,
        /// What the checkpoint names.
        expected: Part,
        /// What is there.
        got: String,
    },
    /// A file is what was written, and holds no counts.
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
    /// A checkpoint has a snapshot or commit data that no sink wrote.
    #[error("the parts of the output that the checkpoint names can't be understood: {0}; start over with --fresh")]
    Snapshot(String),
}
