use super::*;
use crate::worker::SinkClosed;

/// Reports `count` checkpoints, one after the other, and ends.
async fn talkative(ctx: TaskContext, count: u64) -> Result<(), TaskError> {
    for epoch in 1..=count {
        ctx.events()
            .checkpointed(Epoch::new(epoch), Bytes::from_static(b"state"), Some(Bytes::from_static(b"c")))
            .await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn back_pressure_holds_tasks_back_and_keeps_the_order_of_events() {
    let (speaker, mut listener) = sink(1);
    let reported = Arc::new(Mutex::new(0));
    let worker = start(source_only(), QUIET, speaker, |ctx| {
        let reported = Arc::clone(&reported);
        async move {
            for epoch in 1..=500 {
                ctx.events()
                    .checkpointed(Epoch::new(epoch), Bytes::from_static(b"state"), Some(Bytes::from_static(b"c")))
                    .await?;
                *reported.lock().unwrap() = epoch;
            }
            Ok(())
        }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // 64 in the queue (one of them in delivery), one in the sink.
    assert_eq!(*reported.lock().unwrap(), 65);
    let mut expected: Vec<_> = (1..=500).map(|epoch| completed(SOURCE, epoch)).collect();
    expected.push(finished(SOURCE));
    // A repetition is requested in the middle: it may repeat earlier events, but send nothing new
    // out of order.
    worker.handle(checkpoint(1)).unwrap();
    let mut said = listener.events(100).await;
    worker.handle(checkpoint(1)).unwrap();
    said.extend(listener.until_silent().await);
    assert_eq!(said.len() - expected.len(), 1, "what the book holds of one task that only gave checkpoints");
    let mut newest = None;
    said.retain(|event| {
        let position = expected.iter().position(|known| known == event).expect("a known event");
        let new = newest.is_none_or(|newest| position > newest);
        newest = newest.max(Some(position));
        new
    });
    assert_eq!(said, expected);
}

#[tokio::test(start_paused = true)]
async fn a_task_ends_although_nobody_reads_its_events() {
    let (speaker, mut listener) = sink(1);
    let worker = start(two_tasks(), QUIET, speaker, |ctx| talkative(ctx, 30));
    worker.handle(release()).unwrap();
    worker.ended().await;
    assert!(!worker.is_alive());
    let events = listener.until_silent().await;
    assert_eq!((events.len(), events.last()), (63, Some(&Event::WorkerFinished)));
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_at_their_interval_until_the_worker_leaves() {
    let (speaker, mut listener) = sink(100);
    let options = WorkerOptions { heartbeat: Some(Duration::from_secs(5)), ..QUIET };
    let worker = start(source_only(), options, speaker, |ctx| obedient(ctx, Told::default()));
    let begin = tokio::time::Instant::now();
    for beat in 0..4 {
        assert_eq!(listener.next().await.event, Event::Heartbeat);
        assert_eq!(begin.elapsed().as_secs(), beat * 5);
    }
    worker.handle(stop(WorkerStopMode::Immediate)).unwrap();
    assert_eq!(listener.next().await.event, finished(SOURCE));
    assert_eq!(listener.next().await.event, Event::Heartbeat, "all tasks have ended, but it has not left");
    worker.handle(release()).unwrap();
    assert_eq!(listener.until_silent().await, [Event::WorkerFinished]);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_do_not_pile_up_behind_back_pressure() {
    let (speaker, mut listener) = sink(1);
    let options = WorkerOptions { heartbeat: Some(Duration::from_secs(5)), ..QUIET };
    let _worker = start(source_only(), options, speaker, |ctx| obedient(ctx, Told::default()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let begin = tokio::time::Instant::now();
    let mut at = Vec::new();
    for _ in 0..4 {
        assert_eq!(listener.next().await.event, Event::Heartbeat);
        at.push(begin.elapsed().as_secs());
    }
    // One in the sink, one in delivery, one that became due meanwhile; the other 700 were skipped.
    assert_eq!(at, [0, 0, 0, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_queue_does_not_starve_heartbeats() {
    let (speaker, mut listener) = sink(1);
    let options = WorkerOptions { heartbeat: Some(Duration::from_secs(1)), ..QUIET };
    let _worker = start(source_only(), options, speaker, |ctx| talkative(ctx, 10_000));
    let mut beats = 0;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        beats += usize::from(listener.next().await.event == Event::Heartbeat);
    }
    assert!((10..=30).contains(&beats), "{beats} heartbeats in 25 s");
}

#[tokio::test(start_paused = true)]
async fn i6_a_closed_sink_is_an_error_to_the_task() {
    let (speaker, listener) = sink(1);
    drop(listener);
    let (give, take) = tokio::sync::oneshot::channel();
    let mut give = Some(give);
    let worker = start(source_only(), QUIET, speaker, |ctx| {
        let give = give.take().unwrap();
        async move {
            // The first finds room in the queue; the closed sink is noticed when it is delivered.
            ctx.events().source_exhausted().await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            give.send(ctx.events().source_exhausted().await).unwrap();
            std::future::pending().await
        }
    });
    assert_eq!(take.await.unwrap(), Err(SinkClosed));
    assert!(worker.is_alive());
}

#[tokio::test(start_paused = true)]
async fn i10_a_dropped_report_has_reported_nothing() {
    let (speaker, mut listener) = sink(1);
    let _worker = start(source_only(), QUIET, speaker, |ctx| async move {
        for epoch in 1..=65 {
            ctx.events()
                .checkpointed(Epoch::new(epoch), Bytes::from_static(b"state"), Some(Bytes::from_static(b"c")))
                .await?;
        }
        // No room: this one waits, and is dropped.
        let late = ctx.events().committed(Epoch::new(1));
        assert!(tokio::time::timeout(Duration::from_secs(1), late).await.is_err());
        ctx.events().source_exhausted().await?;
        Ok(())
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut expected: Vec<_> = (1..=65).map(|epoch| completed(SOURCE, epoch)).collect();
    expected.extend([Event::SourceExhausted { task: SOURCE }, finished(SOURCE)]);
    assert_eq!(listener.until_silent().await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_outlives_its_task_reports_nothing() {
    let (speaker, mut listener) = sink(100);
    let (give, take) = tokio::sync::oneshot::channel();
    let mut give = Some(give);
    let _worker = start(source_only(), QUIET, speaker, |ctx| {
        give.take().unwrap().send(ctx.events().clone()).unwrap();
        async { Ok(()) }
    });
    let events = take.await.unwrap();
    assert_eq!(listener.event().await, finished(SOURCE));
    assert_eq!(events.source_exhausted().await, Err(SinkClosed));
    assert_eq!(listener.until_silent().await, []);
}

#[tokio::test(start_paused = true)]
async fn what_the_worker_says_carries_its_run_and_its_name() {
    let (worker, mut listener, _) = obedient_worker(source_only());
    worker.handle(release()).unwrap();
    for event in [finished(SOURCE), Event::WorkerFinished] {
        assert_eq!(listener.next().await, crate::contracts::WorkerEvent::new(RUN, WORKER, event));
    }
}

/// The receiver may have crashed before acting on an event: the end of a source, or of a task, is
/// sent to the next controller too.
#[tokio::test(start_paused = true)]
async fn i6_what_lasts_is_said_again_with_a_new_order_and_now_and_then() {
    let options = WorkerOptions { heartbeat: Some(Duration::from_secs(5)), ..QUIET };
    let (speaker, mut listener) = sink(64);
    let worker = start(two_tasks(), options, speaker, |mut ctx| async move {
        if ctx.task() == SOURCE {
            ctx.events().source_exhausted().await?;
            return Ok(());
        }
        loop {
            ctx.order().await;
        }
    });
    let lasting = [Event::SourceExhausted { task: SOURCE }, finished(SOURCE)];
    assert_eq!(listener.events(2).await, lasting);
    worker.handle(checkpoint(7)).unwrap();
    assert_eq!(listener.events(2).await, lasting, "with an order that its task can't answer any more");
    let asked = tokio::time::Instant::now();
    assert_eq!(listener.events(2).await, lasting, "without any order");
    assert!(asked.elapsed() <= Duration::from_secs(50));
}
