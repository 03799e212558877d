//! What is written down, when, and what becomes of it when the controller crashes.
#![cfg(all(feature = "embedded", feature = "object-store"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, SystemTime};

use support::{journal::Notebook, *};
use tokio::time::Instant;
use winddown::{checkpoint::object_store::memory::InMemory, *};

fn journaled(limits: Limits) -> (Job, Running, Scripted, Workers, Notebook) {
    let (controller, workers) = (Scripted::default(), Workers::default());
    let notebook = Notebook::witnessing(&controller, &workers);
    let builder = JobContext::builder(JOB, RUN).limits(limits).journal(notebook.clone());
    let (job, running) = builder.build(controller.clone(), workers.clone());
    (job, running, controller, workers, notebook)
}

#[tokio::test(start_paused = true)]
async fn i7_each_phase_is_written_down_before_its_first_effect() {
    use PhaseKind::*;
    let (mut job, running, controller, workers, notebook) = journaled(Limits::default());
    controller.on(Told::FinalCheckpoint, Duration::ZERO, Does::Fail(task_failed()));
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    request_later(&job, secs(3), StopRequest::Force);
    let _ = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();

    assert_eq!(notebook.phases(), [CheckpointStopping, StoppingImmediate, StoppingForce, StoppedKilled]);
    assert_eq!(controller.told(), [Told::FinalCheckpoint, Told::Stop(WorkerStopMode::Immediate)]);
    assert_eq!(workers.calls(), [Call::Kill, Call::List]);
    let written = notebook.written.lock().unwrap();
    let first = |phase| written.iter().find(|it| it.record.phase == phase).unwrap();
    assert_eq!(first(CheckpointStopping).told, 0);
    assert_eq!(first(StoppingImmediate).told, 1, "the checkpoint order, and nothing of the stop");
    assert_eq!(first(StoppingForce).calls, 0, "nobody was killed before it was written");
    assert_eq!(first(StoppedKilled).calls, 2, "the end is written after the proof");
    let epoch = written.iter().find(|it| it.record.final_epoch == Some(FINAL)).unwrap();
    assert_eq!(epoch.progressed, 0, "the final epoch was durable before anything was sent");
    let revisions: Vec<_> = written.iter().map(|it| it.record.revision).collect();
    assert_eq!(revisions, (1..=u64::try_from(written.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(written.last().unwrap().record.requested, Some(StopRequest::Force));
}

#[tokio::test(start_paused = true)]
async fn i7_what_can_not_be_written_is_not_done_and_the_phase_comes_back() {
    for answer in [Answer::Fails, Answer::Hangs] {
        let (mut job, running, controller, workers, notebook) = journaled(Limits::default());
        notebook.answers.lock().unwrap().push(answer);
        let start = Instant::now();
        let failed = running.stop_gracefully(&mut job).unwrap().next(&mut job).await.unwrap_err();
        assert!(matches!(failed.error(), StepError::Journal(_)) && failed.is_retryable(), "{failed}");
        assert!(start.elapsed() <= job.limits().journal);
        assert_eq!((controller.told().len(), workers.calls().len()), (0, 0));

        // The journal is back: the same phase goes on.
        *notebook.answers.lock().unwrap() = vec![Answer::Obeys];
        controller.on(Told::Stop(WorkerStopMode::Graceful), secs(1), Does::Finish);
        let receipt = drive(failed.into_phase(), &mut job, &Policy::give_back()).await.unwrap();
        assert_eq!(receipt.stopped.name(), "drained");
    }
}

/// At 3 in the morning the journal is away and the job must die.
#[tokio::test(start_paused = true)]
async fn i7_drive_gives_the_phase_back_and_an_operator_may_go_on_without_a_journal() {
    let (mut job, running, _, _, notebook) = journaled(Limits::default());
    notebook.answers.lock().unwrap().push(Answer::Fails);
    let error = drive(running.force(&mut job).unwrap(), &mut job, &Policy::escalate()).await.unwrap_err();
    assert_eq!(error.to_string(), "the shutdown is stuck in Stopping<Force>: the journal can't now: disk full");
    assert_eq!(job.progress_now().retries, Limits::JOURNAL_RETRIES);
    job.set_journal(NoJournal);
    let receipt = drive(error.into_phase(), &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped.name(), "killed");
}

/// A record whose answer was lost is written again, the same, and is no conflict with itself.
#[tokio::test(start_paused = true)]
async fn i7_a_lost_answer_of_the_journal_is_no_conflict() {
    let (mut job, running, controller, _, notebook) = journaled(Limits::default());
    *notebook.answers.lock().unwrap() = vec![Answer::Ignores, Answer::Obeys];
    controller.on(Told::Stop(WorkerStopMode::Graceful), secs(1), Does::Finish);
    let receipt = drive(running.stop_gracefully(&mut job).unwrap(), &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped.name(), receipt.retries), ("drained", 1));
    let revisions: Vec<_> =
        notebook.written.lock().unwrap().iter().map(|it| (it.record.revision, it.record.phase)).collect();
    assert_eq!(
        revisions,
        [(1, PhaseKind::StoppingGraceful), (2, PhaseKind::StoppedDrained)],
        "each phase is on record once"
    );
}

/// Two controllers of one run: the one that wrote last drives, the other one stops acting.
#[tokio::test(start_paused = true)]
async fn i11_a_controller_that_was_taken_over_stops_acting() {
    let (mut job, running, controller, workers, notebook) = journaled(Limits::default());
    let mut stopping = running.stop_with_checkpoint(&mut job).unwrap();
    assert!(tokio::time::timeout(secs(1), stopping.run(&mut job)).await.is_err());
    let record = notebook.last().unwrap();

    let taken_over = rehydrate(record, &JOB.into(), &workers, None, &Limits::default()).await.unwrap();
    let builder = JobContext::builder(JOB, RUN).journal(notebook.clone());
    let (mut second, phase) = taken_over.build(builder, Scripted::default(), workers.clone());
    assert_eq!(phase.kind(), PhaseKind::CheckpointStopping);
    second.sender().request(StopRequest::Force).unwrap();
    let receipt = drive(phase, &mut second, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped.name(), "killed");

    let (calls, told) = (workers.calls(), controller.told());
    job.sender().request(StopRequest::Force).unwrap();
    let error = drive(stopping, &mut job, &Policy::escalate()).await.unwrap_err();
    assert!(error.to_string().contains("another controller has taken the job over; stop this one"), "{error}");
    assert_eq!((workers.calls(), controller.told()), (calls, told), "it did nothing more");
}

// --- rehydration, phase by phase -----------------------------------------------------------------------------------------------

fn record(phase: PhaseKind) -> PhaseRecord {
    PhaseRecord {
        job: JOB.into(),
        run: RUN,
        revision: 3,
        phase,
        requested: Some(StopRequest::Checkpoint),
        final_epoch: Some(FINAL),
        last_complete: Some(Epoch::new(41)),
        killed_workers: false,
        attempt: 1,
        at: SystemTime::UNIX_EPOCH,
    }
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
    let store = ObjectStoreCheckpoints::new(std::sync::Arc::new(InMemory::new()), "");
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

/// The record does not say which periodic checkpoints were ordered, nor what has completed since it was written.
#[tokio::test(start_paused = true)]
async fn i3_the_next_controller_gives_its_checkpoints_numbers_that_none_before_it_can_have_used() {
    let (workers, limits) = (Workers::default(), Limits::default());
    let first = Rehydrated::epochs_after(&take_up(Stored::Nothing, 1, &workers, &limits).await);
    let newer = take_up(Stored::Periodic, 1, &workers, &limits).await;
    assert_eq!(newer.last_complete(), Some(FINAL), "the store knows more than the record");
    assert!(newer.epochs_after() > first && first > Epoch::new(41));
    let third = take_up(Stored::Nothing, 2, &workers, &limits).await.epochs_after();
    assert_eq!(third.get() - first.get(), first.get() - 41, "as many for each controller");
}

async fn take_up(stored: Stored, attempt: u32, workers: &Workers, limits: &Limits) -> Rehydrated {
    let record = PhaseRecord { final_epoch: None, attempt, ..record(PhaseKind::Running) };
    rehydrate(record, &JOB.into(), workers, Some(&store(stored).await), limits).await.unwrap()
}

/// Every phase, with workers alive and gone, and every state of the store. A new phase without a row does not compile: see `expected`.
#[tokio::test(start_paused = true)]
async fn i7_every_record_is_taken_up_as_what_the_world_proves_or_as_less() {
    use Stored::*;
    for phase in PhaseKind::ALL {
        for alive in [true, false] {
            for stored in [Nothing, Periodic, Final, FinalWithCommits, NewerRun] {
                let workers = Workers::default();
                if !alive {
                    workers.stop_workers(&JOB.into(), Some(RUN), true).await.unwrap();
                }
                let store = store(stored).await;
                let outcome = rehydrate(record(*phase), &JOB.into(), &workers, Some(&store), &Limits::default()).await;
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
                if let Ok(rehydrated) = outcome {
                    let (job, phase) =
                        rehydrated.build(JobContext::builder("other", RunId::new(99)), Scripted::default(), workers);
                    assert_eq!((job.id().as_str(), job.run(), job.phase()), (JOB, RUN, phase.kind()));
                    assert_eq!(job.requested(), Some(StopRequest::Checkpoint), "the request is in force again (I8)");
                    assert!(!job.may_restart());
                } else if let Err(error) = outcome {
                    assert_eq!(error.into_record(), record(*phase), "the record comes back");
                }
            }
        }
    }
}

fn expected(phase: PhaseKind, alive: bool, stored: Stored) -> Result<PhaseKind, &'static str> {
    use PhaseKind::*;
    match (phase, alive) {
        (StoppedCheckpointed | StoppedDrained | StoppedHalted | StoppedKilled, true) => Err("alive"),
        (Running | Finishing | Recovering | StoppingGraceful | StoppingImmediate | StoppingForce, false) => {
            Ok(StoppingForce)
        }
        (CheckpointStopping, false) => match stored {
            Stored::Final => Ok(StoppedCheckpointed),
            Stored::NewerRun => Err("newer run"),
            // Not durable, or its commits may not have been carried out: less is claimed.
            Stored::Nothing | Stored::Periodic | Stored::FinalWithCommits => Ok(StoppingForce),
        },
        (StoppedCheckpointed, false) => match stored {
            Stored::Final | Stored::FinalWithCommits => Ok(StoppedCheckpointed),
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
    let (gone, nothing) = (Workers::default(), store(Stored::Nothing).await);
    gone.stop_workers(&JOB.into(), Some(RUN), true).await.unwrap();
    let unsure = Workers::default();
    unsure.always(Answer::Fails);
    let no_epoch = PhaseRecord { final_epoch: None, ..record(PhaseKind::StoppedCheckpointed) };
    let foreign = PhaseRecord { job: "other".into(), ..record(PhaseKind::StoppedKilled) };
    let end = record(PhaseKind::StoppedCheckpointed);
    let with: Option<&dyn DynCheckpointStore> = Some(&nothing);
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
        (end, &unsure, with, "the scheduler can't now: try later"),
    ];
    for (record, workers, store, text) in cases {
        let error = rehydrate(record, &JOB.into(), workers, store, &Limits::default()).await.unwrap_err();
        assert_eq!(error.unfit().to_string(), text);
        assert_eq!(error.is_retryable(), text.contains("can't now"));
    }
}
