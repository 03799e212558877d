//! Records of a shutdown, so that it survives the crash of its controller.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    contracts::{BoxError, BoxFuture, Epoch, JobId, RunId, StopRequest},
    machine::PhaseKind,
};

/// The record that is written before a phase's first effect (invariant I7).
///
/// It is a claim, not a proof: [`rehydrate`](crate::drive::rehydrate) loads it from the journal,
/// and checks it against the checkpoint store and the scheduler before it becomes a phase. Only a
/// job's context creates one. Your own [`Journal`] stores it through serde; that form does not
/// change within a [`VERSION`](Self::VERSION):
///
/// ```
/// use winddown::journal::PhaseRecord;
///
/// let text = r#"{"job":"words","run":3,"revision":2,"phase":"checkpoint-stopping","requested":"checkpoint","final_epoch":7,
///     "last_complete":6,"killed_workers":false,"attempt":1,"at":"2026-01-01T00:00:00.000000000Z"}"#;
/// let record: PhaseRecord = serde_json::from_str(text)?;
/// assert_eq!((record.job().as_str(), record.revision()), ("words", 2));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Body", try_from = "Body")]
pub struct PhaseRecord {
    pub(crate) job: JobId,
    pub(crate) run: RunId,
    pub(crate) revision: u64,
    pub(crate) phase: PhaseKind,
    pub(crate) requested: Option<StopRequest>,
    pub(crate) final_epoch: Option<Epoch>,
    pub(crate) last_complete: Option<Epoch>,
    pub(crate) killed_workers: bool,
    pub(crate) attempt: u32,
    pub(crate) at: SystemTime,
}

impl PhaseRecord {
    /// The version of the record's meaning. A journal stores it, and refuses a newer one.
    pub const VERSION: u32 = 1;

    /// The job.
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Increases by one with every record of a run; the first is 1. [`Journal::write`] compares it.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The phase that is about to act, or the terminal one that has been proven.
    pub fn phase(&self) -> PhaseKind {
        self.phase
    }

    /// The strongest stop request so far.
    pub fn requested(&self) -> Option<StopRequest> {
        self.requested
    }

    /// The final checkpoint's epoch, once it is known.
    pub fn final_epoch(&self) -> Option<Epoch> {
        self.final_epoch
    }

    /// The last complete checkpoint that the controller knew of.
    pub fn last_complete(&self) -> Option<Epoch> {
        self.last_complete
    }

    /// Whether workers had to be killed; meaningful for terminal phases.
    pub fn killed_workers(&self) -> bool {
        self.killed_workers
    }

    /// How many controllers have driven this run: 1, and one more with each rehydration.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When it was written, by the controller's clock; for information only.
    pub fn at(&self) -> SystemTime {
        self.at
    }
}

/// The serialised form of [`PhaseRecord`], with phases and requests by their stable tags. An
/// additional field or tag requires a new [`PhaseRecord::VERSION`]: unknown content is not ignored,
/// because it may forbid a step.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    job: JobId,
    run: RunId,
    revision: u64,
    phase: String,
    requested: Option<String>,
    final_epoch: Option<Epoch>,
    last_complete: Option<Epoch>,
    killed_workers: bool,
    attempt: u32,
    at: String,
}

/// The last second that RFC 3339 can express, 9999-12-31T23:59:59Z, in seconds since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

impl From<PhaseRecord> for Body {
    fn from(record: PhaseRecord) -> Self {
        Self {
            job: record.job,
            run: record.run,
            revision: record.revision,
            phase: record.phase.tag().into(),
            requested: record.requested.map(|request| request.name().into()),
            final_epoch: record.final_epoch,
            last_complete: record.last_complete,
            killed_workers: record.killed_workers,
            attempt: record.attempt,
            // To the nanosecond, so that a record that is read back equals the one that was
            // written.
            at: humantime::format_rfc3339_nanos(nameable(record.at)).to_string(),
        }
    }
}

/// The representable time nearest to `at`. It is for information only, so a wrong clock does not
/// prevent the record.
fn nameable(at: SystemTime) -> SystemTime {
    let first = SystemTime::UNIX_EPOCH;
    at.clamp(first, first + Duration::new(LAST_SECOND, 999_999_999))
}

/// What is wrong with the parts of a record.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}, got {got}")]
struct Malformed {
    expected: &'static str,
    got: String,
}

impl TryFrom<Body> for PhaseRecord {
    type Error = Malformed;

    fn try_from(body: Body) -> Result<Self, Malformed> {
        let malformed = |expected, got| Malformed { expected, got };
        let phase = PhaseKind::from_tag(&body.phase)
            .ok_or_else(|| malformed("the tag of a phase", format!("`{}`", body.phase.escape_debug())))?;
        let requested = body.requested.map(|name| name.parse::<StopRequest>()).transpose();
        let requested = requested.map_err(|error| malformed("a stop request or null", error.to_string()))?;
        let at = humantime::parse_rfc3339(&body.at)
            .map_err(|error| malformed("a time after RFC 3339", format!("`{}`: {error}", body.at.escape_debug())))?;
        Ok(Self {
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
}

/// Keeps the newest [`PhaseRecord`] of each job.
///
/// # What an implementer must keep
/// - [`write`](Self::write) returns `Ok` only when the complete record survives a crash of
///   everything.
/// - It is atomic: a reader sees the old record or the new one.
/// - **Compare-and-set.** A record is written if the job has none, if the stored one is of an older
///   run and the new one has revision 1, or if the stored one is of the same run and has the
///   previous revision. Anything else is [`JournalError::Conflict`] and changes nothing: another
///   controller has taken the job over.
/// - Writing the same record again is `Ok`: the answer to the first write may have been lost.
/// - [`load`](Self::load) never skips a record that it can't read: that is
///   [`JournalError::Corrupt`], or [`JournalError::NewerVersion`]. [`write`](Self::write) returns
///   the same error, and never overwrites it.
/// - Each job has its own record, whatever its name.
///
/// `testing::conformance::journal` (feature `testing`) checks this.
pub trait Journal: Send + Sync {
    /// The newest record of `job`.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] and [`JournalError::NewerVersion`] if the record can't be trusted;
    /// others if the journal can't be read.
    ///
    /// # Cancel safety
    /// It only reads.
    fn load(&self, job: &JobId) -> impl Future<Output = Result<Option<PhaseRecord>, JournalError>> + Send;

    /// Makes `record` the newest of its job.
    ///
    /// # Errors
    /// [`JournalError::Conflict`] if another controller has written first; others if the journal
    /// can't be written.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have written; writing the same record again is safe.
    fn write(&self, record: &PhaseRecord) -> impl Future<Output = Result<(), JournalError>> + Send;
}

/// Why a call of a journal failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It is temporarily unavailable.
    #[error("the journal is unavailable: {0}")]
    Unavailable(BoxError),
    /// Another controller has written since.
    #[error("{}", Conflict(wrote, found))]
    Conflict {
        /// The revision to be written.
        wrote: Box<PhaseRecord>,
        /// The stored revision.
        found: Box<PhaseRecord>,
    },
    /// The content of the record is not what was written.
    #[error(
        "the journal's record of job `{job}` at `{place}` is corrupt: expected {expected}, got {got}; restore it, or remove it once no worker of the job is alive"
    )]
    Corrupt {
        /// The job.
        job: JobId,
        /// Where the record is.
        place: String,
        /// What an intact record contains.
        expected: String,
        /// What this one contains.
        got: String,
    },
    /// The record was written by a newer winddown.
    #[error(
        "the journal's record of job `{job}` has version {got}, and this winddown knows up to {}; upgrade the controller",
        PhaseRecord::VERSION
    )]
    NewerVersion {
        /// The job.
        job: JobId,
        /// The record's version.
        got: u32,
    },
    /// It did not answer in time.
    #[error("the journal did not answer within {}", crate::text::rounded(*after))]
    TimedOut {
        /// How long it was given.
        after: std::time::Duration,
    },
}

struct Conflict<'a>(&'a PhaseRecord, &'a PhaseRecord);

impl fmt::Display for Conflict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(wrote, found) = self;
        write!(
            f,
            "expected to write revision {} of run {} of job `{}`, got revision {} of run {} ({}) there: another controller has taken the job over; stop \
             this one",
            wrote.revision, wrote.run, wrote.job, found.revision, found.run, found.phase
        )
    }
}

impl JournalError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::TimedOut { .. })
    }
}

/// Decides what [`Journal::write`] does with a record, given the stored one. Every implementation
/// should use this function.
///
/// # Errors
/// [`JournalError::Conflict`] if another controller has written first.
pub fn may_write(found: Option<&PhaseRecord>, record: &PhaseRecord) -> Result<Write, JournalError> {
    let Some(found) = found else {
        // If a record that is not the first finds none, the stored one was removed by hand. Writing
        // it is better than having none.
        return Ok(Write::Needed);
    };
    let follows = if found.run == record.run {
        found.revision.checked_add(1) == Some(record.revision)
    } else {
        found.run < record.run && record.revision == 1
    };
    if found == record {
        Ok(Write::AlreadyThere)
    } else if follows {
        Ok(Write::Needed)
    } else {
        Err(JournalError::Conflict { wrote: Box::new(record.clone()), found: Box::new(found.clone()) })
    }
}

/// The answer of [`may_write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Write it.
    Needed,
    /// This record is already stored.
    AlreadyThere,
}

/// The dyn-safe form of [`Journal`], implemented for every journal.
pub trait DynJournal: Send + Sync {
    /// [`Journal::load`], boxed.
    fn load_boxed<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<PhaseRecord>, JournalError>>;
    /// [`Journal::write`], boxed.
    fn write_boxed<'a>(&'a self, record: &'a PhaseRecord) -> BoxFuture<'a, Result<(), JournalError>>;
}

impl<J: Journal> DynJournal for J {
    fn load_boxed<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<PhaseRecord>, JournalError>> {
        Box::pin(self.load(job))
    }

    fn write_boxed<'a>(&'a self, record: &'a PhaseRecord) -> BoxFuture<'a, Result<(), JournalError>> {
        Box::pin(self.write(record))
    }
}

/// Any journal, chosen at run time: `let journal: BoxJournal = Arc::new(my_journal);`
///
/// It is a [`Journal`] itself, so it can be used wherever one is required, for example in
/// [`JobBuilder::journal`](crate::machine::JobBuilder::journal).
pub type BoxJournal = Arc<dyn DynJournal>;

/// Explicitly no journal: a shutdown is forgotten when its controller crashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NoJournal;

impl Journal for NoJournal {
    async fn load(&self, _: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        Ok(None)
    }

    async fn write(&self, _: &PhaseRecord) -> Result<(), JournalError> {
        Ok(())
    }
}

impl Journal for dyn DynJournal {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        self.load_boxed(job).await
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        self.write_boxed(record).await
    }
}

impl<J: Journal + ?Sized> Journal for Arc<J> {
    fn load(&self, job: &JobId) -> impl Future<Output = Result<Option<PhaseRecord>, JournalError>> + Send {
        J::load(self, job)
    }

    fn write(&self, record: &PhaseRecord) -> impl Future<Output = Result<(), JournalError>> + Send {
        J::write(self, record)
    }
}
