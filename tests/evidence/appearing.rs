//! A worker that appears after the last one had gone: no `Stopped` while it lives.

use std::sync::{Arc, Mutex};

use winddown::{
    Detached, JobContext, JobId, Limits, PhaseKind, Policy, Scheduler, StepError, WorkerId, drive,
    drive::Unfit,
    journal::{Journal, JournalError, PhaseRecord},
    machine::{AfterCheckpointStopping, AfterFinishing, AfterForce, AfterGraceful, AfterImmediate},
    rehydrate,
    testing::scripted::*,
};

use super::*;

/// Runs, lets a worker appear, and steps: the step is refused, and taken once the worker is gone.
macro_rules! between_run_and_next {
    ($name:literal, $after:ident, |$running:ident, $job:ident| $phase:expr) => {{
        let (mut $job, $running, fleet) = job(concat!("u3 between, ", $name));
        let mut phase = $phase;
        phase.run(&mut $job).await.unwrap();
        fleet.appear(9);
        let failed = phase.next(&mut $job).await.unwrap_err();
        assert!(
            matches!(failed.error(), StepError::Appeared { workers } if workers[..] == [WorkerId::new(9)]),
            "{}: {failed}",
            $name
        );
        assert!(failed.is_retryable());
        let after = failed.into_phase().next(&mut $job).await.unwrap();
        #[allow(unreachable_patterns, reason = "after force nothing else comes")]
        let stopped = match after {
            $after::Stopped(stopped) => stopped,
            other => panic!("{}: {other:?}", $name),
        };
        assert!(stopped.killed_workers(), "{}: the late one was killed", $name);
        assert_eq!(fleet.workers_for_job(stopped.job(), None).await.unwrap(), []);
    }};
}

#[tokio::test(start_paused = true)]
async fn u3_a_worker_between_run_and_next_is_seen() {
    between_run_and_next!("checkpoint", AfterCheckpointStopping, |running, job| running
        .stop_with_checkpoint(&mut job)
        .unwrap());
    between_run_and_next!("finishing", AfterFinishing, |running, job| running.finish(&mut job).unwrap());
    between_run_and_next!("graceful", AfterGraceful, |running, job| running.stop_gracefully(&mut job).unwrap());
    between_run_and_next!("immediate", AfterImmediate, |running, job| running.stop_immediately(&mut job).unwrap());
    between_run_and_next!("force", AfterForce, |running, job| running.force(&mut job).unwrap());
}

/// Writes slowly, and a worker appears meanwhile.
struct Slow {
    journal: ScriptedJournal,
    fleet: Fleet,
    appeared: Arc<Mutex<bool>>,
}

impl Journal for Slow {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        self.journal.load(job).await
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        if record.phase().is_terminal() && !std::mem::replace(&mut *self.appeared.lock().unwrap(), true) {
            tokio::time::sleep(secs(1)).await;
            self.fleet.appear(9);
        }
        self.journal.write(record).await
    }
}

#[tokio::test(start_paused = true)]
async fn u3_a_worker_while_the_end_is_written_down_is_seen() {
    let (fleet, journal) = (Fleet::default(), ScriptedJournal::default());
    fleet.appear(1);
    let slow = Slow { journal: journal.clone(), fleet: fleet.clone(), appeared: Arc::default() };
    let builder = JobContext::builder(&open("u3 while written")).journal(slow);
    let (mut job, running) = builder.build(obedient(), fleet.clone()).unwrap();
    let receipt = drive(running.stop_with_checkpoint(&mut job).unwrap(), &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.stopped().killed_workers()), ("checkpointed", true));
    assert_eq!(fleet.workers_for_job(receipt.job(), None).await.unwrap(), []);
    // The record does not go back from the end; it says in the end that somebody was killed.
    let ends: Vec<_> = journal.records().into_iter().filter(|record| record.phase().is_terminal()).collect();
    assert_eq!(ends.iter().map(PhaseRecord::killed_workers).collect::<Vec<_>>(), [false, true]);
    assert_eq!(journal.records().last().map(PhaseRecord::phase), Some(PhaseKind::StoppedCheckpointed));
}

#[tokio::test(start_paused = true)]
async fn u3_a_worker_between_rehydrate_and_build_is_seen() {
    let (open, fleet, journal) = (open("u3 rehydrated"), Fleet::default(), ScriptedJournal::default());
    {
        let builder = JobContext::builder(&open).journal(journal.clone());
        let (mut job, running) = builder.build(Detached, fleet.clone()).unwrap();
        let _receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
    }
    let found = || rehydrate(open.job(), journal.clone(), fleet.clone(), None, Limits::default());
    let found_stopped = found().await.unwrap().unwrap();
    assert_eq!(found_stopped.phase(), PhaseKind::StoppedKilled);
    fleet.appear(9);
    let unfit = found_stopped.build(Detached).await.unwrap_err();
    assert!(matches!(&unfit, Unfit::StillAlive { alive, .. } if alive[..] == [WorkerId::new(9)]), "{unfit}");

    fleet.stop_workers(open.job(), None, true).await.unwrap();
    let (job, phase) = found().await.unwrap().unwrap().build(Detached).await.unwrap();
    assert_eq!((job.phase(), phase.kind()), (PhaseKind::StoppedKilled, PhaseKind::StoppedKilled));
}
