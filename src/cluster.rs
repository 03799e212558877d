//! One [`JobController`] for every transport: the [model](crate::model) of a run, and around it
//! fan-out, deadlines, retries, publication and periodic checkpoints.
//!
//! All work in progress is stored in the controller, not in the future that
//! [`progress`](JobController::progress) returns, so a caller may drop that future at any time
//! (invariant I10). Each order to each worker is a separate future with its own timeout and
//! retries, so no worker waits for another (invariant I9).

mod courier;
mod fan_out;
mod periodic;
mod publication;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use self::{courier::Courier, fan_out::FanOut, periodic::Periodic, publication::Publication};
use crate::{
    contracts::{
        Applied, Awaited, CheckpointStart, Command, ControllerError, DynCheckpointStore, Event, Holdups, JobController,
        JobId, OpenRun, OtherRun, Rejection, RunFailure, RunStatus, Topology, Transport, WorkerEvent, WorkerId,
        WorkerStopMode,
    },
    limits::Limits,
    model::{Action, RunModel},
};

/// Talks to the workers of one run over any [`Transport`].
///
/// - An order goes to all workers at once. Each has [`Limits::order`] for its answer and its own
///   [`Limits::order_retries`] retries, with exponential backoff and jitter. When all have settled
///   and some have failed, [`progress`](JobController::progress) returns one
///   [`OrderReport`](crate::contracts::OrderReport), once; repeating the command sends it only to
///   those workers.
/// - A newer command replaces the older one of its kind, whose unanswered orders are dropped: an
///   immediate stop replaces a graceful one, a stop replaces a checkpoint, the release replaces a
///   stop. Orders to workers that have left, are lost, or have no task left to obey are dropped,
///   too: they would only delay the end.
/// - A manifest is durable before the first commit order is sent. One attempt to publish it may
///   take six times [`Limits::order`], because a publication needs several round trips to the
///   store.
/// - Periodic checkpoints start [`Limits::checkpoint_every`] after the end of the previous one,
///   until the final one, a stop or the release is requested. One that takes longer than
///   [`Limits::final_checkpoint`], whose orders fail for good, or whose manifest can't be published
///   is abandoned.
///
/// It needs tokio's time driver as soon as [`progress`](JobController::progress) is polled.
pub struct ClusterController<T: Transport + ?Sized> {
    model: RunModel,
    courier: Courier<T>,
    store: Option<Arc<dyn DynCheckpointStore>>,
    limits: Limits,
    /// The newest of checkpoint, stop and release. One slot, because a newer one replaces an older
    /// one.
    orders: Option<FanOut>,
    /// Separate from `orders`, because a durable checkpoint continues to collect commits while a
    /// stop is sent.
    commits: Option<FanOut>,
    publication: Option<Publication>,
    periodic: Periodic,
    /// What the run waits for, since when, and when a task last gave it.
    awaited: (Awaited, Instant, Option<Instant>),
    /// The model's revision with which the fields above are in sync.
    settled: u64,
}

/// Builds a [`ClusterController`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct ClusterBuilder<T: Transport + ?Sized> {
    open: OpenRun,
    model: RunModel,
    courier: Courier<T>,
    store: Option<Arc<dyn DynCheckpointStore>>,
    limits: Limits,
}

impl<T: Transport + ?Sized> ClusterController<T> {
    /// Starts to build the controller of a run whose workers are reached over `transport`. The time
    /// limits of the workers' heartbeats start now.
    ///
    /// `open` contains the starting point of the run: epochs continue after the last complete
    /// checkpoint, a task that ends without a snapshot keeps the one that it started from, and in a
    /// run that continues after a crash, the final checkpoint keeps its number.
    pub fn builder(open: &OpenRun, topology: impl Into<Arc<Topology>>, transport: Arc<T>) -> ClusterBuilder<T> {
        let limits = Limits::default();
        let mut model = RunModel::new(topology.into(), open.run(), limits.heartbeat, None, now());
        model.open(open);
        let courier = Courier::new(transport, open.job().clone(), open.run(), &limits);
        ClusterBuilder { open: open.clone(), model, courier, store: None, limits }
    }

    /// The job.
    pub fn job(&self) -> &JobId {
        self.courier.job()
    }

    /// The model of the run: its topology, counters and the next heartbeat deadline.
    pub fn model(&self) -> &RunModel {
        &self.model
    }
}

impl<T: Transport + ?Sized> ClusterBuilder<T> {
    /// Replaces the default [`Limits`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.courier.set_limits(&limits);
        self.model.set_heartbeat(limits.heartbeat);
        self.limits = limits;
        self
    }

    /// Sets the store in which manifests become durable. Without one, no checkpoint can be taken.
    pub fn store(mut self, store: Arc<dyn DynCheckpointStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Orders the commits of the checkpoint that this run starts from again, before any checkpoint
    /// of this run: for workers that do not carry them out by themselves when they start, such as
    /// Arroyo's.
    ///
    /// Use it only if the previous run may have ended before its commits were carried out: after a
    /// crash, a kill, or a stop in the middle of a checkpoint ([`RunStatus::last_complete`] was
    /// before the manifest's epoch). After `Stopped<Checkpointed>` they have been, and some sinks
    /// can't handle a second order.
    pub fn commit_again(mut self) -> Self {
        if let Some(manifest) = self.open.manifest() {
            self.model.commit_again(manifest);
        }
        self
    }

    /// The controller. It sends nothing until [`progress`](JobController::progress) is polled.
    pub fn build(self) -> ClusterController<T> {
        let Self { model, courier, store, limits, .. } = self;
        let every = limits.checkpoint_every.filter(|_| store.is_some());
        let mut controller = ClusterController {
            settled: model.revision(),
            awaited: (model.awaited(), now(), None),
            periodic: Periodic::new(every, limits.final_checkpoint),
            model,
            courier,
            store,
            limits,
            orders: None,
            commits: None,
            publication: None,
        };
        controller.settle();
        controller
    }
}

#[diagnostic::do_not_recommend]
impl<T: Transport + ?Sized> JobController for ClusterController<T> {
    fn is_for(&self, open: &OpenRun) -> Result<(), OtherRun> {
        open.check(self.job(), self.model.run())?;
        self.courier.transport().is_for(open)
    }

    fn status(&self) -> RunStatus {
        let outstanding = [&self.orders, &self.commits].into_iter().flatten().map(FanOut::outstanding).sum::<usize>();
        RunStatus { orders_outstanding: u32::try_from(outstanding).unwrap_or(u32::MAX), ..self.model.status() }
    }

    fn failure(&self) -> Option<&RunFailure> {
        self.model.failure()
    }

    fn latest_failure(&self) -> Option<&RunFailure> {
        self.model.latest_failure()
    }

    fn waits_for(&self) -> Vec<WorkerId> {
        self.model.waits_for()
    }

    fn lost_workers(&self) -> Vec<WorkerId> {
        self.model.lost_workers()
    }

    fn holdups(&self) -> Holdups {
        let mut holdups = self.model.holdups();
        let (_, since, progressed) = self.awaited;
        (holdups.since, holdups.progressed) = (Some(since), progressed);
        let mut orders: Vec<_> =
            [&self.orders, &self.commits].into_iter().flatten().flat_map(FanOut::late_orders).collect();
        orders.sort_by_key(|order| (std::cmp::Reverse(order.failed), order.since, order.worker));
        holdups.late_orders = u32::try_from(orders.len()).unwrap_or(u32::MAX);
        orders.truncate(Holdups::LISTED);
        holdups.orders = orders;
        holdups.store = self.publication.as_ref().and_then(Publication::late);
        holdups
    }

    fn handle(&mut self, event: WorkerEvent, now: Instant) -> Result<Applied, Rejection> {
        let worker = event.worker;
        let is_answer = !matches!(event.event, Event::Heartbeat | Event::NonfatalError { .. });
        let may_end_worker = matches!(
            event.event,
            Event::TaskFinished { .. }
                | Event::TaskFailed { .. }
                | Event::ChainFinished { .. }
                | Event::ChainFailed { .. }
                | Event::WorkerFinished
        );
        let outcome = self.model.handle(event, now);
        if is_answer && outcome == Ok(Applied::Changed) {
            self.awaited.2 = Some(now);
        }
        match outcome {
            Ok(Applied::Changed) if may_end_worker => {
                for fan_out in [&mut self.orders, &mut self.commits].into_iter().flatten() {
                    fan_out.drop_moot(worker, &self.model);
                }
            }
            Ok(_) => {}
            Err(rejection) => {
                tracing::debug!(job = %self.job(), run = %self.model.run(), %worker, %rejection, "event rejected");
            }
        }
        self.settle_if_revised();
        outcome
    }

    fn check_health(&mut self, now: Instant) {
        self.model.check_health(now);
        self.settle_if_revised();
    }

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        if self.store.is_none() {
            return Err(ControllerError::NoCheckpoint(
                "there is no checkpoint store that could make its manifest durable; give `ClusterController::builder` one"
                    .into(),
            ));
        }
        let start = self.model.begin_checkpoint(then_stop);
        self.settle_if_revised();
        if let Ok(CheckpointStart::AlreadyStarted(_)) = start {
            self.repeat_checkpoint();
        }
        start
    }

    fn begin_stop(&mut self, mode: WorkerStopMode) {
        self.give(&Command::Stop(mode), |model| model.begin_stop(mode));
    }

    fn begin_release(&mut self) {
        self.give(&Command::Release, RunModel::begin_release);
    }

    async fn progress(&mut self) -> Result<(), ControllerError> {
        poll_fn(|cx| self.poll_progress(cx)).await
    }
}

impl<T: Transport + ?Sized> ClusterController<T> {
    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ControllerError>> {
        let mut changed = self.poll_publication(cx);
        for fan_out in [&mut self.orders, &mut self.commits].into_iter().flatten() {
            changed |= fan_out.poll(cx);
        }
        changed |= self.poll_periodic(cx);
        while let Some((error, of_checkpoint)) = self.take_store_error().or_else(|| self.take_report()) {
            changed = true;
            if self.has_failed(&error, of_checkpoint) {
                return Poll::Ready(Err(error));
            }
        }
        if changed { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_publication(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(publication) = &mut self.publication else { return false };
        if !publication.poll(cx) {
            return false;
        }
        if publication.is_durable() {
            let epoch = publication.epoch();
            tracing::debug!(job = %self.job(), run = %self.model.run(), %epoch, "manifest published");
            self.model.published(epoch);
            self.settle();
        }
        true
    }

    fn poll_periodic(&mut self, cx: &mut Context<'_>) -> bool {
        if self.periodic.poll(cx).is_pending() {
            return false;
        }
        if let Some(epoch) = self.model.periodic() {
            tracing::warn!(job = %self.job(), run = %self.model.run(), %epoch, "periodic checkpoint abandoned: too slow");
            self.model.abandon(epoch);
        } else if let Err(error) = self.model.begin_checkpoint(false) {
            tracing::debug!(job = %self.job(), run = %self.model.run(), %error, "no periodic checkpoint");
        }
        self.settle();
        true
    }

    /// Whether an error concerns the current command, so that it is returned. An error of a
    /// periodic checkpoint only ends that checkpoint: the next one starts afresh, and a final one
    /// need not wait for it. A checkpoint that a stop has overtaken may fail.
    fn has_failed(&mut self, error: &ControllerError, of_checkpoint: bool) -> bool {
        let (job, run) = (self.courier.job(), self.model.run());
        tracing::warn!(%job, %run, %error, "the controller could not carry out what it was told");
        if !of_checkpoint {
            return true;
        }
        let Some(epoch) = self.model.periodic() else { return !self.model.is_over() };
        tracing::warn!(%job, %run, %epoch, "periodic checkpoint abandoned");
        self.model.abandon(epoch);
        self.settle();
        self.model.may_start_periodic()
    }

    fn take_store_error(&mut self) -> Option<(ControllerError, bool)> {
        let error = self.publication.as_mut()?.take_error()?;
        if !error.is_retryable() {
            // Fenced, or the store is not as expected: a retry after some time would not help.
            self.periodic.stop();
        }
        Some((ControllerError::Store(error), true))
    }

    fn take_report(&mut self) -> Option<(ControllerError, bool)> {
        let mut fan_outs = [&mut self.orders, &mut self.commits].into_iter().flatten();
        let (report, of_checkpoint) =
            fan_outs.find_map(|fan_out| Some((fan_out.take_report()?, fan_out.is_of_checkpoint())))?;
        Some((ControllerError::Orders(Box::new(report)), of_checkpoint))
    }

    /// Gives a command to the model; if it is a repetition, the failed orders are resent.
    fn give(&mut self, command: &Command, to: impl FnOnce(&mut RunModel)) {
        to(&mut self.model);
        if self.settled != self.model.revision() {
            self.settle();
        } else if let Some(orders) = self.orders.as_mut().filter(|orders| orders.name() == command.name()) {
            orders.send_again(&self.courier, &self.model);
        }
    }

    /// Resends what has failed of the final checkpoint.
    fn repeat_checkpoint(&mut self) {
        for fan_out in [&mut self.orders, &mut self.commits].into_iter().flatten() {
            if fan_out.is_of_checkpoint() {
                fan_out.send_again(&self.courier, &self.model);
            }
        }
        self.start_publication();
    }

    fn settle_if_revised(&mut self) {
        if self.settled != self.model.revision() {
            self.settle();
        }
    }

    /// Syncs the work in progress with the model: drops what is no longer needed, and starts what
    /// is requested.
    fn settle(&mut self) {
        self.settled = self.model.revision();
        if self.awaited.0 != self.model.awaited() {
            self.awaited = (self.model.awaited(), now(), None);
        }
        while let Some(action) = self.model.poll_action() {
            match action {
                Action::Send { command, workers } => {
                    let orders = workers.into_iter().map(|worker| (worker, command.clone())).collect();
                    self.orders = Some(self.fan_out(command.name(), orders));
                }
                Action::Commit { orders } => self.commits = Some(self.fan_out("commit", orders)),
                Action::Publish(epoch) => {
                    self.publication = self.model.manifest(self.courier.job()).map(|it| Publication::new(epoch, it));
                    self.start_publication();
                }
            }
        }
        for fan_out in [&mut self.orders, &mut self.commits].into_iter().flatten() {
            fan_out.drop_all_moot(&self.model);
        }
        self.publication.take_if(|publication| !self.model.is_publishing(publication.epoch()));
        self.periodic.settle(&self.model);
    }

    fn fan_out(&self, name: &'static str, orders: Vec<(WorkerId, Command)>) -> FanOut {
        let (job, run) = (self.courier.job(), self.model.run());
        tracing::debug!(%job, %run, order = name, workers = orders.len(), "sending");
        FanOut::new(name, orders, &self.courier)
    }

    fn start_publication(&mut self) {
        if let (Some(publication), Some(store)) = (&mut self.publication, &self.store) {
            publication.start(store, self.limits.order);
        }
    }
}

impl<T: Transport + ?Sized> fmt::Debug for ClusterController<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterController")
            .field("job", self.job())
            .field("run", &self.model.run())
            .field("status", &self.status())
            .field("failure", &self.failure())
            .finish_non_exhaustive()
    }
}

impl<T: Transport + ?Sized> fmt::Debug for ClusterBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterBuilder")
            .field("job", self.courier.job())
            .field("run", &self.model.run())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Tokio's clock, so that a paused one works.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
