//! Jobs whose workers speak gRPC, stopped in every mode.
#![cfg(feature = "grpc")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/grpc.rs"]
mod support;

use support::*;
use winddown::*;

const FIRST: Epoch = Epoch::new(1);

#[tokio::test]
async fn a_final_checkpoint_is_complete_and_the_workers_leave_by_themselves() {
    let (bench, mut job, running) = Bench::new(3).await;
    for number in 1..=3 {
        bench.healthy(number).await;
    }
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let AfterCheckpointStopping::Stopped(stopped) = stopping.next(&mut job).await.unwrap() else { panic!() };

    assert_eq!(stopped.evidence().epoch(), FIRST);
    assert!(!stopped.killed_workers());
    let manifest = bench.store.last().unwrap();
    assert!(manifest.then_stop);
    for (number, snapshot) in (1..=3).zip(&manifest.tasks) {
        let task = task(number);
        assert_eq!(snapshot.task, task);
        assert_eq!(snapshot.snapshot, format!("state of {task}"), "what the task gave, and nothing around it");
        assert_eq!(snapshot.commit.as_ref().unwrap(), &format!("rows of {task}"));
        assert_eq!(bench.committed.all()[&(FIRST, task)], format!("rows of {task}"));
    }
}

#[tokio::test]
async fn graceful_and_immediate_stops_end_in_their_evidence_and_nobody_is_killed() {
    for request in [StopRequest::Graceful, StopRequest::Immediate] {
        let (bench, mut job, running) = Bench::new(2).await;
        bench.healthy(1).await;
        bench.healthy(2).await;
        job.sender().request(request).unwrap();
        let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
        match (request, &receipt.stopped) {
            (StopRequest::Graceful, AnyStopped::Drained(stopped)) => assert!(!stopped.killed_workers()),
            (StopRequest::Immediate, AnyStopped::Halted(stopped)) => assert!(!stopped.killed_workers()),
            (request, stopped) => panic!("{request:?} ended in {stopped:?}"),
        }
    }
}
