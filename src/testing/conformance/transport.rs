//! The rules of a [`Transport`] and its workers.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    bench::{QUIET, WORKERS, task, topology},
    report::Report,
    rule::{Contract, Rule},
    suite::{Finding, Hook, LIMIT, Outcome, Suite, broken, cut_off, ok},
    workers::{Workers, rows_of},
};
use crate::{
    contracts::{
        Command, Epoch, Event, OpenRun, Order, OrderError, OrderErrorKind, RunId, StopRequest, TaskCommit, Topology,
        Transport, WorkerId, WorkerStopMode,
    },
    mailbox::{Incoming, JobSender, Mailbox},
};

/// A run with its workers: six tasks on three workers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportRun {
    /// Its names.
    pub open: OpenRun,
    /// Its tasks and workers.
    pub topology: Arc<Topology>,
    /// The behaviour of the tasks: use `Workers::task` (feature `worker`) as their code, or pass
    /// the orders that arrive at a worker to the `send` of [`Workers`].
    pub workers: Workers,
    /// The destination of the workers' events.
    pub events: JobSender,
}

/// Creates the transports and workers on which a [`Transport`] is checked. Dropping it may end what
/// it has started.
pub trait TransportSubject: 'static {
    /// The transport.
    type Transport: Transport;

    /// The time limit of one rule. A check that takes longer has found a call that does not answer.
    const LIMIT: Duration = LIMIT;

    /// Starts the workers of this run, and returns the transport once they are running.
    fn start(&self, run: TransportRun) -> impl Future<Output = Self::Transport>;

    /// Makes the worker unresponsive, although it is alive.
    fn freeze(&self, worker: WorkerId) -> impl Future<Output = Hook> {
        let _ = worker;
        async { Hook::Unsupported }
    }
}

/// Checks a [`Transport`]. `make` creates a subject; it is called once for each rule.
///
/// # Cancel safety
/// The current check continues to its end or its limit, on its own thread.
pub async fn transport<S: TransportSubject>(make: impl AsyncFn() -> S + Send + Sync + 'static) -> Report {
    let mut suite = Suite::new(Contract::Transport, make, S::LIMIT);
    suite.check(Rule::TransportTakesIn, takes_in);
    suite.check(Rule::TransportAnswersAgain, answers_again);
    suite.check(Rule::TransportForeignRun, foreign_run);
    suite.check(Rule::TransportUnknownWorker, unknown_worker);
    suite.check(Rule::TransportEnded, ended);
    suite.check(Rule::TransportIndependence, independence);
    suite.check(Rule::TransportCancelSafe, cancel_safe);
    suite.report().await
}

const RUN: RunId = RunId::new(7);
/// The worker that gets the orders, and its tasks: one with nothing to commit, and one with commit
/// data.
const FIRST: WorkerId = WORKERS[0];
const MINE: [u32; 2] = [0, 3];

/// A transport at work.
struct Line<S: TransportSubject> {
    subject: S,
    transport: S::Transport,
    mailbox: Mailbox,
}

impl<S: TransportSubject> Line<S> {
    async fn start(subject: S) -> Result<Self, Finding> {
        let (topology, mailbox) = (topology()?, Mailbox::new(4096));
        let workers = Workers::new(RUN, Arc::clone(&topology), mailbox.sender());
        let open = OpenRun::without_store("conformance", RUN);
        let run = TransportRun { open, topology, workers, events: mailbox.sender() };
        let transport = subject.start(run).await;
        Ok(Self { subject, transport, mailbox })
    }

    async fn try_send(&self, run: RunId, worker: WorkerId, command: Command) -> Result<(), OrderError> {
        self.transport.send(worker, Order { run, command }).await
    }

    async fn send(&self, command: Command) -> Outcome {
        let what = format!("the {} order", command.name());
        ok(&what, self.try_send(RUN, FIRST, command).await)
    }

    /// Waits until each of these has been reported again.
    async fn hears(&mut self, what: &str, mut expected: Vec<Event>) -> Outcome {
        let listen = async {
            while !expected.is_empty() {
                if let Incoming::Worker(said) = self.mailbox.next(Some(StopRequest::Force)).await
                    && said.run == RUN
                    && said.worker == FIRST
                {
                    expected.retain(|event| !is_like(event, &said.event));
                }
            }
        };
        if timeout(S::LIMIT / 2, listen).await.is_ok() {
            return Ok(());
        }
        Err(broken(format_args!("{expected:?} after {what}"), "silence"))
    }

    /// For a while no task may end.
    async fn nothing_ends(&mut self, after: &str) -> Outcome {
        let listen = async {
            loop {
                if let Incoming::Worker(said) = self.mailbox.next(Some(StopRequest::Force)).await
                    && let Event::TaskFinished { .. } | Event::TaskFailed { .. } = said.event
                {
                    return said;
                }
            }
        };
        match timeout(QUIET, listen).await {
            Ok(said) => Err(broken(format_args!("nothing to end after {after}"), said)),
            Err(_) => Ok(()),
        }
    }
}

/// The same kind of event, of the same task and checkpoint. The content of a snapshot is covered by
/// the rules of controllers.
fn is_like(expected: &Event, said: &Event) -> bool {
    match (expected, said) {
        (Event::CheckpointCompleted { task, epoch, .. }, Event::CheckpointCompleted { task: said, epoch: of, .. }) => {
            (task, epoch) == (said, of)
        }
        _ => expected == said,
    }
}

fn given(epoch: Epoch) -> Vec<Event> {
    let event = |task| Event::CheckpointCompleted { task, epoch, snapshot: "".into(), commit: None };
    MINE.map(task).map(event).to_vec()
}

fn finished() -> Vec<Event> {
    MINE.map(task).map(|task| Event::TaskFinished { task }).to_vec()
}

fn checkpoint(epoch: Epoch) -> Command {
    Command::Checkpoint { epoch, then_stop: false }
}

fn commit(epoch: Epoch) -> Command {
    let mine = MINE.map(task).into_iter();
    let tasks = mine.filter_map(|task| Some(TaskCommit { task, data: rows_of(task, epoch)? })).collect();
    Command::Commit { epoch, tasks }
}

const IMMEDIATE: Command = Command::Stop(WorkerStopMode::Immediate);

async fn takes_in<S: TransportSubject>(subject: S) -> Outcome {
    let mut line = Line::start(subject).await?;
    let epoch = Epoch::new(1);
    line.send(checkpoint(epoch)).await?;
    line.hears("the checkpoint order", given(epoch)).await?;
    line.send(commit(epoch)).await?;
    line.hears("the commit order", vec![Event::CommitCompleted { task: task(3), epoch }]).await?;
    line.send(IMMEDIATE).await?;
    line.hears("the stop order", finished()).await?;
    line.send(Command::Release).await?;
    line.hears("the release", vec![Event::WorkerFinished]).await
}

async fn answers_again<S: TransportSubject>(subject: S) -> Outcome {
    let mut line = Line::start(subject).await?;
    let epoch = Epoch::new(1);
    for _ in 0..3 {
        line.send(checkpoint(epoch)).await?;
        line.hears("the checkpoint order, again if it was answered", given(epoch)).await?;
    }
    for _ in 0..3 {
        line.send(commit(epoch)).await?;
        let committed = vec![Event::CommitCompleted { task: task(3), epoch }];
        line.hears("the commit order, again if it was answered", committed).await?;
    }
    Ok(())
}

async fn foreign_run<S: TransportSubject>(subject: S) -> Outcome {
    let mut line = Line::start(subject).await?;
    for run in [RUN.next(), RunId::new(RUN.get() - 1)] {
        match line.try_send(run, FIRST, IMMEDIATE).await {
            Err(error) if error.kind == OrderErrorKind::Rejected => {}
            other => {
                return Err(broken(
                    format_args!("an order of run {run} to be `Rejected` by a worker of run {RUN}"),
                    other,
                ));
            }
        }
        line.nothing_ends("an order of another run").await?;
    }
    Ok(())
}

async fn unknown_worker<S: TransportSubject>(subject: S) -> Outcome {
    let mut line = Line::start(subject).await?;
    let stranger = WorkerId::new(99);
    if let Ok(()) = line.try_send(RUN, stranger, IMMEDIATE).await {
        return Err(broken(format_args!("an error for an order to worker {stranger}, which does not exist"), "Ok"));
    }
    line.nothing_ends("an order to a worker that does not exist").await
}

async fn ended<S: TransportSubject>(subject: S) -> Outcome {
    let mut line = Line::start(subject).await?;
    line.send(IMMEDIATE).await?;
    line.hears("the stop order", finished()).await?;
    for command in [IMMEDIATE, Command::Stop(WorkerStopMode::Graceful)] {
        match line.try_send(RUN, FIRST, command).await {
            Ok(()) => line.hears("a stop order to a worker whose tasks have ended", finished()).await?,
            Err(error) if error.kind == OrderErrorKind::NotRunning => {}
            Err(error) => return Err(broken("Ok or `NotRunning` from a worker whose tasks have ended", error)),
        }
    }
    Ok(())
}

async fn independence<S: TransportSubject>(subject: S) -> Outcome {
    let line = Line::start(subject).await?;
    for frozen in WORKERS {
        line.subject.freeze(frozen).await.needed("needs `TransportSubject::freeze`")?;
        let Some(next) = WORKERS.into_iter().find(|worker| *worker > frozen) else { break };
        let mut waiting = pin!(line.try_send(RUN, frozen, checkpoint(Epoch::new(1))));
        let sent = timeout(S::LIMIT / 2, async {
            let mut sending = pin!(line.try_send(RUN, next, checkpoint(Epoch::new(1))));
            tokio::select! {
                biased;
                // It may find out in time that the frozen one does not answer.
                _ = &mut waiting => sending.await,
                sent = &mut sending => sent,
            }
        });
        match sent.await {
            Ok(sent) => ok(&format!("an order to worker {next} while worker {frozen} does not answer"), sent)?,
            Err(_) => {
                return Err(broken(
                    format_args!("an answer of worker {next} while worker {frozen} does not answer"),
                    "none",
                ));
            }
        }
    }
    Ok(())
}

async fn cancel_safe<S: TransportSubject>(subject: S) -> Outcome {
    let mut line = Line::start(subject).await?;
    for (epoch, polls) in (1..).map(Epoch::new).zip(0..8) {
        cut_off(line.try_send(RUN, FIRST, checkpoint(epoch)), polls).await;
        line.send(checkpoint(epoch)).await?;
        line.hears("an order that was dropped and sent again", given(epoch)).await?;
    }
    Ok(())
}
