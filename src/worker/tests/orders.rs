use WorkerStopMode::{Graceful, Immediate};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_repeated_checkpoint_is_answered_again_and_reaches_no_task_twice() {
    let (worker, mut listener, told) = obedient_worker(two_tasks());
    for _ in 0..3 {
        worker.handle(checkpoint(1)).unwrap();
        assert_eq!(listener.until_silent().await, [completed(SOURCE, 1)]);
    }
    assert_eq!(*told.lock().unwrap(), [(SOURCE, barrier(1))]);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_commit_is_answered_again_and_carried_out_once() {
    let (worker, mut listener, told) = obedient_worker(two_tasks());
    for _ in 0..3 {
        worker.handle(commit(INNER, 1)).unwrap();
        assert_eq!(listener.until_silent().await, [committed(INNER, 1)]);
    }
    let expected = TaskOrder::Commit { epoch: Epoch::new(1), data: Bytes::from_static(b"data 1") };
    assert_eq!(*told.lock().unwrap(), [(INNER, expected)]);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_stop_is_answered_again_and_after_the_end_says_not_running() {
    let (worker, mut listener, told) = obedient_worker(two_tasks());
    worker.handle(stop(Graceful)).unwrap();
    assert_eq!(listener.until_silent().await, [finished(SOURCE)]);
    worker.handle(stop(Graceful)).unwrap();
    assert_eq!(listener.until_silent().await, [finished(SOURCE)]);
    worker.handle(stop(Immediate)).unwrap();
    assert_eq!(listener.until_silent().await, [finished(INNER)]);
    for mode in [Immediate, Graceful] {
        assert_eq!(worker.handle(stop(mode)).unwrap_err().kind, OrderErrorKind::NotRunning);
        assert_eq!(listener.until_silent().await, [finished(SOURCE), finished(INNER)]);
    }
    assert_eq!(*told.lock().unwrap(), [(SOURCE, TaskOrder::Stop(Graceful)), (INNER, TaskOrder::Stop(Immediate))]);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_release_is_answered_again() {
    let (worker, mut listener, _) = obedient_worker(source_only());
    for _ in 0..2 {
        worker.handle(release()).unwrap();
        assert_eq!(listener.until_silent().await, [finished(SOURCE), Event::WorkerFinished]);
    }
    assert_eq!(worker.handle(stop(Immediate)).unwrap_err().kind, OrderErrorKind::NotRunning);
    assert_eq!(listener.until_silent().await, [finished(SOURCE), Event::WorkerFinished]);
}

#[tokio::test(start_paused = true)]
async fn a_repetition_holds_all_that_was_said_in_the_order_of_the_epochs() {
    let (worker, mut listener, _) = obedient_worker(source_only());
    worker.handle(checkpoint(1)).unwrap();
    worker.handle(commit(SOURCE, 1)).unwrap();
    listener.events(2).await;
    worker.handle(checkpoint(2)).unwrap();
    assert_eq!(listener.event().await, completed(SOURCE, 2));
    worker.handle(checkpoint(2)).unwrap();
    assert_eq!(listener.until_silent().await, [committed(SOURCE, 1), completed(SOURCE, 2)]);
    worker.handle(commit(SOURCE, 2)).unwrap();
    assert_eq!(listener.event().await, committed(SOURCE, 2));
    worker.handle(commit(SOURCE, 2)).unwrap();
    assert_eq!(listener.until_silent().await, [completed(SOURCE, 2), committed(SOURCE, 2)]);
}

#[tokio::test(start_paused = true)]
async fn an_older_epoch_changes_nothing() {
    let (worker, mut listener, told) = obedient_worker(source_only());
    worker.handle(checkpoint(5)).unwrap();
    worker.handle(commit(SOURCE, 5)).unwrap();
    listener.events(2).await;
    worker.handle(checkpoint(4)).unwrap();
    worker.handle(commit(SOURCE, 4)).unwrap();
    assert_eq!(listener.until_silent().await, []);
    assert_eq!(told.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn i11_an_order_of_another_run_is_rejected_and_changes_nothing() {
    let (worker, mut listener, told) = obedient_worker(two_tasks());
    let commands = [
        Command::Checkpoint { epoch: Epoch::new(1), then_stop: true },
        commit(INNER, 1).command,
        Command::Stop(Immediate),
        Command::Release,
    ];
    for command in commands {
        for run in [6, 8] {
            let rejected = worker.handle(Order { run: RunId::new(run), command: command.clone() }).unwrap_err();
            assert_eq!(rejected.kind, OrderErrorKind::Rejected);
            assert_eq!(rejected.message, format!("expected an order of run 7, got one of run {run}"));
        }
    }
    assert_eq!(listener.until_silent().await, []);
    assert!(told.lock().unwrap().is_empty());
    worker.handle(checkpoint(1)).unwrap();
    assert_eq!(listener.event().await, completed(SOURCE, 1));
}

#[tokio::test(start_paused = true)]
async fn i4_a_weaker_stop_changes_nothing_after_a_stronger_one() {
    // A task that goes on running on a stop, so that its later orders can be observed.
    let told = Told::default();
    let (speaker, _listener) = sink(100);
    let worker = start(two_tasks(), QUIET, speaker, |mut ctx| {
        let told = Arc::clone(&told);
        async move {
            loop {
                let order = ctx.order().await;
                told.lock().unwrap().push((ctx.task(), order));
            }
        }
    });
    for mode in [Graceful, Immediate, Graceful, Immediate] {
        worker.handle(stop(mode)).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // A release stops the tasks that are still running; these have been told already.
    worker.handle(release()).unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut told = told.lock().unwrap().clone();
    told.sort_by_key(|(task, _)| *task);
    let immediate = TaskOrder::Stop(Immediate);
    assert_eq!(told, [(SOURCE, TaskOrder::Stop(Graceful)), (SOURCE, immediate.clone()), (INNER, immediate)]);
}

/// A source that reads no order before the test allows it, and then passes on all that it finds.
async fn read_late(worker_orders: impl IntoIterator<Item = Order>) -> Vec<TaskOrder> {
    let (speaker, _listener) = sink(100);
    let (give, take) = tokio::sync::oneshot::channel();
    let (mut give, go) = (Some(give), Arc::new(tokio::sync::Notify::new()));
    let worker = start(source_only(), QUIET, speaker, |mut ctx| {
        let (give, go) = (give.take().unwrap(), Arc::clone(&go));
        async move {
            go.notified().await;
            give.send(std::iter::from_fn(|| ctx.try_order()).collect::<Vec<_>>()).unwrap();
            Ok(())
        }
    });
    for order in worker_orders {
        worker.handle(order).unwrap();
    }
    go.notify_one();
    take.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn unread_orders_are_merged_and_come_in_the_order_of_their_urgency() {
    let data = |epoch| TaskOrder::Commit { epoch: Epoch::new(epoch), data: Bytes::from(format!("data {epoch}")) };
    let unread = read_late([stop(Graceful), checkpoint(1), commit(SOURCE, 1), checkpoint(2), commit(SOURCE, 2)]).await;
    assert_eq!(unread, [data(1), data(2), barrier(2), TaskOrder::Stop(Graceful)]);
    let unread = read_late([checkpoint(1), commit(SOURCE, 1), stop(Graceful), stop(Immediate)]).await;
    assert_eq!(unread, [TaskOrder::Stop(Immediate), data(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_never_reads_costs_bounded_memory_and_delays_no_other() {
    let (speaker, mut listener) = sink(100);
    let told = Told::default();
    let worker = start(two_tasks(), QUIET, speaker, |ctx| {
        let told = Arc::clone(&told);
        async move { if ctx.task() == SOURCE { std::future::pending().await } else { obedient(ctx, told).await } }
    });
    let refused = (1..=1000).filter(|epoch| {
        worker.handle(checkpoint(*epoch)).unwrap();
        worker.handle(stop(Graceful)).unwrap();
        let answer = worker.handle(commit(SOURCE, *epoch));
        answer.is_err_and(|error| error.kind == OrderErrorKind::Refused && error.kind.is_retryable())
    });
    assert_eq!(refused.count(), 1000 - 4);
    worker.handle(commit(INNER, 1000)).unwrap();
    assert_eq!(listener.event().await, committed(INNER, 1000));
}

#[tokio::test(start_paused = true)]
async fn a_commit_reaches_the_tasks_that_can_take_it_whatever_becomes_of_the_others() {
    let (worker, mut listener, _) = obedient_worker(two_tasks());
    worker.handle(stop(Graceful)).unwrap();
    assert_eq!(listener.event().await, finished(SOURCE));
    let all = |tasks: &[TaskId]| {
        let tasks = tasks.iter().map(|task| TaskCommit { task: *task, data: Bytes::new() }).collect();
        order(Command::Commit { epoch: Epoch::new(1), tasks })
    };
    let ended = worker.handle(all(&[SOURCE, INNER])).unwrap_err();
    assert_eq!(
        (ended.kind, &*ended.message),
        (OrderErrorKind::NotRunning, "task 0/0 can't commit epoch 1: it has ended without it")
    );
    assert_eq!(listener.until_silent().await, [finished(SOURCE), committed(INNER, 1)]);
    let foreign = worker.handle(all(&[TaskId::new(9, 9)])).unwrap_err();
    assert_eq!(foreign.kind, OrderErrorKind::Rejected);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_was_carried_out_before_the_end_is_answered_after_it() {
    let (worker, mut listener, _) = obedient_worker(source_only());
    worker.handle(commit(SOURCE, 1)).unwrap();
    worker.handle(stop(Graceful)).unwrap();
    let said = listener.events(2).await;
    assert_eq!(said, [committed(SOURCE, 1), finished(SOURCE)]);
    worker.handle(commit(SOURCE, 1)).unwrap();
    assert_eq!(listener.until_silent().await, said);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_can_not_be_is_rejected() {
    let (worker, _listener, _) = obedient_worker(two_tasks());
    worker.handle(checkpoint(1)).unwrap();
    let changed = order(Command::Checkpoint { epoch: Epoch::new(1), then_stop: true });
    assert_eq!(worker.handle(changed).unwrap_err().kind, OrderErrorKind::Rejected);
    worker.handle(stop(Immediate)).unwrap();
    assert_eq!(worker.handle(checkpoint(2)).unwrap_err().kind, OrderErrorKind::Rejected);
    worker.handle(checkpoint(1)).expect("a repeated one is still answered");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_meets_only_ended_tasks_brings_their_ends_again() {
    let (worker, mut listener, _) = obedient_worker(source_only());
    worker.handle(stop(Graceful)).unwrap();
    assert_eq!(listener.event().await, finished(SOURCE));
    worker.handle(checkpoint(1)).unwrap();
    assert_eq!(listener.until_silent().await, [finished(SOURCE)]);
}

#[tokio::test(start_paused = true)]
async fn i10_a_dropped_wait_loses_no_order() {
    let (speaker, mut listener) = sink(100);
    let worker = start(source_only(), QUIET, speaker, |mut ctx| async move {
        loop {
            // Each order arrives while such a wait is being dropped, again and again.
            tokio::select! {
                order = ctx.order() => match order {
                    TaskOrder::Checkpoint(barrier) => {
                        ctx.events().checkpointed(barrier.epoch, Bytes::from_static(b"state"), Some(Bytes::from_static(b"c"))).await?;
                    }
                    _ => return Ok(()),
                },
                () = tokio::task::yield_now() => {}
            }
        }
    });
    for epoch in 1..=100 {
        worker.handle(checkpoint(epoch)).unwrap();
        assert_eq!(listener.event().await, completed(SOURCE, epoch));
    }
}
