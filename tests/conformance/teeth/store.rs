//! A checkpoint store in memory, and what can be wrong with it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;
use winddown::{
    JobId, OpenRun, RunId,
    contracts::{CheckpointStore, Manifest, StoreError},
    testing::conformance::{self, Contract, Damage, Hook, Report, Rule, StoreSubject},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// A job without a checkpoint gets another's.
    LatestOfAnother,
    /// Each controller draws runs from a block of its own.
    RunsInBlocks,
    /// Nobody else is kept out between the look and the claim.
    LooksThenClaims,
    /// An empty commit counts as none.
    EmptyIsNone,
    /// A manifest reaches the disk with the next one.
    WritesBehind,
    /// Readers see the manifest while it is written.
    ShowsHalf,
    /// Commit data is not compared.
    IgnoresCommitData,
    /// Nobody else is kept out between the look and the write.
    LooksThenWrites,
    /// Only who published a manifest may publish it again.
    RemembersInHandle,
    /// A lower epoch is published.
    AcceptsLower,
    /// What was published is `Ok`, whoever asks.
    SameIsAlwaysOk,
    /// The fence is looked at before the write, and not after.
    FenceBeforeWrite,
    /// A damaged manifest is passed over for the one before.
    PassesOverDamage,
    /// What there is of a half-written manifest is taken for all of it.
    TakesHalfForWhole,
    /// A lock is left behind by a publication that is dropped.
    LeavesLockBehind,
    /// Special characters of names are all the same.
    CleansNames,
}

const ROWS: &[(Mistake, Rule)] = &[
    (Mistake::LatestOfAnother, Rule::StoreStartsEmpty),
    (Mistake::RunsInBlocks, Rule::StoreRunsGrow),
    (Mistake::LooksThenClaims, Rule::StoreOneRunEach),
    (Mistake::EmptyIsNone, Rule::StoreKeepsAll),
    (Mistake::WritesBehind, Rule::StoreDurable),
    (Mistake::ShowsHalf, Rule::StoreAtomic),
    (Mistake::IgnoresCommitData, Rule::StorePutIfAbsent),
    (Mistake::LooksThenWrites, Rule::StoreOnePublisher),
    (Mistake::RemembersInHandle, Rule::StorePublishAgain),
    (Mistake::AcceptsLower, Rule::StoreStaleEpoch),
    (Mistake::SameIsAlwaysOk, Rule::StoreFencing),
    (Mistake::FenceBeforeWrite, Rule::StoreHandover),
    (Mistake::PassesOverDamage, Rule::StoreDamage),
    (Mistake::TakesHalfForWhole, Rule::StoreDamage),
    (Mistake::LeavesLockBehind, Rule::StoreCancelSafe),
    (Mistake::CleansNames, Rule::StoreJobsApart),
];

async fn check(mistake: Mistake) -> Report {
    conformance::store(async move || Place(Arc::new(Shelf::new(mistake)))).await
}

#[tokio::test]
async fn every_mistake_in_a_checkpoint_store_is_found_by_its_rule() {
    super::assert_found(Contract::Store, ROWS, Mistake::None, check).await;
}

#[derive(Clone, Default)]
struct Log {
    newest: RunId,
    manifests: Vec<Manifest>,
    /// The newest is damaged.
    is_damaged: bool,
    /// What readers are shown, where that is not the newest.
    shown: Option<Manifest>,
}

struct Shelf {
    mistake: Mistake,
    now: Mutex<HashMap<String, Log>>,
    /// What a crash leaves.
    disk: Mutex<HashMap<String, Log>>,
    is_locked: AtomicBool,
    blocks: AtomicU64,
}

impl Shelf {
    fn new(mistake: Mistake) -> Self {
        let (now, disk) = (Mutex::default(), Mutex::default());
        Self { mistake, now, disk, is_locked: AtomicBool::new(false), blocks: AtomicU64::new(0) }
    }

    fn key(&self, job: &JobId) -> String {
        let clean = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        match self.mistake {
            Mistake::CleansNames => job.as_str().chars().map(clean).collect(),
            _ => job.as_str().to_owned(),
        }
    }

    fn with<T>(&self, job: &JobId, work: impl FnOnce(&mut Log) -> T) -> T {
        let (mut now, mut disk) = (self.now.lock().unwrap(), self.disk.lock().unwrap());
        if self.mistake == Mistake::WritesBehind {
            disk.clone_from(&now);
        }
        let result = work(now.entry(self.key(job)).or_default());
        if self.mistake != Mistake::WritesBehind {
            disk.clone_from(&now);
        }
        result
    }

    fn newest(&self, job: &JobId) -> Result<Option<Manifest>, StoreError> {
        self.with(job, |log| {
            if !log.is_damaged {
                return Ok(log.manifests.last().cloned());
            }
            if self.mistake == Mistake::PassesOverDamage {
                return Ok(log.manifests.iter().rev().nth(1).cloned());
            }
            if self.mistake == Mistake::TakesHalfForWhole {
                let whole = log.manifests.last().cloned();
                return Ok(whole.map(|whole| Manifest { tasks: whole.tasks[..1].to_vec(), ..whole }));
            }
            let text = || "a whole manifest".to_owned();
            Err(StoreError::Damaged { path: "memory".into(), expected: text(), got: text() })
        })
    }
}

struct Place(Arc<Shelf>);

struct Handle {
    shelf: Arc<Shelf>,
    published: Mutex<Option<Manifest>>,
    /// The block of runs, and how many are used up.
    block: Mutex<Option<(u64, u64)>>,
}

impl StoreSubject for Place {
    type Store = Handle;
    const LIMIT: Duration = super::LIMIT;

    async fn open(&self) -> Handle {
        Handle { shelf: Arc::clone(&self.0), published: Mutex::default(), block: Mutex::default() }
    }

    async fn crash(&self) -> Hook {
        let disk = self.0.disk.lock().unwrap().clone();
        *self.0.now.lock().unwrap() = disk;
        Hook::Done
    }

    async fn damage(&self, job: &JobId, _: Damage) -> Hook {
        self.0.with(job, |log| log.is_damaged = true);
        Hook::Done
    }
}

impl Handle {
    fn next_run(&self, log: &Log) -> RunId {
        if self.shelf.mistake != Mistake::RunsInBlocks {
            return log.newest.next();
        }
        let mut block = self.block.lock().unwrap();
        let (start, used) = block.get_or_insert_with(|| (self.shelf.blocks.fetch_add(100, Ordering::AcqRel), 0));
        *used += 1;
        RunId::new(*start + *used)
    }

    /// What `publish` decides, and does unless the epoch is there.
    fn put(&self, log: &mut Log, manifest: &Manifest) -> Result<(), StoreError> {
        let mistake = self.shelf.mistake;
        let (job, run, epoch) = (manifest.job.clone(), manifest.run, manifest.epoch);
        let is_same = |other: &Manifest| match mistake {
            Mistake::IgnoresCommitData => without_commits(other) == without_commits(manifest),
            _ => other == manifest,
        };
        let at = log.manifests.iter().position(|other| other.epoch == epoch);
        if mistake == Mistake::SameIsAlwaysOk && log.manifests.contains(manifest) {
            return Ok(());
        }
        if log.newest > run && mistake != Mistake::FenceBeforeWrite {
            return Err(StoreError::Fenced { job, run, newer: log.newest });
        }
        if let Some(at) = at {
            let is_its = self.published.lock().unwrap().as_ref() == Some(manifest);
            if is_same(&log.manifests[at]) && (mistake != Mistake::RemembersInHandle || is_its) {
                return Ok(());
            }
            if mistake == Mistake::LooksThenWrites {
                log.manifests[at] = manifest.clone();
                return Ok(());
            }
            return Err(StoreError::Conflict { job, epoch, by: log.manifests[at].run });
        }
        if let Some(last) = log.manifests.last()
            && last.epoch > epoch
            && mistake != Mistake::AcceptsLower
        {
            return Err(StoreError::StaleEpoch { job, epoch, latest: last.epoch, by: last.run });
        }
        let mut manifest = manifest.clone();
        if mistake == Mistake::EmptyIsNone {
            for task in &mut manifest.tasks {
                task.commit = task.commit.take().filter(|commit| !commit.is_empty());
            }
        }
        log.newest = log.newest.max(run);
        log.manifests.push(manifest);
        Ok(())
    }

    /// What a look says, before the write.
    async fn look(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let (job, run, epoch) = (&manifest.job, manifest.run, manifest.epoch);
        let found = self.shelf.with(job, |log| {
            if log.newest > run {
                return Err(StoreError::Fenced { job: job.clone(), run, newer: log.newest });
            }
            let other = log.manifests.iter().find(|other| other.epoch == epoch && *other != manifest);
            other.map_or(Ok(()), |other| Err(StoreError::Conflict { job: job.clone(), epoch, by: other.run }))
        });
        sleep(Duration::from_millis(10)).await;
        found
    }

    async fn lock(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.shelf.is_locked.swap(true, Ordering::AcqRel) {
            if Instant::now() > deadline {
                return Err(StoreError::Unavailable("it is locked".into()));
            }
            sleep(Duration::from_millis(2)).await;
        }
        sleep(Duration::from_millis(2)).await;
        Ok(())
    }
}

fn without_commits(manifest: &Manifest) -> Manifest {
    let mut manifest = manifest.clone();
    manifest.tasks.iter_mut().for_each(|task| task.commit = None);
    manifest
}

impl CheckpointStore for Handle {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        let manifest = self.shelf.newest(job)?;
        if self.shelf.mistake == Mistake::LooksThenClaims {
            let run = self.shelf.with(job, |log| log.newest.next());
            sleep(Duration::from_millis(5)).await;
            self.shelf.with(job, |log| log.newest = log.newest.max(run));
            return Ok(OpenRun::new(job.clone(), run, self.shelf.newest(job)?)?);
        }
        // In one step: nothing is published between the claim and the look.
        self.shelf.with(job, |log| {
            let run = self.next_run(log);
            log.newest = log.newest.max(run);
            let manifest = if log.is_damaged { manifest } else { log.manifests.last().cloned() };
            Ok(OpenRun::new(job.clone(), run, manifest).unwrap_or_else(|_| OpenRun::without_store(job.clone(), run)))
        })
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mistake = self.shelf.mistake;
        match mistake {
            Mistake::LooksThenWrites | Mistake::FenceBeforeWrite => self.look(manifest).await?,
            Mistake::LeavesLockBehind => self.lock().await?,
            _ => {}
        }
        let put = self.shelf.with(&manifest.job, |log| self.put(log, manifest));
        self.shelf.is_locked.store(false, Ordering::Release);
        put?;
        *self.published.lock().unwrap() = Some(manifest.clone());
        if mistake == Mistake::ShowsHalf {
            let half = Manifest { tasks: manifest.tasks[..1].to_vec(), ..manifest.clone() };
            self.shelf.with(&manifest.job, |log| log.shown = Some(half));
            sleep(Duration::from_millis(2)).await;
            self.shelf.with(&manifest.job, |log| log.shown = None);
        }
        Ok(())
    }

    async fn latest(&self, job: &JobId) -> Result<Option<Manifest>, StoreError> {
        if let Some(shown) = self.shelf.with(job, |log| log.shown.clone()) {
            return Ok(Some(shown));
        }
        let newest = self.shelf.newest(job)?;
        if self.shelf.mistake == Mistake::LatestOfAnother && newest.is_none() {
            let now = self.shelf.now.lock().unwrap();
            return Ok(now.values().find_map(|log| log.manifests.last().cloned()));
        }
        Ok(newest)
    }
}
