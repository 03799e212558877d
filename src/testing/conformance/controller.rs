//! The rules of a [`JobController`].

mod checkpoints;
mod events;
mod orders;

use std::{sync::Arc, time::Duration};

use super::{
    report::Report,
    rule::{Contract, Rule},
    suite::{Finding, LIMIT, Outcome, Suite},
    transport::TransportRun,
    workers::Workers,
};
use crate::{
    contracts::{DynCheckpointStore, JobController, OpenRun, Topology},
    limits::Limits,
    mailbox::JobSender,
};

/// The input of a controller for one run, with six tasks on three workers.
#[derive(Clone)]
#[non_exhaustive]
pub struct RunSetup {
    /// Its names and its starting point.
    pub open: OpenRun,
    /// Its tasks and workers.
    pub topology: Arc<Topology>,
    /// The workers, which accept and answer orders. There may be real ones behind them, see
    /// [`Workers::around`].
    pub workers: Workers,
    /// The destination for events of real workers. The check passes them to the controller, as a
    /// phase does.
    pub events: JobSender,
    /// Where manifests become durable.
    pub store: Arc<dyn DynCheckpointStore>,
    /// Its limits.
    pub limits: Limits,
}

impl RunSetup {
    /// The part that a transport and its workers need.
    pub fn transport(&self) -> TransportRun {
        let Self { open, topology, workers, events, .. } = self.clone();
        TransportRun { open, topology, workers, events }
    }
}

/// Creates the controllers on which a [`JobController`] is checked. Dropping it may end what it has
/// started.
pub trait ControllerSubject: 'static {
    /// The controller.
    type Controller: JobController;

    /// The time limit of one rule. A check that takes longer has found a call that does not answer.
    const LIMIT: Duration = LIMIT;

    /// Returns the controller of this run, whose workers are running. A check may start several
    /// runs, each newer than the previous one.
    fn start(&self, run: RunSetup) -> impl Future<Output = Self::Controller>;

    /// Whether it takes checkpoints at all. If not, the rules about them do not apply.
    fn takes_checkpoints(&self) -> bool {
        true
    }

    /// Whether workers that have been silent for [`Limits::heartbeat`] count as lost. If it finds
    /// out in another way, that rule does not apply.
    fn watches_heartbeats(&self) -> bool {
        true
    }
}

/// Checks a [`JobController`]. `make` creates a subject; it is called once for each rule.
///
/// [`Detached`](crate::contracts::Detached) can't be a subject: it is the absence of a controller,
/// and no method of this contract compiles on it.
///
/// # Cancel safety
/// The current check continues to its end or its limit, on its own thread.
pub async fn controller<S: ControllerSubject>(make: impl AsyncFn() -> S + Send + Sync + 'static) -> Report {
    let mut suite = Suite::new(Contract::Controller, make, S::LIMIT);
    suite.check(Rule::ControllerForeignRun, events::foreign_run);
    suite.check(Rule::ControllerUnknown, events::unknown);
    suite.check(Rule::ControllerDuplicates, events::duplicates);
    suite.check(Rule::ControllerFutureEpoch, events::future_epoch);
    suite.check(Rule::ControllerFinalCompletes, checkpoints::final_completes);
    suite.check(Rule::ControllerNeedsEveryTask, checkpoints::needs_every_task);
    suite.check(Rule::ControllerNeedsDurable, checkpoints::needs_durable);
    suite.check(Rule::ControllerNeedsCommits, checkpoints::needs_commits);
    suite.check(Rule::ControllerBeginsQuietly, orders::begins_quietly);
    suite.check(Rule::ControllerIdempotent, orders::idempotent);
    suite.check(Rule::ControllerSendsAgain, orders::sends_again);
    suite.check(Rule::ControllerErrorOnce, orders::error_once);
    suite.check(Rule::ControllerTellsStore, checkpoints::tells_store);
    suite.check(Rule::ControllerIndependence, orders::independence);
    suite.check(Rule::ControllerCancelSafe, orders::cancel_safe);
    suite.check(Rule::ControllerIdle, orders::idle);
    suite.check(Rule::ControllerStop, orders::stop);
    suite.check(Rule::ControllerStrongerStop, orders::stronger_stop);
    suite.check(Rule::ControllerNoneAfterStop, checkpoints::none_after_stop);
    suite.check(Rule::ControllerNoneAfterFinal, checkpoints::none_after_final);
    suite.check(Rule::ControllerRelease, orders::release);
    suite.check(Rule::ControllerFirstFailure, events::first_failure);
    suite.check(Rule::ControllerLostWorker, events::lost_worker);
    suite.report().await
}

fn takes_checkpoints<S: ControllerSubject>(subject: &S) -> Outcome {
    if subject.takes_checkpoints() {
        Ok(())
    } else {
        Err(Finding::NotApplicable("this controller takes no checkpoints, and says so"))
    }
}
