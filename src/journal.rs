//! Where a shutdown is written down: in a local folder, in SQLite, in PostgreSQL.
//!
//! A [`Journal`] keeps the newest [`PhaseRecord`] of each job, so that the controller that comes after a crash finds out how
//! far the shutdown was (invariant I7).
//!
//! - `FileJournal` (feature `journal`): one file per job. For controllers on one machine.
//! - `SqlJournal` (feature `sqlx`): one row per job. SQLite for controllers on one machine, PostgreSQL for controllers anywhere.
//! - [`NoJournal`]: none, said aloud.
//!
//! # What is written
//! All of them write the same text, which a person can read:
//!
//! ```text
//! winddown-journal 1 241 5f3a90c2
//! {"job":"words","run":3,"revision":2,"phase":"checkpoint-stopping","requested":"checkpoint","final_epoch":17,…}
//! ```
//!
//! The first line holds the version of the format, and the length and CRC-32 of the rest. A record that was cut short, altered or put in the
//! place of another job's is [`JournalError::Corrupt`]; one of a newer version is
//! [`JournalError::NewerVersion`]. Neither is ever overwritten.
//!
//! # Why two controllers can't both advance a job (invariant I11)
//! A write compares and sets. Whoever reads the record before, and finds that it may be followed by the new one
//! ([`may_write`]), sets it only if it is still the same: in a folder because the job's file is locked from the reading to
//! the replacing, in a database because the statement that writes asks for the text that was read. Of two controllers that write the same
//! revision, one is told [`JournalError::Conflict`].

#[cfg(feature = "journal")]
mod file;
#[cfg(any(feature = "journal", feature = "sqlx"))]
mod format;
#[cfg(feature = "sqlx")]
mod sql;
// Two attributes: clippy takes a module for one of tests only if `test` stands alone.
#[cfg(any(feature = "journal", feature = "sqlx"))]
#[cfg(test)]
mod tests;

#[cfg(feature = "journal")]
pub use file::FileJournal;
#[cfg(feature = "sqlx")]
pub use sql::SqlJournal;

pub use crate::machine::record::{
    BoxJournal, DynJournal, Journal, JournalError, NoJournal, PhaseRecord, Write, may_write,
};

/// Whether these bytes are a record, as they are or under a header that is right. What is one is the same when it is written and read again.
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
