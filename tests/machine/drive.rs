//! What the drive does between the phases: how it waits, what it counts, what it gives back.

use std::error::Error;

use tokio::time::{Instant, timeout};
use winddown::{
    AnyPhase, AnyStopped, Detached, JobContext, Limits, OpenRun, PhaseKind, Policy, RunId, Running, StepError, TaskId,
    WorkerId,
    contracts::{RunFailure, TaskError, WorkerStopMode},
    drive,
    journal::JournalError,
};

use crate::support::*;

/// A minute of waiting before every retry, and no budget of more than ten seconds.
fn slow_retries() -> Limits {
    Limits { backoff_min: secs(60), backoff_max: secs(60), final_checkpoint: secs(10), ..Limits::default() }
}

#[tokio::test(start_paused = true)]
async fn i7_a_record_that_can_not_be_written_is_no_reason_to_give_the_final_checkpoint_up() {
    let parts = Parts::new();
    parts.journal.answers([JournalAnswer::Writes, JournalAnswer::Unavailable]);
    let (mut job, running) = parts.job(Limits { journal_retries: 1, checkpoint_retries: 5, ..Limits::default() });
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let error = drive(stopping, &mut job, &Policy::escalate()).await.unwrap_err();
    assert!(matches!(error.error(), StepError::Journal(JournalError::Unavailable(_))), "{error}");
    assert_eq!(job.progress_now().retries, 1, "the journal's retries, not the controller's");
    let failure = error.error().to_string();
    assert_eq!(error.to_string(), format!("the shutdown is stuck in CheckpointStopping: {failure}"));
    assert!(error.to_string().contains(&failure) && error.source().is_none(), "the cause is told once: {error}");
    assert_eq!(error.into_phase().kind(), PhaseKind::CheckpointStopping);
    assert_eq!(parts.controller.told(), [Told::FinalCheckpoint]);
}

#[tokio::test(start_paused = true)]
async fn a_finishing_run_whose_orders_are_refused_again_and_again_is_stopped_at_once() {
    let parts = Parts::new();
    for at in [0, 100, 200] {
        parts.controller.on(Told::FinalCheckpoint, secs(at), Does::RefuseOrder);
    }
    parts.controller.on(Told::Stop(WorkerStopMode::Immediate), secs(1), Does::Finish);
    let (mut job, running) = parts.job(Limits { checkpoint_retries: 2, ..Limits::default() });
    let finishing = running.finish(&mut job).unwrap();
    let receipt = drive(finishing, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("halted", 2));
    let walked: Vec<_> = receipt.legs().iter().map(|leg| leg.phase).collect();
    let [running, finishing, stopping, stopped] =
        [PhaseKind::Running, PhaseKind::Finishing, PhaseKind::StoppingImmediate, PhaseKind::StoppedHalted];
    assert_eq!(walked, [running, finishing, stopping, stopped]);
}

#[tokio::test(start_paused = true)]
async fn each_phase_has_retries_of_its_own() {
    let parts = Parts::new();
    let lost = RunFailure::WorkerLost { worker: WorkerId::new(2), silent_for: secs(31) };
    parts.controller.on(Told::Stop(WorkerStopMode::Graceful), secs(3), Does::Fail(lost));
    let (fails, writes) = (JournalAnswer::Unavailable, JournalAnswer::Writes);
    parts.journal.answers([fails, writes, fails, writes]);
    let (mut job, running) = parts.job(Limits { journal_retries: 1, ..Limits::default() });
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("killed", 2), "{receipt}");
}

#[tokio::test(start_paused = true)]
async fn a_new_budget_for_the_final_checkpoint_comes_with_new_retries() {
    let parts = Parts::new();
    for at in [0, 100, 200] {
        parts.controller.on(Told::FinalCheckpoint, secs(at), Does::RefuseOrder);
    }
    completes(&parts.controller, secs(300), secs(300));
    let (mut job, running) = parts.job(Limits { checkpoint_retries: 1, ..Limits::default() });
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::keep_trying()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("checkpointed", 2), "{receipt}");
}

#[tokio::test(start_paused = true)]
async fn trying_on_ends_where_the_final_checkpoint_can_not_complete_any_more() {
    let parts = Parts::new();
    let error = TaskError::fatal("disk full");
    let failed = RunFailure::TaskFailed { task: TaskId::new(0, 0), worker: WorkerId::new(1), error };
    parts.controller.on(Told::FinalCheckpoint, secs(1), Does::Fail(failed.clone()));
    let (mut job, running) = parts.job(Limits::default());
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let error = timeout(secs(9), drive(stopping, &mut job, &Policy::keep_trying())).await.unwrap().unwrap_err();
    assert!(matches!(error.error(), StepError::Run(failure) if *failure == failed), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_backoff_ends_with_the_budget_of_the_final_checkpoint() {
    let immediate = Told::Stop(WorkerStopMode::Immediate);
    for finishing in [true, false] {
        let parts = Parts::new();
        parts.controller.on(Told::FinalCheckpoint, secs(1), Does::RefuseOrder).on(immediate, secs(1), Does::Finish);
        let (mut job, running) = parts.job(slow_retries());
        let start = Instant::now();
        let phase: AnyPhase = if finishing {
            running.finish(&mut job).unwrap().into()
        } else {
            running.stop_with_checkpoint(&mut job).unwrap().into()
        };
        let receipt = drive(phase, &mut job, &Policy::escalate()).await.unwrap();
        assert_eq!(parts.controller.told_at(immediate), Some(start + secs(10)), "{receipt}");
        assert_eq!(receipt.elapsed(), start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_is_complete_has_no_budget_left_to_end_a_backoff() {
    let parts = Parts::new();
    completes(&parts.controller, secs(9), secs(9));
    parts.scheduler.answers(Call::Ask, [SchedulerAnswer::Refuses]);
    parts.scheduler.answers(Call::Kill, [SchedulerAnswer::Unavailable, SchedulerAnswer::Obeys]);
    let (mut job, running) = parts.job(slow_retries());
    let start = Instant::now();
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("checkpointed", 1), "{receipt}");
    assert!(start.elapsed() >= secs(9 + 60), "{receipt}");
}

#[tokio::test(start_paused = true)]
async fn i6_a_kill_without_a_controller_is_kept_when_its_drive_is_dropped() {
    let scheduler = ScriptedScheduler::new([1]);
    scheduler.answers(Call::Kill, [SchedulerAnswer::Hangs]);
    let (mut job, running) = JobContext::builder(&OpenRun::without_store("job", RunId::new(7)))
        .simulated()
        .build(Detached, scheduler.clone())
        .unwrap();
    assert!(timeout(secs(1), drive(running, &mut job, &Policy::escalate())).await.is_err());
    let kept = job.take_parked().unwrap();
    assert_eq!(kept.kind(), PhaseKind::StoppingForce);
    scheduler.answers(Call::Kill, [SchedulerAnswer::Obeys]);
    let receipt = drive(kept, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "killed");
}

/// How a job stops that is asked to, and whose tasks do as they are told.
async fn stopped(step: impl FnOnce(Running, &mut Job) -> AnyPhase) -> AnyPhase {
    let parts = Parts::new();
    completes(&parts.controller, secs(1), secs(1));
    for mode in [WorkerStopMode::Graceful, WorkerStopMode::Immediate] {
        parts.controller.on(Told::Stop(mode), secs(1), Does::Finish);
    }
    let (mut job, running) = parts.job(Limits::default());
    let phase = step(running, &mut job);
    match drive(phase, &mut job, &Policy::escalate()).await.unwrap().into_stopped() {
        AnyStopped::Checkpointed(stopped) => stopped.into(),
        AnyStopped::Completed(stopped) => stopped.into(),
        AnyStopped::Drained(stopped) => stopped.into(),
        AnyStopped::Halted(stopped) => stopped.into(),
        AnyStopped::Killed(stopped) => stopped.into(),
    }
}

#[tokio::test(start_paused = true)]
async fn i1_the_end_of_one_job_is_not_the_end_of_another() {
    let ends = [
        stopped(|running, job| running.stop_with_checkpoint(job).unwrap().into()).await,
        stopped(|running, job| running.finish(job).unwrap().into()).await,
        stopped(|running, job| running.stop_gracefully(job).unwrap().into()).await,
        stopped(|running, job| running.stop_immediately(job).unwrap().into()).await,
        stopped(|running, job| running.force(job).unwrap().into()).await,
    ];
    let kinds = ends.each_ref().map(AnyPhase::kind);
    let all = PhaseKind::ALL.iter().copied().filter(|kind| kind.is_terminal()).collect::<Vec<_>>();
    assert_eq!(kinds[..], all, "one of each");
    for end in ends {
        let kind = end.kind();
        let (mut attached, _running) = Parts::new().job(Limits::default());
        let error = drive(end, &mut attached, &Policy::escalate()).await.unwrap_err();
        assert!(matches!(error.error(), StepError::WrongJob(_)), "{kind}: {error}");
        let (mut detached, _running) = JobContext::builder(&OpenRun::without_store("job", RunId::new(7)))
            .simulated()
            .build(Detached, ScriptedScheduler::new([1]))
            .unwrap();
        let error = drive(error.into_phase(), &mut detached, &Policy::escalate()).await.unwrap_err();
        assert!(matches!(error.error(), StepError::WrongJob(_)), "{kind}: {error}");
        assert_eq!(error.into_phase().kind(), kind);
    }
}

#[tokio::test(start_paused = true)]
async fn a_final_checkpoint_of_another_job_is_given_back_whatever_the_policy() {
    for policy in [Policy::escalate(), Policy::keep_trying(), Policy::give_back()] {
        let (mut job, running) = Parts::new().job(Limits::default());
        let stopping = running.stop_with_checkpoint(&mut job).unwrap();
        let (mut other, _running) = Parts::new().job(Limits::default());
        let error = drive(stopping, &mut other, &policy).await.unwrap_err();
        assert!(matches!(error.error(), StepError::WrongJob(_)), "{error}");
        assert_eq!((other.phase(), error.into_phase().kind()), (PhaseKind::Running, PhaseKind::CheckpointStopping));
    }
}

#[tokio::test(start_paused = true)]
async fn a_receipt_shows_the_way_its_times_and_what_went_wrong() {
    let parts = Parts::new();
    completes(&parts.controller, secs(2), secs(3));
    let (mut job, running) = parts.job(Limits::default());
    tokio::time::sleep(secs(5)).await;
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!(receipt.elapsed(), secs(8));
    let way = "\n  Running                    5.000 s\n  CheckpointStopping         3.000 s\n  Stopped<Checkpointed>      0.000 s";
    assert_eq!(receipt.to_string(), format!("job `wordcount`, run 7: checkpointed (epoch 42){way}"));

    let parts = Parts::new();
    parts.scheduler.answers(Call::Kill, [SchedulerAnswer::Unavailable, SchedulerAnswer::Obeys]);
    let (mut job, running) = parts.job(Limits::default());
    let stopping = running.force(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap().to_string();
    let end = receipt.split_once("retries: 1\n  last error: ").map(|(_, error)| error);
    assert!(end.is_some_and(|error| error.contains("scripted")), "{receipt}");
}
