//! Workers that die and workers that hang.

use super::*;

fn checkpoint(epoch: u64) -> Command {
    Command::Checkpoint { epoch: Epoch::new(epoch), then_stop: false }
}

fn beating() -> (EmbeddedCluster, EmbeddedRun, Listener) {
    let options = WorkerOptions { heartbeat: Some(Duration::from_secs(1)), ..QUIET };
    let (cluster, (speaker, listener)) = (EmbeddedCluster::new(options), sink(1000));
    let run =
        cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(2), speaker, until_stopped).unwrap();
    (cluster, run, listener)
}

/// What each of the two workers says within `seconds`.
async fn said(listener: &mut Listener, seconds: u64) -> (Vec<Event>, Vec<Event>) {
    let mut said = (vec![], vec![]);
    let until = tokio::time::Instant::now() + Duration::from_millis(seconds * 1000 + 500);
    while let Ok(event) = tokio::time::timeout_at(until, listener.next()).await {
        if event.worker == FIRST { said.0.push(event.event) } else { said.1.push(event.event) }
    }
    said
}

#[tokio::test(start_paused = true)]
async fn i9_a_killed_worker_says_nothing_takes_no_order_and_delays_no_other() {
    let (cluster, run, mut listener) = beating();
    said(&mut listener, 1).await;
    assert!(run.kill_worker(FIRST));
    let order = Order { run: run.run(), command: checkpoint(1) };
    assert_eq!(run.send(FIRST, order.clone()).await.unwrap_err().kind, OrderErrorKind::Unreachable);
    assert!(run.freeze_worker(FIRST), "the run has it, but the dead do not hang");
    assert_eq!(run.send(FIRST, order).await.unwrap_err().kind, OrderErrorKind::Unreachable);
    send(&run, SECOND, checkpoint(1)).await;
    let (first, second) = said(&mut listener, 3).await;
    assert_eq!((first, second.len()), (vec![], 4), "three heartbeats and the checkpoint");
    assert_eq!(alive(&cluster, 1).await, [SECOND]);
    assert!(run.thaw_worker(FIRST), "the run has it");
    assert_eq!(alive(&cluster, 1).await, [SECOND], "the dead stay dead");
    assert!(!run.kill_worker(WorkerId::new(9)));
}

#[tokio::test(start_paused = true)]
async fn i9_a_frozen_worker_answers_late_stays_listed_and_delays_no_other() {
    let (cluster, run, mut listener) = beating();
    said(&mut listener, 1).await;
    assert!(run.freeze_worker(FIRST));
    let order = tokio::spawn({
        let run = run.clone();
        async move { run.send(FIRST, Order { run: run.run(), command: checkpoint(1) }).await }
    });
    send(&run, SECOND, checkpoint(1)).await;
    let (first, second) = said(&mut listener, 3).await;
    assert_eq!((first, second.len()), (vec![], 4));
    assert!(!order.is_finished());
    assert_eq!(alive(&cluster, 1).await, [FIRST, SECOND]);
    assert!(run.thaw_worker(FIRST));
    let (first, _) = said(&mut listener, 1).await;
    order.await.unwrap().unwrap();
    assert!(first.iter().any(|event| matches!(event, Event::CheckpointCompleted { .. })), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn events_of_a_frozen_worker_come_in_their_order_when_it_thaws() {
    let (speaker, mut listener) = sink(1);
    let cluster = EmbeddedCluster::new(QUIET);
    let run = cluster.start(&OpenRun::without_store(job(), RunId::new(1)), &sources(1), speaker, |ctx| async move {
        for epoch in 1..=10 {
            ctx.events().checkpointed(Epoch::new(epoch), Bytes::new(), None).await?;
        }
        Ok(())
    });
    let run = run.unwrap();
    // The first is in the sink, the second waits for room in it when the worker freezes.
    tokio::time::sleep(Duration::from_secs(1)).await;
    run.freeze_worker(FIRST);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(listener.until_silent().await.len(), 1);
    run.thaw_worker(FIRST);
    let said = listener.until_silent().await;
    let epochs: Vec<_> = said[..9]
        .iter()
        .map(|event| match event {
            Event::CheckpointCompleted { epoch, .. } => epoch.get(),
            other => panic!("expected a checkpoint, got {other:?}"),
        })
        .collect();
    assert_eq!(epochs, (2..=10).collect::<Vec<_>>());
    assert_eq!(said[9..], [finished(0)]);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_waits_for_a_frozen_worker_fails_when_it_is_killed() {
    let (cluster, run, _listener) = beating();
    run.freeze_worker(FIRST);
    let order = tokio::spawn({
        let run = run.clone();
        async move { run.send(FIRST, Order { run: run.run(), command: checkpoint(1) }).await }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    run.kill_worker(FIRST);
    assert_eq!(order.await.unwrap().unwrap_err().kind, OrderErrorKind::Unreachable);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(alive(&cluster, 1).await, [SECOND]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_kills_what_is_frozen_for_the_whole_grace_period_and_waits_for_what_thaws() {
    for thaws in [false, true] {
        let (cluster, run, mut listener) = beating();
        said(&mut listener, 0).await;
        run.freeze_worker(FIRST);
        let thaw = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if thaws {
                run.thaw_worker(FIRST);
            }
        };
        let job = job();
        let (stopped, ()) = tokio::join!(cluster.stop_workers(&job, Some(RunId::new(1)), false), thaw);
        stopped.unwrap();
        assert_eq!(alive(&cluster, 1).await, []);
        let (first, second) = said(&mut listener, 3).await;
        assert_eq!(first.last(), thaws.then_some(&Event::WorkerFinished));
        assert_eq!(second.last(), Some(&Event::WorkerFinished));
    }
}

#[tokio::test(start_paused = true)]
async fn force_ends_a_frozen_worker_at_once() {
    let (cluster, run, _listener) = beating();
    run.freeze_worker(FIRST);
    let begin = tokio::time::Instant::now();
    cluster.stop_workers(&job(), None, true).await.unwrap();
    assert_eq!((begin.elapsed(), alive(&cluster, 1).await), (Duration::ZERO, vec![]));
}
