//! A journal in a local folder.

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
    time::Duration,
};

use fs4::TryLockError;
use tokio::time::{Instant, sleep};

use super::format::{decode, encode, key, refusal};
use crate::{
    contracts::JobId,
    durable,
    machine::{
        Journal, JournalError, PhaseRecord,
        record::{Write, may_write},
    },
};

const RECORD: &str = "record";
const LOCK: &str = "lock";
/// How the name of a record ends while it is being written ([`durable::unfinished`]). Such a file
/// has no meaning.
const UNFINISHED: &str = ".record.tmp";

/// How long another writer of the same job may take, so that a stopped process causes its own
/// error, well within [`Limits::journal`](crate::limits::Limits::journal). A write takes
/// milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// The time between two attempts to take a lock.
const LOCK_EVERY: Duration = Duration::from_millis(5);

/// A journal in a local folder, with one file per job.
///
/// | name | what it is |
/// |---|---|
/// | `job-<name>.record` | the job's newest record; special characters of the name are percent-encoded |
/// | `job-<name>.lock` | locked by the operating system while a controller writes the job's record; empty |
/// | `job-<name>.record.tmp` | a record that was being written when its controller crashed; it is never read, and is removed |
///
/// A record is written to a temporary file, synced, and renamed over the old one; then the folder
/// is synced. So it survives a crash of the machine once [`write`](Journal::write) has returned,
/// and a reader never sees a partial one.
///
/// Any number of journals in any number of processes *of one machine* may share the folder. It must
/// be on a local file system: on a network file system, neither the lock nor the sync is reliable.
/// If controllers run on several machines, use PostgreSQL.
///
/// Cheap to clone. All I/O runs on tokio's threads for blocking work.
///
/// ```
/// use winddown::{FileJournal, prelude::*};
/// # use winddown::{JobId, Scheduler, WorkerId, contracts::SchedulerError};
/// # struct Nothing;
/// # impl Scheduler for Nothing {
/// #     async fn stop_workers(&self, _: &JobId, _: Option<RunId>, _: bool) -> Result<(), SchedulerError> { Ok(()) }
/// #     async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> { Ok(vec![]) }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (folder, scheduler) = (tempfile::tempdir()?, Nothing);
/// let journal = FileJournal::open(folder.path().join("journal"))?;
/// let builder = JobContext::builder(&OpenRun::without_store("words", RunId::new(1))).journal(journal.clone());
/// let (mut job, running) = builder.build(Detached, scheduler)?;
/// let AfterForce::Stopped(_stopped) = running.force(&mut job)?.next(&mut job).await?;
///
/// let record = journal.load(&"words".into()).await?.ok_or("it was written down")?;
/// assert_eq!(record.phase().tag(), "stopped-killed");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FileJournal {
    folder: Arc<Path>,
}

impl FileJournal {
    /// The journal in `folder`, which is created if it does not exist.
    ///
    /// This makes a few blocking file system calls.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`] when the folder can't be created or used.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, JournalError> {
        let folder = durable::create_folder(folder.as_ref()).map_err(unavailable)?;
        sweep(&folder).map_err(unavailable)?;
        Ok(Self { folder: folder.into() })
    }

    fn place(&self, job: &JobId) -> Place {
        Place { folder: Arc::clone(&self.folder), job: job.clone(), stem: format!("job-{}", key(job)) }
    }
}

impl Journal for FileJournal {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        let place = self.place(job);
        blocking(move || {
            let record = place.read()?;
            // The caller may act on the record, so its name must be durable, even if the call that
            // wrote it was dropped before its end.
            durable::sync_folder(&place.folder).map_err(unavailable)?;
            Ok(record)
        })
        .await
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        let record = record.clone();
        let place = self.place(&record.job);
        let lock = lock(&self.folder, &place.stem).await?;
        // Once started it runs to its end, even if the caller is dropped, and holds the lock until
        // then.
        blocking(move || place.write(&record, &lock)).await
    }
}

/// Where a job's record is.
struct Place {
    folder: Arc<Path>,
    job: JobId,
    /// The names of the job's files, without their extensions.
    stem: String,
}

/// No one else writes the job's record while this exists. The operating system releases it with the
/// process.
struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

impl Place {
    fn read(&self) -> Result<Option<PhaseRecord>, JournalError> {
        let path = self.folder.join(self.name(RECORD));
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(unavailable)?,
        };
        match decode(&text, &self.job) {
            Ok(record) => Ok(Some(record)),
            Err(unsound) => Err(refusal(unsound, &self.job, path.display().to_string())),
        }
    }

    fn write(&self, record: &PhaseRecord, _: &Lock) -> Result<(), JournalError> {
        match may_write(self.read()?.as_ref(), record)? {
            // The previous write may have been interrupted between the rename and the sync of the
            // folder.
            Write::AlreadyThere => durable::sync_folder(&self.folder),
            Write::Needed => {
                let text = encode(record)?;
                durable::replace(&self.folder.join(self.name(RECORD)), text.as_bytes())
            }
        }
        .map_err(unavailable)
    }

    fn name(&self, ending: &str) -> String {
        format!("{}.{ending}", self.stem)
    }
}

/// Waits for the lock. A blocking wait would occupy a thread, and delay the end of the program, as
/// long as the holder sleeps.
async fn lock(folder: &Arc<Path>, stem: &str) -> Result<Lock, JournalError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        let (folder, stem) = (Arc::clone(folder), stem.to_owned());
        if let Some(lock) = blocking(move || try_lock(&folder, &stem).map_err(unavailable)).await? {
            return Ok(lock);
        }
        if Instant::now() >= deadline {
            let error = format!("a process has held its lock for {LOCK_PATIENCE:?}; look for one that is stopped");
            return Err(JournalError::Unavailable(error.into()));
        }
        sleep(LOCK_EVERY).await;
    }
}

fn try_lock(folder: &Path, stem: &str) -> io::Result<Option<Lock>> {
    // Never removed: otherwise one writer could hold the lock of the removed file, and another one
    // that of its replacement.
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(format!("{stem}.{LOCK}")))?;
    // Fully qualified, because since Rust 1.89 `File` has a method with this name.
    match fs4::FileExt::try_lock(&file) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes what crashes have left behind. While a lock is held, its file is being written and is
/// not a leftover.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        // A name that is not UTF-8 is not ours.
        let Ok(name) = entry?.file_name().into_string() else { continue };
        let Some(stem) = name.strip_suffix(UNFINISHED) else { continue };
        if stem.starts_with("job-")
            && let Some(_lock) = try_lock(folder, stem)?
        {
            match fs::remove_file(folder.join(&name)) {
                // Another controller has removed or renamed it meanwhile.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| JournalError::Unavailable(error.into()))?
}

fn unavailable(error: io::Error) -> JournalError {
    JournalError::Unavailable(error.into())
}

#[cfg(test)]
#[path = "tests/file.rs"]
mod tests;
