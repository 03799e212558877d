//! The scripted collaborators as a user's test has them; and, with them, what the explorer found, so that it stays found.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::time::Instant;
use winddown::{testing::scripted::*, *};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn parts() -> (ScriptedController, ScriptedScheduler, ScriptedJournal) {
    (ScriptedController::new(4), ScriptedScheduler::new([1, 2]), ScriptedJournal::default())
}

fn job(
    (controller, scheduler, journal): &(ScriptedController, ScriptedScheduler, ScriptedJournal),
) -> (JobContext<ScriptedController, ScriptedScheduler>, Running) {
    let builder =
        JobContext::builder(&OpenRun::without_store("job", RunId::new(7))).simulated().journal(journal.clone());
    builder.build(controller.clone(), scheduler.clone()).unwrap()
}

/// Explorer: `checkpoint:29=3`. The end was refused once by the journal; the record of the phase before must not follow it.
#[tokio::test(start_paused = true)]
async fn i7_the_record_does_not_go_backwards_from_the_end() {
    for lost in [JournalAnswer::WritesAndFails, JournalAnswer::Unavailable, JournalAnswer::Hangs] {
        let parts = parts();
        parts.0.on(Told::FinalCheckpoint, secs(1), Does::CompleteFinal).on(
            Told::FinalCheckpoint,
            secs(1),
            Does::Finish,
        );
        // The phase, the final epoch, and then the end.
        parts.2.answers([JournalAnswer::Writes, JournalAnswer::Writes, lost, JournalAnswer::Writes]);
        let (mut job, running) = job(&parts);
        let stopping = running.stop_with_checkpoint(&mut job).unwrap();
        let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
        assert_eq!((receipt.stopped().name(), receipt.retries()), ("checkpointed", 1), "{lost:?}");
        let mut phases = parts.2.phases();
        phases.dedup();
        assert_eq!(phases, [PhaseKind::CheckpointStopping, PhaseKind::StoppedCheckpointed], "{lost:?}");
        // What was proven is not proven anew: nobody is asked to leave twice.
        let asked = parts.1.calls().iter().filter(|(call, _)| *call == Call::Ask).count();
        assert_eq!(asked, 1, "{lost:?}");
    }
}

/// A controller that sends nothing before it is polled, as the contract says, and writes down when that was.
struct Polled(ScriptedController, std::sync::Arc<std::sync::Mutex<Vec<Instant>>>);

impl JobController for Polled {
    fn status(&self) -> RunStatus {
        self.0.status()
    }

    fn failure(&self) -> Option<&RunFailure> {
        self.0.failure()
    }

    fn handle(&mut self, event: WorkerEvent, now: std::time::Instant) -> Result<Applied, Rejection> {
        self.0.handle(event, now)
    }

    fn check_health(&mut self, now: std::time::Instant) {
        self.0.check_health(now);
    }

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        self.0.begin_checkpoint(then_stop)
    }

    fn begin_stop(&mut self, mode: WorkerStopMode) {
        self.0.begin_stop(mode);
    }

    fn begin_release(&mut self) {
        self.0.begin_release();
    }

    async fn progress(&mut self) -> Result<(), ControllerError> {
        self.1.lock().unwrap().push(Instant::now());
        self.0.progress().await
    }
}

/// Explorer: `checkpoint-then-detached:5=1`. The final checkpoint's epoch could not be written down: none of its orders goes out in the
/// backoff.
#[tokio::test(start_paused = true)]
async fn i7_a_backoff_after_a_failed_record_does_not_poll_the_controller() {
    let (controller, scheduler, journal) = parts();
    controller.on(Told::FinalCheckpoint, secs(60), Does::CompleteFinal).on(
        Told::FinalCheckpoint,
        secs(60),
        Does::Finish,
    );
    journal.answers([JournalAnswer::Writes, JournalAnswer::Unavailable, JournalAnswer::Writes]);
    let polled = std::sync::Arc::default();
    let builder =
        JobContext::builder(&OpenRun::without_store("job", RunId::new(7))).simulated().journal(journal.clone());
    let (mut job, running) = builder.build(Polled(controller, std::sync::Arc::clone(&polled)), scheduler).unwrap();
    let start = Instant::now();
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("checkpointed", 1));
    let first = polled.lock().unwrap()[0] - start;
    assert!(first >= Limits::default().backoff_min, "polled {first:?} after the start, in the backoff");
}

/// Explorer: `graceful-periodic:5=7,7=4`. A kill failed: in the backoff the controller does not go on with what it was told before.
#[tokio::test(start_paused = true)]
async fn i7_a_backoff_of_force_does_not_poll_the_controller() {
    let (controller, scheduler, journal) = parts();
    scheduler.answers(Call::Kill, [SchedulerAnswer::Unavailable, SchedulerAnswer::Obeys]);
    let polled = std::sync::Arc::default();
    let builder = JobContext::builder(&OpenRun::without_store("job", RunId::new(7))).simulated().journal(journal);
    let (mut job, running) = builder.build(Polled(controller, std::sync::Arc::clone(&polled)), scheduler).unwrap();
    let stopping = running.force(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("killed", 1));
    assert_eq!(*polled.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_script_is_followed_and_written_down() {
    let parts = parts();
    let (controller, scheduler, _) = &parts;
    let lost = RunFailure::WorkerLost { worker: WorkerId::new(2), silent_for: secs(31) };
    controller.on(Told::Stop(WorkerStopMode::Graceful), secs(3), Does::Fail(lost.clone()));
    scheduler.answers(Call::Kill, [SchedulerAnswer::ObeysAfter(secs(2))]);
    let (mut job, running) = job(&parts);
    let start = Instant::now();
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "killed");
    assert_eq!(start.elapsed(), secs(5));
    assert_eq!(controller.failure(), Some(&lost));
    assert_eq!(controller.told_at(Told::Stop(WorkerStopMode::Graceful)), Some(start));
    assert_eq!(scheduler.called_at(Call::Kill), Some(start + secs(3)));
    assert!(scheduler.calls().iter().all(|(_, run)| *run == Some(RunId::new(7))));
}

#[tokio::test(start_paused = true)]
async fn a_refused_order_and_a_status_that_changes_end_a_wait() {
    let mut controller = ScriptedController::new(2);
    controller
        .later(secs(1), Does::RefuseOrder)
        .later(secs(2), Does::FailToPublish)
        .later(secs(3), Does::ExhaustSources);
    assert!(matches!(controller.progress().await, Err(ControllerError::Orders(_))));
    assert!(matches!(controller.progress().await, Err(ControllerError::Store(_))));
    controller.progress().await.unwrap();
    assert!(controller.status().sources_exhausted());
    controller.change(|status| status.failures = 9);
    controller.progress().await.unwrap();
    assert_eq!(controller.status().failures, 9);
}
