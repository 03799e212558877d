//! Drives a controller in a check, as a phase does, but without the phases.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{
    controller::{ControllerSubject, RunSetup},
    suite::{Finding, Outcome, broken, same},
    vault::Vault,
    workers::{Book, Workers},
};
use crate::{
    contracts::{
        CheckpointStart, Command, ControllerError, Epoch, Event, JobController, OpenRun, Rejection, Role, RunId,
        RunStatus, StopRequest, TaskId, Topology, WorkerEvent, WorkerId,
    },
    limits::Limits,
    mailbox::{Incoming, Mailbox},
};

pub(super) const WORKERS: [WorkerId; 3] = [WorkerId::new(1), WorkerId::new(2), WorkerId::new(3)];
/// How long to wait for a controller to do something forbidden.
pub(super) const QUIET: Duration = Duration::from_millis(150);
/// How often the state outside of the controller is checked.
const TICK: Duration = Duration::from_millis(5);

/// A run with its controller; two tasks on each of three workers.
pub(super) struct Bench<C> {
    pub(super) controller: C,
    pub(super) workers: Workers,
    pub(super) vault: Arc<Vault>,
    pub(super) run: RunId,
    mailbox: Mailbox,
    /// The errors that `progress` has returned.
    pub(super) errors: Vec<ControllerError>,
    /// For a condition that must come true.
    patience: Duration,
}

pub(super) fn task(subtask: u32) -> TaskId {
    TaskId::new(0, subtask)
}

pub(super) fn worker_of(subtask: u32) -> WorkerId {
    WORKERS[subtask as usize % WORKERS.len()]
}

pub(super) fn topology() -> Result<Arc<Topology>, Finding> {
    let topology = Topology::builder().operator("conformance", Role::Source, (0..6).map(worker_of)).build();
    topology.map(Arc::new).map_err(|error| broken("a topology", error))
}

impl<C: JobController> Bench<C> {
    /// Starts a run. `change` sets the differences from an undisturbed run.
    pub(super) async fn start<S>(
        subject: &S,
        run: u64,
        change: impl FnOnce(&mut Limits, &mut Book, &Vault),
    ) -> Result<Self, Finding>
    where
        S: ControllerSubject<Controller = C>,
    {
        let (run, topology) = (RunId::new(run), topology()?);
        let (mailbox, vault) = (Mailbox::new(4096), Arc::new(Vault::new(run)));
        let workers = Workers::new(run, Arc::clone(&topology), mailbox.sender());
        // A worker that does not answer stays silent until the end of the check, so that a
        // controller that waits for it is detected.
        let mut limits = Limits { checkpoint_every: None, order: S::LIMIT, order_retries: 0, ..Limits::default() };
        change(&mut limits, &mut workers.book(), &vault);
        let setup = RunSetup {
            open: OpenRun::without_store("conformance", run),
            topology,
            workers: workers.clone(),
            events: mailbox.sender(),
            store: Arc::clone(&vault) as _,
            limits,
        };
        let controller = subject.start(setup).await;
        Ok(Self { controller, workers, vault, run, mailbox, errors: vec![], patience: S::LIMIT / 2 })
    }

    /// Does what a phase does until the condition is true. The error says what it waited for in
    /// vain.
    pub(super) async fn until(&mut self, what: &str, is_so: impl Fn(&RunStatus, &Book, &Vault) -> bool) -> Outcome {
        self.go_on(what, false, is_so).await
    }

    /// The same, with `progress` dropped all the time.
    pub(super) async fn until_impatiently(
        &mut self,
        what: &str,
        is_so: impl Fn(&RunStatus, &Book, &Vault) -> bool,
    ) -> Outcome {
        self.go_on(what, true, is_so).await
    }

    async fn go_on(
        &mut self,
        what: &str,
        is_impatient: bool,
        is_so: impl Fn(&RunStatus, &Book, &Vault) -> bool,
    ) -> Outcome {
        if timeout(self.patience, self.work(is_impatient, is_so)).await.is_ok() {
            return Ok(());
        }
        let mut got = format!("{:?}", self.controller.status());
        for error in &self.errors {
            got.push_str("; error: ");
            got.push_str(&error.to_string());
        }
        Err(broken(what, format_args!("{got}")))
    }

    async fn work(&mut self, is_impatient: bool, is_so: impl Fn(&RunStatus, &Book, &Vault) -> bool) {
        loop {
            while let Some(event) = self.mailbox.try_recv() {
                self.take(event);
            }
            let status = self.controller.status();
            if is_so(&status, &self.workers.book(), &self.vault) {
                return;
            }
            let (event, error) = {
                let mut progress = pin!(self.controller.progress());
                loop {
                    // A controller that always makes progress must not stop the clock.
                    tokio::task::yield_now().await;
                    tokio::select! {
                        result = &mut progress => break (None, result.err()),
                        incoming = self.mailbox.next(Some(StopRequest::Force)) => break (Some(incoming), None),
                        () = sleep(TICK) => {
                            if is_impatient || is_so(&status, &self.workers.book(), &self.vault) {
                                break (None, None);
                            }
                        }
                    }
                }
            };
            self.errors.extend(error);
            if let Some(Incoming::Worker(event)) = event {
                self.take(event);
            }
        }
    }

    fn take(&mut self, event: WorkerEvent) {
        // Rejected events do not matter here.
        let _ = self.controller.handle(event, Instant::now());
    }

    /// Does what a phase does for a while, in which nothing forbidden may happen.
    pub(super) async fn quiet(&mut self) {
        // The condition never becomes true.
        let _ = timeout(QUIET, self.work(false, |_, _, _| false)).await;
    }

    /// Starts the final checkpoint, and returns its epoch.
    pub(super) async fn begin_final(&mut self) -> Result<Epoch, Finding> {
        loop {
            match self.controller.begin_checkpoint(true) {
                Ok(CheckpointStart::Started(epoch) | CheckpointStart::AlreadyStarted(epoch)) => return Ok(epoch),
                Ok(CheckpointStart::Busy(_)) => self.quiet().await,
                Err(error) => return Err(broken("the final checkpoint to start", format_args!("error: {error}"))),
            }
        }
    }

    /// An event of a worker of this run, now.
    pub(super) fn says(&self, subtask: u32, event: Event) -> WorkerEvent {
        WorkerEvent::new(self.run, worker_of(subtask), event)
    }

    /// The event must be rejected, and nothing may have changed.
    pub(super) fn rejects(&mut self, event: &WorkerEvent, is: impl Fn(Rejection) -> bool) -> Outcome {
        let before = self.controller.status();
        match self.controller.handle(event.clone(), Instant::now()) {
            Err(rejection) if is(rejection) => self.unchanged(before, event),
            other => Err(broken(format_args!("{event:?} to be rejected for what it is"), other)),
        }
    }

    /// The status is the same as before the event, and the event is not a failure.
    pub(super) fn unchanged(&self, before: RunStatus, event: &WorkerEvent) -> Outcome {
        same(&format!("after {event:?}"), &self.controller.status(), &before)?;
        match self.controller.failure() {
            None => Ok(()),
            Some(failure) => Err(broken(format_args!("no failure after {event:?}"), failure)),
        }
    }
}

/// How often such an order has arrived at the worker.
pub(super) fn count(orders: &[(WorkerId, Command)], worker: WorkerId, is: impl Fn(&Command) -> bool) -> usize {
    orders.iter().filter(|(to, command)| *to == worker && is(command)).count()
}

/// Whether such an order has arrived at every worker.
pub(super) fn at_all(orders: &[(WorkerId, Command)], is: impl Fn(&Command) -> bool + Copy) -> bool {
    WORKERS.iter().all(|worker| count(orders, *worker, is) > 0)
}
