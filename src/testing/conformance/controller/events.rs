//! Events of workers, and their effects.

use std::time::{Duration, Instant};

use super::{ControllerSubject, takes_checkpoints};
use crate::{
    contracts::{
        Command, Epoch, Event, JobController, Rejection, RunFailure, TaskError, TaskId, WorkerEvent, WorkerId,
    },
    testing::conformance::{
        bench::{Bench, WORKERS, at_all, task},
        suite::{Finding, Outcome, broken, same},
        workers::{rows_of, state_of},
    },
};

fn snapshot(subtask: u32, epoch: Epoch) -> Event {
    let task = task(subtask);
    Event::CheckpointCompleted { task, epoch, snapshot: state_of(task, epoch), commit: rows_of(task, epoch) }
}

fn failed(subtask: u32) -> Event {
    Event::TaskFailed { task: task(subtask), error: TaskError::retryable(format!("failure of {subtask}")) }
}

/// A run in whose final checkpoint no task has reported its state yet; without checkpoints, one
/// that just runs.
async fn collecting<S: ControllerSubject>(subject: &S) -> Result<(Bench<S::Controller>, Epoch), Finding> {
    let mut bench = Bench::start(subject, 1, |_, book, _| book.keep_snapshot.extend((0..6).map(task))).await?;
    if !subject.takes_checkpoints() {
        return Ok((bench, Epoch::new(1)));
    }
    let epoch = bench.begin_final().await?;
    let at_everybody = |command: &Command| matches!(command, Command::Checkpoint { .. });
    bench.until("the checkpoint's order at every worker", |_, book, _| at_all(&book.taken, at_everybody)).await?;
    Ok((bench, epoch))
}

pub(super) async fn foreign_run<S: ControllerSubject>(subject: S) -> Outcome {
    let (mut bench, epoch) = collecting(&subject).await?;
    let task = task(0);
    let events = [
        Event::Heartbeat,
        Event::SourceExhausted { task },
        snapshot(0, epoch),
        Event::CommitCompleted { task, epoch },
        Event::TaskFinished { task },
        failed(0),
        Event::WorkerFinished,
    ];
    for run in [bench.run.next(), crate::contracts::RunId::new(0)] {
        for event in events.clone() {
            let foreign = WorkerEvent { run, ..bench.says(0, event) };
            bench.rejects(&foreign, |rejection| matches!(rejection, Rejection::OtherRun { .. }))?;
        }
    }
    Ok(())
}

pub(super) async fn unknown<S: ControllerSubject>(subject: S) -> Outcome {
    let (mut bench, epoch) = collecting(&subject).await?;
    let stranger = WorkerId::new(99);
    for event in [Event::Heartbeat, snapshot(0, epoch), Event::TaskFinished { task: task(0) }, Event::WorkerFinished] {
        let event = WorkerEvent::new(bench.run, stranger, event);
        bench.rejects(&event, |rejection| matches!(rejection, Rejection::UnknownWorker(_)))?;
    }
    for task in [TaskId::new(0, 6), TaskId::new(9, 0)] {
        let event = bench.says(0, Event::TaskFinished { task });
        bench.rejects(&event, |rejection| matches!(rejection, Rejection::UnknownTask(_)))?;
    }
    for event in [snapshot(0, epoch), Event::TaskFinished { task: task(0) }, failed(0)] {
        let event = WorkerEvent::new(bench.run, WORKERS[1], event);
        bench.rejects(&event, |rejection| matches!(rejection, Rejection::NotItsWorker { .. }))?;
    }
    Ok(())
}

/// The event arrives, and then twice more: whatever the answer, the status stays the same.
fn thrice<C: JobController>(bench: &mut Bench<C>, event: &WorkerEvent) -> Outcome {
    let first = bench.controller.handle(event.clone(), Instant::now());
    first.map_err(|rejection| broken(format_args!("{event:?} to be taken in"), rejection))?;
    again(bench, event)
}

fn again<C: JobController>(bench: &mut Bench<C>, event: &WorkerEvent) -> Outcome {
    let before = bench.controller.status();
    for _ in 0..2 {
        // `Duplicate` or a rejection: both mean that nothing has changed.
        let _ = bench.controller.handle(event.clone(), Instant::now());
        bench.unchanged(before, event)?;
    }
    Ok(())
}

pub(super) async fn duplicates<S: ControllerSubject>(subject: S) -> Outcome {
    if subject.takes_checkpoints() {
        let (mut bench, epoch) = collecting(&subject).await?;
        let events = [(0, Event::SourceExhausted { task: task(0) }), (0, snapshot(0, epoch)), (1, snapshot(1, epoch))];
        for (subtask, event) in events {
            let event = bench.says(subtask, event);
            thrice(&mut bench, &event)?;
        }
        bench.workers.book().keep_commit.extend((0..6).map(task));
        bench.workers.book().keep_snapshot.clear();
        bench.workers.give();
        let is_commit = |command: &Command| matches!(command, Command::Commit { .. });
        bench.until("the commit order at every worker", |_, book, _| at_all(&book.taken, is_commit)).await?;
        let committed = bench.says(1, Event::CommitCompleted { task: task(1), epoch });
        thrice(&mut bench, &committed)?;
        bench.workers.let_go();
        bench.until("every task to finish", |status, _, _| status.all_finished()).await?;
        again(&mut bench, &committed)?;
        let snapshot = bench.says(1, snapshot(1, epoch));
        again(&mut bench, &snapshot)?;
    }
    let mut bench = Bench::start(&subject, 2, |_, _, _| {}).await?;
    let ended = bench.says(0, Event::TaskFinished { task: task(0) });
    thrice(&mut bench, &ended)
}

pub(super) async fn future_epoch<S: ControllerSubject>(subject: S) -> Outcome {
    takes_checkpoints(&subject)?;
    let (mut bench, epoch) = collecting(&subject).await?;
    for later in [epoch.next(), Epoch::new(1_000_000)] {
        for event in [snapshot(1, later), Event::CommitCompleted { task: task(1), epoch: later }] {
            let event = bench.says(1, event);
            bench.rejects(&event, |rejection| matches!(rejection, Rejection::FutureEpoch { .. }))?;
        }
    }
    Ok(())
}

pub(super) async fn first_failure<S: ControllerSubject>(subject: S) -> Outcome {
    let mut bench = Bench::start(&subject, 1, |_, _, _| {}).await?;
    for (subtask, count) in [(0, 1), (1, 2)] {
        let event = bench.says(subtask, failed(subtask));
        // A controller may have closed the run's state by then.
        let _ = bench.controller.handle(event, Instant::now());
        let status = bench.controller.status();
        same("failures and failed tasks", &(status.failures, status.tasks_failed), &(count, count))?;
        match bench.controller.failure() {
            Some(RunFailure::TaskFailed { task: first, .. }) if *first == task(0) => {}
            other => return Err(broken(format_args!("the failure of task {}", task(0)), other)),
        }
    }
    Ok(())
}

pub(super) async fn lost_worker<S: ControllerSubject>(subject: S) -> Outcome {
    if !subject.watches_heartbeats() {
        return Err(Finding::NotApplicable("this controller watches no heartbeats, and says so"));
    }
    // Longer than the heartbeat interval of the real workers, which use the real clock.
    let limit = Duration::from_secs(3600);
    let mut bench = Bench::start(&subject, 1, |limits, _, _| limits.heartbeat = limit).await?;
    let start = Instant::now();
    bench.controller.check_health(start + limit / 2);
    same("no worker lost in half of the limit:", &bench.controller.has_lost_worker(), &false)?;
    let heartbeat = bench.says(0, Event::Heartbeat);
    let heard = bench.controller.handle(heartbeat, start + limit / 2);
    heard.map_err(|rejection| broken("a heartbeat to be taken in", rejection))?;
    bench.controller.check_health(start + limit + limit / 4);
    let lost = bench.controller.status().workers_lost;
    same("this many workers lost (the silent two of three):", &lost, &2)?;
    match bench.controller.failure() {
        Some(failure) if failure.is_lost_worker() && bench.controller.has_lost_worker() => Ok(()),
        other => Err(broken("a failure that says that a worker is lost", other)),
    }
}
