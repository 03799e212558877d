use super::*;
use crate::worker::test_support::witnessed;

fn failed(task: TaskId, error: TaskError) -> Event {
    Event::TaskFailed { task, error }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_task_is_reported_as_what_it_was() {
    type Ending = fn() -> Result<(), TaskError>;
    let endings: [(Ending, Event); 4] = [
        (|| Ok(()), finished(SOURCE)),
        (|| Err(TaskError::fatal("disk full")), failed(SOURCE, TaskError::fatal("disk full"))),
        (|| panic!("out of luck"), failed(SOURCE, TaskError::retryable("panicked: out of luck"))),
        (|| panic!("{} too many", 1), failed(SOURCE, TaskError::retryable("panicked: 1 too many"))),
    ];
    for (ending, event) in endings {
        let (speaker, mut listener) = sink(100);
        let worker = start(source_only(), QUIET, speaker, |_| async move { ending() });
        assert_eq!(listener.until_silent().await, [event]);
        assert!(worker.is_alive(), "it has not been released");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_a_task_is_dropped_is_its_failure() {
    struct Bomb;
    impl Future for Bomb {
        type Output = Result<(), TaskError>;
        fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
            std::task::Poll::Ready(Ok(()))
        }
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("boom");
        }
    }
    let (speaker, mut listener) = sink(100);
    let _worker = start(source_only(), QUIET, speaker, |_| Bomb);
    assert_eq!(listener.event().await, failed(SOURCE, TaskError::retryable("panicked: boom")));
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_ends_no_other() {
    let (speaker, mut listener) = sink(100);
    let worker = start(two_tasks(), QUIET, speaker, |ctx| async move {
        if ctx.task() == SOURCE { Err(TaskError::fatal("gone")) } else { obedient(ctx, Told::default()).await }
    });
    assert_eq!(listener.event().await, failed(SOURCE, TaskError::fatal("gone")));
    worker.handle(stop(WorkerStopMode::Immediate)).unwrap();
    assert_eq!(listener.event().await, finished(INNER));
}

#[tokio::test(start_paused = true)]
async fn a_release_tells_tasks_to_stop_and_aborts_after_the_grace_period() {
    let (speaker, mut listener) = sink(100);
    let worker = start(two_tasks(), QUIET, speaker, |ctx| async move {
        if ctx.task() == SOURCE { std::future::pending().await } else { obedient(ctx, Told::default()).await }
    });
    let begin = tokio::time::Instant::now();
    worker.handle(release()).unwrap();
    assert_eq!(listener.event().await, finished(INNER));
    tokio::time::sleep(Duration::from_millis(4999)).await;
    assert!(worker.is_alive());
    worker.ended().await;
    assert_eq!(begin.elapsed(), QUIET.grace);
    let aborted = TaskError::retryable("aborted: it did not end within 5s of being told to");
    assert_eq!(listener.until_silent().await, [failed(SOURCE, aborted), Event::WorkerFinished]);
}

#[tokio::test(start_paused = true)]
async fn i2_a_killed_worker_is_alive_until_its_tasks_have_been_dropped() {
    let (speaker, mut listener) = sink(100);
    let witness = Arc::new(());
    let worker =
        start(two_tasks(), QUIET, speaker, |ctx| witnessed(Arc::clone(&witness), obedient(ctx, Told::default())));
    worker.handle(checkpoint(1)).unwrap();
    assert_eq!(listener.event().await, completed(SOURCE, 1));
    worker.kill();
    assert!(worker.is_alive(), "aborted, but the runtime has not dropped the tasks yet");
    assert_eq!(Arc::strong_count(&witness), 3);
    worker.ended().await;
    assert_eq!(Arc::strong_count(&witness), 1);
    assert_eq!(listener.until_silent().await, [], "a dead worker says nothing");
    for order in [checkpoint(1), stop(WorkerStopMode::Immediate), release()] {
        assert_eq!(worker.handle(order).unwrap_err().kind, OrderErrorKind::Unreachable);
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_worker_takes_what_it_had_not_said_with_it() {
    let (speaker, mut listener) = sink(1);
    let worker = start(source_only(), QUIET, speaker, |ctx| async move {
        for epoch in 1..=10 {
            ctx.events().checkpointed(Epoch::new(epoch), Bytes::from_static(b"state"), None).await?;
        }
        Ok(())
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    worker.kill();
    assert_eq!(listener.until_silent().await.len(), 1, "the one that is in the sink already");
}

#[tokio::test(start_paused = true)]
async fn a_kill_cuts_the_grace_period_of_a_release_short() {
    let (speaker, mut listener) = sink(100);
    let worker = start(source_only(), QUIET, speaker, |_| std::future::pending());
    let begin = tokio::time::Instant::now();
    worker.handle(release()).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    worker.kill();
    worker.ended().await;
    assert_eq!(begin.elapsed(), Duration::from_secs(1));
    assert_eq!(listener.until_silent().await, []);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_tasks_but_no_other_handle_does() {
    let witness = Arc::new(());
    let (speaker, mut listener) = sink(100);
    let worker =
        start(source_only(), QUIET, speaker, |ctx| witnessed(Arc::clone(&witness), obedient(ctx, Told::default())));
    let other = worker.clone();
    drop(worker);
    other.handle(checkpoint(1)).unwrap();
    assert_eq!(listener.event().await, completed(SOURCE, 1));
    drop(other);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(listener.until_silent().await, []);
    assert_eq!(Arc::strong_count(&witness), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_tasks_is_alive_until_it_is_released() {
    let (speaker, mut listener) = sink(100);
    let spec = WorkerSpec { tasks: vec![], ..source_only() };
    let worker = start(spec, QUIET, speaker, |_| std::future::pending());
    assert!(worker.is_alive());
    assert_eq!(worker.handle(stop(WorkerStopMode::Graceful)).unwrap_err().kind, OrderErrorKind::NotRunning);
    worker.release();
    assert_eq!(listener.event().await, Event::WorkerFinished);
    worker.ended().await;
}

/// Its state is somewhere between two checkpoints. A controller that took it for finished would
/// carry that state into the next checkpoint, and lose what was read since.
#[tokio::test(start_paused = true)]
async fn i3_what_a_worker_that_leaves_by_itself_cuts_short_has_failed() {
    let (worker, mut listener, _) = obedient_worker(two_tasks());
    worker.handle(checkpoint(1)).unwrap();
    assert_eq!(listener.event().await, completed(SOURCE, 1));
    worker.release();
    let why = "stopped in the middle of its work: its worker leaves, and the run is not over";
    let mut events = listener.until_silent().await;
    assert_eq!(events.pop(), Some(Event::WorkerFinished));
    assert_eq!(events, [SOURCE, INNER].map(|task| failed(task, TaskError::retryable(why))));
    assert_eq!(worker.handle(checkpoint(2)).unwrap_err().kind, OrderErrorKind::Rejected);

    // A task that does not stop because of it has come to its own end.
    let (speaker, mut listener) = sink(100);
    let worker = start(source_only(), QUIET, speaker, |_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    });
    worker.release();
    assert_eq!(listener.until_silent().await, [finished(SOURCE), Event::WorkerFinished]);
}

#[tokio::test(start_paused = true)]
async fn what_was_ordered_to_stop_has_not_been_cut_short() {
    for ordered in [stop(WorkerStopMode::Immediate), release()] {
        for first in [true, false] {
            let (worker, mut listener, _) = obedient_worker(source_only());
            if first {
                worker.handle(ordered.clone()).unwrap();
                worker.release();
            } else {
                // The task has not read anything yet.
                worker.release();
                worker.handle(ordered.clone()).unwrap();
            }
            assert_eq!(listener.until_silent().await, [finished(SOURCE), Event::WorkerFinished], "{ordered:?} {first}");
        }
    }
    // A graceful stop is not done when it is cut short.
    let (worker, mut listener, _) = obedient_worker(two_tasks());
    worker.handle(stop(WorkerStopMode::Graceful)).unwrap();
    assert_eq!(listener.event().await, finished(SOURCE));
    worker.release();
    assert!(matches!(listener.event().await, Event::TaskFailed { task: INNER, .. }));
}
