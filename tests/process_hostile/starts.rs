//! A forced stop and a start that cross: the start is refused, or its worker is killed.

use std::{
    env,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::timeout;
use winddown::{
    contracts::{Detached, OpenRun, RunId, Scheduler, StopRequest, WorkerId},
    drive::{Policy, drive},
    machine::{AnyStopped, JobContext},
    process::{HeldBy, ProcessError, ProcessScheduler, WorkerEnv},
};

use crate::{held, support::*, workers_of};

/// How many forced stops are tried; 1,000 of them, now and then.
fn rounds() -> u64 {
    env::var("WINDDOWN_TEST_FORCED_STOPS").map_or(20, |text| text.parse().unwrap())
}

fn env_of(run: RunId, number: u64) -> WorkerEnv {
    WorkerEnv::new(&OpenRun::without_store(job(), run), WorkerId::new(number), "")
}

async fn force(scheduler: &ProcessScheduler, run: RunId) {
    let open = OpenRun::without_store(job(), run);
    let (mut context, running) = JobContext::builder(&open).simulated().build(Detached, scheduler.clone()).unwrap();
    context.sender().request(StopRequest::Force).unwrap();
    let receipt = timeout(SOON, drive(running, &mut context, &Policy::escalate())).await.expect("it ends").unwrap();
    assert!(matches!(receipt.stopped(), AnyStopped::Killed(_)), "{receipt}");
}

/// So many at once that some of them are slower than the stop.
const STARTS: u64 = 12;

async fn forced_stops(held_by: HeldBy) {
    let stage = Stage::new();
    let Some(scheduler) = held(&stage, held_by).await else { return };
    let (mut started, mut refused) = (0, 0);
    for round in 1..=rounds() {
        let run = RunId::new(round);
        let mut starts = Vec::new();
        for number in 1..=STARTS {
            let (scheduler, command) = (scheduler.clone(), stage.sh("exec sleep 600"));
            if number == STARTS {
                // Dropped after its first step, in which it was called.
                let start = pin!(scheduler.start(env_of(run, number), command));
                let _ = start.poll(&mut Context::from_waker(Waker::noop()));
                continue;
            }
            starts.push(tokio::spawn(async move { scheduler.start(env_of(run, number), command).await }));
        }
        // Some rounds come at once, others when some of the workers, or most, are there.
        match round % 4 {
            0 => {}
            1 => tokio::task::yield_now().await,
            millis => tokio::time::sleep(Duration::from_millis(10 * millis)).await,
        }
        force(&scheduler, run).await;
        assert_eq!(workers_of(&stage), [0; 0], "round {round}: alive after `Stopped`");
        for start in starts {
            match start.await.unwrap() {
                Ok(_) => started += 1,
                Err(ProcessError::Stopped { run: of, .. }) => refused += u64::from(of == run),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(
            workers_of(&stage),
            [0; 0],
            "round {round}: a start that was called before the stop ended with a worker"
        );
        assert_eq!(scheduler.workers_for_job(&job(), Some(run)).await.unwrap(), []);
    }
    println!("{held_by:?}: {} forced stops, {started} workers started and killed, {refused} starts refused", rounds());
    assert_eq!(started + refused, rounds() * (STARTS - 1));
    stage.end(scheduler).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_b1_forced_stops_leave_no_worker_of_a_start_in_flight() {
    let _alone = crate::ALONE.lock().await;
    forced_stops(HeldBy::Environment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_b1_forced_stops_leave_no_worker_of_a_start_in_flight_in_control_groups() {
    let _alone = crate::ALONE.lock().await;
    forced_stops(HeldBy::ControlGroup).await;
}

#[tokio::test]
async fn i2_b1_a_run_that_was_stopped_with_force_starts_no_worker_any_more() {
    let _alone = crate::ALONE.lock().await;
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let start = async |run: RunId| scheduler.start(env_of(run, 1), stage.sh("exec sleep 600")).await.map(drop);
    start(RUN).await.unwrap();
    stop_run(&scheduler, Some(RUN), true).await;
    let error = start(RUN).await.unwrap_err();
    assert!(matches!(error, ProcessError::Stopped { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "worker 1 of job `words`, run 7, is not started: the run was stopped with force; start a new run"
    );
    start(RUN.next()).await.unwrap();
    stop_run(&scheduler, None, true).await;
    assert!(matches!(start(RUN.next()).await, Err(ProcessError::Stopped { .. })));
    let next = RUN.next().next();
    start(next).await.unwrap();
    // Without force a worker may be started again, as before.
    stop_run(&scheduler, Some(next), false).await;
    start(next).await.unwrap();
    stop_run(&scheduler, Some(next), false).await;
    stage.end(scheduler).await;
}

#[test]
fn i10_b1_a_start_that_is_cut_off_before_it_began_leaves_no_entry() {
    let _alone = crate::ALONE.blocking_lock();
    let stage = Stage::new();
    let (first, second) = [(); 2].map(|()| tokio::runtime::Runtime::new().unwrap()).into();
    let scheduler = first.block_on(stage.open());
    let handle = second.handle().clone();
    drop(second);
    {
        let _there = handle.enter();
        let start = pin!(scheduler.start(env_of(RUN, 1), stage.sh("exec sleep 600")));
        let started = start.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(started, Poll::Ready(Err(ProcessError::Runtime))), "{started:?}");
    }
    first.block_on(async {
        assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), []);
        stage.end(scheduler).await;
    });
}

/// The start waits for a thread, and a forced stop does not wait for what has not begun.
#[test]
fn i2_b1_a_start_that_waits_for_a_thread_is_refused_by_a_forced_stop() {
    let _alone = crate::ALONE.blocking_lock();
    let stage = Stage::new();
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let scheduler = first.block_on(stage.open());
    let (go, wait) = std::sync::mpsc::channel::<()>();
    second.spawn_blocking(move || wait.recv());
    let (other, command) = (scheduler.clone(), stage.sh("exec sleep 600"));
    let start = second.spawn(async move { other.start(env_of(RUN, 1), command).await });
    first.block_on(async {
        let called = async || scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap() == [WorkerId::new(1)];
        timeout(SOON, async { while !called().await {} }).await.expect("it is listed from its call on");
        force(&scheduler, RUN).await;
    });
    drop(go);
    let started = second.block_on(start).unwrap();
    assert!(matches!(started, Err(ProcessError::Stopped { .. })), "{started:?}");
    assert_eq!(workers_of(&stage), [0; 0]);
    first.block_on(stage.end(scheduler));
    second.shutdown_background();
}
