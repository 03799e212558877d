//! Moments in which two things happen at once, and limits at their ends: invariants I5, I6, I8 and
//! I11 where they are hard to keep.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use crate::support::*;
use tokio::time::{Instant, advance};
use winddown::{
    AnyPhase, Detached, Epoch, JobContext, Limits, Mailbox, OpenRun, PhaseKind, Policy, Running, StepError,
    StopRequest, WorkerId,
    contracts::{Event, WorkerEvent, WorkerStopMode},
    drive,
    machine::{AfterForce, AfterImmediate},
};

fn heartbeat(worker: u64) -> WorkerEvent {
    WorkerEvent::new(RUN, WorkerId::new(worker), Event::Heartbeat)
}

/// The final checkpoint is complete, a force request is in force, and the scheduler can't kill for
/// a while.
#[tokio::test(start_paused = true)]
async fn i5_a_request_that_is_in_force_does_not_use_the_kills_retries_up_in_one_moment() {
    let (mut job, running, controller, workers) = job(Limits::default());
    completes(&controller, secs(1), secs(1));
    workers.answers(Call::Ask, [SchedulerAnswer::Ignores]);
    workers.answers(Call::Kill, [vec![SchedulerAnswer::Unavailable; 19], vec![SchedulerAnswer::Obeys]].concat());
    request_later(&job, secs(2), StopRequest::Force);
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let start = Instant::now();
    let receipt = drive(stopping, &mut job, &Policy::escalate().jitter_seed(1)).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("checkpointed", 19));
    assert!(start.elapsed() > secs(300), "{:?}: every retry waits for its backoff", start.elapsed());
}

/// A failed task is often the first sign of a worker that is gone: its neighbour can't write to it
/// any more.
#[tokio::test(start_paused = true)]
async fn i5_a_lost_worker_ends_an_immediate_stop_at_once_although_a_task_failed_before() {
    let (mut job, running, controller, _) = job(Limits::default());
    controller.now(Does::Fail(task_failed())).now(Does::Fail(worker_lost()));
    let stopping = running.stop_immediately(&mut job).unwrap();
    let start = Instant::now();
    assert!(matches!(stopping.next(&mut job).await.unwrap(), AfterImmediate::Force(_)));
    assert!(start.elapsed() < secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn i5_a_flood_of_messages_does_not_keep_silent_workers_from_being_found() {
    let (mut job, mut running, controller, _) = job(Limits::default());
    let sender = job.sender();
    let flood = tokio::spawn(async move {
        while sender.requested().is_none() {
            while sender.try_event(heartbeat(1)).is_ok() {}
            advance(Duration::from_millis(10)).await;
        }
    });
    request_later(&job, secs(20), StopRequest::Checkpoint);
    running.run(&mut job).await.unwrap();
    let checks = controller.count(ControllerCall::CheckHealth);
    assert!((15..=21).contains(&checks), "{checks} checks in 20 s");
    flood.await.unwrap();
}

/// Nobody drives the job for a while (its process was suspended, say), and the mailbox has room for
/// one.
#[tokio::test(start_paused = true)]
async fn heartbeats_that_were_held_back_are_heard_before_silence_is_judged() {
    let limits = Limits { mailbox_capacity: 1, ..Limits::default() };
    let (mut job, mut running, controller, _) = job(limits);
    let first = tokio::time::timeout(secs(2), running.run(&mut job)).await;
    assert!(first.is_err() && controller.count(ControllerCall::CheckHealth) > 0);
    let before = controller.calls().len();
    for worker in [1, 2, 1, 2] {
        let sender = job.sender();
        tokio::spawn(async move { sender.event(heartbeat(worker)).await });
    }
    tokio::task::yield_now().await;
    advance(secs(60)).await;
    assert!(tokio::time::timeout(secs(2), running.run(&mut job)).await.is_err());
    let calls: Vec<_> = controller.calls().into_iter().skip(before).map(|(call, _)| call).collect();
    let check = calls.iter().position(|call| *call == ControllerCall::CheckHealth).unwrap();
    let heard = calls[..check].iter().filter(|call| **call == ControllerCall::Handle).count();
    assert_eq!(heard, 4, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn i6_force_cuts_through_a_scheduler_that_does_not_say_who_is_alive() {
    let (mut job, running, controller, workers) = job(Limits::default());
    controller.on(Told::Stop(WorkerStopMode::Graceful), secs(1), Does::Finish);
    workers.answers(Call::List, [SchedulerAnswer::Hangs, SchedulerAnswer::Obeys]);
    request_later(&job, secs(2), StopRequest::Force);
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let start = Instant::now();
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.stopped().killed_workers()), ("drained", true));
    assert_eq!(start.elapsed(), secs(2));
}

/// The checkpoint is complete and every task has finished in the moment in which somebody loses
/// patience.
#[tokio::test(start_paused = true)]
async fn a_request_that_comes_too_late_does_not_throw_away_what_is_proven() {
    for (request, killed) in [(StopRequest::Immediate, false), (StopRequest::Force, true)] {
        let (mut job, running, controller, _) = job(Limits::default());
        let stopping = running.stop_with_checkpoint(&mut job).unwrap();
        controller.now(Does::CompleteFinal).now(Does::Finish);
        job.sender().request(request).unwrap();
        let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
        assert_eq!((receipt.stopped().name(), receipt.stopped().killed_workers()), ("checkpointed", killed));
    }
}

/// Nobody drove the job around its deadline, and the last message had come in time.
#[tokio::test(start_paused = true)]
async fn what_has_arrived_by_the_deadline_counts() {
    let (mut job, running, controller, _) = job(Limits::default());
    controller.on_event(Does::CompleteFinal).on_event(Does::Finish);
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    job.sender().event(heartbeat(1)).await.unwrap();
    advance(secs(3600)).await;
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.last_error()), ("checkpointed", None));

    let (mut job, running, controller, _) = self::job(Limits::default());
    controller.on_event(Does::CompleteFinal).on_event(Does::Finish);
    let stopping = running.stop_gracefully(&mut job).unwrap();
    job.sender().event(heartbeat(1)).await.unwrap();
    advance(secs(3600)).await;
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.last_error()), ("drained", None));
}

#[tokio::test(start_paused = true)]
async fn i6_everybody_who_waits_for_a_request_hears_of_it() {
    let mailbox = Mailbox::new(1);
    let waiters =
        async { tokio::join!(mailbox.request_above(None), mailbox.request_above(Some(StopRequest::Graceful))) };
    let asking = async {
        tokio::task::yield_now().await;
        mailbox.sender().request(StopRequest::Force).unwrap();
    };
    let both = tokio::time::timeout(secs(1), async { tokio::join!(waiters, asking).0 }).await;
    assert_eq!(both, Ok((StopRequest::Force, StopRequest::Force)));
}

#[tokio::test(start_paused = true)]
async fn i8_a_job_whose_time_is_over_is_not_restarted() {
    let (mut job, running, controller, _) = job(Limits { ttl: Some(secs(5)), ..Limits::default() });
    controller.on(Told::Stop(WorkerStopMode::Immediate), secs(1), Does::Finish);
    let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "halted");
    assert!(!receipt.may_restart() && !job.may_restart());
}

#[tokio::test(start_paused = true)]
async fn i1_the_end_of_another_job_is_refused_without_a_controller_too() {
    let builder = || JobContext::builder(&OpenRun::without_store(JOB, RUN)).simulated();
    let (mut one, running) = builder().build(Detached, workers()).unwrap();
    let (mut two, _running) = builder().build(Detached, workers()).unwrap();
    let AfterForce::Stopped(stopped) = running.force(&mut one).unwrap().next(&mut one).await.unwrap();
    let error = drive(stopped, &mut two, &Policy::escalate()).await.unwrap_err();
    assert!(matches!(error.error(), StepError::WrongJob(_)), "{error}");
    let receipt = drive(error.into_phase(), &mut one, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "killed");
}

#[tokio::test(start_paused = true)]
async fn more_time_for_a_phase_of_another_job_changes_nothing_there() {
    let (mut one, running, ..) = job(Limits::default());
    let (two, _running, ..) = job(Limits::default());
    let mut stopping = running.stop_with_checkpoint(&mut one).unwrap();
    let before = two.progress_now();
    let mut two = two;
    stopping.extend(secs(5), &mut two);
    assert_eq!(two.progress_now(), before);
}

#[tokio::test(start_paused = true)]
async fn limits_without_end_are_no_panic() {
    const LONG: Duration = Duration::MAX;
    let limits = Limits {
        final_checkpoint: LONG,
        finish: LONG,
        recover: LONG,
        release: LONG,
        kill: LONG,
        verify_every: LONG,
        order: LONG,
        health_every: LONG,
        backoff_min: LONG,
        backoff_max: LONG,
        ttl: Some(LONG),
        ..Limits::default()
    };
    let (mut job, running, controller, workers) = job(limits);
    controller.on(Told::Stop(WorkerStopMode::Graceful), secs(1), Does::Finish);
    workers.answers(Call::Ask, [SchedulerAnswer::Ignores]);
    workers.answers(Call::Kill, [SchedulerAnswer::Unavailable, SchedulerAnswer::Obeys]);
    request_later(&job, secs(1), StopRequest::Graceful);
    request_later(&job, secs(9), StopRequest::Force);
    let driven = tokio::time::timeout(secs(10), drive(running, &mut job, &Policy::escalate())).await;
    assert!(driven.is_err(), "the backoff has no end either");
    assert!(job.take_parked().is_some());
}

/// On a runtime with one thread a wait that does not wait would stop everything else.
#[tokio::test]
async fn limits_of_zero_let_others_run() {
    const NONE: Duration = Duration::ZERO;
    let limits =
        Limits { verify_every: NONE, health_every: NONE, release: Duration::from_millis(200), ..Limits::default() };
    let (mut job, running, controller, workers) = job(limits);
    controller.on(Told::Stop(WorkerStopMode::Graceful), NONE, Does::Finish);
    workers.answers(Call::Ask, [SchedulerAnswer::Ignores]);
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "drained");
    let asked = asked(&workers).iter().filter(|call| **call == Call::List).count();
    assert!(asked < 1000, "asked {asked} times in 200 ms");
}

/// The same for a policy without end, when the controller says no at once.
#[tokio::test]
async fn keep_trying_without_retries_lets_others_run() {
    let limits = Limits { checkpoint_retries: 0, ..Limits::default() };
    let (mut job, running, controller, _) = job(limits);
    controller.checkpoints([CheckpointAnswer::Refuses]);
    controller.on(Told::Stop(WorkerStopMode::Immediate), Duration::ZERO, Does::Finish);
    let others_ran = Arc::new(AtomicBool::new(false));
    let (flag, sender) = (Arc::clone(&others_ran), job.sender());
    tokio::spawn(async move {
        poll_fn(|_| Poll::Ready(())).await;
        flag.store(true, Ordering::Relaxed);
        sender.request(StopRequest::Immediate).unwrap();
    });
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::keep_trying()).await;
    assert!(others_ran.load(Ordering::Relaxed));
    assert_eq!(receipt.unwrap().stopped().name(), "halted");
    let tries = controller.count(ControllerCall::BeginCheckpoint);
    assert!(tries < 1000, "{tries}: no more tries than the backoff lets through");
}

/// Whatever the phase was, and whatever it had decided: without a controller the workers are
/// killed.
#[tokio::test(start_paused = true)]
async fn a_controller_may_go_away_in_any_phase() {
    type Enter = fn(Running, &mut Job) -> AnyPhase;
    let phases: [Enter; 7] = [
        |running, _| running.into(),
        |running, job| running.finish(job).unwrap().into(),
        |running, job| running.recover(job).unwrap().into(),
        |running, job| running.stop_with_checkpoint(job).unwrap().into(),
        |running, job| running.stop_gracefully(job).unwrap().into(),
        |running, job| running.stop_immediately(job).unwrap().into(),
        |running, job| running.force(job).unwrap().into(),
    ];
    for enter in phases {
        let (mut job, running, ..) = job(Limits::default());
        let phase = enter(running, &mut job);
        let entered = phase.kind();
        let _ = tokio::time::timeout(secs(1), drive(phase, &mut job, &Policy::give_back())).await;
        let (mut job, _controller) = job.detach();
        let Some(parked) = job.take_parked() else { continue };
        let receipt = drive(parked, &mut job, &Policy::give_back()).await.unwrap();
        assert_eq!(receipt.stopped().name(), "killed", "{entered}");
        assert_eq!(receipt.legs().last().map(|leg| leg.phase), Some(PhaseKind::StoppedKilled));
    }
}

/// A job without a store has no final checkpoint; at the end of its input, what has been read flows
/// to the end all the same.
#[tokio::test(start_paused = true)]
async fn the_end_of_all_input_without_a_store_drains() {
    let (mut job, running, controller, _) = job(Limits::default());
    controller.checkpoints([CheckpointAnswer::NoStore]);
    controller.later(secs(1), Does::ExhaustSources);
    controller.on(Told::Stop(WorkerStopMode::Graceful), secs(2), Does::Finish);
    let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!(names(receipt.legs()), ["Running", "Finishing", "Stopping<Graceful>", "Stopped<Drained>"]);
    assert_eq!(receipt.stopped().epoch(), Some(Epoch::new(41)), "the last complete checkpoint, and no more");
}

/// A restart of a fenced run would fence the newer one in its turn.
#[tokio::test(start_paused = true)]
async fn i11_a_fenced_run_may_not_be_restarted() {
    let (mut job, running, controller, _) = job(Limits::default());
    controller.later(secs(1), Does::BeFenced);
    controller.on(Told::Stop(WorkerStopMode::Immediate), secs(1), Does::Finish);
    let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(names(receipt.legs()), ["Running", "Recovering", "Stopping<Immediate>", "Stopped<Halted>"]);
    assert_eq!((receipt.requested(), receipt.may_restart(), job.may_restart()), (None, false, false));
}
