//! The scripted collaborators as a user's test has them; and, with them, what the explorer found,
//! so that it stays found.

use tokio::time::Instant;
use winddown::{
    JobController, Limits, PhaseKind, Policy, Scheduler, WorkerId,
    contracts::{
        CheckpointStart, ControllerError, Event, FinalCheckpoint, RunFailure, StoreError, WorkerEvent, WorkerStopMode,
    },
    drive,
};

use crate::support::*;

/// Explorer: `checkpoint:29=3`. The end was refused once by the journal; the record of the phase
/// before must not follow it.
#[tokio::test(start_paused = true)]
async fn i7_the_record_does_not_go_backwards_from_the_end() {
    for lost in [JournalAnswer::WritesAndFails, JournalAnswer::Unavailable, JournalAnswer::Hangs] {
        let parts = Parts::new();
        completes(&parts.controller, secs(1), secs(1));
        // The phase, the final epoch, and then the end.
        parts.journal.answers([JournalAnswer::Writes, JournalAnswer::Writes, lost, JournalAnswer::Writes]);
        let (mut job, running) = parts.job(Limits::default());
        let stopping = running.stop_with_checkpoint(&mut job).unwrap();
        let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
        assert_eq!((receipt.stopped().name(), receipt.retries()), ("checkpointed", 1), "{lost:?}");
        let mut phases = parts.journal.phases();
        phases.dedup();
        assert_eq!(phases, [PhaseKind::CheckpointStopping, PhaseKind::StoppedCheckpointed], "{lost:?}");
        // What was proven is not proven anew: nobody is asked to leave twice.
        let asked = parts.scheduler.calls().iter().filter(|(call, _)| *call == Call::Ask).count();
        assert_eq!(asked, 1, "{lost:?}");
    }
}

/// Explorer: `checkpoint-then-detached:5=1`. The final checkpoint's epoch could not be written
/// down: none of its orders goes out in the backoff.
#[tokio::test(start_paused = true)]
async fn i7_a_backoff_after_a_failed_record_does_not_poll_the_controller() {
    let (mut job, running, controller, _, journal) = journaled(Limits::default());
    completes(&controller, secs(60), secs(60));
    journal.answers([JournalAnswer::Writes, JournalAnswer::Unavailable, JournalAnswer::Writes]);
    let start = Instant::now();
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("checkpointed", 1));
    let polls = controller.calls().into_iter().filter(|(call, _)| *call == ControllerCall::Progress);
    let first = polls.map(|(_, at)| at - start).next().unwrap();
    assert!(first >= Limits::default().backoff_min, "polled {first:?} after the start, in the backoff");
}

/// Explorer: `graceful-periodic:5=7,7=4`. A kill failed: in the backoff the controller does not go
/// on with what it was told before.
#[tokio::test(start_paused = true)]
async fn i7_a_backoff_of_force_does_not_poll_the_controller() {
    let (mut job, running, controller, scheduler) = job(Limits::default());
    scheduler.answers(Call::Kill, [SchedulerAnswer::Unavailable, SchedulerAnswer::Obeys]);
    let stopping = running.force(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("killed", 1));
    assert_eq!(controller.count(ControllerCall::Progress), 0);
}

#[tokio::test(start_paused = true)]
async fn a_script_is_followed_and_written_down() {
    let parts = Parts::new();
    let Parts { controller, scheduler, .. } = &parts;
    let lost = RunFailure::WorkerLost { worker: WorkerId::new(2), silent_for: secs(31) };
    controller.on(Told::Stop(WorkerStopMode::Graceful), secs(3), Does::Fail(lost.clone()));
    scheduler.answers(Call::Kill, [SchedulerAnswer::ObeysAfter(secs(2))]);
    let (mut job, running) = parts.job(Limits::default());
    let start = Instant::now();
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "killed");
    assert_eq!(start.elapsed(), secs(5));
    assert_eq!(controller.failure(), Some(&lost));
    assert_eq!(controller.told_at(Told::Stop(WorkerStopMode::Graceful)), Some(start));
    assert_eq!(scheduler.called_at(Call::Kill), Some(start + secs(3)));
    assert!(scheduler.calls().iter().all(|(_, run)| *run == Some(RUN)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_order_and_a_status_that_changes_end_a_wait() {
    let mut controller = ScriptedController::new(2);
    controller
        .later(secs(1), Does::RefuseOrder)
        .later(secs(2), Does::FailToPublish)
        .later(secs(3), Does::ExhaustSources);
    assert!(matches!(controller.progress().await, Err(ControllerError::Orders(_))));
    assert!(matches!(controller.progress().await, Err(ControllerError::Store(_))));
    controller.progress().await.unwrap();
    assert!(controller.status().sources_exhausted());
    controller.change(|status| status.failures = 9);
    controller.progress().await.unwrap();
    assert_eq!(controller.status().failures, 9);
}

#[tokio::test(start_paused = true)]
async fn the_final_checkpoint_is_answered_as_scripted() {
    use CheckpointAnswer::{Busy, NoStore, Refuses, Starts};
    let mut controller = controller();
    controller.checkpoints([Busy, Refuses, NoStore, Starts]);
    assert_eq!(controller.begin_checkpoint(true).unwrap(), CheckpointStart::Busy(ScriptedController::BEFORE_FINAL));
    assert!(matches!(controller.begin_checkpoint(true), Err(ControllerError::Orders(_))));
    assert!(matches!(controller.begin_checkpoint(true), Err(ControllerError::NoCheckpoint(_))));
    assert_eq!(controller.told(), [], "none of these is a start");
    assert_eq!(controller.begin_checkpoint(true).unwrap(), CheckpointStart::Started(FINAL));
    assert_eq!(controller.begin_checkpoint(true).unwrap(), CheckpointStart::AlreadyStarted(FINAL));
    assert_eq!(
        (controller.told(), controller.count(ControllerCall::BeginCheckpoint)),
        (vec![Told::FinalCheckpoint], 5)
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_run_does_at_once_is_seen_at_once_and_an_error_at_the_next_progress() {
    let mut controller = controller();
    controller.now(Does::ExhaustSources).now(Does::BeFenced);
    assert!(controller.status().sources_exhausted());
    assert!(matches!(controller.progress().await, Err(ControllerError::Store(StoreError::Fenced { .. }))));
    controller.progress().await.unwrap();
    assert!(tokio::time::timeout(secs(9), controller.progress()).await.is_err(), "each is told once");

    controller.on_event(Does::CompleteFinal);
    let event = WorkerEvent::new(RUN, WorkerId::new(1), Event::Heartbeat);
    controller.handle(event.clone(), std::time::Instant::now()).unwrap();
    assert_eq!(controller.status().final_checkpoint, FinalCheckpoint::Complete(FINAL));
    assert_eq!(controller.events(), [event]);
}

#[tokio::test]
async fn i11_a_scheduler_of_one_run_allows_no_call_about_another() {
    for (job, run) in [("other", Some(RUN)), (JOB, Some(RUN.next())), (JOB, None)] {
        let asked = tokio::spawn(async move { workers().stop_workers(&job.into(), run, true).await });
        let panic = asked.await.unwrap_err().into_panic();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("only this run may be touched"), "{job}, {run:?}: {text}");
    }
    workers().stop_workers(&JOB.into(), Some(RUN), true).await.unwrap();
}
