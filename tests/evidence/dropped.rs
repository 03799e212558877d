//! A `next` that is dropped, and a phase that is: nothing is lost, and the job can be told and
//! forced.

use tokio::time::timeout;
use winddown::{AnyPhase, PhaseKind, Policy, Running, Scheduler, StepError, StopRequest, drive, machine::AfterForce};

use super::*;

/// Drops the future at once, and in the middle; then goes on with what the job has kept.
macro_rules! dropped_next {
    ($name:literal, $kind:ident, |$running:ident, $job:ident| $phase:expr) => {{
        let (mut $job, $running, _) = job(concat!("u4 dropped, ", $name));
        let phase = $phase;
        drop(phase.next(&mut $job));
        let parked = $job.take_parked().expect("it was never polled");
        assert_eq!(parked.kind(), PhaseKind::$kind);
        let AnyPhase::$kind(phase) = parked else { panic!($name) };
        assert!(timeout(Duration::from_millis(500), phase.next(&mut $job)).await.is_err());
        assert_eq!($job.sender().request(StopRequest::Force).is_ok(), true, "it can be told");
        let parked = $job.take_parked().expect("it was dropped in the middle");
        let receipt = drive(parked, &mut $job, &Policy::escalate()).await.unwrap();
        assert_eq!(receipt.stopped().name(), "killed", $name);
    }};
}

#[tokio::test(start_paused = true)]
async fn u4_a_next_that_is_dropped_leaves_the_phase_in_the_job() {
    dropped_next!("running", Running, |running, job| running);
    dropped_next!("finishing", Finishing, |running, job| running.finish(&mut job).unwrap());
    dropped_next!("checkpoint", CheckpointStopping, |running, job| running.stop_with_checkpoint(&mut job).unwrap());
    dropped_next!("graceful", StoppingGraceful, |running, job| running.stop_gracefully(&mut job).unwrap());
    dropped_next!("immediate", StoppingImmediate, |running, job| running.stop_immediately(&mut job).unwrap());
}

#[tokio::test(start_paused = true)]
async fn u4_the_phases_that_do_not_wait_for_tasks_are_kept_too() {
    let (mut job, running, _) = job("u4 force");
    drop(running.force(&mut job).unwrap().next(&mut job));
    assert!(matches!(job.take_parked(), Some(AnyPhase::StoppingForce(_))));
    let (mut job, running, _) = super::job("u4 recovering");
    drop(running.recover(&mut job).unwrap().next(&mut job));
    assert!(matches!(job.take_parked(), Some(AnyPhase::Recovering(_))));
}

#[tokio::test(start_paused = true)]
async fn u4_a_parked_phase_goes_along_when_the_controller_is_detached() {
    let (mut job, running, fleet) = job("u4 detached");
    drop(running.stop_gracefully(&mut job).unwrap().next(&mut job));
    let (mut job, _controller) = job.detach();
    let parked = job.take_parked().unwrap();
    let receipt = drive(parked, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "killed");
    assert_eq!(fleet.workers_for_job(receipt.job(), None).await.unwrap(), []);
}

/// The phase itself is gone: the job can be forced all the same, from every phase that is not the
/// end.
#[tokio::test(start_paused = true)]
async fn u4_a_job_whose_phase_is_gone_can_be_forced() {
    let steps: [fn(Running, &mut Job) -> AnyPhase; 7] = [
        |running, _| running.into(),
        |running, job| running.finish(job).unwrap().into(),
        |running, job| running.recover(job).unwrap().into(),
        |running, job| running.stop_with_checkpoint(job).unwrap().into(),
        |running, job| running.stop_gracefully(job).unwrap().into(),
        |running, job| running.stop_immediately(job).unwrap().into(),
        |running, job| running.force(job).unwrap().into(),
    ];
    for (at, step) in steps.into_iter().enumerate() {
        let (mut job, running, fleet) = job(&format!("u4 gone {at}"));
        let lost = step(running, &mut job);
        let (mut job, stopping, _controller) = job.force().unwrap();
        let error = drive(lost, &mut job, &Policy::give_back()).await.unwrap_err();
        assert!(matches!(error.error(), StepError::WrongJob(_)), "what was lost is of no use any more: {error}");
        let AfterForce::Stopped(stopped) = stopping.next(&mut job).await.unwrap();
        assert_eq!(fleet.workers_for_job(stopped.job(), None).await.unwrap(), []);
        assert_eq!(job.phase(), PhaseKind::StoppedKilled);
        assert!(job.force().is_err(), "it has stopped");
    }
}
