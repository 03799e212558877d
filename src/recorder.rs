//! The recorder: a bounded record of one job's shutdown, to read afterwards.
//!
//! A [`Recorder`] appends lines of JSON to one file: the phases and why they were entered, the
//! requests, the figures, and [who held the stop up](crate::why). The next controller of the run
//! appends to the same file; the crash between the two is a gap. The program `winddown` reads it
//! (`winddown why FILE`, `winddown timeline FILE`), and so do [`read`] and a person:
//!
//! ```text
//! {"v":1,"at":"2026-01-01T00:00:00.000Z","entry":{"kind":"opened","job":"words","run":7,"phase":"running"}}
//! {"v":1,"at":"2026-01-01T00:01:02.481Z","entry":{"kind":"phase","phase":"checkpoint-stopping","reason":…}}
//! ```
//!
//! # It never holds a stop up
//! Following a job costs one look per second, and nothing per worker message. A thread of its own
//! writes; the queue to it holds [`QUEUE`](Recorder::QUEUE) lines, and one that finds it full is
//! dropped and counted. A full disk, a folder that can't be written or a disk that hangs changes
//! nothing about the stop; [`Recorder::problem`] tells.
//!
//! # It is bounded
//! The file is at most [`MOST`](Recorder::MOST) bytes long. What does not fit is dropped and
//! counted; the last [`RESERVE`](Recorder::RESERVE) bytes are kept for phases.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use winddown::{prelude::*, recorder::{Recorder, read}, testing::scripted::ScriptedScheduler};
//!
//! # let folder = tempfile::tempdir()?;
//! let path = folder.path().join("words-1.jsonl");
//! let open = OpenRun::without_store("words", RunId::new(1));
//! let (mut job, running) = JobContext::new(&open, Detached, ScriptedScheduler::new([1]))?;
//! let recorder = Recorder::open(&path);
//! recorder.follow(&job);
//! drop(drive(running, &mut job, &Policy::escalate()).await?);
//! assert!(recorder.finish(Duration::from_secs(10)).await, "all is written");
//! assert_eq!(read(&path)?.phases().last(), Some(PhaseKind::StoppedKilled));
//! # Ok(())
//! # }
//! ```

mod read;
// Two attributes, because clippy recognises a test module only if `test` stands alone.
#[cfg(feature = "testing")]
#[cfg(test)]
mod tests;
mod write;

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

pub use read::{Record, read};

use self::write::{Shared, write};
use crate::{
    contracts::{JobId, RunId, RunStatus, StopRequest},
    machine::{JobContext, PhaseKind, Progress, Reason, Visit},
    why::{Undone, Who, Why},
};

/// How often a job is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Records shutdowns in a file.
#[derive(Debug)]
pub struct Recorder {
    lines: SyncSender<Line>,
    shared: Arc<Shared>,
    written: oneshot::Receiver<()>,
}

/// A line of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Line {
    /// The version of the format.
    pub v: u32,
    /// When it happened, after RFC 3339, by the controller's clock.
    pub at: String,
    /// What happened.
    pub entry: Entry,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Entry {
    /// A controller began to record this run.
    Opened {
        /// The job.
        job: JobId,
        /// The run.
        run: RunId,
        /// The phase that it was in.
        phase: PhaseKind,
    },
    /// A phase was entered.
    Phase {
        /// The phase.
        phase: PhaseKind,
        /// Why.
        reason: Reason,
    },
    /// A stop was requested, or a stronger one.
    Requested {
        /// The strongest request so far.
        request: StopRequest,
    },
    /// The figures have changed.
    Figures {
        /// Tasks, checkpoint, workers.
        status: RunStatus,
        /// Workers that the scheduler listed when it was last asked.
        alive: Option<u32>,
        /// Retries used so far.
        retries: u32,
        /// The last error; it may hold text of a worker.
        error: Option<Arc<str>>,
    },
    /// Somebody else holds the stop up, or nobody does any more.
    Why {
        /// Who.
        why: Why,
    },
    /// The controller has let the job go before it had stopped.
    LetGo,
    /// Lines were dropped, because the disk was slow or the file is full.
    Dropped {
        /// How many so far.
        lines: u64,
    },
}

impl Recorder {
    /// The version of the format. Reading skips the lines of a newer one, and counts them.
    pub const VERSION: u32 = 1;
    /// The maximum length of a file, in bytes.
    pub const MOST: u64 = 8 * 1024 * 1024;
    /// The bytes at its end that are kept for phases.
    pub const RESERVE: u64 = 64 * 1024;
    /// How many lines can wait to be written.
    pub const QUEUE: usize = 1024;

    /// A recorder that appends to the file `path`, which is created if it does not exist. It never
    /// fails: [`problem`](Self::problem) tells if the file can't be written.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let (lines, queue) = sync_channel(Self::QUEUE);
        let (done, written) = oneshot::channel();
        let (path, shared) = (path.as_ref().to_owned(), Arc::new(Shared::default()));
        let told = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("winddown-recorder".into()).spawn(move || {
            write(&path, &queue, &told);
            let _ = done.send(());
        });
        if let Err(error) = thread {
            shared.note(&error);
        }
        Self { lines, shared, written }
    }

    /// Records this job from now on, until it has stopped or its context is gone.
    ///
    /// It needs a tokio runtime around it; without one, [`problem`](Self::problem) says so.
    pub fn follow<C, S>(&self, job: &JobContext<C, S>) {
        let lines = Lines { lines: self.lines.clone(), shared: Arc::clone(&self.shared) };
        let Ok(runtime) = Handle::try_current() else {
            return self.shared.note(&"there is no tokio runtime to follow the job");
        };
        lines.put(SystemTime::now(), Entry::Opened { job: job.id().clone(), run: job.run(), phase: job.phase() });
        let (mut phases, progress) = (job.phases(), job.progress());
        runtime.spawn(async move {
            let mut seen = Seen::default();
            loop {
                let visit = tokio::time::timeout(EVERY, phases.next()).await;
                // What was so until then comes first.
                let now = progress.borrow().clone();
                if let Ok(Some(visit)) = &visit {
                    lines.put_phase(visit);
                }
                lines.put_news(&now, &mut seen);
                if let Ok(None) = visit {
                    if !now.phase.is_terminal() {
                        lines.put(SystemTime::now(), Entry::LetGo);
                    }
                    return;
                }
            }
        });
    }

    /// Lines that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped()
    }

    /// Why nothing can be written, if that is so.
    pub fn problem(&self) -> Option<String> {
        self.shared.problem()
    }

    /// Waits until the followed jobs have come to their end and all is written and synced; returns
    /// whether that was so within this time.
    ///
    /// # Cancel safety
    /// Safe: the thread writes on.
    pub async fn finish(self, within: Duration) -> bool {
        let Self { lines, shared, written } = self;
        drop(lines);
        let is_written = matches!(tokio::time::timeout(within, written).await, Ok(Ok(())));
        is_written && shared.problem().is_none() && shared.dropped() == 0
    }
}

/// The way of one job's lines to the file.
struct Lines {
    lines: SyncSender<Line>,
    shared: Arc<Shared>,
}

/// What was written last: only news are written.
#[derive(Default)]
struct Seen {
    requested: Option<StopRequest>,
    figures: Option<Entry>,
    culprits: Vec<(Who, Undone)>,
}

impl Lines {
    /// Never waits.
    fn put(&self, at: SystemTime, entry: Entry) {
        let line = Line { v: Recorder::VERSION, at: humantime::format_rfc3339_millis(at).to_string(), entry };
        match self.lines.try_send(line) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => self.shared.drop_one(),
        }
    }

    fn put_phase(&self, visit: &Visit) {
        let ago = Instant::now().saturating_duration_since(visit.entered);
        let at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
        self.put(at, Entry::Phase { phase: visit.phase, reason: visit.reason() });
    }

    fn put_news(&self, now: &Progress, seen: &mut Seen) {
        let at = SystemTime::now();
        if let Some(request) = now.requested.filter(|_| now.requested != seen.requested) {
            seen.requested = Some(request);
            self.put(at, Entry::Requested { request });
        }
        let (status, alive, retries) = (now.status, now.alive, now.retries);
        let figures = Entry::Figures { status, alive, retries, error: now.last_error.clone() };
        if seen.figures.as_ref() != Some(&figures) {
            seen.figures = Some(figures.clone());
            self.put(at, figures);
        }
        let why = now.why();
        let culprits: Vec<_> = why.culprits.iter().map(|it| (it.who.clone(), it.what.clone())).collect();
        if seen.culprits != culprits {
            seen.culprits = culprits;
            self.put(at, Entry::Why { why });
        }
    }
}
