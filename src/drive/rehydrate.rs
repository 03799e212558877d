//! A controller that crashed during a shutdown is followed by one that goes on with it: from the journal's record, checked against the
//! scheduler and the checkpoint store, back to a phase.

use std::fmt;

use tokio::time::timeout;

use crate::{
    contracts::{DynCheckpointStore, Epoch, JobId, Manifest, RunId, Scheduler, SchedulerError, StoreError, WorkerId},
    limits::Limits,
    machine::{AnyPhase, JobBuilder, JobContext, NothingAlive, PhaseKind, PhaseRecord, Replay, listed, replay},
    model::EPOCHS_PER_CONTROLLER,
    text::shortened,
};

/// Checks a record against the world, so that a phase can be made of it.
///
/// The record is a claim, and is never believed:
///
/// | the record says | and the world says | what follows |
/// |---|---|---|
/// | a phase that is not the end | workers are alive | that phase; a final checkpoint goes on under the number that it had |
/// | a phase that is not the end | nobody is alive | `Stopping<Force>`: what was going on can't be finished; the next run replays from the last complete checkpoint |
/// | `CheckpointStopping` | nobody is alive, its manifest is durable and has nothing to commit | `Stopped<Checkpointed>` |
/// | `Stopped<Checkpointed>` | nobody is alive, its manifest is the last one | `Stopped<Checkpointed>` |
/// | another `Stopped<_>` | nobody is alive | the same |
///
/// A manifest with commits proves that they were ordered, not that they were carried out, so a job whose workers are gone by then is not
/// `Stopped<Checkpointed>`; the next run carries them out again, which is the same as once.
///
/// `store` is the job's checkpoint store, if it has one. It is asked for the last complete checkpoint, which may be newer than the record: the
/// next controller's epochs come after it ([`ClusterBuilder::resume`](crate::cluster::ClusterBuilder::resume)). [`Rehydrated::build`] then makes the job and its
/// phase. While the store is away a job can still be killed: pass `None`, and build with [`Detached`](crate::contracts::Detached).
///
/// # Errors
/// [`RehydrateError`] gives the record back, and says what is wrong with it or with the world.
///
/// # Cancel safety
/// It only reads; dropped, the record is dropped with it, and can be loaded again.
pub async fn rehydrate<S: Scheduler>(
    record: PhaseRecord,
    job: &JobId,
    scheduler: &S,
    store: Option<&dyn DynCheckpointStore>,
    limits: &Limits,
) -> Result<Rehydrated, RehydrateError> {
    match check(&record, job, scheduler, store, limits).await {
        Ok((replay, last_complete)) => Ok(Rehydrated { record, replay, last_complete }),
        Err(unfit) => Err(RehydrateError { record: Box::new(record), unfit: Box::new(unfit) }),
    }
}

async fn check<S: Scheduler>(
    record: &PhaseRecord,
    job: &JobId,
    scheduler: &S,
    store: Option<&dyn DynCheckpointStore>,
    limits: &Limits,
) -> Result<(Replay, Option<Epoch>), Unfit> {
    if record.job != *job {
        return Err(Unfit::ForeignJob { expected: job.clone(), got: record.job.clone() });
    }
    let mut last_complete = record.last_complete;
    let replay = match (record.phase, listed(scheduler, record, limits.kill).await?) {
        (phase, Err(alive)) if phase.is_terminal() => return Err(Unfit::StillAlive { phase, alive }),
        (phase, Err(_)) => {
            if let Some(store) = store.filter(|_| takes_checkpoints(phase)) {
                last_complete = last_complete.max(latest(record, store, limits).await?.map(|manifest| manifest.epoch));
            }
            Replay::Phase(phase)
        }
        (PhaseKind::StoppedCheckpointed, Ok(gone)) => {
            let (epoch, _) = final_manifest(record, store, limits).await?;
            Replay::Checkpointed(epoch, gone)
        }
        (PhaseKind::StoppedDrained, Ok(gone)) => Replay::Drained(gone),
        (PhaseKind::StoppedHalted, Ok(gone)) => Replay::Halted(gone),
        (PhaseKind::StoppedKilled, Ok(gone)) => Replay::Killed(gone),
        (PhaseKind::CheckpointStopping, Ok(gone)) => after_the_last_worker(record, store, limits, gone).await?,
        (_, Ok(_)) => Replay::Phase(PhaseKind::StoppingForce),
    };
    Ok((replay, last_complete))
}

fn takes_checkpoints(phase: PhaseKind) -> bool {
    matches!(phase, PhaseKind::Running | PhaseKind::Finishing | PhaseKind::CheckpointStopping)
}

/// The last complete checkpoint, as the store has it.
async fn latest(
    record: &PhaseRecord,
    store: &dyn DynCheckpointStore,
    limits: &Limits,
) -> Result<Option<Manifest>, StoreError> {
    timeout(limits.kill, store.latest_boxed(&record.job))
        .await
        .map_err(|_| StoreError::Unavailable(format!("no answer within {:?}", limits.kill).into()))?
}

/// A final checkpoint whose workers are gone: is it proven by what is durable?
async fn after_the_last_worker(
    record: &PhaseRecord,
    store: Option<&dyn DynCheckpointStore>,
    limits: &Limits,
    gone: NothingAlive,
) -> Result<Replay, Unfit> {
    match final_manifest(record, store, limits).await {
        Ok((epoch, Commits::None)) => Ok(Replay::Checkpointed(epoch, gone)),
        Ok((_, Commits::Some)) | Err(Unfit::NoManifest { .. } | Unfit::NoFinalEpoch) => {
            Ok(Replay::Phase(PhaseKind::StoppingForce))
        }
        Err(unfit) => Err(unfit),
    }
}

enum Commits {
    None,
    Some,
}

/// The final checkpoint that the record speaks of, as the store has it.
async fn final_manifest(
    record: &PhaseRecord,
    store: Option<&dyn DynCheckpointStore>,
    limits: &Limits,
) -> Result<(Epoch, Commits), Unfit> {
    let epoch = record.final_epoch.ok_or(Unfit::NoFinalEpoch)?;
    let store = store.ok_or(Unfit::NoStore)?;
    match latest(record, store, limits).await? {
        Some(manifest) if manifest.run > record.run => Err(Unfit::NewerRun { got: manifest.run }),
        Some(manifest) if manifest.run == record.run && manifest.epoch == epoch && manifest.then_stop => {
            let commits = manifest.tasks.iter().any(|task| task.commit.is_some());
            Ok((epoch, if commits { Commits::Some } else { Commits::None }))
        }
        other => Err(Unfit::NoManifest { epoch, latest: other.map(|manifest| manifest.epoch) }),
    }
}

/// A record that has been checked.
#[derive(Debug)]
#[must_use = "call `build` to get the job and its phase"]
pub struct Rehydrated {
    record: PhaseRecord,
    replay: Replay,
    last_complete: Option<Epoch>,
}

impl Rehydrated {
    /// What was checked.
    pub fn record(&self) -> &PhaseRecord {
        &self.record
    }

    /// The phase that [`build`](Self::build) gives.
    pub fn phase(&self) -> PhaseKind {
        match self.replay {
            Replay::Phase(kind) => kind,
            Replay::Checkpointed(..) => PhaseKind::StoppedCheckpointed,
            Replay::Drained(_) => PhaseKind::StoppedDrained,
            Replay::Halted(_) => PhaseKind::StoppedHalted,
            Replay::Killed(_) => PhaseKind::StoppedKilled,
        }
    }

    /// The final checkpoint that was under way, for the new controller
    /// ([`ClusterBuilder::resume`](crate::cluster::ClusterBuilder::resume)): there is at most one final epoch in a run.
    pub fn final_epoch(&self) -> Option<Epoch> {
        self.record.final_epoch
    }

    /// The last complete checkpoint: the newer one of what the record and the store say.
    pub fn last_complete(&self) -> Option<Epoch> {
        self.last_complete
    }

    /// Controllers before the new one may have ordered checkpoints up to this one. The new one's numbers are above it: a worker that has
    /// the number of another checkpoint refuses the order, or takes it for an old one.
    pub fn epochs_after(&self) -> Epoch {
        // Each controller gives out a bounded share of numbers above the last complete one.
        let skipped = EPOCHS_PER_CONTROLLER.saturating_mul(u64::from(self.record.attempt));
        let complete = self.last_complete.map_or(0, Epoch::get);
        Epoch::new(complete.saturating_add(skipped))
    }

    /// The job and its phase. Set limits, mailbox and journal on `builder` ([`JobContext::builder`]); its job and run are the record's. The
    /// stop request of the record is in force again. With [`Detached`](crate::contracts::Detached) as the controller, drive it to the kill.
    pub fn build<C, S>(self, builder: JobBuilder, controller: C, scheduler: S) -> (JobContext<C, S>, AnyPhase) {
        let Self { record, replay: to, .. } = self;
        let (mut job, running) = builder.build_after(Some(&record), controller, scheduler);
        if let Some(request) = record.requested {
            // The context holds the mailbox, so the lane is open.
            let _ = job.sender().request(request);
        }
        let phase = replay(running, to, &record, &mut job);
        (job, phase)
    }
}

/// A record that no phase can be made of. It gives the record back.
#[derive(Debug)]
pub struct RehydrateError {
    record: Box<PhaseRecord>,
    unfit: Box<Unfit>,
}

impl RehydrateError {
    /// The record.
    pub fn into_record(self) -> PhaseRecord {
        *self.record
    }

    /// What is wrong.
    pub fn unfit(&self) -> &Unfit {
        &self.unfit
    }

    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match &*self.unfit {
            Unfit::Scheduler(error) => error.is_retryable(),
            Unfit::Store(error) => error.is_retryable(),
            _ => false,
        }
    }
}

impl fmt::Display for RehydrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PhaseRecord { job, run, phase, revision, .. } = &*self.record;
        write!(
            f,
            "the record of job `{job}`, run {run} ({phase}, revision {revision}) can't be taken up: {}",
            self.unfit
        )
    }
}

impl std::error::Error for RehydrateError {}

/// What is wrong with a record, or with the world that it speaks of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It is another job's.
    #[error("expected a record of job `{expected}`, got one of job `{got}`: look at how records are stored")]
    ForeignJob {
        /// The job that was to be taken up.
        expected: JobId,
        /// The record's job.
        got: JobId,
    },
    /// It says that the job has stopped, and workers are alive.
    #[error(
        "expected no worker to be alive after {phase}, got these: {}: have the scheduler stop them, then rehydrate again",
        shortened(alive.iter())
    )]
    StillAlive {
        /// What the record says.
        phase: PhaseKind,
        /// Who is alive.
        alive: Vec<WorkerId>,
    },
    /// It says that the final checkpoint is complete, and the store does not have it.
    #[error(
        "expected the manifest of the final checkpoint (epoch {epoch}) to be the last in the store, got {}: the store is not the one that the job used, or \
         has lost it; don't resume from it before you know", Latest(*latest)
    )]
    NoManifest {
        /// The final checkpoint.
        epoch: Epoch,
        /// The last one in the store.
        latest: Option<Epoch>,
    },
    /// It says that the final checkpoint is complete, and not which one that was.
    #[error("expected the final checkpoint's epoch in the record, got none: no winddown writes such a record")]
    NoFinalEpoch,
    /// It speaks of a checkpoint, and no store was given.
    #[error("expected a checkpoint store to check the final checkpoint against, got none: pass the job's")]
    NoStore,
    /// A newer run has gone on from there.
    #[error(
        "the record is of an older run: run {got} has published a checkpoint since; let the newer run's controller act"
    )]
    NewerRun {
        /// The newer run.
        got: RunId,
    },
    /// The scheduler could not be asked.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// The store could not be asked, or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

struct Latest(Option<Epoch>);

impl fmt::Display for Latest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(epoch) => write!(f, "epoch {epoch}"),
            None => f.write_str("no manifest at all"),
        }
    }
}
