//! Commands, and the resulting orders.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use tokio::time::sleep;

use super::ControllerSubject;
use crate::{
    contracts::{Command, ControllerError, FinalCheckpoint, JobController, WorkerStopMode},
    testing::conformance::{
        bench::{Bench, QUIET, WORKERS, at_all, count, task},
        suite::{Finding, Outcome, broken, same},
    },
};

const fn is_checkpoint(command: &Command) -> bool {
    matches!(command, Command::Checkpoint { .. })
}

const fn is_immediate(command: &Command) -> bool {
    matches!(command, Command::Stop(WorkerStopMode::Immediate))
}

const fn is_graceful(command: &Command) -> bool {
    matches!(command, Command::Stop(WorkerStopMode::Graceful))
}

const fn is_release(command: &Command) -> bool {
    matches!(command, Command::Release)
}

pub(super) async fn begins_quietly<S: ControllerSubject>(subject: S) -> Outcome {
    let mut bench = Bench::start(&subject, 1, |_, _, _| {}).await?;
    if subject.takes_checkpoints() {
        let _ = bench.controller.begin_checkpoint(true);
    }
    bench.controller.begin_stop(WorkerStopMode::Graceful);
    bench.controller.begin_release();
    // `progress` is not polled meanwhile.
    sleep(QUIET).await;
    let begun = bench.workers.book().begun.clone();
    same("sent before `progress` was polled:", &begun, &vec![])
}

/// No worker got an order again that it had accepted. Orders with a lost answer are different.
fn nothing_repeated<C>(bench: &Bench<C>) -> Outcome {
    match bench.workers.book().repeated.first() {
        None => Ok(()),
        Some((worker, command)) => Err(broken(
            format_args!("one {} order to worker {worker}, which had taken it", command.name()),
            format_args!("another one: {command:?}"),
        )),
    }
}

pub(super) async fn idempotent<S: ControllerSubject>(subject: S) -> Outcome {
    if subject.takes_checkpoints() {
        let mut bench = Bench::start(&subject, 1, |_, book, _| book.keep_commit.extend([task(1)])).await?;
        let epoch = bench.begin_final().await?;
        let is_commit = |command: &Command| matches!(command, Command::Commit { .. });
        bench.until("the checkpoint's order at every worker", |_, book, _| at_all(&book.taken, is_checkpoint)).await?;
        same("the epoch of the final checkpoint, asked for again:", &bench.begin_final().await?, &epoch)?;
        bench.until("the commit order at every worker", |_, book, _| at_all(&book.taken, is_commit)).await?;
        same("the epoch of the final checkpoint, asked for again:", &bench.begin_final().await?, &epoch)?;
        bench.quiet().await;
        bench.workers.let_go();
        let complete = FinalCheckpoint::Complete(epoch);
        bench.until("a complete final checkpoint", |status, _, _| status.final_checkpoint == complete).await?;
        same("the epoch of the final checkpoint, asked for again:", &bench.begin_final().await?, &epoch)?;
        bench.quiet().await;
        nothing_repeated(&bench)?;
    }
    let mut bench = Bench::start(&subject, 2, |_, book, _| book.keep_running = true).await?;
    for _ in 0..3 {
        bench.controller.begin_stop(WorkerStopMode::Graceful);
        bench.quiet().await;
    }
    nothing_repeated(&bench)?;
    let mut bench = Bench::start(&subject, 3, |_, _, _| {}).await?;
    bench.controller.begin_stop(WorkerStopMode::Immediate);
    bench.until("every task to finish", |status, _, _| status.all_finished()).await?;
    for _ in 0..3 {
        bench.controller.begin_stop(WorkerStopMode::Immediate);
        bench.quiet().await;
        bench.controller.begin_release();
        bench.quiet().await;
    }
    nothing_repeated(&bench)
}

/// A run in which the second worker refuses every order.
async fn refused<S: ControllerSubject>(subject: &S) -> Result<Bench<S::Controller>, Finding> {
    let mut bench = Bench::start(subject, 1, |_, book, _| {
        book.refusing.extend([WORKERS[1]]);
    })
    .await?;
    bench.controller.begin_stop(WorkerStopMode::Immediate);
    let others = [WORKERS[0], WORKERS[2]];
    bench
        .until("the stop order at every worker, of which one refuses", |_, book, _| {
            count(&book.begun, WORKERS[1], is_immediate) > 0
                && others.iter().all(|worker| count(&book.taken, *worker, is_immediate) > 0)
        })
        .await?;
    Ok(bench)
}

pub(super) async fn sends_again<S: ControllerSubject>(subject: S) -> Outcome {
    let mut bench = refused(&subject).await?;
    bench.quiet().await;
    bench.workers.book().refusing.clear();
    bench.controller.begin_stop(WorkerStopMode::Immediate);
    bench.until("the order again where it had failed", |status, _, _| status.all_finished()).await?;
    nothing_repeated(&bench)
}

pub(super) async fn error_once<S: ControllerSubject>(subject: S) -> Outcome {
    let mut bench = refused(&subject).await?;
    for _ in 0..4 {
        bench.quiet().await;
    }
    match &bench.errors[..] {
        [_] => Ok(()),
        other => Err(broken("one error of `progress` that says who refused", other)
            .advise("give an error back once, when all retries have failed, and keep it nowhere")),
    }
}

pub(super) async fn independence<S: ControllerSubject>(subject: S) -> Outcome {
    for (run, silent) in (1..).zip(WORKERS) {
        let mut bench = Bench::start(&subject, run, |_, book, _| {
            book.silent.extend([silent]);
        })
        .await?;
        bench.controller.begin_stop(WorkerStopMode::Immediate);
        let mut others = WORKERS.into_iter().filter(|worker| *worker != silent);
        let (Some(one), Some(other)) = (others.next(), others.next()) else { continue };
        let what = format!("the stop order at workers {one} and {other} while worker {silent} does not answer");
        let is_there = |taken: &[_], worker| count(taken, worker, is_immediate) > 0;
        bench.until(&what, |_, book, _| is_there(&book.taken, one) && is_there(&book.taken, other)).await?;
    }
    Ok(())
}

pub(super) async fn cancel_safe<S: ControllerSubject>(subject: S) -> Outcome {
    let mut bench = Bench::start(&subject, 1, |_, book, _| book.slow = true).await?;
    bench.controller.begin_stop(WorkerStopMode::Immediate);
    bench
        .until_impatiently("every task to finish, with `progress` dropped all the time", |it, _, _| it.all_finished())
        .await?;
    for worker in WORKERS {
        let begun = count(&bench.workers.book().begun, worker, is_immediate);
        same(&format!("this many orders to worker {worker}, begun and not started over:"), &begun, &1)?;
    }
    Ok(())
}

/// `progress` may sometimes report a change when there is none, but not all the time.
pub(super) async fn idle<S: ControllerSubject>(subject: S) -> Outcome {
    const AT_MOST: usize = 100;
    let mut bench = Bench::start(&subject, 1, |_, _, _| {}).await?;
    bench.quiet().await;
    for _ in 0..AT_MOST {
        let progress = pin!(bench.controller.progress());
        if poll_once(progress).is_none() {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
    Err(broken("`progress` to stay pending", format_args!("ready {AT_MOST} times on end, with nothing to do"))
        .advise("a phase asks again at once: it would spin"))
}

fn poll_once<F: Future<Output = Result<(), ControllerError>>>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

pub(super) async fn stop<S: ControllerSubject>(subject: S) -> Outcome {
    for (run, mode) in [(1, WorkerStopMode::Graceful), (2, WorkerStopMode::Immediate)] {
        let mut bench = Bench::start(&subject, run, |_, _, _| {}).await?;
        bench.controller.begin_stop(mode);
        let what = format!("every task to finish after the {} order", Command::Stop(mode).name());
        bench.until(&what, |status, book, _| at_all(&book.taken, is_stop) && status.all_finished()).await?;
        let book = bench.workers.book();
        if let Some(other) = book.taken.iter().find(|(_, command)| is_stop(command) && *command != Command::Stop(mode))
        {
            return Err(broken(format_args!("only orders for a {}", Command::Stop(mode).name()), other));
        }
    }
    Ok(())
}

const fn is_stop(command: &Command) -> bool {
    matches!(command, Command::Stop(_))
}

pub(super) async fn stronger_stop<S: ControllerSubject>(subject: S) -> Outcome {
    let mut bench = Bench::start(&subject, 1, |_, book, _| book.keep_running = true).await?;
    bench.controller.begin_stop(WorkerStopMode::Graceful);
    bench.until("a stop order at every worker", |_, book, _| at_all(&book.taken, is_stop)).await?;
    bench.controller.begin_stop(WorkerStopMode::Immediate);
    bench.until("the stronger order at every worker", |_, book, _| at_all(&book.taken, is_immediate)).await?;
    let before = bench.workers.book().begun.len();
    bench.controller.begin_stop(WorkerStopMode::Graceful);
    bench.quiet().await;
    let book = bench.workers.book();
    match book.begun[before..].iter().find(|(_, command)| is_graceful(command)) {
        Some(order) => Err(broken("no weaker order after the stronger", order)),
        None => Ok(()),
    }
}

pub(super) async fn release<S: ControllerSubject>(subject: S) -> Outcome {
    let mut bench = Bench::start(&subject, 1, |_, _, _| {}).await?;
    bench.controller.begin_stop(WorkerStopMode::Immediate);
    bench.until("every task to finish", |status, _, _| status.all_finished()).await?;
    bench.controller.begin_release();
    bench.until("the release at every worker", |_, book, _| at_all(&book.taken, is_release)).await
}
