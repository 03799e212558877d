//! The invariants of the design, as far as phases and drive hold them, on a paused clock. The
//! model's, the cluster controller's, the worker kit's and the store's share is tested beside them,
//! under the same names.

use std::time::Duration;
use winddown::AnyPhase;
use winddown::AnyStopped;
use winddown::Mailbox;
use winddown::PhaseKind;
use winddown::StepError;
use winddown::StopRequest;
use winddown::WorkerId;
use winddown::contracts::Event;
use winddown::contracts::WorkerEvent;
use winddown::contracts::WorkerStopMode;
use winddown::drive::DriveError;
use winddown::machine::AfterCheckpointStopping;
use winddown::machine::AfterForce;
use winddown::machine::AfterRunning;
use winddown::mailbox::JobGone;
use winddown::mailbox::JobMessage;
use winddown::mailbox::Requested;
use winddown::mailbox::TryEventError;

use crate::support::*;
use tokio::time::{Instant, timeout};
use winddown::{Limits, Policy, drive};

#[tokio::test(start_paused = true)]
async fn i1_a_phase_of_another_job_is_an_error_that_gives_it_back() {
    let (mut one, running_one, ..) = job(Limits::default());
    let (mut two, running_two, ..) = job(Limits::default());
    let failed = running_one.stop_with_checkpoint(&mut two).unwrap_err();
    assert_eq!(
        failed.to_string(),
        "Running: expected a phase of job `wordcount`, which is in Running, got Running of another job; pass the context that \
         the phase came from"
    );
    assert_eq!((one.requested(), two.requested()), (None, None), "nothing was asked of either");

    let mut stopping = failed.into_phase().stop_with_checkpoint(&mut one).unwrap();
    let failure = stopping.run(&mut two).await.unwrap_err();
    assert!(matches!(&failure, StepError::WrongJob(wrong) if wrong.used == PhaseKind::CheckpointStopping));
    assert!(!failure.is_retryable());

    let DriveErrorParts { phase, .. } = parts(drive(stopping, &mut two, &Policy::escalate()).await.unwrap_err());
    assert_eq!(phase.kind(), PhaseKind::CheckpointStopping, "drive gives it back too");
    drop(running_two);
}

struct DriveErrorParts {
    phase: AnyPhase,
    failure: Box<StepError>,
}

fn parts(error: DriveError) -> DriveErrorParts {
    let (phase, failure) = error.into_parts();
    DriveErrorParts { phase, failure }
}

#[tokio::test(start_paused = true)]
async fn i2_killed_workers_are_gone_before_the_job_is_stopped() {
    let (mut job, running, _, workers) = job(Limits::default());
    workers.answers(Call::Kill, [SchedulerAnswer::ObeysAfter(secs(9))]);
    let start = Instant::now();
    let AfterForce::Stopped(stopped) = running.force(&mut job).unwrap().next(&mut job).await.unwrap();
    assert!(start.elapsed() >= secs(9), "`Ok` from the scheduler is not proof");
    assert!(stopped.at() - start >= secs(9));
    assert_eq!(workers.alive(), []);
}

#[tokio::test(start_paused = true)]
async fn i2_who_can_not_be_asked_about_is_not_gone() {
    for (list, expected) in [
        (SchedulerAnswer::Unavailable, "the scheduler is unavailable: scripted"),
        (SchedulerAnswer::Refuses, "the scheduler refused: scripted"),
        (SchedulerAnswer::Hangs, "the scheduler did not answer `workers_for_job` within 30s"),
    ] {
        let (mut job, running, _, workers) = job(Limits::default());
        workers.answers(Call::List, [list]);
        let failed = running.force(&mut job).unwrap().next(&mut job).await.unwrap_err();
        assert_eq!(failed.error().to_string(), expected);
        assert_eq!(failed.is_retryable(), list != SchedulerAnswer::Refuses);
    }
}

#[tokio::test(start_paused = true)]
async fn i2_workers_that_survive_a_kill_are_named() {
    let (mut job, running, _, workers) = job(Limits::default());
    workers.answers(Call::Kill, [SchedulerAnswer::Ignores]);
    let failed = running.force(&mut job).unwrap().next(&mut job).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "Stopping<Force>: expected no worker to be alive 30s after the kill order, got 2 (1, 2); look at what keeps \
         them alive, then try again"
    );
}

/// Whatever the mode, workers that do not leave by themselves are killed, and the evidence stays
/// what it was.
#[tokio::test(start_paused = true)]
async fn i2_workers_that_finish_but_stay_are_killed_without_loss_of_evidence() {
    for answer in [SchedulerAnswer::Ignores, SchedulerAnswer::Unavailable, SchedulerAnswer::Hangs] {
        let (mut job, running, controller, workers) = job(Limits::default());
        completes(&controller, secs(1), secs(1));
        workers.answers(Call::Ask, [answer]);
        let stopping = running.stop_with_checkpoint(&mut job).unwrap();
        let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
        let AnyStopped::Checkpointed(stopped) = receipt.stopped() else { panic!("{answer:?}") };
        assert_eq!((stopped.evidence().epoch(), stopped.killed_workers()), (FINAL, true), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn i3_neither_a_complete_checkpoint_nor_finished_tasks_alone_are_enough() {
    for does in [Does::CompleteFinal, Does::Finish] {
        let (mut job, running, controller, _) = job(Limits::default());
        controller.on(Told::FinalCheckpoint, secs(1), does.clone());
        let stopping = running.stop_with_checkpoint(&mut job).unwrap();
        let failed = stopping.next(&mut job).await.unwrap_err();
        assert!(matches!(failed.error(), StepError::BudgetSpent { .. }), "{does:?}: {failed}");
        assert_eq!(failed.into_phase().complete(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn i3_a_failure_during_the_final_checkpoint_ends_the_wait_at_once() {
    for failure in [task_failed(), worker_lost()] {
        let (mut job, running, controller, _) = job(Limits::default());
        controller.on(Told::FinalCheckpoint, secs(2), Does::Fail(failure.clone()));
        let start = Instant::now();
        let failed = running.stop_with_checkpoint(&mut job).unwrap().next(&mut job).await.unwrap_err();
        assert_eq!(start.elapsed(), secs(2));
        assert!(matches!(failed.error(), StepError::Run(told) if *told == failure));
        assert!(!failed.is_retryable());
    }
}

#[tokio::test(start_paused = true)]
async fn i4_a_graceful_request_changes_nothing_during_the_final_checkpoint() {
    let (mut job, running, controller, _) = job(Limits::default());
    completes(&controller, secs(9), secs(9));
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    request_later(&job, secs(1), StopRequest::Graceful);
    let after = stopping.next(&mut job).await.unwrap();
    assert_eq!(after.kind(), PhaseKind::StoppedCheckpointed);
    assert_eq!(job.requested(), Some(StopRequest::Graceful));
}

#[test]
fn i4_requests_are_ordered_and_the_strongest_wins_in_any_order() {
    use winddown::StopRequest::*;
    assert!(None < Some(Checkpoint) && Checkpoint < Graceful && Graceful < Immediate && Immediate < Force);
    for one in StopRequest::ALL {
        for two in StopRequest::ALL {
            let mailbox = Mailbox::new(1);
            let sender = mailbox.sender();
            assert_eq!(sender.request(one), Ok(Requested::InForce));
            let expected = if two > one { Requested::InForce } else { Requested::AlreadyStronger(one) };
            assert_eq!(sender.request(two), Ok(expected));
            assert_eq!(mailbox.requested(), Some(one.max(two)));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i4_a_stop_of_a_running_job_is_never_weaker_than_what_was_asked() {
    let (mut job, running, ..) = job(Limits::default());
    job.sender().request(StopRequest::Immediate).unwrap();
    let after = running.stop(StopRequest::Checkpoint, &mut job).unwrap();
    assert_eq!(after.kind(), PhaseKind::StoppingImmediate);
}

#[tokio::test(start_paused = true)]
async fn i6_a_million_messages_do_not_delay_a_stop_request() {
    const BACKLOG: u32 = 1_000_000;
    let (mut job, mut running, controller, _) = job(Limits { mailbox_capacity: BACKLOG, ..Limits::default() });
    let sender = job.sender();
    for _ in 0..BACKLOG {
        sender.try_event(WorkerEvent::new(RUN, WorkerId::new(1), Event::Heartbeat)).unwrap();
    }
    // The phase is in the midst of the backlog when the request comes.
    let _ = timeout(Duration::ZERO, running.run(&mut job)).await;
    let before = controller.events().len();
    assert!(before < BACKLOG as usize, "still a backlog: {before}");
    sender.request(StopRequest::Force).unwrap();
    assert_eq!(running.next(&mut job).await.unwrap().kind(), PhaseKind::StoppingForce);
    assert!(controller.events().len() <= before + 1, "at most the message in hand");
}

#[tokio::test(start_paused = true)]
async fn i6_a_full_mailbox_holds_workers_back_and_takes_requests() {
    let (job, _running, ..) = job(Limits { mailbox_capacity: 1, ..Limits::default() });
    let (sender, event) = (job.sender(), WorkerEvent::new(RUN, WorkerId::new(1), Event::Heartbeat));
    sender.try_event(event.clone()).unwrap();
    assert_eq!(sender.try_event(event.clone()), Err(TryEventError::Full(event.clone())));
    assert!(timeout(secs(60), sender.event(event)).await.is_err(), "it waits for room");
    assert_eq!(sender.request(StopRequest::Checkpoint), Ok(Requested::InForce));
}

#[tokio::test(start_paused = true)]
async fn i6_a_closed_channel_is_an_error_and_no_panic() {
    let (job, running, ..) = job(Limits::default());
    let sender = job.sender();
    drop((job, running));
    let event = WorkerEvent::new(RUN, WorkerId::new(1), Event::Heartbeat);
    assert_eq!(sender.request(StopRequest::Force), Err(JobGone));
    assert_eq!(sender.try_event(event.clone()), Err(TryEventError::Gone(JobGone)));
    assert_eq!(sender.event(event.clone()).await, Err(JobGone));
    assert_eq!(sender.send(JobMessage::Worker(event)).await, Err(JobGone));
}

#[tokio::test(start_paused = true)]
async fn i6_every_failure_gives_the_phase_back_and_it_goes_on() {
    let (mut job, running, controller, workers) = job(Limits::default());
    controller.on(Told::FinalCheckpoint, secs(1), Does::RefuseOrder);
    completes(&controller, secs(2), secs(3));
    workers.answers(Call::Ask, [SchedulerAnswer::Ignores]);
    // An attempt gives the order a second time to those that it finds after the first.
    let ignores = SchedulerAnswer::Ignores;
    workers.answers(Call::Kill, [SchedulerAnswer::Unavailable, ignores, ignores, SchedulerAnswer::Obeys]);

    let mut phase = running.stop_with_checkpoint(&mut job).unwrap();
    let mut failures = Vec::new();
    let stopped = loop {
        match phase.next(&mut job).await {
            Ok(AfterCheckpointStopping::Stopped(stopped)) => break stopped,
            Ok(other) => panic!("{other:?}"),
            Err(failed) => {
                assert!(failed.is_retryable(), "{failed}");
                failures.push(failed.error().to_string());
                phase = failed.into_phase();
            }
        }
    };
    assert_eq!(stopped.evidence().epoch(), FINAL);
    assert_eq!(failures.len(), 3, "{failures:#?}");
    assert!(failures[0].starts_with("1 of 2 workers refused: scripted order: worker 1 timed out"), "{}", failures[0]);
}

#[tokio::test(start_paused = true)]
async fn i6_a_stop_request_cuts_a_backoff_short() {
    let limits = Limits { backoff_min: secs(50), ..Limits::default() };
    let (mut job, running, controller, _) = job(limits);
    controller.checkpoints([CheckpointAnswer::Refuses]);
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    request_later(&job, secs(3), StopRequest::Force);
    let start = Instant::now();
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped().name(), start.elapsed()), ("killed", secs(3)));
}

/// While drive waits for its next try, messages are taken in: nobody is held back, and no heartbeat
/// goes stale.
#[tokio::test(start_paused = true)]
async fn i6_messages_are_taken_in_during_a_backoff() {
    let limits = Limits { backoff_min: secs(50), mailbox_capacity: 1, ..Limits::default() };
    let (mut job, running, controller, _) = job(limits);
    controller.checkpoints([CheckpointAnswer::Refuses, CheckpointAnswer::Starts]);
    completes(&controller, secs(1), secs(1));
    let sender = job.sender();
    let talk = tokio::spawn(async move {
        for _ in 0..10 {
            sender.event(WorkerEvent::new(RUN, WorkerId::new(1), Event::Heartbeat)).await.unwrap();
        }
        Instant::now()
    });
    let start = Instant::now();
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let _receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!(talk.await.unwrap(), start, "ten messages through a mailbox of one, without waiting");
    assert_eq!(controller.events().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn i8_a_job_that_was_asked_to_stop_may_not_be_restarted() {
    for request in StopRequest::ALL {
        let (mut job, running, controller, _) = job(Limits::default());
        controller.on(Told::FinalCheckpoint, secs(1), Does::Fail(task_failed()));
        for mode in [WorkerStopMode::Graceful, WorkerStopMode::Immediate] {
            controller.on(Told::Stop(mode), secs(1), Does::Finish);
        }
        request_later(&job, secs(1), request);
        let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
        assert!(!receipt.may_restart() && !job.may_restart(), "{request}");
        assert_ne!(job.phase(), PhaseKind::Running);
    }
    // Without a request, a failed run may be followed by another.
    let (mut job, running, controller, _) = job(Limits::default());
    controller.later(secs(1), Does::Fail(worker_lost()));
    let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
    assert!(receipt.may_restart());
    assert_eq!(names(receipt.legs()), ["Running", "Recovering", "Stopping<Force>", "Stopped<Killed>"]);
}

/// A request that comes while a failed run is cleaned up counts all the same.
#[tokio::test(start_paused = true)]
async fn i8_a_request_during_recovery_prevents_a_restart() {
    let (mut job, running, controller, _) = job(Limits::default());
    controller.later(secs(1), Does::Fail(task_failed())).on(
        Told::Stop(WorkerStopMode::Immediate),
        secs(4),
        Does::Finish,
    );
    request_later(&job, secs(3), StopRequest::Checkpoint);
    let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "halted");
    assert!(!receipt.may_restart());
}

/// Every phase, its `run` dropped after each millisecond of waiting: the same end, and no order
/// given twice.
#[tokio::test(start_paused = true)]
async fn i10_a_run_that_is_dropped_again_and_again_loses_nothing() {
    let (mut job, mut running, controller, workers) = job(Limits::default());
    completes(&controller, secs(1), secs(2));
    workers.answers(Call::Ask, [SchedulerAnswer::ObeysAfter(secs(1))]);
    request_later(&job, secs(1), StopRequest::Checkpoint);
    let sender = job.sender();
    let talk = tokio::spawn(async move {
        for _ in 0..100 {
            sender.event(WorkerEvent::new(RUN, WorkerId::new(1), Event::Heartbeat)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });

    let mut drops = 0;
    while timeout(Duration::from_millis(1), running.run(&mut job)).await.is_err() {
        drops += 1;
    }
    let AfterRunning::CheckpointStopping(mut stopping) = running.next(&mut job).await.unwrap() else { panic!() };
    while timeout(Duration::from_millis(1), stopping.run(&mut job)).await.is_err() {
        drops += 1;
    }
    let AfterCheckpointStopping::Stopped(stopped) = stopping.next(&mut job).await.unwrap() else { panic!() };
    assert!(drops > 2_000, "{drops}");
    assert_eq!((stopped.evidence().epoch(), stopped.killed_workers()), (FINAL, false));
    assert_eq!(controller.told(), [Told::FinalCheckpoint, Told::Release]);
    assert_eq!(controller.events().len(), 100);
    talk.await.unwrap();
}

/// A drive that is dropped leaves its phase in the job.
#[tokio::test(start_paused = true)]
async fn i10_a_drive_that_is_dropped_parks_its_phase() {
    let (mut job, running, controller, workers) = job(Limits::default());
    controller.on(Told::Stop(WorkerStopMode::Graceful), secs(5), Does::Finish);
    workers.answers(Call::Ask, [SchedulerAnswer::ObeysAfter(secs(2))]);
    let mut phase: AnyPhase = running.stop_gracefully(&mut job).unwrap().into();
    let mut drops = 0;
    let receipt = loop {
        match timeout(Duration::from_millis(10), drive(phase, &mut job, &Policy::give_back())).await {
            Ok(receipt) => break receipt.unwrap(),
            Err(_) => phase = job.take_parked().expect("the phase is parked"),
        }
        drops += 1;
    };
    assert!(drops > 600, "{drops}");
    assert_eq!(receipt.stopped().name(), "drained");
    assert!(job.take_parked().is_none());
}

/// The stale controller's half of fencing: what the store refuses ends the final checkpoint, and
/// only this run is touched (the scripted scheduler checks every call).
#[tokio::test(start_paused = true)]
async fn i11_a_fenced_controller_gives_up_at_once_and_touches_its_own_run_only() {
    let (mut job, running, controller, workers) = job(Limits::default());
    controller.on(Told::FinalCheckpoint, secs(1), Does::BeFenced);
    controller.on(Told::Stop(WorkerStopMode::Immediate), secs(1), Does::Finish);
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let DriveErrorParts { phase, failure } =
        parts(drive(stopping, &mut job, &Policy::keep_trying()).await.unwrap_err());
    assert_eq!(
        failure.to_string(),
        "run 1 of job `scripted` is fenced: run 2 has opened the checkpoint store since; stop this controller"
    );
    let receipt = drive(phase, &mut job, &Policy::escalate()).await;
    assert!(receipt.is_ok() || !asked(&workers).is_empty());
}
