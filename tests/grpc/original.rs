//! The worst cases of the original, with our bound beside each. The bound asserted is the
//! documented formula over this file's short limits; the table has it for the default ones, where
//! the scheduler kills at once.
//!
//! | case | original | here |
//! |---|---|---|
//! | a worker that never answers the stop order | 1,139 s; a healthy worker never got the order | `finish` = 60 s; the healthy one got it at once |
//! | orders answered, tasks never finish | 60 s, then force; a force request ignored | `finish` = 60 s; force at once |
//! | a worker that is already dead | 136 s | `heartbeat` = 30 s |
//! | dead or silent during the final checkpoint | no end seen | `heartbeat` = 30 s |
//! | a failed task during the final checkpoint | no end seen | at once, then `finish` = 60 s at most |
//! | force during the final checkpoint | panic, then "Stopped" without a checkpoint | at once, `Stopped<Killed>` |

use std::time::Duration;

use crate::arroyo::{Diary, Does, Manners, arroyo_worker};
use crate::support::*;
use tokio::{net::TcpListener, time::Instant};
use winddown::{
    AnyStopped, JobController, PhaseKind, Policy, Receipt, Running, Scheduler, StopRequest, contracts::RunFailure,
    drive, drive::OnSpentCheckpoint, grpc::tonic::Code,
};

/// What became of a stop of a job with a healthy worker (the first) and a sick one.
struct End {
    receipt: Receipt,
    job: Job,
    diary: Diary,
}

impl End {
    fn killed(&self) -> bool {
        matches!(self.receipt.stopped(), AnyStopped::Killed(_))
    }

    fn halted(&self) -> bool {
        matches!(self.receipt.stopped(), AnyStopped::Halted(_))
    }

    /// Whether every task of the healthy worker has finished: it was not held up by the sick one
    /// (invariant I9).
    fn healthy_finished(&self) -> bool {
        self.job.status().tasks.done >= 1
    }
}

/// Stops the job, perhaps with force later, and holds the end against the worst case.
async fn stop(request: StopRequest, manners: Manners, force_after: Option<Duration>) -> End {
    let (bench, job, running) = Bench::new(2).await;
    let diary = Diary::default();
    bench.healthy(1).await;
    bench.fleet.add(2, arroyo_worker(2, bench.port.address, manners, diary.clone()));
    let transport = &bench.transport;
    eventually("the workers to speak", || {
        let spoke = diary.entries().iter().any(|entry| entry.starts_with("register"));
        transport.address(worker(1)).is_some() && spoke
    })
    .await;
    let (receipt, job) = drive_within_bounds(job, running, request, force_after).await;
    assert_eq!(bench.fleet.workers_for_job(&JOB.into(), None).await.unwrap(), [], "I2");
    End { receipt, job, diary }
}

async fn drive_within_bounds(
    mut job: Job,
    running: Running,
    request: StopRequest,
    force_after: Option<Duration>,
) -> (Receipt, Job) {
    let sender = job.sender();
    sender.request(request).unwrap();
    if let Some(after) = force_after {
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            sender.request(StopRequest::Force).unwrap();
        });
    }
    let (begun, limits) = (Instant::now(), limits());
    let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
    let bound = match force_after {
        Some(after) => after + limits.worst_case(PhaseKind::StoppingForce, OnSpentCheckpoint::Escalate).unwrap(),
        None => limits.worst_case(PhaseKind::Running, OnSpentCheckpoint::Escalate).unwrap(),
    };
    assert!(begun.elapsed() <= bound, "{:?} is more than the worst case, {bound:?}", begun.elapsed());
    (receipt, job)
}

#[tokio::test]
async fn original_a_worker_that_never_answers_the_stop_order() {
    for request in [StopRequest::Graceful, StopRequest::Immediate] {
        let end = stop(request, Manners { stop: Does::Hangs, ..Manners::default() }, None).await;
        assert!(end.killed() && end.healthy_finished(), "{:?}", end.receipt.stopped());
    }
}

#[tokio::test]
async fn original_orders_are_answered_but_tasks_never_finish() {
    let manners = Manners { stop: Does::Nothing, ..Manners::default() };
    let end = stop(StopRequest::Graceful, manners, None).await;
    assert!(end.killed() && end.healthy_finished());
    let forced = stop(StopRequest::Graceful, manners, Some(ms(200))).await;
    assert!(forced.killed() && forced.healthy_finished());
}

#[tokio::test]
async fn original_a_worker_that_is_already_dead() {
    for request in [StopRequest::Graceful, StopRequest::Immediate, StopRequest::Checkpoint] {
        let (bench, job, running) = Bench::new(2).await;
        bench.healthy(1).await;
        bench.healthy(2).await;
        let transport = &bench.transport;
        let both = || transport.address(worker(1)).is_some() && transport.address(worker(2)).is_some();
        eventually("both workers to register", both).await;
        bench.fleet.kill(2);
        let (receipt, job) = drive_within_bounds(job, running, request, None).await;
        assert!(matches!(receipt.stopped(), AnyStopped::Killed(_)), "{request:?}: {:?}", receipt.stopped());
        assert!(job.status().tasks.done >= 1 || request == StopRequest::Checkpoint, "{request:?}");
    }
}

#[tokio::test]
async fn original_a_worker_that_dies_or_falls_silent_during_the_final_checkpoint() {
    for does in [Does::Dies, Does::GoesSilent] {
        let end = stop(StopRequest::Checkpoint, Manners { checkpoint: does, ..Manners::default() }, None).await;
        assert!(end.killed() || end.halted(), "{does:?}: {:?}", end.receipt.stopped());
        assert_eq!(end.job.status().last_complete, None, "{does:?}");
        assert!(matches!(end.job.controller().failure(), Some(RunFailure::WorkerLost { .. })), "{does:?}");
    }
}

#[tokio::test]
async fn original_a_worker_that_lives_but_never_completes_the_final_checkpoint() {
    let end = stop(StopRequest::Checkpoint, Manners { checkpoint: Does::Nothing, ..Manners::default() }, None).await;
    assert!(end.halted(), "the budget is spent, and the workers obey the immediate stop: {:?}", end.receipt.stopped());
}

#[tokio::test]
async fn original_a_failed_task_during_the_final_checkpoint() {
    let end = stop(StopRequest::Checkpoint, Manners { checkpoint: Does::Fails, ..Manners::default() }, None).await;
    assert!(end.killed() || end.halted(), "{:?}", end.receipt.stopped());
    let failure = end.job.controller().failure().unwrap();
    assert_eq!(failure.to_string(), "task 0/1 on worker 2 failed: disk full");
    assert_eq!(end.job.status().last_complete, None);
}

/// The original panics, and calls the job stopped.
#[tokio::test]
async fn original_force_is_heard_in_each_of_these() {
    for does in [Does::Nothing, Does::GoesSilent, Does::Dies, Does::Hangs, Does::Refuses(Code::Unavailable)] {
        let manners = Manners { checkpoint: does, stop: does, ..Manners::default() };
        for request in [StopRequest::Checkpoint, StopRequest::Graceful, StopRequest::Immediate] {
            let end = stop(request, manners, Some(ms(100))).await;
            assert!(end.killed(), "{does:?} {request:?}: {:?}", end.receipt.stopped());
        }
    }
}

#[tokio::test]
async fn a_worker_that_accepts_connections_and_says_nothing() {
    for request in [StopRequest::Graceful, StopRequest::Checkpoint] {
        let (bench, job, running) = Bench::new(2).await;
        bench.healthy(1).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        bench.transport.set_address(worker(2), &listener.local_addr().unwrap().to_string()).unwrap();
        bench.fleet.add(2, async move {
            let mut held = Vec::new();
            loop {
                held.push(listener.accept().await.unwrap());
            }
        });
        let (receipt, job) = drive_within_bounds(job, running, request, None).await;
        assert!(matches!(receipt.stopped(), AnyStopped::Killed(_)), "{request:?}: {:?}", receipt.stopped());
        assert!(job.status().tasks.done >= 1 || request == StopRequest::Checkpoint, "{request:?}");
    }
}

#[tokio::test]
async fn a_worker_that_answers_an_error() {
    for code in [Code::Internal, Code::Unavailable, Code::InvalidArgument, Code::Unimplemented] {
        let manners = Manners { stop: Does::Refuses(code), ..Manners::default() };
        let end = stop(StopRequest::Graceful, manners, None).await;
        assert!(end.killed(), "{code:?}: {:?}", end.receipt.stopped());
        let tries = end.diary.entries().iter().filter(|entry| *entry == "stop Graceful").count();
        // `Internal` comes of a handler that broke in the middle of its work: the order may have
        // been taken.
        let retried = code == Code::Unavailable;
        assert_eq!(tries, if retried { 4 } else { 1 }, "{code:?}");
    }
}

/// `FAILED_PRECONDITION` to a stop order means "already stopped, verify": it is not sent again, and
/// the job still waits for proof.
#[tokio::test]
async fn a_worker_that_says_it_is_not_running_is_not_told_again() {
    let manners = Manners { stop: Does::Refuses(Code::FailedPrecondition), ..Manners::default() };
    let begun = Instant::now();
    let end = stop(StopRequest::Graceful, manners, None).await;
    assert!(end.killed() && end.healthy_finished());
    assert!(begun.elapsed() >= limits().finish, "it waited for the tasks to say that they have ended");
    assert_eq!(end.diary.entries().iter().filter(|entry| *entry == "stop Graceful").count(), 1);
}

#[tokio::test]
async fn a_worker_that_finishes_and_stays_alive_is_killed_and_the_evidence_stays() {
    for does in [Does::Nothing, Does::Hangs, Does::Refuses(Code::Internal)] {
        let manners = Manners { release: does, ..Manners::default() };
        let end = stop(StopRequest::Checkpoint, manners, None).await;
        let AnyStopped::Checkpointed(stopped) = &end.receipt.stopped() else { panic!("{:?}", end.receipt.stopped()) };
        assert!(stopped.killed_workers(), "{does:?}");
    }
}

#[tokio::test]
async fn i11_a_worker_that_reports_for_another_run_changes_nothing() {
    for generation in [RUN.get() - 1, RUN.get() + 1] {
        let end = stop(StopRequest::Checkpoint, Manners { generation, ..Manners::default() }, None).await;
        assert!(end.killed(), "{:?}", end.receipt.stopped());
        let entries = end.diary.entries();
        assert!(entries.iter().all(|entry| entry.ends_with("FailedPrecondition")), "{entries:?}");
        assert_eq!(end.job.controller().model().counters().rejected.total(), 0, "none of it reached the job");
        assert!(matches!(end.job.controller().failure(), Some(RunFailure::WorkerLost { .. })));
    }
}
