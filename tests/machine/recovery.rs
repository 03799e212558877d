//! What is written down, when, and what becomes of it when the controller crashes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{records::altered, support::*};
use serde_json::json;
use tokio::time::Instant;
use winddown::{
    Epoch, JobId, Limits, ObjectStoreCheckpoints, OpenRun, PhaseKind, Policy, Role, Scheduler, StepError, StopRequest,
    TaskId, Topology, WorkerId,
    checkpoint::object_store::memory::InMemory,
    contracts::{CheckpointStore, DynCheckpointStore, Manifest, TaskSnapshot, WorkerStopMode},
    drive,
    drive::{RehydrateError, Rehydrated, Unfit},
    journal::{Journal, JournalError, NoJournal, PhaseRecord},
    rehydrate,
};

/// A record, and how much the collaborators had been told when it was written.
struct Written {
    record: PhaseRecord,
    told: usize,
    asked: usize,
    progressed: usize,
}

/// A journal that notes so.
#[derive(Clone)]
struct Witness {
    journal: ScriptedJournal,
    controller: ScriptedController,
    workers: ScriptedScheduler,
    written: Arc<Mutex<Vec<Written>>>,
}

impl Journal for Witness {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        self.journal.load(job).await
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        self.journal.write(record).await?;
        self.written.lock().unwrap().push(Written {
            record: record.clone(),
            told: self.controller.told().len(),
            asked: self.workers.calls().len(),
            progressed: self.controller.count(ControllerCall::Progress),
        });
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn i7_each_phase_is_written_down_before_its_first_effect() {
    use PhaseKind::*;
    let (mut job, running, controller, workers, journal) = journaled(Limits::default());
    let written = Arc::default();
    let (seen, told) = (Arc::clone(&written), controller.clone());
    job.set_journal(Witness { journal: journal.clone(), controller: told, workers: workers.clone(), written: seen });
    controller.on(Told::FinalCheckpoint, Duration::ZERO, Does::Fail(task_failed()));
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    request_later(&job, secs(3), StopRequest::Force);
    let _ = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();

    let mut phases = journal.phases();
    phases.dedup();
    assert_eq!(phases, [CheckpointStopping, StoppingImmediate, StoppingForce, StoppedKilled]);
    assert_eq!(controller.told(), [Told::FinalCheckpoint, Told::Stop(WorkerStopMode::Immediate)]);
    assert_eq!(asked(&workers), [Call::Kill, Call::List]);
    let written = written.lock().unwrap();
    let first = |phase| written.iter().find(|it| it.record.phase() == phase).unwrap();
    assert_eq!(first(CheckpointStopping).told, 0);
    assert_eq!(first(StoppingImmediate).told, 1, "the checkpoint order, and nothing of the stop");
    assert_eq!(first(StoppingForce).asked, 0, "nobody was killed before it was written");
    assert_eq!(first(StoppedKilled).asked, 2, "the end is written after the proof");
    let epoch = written.iter().find(|it| it.record.final_epoch() == Some(FINAL)).unwrap();
    assert_eq!(epoch.progressed, 0, "the final epoch was durable before anything was sent");
    let revisions: Vec<_> = written.iter().map(|it| it.record.revision()).collect();
    assert_eq!(revisions, (1..=u64::try_from(written.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(written.last().unwrap().record.requested(), Some(StopRequest::Force));
}

#[tokio::test(start_paused = true)]
async fn i7_what_can_not_be_written_is_not_done_and_the_phase_comes_back() {
    for answer in [JournalAnswer::Unavailable, JournalAnswer::Hangs] {
        let (mut job, running, controller, workers, journal) = journaled(Limits::default());
        journal.answers([answer]);
        let start = Instant::now();
        let failed = running.stop_gracefully(&mut job).unwrap().next(&mut job).await.unwrap_err();
        assert!(matches!(failed.error(), StepError::Journal(_)) && failed.is_retryable(), "{failed}");
        assert!(start.elapsed() <= job.limits().journal);
        assert_eq!((controller.told().len(), asked(&workers).len()), (0, 0));

        // The journal is back: the same phase goes on.
        journal.answers([JournalAnswer::Writes]);
        controller.on(Told::Stop(WorkerStopMode::Graceful), secs(1), Does::Finish);
        let receipt = drive(failed.into_phase(), &mut job, &Policy::give_back()).await.unwrap();
        assert_eq!(receipt.stopped().name(), "drained");
    }
}

/// At 3 in the morning the journal is away and the job must die.
#[tokio::test(start_paused = true)]
async fn i7_drive_gives_the_phase_back_and_an_operator_may_go_on_without_a_journal() {
    let (mut job, running, _, _, journal) = journaled(Limits::default());
    journal.answers([JournalAnswer::Unavailable]);
    let error = drive(running.force(&mut job).unwrap(), &mut job, &Policy::escalate()).await.unwrap_err();
    assert_eq!(error.to_string(), "the shutdown is stuck in Stopping<Force>: the journal is unavailable: scripted");
    assert_eq!(job.progress_now().retries, Limits::JOURNAL_RETRIES);
    job.set_journal(NoJournal);
    let receipt = drive(error.into_phase(), &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "killed");
}

/// A record whose answer was lost is written again, the same, and is no conflict with itself.
#[tokio::test(start_paused = true)]
async fn i7_a_lost_answer_of_the_journal_is_no_conflict() {
    let (mut job, running, controller, _, journal) = journaled(Limits::default());
    journal.answers([JournalAnswer::WritesAndHangs, JournalAnswer::Writes]);
    controller.on(Told::Stop(WorkerStopMode::Graceful), secs(1), Does::Finish);
    let receipt = drive(running.stop_gracefully(&mut job).unwrap(), &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("drained", 1));
    let revisions: Vec<_> = journal.records().iter().map(|it| (it.revision(), it.phase())).collect();
    assert_eq!(
        revisions,
        [(1, PhaseKind::StoppingGraceful), (2, PhaseKind::StoppedDrained)],
        "each phase is on record once"
    );
}

/// Two controllers of one run: the one that wrote last drives, the other one stops acting.
#[tokio::test(start_paused = true)]
async fn i11_a_controller_that_was_taken_over_stops_acting() {
    let (mut job, running, controller, workers, journal) = journaled(Limits::default());
    let mut stopping = running.stop_with_checkpoint(&mut job).unwrap();
    assert!(tokio::time::timeout(secs(1), stopping.run(&mut job)).await.is_err());

    let taken_over =
        rehydrate(&JOB.into(), journal.clone(), workers.clone(), None, Limits::default()).await.unwrap().unwrap();
    let (mut second, phase) = taken_over.simulated().build(crate::support::controller()).await.unwrap();
    assert_eq!(phase.kind(), PhaseKind::CheckpointStopping);
    second.sender().request(StopRequest::Force).unwrap();
    let receipt = drive(phase, &mut second, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "killed");

    let (calls, told) = (asked(&workers), controller.told());
    job.sender().request(StopRequest::Force).unwrap();
    let error = drive(stopping, &mut job, &Policy::escalate()).await.unwrap_err();
    assert!(error.to_string().contains("another controller has taken the job over; stop this one"), "{error}");
    assert_eq!((asked(&workers), controller.told()), (calls, told), "it did nothing more");
}

// --- rehydration, phase by
// phase -----------------------------------------------------------------------------------------------

fn record(phase: PhaseKind) -> PhaseRecord {
    serde_json::from_value(json!({
        "job": JOB,
        "run": RUN,
        "revision": 3,
        "phase": phase.tag(),
        "requested": "checkpoint",
        "final_epoch": FINAL,
        "last_complete": 41,
        "killed_workers": false,
        "attempt": 1,
        "at": "1970-01-01T00:00:00Z",
    }))
    .unwrap()
}

/// A journal that holds this record, whatever job is asked for.
struct Holds(PhaseRecord);

impl Journal for Holds {
    async fn load(&self, _: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        Ok(Some(self.0.clone()))
    }

    async fn write(&self, _: &PhaseRecord) -> Result<(), JournalError> {
        Ok(())
    }
}

/// One task, as in the manifests of [`store`].
fn topology() -> Topology {
    Topology::builder().operator("source", Role::Source, [WorkerId::new(1)]).build().unwrap()
}

async fn taken_up(
    record: PhaseRecord,
    workers: &ScriptedScheduler,
    store: Option<&ObjectStoreCheckpoints>,
    limits: Limits,
) -> Result<Rehydrated<ScriptedScheduler>, RehydrateError> {
    let topology = topology();
    let asked = store.map(|store| (Arc::new(store.clone()) as Arc<dyn DynCheckpointStore>, &topology));
    let found = rehydrate(&JOB.into(), Holds(record), workers.clone(), asked, limits).await?;
    Ok(found.unwrap().simulated())
}

/// What the store has of the final checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stored {
    Nothing,
    Periodic,
    Final,
    FinalWithCommits,
    NewerRun,
}

async fn store(stored: Stored) -> ObjectStoreCheckpoints {
    let store = ObjectStoreCheckpoints::new(Arc::new(InMemory::new()), "");
    let commit = (stored == Stored::FinalWithCommits).then(|| "commit".into());
    let task = TaskSnapshot { task: TaskId::new(0, 0), snapshot: "state".into(), commit, finished: false };
    let run = if stored == Stored::NewerRun { RUN.next() } else { RUN };
    let then_stop = stored != Stored::Periodic;
    if stored != Stored::Nothing {
        let manifest = Manifest { job: JOB.into(), run, epoch: FINAL, then_stop, tasks: vec![task] };
        store.publish(&manifest).await.unwrap();
    }
    store
}

/// The record does not say which periodic checkpoints were ordered, nor what has completed since it
/// was written.
#[tokio::test(start_paused = true)]
async fn i3_the_next_controller_gives_its_checkpoints_numbers_that_none_before_it_can_have_used() {
    let (workers, limits) = (workers(), Limits::default());
    let first = take_up(Stored::Nothing, 1, &workers, &limits).await.epochs_after().unwrap();
    let newer = take_up(Stored::Periodic, 1, &workers, &limits).await;
    assert_eq!(newer.last_complete(), Some(FINAL), "the store knows more than the record");
    assert!(newer.epochs_after() > Some(first) && first > Epoch::new(41));
    let third = take_up(Stored::Nothing, 2, &workers, &limits).await.epochs_after().unwrap();
    assert_eq!(third.get() - first.get(), first.get() - 41, "as many for each controller");
}

async fn take_up(stored: Stored, attempt: u32, workers: &ScriptedScheduler, limits: &Limits) -> OpenRun {
    let record = altered(&record(PhaseKind::Running), json!({ "final_epoch": null, "attempt": attempt }));
    taken_up(record, workers, Some(&store(stored).await), limits.clone()).await.unwrap().open().clone()
}

/// Every phase, with workers alive and gone, and every state of the store. A new phase without a
/// row does not compile: see `expected`.
#[tokio::test(start_paused = true)]
async fn i7_every_record_is_taken_up_as_what_the_world_proves_or_as_less() {
    use Stored::*;
    for phase in PhaseKind::ALL {
        for alive in [true, false] {
            for stored in [Nothing, Periodic, Final, FinalWithCommits, NewerRun] {
                let workers = workers();
                if !alive {
                    workers.stop_workers(&JOB.into(), Some(RUN), true).await.unwrap();
                }
                let store = store(stored).await;
                let outcome = taken_up(record(*phase), &workers, Some(&store), Limits::default()).await;
                let found = match &outcome {
                    Ok(rehydrated) => Ok(rehydrated.phase()),
                    Err(error) => Err(match error.unfit() {
                        Unfit::StillAlive { .. } => "alive",
                        Unfit::NoManifest { .. } => "no manifest",
                        Unfit::NewerRun { .. } => "newer run",
                        _ => panic!("{error}"),
                    }),
                };
                assert_eq!(found, expected(*phase, alive, stored), "{phase}, alive: {alive}, {stored:?}");
                match outcome {
                    Ok(rehydrated) => {
                        let (job, phase) = rehydrated.build(crate::support::controller()).await.unwrap();
                        assert_eq!((job.id().as_str(), job.run(), job.phase()), (JOB, RUN, phase.kind()));
                        assert_eq!(
                            job.requested(),
                            Some(StopRequest::Checkpoint),
                            "the request is in force again (I8)"
                        );
                        assert!(!job.may_restart());
                    }
                    Err(error) => assert_eq!(error.record(), Some(&record(*phase)), "the error tells the record"),
                }
            }
        }
    }
}

fn expected(phase: PhaseKind, alive: bool, stored: Stored) -> Result<PhaseKind, &'static str> {
    use PhaseKind::*;
    match (phase, alive) {
        (StoppedCheckpointed | StoppedCompleted | StoppedDrained | StoppedHalted | StoppedKilled, true) => Err("alive"),
        (Running | Finishing | CheckpointStopping, true) if stored == Stored::NewerRun => Err("newer run"),
        (Running | Recovering | StoppingGraceful | StoppingImmediate | StoppingForce, false) => Ok(StoppingForce),
        (CheckpointStopping | Finishing, false) => match stored {
            Stored::Final if phase == Finishing => Ok(StoppedCompleted),
            Stored::Final => Ok(StoppedCheckpointed),
            Stored::NewerRun => Err("newer run"),
            // Not durable, or its commits may not have been carried out: less is claimed.
            Stored::Nothing | Stored::Periodic | Stored::FinalWithCommits => Ok(StoppingForce),
        },
        (StoppedCheckpointed | StoppedCompleted, false) => match stored {
            Stored::Final | Stored::FinalWithCommits => Ok(phase),
            Stored::NewerRun => Err("newer run"),
            Stored::Nothing | Stored::Periodic => Err("no manifest"),
        },
        (
            Running | Finishing | Recovering | CheckpointStopping | StoppingGraceful | StoppingImmediate
            | StoppingForce,
            true,
        )
        | (StoppedDrained | StoppedHalted | StoppedKilled, false) => Ok(phase),
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_can_not_be_taken_up_say_why() {
    let (gone, nothing) = (workers(), store(Stored::Nothing).await);
    gone.stop_workers(&JOB.into(), Some(RUN), true).await.unwrap();
    let unsure = workers();
    unsure.always(SchedulerAnswer::Unavailable);
    let no_epoch = altered(&record(PhaseKind::StoppedCheckpointed), json!({ "final_epoch": null }));
    let foreign = altered(&record(PhaseKind::StoppedKilled), json!({ "job": "other" }));
    let end = record(PhaseKind::StoppedCheckpointed);
    let with = Some(&nothing);
    let cases = [
        (
            foreign,
            &gone,
            with,
            "expected a record of job `wordcount`, got one of job `other`: look at how records are stored",
        ),
        (
            end.clone(),
            &gone,
            with,
            "expected the manifest of the final checkpoint (epoch 42) to be the last in the store, got no manifest at all: the store \
             is not the one that the job used, or has lost it; don't resume from it before you know",
        ),
        (
            no_epoch,
            &gone,
            with,
            "expected the final checkpoint's epoch in the record, got none: no winddown writes such a record",
        ),
        (
            end.clone(),
            &gone,
            None,
            "expected a checkpoint store to check the final checkpoint against, got none: pass the job's",
        ),
        (end, &unsure, with, "the scheduler is unavailable: scripted"),
    ];
    for (record, workers, store, text) in cases {
        let error = taken_up(record, workers, store, Limits::default()).await.unwrap_err();
        assert_eq!(error.unfit().to_string(), text);
        assert_eq!(error.is_retryable(), text.contains("is unavailable"));
    }
}
