//! The completion of checkpoints, and when none is taken.

use std::time::Duration;

use super::{ControllerSubject, takes_checkpoints};
use crate::{
    contracts::{CheckpointStart, Command, Epoch, FinalCheckpoint, JobController, RunStatus, WorkerStopMode},
    testing::conformance::{
        bench::{Bench, at_all, task},
        suite::{Outcome, broken, same},
        workers::{rows_of, state_of},
    },
};

const fn is_complete(status: &RunStatus) -> bool {
    matches!(status.final_checkpoint, FinalCheckpoint::Complete(_))
}

const fn is_commit(command: &Command) -> bool {
    matches!(command, Command::Commit { .. })
}

fn not_complete(status: &RunStatus, because: &str) -> Outcome {
    if is_complete(status) {
        return Err(broken(format_args!("no complete final checkpoint while {because}"), status.final_checkpoint)
            .advise("`Stopped<Checkpointed>` rests on this: count what has come in, not what was ordered"));
    }
    Ok(())
}

async fn completes<C: JobController>(bench: &mut Bench<C>) -> Outcome {
    bench
        .until("a complete final checkpoint, and every task finished", |it, _, _| is_complete(it) && it.all_finished())
        .await
}

pub(super) async fn final_completes<S: ControllerSubject>(subject: S) -> Outcome {
    takes_checkpoints(&subject)?;
    let mut bench = Bench::start(&subject, 1, |_, _, _| {}).await?;
    let epoch = bench.begin_final().await?;
    completes(&mut bench).await?;
    let status = bench.controller.status();
    same("the final checkpoint", &status.final_checkpoint, &FinalCheckpoint::Complete(epoch))?;
    same("the last complete checkpoint", &status.last_complete, &Some(epoch))?;

    bench.until("a durable manifest", |_, _, vault| !vault.durable().is_empty()).await?;
    let Some(mut manifest) = bench.vault.durable().pop() else { return Err(broken("a manifest", "none")) };
    same(
        "the manifest's run, epoch and kind",
        &(manifest.run, manifest.epoch, manifest.then_stop),
        &(bench.run, epoch, true),
    )?;
    manifest.tasks.sort_by_key(|task| task.task);
    let given: Vec<_> = manifest.tasks.into_iter().map(|it| (it.task, it.snapshot, it.commit, it.finished)).collect();
    let expected: Vec<_> = (0..6).map(task).map(|it| (it, state_of(it, epoch), rows_of(it, epoch), false)).collect();
    same("in the manifest", &given, &expected)?;

    let committed: Vec<_> = bench.workers.book().commits.clone().into_iter().collect();
    let rows = (0..6).map(task).filter_map(|task| Some(((epoch, task), rows_of(task, epoch)?)));
    same("committed", &committed, &rows.collect())
}

pub(super) async fn needs_every_task<S: ControllerSubject>(subject: S) -> Outcome {
    takes_checkpoints(&subject)?;
    let mut bench = Bench::start(&subject, 1, |_, book, _| book.keep_snapshot.extend([task(5)])).await?;
    bench.begin_final().await?;
    bench.until("five of six tasks to give their state", |_, book, _| book.given == 5).await?;
    bench.quiet().await;
    not_complete(&bench.controller.status(), "the state of a task is missing")?;
    same("nothing published while the state of a task is missing:", &bench.vault.begun(), &0)?;
    bench.workers.let_go();
    completes(&mut bench).await
}

pub(super) async fn needs_durable<S: ControllerSubject>(subject: S) -> Outcome {
    takes_checkpoints(&subject)?;
    let mut bench = Bench::start(&subject, 1, |_, _, vault| vault.close()).await?;
    bench.begin_final().await?;
    bench.until("the manifest to be published", |_, _, vault| vault.begun() > 0).await?;
    bench.quiet().await;
    not_complete(&bench.controller.status(), "its manifest is not durable")?;
    let commits = bench.workers.book().begun.iter().filter(|(_, command)| is_commit(command)).count();
    same("this many commit orders while the manifest is not durable:", &commits, &0)?;
    bench.vault.open();
    completes(&mut bench).await
}

/// The store reports that a newer run has taken the job over: the controller must notice that, and
/// report it.
pub(super) async fn tells_store<S: ControllerSubject>(subject: S) -> Outcome {
    takes_checkpoints(&subject)?;
    let mut bench = Bench::start(&subject, 1, |_, _, vault| vault.fence()).await?;
    bench.begin_final().await?;
    bench.until("the manifest to be published", |_, _, vault| vault.begun() > 0).await?;
    for _ in 0..3 {
        bench.quiet().await;
    }
    match &bench.errors[..] {
        [error] if error.is_fenced() => Ok(()),
        other => Err(broken("one error of `progress` that says `Fenced`", other)
            .advise("pass the store's error on as `ControllerError::Store`: who drives the job stops it then")),
    }
}

pub(super) async fn needs_commits<S: ControllerSubject>(subject: S) -> Outcome {
    takes_checkpoints(&subject)?;
    let mut bench = Bench::start(&subject, 1, |_, book, _| book.keep_commit.extend([task(1)])).await?;
    bench.begin_final().await?;
    bench.until("the commit order at every worker", |_, book, _| at_all(&book.taken, is_commit)).await?;
    bench.quiet().await;
    not_complete(&bench.controller.status(), "a commit is not acknowledged")?;
    bench.workers.let_go();
    completes(&mut bench).await
}

/// None is started now, and none later by the timer.
async fn none_is_started<C: JobController>(bench: &mut Bench<C>, then_stop: bool, after: &str) -> Outcome {
    let before = bench.workers.book().begun.len();
    let started = bench.controller.begin_checkpoint(then_stop);
    if let Ok(CheckpointStart::Started(epoch)) = started {
        return Err(broken(format_args!("no checkpoint to be started after {after}"), epoch));
    }
    bench.quiet().await;
    let book = bench.workers.book();
    let checkpoints = book.begun[before..].iter().find(|(_, command)| matches!(command, Command::Checkpoint { .. }));
    match checkpoints {
        Some(order) => Err(broken(format_args!("no order for a checkpoint after {after}"), order)),
        None => Ok(()),
    }
}

pub(super) async fn none_after_stop<S: ControllerSubject>(subject: S) -> Outcome {
    takes_checkpoints(&subject)?;
    let mut bench = Bench::start(&subject, 1, |limits, book, _| {
        limits.checkpoint_every = Some(Duration::from_millis(20));
        book.keep_running = true;
    })
    .await?;
    bench.controller.begin_stop(WorkerStopMode::Graceful);
    let is_stop = |command: &Command| matches!(command, Command::Stop(_));
    bench.until("the stop order at every worker", |_, book, _| at_all(&book.taken, is_stop)).await?;
    for then_stop in [false, true] {
        none_is_started(&mut bench, then_stop, "a stop").await?;
    }
    Ok(())
}

pub(super) async fn none_after_final<S: ControllerSubject>(subject: S) -> Outcome {
    takes_checkpoints(&subject)?;
    let mut bench = Bench::start(&subject, 1, |limits, book, _| {
        limits.checkpoint_every = Some(Duration::from_millis(20));
        book.keep_snapshot.extend((0..6).map(task));
    })
    .await?;
    let epoch: Epoch = bench.begin_final().await?;
    let is_final = |command: &Command| *command == Command::Checkpoint { epoch, then_stop: true };
    bench.until("the final checkpoint's order at every worker", |_, book, _| at_all(&book.taken, is_final)).await?;
    none_is_started(&mut bench, false, "the final one was asked for").await
}
