//! A [`PhaseRecord`] as text: a line of JSON in an [`Envelope`].
//!
//! ```text
//! winddown-journal 1 <length of the body> <CRC-32 of the body>⏎
//! {"job":"words","run":3,"revision":2,"phase":"checkpoint-stopping","requested":"checkpoint",…}⏎
//! ```
//!
//! Phases and requests are written by their stable tags. A field or a tag more is a new [`PhaseRecord::VERSION`]: what this version does not
//! know is not passed over, since it may be what forbids a step.

use std::{borrow::Cow, fmt::Write as _, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    contracts::{Epoch, JobId, RunId, StopRequest},
    envelope::{Envelope, Mismatch, Unsound},
    machine::{JournalError, PhaseKind, PhaseRecord},
};

const ENVELOPE: Envelope = Envelope::new("winddown-journal", PhaseRecord::VERSION);

/// The last second that RFC 3339 can name, 9999-12-31T23:59:59Z, in seconds since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// [`PhaseRecord`] as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    job: JobId,
    run: RunId,
    revision: u64,
    #[serde(borrow)]
    phase: Cow<'a, str>,
    requested: Option<Cow<'a, str>>,
    final_epoch: Option<Epoch>,
    last_complete: Option<Epoch>,
    killed_workers: bool,
    attempt: u32,
    at: String,
}

/// The record as text.
pub(super) fn encode(record: &PhaseRecord) -> Result<String, JournalError> {
    let unavailable = |error| JournalError::Unavailable(error);
    let body = Body {
        job: record.job.clone(),
        run: record.run,
        revision: record.revision,
        phase: record.phase.tag().into(),
        requested: record.requested.map(|request| request.name().into()),
        final_epoch: record.final_epoch,
        last_complete: record.last_complete,
        killed_workers: record.killed_workers,
        attempt: record.attempt,
        at: time_as_text(record.at)?,
    };
    let mut body = serde_json::to_vec(&body).map_err(|error| unavailable(error.into()))?;
    // So that a terminal shows it as a line.
    body.push(b'\n');
    String::from_utf8(ENVELOPE.seal(&body)).map_err(|error| unavailable(error.into()))
}

/// The record of `job` that `text` is.
pub(super) fn decode(text: &[u8], job: &JobId) -> Result<PhaseRecord, Unsound> {
    let body = ENVELOPE.open(text)?;
    let body: Body<'_> = serde_json::from_slice(body)
        .map_err(|error| Mismatch::new("a phase record as JSON", format!("JSON that is none: {error}")))?;
    if body.job != *job {
        return Err(Mismatch::new(format!("a record of job `{job}`"), format!("one of job `{}`", body.job)).into());
    }
    let phase = PhaseKind::from_tag(&body.phase)
        .ok_or_else(|| Mismatch::new("the tag of a phase", format!("`{}`", body.phase.escape_debug())))?;
    let requested = body.requested.map(|name| name.parse::<StopRequest>()).transpose();
    let requested = requested.map_err(|error| Mismatch::new("a stop request or null", error.to_string()))?;
    let at = humantime::parse_rfc3339(&body.at)
        .map_err(|error| Mismatch::new("a time after RFC 3339", format!("`{}`: {error}", body.at.escape_debug())))?;
    Ok(PhaseRecord {
        job: body.job,
        run: body.run,
        revision: body.revision,
        phase,
        requested,
        final_epoch: body.final_epoch,
        last_complete: body.last_complete,
        killed_workers: body.killed_workers,
        attempt: body.attempt,
        at,
    })
}

/// To the nanosecond: a record that is read back is the one that was written.
fn time_as_text(at: SystemTime) -> Result<String, JournalError> {
    let nameable = at.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() <= LAST_SECOND);
    if !nameable {
        let error = format!("expected a time between the years 1970 and 9999, got {at:?}: set the controller's clock");
        return Err(JournalError::Unavailable(error.into()));
    }
    Ok(humantime::format_rfc3339_nanos(at).to_string())
}

/// What is said of a record that can't be trusted.
pub(super) fn refusal(unsound: Unsound, job: &JobId, place: String) -> JournalError {
    let job = job.clone();
    match unsound {
        Unsound::Newer(got) => JournalError::NewerVersion { job, got },
        Unsound::Damaged(Mismatch { expected, got }) => JournalError::Corrupt { job, place, expected, got },
    }
}

/// How many characters a [`key`] has at most, so that a file system and an index take it with an ending.
const LONGEST_KEY: usize = 200;

/// A name for `job` of letters, digits and `-_.%~` only. Another job has another one, and the record says whose it is.
pub(super) fn key(job: &JobId) -> String {
    let mut key = escaped(job.as_str(), "-_.");
    if key.len() > LONGEST_KEY {
        // `~` is in no name that was not cut. Two long names can have one key by bad luck; the record of one is then refused to the other.
        let (length, sum) = (job.as_str().len(), crc32fast::hash(job.as_str().as_bytes()));
        key.truncate(LONGEST_KEY - 40);
        let _ = write!(key, "~{length}-{sum:08x}");
    }
    key
}

/// `text` with everything but letters, digits and `kept` as `%XX`, as in a URL.
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
