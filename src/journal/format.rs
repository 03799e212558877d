//! A [`PhaseRecord`] as text: a line of JSON in an [`Envelope`].
//!
//! ```text
//! winddown-journal 1 <length of the body> <CRC-32 of the body>⏎
//! {"job":"words","run":3,"revision":2,"phase":"checkpoint-stopping","requested":"checkpoint",…}⏎
//! ```
//!
//! Phases and requests are written by their stable tags. An additional field or tag requires a
//! new [`PhaseRecord::VERSION`]: unknown content is not ignored, because it may forbid a step.

use std::fmt::Write as _;

use crate::{
    contracts::JobId,
    envelope::{Envelope, Mismatch, Unsound},
    machine::{JournalError, PhaseRecord},
};

const ENVELOPE: Envelope = Envelope::new("winddown-journal", PhaseRecord::VERSION);

/// The record as text.
pub(super) fn encode(record: &PhaseRecord) -> Result<String, JournalError> {
    let unavailable = |error| JournalError::Unavailable(error);
    let mut body = serde_json::to_vec(record).map_err(|error| unavailable(error.into()))?;
    // So that a terminal shows it as a line of its own.
    body.push(b'\n');
    String::from_utf8(ENVELOPE.seal(&body)).map_err(|error| unavailable(error.into()))
}

/// Parses the record of `job` from `text`.
pub(super) fn decode(text: &[u8], job: &JobId) -> Result<PhaseRecord, Unsound> {
    let body = ENVELOPE.open(text)?;
    let record: PhaseRecord = serde_json::from_slice(body)
        .map_err(|error| Mismatch::new("a phase record as JSON", format!("JSON that is none: {error}")))?;
    if record.job != *job {
        return Err(Mismatch::new(format!("a record of job `{job}`"), format!("one of job `{}`", record.job)).into());
    }
    Ok(record)
}

/// Any body under a header that is right.
#[cfg(test)]
pub(super) fn sealed(body: &[u8]) -> Vec<u8> {
    ENVELOPE.seal(body)
}

/// The error for a record that can't be trusted.
pub(super) fn refusal(unsound: Unsound, job: &JobId, place: String) -> JournalError {
    let job = job.clone();
    match unsound {
        Unsound::Newer(got) => JournalError::NewerVersion { job, got },
        Unsound::Damaged(Mismatch { expected, got }) => JournalError::Corrupt { job, place, expected, got },
    }
}

/// The maximum length of a [`key`], so that file systems and indexes accept it with an extension.
const LONGEST_KEY: usize = 200;

/// A name for `job` that consists of letters, digits and `-_.%~` only. Different jobs have
/// different names, and the record contains the job's full name.
pub(super) fn key(job: &JobId) -> String {
    let mut key = escaped(job.as_str(), "-_.");
    if key.len() > LONGEST_KEY {
        // Only cut names contain `~`. Two long names may collide by chance; then the record of one
        // is refused to the other.
        let (length, sum) = (job.as_str().len(), crc32fast::hash(job.as_str().as_bytes()));
        key.truncate(LONGEST_KEY - 40);
        let _ = write!(key, "~{length}-{sum:08x}");
    }
    key
}

/// `text` with everything except letters, digits and `kept` percent-encoded.
pub(super) fn escaped(text: &str, kept: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.as_bytes().contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a string can't fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}
