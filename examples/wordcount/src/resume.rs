//! Finishes the shutdown in which an earlier call was killed, before a new run is started.
//!
//! No worker of the old run continues: one in the process of its controller died with it, and a
//! worker process leaves when its controller is gone (its lifeline ends, and the watchdog sends
//! SIGTERM and, five seconds later, SIGKILL), because the new controller has another address. So
//! there is no worker to send orders to, and the job continues without a controller: the remaining
//! workers are killed, and the evidence is what the checkpoint store proves, which may be weaker
//! than what the earlier call would have got.

use std::{path::Path, sync::Arc};

use winddown::{
    Detached, FileJournal, JobId, Limits, ObjectStoreCheckpoints, PhaseKind, Policy, Scheduler, StopRequest, Topology,
    contracts::{CheckpointStore, DynCheckpointStore},
    drive,
    journal::{Journal, PhaseRecord},
    rehydrate,
};

use crate::{
    report::{Resumed, walked},
    run_loop::JobError,
    runtime::Leftovers,
    screen::Screen,
};

/// Finishes what the record in `journal` describes, and reports it if it was a shutdown. Afterwards
/// no worker of an earlier run is alive; worker processes are recorded in `processes`. If the
/// journal can't be trusted, nothing is changed.
///
/// # Errors
/// [`JobError`] when the journal or the store can't be read or trusted, or when a worker can't be
/// ended.
pub(crate) async fn finish(
    id: &JobId,
    journal: &FileJournal,
    store: &ObjectStoreCheckpoints,
    topology: &Topology,
    processes: &Path,
    screen: &Screen,
) -> Result<Option<Resumed>, JobError> {
    // First of all, since even a look at the processes leaves a trace.
    let unfinished = journal.load(id).await?.filter(|record| !record.phase().is_terminal());
    let leftovers = Leftovers::find(processes).await?;
    let mut resumed = None;
    if let Some(record) = unfinished {
        let was_stopping = record.phase() != PhaseKind::Running || record.requested().is_some();
        if was_stopping {
            screen.say(&format!(
                "an earlier call was killed while it stopped {} ({}): that shutdown is finished first",
                record.run(),
                record.phase()
            ));
        }
        let done = to_its_end(&record, journal, store, topology, &leftovers).await?;
        if was_stopping {
            screen.say(&format!("run {} has stopped: {} (resumed shutdown)", done.run, done.evidence));
            resumed = Some(done);
        }
    }
    // Those of a run that had not come to its first record.
    leftovers.end().await?;
    Ok(resumed)
}

async fn to_its_end(
    record: &PhaseRecord,
    journal: &FileJournal,
    store: &ObjectStoreCheckpoints,
    topology: &Topology,
    leftovers: &Leftovers,
) -> Result<Resumed, JobError> {
    let (id, run) = (record.job(), record.run());
    let alive = leftovers.workers_for_job(id, Some(run)).await.map_err(|error| JobError::System(error.to_string()))?;
    let asked: Arc<dyn DynCheckpointStore> = Arc::new(store.clone());
    let checkpoints = Some((asked, topology));
    let rehydrated = rehydrate(id, journal.clone(), leftovers.clone(), checkpoints, Limits::default()).await?;
    let Some(rehydrated) = rehydrated else { return Err(JobError::System("the journal has lost the record".into())) };
    let from = rehydrated.phase();
    let (mut job, phase) = rehydrated.build(Detached).await?;
    let receipt = drive(phase, &mut job, &Policy::escalate()).await?;
    let last = store.latest(id).await?;
    Ok(Resumed {
        run: run.get(),
        requested: record.requested().map(StopRequest::name),
        found: record.phase().name(),
        workers_found: alive.len(),
        // What comes before was walked by the earlier call.
        phases: walked(&job).into_iter().skip_while(|leg| leg.phase != from.name()).collect(),
        evidence: receipt.stopped().name(),
        epoch: last.map(|manifest| manifest.epoch.get()),
    })
}
