//! What is started, listed and stopped.

use super::*;
use crate::embedded::StartError;

#[tokio::test(start_paused = true)]
async fn ten_thousand_tasks_start_and_stop() {
    let workers: Vec<_> = (0..100).map(WorkerId::new).collect();
    let placement = || (0..5000).map(|subtask| workers[subtask % 100]);
    let topology = Topology::builder()
        .operator("source", Role::Source, placement())
        .operator("sink", Role::Inner, placement())
        .build()
        .unwrap();
    let (speaker, mut listener) = sink(16);
    let cluster = EmbeddedCluster::default();
    let run = cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &topology, speaker, until_stopped).unwrap();
    for worker in &workers {
        send(&run, *worker, Command::Stop(WorkerStopMode::Immediate)).await;
    }
    let ends: std::collections::BTreeSet<_> = listener
        .events(10_000)
        .await
        .into_iter()
        .map(|event| match event {
            Event::TaskFinished { task } => task,
            other => panic!("expected the end of a task, got {other:?}"),
        })
        .collect();
    assert_eq!(ends.len(), 10_000);
    assert_eq!(alive(&cluster, 1).await, workers);
    cluster.stop_workers(&job(), None, false).await.unwrap();
    assert_eq!(alive(&cluster, 1).await, []);
}

#[tokio::test(start_paused = true)]
async fn i11_a_run_that_is_not_newer_is_not_started() {
    let cluster = EmbeddedCluster::new(QUIET);
    let start = |run, restored: Option<&Manifest>| {
        let (speaker, _) = sink(1);
        cluster.start(&OpenRun::new(job(), RunId::new(run), restored.cloned()).unwrap(), &sources(1), speaker, stubborn)
    };
    let not_newer =
        |newest, got| StartError::RunNotNewer { job: job(), newest: RunId::new(newest), got: RunId::new(got) };
    start(5, None).unwrap();
    cluster.stop_workers(&job(), None, true).await.unwrap();
    for run in [4, 5] {
        assert_eq!(start(run, None).unwrap_err(), not_newer(5, run), "not even when it has ended");
    }
    let manifest = Manifest { job: job(), run: RunId::new(9), epoch: Epoch::new(1), then_stop: true, tasks: vec![] };
    start(10, Some(&manifest)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_would_lose_state_is_not_restored() {
    let snapshot = |operator, subtask| TaskSnapshot {
        task: TaskId::new(operator, subtask),
        snapshot: Bytes::new(),
        commit: None,
        finished: false,
    };
    let manifest = |tasks| Manifest { job: job(), run: RunId::new(1), epoch: Epoch::new(1), then_stop: true, tasks };
    let cluster = EmbeddedCluster::new(QUIET);
    let start = |manifest: &Manifest| {
        let (speaker, _) = sink(1);
        let open = OpenRun::new(job(), RunId::new(2), Some(manifest.clone())).unwrap();
        cluster.start(&open, &sources(2), speaker, stubborn).unwrap_err()
    };
    let lower = manifest(vec![snapshot(0, 0), snapshot(0, 1), snapshot(0, 2)]);
    assert_eq!(start(&lower), StartError::UnknownTask(TaskId::new(0, 2)));
    let higher = manifest(vec![snapshot(0, 0)]);
    assert_eq!(start(&higher), StartError::MissingTask(TaskId::new(0, 1)));
    assert_eq!(alive(&cluster, 2).await, [], "nothing of it runs");
}

#[test]
fn without_a_runtime_nothing_starts() {
    let (speaker, _) = sink(1);
    let started = EmbeddedCluster::new(QUIET).start(
        &OpenRun::without_store(job(), RunId::new(1)),
        &sources(1),
        speaker,
        stubborn,
    );
    assert_eq!(started.unwrap_err(), StartError::NoRuntime);
}

#[tokio::test(start_paused = true)]
async fn i11_a_stop_touches_no_other_run_and_no_other_job() {
    let cluster = EmbeddedCluster::new(QUIET);
    let mut listeners = vec![];
    let mut start = |job: &JobId, run| {
        let (speaker, listener) = sink(100);
        listeners.push(listener);
        cluster
            .start(&OpenRun::without_store(job.clone(), RunId::new(run)), &sources(1), speaker, until_stopped)
            .unwrap()
    };
    let other = JobId::from("other");
    let (first, second, foreign) = (start(&job(), 1), start(&job(), 2), start(&other, 1));
    cluster.stop_workers(&job(), Some(RunId::new(9)), true).await.unwrap();
    cluster.stop_workers(&JobId::from("unknown"), None, true).await.unwrap();
    cluster.stop_workers(&job(), Some(RunId::new(1)), true).await.unwrap();
    assert_eq!((first.alive_workers(), second.alive_workers()), (vec![], vec![FIRST]));
    send(&second, FIRST, Command::Checkpoint { epoch: Epoch::new(1), then_stop: false }).await;
    assert!(matches!(listeners[1].event().await, Event::CheckpointCompleted { .. }));
    let stale = Order { run: RunId::new(1), command: Command::Release };
    assert_eq!(second.send(FIRST, stale).await.unwrap_err().kind, OrderErrorKind::Rejected);
    cluster.stop_workers(&job(), None, false).await.unwrap();
    assert_eq!((second.alive_workers(), foreign.alive_workers()), (vec![], vec![FIRST]));
}

#[tokio::test(start_paused = true)]
async fn an_order_to_a_worker_that_the_run_does_not_have_is_rejected() {
    let (speaker, _listener) = sink(1);
    let run = EmbeddedCluster::new(QUIET)
        .start(&OpenRun::without_store(job(), RunId::new(1)), &sources(1), speaker, stubborn)
        .unwrap();
    let error = run.send(SECOND, Order { run: run.run(), command: Command::Release }).await.unwrap_err();
    assert_eq!((error.kind, &*error.message), (OrderErrorKind::Rejected, "run 1 of job `numbers` has no worker 2"));
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_listed_until_it_has_been_released() {
    let (speaker, mut listener) = sink(100);
    let cluster = EmbeddedCluster::new(QUIET);
    let run =
        cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(2), speaker, until_stopped).unwrap();
    for worker in [FIRST, SECOND] {
        send(&run, worker, Command::Stop(WorkerStopMode::Immediate)).await;
    }
    assert_eq!(listener.until_silent().await.len(), 2);
    assert_eq!(alive(&cluster, 1).await, [FIRST, SECOND], "its tasks have ended, but it has not left");
    send(&run, FIRST, Command::Release).await;
    assert_eq!(listener.event().await, Event::WorkerFinished);
    assert_eq!(alive(&cluster, 1).await, [SECOND]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_force_asks_first_and_aborts_after_the_grace_period() {
    let (speaker, mut listener) = sink(100);
    let cluster = EmbeddedCluster::new(QUIET);
    let _run = cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(2), speaker, |ctx| async move {
        if ctx.worker() == FIRST { until_stopped(ctx).await } else { stubborn(ctx).await }
    });
    let begin = tokio::time::Instant::now();
    cluster.stop_workers(&job(), Some(RunId::new(1)), false).await.unwrap();
    assert_eq!((begin.elapsed(), alive(&cluster, 1).await), (QUIET.grace, vec![]));
    let said = listener.until_silent().await;
    // No controller has ordered it: what the tasks have not done is not done, whether they obey or
    // not.
    let [
        Event::TaskFailed { error: obeyed, .. },
        Event::WorkerFinished,
        Event::TaskFailed { error: aborted, .. },
        Event::WorkerFinished,
    ] = &said[..]
    else {
        panic!("{said:?}")
    };
    assert!(obeyed.message.contains("its worker leaves") && aborted.message.contains("aborted"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn i2_force_aborts_at_once_and_returns_when_nothing_is_alive() {
    let (speaker, mut listener) = sink(100);
    let witness = Arc::new(());
    let cluster = EmbeddedCluster::new(QUIET);
    let run = cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(3), speaker, |ctx| {
        witnessed(Arc::clone(&witness), stubborn(ctx))
    });
    let begin = tokio::time::Instant::now();
    cluster.stop_workers(&job(), Some(RunId::new(1)), true).await.unwrap();
    assert_eq!((begin.elapsed(), Arc::strong_count(&witness)), (Duration::ZERO, 1));
    assert_eq!(run.unwrap().alive_workers(), []);
    assert_eq!(listener.until_silent().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_a_task_that_can_not_be_aborted_stays_listed_until_it_has_ended() {
    let cluster = EmbeddedCluster::new(WorkerOptions { grace: Duration::from_millis(10), ..QUIET });
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let (blocked, is_blocked) = tokio::sync::oneshot::channel();
    let mut parts = Some((held, blocked));
    let (speaker, _listener) = sink(100);
    let run = cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(1), speaker, |_| {
        let (held, blocked) = parts.take().unwrap();
        async move {
            blocked.send(()).unwrap();
            // Blocks its thread: there is no point at which it could be aborted.
            let _ = held.recv();
            std::future::pending().await
        }
    });
    let run = run.unwrap();
    is_blocked.await.unwrap();
    for force in [false, true, true] {
        cluster.stop_workers(&job(), Some(RunId::new(1)), force).await.unwrap();
        assert_eq!(alive(&cluster, 1).await, [FIRST], "force = {force}");
    }
    let_go.send(()).unwrap();
    while !run.alive_workers().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(alive(&cluster, 1).await, []);
}

#[tokio::test(start_paused = true)]
async fn i10_a_dropped_stop_can_be_given_again() {
    let (speaker, _listener) = sink(100);
    let cluster = EmbeddedCluster::new(QUIET);
    let _run = cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(2), speaker, stubborn).unwrap();
    let job = job();
    for _ in 0..10 {
        let stop = cluster.stop_workers(&job, Some(RunId::new(1)), false);
        assert!(tokio::time::timeout(Duration::from_millis(100), stop).await.is_err());
        assert_eq!(alive(&cluster, 1).await, [FIRST, SECOND]);
    }
    cluster.stop_workers(&job, Some(RunId::new(1)), false).await.unwrap();
    assert_eq!(alive(&cluster, 1).await, []);
}

#[tokio::test(start_paused = true)]
async fn tasks_end_with_the_last_handle_of_either_kind_and_not_before() {
    for run_last in [true, false] {
        let witness = Arc::new(());
        let (speaker, mut listener) = sink(100);
        let cluster = EmbeddedCluster::new(QUIET);
        let run = cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(2), speaker, |ctx| {
            witnessed(Arc::clone(&witness), stubborn(ctx))
        });
        let mut handles = (Some(cluster), run.ok());
        if run_last {
            handles.0 = None;
        } else {
            handles.1 = None;
        }
        assert_eq!(listener.until_silent().await, []);
        assert_eq!(Arc::strong_count(&witness), 3);
        drop(handles);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(listener.until_silent().await, []);
        assert_eq!(Arc::strong_count(&witness), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_panics_starts_nothing() {
    let (speaker, mut listener) = sink(100);
    let cluster = EmbeddedCluster::new(QUIET);
    let start = std::panic::AssertUnwindSafe(|| {
        cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(2), speaker, |ctx| {
            assert_eq!(ctx.worker(), FIRST, "no luck with the second");
            until_stopped(ctx)
        })
    });
    assert!(std::panic::catch_unwind(start).is_err());
    assert_eq!(listener.until_silent().await, []);
    assert_eq!(alive(&cluster, 1).await, []);
    let (speaker, _listener) = sink(100);
    cluster
        .start(&OpenRun::without_store(job(), RunId::new(1)), &sources(2), speaker, until_stopped)
        .expect("its number is still free");
}
