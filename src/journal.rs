//! Journals of shutdowns in a local folder, SQLite or PostgreSQL.
//!
//! A [`Journal`] keeps the newest [`PhaseRecord`] of each job, so that the next controller after a
//! crash knows how far the shutdown got (invariant I7).
//!
//! - `FileJournal` (feature `journal`): one file per job. For controllers on one machine.
//! - `SqlJournal` (feature `sqlx`): one row per job. SQLite for controllers on one machine,
//!   PostgreSQL for controllers anywhere.
//! - [`NoJournal`]: explicitly none.
//!
//! # The format
//!
//! All of them write the same human-readable text:
//!
//! ```text
//! winddown-journal 1 241 5f3a90c2
//! {"job":"words","run":3,"revision":2,"phase":"checkpoint-stopping","requested":"checkpoint","final_epoch":17,…}
//! ```
//!
//! The first line contains the version of the format, and the length and CRC-32 of the rest. A
//! truncated or altered record, or one of another job, is [`JournalError::Corrupt`]; one of a newer
//! version is [`JournalError::NewerVersion`]. Neither is ever overwritten.
//!
//! # Why two controllers can't both advance a job (invariant I11)
//! A write is a compare-and-set. It reads the stored record, checks that the new one may follow it
//! ([`may_write`]), and replaces it only if it has not changed: in a folder because the job's file
//! is locked from the read to the replacement, in a database because the writing statement requires
//! the text that was read. Of two controllers that write the same revision, one gets
//! [`JournalError::Conflict`].

#[cfg(feature = "journal")]
mod file;
#[cfg(any(feature = "journal", feature = "sqlx"))]
mod format;
#[cfg(feature = "journal")]
mod inspect;
#[cfg(feature = "sqlx")]
mod sql;
// Two attributes, because clippy recognises a test module only if `test` stands alone.
#[cfg(any(feature = "journal", feature = "sqlx"))]
#[cfg(test)]
mod tests;

#[cfg(feature = "journal")]
pub use file::FileJournal;
#[cfg(feature = "journal")]
pub use inspect::{FoundRecord, inspect};
#[cfg(feature = "sqlx")]
pub use sql::SqlJournal;

pub use crate::machine::record::{
    BoxJournal, DynJournal, Journal, JournalError, NoJournal, PhaseRecord, Write, may_write,
};

/// Whether these bytes are a record, as they are or under a header that is right. What is one is
/// the same when it is written and read again.
#[cfg(any(feature = "journal", feature = "sqlx"))]
#[cfg(test)]
pub(crate) fn takes(bytes: &[u8]) -> bool {
    let job = crate::contracts::JobId::from("words");
    let body = bytes.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or(bytes);
    [bytes.to_vec(), format::sealed(body)].iter().any(|text| {
        let Ok(record) = format::decode(text, &job) else { return false };
        let again = format::encode(&record).unwrap();
        assert!(format::decode(again.as_bytes(), &job).is_ok_and(|it| it == record), "{again}");
        true
    })
}
