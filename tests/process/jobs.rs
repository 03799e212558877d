//! Real worker processes and real gRPC: whatever befalls a worker, the job ends in `Stopped` inside
//! the worst-case formula, no process is left, and the next run goes on to the end without losing
//! or doubling anything.

use crate::counting::{self, Manners};
use crate::sick_run::{Bench, POLICY, ms};
use crate::support::job;
use rustix::process::Signal;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use winddown::{
    AnyStopped, Limits, PhaseKind, Progress, Receipt, StopRequest, WorkerId,
    contracts::{CheckpointStage, CheckpointStore, Count, FinalCheckpoint},
    process::WorkerEnv,
};

/// Not a test: the workers start at this one.
#[test]
fn worker_entry() {
    if let Some(worker) = WorkerEnv::from_env().unwrap() {
        counting::worker_main(worker);
    }
}

fn walked(receipt: &Receipt) -> Vec<&'static str> {
    receipt.legs().iter().map(|leg| leg.phase.name()).collect()
}

const FORCED: [&str; 4] = ["Running", "CheckpointStopping", "Stopping<Force>", "Stopped<Killed>"];

#[tokio::test]
async fn healthy_workers_stop_in_every_mode() {
    for (request, evidence) in StopRequest::ALL.into_iter().zip(["checkpointed", "drained", "halted", "killed"]) {
        let receipt = Bench::stop_with(Manners::Healthy, request).await;
        assert_eq!(receipt.stopped().name(), evidence, "{receipt}");
    }
}

#[tokio::test]
async fn a_worker_killed_before_the_final_checkpoint() {
    let receipt = Bench::with(Manners::Healthy, async |live| {
        live.under_way().await;
        live.strike(Signal::KILL);
        live.ask(StopRequest::Checkpoint);
    })
    .await;
    assert_eq!(receipt.stopped().name(), "killed", "{receipt}");
}

#[tokio::test]
async fn a_worker_killed_during_the_final_checkpoint() {
    let receipt = Bench::with(Manners::HoldsState, async |live| {
        live.under_way().await;
        live.ask(StopRequest::Checkpoint);
        live.collecting().await;
        live.strike(Signal::KILL);
    })
    .await;
    assert_eq!(walked(&receipt), FORCED, "{receipt}");
    let why = receipt.last_error().unwrap();
    assert!(why.contains("worker 1 left with 1 unfinished tasks"), "{why}\n{receipt}");
}

/// The manifest is durable and a commit is missing: that is no `Checkpointed`, and the next run
/// carries the commit out.
#[tokio::test]
async fn i3_a_worker_killed_before_its_commit() {
    let bench = Bench::new();
    let receipt = bench
        .run(Manners::HoldsCommit, async |live| {
            live.under_way().await;
            live.ask(StopRequest::Checkpoint);
            let committing = |now: &Progress| {
                let acks = Count::new(2, 3);
                matches!(now.status.checkpoint, CheckpointStage::Committing { acks: now, .. } if now == acks)
                    && matches!(now.status.final_checkpoint, FinalCheckpoint::InFlight(_))
            };
            live.until("the commits", committing).await;
            live.strike(Signal::KILL);
        })
        .await;
    assert_eq!(walked(&receipt), FORCED, "{receipt}");
    assert!(bench.store.latest(&job()).await.unwrap().unwrap().then_stop, "the final checkpoint is durable");
    bench.finish().await;
}

/// As a pod that is evicted: SIGTERM, and some time.
#[tokio::test]
async fn a_worker_that_is_asked_to_leave_and_gives_notice_gets_its_final_checkpoint() {
    let receipt = Bench::with(Manners::GivesNotice, async |live| {
        live.under_way().await;
        live.strike(Signal::TERM);
        let leaving = timeout(Duration::from_secs(20), live.leaving.wait_for(|leaving| !leaving.is_empty()));
        assert_eq!(*leaving.await.expect("no notice").unwrap(), [WorkerId::new(1)].into());
        live.ask(StopRequest::Checkpoint);
    })
    .await;
    let AnyStopped::Checkpointed(stopped) = &receipt.stopped() else { panic!("{receipt}") };
    assert!(!stopped.killed_workers(), "{receipt}");
}

#[tokio::test]
async fn a_worker_killed_after_the_final_checkpoint() {
    let bench = Bench::new();
    let receipt = bench
        .run(Manners::Stays, async |live| {
            live.under_way().await;
            live.ask(StopRequest::Checkpoint);
            let finished = |now: &Progress| {
                matches!(now.status.final_checkpoint, FinalCheckpoint::Complete(_)) && now.status.all_finished()
            };
            live.until("the end of all tasks", finished).await;
            live.strike(Signal::KILL);
        })
        .await;
    let AnyStopped::Checkpointed(stopped) = &receipt.stopped() else { panic!("{receipt}") };
    let manifest = bench.store.latest(&job()).await.unwrap().unwrap();
    assert_eq!((manifest.epoch, manifest.then_stop), (stopped.evidence().epoch(), true));
    bench.finish().await;
}

#[tokio::test]
async fn a_worker_frozen_for_ever_in_the_final_checkpoint() {
    let receipt = Bench::with(Manners::HoldsState, async |live| {
        live.under_way().await;
        live.ask(StopRequest::Checkpoint);
        live.collecting().await;
        live.strike(Signal::STOP);
    })
    .await;
    assert_eq!(walked(&receipt), FORCED, "{receipt}");
    assert!(receipt.last_error().unwrap().contains("worker 1 is lost: silent for"));
}

#[tokio::test]
async fn a_worker_frozen_for_ever_before_any_stop_is_recovered_from() {
    let receipt = Bench::with(Manners::Healthy, async |live| {
        live.under_way().await;
        live.strike(Signal::STOP);
        let Limits { heartbeat, health_every, .. } = live.limits;
        let recover = live.limits.worst_case(PhaseKind::Recovering, POLICY).unwrap();
        live.bound.set(Some((Instant::now(), heartbeat + health_every + recover)));
    })
    .await;
    assert_eq!(walked(&receipt), ["Running", "Recovering", "Stopping<Force>", "Stopped<Killed>"], "{receipt}");
    assert!(receipt.may_restart());
}

/// A worker that wakes up in time has lost nothing but time.
#[tokio::test]
async fn a_worker_frozen_and_continued() {
    let frozen = async |request| {
        let receipt = Bench::with(Manners::Healthy, async |live| {
            live.under_way().await;
            live.strike(Signal::STOP);
            live.ask(request);
            sleep(ms(700)).await;
            live.strike(Signal::CONT);
        })
        .await;
        match &receipt.stopped() {
            AnyStopped::Checkpointed(stopped) => assert!(!stopped.killed_workers(), "{receipt}"),
            AnyStopped::Halted(stopped) => assert!(!stopped.killed_workers(), "{receipt}"),
            other => panic!("{other:?}: {receipt}"),
        }
    };
    tokio::join!(frozen(StopRequest::Checkpoint), frozen(StopRequest::Immediate));
}

#[tokio::test]
async fn a_worker_that_never_answers_stop_execution() {
    for receipt in
        Bench::stop_with_each(Manners::NeverAnswersStop, [StopRequest::Graceful, StopRequest::Immediate]).await
    {
        assert_eq!(receipt.stopped().name(), "killed", "{receipt}");
        assert!(receipt.last_error().as_ref().unwrap().contains("worker 1 timed out"), "{receipt}");
    }
}

#[tokio::test]
async fn a_worker_that_answers_an_error_to_stop_execution() {
    for receipt in Bench::stop_with_each(Manners::RefusesStop, [StopRequest::Graceful, StopRequest::Immediate]).await {
        assert_eq!(receipt.stopped().name(), "killed", "{receipt}");
        assert!(receipt.last_error().as_ref().unwrap().contains("the disk is on fire"), "{receipt}");
    }
}

#[tokio::test]
async fn a_worker_that_accepts_connections_and_says_nothing() {
    for receipt in Bench::stop_with_each(Manners::Mute, [StopRequest::Checkpoint, StopRequest::Immediate]).await {
        assert_eq!(receipt.stopped().name(), "killed", "{receipt}");
    }
}

/// What the evidence says was proven before; that the process is gone is verified all the same.
#[tokio::test]
async fn i2_a_worker_that_says_finished_and_stays_alive() {
    let receipts = Bench::stop_with_each(Manners::Stays, [StopRequest::Checkpoint, StopRequest::Immediate]).await;
    for (receipt, evidence) in receipts.into_iter().zip(["checkpointed", "halted"]) {
        assert_eq!(receipt.stopped().name(), evidence, "{receipt}");
    }
}

#[tokio::test]
async fn i11_a_worker_that_reports_for_another_run() {
    for receipt in Bench::stop_with_each(Manners::OtherRun, [StopRequest::Checkpoint, StopRequest::Immediate]).await {
        assert_eq!(receipt.stopped().name(), "killed", "{receipt}");
    }
}

/// No completion is lost, and no healthy worker is taken for a lost one.
#[tokio::test]
async fn the_controllers_port_unreachable_for_five_seconds_in_the_middle() {
    let mut bench = Bench::new();
    (bench.limits.heartbeat, bench.limits.final_checkpoint, bench.pace) = (ms(8000), ms(20_000), ms(25));
    let receipt = bench
        .run(Manners::Healthy, async |live| {
            live.under_way().await;
            live.port.close().await;
            live.ask(StopRequest::Checkpoint);
            sleep(ms(5000)).await;
            assert_eq!(live.progress.borrow().phase, PhaseKind::CheckpointStopping, "nothing was heard meanwhile");
            live.port.open_again().await;
        })
        .await;
    let AnyStopped::Checkpointed(stopped) = &receipt.stopped() else { panic!("{receipt}") };
    assert!(!stopped.killed_workers(), "{receipt}");
    bench.finish().await;
}
