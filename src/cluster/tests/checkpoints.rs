//! Checkpoints: publication, commits, the periodic ones, and what ends them.

use super::*;
use crate::contracts::{
    CheckpointStage, CheckpointStart, Count, FinalCheckpoint, JobId, Manifest, StoreError, TaskSnapshot,
};
use scripted::StoreAnswer;

fn every(seconds: u64) -> Limits {
    Limits { checkpoint_every: Some(secs(seconds)), ..limits() }
}

fn final_checkpoint(bench: &Bench) -> FinalCheckpoint {
    bench.controller.status().final_checkpoint
}

#[tokio::test(start_paused = true)]
async fn i3_the_manifest_is_durable_before_any_commit_is_ordered() {
    let mut bench = Bench::new(3);
    bench.store.answer(StoreAnswer::After(secs(2)));
    assert_eq!(bench.controller.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(1)));
    bench.run_well_for(secs(1)).await;
    bench.ack(1, 1, true);
    bench.ack(2, 1, true);
    bench.ack(3, 1, false);
    bench.run_well_for(secs(5)).await;
    let published = bench.store.published.lock().unwrap().clone();
    assert_eq!((published.len(), published[0].0 - bench.start), (1, secs(3)));
    assert_eq!((&published[0].1.job, published[0].1.run, published[0].1.then_stop), (&JobId::new("job"), RUN, true));
    for worker in [1, 2] {
        assert_eq!(bench.workers.times(worker, "commit", bench.start), [secs(3)]);
    }
    assert_eq!(bench.workers.count(3, "commit"), 0);
    let commits = bench.workers.arrivals().into_iter().filter_map(|it| match it.order.command {
        Command::Commit { tasks, .. } => Some((it.worker.get(), tasks.len(), tasks[0].task, tasks[0].data.clone())),
        _ => None,
    });
    let own = |worker: u64| (worker, 1, task(worker), Bytes::from(format!("commit of {worker}")));
    assert_eq!(commits.collect::<Vec<_>>(), [own(1), own(2)], "each gets the data of its own tasks");

    for worker in [1, 2] {
        assert_eq!(final_checkpoint(&bench), FinalCheckpoint::InFlight(epoch(1)));
        bench.say(worker, Event::CommitCompleted { task: task(worker), epoch: epoch(1) });
    }
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::Complete(epoch(1)));
}

#[tokio::test(start_paused = true)]
async fn without_a_store_there_is_no_checkpoint() {
    let topology = Topology::builder().operator("task", Role::Source, [WorkerId::new(1)]).build().unwrap();
    let workers = Arc::new(Workers::default());
    let mut controller =
        ClusterController::builder(&OpenRun::without_store("job", RUN), topology, Arc::clone(&workers))
            .limits(every(1))
            .build();
    assert!(tokio::time::timeout(secs(60), controller.progress()).await.is_err(), "no periodic one either");
    let error = controller.begin_checkpoint(true).unwrap_err();
    assert!(matches!(error, ControllerError::NoCheckpoint(_)) && !error.is_retryable());
    assert!(error.to_string().contains("there is no checkpoint store"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_final_checkpoint_is_published_again_when_it_is_asked_for_again() {
    let mut bench = Bench::new(1);
    bench.store.unavailable();
    bench.controller.begin_checkpoint(true).unwrap();
    bench.run_well_for(secs(1)).await;
    bench.ack(1, 1, false);
    let errors = bench.run_for(secs(60)).await;
    assert!(matches!(&errors[..], [(_, error @ ControllerError::Store(_))] if error.is_retryable()), "{errors:?}");
    assert_eq!((bench.store.attempts(), bench.store.epochs().len()), (1, 0), "not by itself");
    assert_eq!(bench.controller.status().checkpoint, CheckpointStage::Publishing { epoch: epoch(1) });
    assert_eq!(bench.controller.begin_checkpoint(true).unwrap(), CheckpointStart::AlreadyStarted(epoch(1)));
    bench.run_well_for(secs(1)).await;
    assert_eq!(bench.store.epochs(), [1]);
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::Complete(epoch(1)));
}

#[tokio::test(start_paused = true)]
async fn i5_a_store_that_never_answers_is_an_error_after_six_order_limits() {
    let mut bench = Bench::new(1);
    bench.store.answer(StoreAnswer::Never);
    bench.controller.begin_checkpoint(true).unwrap();
    bench.ack(1, 1, false);
    let errors = bench.run_for(secs(100)).await;
    assert_eq!((errors.len(), errors[0].0), (1, limits().order * 6));
    assert_eq!(errors[0].1.to_string(), "the checkpoint store is unavailable: it did not publish epoch 1 within 30s");
}

#[tokio::test(start_paused = true)]
async fn i10_a_publication_goes_on_while_progress_is_dropped() {
    let mut bench = Bench::new(1);
    bench.store.answer(StoreAnswer::After(secs(2)));
    bench.controller.begin_checkpoint(true).unwrap();
    bench.ack(1, 1, true);
    for _ in 0..3000 {
        assert!(!matches!(bench.poll_once(), Some(Err(_))));
        tokio::time::advance(ms(1)).await;
    }
    assert_eq!((bench.store.attempts(), bench.store.epochs()), (1, vec![1]));
    assert_eq!((bench.workers.count(1, "commit"), bench.workers.count(1, "final checkpoint")), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn checkpoint_orders_of_workers_whose_snapshots_are_in_are_dropped() {
    let mut bench = Bench::new(2);
    bench.workers.script(1, [Answer::Never]);
    bench.controller.begin_checkpoint(true).unwrap();
    bench.run_well_for(secs(1)).await;
    bench.ack(1, 1, false);
    bench.ack(2, 1, false);
    assert_eq!(bench.outstanding(), 0, "all are in, so nobody waits for the answer");
    bench.run_well_for(secs(600)).await;
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::Complete(epoch(1)));
}

#[tokio::test(start_paused = true)]
async fn a_final_checkpoint_whose_orders_failed_goes_on_when_it_is_asked_for_again() {
    let mut bench = Bench::new(2);
    bench.workers.script(1, [Answer::Fails(OrderErrorKind::Rejected), Answer::Ok]);
    bench.controller.begin_checkpoint(true).unwrap();
    assert_eq!(bench.run_for(secs(60)).await.len(), 1);
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::InFlight(epoch(1)));
    assert_eq!(bench.controller.begin_checkpoint(true).unwrap(), CheckpointStart::AlreadyStarted(epoch(1)));
    bench.run_well_for(secs(60)).await;
    assert_eq!([1, 2].map(|worker| bench.workers.count(worker, "final checkpoint")), [2, 1]);
}

#[tokio::test(start_paused = true)]
async fn periodic_checkpoints_are_counted_from_the_end_of_the_one_before() {
    let mut bench = Bench::with_limits(1, every(10));
    bench.run_well_for(secs(9)).await;
    assert_eq!(bench.workers.count(1, "checkpoint"), 0);
    bench.run_well_for(secs(4)).await;
    bench.ack(1, 1, false);
    bench.run_well_for(secs(11)).await;
    assert_eq!(bench.workers.times(1, "checkpoint", bench.start), [secs(10), secs(23)]);
    assert_eq!((bench.store.epochs(), bench.controller.status().last_complete), (vec![1], Some(epoch(1))));
}

#[tokio::test(start_paused = true)]
async fn a_periodic_checkpoint_that_takes_too_long_is_abandoned() {
    let mut bench = Bench::with_limits(2, Limits { final_checkpoint: secs(30), ..every(10) });
    bench.run_well_for(secs(39)).await;
    bench.ack(1, 1, false);
    assert_eq!(bench.controller.begin_checkpoint(true).unwrap(), CheckpointStart::Busy(epoch(1)));
    bench.run_well_for(secs(2)).await;
    assert_eq!(bench.controller.status().checkpoint, CheckpointStage::Idle);
    assert_eq!(bench.controller.model().counters().checkpoints_abandoned, 1);
    bench.run_well_for(secs(100)).await;
    assert_eq!(bench.workers.count(1, "checkpoint"), 1, "no periodic one after the final one was asked for");
    assert_eq!(bench.controller.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(2)));
    bench.run_well_for(secs(100)).await;
    let collecting = CheckpointStage::Collecting { epoch: epoch(2), acks: Count::new(0, 2) };
    assert_eq!(bench.controller.status().checkpoint, collecting, "the final one has no such limit here");
}

#[tokio::test(start_paused = true)]
async fn a_periodic_checkpoint_ends_with_its_failed_orders() {
    let mut bench = Bench::with_limits(2, every(10));
    bench.workers.script(2, [Answer::Fails(OrderErrorKind::Rejected), Answer::Ok]);
    let errors = bench.run_for(secs(21)).await;
    assert!(matches!(&errors[..], [(_, ControllerError::Orders(_))]), "{errors:?}");
    assert_eq!(bench.workers.times(2, "checkpoint", bench.start), [secs(10), secs(20)]);
    let collecting = CheckpointStage::Collecting { epoch: epoch(2), acks: Count::new(0, 2) };
    assert_eq!(bench.controller.status().checkpoint, collecting);
}

#[tokio::test(start_paused = true)]
async fn a_periodic_checkpoint_ends_with_its_failed_publication() {
    let mut bench = Bench::with_limits(1, every(10));
    bench.store.unavailable();
    bench.run_well_for(secs(11)).await;
    bench.ack(1, 1, false);
    let errors = bench.run_for(secs(1)).await;
    assert!(matches!(&errors[..], [(_, ControllerError::Store(_))]), "{errors:?}");
    assert_eq!(bench.controller.status().checkpoint, CheckpointStage::Idle);
    bench.run_well_for(secs(10)).await;
    bench.ack(1, 2, false);
    bench.run_well_for(secs(1)).await;
    assert_eq!(bench.store.epochs(), [2], "the next one works");
}

#[tokio::test(start_paused = true)]
async fn i11_a_fenced_controller_takes_no_periodic_checkpoint_any_more() {
    let mut bench = Bench::with_limits(1, every(10));
    let fenced = StoreError::Fenced { job: "job".into(), run: RUN, newer: RunId::new(6) };
    bench.store.answer(StoreAnswer::Error(fenced));
    bench.run_well_for(secs(11)).await;
    bench.ack(1, 1, false);
    let errors = bench.run_for(secs(600)).await;
    assert!(matches!(&errors[..], [(_, error)] if !error.is_retryable()), "{errors:?}");
    assert_eq!(bench.workers.count(1, "checkpoint"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_checkpoint_its_publication_and_the_periodic_ones() {
    let mut bench = Bench::with_limits(2, every(10));
    bench.workers.script(2, [Answer::Never, Answer::Ok]);
    bench.store.answer(StoreAnswer::Never);
    bench.run_well_for(secs(11)).await;
    assert_eq!(bench.workers.open(), 1);
    bench.controller.begin_stop(GRACEFUL);
    assert_eq!((bench.workers.open(), bench.controller.status().checkpoint), (0, CheckpointStage::Idle));
    bench.run_well_for(secs(600)).await;
    assert_eq!([1, 2].map(|worker| bench.workers.count(worker, "checkpoint")), [1, 1]);

    let mut bench = Bench::new(1);
    bench.store.answer(StoreAnswer::After(secs(3)));
    bench.controller.begin_checkpoint(true).unwrap();
    bench.ack(1, 1, false);
    bench.run_well_for(secs(1)).await;
    bench.controller.begin_stop(IMMEDIATE);
    bench.run_well_for(secs(60)).await;
    assert!(bench.store.epochs().is_empty(), "what is not durable yet does not become so after a stop");
}

#[tokio::test(start_paused = true)]
async fn commits_of_a_durable_checkpoint_go_on_beside_a_stop() {
    let mut bench = Bench::new(2);
    bench.controller.begin_checkpoint(false).unwrap();
    bench.ack(1, 1, true);
    bench.ack(2, 1, true);
    bench.workers.script(1, [Answer::After(secs(2))]);
    bench.run_well_for(secs(1)).await;
    bench.workers.script(2, [Answer::Fails(OrderErrorKind::Rejected)]);
    bench.controller.begin_stop(IMMEDIATE);
    assert_eq!(bench.outstanding(), 3, "two stop orders and a commit");
    assert_eq!(bench.run_for(secs(10)).await.len(), 1, "the stop order of worker 2");
    for worker in [1, 2] {
        bench.say(worker, Event::CommitCompleted { task: task(worker), epoch: epoch(1) });
    }
    assert_eq!(bench.controller.status().last_complete, Some(epoch(1)));
}

#[tokio::test(start_paused = true)]
async fn a_failure_drops_the_orders_of_the_final_checkpoint() {
    let mut bench = Bench::new(2);
    bench.workers.script(2, [Answer::Never]);
    bench.controller.begin_checkpoint(true).unwrap();
    bench.run_well_for(secs(1)).await;
    bench.finish(1);
    assert!(bench.controller.failure().is_some());
    assert_eq!(bench.outstanding(), 0);
    assert!(matches!(bench.controller.begin_checkpoint(true), Err(ControllerError::Run(_))));
}

#[tokio::test(start_paused = true)]
async fn a_restored_run_goes_on_after_its_manifest_and_carries_its_states() {
    let snapshot = TaskSnapshot { task: task(1), snapshot: "offset 7".into(), commit: None, finished: true };
    let manifest =
        Manifest { job: "job".into(), run: RunId::new(4), epoch: epoch(8), then_stop: true, tasks: vec![snapshot] };
    let topology = Topology::builder().operator("task", Role::Source, [WorkerId::new(1)]).build().unwrap();
    let store = Arc::new(Store::default());
    let builder = ClusterController::builder(
        &OpenRun::new("job", RUN, Some(manifest)).unwrap(),
        topology,
        Arc::new(Workers::default()),
    );
    let mut controller = builder.limits(limits()).store(Arc::clone(&store) as Arc<_>).build();
    assert_eq!(controller.status().last_complete, Some(epoch(8)));
    let finished = WorkerEvent::new(RUN, WorkerId::new(1), Event::TaskFinished { task: task(1) });
    controller.handle(finished, super::super::now()).unwrap();
    assert_eq!(controller.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(9)));
    controller.progress().await.unwrap();
    let published = store.published.lock().unwrap();
    assert_eq!((published[0].1.epoch, &published[0].1.tasks[0].snapshot[..]), (epoch(9), &b"offset 7"[..]));
}

/// A worker that has stopped its tasks can't commit any more. The next run does it; the stop is
/// none the worse for it.
#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_while_the_run_is_stopped_is_no_failure_of_the_stop() {
    for then_stop in [false, true] {
        let mut bench = Bench::new(2);
        bench.controller.begin_checkpoint(then_stop).unwrap();
        bench.run_well_for(secs(1)).await;
        bench.workers.script(1, [Answer::Fails(OrderErrorKind::NotRunning)]);
        bench.workers.script(2, [Answer::After(ms(10))]);
        bench.ack(1, 1, true);
        bench.ack(2, 1, true);
        assert!(matches!(bench.poll_once(), Some(Ok(()))), "published");
        bench.controller.begin_stop(IMMEDIATE);
        bench.run_well_for(secs(60)).await;
        assert_eq!(bench.workers.count(1, "commit"), 1);
    }
}

/// Phases count the failures of a final checkpoint; what came before it is none of them.
#[tokio::test(start_paused = true)]
async fn a_periodic_checkpoint_that_fails_once_the_final_one_is_asked_for_makes_way_without_an_error() {
    for reason in ["orders", "store"] {
        let mut bench = Bench::new(2);
        bench.controller.begin_checkpoint(false).unwrap();
        match reason {
            "orders" => bench.workers.script(1, [Answer::Fails(OrderErrorKind::Rejected), Answer::Ok]),
            _ => bench.store.unavailable(),
        }
        assert_eq!(bench.controller.begin_checkpoint(true).unwrap(), CheckpointStart::Busy(epoch(1)));
        bench.run_well_for(ms(1)).await;
        if reason == "store" {
            bench.ack(1, 1, false);
            bench.ack(2, 1, false);
        }
        bench.run_well_for(secs(1)).await;
        assert_eq!(bench.controller.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(2)), "{reason}");
    }
}
