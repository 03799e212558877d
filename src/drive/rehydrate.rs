//! Continues the shutdown of a crashed controller: turns the journal's record back into a phase,
//! after checking it against the scheduler and the checkpoint store.

use std::{collections::BTreeSet, fmt, panic::Location, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{RehydrateError, Unfit};
use crate::{
    contracts::{
        Attach, DynCheckpointStore, Epoch, JobId, Manifest, OpenRun, Scheduler, StoreError, TakenUp, TaskId, Topology,
    },
    limits::Limits,
    machine::{
        AnyPhase, BoxJournal, JobContext, Journal, JournalError, NothingAlive, PhaseKind, PhaseRecord, Replay, listed,
        replay,
    },
    mailbox::Mailbox,
    model::EPOCHS_PER_CONTROLLER,
};

/// Loads the record of a job's last run, and checks it against reality, so that it can become a
/// phase. Returns `None` if there is no record.
///
/// The record is only a claim, and is always checked:
///
/// | the record says | the checks say | result |
/// |---|---|---|
/// | a phase that is not the end | workers are alive | that phase; a final checkpoint keeps its number |
/// | a phase that is not the end | no worker is alive | `Stopping<Force>`: the phase can't be finished; the next run replays from the last complete checkpoint |
/// | `CheckpointStopping` | no worker is alive, its manifest is durable and has nothing to commit | `Stopped<Checkpointed>` |
/// | `Finishing` | the same | `Stopped<Completed>` |
/// | `Stopped<Checkpointed>`, `Stopped<Completed>` | no worker is alive, its manifest is the last one | the same |
/// | another `Stopped<_>` | no worker is alive | the same |
///
/// A manifest with commits proves that they were ordered, not that they were carried out, so a job
/// whose workers are gone by then is not `Stopped<Checkpointed>`; the next run carries them out
/// again, which is harmless because commits are idempotent. A manifest that does not contain every
/// task of the topology proves nothing.
///
/// `checkpoints` is the job's checkpoint store, if it has one, and the topology that it ran with.
/// The store's last complete checkpoint may be newer than the record: the next controller's epochs
/// come after it. While the store is unavailable, a job can still be killed: pass `None`, and build
/// with [`Detached`](crate::contracts::Detached).
///
/// The job continues with the same collaborators: [`Rehydrated`] keeps journal and scheduler, and
/// [`Rehydrated::build`] returns the job with these.
///
/// # Errors
/// [`RehydrateError`] says what is wrong with the record or with the results of the checks.
///
/// # Cancel safety
/// It only reads.
pub async fn rehydrate<S: Scheduler>(
    job: &JobId,
    journal: impl Journal + 'static,
    scheduler: S,
    checkpoints: Option<(Arc<dyn DynCheckpointStore>, &Topology)>,
    limits: impl Into<Arc<Limits>>,
) -> Result<Option<Rehydrated<S>>, RehydrateError> {
    let (journal, limits): (BoxJournal, Arc<Limits>) = (Arc::new(journal), limits.into());
    let record = match load(&journal, job, limits.journal).await {
        Ok(Some(record)) => record,
        Ok(None) => return Ok(None),
        Err(error) => return Err(RehydrateError { job: job.clone(), record: None, unfit: Box::new(error.into()) }),
    };
    let asked = checkpoints.as_ref().map(|(store, topology)| Asked { store: &**store, topology });
    match check(&record, job, &scheduler, asked, &limits).await {
        Ok((replay, manifest)) => {
            let open = open(&record, manifest);
            let mailbox = None;
            Ok(Some(Rehydrated { open, record, replay, scheduler, journal, limits, mailbox, is_simulated: false }))
        }
        Err(unfit) => Err(RehydrateError { job: job.clone(), record: Some(Box::new(record)), unfit: Box::new(unfit) }),
    }
}

async fn load(journal: &BoxJournal, job: &JobId, after: Duration) -> Result<Option<PhaseRecord>, JournalError> {
    timeout(after, journal.load(job)).await.map_err(|_| JournalError::TimedOut { after })?
}

/// The run for its next controller.
fn open(record: &PhaseRecord, manifest: Option<Manifest>) -> OpenRun {
    let last_complete = record.last_complete.max(manifest.as_ref().map(|manifest| manifest.epoch));
    // Each controller uses a bounded range of numbers above the last complete one.
    let skipped = EPOCHS_PER_CONTROLLER.saturating_mul(u64::from(record.attempt));
    let epochs_after = Epoch::new(last_complete.map_or(0, Epoch::get).saturating_add(skipped));
    let taken_up = TakenUp { final_epoch: record.final_epoch, last_complete, epochs_after };
    OpenRun::taken_up(record.job.clone(), record.run, manifest, taken_up)
}

/// The store, and the required content of a complete manifest.
#[derive(Clone, Copy)]
struct Asked<'a> {
    store: &'a dyn DynCheckpointStore,
    topology: &'a Topology,
}

async fn check<S: Scheduler>(
    record: &PhaseRecord,
    job: &JobId,
    scheduler: &S,
    asked: Option<Asked<'_>>,
    limits: &Limits,
) -> Result<(Replay, Option<Manifest>), Unfit> {
    if record.job != *job {
        return Err(Unfit::ForeignJob { expected: job.clone(), got: record.job.clone() });
    }
    let open = OpenRun::without_store(record.job.clone(), record.run);
    let replay = match (record.phase, listed(scheduler, &open, record.killed_workers, limits.kill).await?) {
        (phase, Err(alive)) if phase.is_terminal() => return Err(Unfit::StillAlive { phase, alive }),
        (phase, Err(_)) => {
            let manifest = match asked.filter(|_| takes_checkpoints(phase)) {
                Some(asked) => latest(record, asked, limits).await?,
                None => None,
            };
            if let Some(newer) = manifest.as_ref().filter(|manifest| manifest.run > record.run) {
                return Err(Unfit::NewerRun { got: newer.run });
            }
            return Ok((Replay::Phase(phase), manifest));
        }
        (PhaseKind::StoppedCheckpointed, Ok(gone)) => {
            Replay::Checkpointed(final_manifest(record, asked, limits).await?.0, gone)
        }
        (PhaseKind::StoppedCompleted, Ok(gone)) => {
            Replay::Completed(final_manifest(record, asked, limits).await?.0, gone)
        }
        (PhaseKind::StoppedDrained, Ok(gone)) => Replay::Drained(gone),
        (PhaseKind::StoppedHalted, Ok(gone)) => Replay::Halted(gone),
        (PhaseKind::StoppedKilled, Ok(gone)) => Replay::Killed(gone),
        (phase @ (PhaseKind::CheckpointStopping | PhaseKind::Finishing), Ok(gone)) => {
            after_the_last_worker(record, phase, asked, limits, gone).await?
        }
        (_, Ok(_)) => Replay::Phase(PhaseKind::StoppingForce),
    };
    Ok((replay, None))
}

fn takes_checkpoints(phase: PhaseKind) -> bool {
    matches!(phase, PhaseKind::Running | PhaseKind::Finishing | PhaseKind::CheckpointStopping)
}

/// The last complete checkpoint in the store.
async fn latest(record: &PhaseRecord, asked: Asked<'_>, limits: &Limits) -> Result<Option<Manifest>, Unfit> {
    let manifest = timeout(limits.kill, asked.store.latest_boxed(&record.job)).await.map_err(|_| {
        StoreError::Unavailable(format!("no answer within {}", humantime::format_duration(limits.kill)).into())
    })??;
    match manifest {
        Some(manifest) if manifest.job != record.job => {
            Err(Unfit::ForeignManifest { expected: record.job.clone(), got: manifest.job })
        }
        manifest => Ok(manifest),
    }
}

/// Whether the store proves a final checkpoint whose workers are gone.
async fn after_the_last_worker(
    record: &PhaseRecord,
    phase: PhaseKind,
    asked: Option<Asked<'_>>,
    limits: &Limits,
    gone: NothingAlive,
) -> Result<Replay, Unfit> {
    match final_manifest(record, asked, limits).await {
        Ok((epoch, Commits::None)) if phase == PhaseKind::Finishing => Ok(Replay::Completed(epoch, gone)),
        Ok((epoch, Commits::None)) => Ok(Replay::Checkpointed(epoch, gone)),
        Ok((_, Commits::Some)) | Err(Unfit::NoManifest { .. } | Unfit::NoFinalEpoch | Unfit::NotEveryTask { .. }) => {
            Ok(Replay::Phase(PhaseKind::StoppingForce))
        }
        // A job that ends by itself may have no store: then nothing is claimed.
        Err(Unfit::NoStore) if phase == PhaseKind::Finishing => Ok(Replay::Phase(PhaseKind::StoppingForce)),
        Err(unfit) => Err(unfit),
    }
}

enum Commits {
    None,
    Some,
}

/// The record's final checkpoint in the store.
async fn final_manifest(
    record: &PhaseRecord,
    asked: Option<Asked<'_>>,
    limits: &Limits,
) -> Result<(Epoch, Commits), Unfit> {
    let epoch = record.final_epoch.ok_or(Unfit::NoFinalEpoch)?;
    let asked = asked.ok_or(Unfit::NoStore)?;
    match latest(record, asked, limits).await? {
        Some(manifest) if manifest.run > record.run => Err(Unfit::NewerRun { got: manifest.run }),
        Some(manifest) if manifest.run == record.run && manifest.epoch == epoch && manifest.then_stop => {
            if let Some(task) = missing(asked.topology, &manifest) {
                return Err(Unfit::NotEveryTask { epoch, task });
            }
            let commits = manifest.tasks.iter().any(|task| task.commit.is_some());
            Ok((epoch, if commits { Commits::Some } else { Commits::None }))
        }
        other => Err(Unfit::NoManifest { epoch, latest: other.map(|manifest| manifest.epoch) }),
    }
}

/// The first task that only one of the two has.
fn missing(topology: &Topology, manifest: &Manifest) -> Option<TaskId> {
    let held: BTreeSet<_> = manifest.tasks.iter().map(|task| task.task).collect();
    let of_topology: BTreeSet<_> = topology.task_ids().collect();
    held.symmetric_difference(&of_topology).next().copied()
}

/// A record that has been checked, and what it was checked with.
#[must_use = "call `build` to get the job and its phase"]
pub struct Rehydrated<S> {
    open: OpenRun,
    record: PhaseRecord,
    replay: Replay,
    scheduler: S,
    journal: BoxJournal,
    limits: Arc<Limits>,
    mailbox: Option<Mailbox>,
    is_simulated: bool,
}

impl<S> fmt::Debug for Rehydrated<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rehydrated")
            .field("open", &self.open)
            .field("record", &self.record)
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

impl<S> Rehydrated<S> {
    /// The continued run. Build its controller from it, so that it continues where the previous one
    /// was.
    pub fn open(&self) -> &OpenRun {
        &self.open
    }

    /// What was checked.
    pub fn record(&self) -> &PhaseRecord {
        &self.record
    }

    /// The phase that [`build`](Self::build) returns.
    pub fn phase(&self) -> PhaseKind {
        match self.replay {
            Replay::Phase(kind) => kind,
            Replay::Checkpointed(..) => PhaseKind::StoppedCheckpointed,
            Replay::Completed(..) => PhaseKind::StoppedCompleted,
            Replay::Drained(_) => PhaseKind::StoppedDrained,
            Replay::Halted(_) => PhaseKind::StoppedHalted,
            Replay::Killed(_) => PhaseKind::StoppedKilled,
        }
    }

    /// Sets an existing mailbox, as for
    /// [`JobBuilder::mailbox`](crate::machine::JobBuilder::mailbox).
    pub fn mailbox(mut self, mailbox: Mailbox) -> Self {
        self.mailbox = Some(mailbox);
        self
    }

    /// As [`JobBuilder::simulated`](crate::machine::JobBuilder::simulated), for tests.
    pub fn simulated(mut self) -> Self {
        self.is_simulated = true;
        self
    }

    /// The job and its phase, with the scheduler, the journal and the limits that it was checked
    /// with. The stop request of the record is in effect again. With
    /// [`Detached`](crate::contracts::Detached) as the controller, drive it to the kill.
    ///
    /// If the job has stopped, the scheduler is asked again, because a worker may have appeared
    /// since.
    ///
    /// # Errors
    /// [`Unfit`]: a worker has appeared, the scheduler could not be asked, or the job's context
    /// could not be built ([`BuildError`](crate::machine::BuildError)).
    ///
    /// # Cancel safety
    /// It only reads; the record stays in the journal.
    #[track_caller]
    pub fn build<C: Attach>(self, controller: C) -> impl Future<Output = Result<(JobContext<C, S>, AnyPhase), Unfit>>
    where
        S: Scheduler,
    {
        let place = Location::caller();
        self.build_at(place, controller)
    }

    async fn build_at<C: Attach>(
        self,
        place: &'static Location<'static>,
        controller: C,
    ) -> Result<(JobContext<C, S>, AnyPhase), Unfit>
    where
        S: Scheduler,
    {
        let to = self.look_again().await?;
        let Self { open, record, scheduler, journal, limits, mailbox, is_simulated, .. } = self;
        let builder = JobContext::builder(&open).limits(limits).boxed_journal(journal);
        let builder = mailbox.into_iter().fold(builder, crate::machine::JobBuilder::mailbox);
        let builder = if is_simulated { builder.simulated() } else { builder };
        let (mut job, running) = builder.build_after(Some(&record), place, controller, scheduler)?;
        if let Some(request) = record.requested {
            // The context holds the mailbox, so the lane is open.
            let _ = job.sender().request(request);
        }
        let phase = replay(running, to, &record, &mut job);
        Ok((job, phase))
    }

    /// At the last moment, because `Stopped` requires a current answer.
    async fn look_again(&self) -> Result<Replay, Unfit>
    where
        S: Scheduler,
    {
        let gone = match self.replay {
            Replay::Phase(_) => return Ok(self.replay),
            Replay::Checkpointed(_, gone)
            | Replay::Completed(_, gone)
            | Replay::Drained(gone)
            | Replay::Halted(gone)
            | Replay::Killed(gone) => gone,
        };
        match listed(&self.scheduler, &self.open, gone.forced(), self.limits.kill).await? {
            Ok(gone) => Ok(self.replay.on_the_word_of(gone)),
            Err(alive) => Err(Unfit::StillAlive { phase: self.phase(), alive }),
        }
    }
}
