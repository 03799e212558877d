//! The machine written in the two usual ways: a hand-written enum with `match`, and boxed states
//! with `async_trait`. Both keep the books that ours keeps (the time and the way of each phase, its
//! deadline, the stop request in force, live progress, a log line) and refuse the steps that ours
//! does not compile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use winddown::grpc::tonic::async_trait;

/// How far a job has come, for whoever watches.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) phase: &'static str,
    pub(super) since: Instant,
    pub(super) deadline: Option<Instant>,
    /// The strongest stop request so far; 0 for none.
    pub(super) requested: u8,
}

/// What both ways keep for each job.
pub(super) struct Context {
    pub(super) id: String,
    pub(super) run: u64,
    walked: Vec<(&'static str, Instant)>,
    requested: Arc<AtomicU8>,
    progress: watch::Sender<Progress>,
}

impl Context {
    pub(super) fn new(id: &str, run: u64) -> Self {
        let since = Instant::now();
        let mut walked = Vec::with_capacity(7);
        walked.push(("Running", since));
        let progress = watch::Sender::new(Progress { phase: "Running", since, deadline: None, requested: 0 });
        Self { id: id.to_owned(), run, walked, requested: Arc::default(), progress }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn enter(&mut self, from: &'static str, to: &'static str, budget: Option<Duration>, why: &'static str) {
        let since = Instant::now();
        self.walked.push((to, since));
        let requested = self.requested.load(Ordering::Acquire);
        self.progress.send_modify(|progress| {
            progress.phase = to;
            progress.since = since;
            progress.requested = requested;
            progress.deadline = budget.and_then(|budget| since.checked_add(budget));
        });
        tracing::info!(job = %self.id, run = self.run, from, to, "{why}");
    }
}

/// What makes a job go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    SourcesDone,
    Force,
}

/// The walk that is measured: its steps are only transitions. Other steps record a stop request, or
/// ask the controller.
pub(super) const WALK: [Signal; 2] = [Signal::SourcesDone, Signal::Force];

/// A step that the machine does not have.
#[derive(Debug, thiserror::Error)]
#[error("illegal transition from {from} on {signal:?}")]
pub(super) struct Illegal {
    from: &'static str,
    signal: Signal,
}

const FINAL: Duration = Duration::from_secs(600);

/// The hand-written enum. Only the phases of the walk are here: more would make it slower, not
/// faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Finishing,
    StoppingForce,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Finishing => "Finishing",
            Self::StoppingForce => "Stopping<Force>",
        }
    }

    pub(super) fn step(self, signal: Signal, context: &mut Context) -> Result<Self, Illegal> {
        let (to, budget, why) = match (self, signal) {
            (Self::Running, Signal::SourcesDone) => (Self::Finishing, Some(FINAL), "all sources have completed"),
            (Self::Running | Self::Finishing, Signal::Force) => (Self::StoppingForce, None, "a force request"),
            (from, signal) => return Err(Illegal { from: from.name(), signal }),
        };
        context.enter(self.name(), to.name(), budget, why);
        Ok(to)
    }
}

/// A boxed state, as the original has it: a step gives the next box.
#[async_trait]
pub(super) trait State: Send {
    fn name(&self) -> &'static str;

    async fn next(self: Box<Self>, signal: Signal, context: &mut Context) -> Result<Box<dyn State>, Illegal>;
}

macro_rules! states {
    ($($from:ident, $name:literal { $($signal:ident => $to:ident, $budget:expr, $why:literal;)* })+) => { $(
        pub(super) struct $from {
            _entered: Instant,
        }

        #[async_trait]
        #[allow(unused_variables, unreachable_patterns, reason = "one state takes every signal, and the last one none")]
        impl State for $from {
            fn name(&self) -> &'static str {
                $name
            }

            async fn next(self: Box<Self>, signal: Signal, context: &mut Context) -> Result<Box<dyn State>, Illegal> {
                match signal {
                    $( Signal::$signal => {
                        let next = Box::new($to { _entered: Instant::now() });
                        context.enter($name, next.name(), $budget, $why);
                        Ok(next)
                    } )*
                    signal => Err(Illegal { from: $name, signal }),
                }
            }
        }
    )+ };
}

states! {
    Running, "Running" {
        SourcesDone => Finishing, Some(FINAL), "all sources have completed";
        Force => StoppingForce, None, "a force request";
    }
    Finishing, "Finishing" {
        Force => StoppingForce, None, "a force request";
    }
    StoppingForce, "Stopping<Force>" {}
}

/// The first box.
pub(super) fn running() -> Box<dyn State> {
    Box::new(Running { _entered: Instant::now() })
}
