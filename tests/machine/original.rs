//! What the original's two shutdown states promise (section 8 of the design), one test per line,
//! and what it costs where the original hangs or panics.

use crate::support::*;
use tokio::time::Instant;
use winddown::{
    Epoch, Force, Immediate, Limits, PhaseKind, Policy, StopRequest, WorkerId,
    contracts::{Event, WorkerEvent, WorkerStopMode},
    drive,
    machine::{AfterCheckpointStopping, AfterForce, AfterGraceful, AfterImmediate, StopBehavior},
    mailbox::JobMessage,
};

const GRACEFUL: WorkerStopMode = WorkerStopMode::Graceful;
const IMMEDIATE: WorkerStopMode = WorkerStopMode::Immediate;

#[tokio::test(start_paused = true)]
async fn original_1_checkpoint_stopping_checks_starts_waits_and_stops() {
    let (mut job, running, controller, workers) = job(Limits::default());
    // A periodic checkpoint is in flight at first.
    controller.checkpoints([CheckpointAnswer::Busy, CheckpointAnswer::Busy, CheckpointAnswer::Starts]);
    completes(&controller, secs(3), secs(4));

    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let AfterCheckpointStopping::Stopped(stopped) = stopping.next(&mut job).await.unwrap() else {
        panic!("not stopped")
    };

    assert_eq!(stopped.evidence().epoch(), FINAL);
    assert_eq!(controller.told(), [Told::FinalCheckpoint, Told::Release]);
    assert_eq!(asked(&workers), [Call::Ask, Call::List]);
    assert_eq!((stopped.job().as_str(), stopped.run(), stopped.killed_workers()), (JOB, RUN, false));
}

#[tokio::test(start_paused = true)]
async fn original_1_immediate_escalates_a_checkpoint_stop() {
    let (mut job, running, controller, _) = job(Limits::default());
    controller.on(Told::Stop(IMMEDIATE), secs(1), Does::Finish);
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    request_later(&job, secs(2), StopRequest::Immediate);

    let AfterCheckpointStopping::Immediate(stopping) = stopping.next(&mut job).await.unwrap() else { panic!() };
    let AfterImmediate::Stopped(stopped) = stopping.next(&mut job).await.unwrap() else { panic!() };
    assert_eq!(stopped.evidence().last_epoch(), Some(Epoch::new(41)));
}

/// The original panics.
#[tokio::test(start_paused = true)]
async fn original_1_force_works_during_a_checkpoint_stop() {
    let (mut job, running, _, workers) = job(Limits::default());
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    request_later(&job, secs(2), StopRequest::Force);
    let start = Instant::now();

    let AfterCheckpointStopping::Force(stopping) = stopping.next(&mut job).await.unwrap() else { panic!() };
    let AfterForce::Stopped(stopped) = stopping.next(&mut job).await.unwrap();
    assert!(stopped.killed_workers());
    assert_eq!(asked(&workers), [Call::Kill, Call::List]);
    assert_eq!(start.elapsed(), secs(2), "it waits for nothing after the request");
}

#[tokio::test(start_paused = true)]
async fn original_2_stopping_orders_waits_sixty_seconds_then_has_the_workers_killed() {
    let (mut job, running, controller, workers) = job(Limits::default());
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let start = Instant::now();

    let AfterGraceful::Force(stopping) = stopping.next(&mut job).await.unwrap() else { panic!() };
    assert_eq!(start.elapsed(), secs(60));
    assert_eq!(controller.told(), [Told::Stop(GRACEFUL)]);
    let AfterForce::Stopped(_) = stopping.next(&mut job).await.unwrap();
    assert_eq!(asked(&workers), [Call::Kill, Call::List]);
}

#[tokio::test(start_paused = true)]
async fn original_2_stopping_ends_as_soon_as_all_tasks_have_finished() {
    let (mut job, running, controller, _) = job(Limits::default());
    controller.on(Told::Stop(GRACEFUL), secs(7), Does::Finish);
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let start = Instant::now();
    let AfterGraceful::Stopped(_) = stopping.next(&mut job).await.unwrap() else { panic!() };
    assert_eq!(start.elapsed(), secs(7));
}

#[tokio::test(start_paused = true)]
async fn original_2_an_error_while_waiting_escalates_at_once() {
    for does in [Does::RefuseOrder, Does::Fail(task_failed()), Does::Fail(worker_lost())] {
        let (mut job, running, controller, _) = job(Limits::default());
        controller.on(Told::Stop(IMMEDIATE), secs(3), does.clone());
        let stopping = running.stop_immediately(&mut job).unwrap();
        let start = Instant::now();
        let AfterImmediate::Force(_) = stopping.next(&mut job).await.unwrap() else { panic!("{does:?}") };
        assert_eq!(start.elapsed(), secs(3), "{does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn original_3_without_a_controller_straight_to_the_kill() {
    let (job, running, controller, workers) = job(Limits::default());
    let (mut job, _) = job.detach();
    let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!(names(receipt.legs()), ["Running", "Stopping<Force>", "Stopped<Killed>"]);
    assert_eq!(controller.told(), []);
    assert_eq!(asked(&workers), [Call::Kill, Call::List]);
}

#[tokio::test(start_paused = true)]
async fn original_4_the_behaviour_is_a_view_of_the_type() {
    let (mut job, running, ..) = job(Limits::default());
    let graceful = running.stop_gracefully(&mut job).unwrap();
    assert_eq!(graceful.behavior(), StopBehavior::StopJob(GRACEFUL));
    let immediate = graceful.escalate::<Immediate, _, _>(&mut job).unwrap();
    assert_eq!(immediate.behavior(), StopBehavior::StopJob(IMMEDIATE));
    let force = immediate.escalate::<Force, _, _>(&mut job).unwrap();
    assert_eq!(force.behavior(), StopBehavior::StopWorkers);
}

#[test]
fn original_5_retry_counts_are_named_defaults() {
    let limits = Limits::default();
    assert_eq!((Limits::CHECKPOINT_RETRIES, Limits::ORDER_RETRIES, Limits::SCHEDULER_RETRIES), (10, 10, 20));
    assert_eq!((limits.checkpoint_retries, limits.order_retries, limits.scheduler_retries), (10, 10, 20));
    assert_eq!(limits.finish, secs(60));
}

#[tokio::test(start_paused = true)]
async fn original_5_a_checkpoint_that_can_not_be_started_is_tried_ten_times_again() {
    for (refusals, checkpointed) in [(10, true), (11, false)] {
        let (mut job, running, controller, _) = job(Limits::default());
        controller.checkpoints([vec![CheckpointAnswer::Refuses; refusals], vec![CheckpointAnswer::Starts]].concat());
        completes(&controller, secs(1), secs(1));
        let stopping = running.stop_with_checkpoint(&mut job).unwrap();
        let outcome = drive(stopping, &mut job, &Policy::give_back()).await;
        assert_eq!(outcome.is_ok(), checkpointed, "{refusals} refusals");
        assert_eq!(job.progress_now().retries, 10);
    }
}

#[tokio::test(start_paused = true)]
async fn original_5_a_kill_is_tried_twenty_times_again() {
    for (failures, killed) in [(20, true), (21, false)] {
        let (mut job, running, _, workers) = job(Limits::default());
        workers
            .answers(Call::Kill, [vec![SchedulerAnswer::Unavailable; failures], vec![SchedulerAnswer::Obeys]].concat());
        let stopping = running.force(&mut job).unwrap();
        let outcome = drive(stopping, &mut job, &Policy::give_back()).await;
        assert_eq!(outcome.is_ok(), killed, "{failures} failures");
        let kills = asked(&workers).iter().filter(|call| **call == Call::Kill).count();
        assert_eq!(kills, 21);
    }
}

#[tokio::test(start_paused = true)]
async fn original_6_stopping_is_entered_from_running_by_request_and_by_ttl() {
    let ways = [
        (StopRequest::Checkpoint, PhaseKind::CheckpointStopping),
        (StopRequest::Graceful, PhaseKind::StoppingGraceful),
        (StopRequest::Immediate, PhaseKind::StoppingImmediate),
        (StopRequest::Force, PhaseKind::StoppingForce),
    ];
    for (request, phase) in ways {
        let (mut job, running, ..) = job(Limits::default());
        request_later(&job, secs(5), request);
        assert_eq!(running.next(&mut job).await.unwrap().kind(), phase);
    }
    let (mut job, running, ..) = job(Limits { ttl: Some(secs(90)), ..Limits::default() });
    let start = Instant::now();
    assert_eq!(running.next(&mut job).await.unwrap().kind(), PhaseKind::StoppingImmediate);
    assert_eq!(start.elapsed(), secs(90));
}

#[tokio::test(start_paused = true)]
async fn original_6_stopping_is_entered_from_finishing_and_recovering() {
    let (mut job, running, controller, _) = job(Limits::default());
    controller.later(secs(1), Does::ExhaustSources);
    completes(&controller, secs(1), secs(2));
    let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
    let walked = ["Running", "Finishing", "Stopped<Completed>"];
    assert_eq!(names(receipt.legs()), walked);
    assert_eq!(receipt.stopped().epoch(), Some(FINAL), "the final commit of exactly-once sinks is in it");

    let (mut job, running, controller, _) = crate::support::job(Limits::default());
    controller.later(secs(1), Does::Fail(task_failed()));
    controller.on(Told::Stop(IMMEDIATE), secs(1), Does::Finish);
    let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
    let walked = ["Running", "Recovering", "Stopping<Immediate>", "Stopped<Halted>"];
    assert_eq!(names(receipt.legs()), walked);
}

#[tokio::test(start_paused = true)]
async fn original_7_the_context_holds_the_job_and_other_messages_change_nothing() {
    let (mut job, mut running, controller, _) = job(Limits::default());
    assert_eq!((job.id().as_str(), job.run()), (JOB, RUN));
    let sender = job.sender();
    sender.send(JobMessage::ConfigUpdate { stop_mode: None }).await.unwrap();
    let heartbeat = WorkerEvent::new(RUN, WorkerId::new(1), Event::Heartbeat);
    sender.send(JobMessage::Worker(heartbeat)).await.unwrap();
    let waited = tokio::time::timeout(secs(10), running.run(&mut job)).await;
    assert!(waited.is_err(), "neither message ends the phase");
    assert_eq!(controller.events().len(), 1);

    sender.send(JobMessage::ConfigUpdate { stop_mode: Some(StopRequest::Graceful) }).await.unwrap();
    assert_eq!(running.next(&mut job).await.unwrap().kind(), PhaseKind::StoppingGraceful);
}

/// Orders go through the controller, kills through the scheduler, and neither through the other.
#[tokio::test(start_paused = true)]
async fn original_8_orders_go_to_the_workers_and_kills_to_the_scheduler() {
    let (mut job, running, controller, workers) = job(Limits::default());
    let stopping = running.stop_gracefully(&mut job).unwrap();
    request_later(&job, secs(1), StopRequest::Immediate);
    request_later(&job, secs(2), StopRequest::Force);
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!(controller.told(), [Told::Stop(GRACEFUL), Told::Stop(IMMEDIATE)]);
    assert_eq!(asked(&workers), [Call::Kill, Call::List]);
    assert_eq!(receipt.stopped().name(), "killed");
}
