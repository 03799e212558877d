//! Runs checks concurrently, each on its own thread and runtime, so that a subject that blocks,
//! hangs or panics breaks a rule and not the test program.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, mpsc},
    task::Poll,
    thread,
    time::Duration,
};

use futures_util::future::poll_fn;
use tokio::{
    sync::{
        mpsc::{UnboundedSender, unbounded_channel as mpsc_channel},
        oneshot,
    },
    task::JoinError,
    time::{Instant, sleep},
};

use super::{
    report::{Breach, Report, Verdict},
    rule::{Contract, Rule},
};

/// The default time limit of one rule. With the time that late starters wait, a suite in which
/// every rule is broken ends within a minute.
pub(super) const LIMIT: Duration = Duration::from_secs(40);
/// The number of concurrent checks. A subject may start processes, and checks that compete for
/// resources find false violations.
const AT_WORK: usize = 4;
/// A check that has taken this long is mostly waiting, so it does not keep others from starting.
const BREATH: Duration = Duration::from_secs(2);
/// How often to check whether a check has ended, while it may.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long the runtime of a check may take to end. After that it is abandoned.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Why a check failed.
#[derive(Debug)]
pub(super) enum Finding {
    Broken { expected: String, got: String, advice: Option<&'static str> },
    NotApplicable(&'static str),
    NotChecked(&'static str),
}

pub(super) type Outcome = Result<(), Finding>;

/// What the rule demands, and what was seen.
pub(super) fn broken(expected: impl fmt::Display, got: impl fmt::Debug) -> Finding {
    Finding::Broken { expected: expected.to_string(), got: format!("{got:?}"), advice: None }
}

impl Finding {
    /// Where to begin.
    pub(super) fn advise(self, advice: &'static str) -> Self {
        match self {
            Self::Broken { expected, got, .. } => Self::Broken { expected, got, advice: Some(advice) },
            other => other,
        }
    }
}

/// Requires that `got` equals `expected`; `what` names it.
pub(super) fn same<T: PartialEq + fmt::Debug>(what: &str, got: &T, expected: &T) -> Outcome {
    if got == expected { Ok(()) } else { Err(broken(format_args!("{what} {expected:?}"), got)) }
}

/// Requires that a call is `Ok`.
pub(super) fn ok<T, E: fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, Finding> {
    result.map_err(|error| Finding::Broken {
        expected: format!("Ok from {what}"),
        got: format!("error: {error}"),
        advice: None,
    })
}

/// The result of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a check that goes on without it would show nothing"]
pub enum Hook {
    /// Done.
    Done,
    /// The subject does not support it: the rules that need it are reported as not checked.
    Unsupported,
}

impl Hook {
    pub(super) fn needed(self, what: &'static str) -> Outcome {
        match self {
            Self::Done => Ok(()),
            Self::Unsupported => Err(Finding::NotChecked(what)),
        }
    }
}

/// A suite: the source of its subjects, and the checks to run on them.
pub(super) struct Suite<M> {
    contract: Contract,
    make: Arc<M>,
    limit: Duration,
    checks: Vec<(Rule, Check)>,
}

/// A check that has not started.
type Check = Box<dyn FnOnce() -> oneshot::Receiver<Outcome> + Send>;

impl<M: Send + Sync + 'static> Suite<M> {
    pub(super) fn new(contract: Contract, make: M, limit: Duration) -> Self {
        Self { contract, make: Arc::new(make), limit, checks: Vec::new() }
    }

    /// Adds a rule to be checked on a fresh subject.
    pub(super) fn check<S, C>(&mut self, rule: Rule, check: C)
    where
        M: AsyncFn() -> S,
        C: AsyncFnOnce(S) -> Outcome + Send + 'static,
    {
        let (make, limit) = (Arc::clone(&self.make), self.limit);
        self.checks.push((rule, Box::new(move || apart(limit, async move || check(make().await).await))));
    }

    /// Checks all rules concurrently. It takes no longer than the limit of one and a [`BREATH`] for
    /// each [`AT_WORK`] of them.
    pub(super) async fn report(self) -> Report {
        let (rules, checks): (Vec<_>, Vec<_>) = self.checks.into_iter().unzip();
        let mut findings: Vec<_> = rules.iter().map(|_| Err(broken("a thread for the check", "none"))).collect();
        // This thread starts them, because the caller's clock may be paused, or its only thread
        // busy.
        let (tell, mut told) = mpsc_channel();
        thread::spawn(move || start_in_turn(checks, &tell));
        while let Some((at, outcome)) = told.recv().await {
            findings[at] = outcome;
        }
        let mut report = Report::new(self.contract);
        for (rule, outcome) in rules.into_iter().zip(findings) {
            report.note(rule, verdict(outcome));
        }
        report
    }
}

/// Starts the checks in order, as soon as there is room, and reports the result of each.
fn start_in_turn(checks: Vec<Check>, tell: &UnboundedSender<(usize, Outcome)>) {
    let (make_room, room) = mpsc::channel();
    for (at, check) in checks.into_iter().enumerate() {
        if at >= AT_WORK {
            // Both ends are here, so it never fails.
            let _ = room.recv();
        }
        let (mut outcome, make_room, tell) = (check(), make_room.clone(), tell.clone());
        thread::spawn(move || {
            let deadline = std::time::Instant::now() + BREATH;
            let mut early = None;
            while early.is_none() && std::time::Instant::now() < deadline {
                thread::sleep(LOOK_EVERY);
                early = outcome.try_recv().ok();
            }
            // There is no receiver if all have started, or if the test was dropped.
            let _ = make_room.send(());
            let outcome = early.unwrap_or_else(|| {
                outcome.blocking_recv().unwrap_or_else(|_| Err(broken("a thread for the check", "none")))
            });
            let _ = tell.send((at, outcome));
        });
    }
}

fn verdict(outcome: Outcome) -> Verdict {
    match outcome {
        Ok(()) => Verdict::Kept,
        Err(Finding::NotApplicable(reason)) => Verdict::NotApplicable { reason: reason.into() },
        Err(Finding::NotChecked(reason)) => Verdict::NotChecked { reason: reason.into() },
        Err(Finding::Broken { expected, got, advice }) => {
            let advice = advice.unwrap_or("look at the call that the expectation names").into();
            Verdict::Broken(Breach { expected, got, advice })
        }
    }
}

/// Runs a check on another thread, for at most `limit`.
fn apart<C>(limit: Duration, check: C) -> oneshot::Receiver<Outcome>
where
    C: AsyncFnOnce() -> Outcome + Send + 'static,
{
    let (tell, told) = oneshot::channel();
    thread::spawn(move || {
        let (end, ended) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return end.send(Err(broken("a runtime for the check", error))),
            };
            let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(check())));
            let outcome = outcome.unwrap_or_else(|panic| Err(panicked(&*panic)));
            let sent = end.send(outcome);
            runtime.shutdown_timeout(SHUTDOWN);
            sent
        });
        let outcome = ended.recv_timeout(limit).unwrap_or_else(|_| {
            Err(broken(format_args!("an answer within {limit:?}"), "none")
                .advise("a call hangs or blocks its thread: put a deadline around what it waits for"))
        });
        // There is no receiver if the test was dropped.
        let _ = tell.send(outcome);
    });
    told
}

fn panicked(panic: &(dyn Any + Send)) -> Finding {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    broken("no panic", format_args!("the subject panicked: {message}"))
        .advise("return an error instead; if it was the subject's own set-up that failed, mend that")
}

/// The outcome of a task of a check.
pub(super) fn joined<T>(task: Result<Result<T, Finding>, JoinError>) -> Result<T, Finding> {
    task.map_err(|error| broken("no panic", error))?
}

/// Polls a call a few times and drops it, as a phase does at its deadline. Returns whether it was
/// cut off.
pub(super) async fn cut_off(call: impl Future, polls: usize) -> bool {
    let mut call = pin!(call);
    for _ in 0..polls {
        if poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await.is_ready() {
            return false;
        }
        sleep(Duration::from_millis(1)).await;
    }
    true
}

/// Waits for the condition for half of the rule's time limit; the other half is for reporting what
/// it waited for.
pub(super) async fn eventually(
    limit: Duration,
    mut is_so: impl AsyncFnMut() -> Result<bool, Finding>,
) -> Result<bool, Finding> {
    let deadline = Instant::now() + limit / 2;
    while !is_so().await? {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(true)
}
