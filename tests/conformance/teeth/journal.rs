//! A journal in memory, and what can be wrong with it.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::records::altered;
use tokio::time::sleep;
use winddown::{
    Epoch, JobId,
    journal::{Journal, JournalError, PhaseRecord, Write, may_write},
    testing::conformance::{self, Contract, Damage, Hook, JournalSubject, Report, Rule},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// A job without a record gets another's.
    LoadsAnother,
    /// An epoch is stored as a signed number.
    SignedEpoch,
    /// A record reaches the disk with the next one.
    WritesBehind,
    /// The old record is removed before the new one is there.
    RemovesFirst,
    /// Any later revision follows.
    AnyLaterRevision,
    /// Nobody else is kept out between the look and the write.
    LooksThenWrites,
    /// A newer run may begin in the middle.
    NewerRunBeginsAnywhere,
    /// An older run may begin anew.
    OlderRunBeginsAnew,
    /// Only who wrote the record may write it again.
    RemembersInHandle,
    /// A lock is left behind by a write that is dropped.
    LeavesLockBehind,
    /// A damaged record counts as none.
    PassesOverDamage,
    /// It never answers for a damaged record.
    HangsOnDamage,
    /// The same, and it holds the thread.
    BlocksOnDamage,
    /// A newer version counts as damage.
    NewerIsCorrupt,
    /// A newer version was not thought of.
    PanicsOnNewerVersion,
    /// A damaged record is replaced.
    OverwritesDamage,
    /// Special characters of names are all the same.
    CleansNames,
}

const ROWS: &[(Mistake, Rule)] = &[
    (Mistake::LoadsAnother, Rule::JournalStartsEmpty),
    (Mistake::SignedEpoch, Rule::JournalKeepsAll),
    (Mistake::WritesBehind, Rule::JournalDurable),
    (Mistake::RemovesFirst, Rule::JournalAtomic),
    (Mistake::AnyLaterRevision, Rule::JournalCompareAndSet),
    (Mistake::LooksThenWrites, Rule::JournalOneWriter),
    (Mistake::NewerRunBeginsAnywhere, Rule::JournalNewerRun),
    (Mistake::OlderRunBeginsAnew, Rule::JournalFencing),
    (Mistake::RemembersInHandle, Rule::JournalWriteAgain),
    (Mistake::LeavesLockBehind, Rule::JournalCancelSafe),
    (Mistake::PassesOverDamage, Rule::JournalDamage),
    (Mistake::NewerIsCorrupt, Rule::JournalNewerVersion),
    (Mistake::OverwritesDamage, Rule::JournalKeepsDamage),
    (Mistake::CleansNames, Rule::JournalJobsApart),
];

pub(crate) async fn check(mistake: Mistake) -> Report {
    conformance::journal(async move || Place(Arc::new(Database::new(mistake)))).await
}

/// No mistake; each check begins when so many have.
pub(crate) async fn check_that_waits_for(checks: usize) -> Report {
    let all = tokio::sync::Barrier::new(checks);
    let make = async move || {
        all.wait().await;
        Place(Arc::new(Database::new(Mistake::None)))
    };
    conformance::journal(make).await
}

#[tokio::test]
async fn every_mistake_in_a_journal_is_found_by_its_rule() {
    super::assert_found(Contract::Journal, ROWS, Mistake::None, check).await;
}

#[derive(Clone)]
enum Stored {
    Record(PhaseRecord),
    Damaged,
    Newer,
}

struct Database {
    mistake: Mistake,
    now: Mutex<HashMap<String, Stored>>,
    /// What a crash leaves.
    disk: Mutex<HashMap<String, Stored>>,
    writers: tokio::sync::Mutex<()>,
    is_locked: AtomicBool,
}

impl Database {
    fn new(mistake: Mistake) -> Self {
        let (now, disk, writers) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        Self { mistake, now, disk, writers, is_locked: AtomicBool::new(false) }
    }

    fn key(&self, job: &JobId) -> String {
        let clean = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        match self.mistake {
            Mistake::CleansNames => job.as_str().chars().map(clean).collect(),
            _ => job.as_str().to_owned(),
        }
    }

    fn read(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        match self.now.lock().unwrap().get(&self.key(job)) {
            None => Ok(None),
            Some(Stored::Record(record)) => Ok(Some(record.clone())),
            Some(Stored::Damaged) => {
                let text = || "a whole record".to_owned();
                Err(JournalError::Corrupt { job: job.clone(), place: "memory".into(), expected: text(), got: text() })
            }
            Some(Stored::Newer) => Err(JournalError::NewerVersion { job: job.clone(), got: 2 }),
        }
    }

    fn set(&self, record: &PhaseRecord) {
        let mut record = record.clone();
        if self.mistake == Mistake::SignedEpoch {
            let signed = |epoch: Epoch| Epoch::new(epoch.get().min(i64::MAX.unsigned_abs()));
            record = altered(&record, serde_json::json!({ "final_epoch": record.final_epoch().map(signed) }));
        }
        let (mut now, mut disk) = (self.now.lock().unwrap(), self.disk.lock().unwrap());
        if self.mistake == Mistake::WritesBehind {
            disk.clone_from(&now);
        }
        now.insert(self.key(record.job()), Stored::Record(record));
        if self.mistake != Mistake::WritesBehind {
            disk.clone_from(&now);
        }
    }

    fn may_write(&self, found: Option<&PhaseRecord>, record: &PhaseRecord) -> Result<Write, JournalError> {
        let may = found.is_some_and(|found| match self.mistake {
            Mistake::AnyLaterRevision => found.run() == record.run() && found.revision() < record.revision(),
            Mistake::NewerRunBeginsAnywhere => found.run() < record.run(),
            Mistake::OlderRunBeginsAnew => record.run() < found.run() && record.revision() == 1,
            _ => false,
        });
        if may { Ok(Write::Needed) } else { may_write(found, record) }
    }
}

struct Place(Arc<Database>);

struct Handle {
    database: Arc<Database>,
    wrote: Mutex<Option<PhaseRecord>>,
}

impl JournalSubject for Place {
    type Journal = Handle;
    const LIMIT: Duration = super::LIMIT;

    async fn open(&self) -> Handle {
        Handle { database: Arc::clone(&self.0), wrote: Mutex::default() }
    }

    async fn crash(&self) -> Hook {
        let disk = self.0.disk.lock().unwrap().clone();
        *self.0.now.lock().unwrap() = disk;
        Hook::Done
    }

    async fn damage(&self, job: &JobId, damage: Damage) -> Hook {
        let stored = if damage == Damage::NewerVersion { Stored::Newer } else { Stored::Damaged };
        self.0.now.lock().unwrap().insert(self.0.key(job), stored);
        Hook::Done
    }
}

impl Journal for Handle {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        let database = &self.database;
        match (database.mistake, database.read(job)) {
            (Mistake::LoadsAnother, Ok(None)) => {
                let now = database.now.lock().unwrap();
                Ok(now.values().find_map(|stored| match stored {
                    Stored::Record(record) => Some(record.clone()),
                    _ => None,
                }))
            }
            (Mistake::PassesOverDamage, Err(JournalError::Corrupt { .. })) => Ok(None),
            (Mistake::HangsOnDamage, Err(JournalError::Corrupt { .. })) if job.as_str() == "two" => pending().await,
            (Mistake::BlocksOnDamage, Err(JournalError::Corrupt { .. })) if job.as_str() == "two" => {
                std::thread::sleep(super::LIMIT * 2);
                Ok(None)
            }
            (Mistake::NewerIsCorrupt, Err(JournalError::NewerVersion { .. })) => {
                let (expected, got) = ("version 1".into(), "version 2".into());
                Err(JournalError::Corrupt { job: job.clone(), place: "memory".into(), expected, got })
            }
            (Mistake::PanicsOnNewerVersion, Err(JournalError::NewerVersion { .. })) => {
                panic!("no way to read a newer version")
            }
            (_, read) => read,
        }
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        let database = &self.database;
        if database.mistake == Mistake::LooksThenWrites {
            let found = database.read(record.job())?;
            if may_write(found.as_ref(), record)? == Write::Needed {
                sleep(Duration::from_millis(2)).await;
                database.set(record);
            }
            return Ok(());
        }
        let _writers = database.writers.lock().await;
        if database.mistake == Mistake::LeavesLockBehind {
            let deadline = Instant::now() + Duration::from_secs(1);
            while database.is_locked.swap(true, Ordering::AcqRel) {
                if Instant::now() > deadline {
                    return Err(JournalError::Unavailable("it is locked".into()));
                }
                sleep(Duration::from_millis(2)).await;
            }
            sleep(Duration::from_millis(2)).await;
        }
        let written = self.locked(record).await;
        database.is_locked.store(false, Ordering::Release);
        written
    }
}

impl Handle {
    async fn locked(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        let database = &self.database;
        let found = match (database.mistake, database.read(record.job())) {
            (Mistake::OverwritesDamage, Err(JournalError::Corrupt { .. })) => None,
            (_, found) => found?,
        };
        if database.may_write(found.as_ref(), record)? == Write::AlreadyThere {
            let is_its = self.wrote.lock().unwrap().as_ref() == Some(record);
            if database.mistake == Mistake::RemembersInHandle && !is_its {
                let record = Box::new(record.clone());
                return Err(JournalError::Conflict { wrote: record.clone(), found: record });
            }
            return Ok(());
        }
        if database.mistake == Mistake::RemovesFirst {
            database.now.lock().unwrap().remove(&database.key(record.job()));
            sleep(Duration::from_millis(2)).await;
        }
        database.set(record);
        *self.wrote.lock().unwrap() = Some(record.clone());
        Ok(())
    }
}
