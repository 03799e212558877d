//! [`JobController`] behind a pointer, for jobs of different kinds in one program.

use std::time::Instant;

use super::{
    Applied, BoxFuture, CheckpointStart, ControllerError, Holdups, JobController, OpenRun, OtherRun, Rejection,
    RunFailure, RunStatus, WorkerEvent, WorkerId, WorkerStopMode,
};

/// The dyn-safe form of [`JobController`], implemented for every controller. Use it through
/// [`BoxController`].
pub trait DynJobController: Send {
    /// [`JobController::is_for`].
    ///
    /// # Errors
    /// [`OtherRun`] when it was made for another run.
    fn is_for_dyn(&self, open: &OpenRun) -> Result<(), OtherRun>;
    /// [`JobController::status`].
    fn status_dyn(&self) -> RunStatus;
    /// [`JobController::failure`].
    fn failure_dyn(&self) -> Option<&RunFailure>;
    /// [`JobController::latest_failure`].
    fn latest_failure_dyn(&self) -> Option<&RunFailure>;
    /// [`JobController::waits_for`].
    fn waits_for_dyn(&self) -> Vec<WorkerId>;
    /// [`JobController::lost_workers`].
    fn lost_workers_dyn(&self) -> Vec<WorkerId>;
    /// [`JobController::holdups`].
    fn holdups_dyn(&self) -> Holdups;
    /// [`JobController::has_lost_worker`].
    fn has_lost_worker_dyn(&self) -> bool;
    /// [`JobController::handle`].
    ///
    /// # Errors
    /// As there.
    fn handle_dyn(&mut self, event: WorkerEvent, now: Instant) -> Result<Applied, Rejection>;
    /// [`JobController::check_health`].
    fn check_health_dyn(&mut self, now: Instant);
    /// [`JobController::begin_checkpoint`].
    ///
    /// # Errors
    /// As there.
    fn begin_checkpoint_dyn(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError>;
    /// [`JobController::begin_stop`].
    fn begin_stop_dyn(&mut self, mode: WorkerStopMode);
    /// [`JobController::begin_release`].
    fn begin_release_dyn(&mut self);
    /// [`JobController::progress`], boxed.
    fn progress_boxed(&mut self) -> BoxFuture<'_, Result<(), ControllerError>>;
}

impl<C: JobController> DynJobController for C {
    fn is_for_dyn(&self, open: &OpenRun) -> Result<(), OtherRun> {
        self.is_for(open)
    }

    fn status_dyn(&self) -> RunStatus {
        self.status()
    }

    fn failure_dyn(&self) -> Option<&RunFailure> {
        self.failure()
    }

    fn latest_failure_dyn(&self) -> Option<&RunFailure> {
        self.latest_failure()
    }

    fn waits_for_dyn(&self) -> Vec<WorkerId> {
        self.waits_for()
    }

    fn lost_workers_dyn(&self) -> Vec<WorkerId> {
        self.lost_workers()
    }

    fn holdups_dyn(&self) -> Holdups {
        self.holdups()
    }

    fn has_lost_worker_dyn(&self) -> bool {
        self.has_lost_worker()
    }

    fn handle_dyn(&mut self, event: WorkerEvent, now: Instant) -> Result<Applied, Rejection> {
        self.handle(event, now)
    }

    fn check_health_dyn(&mut self, now: Instant) {
        self.check_health(now);
    }

    fn begin_checkpoint_dyn(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        self.begin_checkpoint(then_stop)
    }

    fn begin_stop_dyn(&mut self, mode: WorkerStopMode) {
        self.begin_stop(mode);
    }

    fn begin_release_dyn(&mut self) {
        self.begin_release();
    }

    fn progress_boxed(&mut self) -> BoxFuture<'_, Result<(), ControllerError>> {
        Box::pin(self.progress())
    }
}

/// Any controller, chosen at run time: `let controller: BoxController = Box::new(my_controller);`
///
/// With it and [`BoxScheduler`](super::BoxScheduler), jobs with different controllers and
/// schedulers have the same type. Each call of [`progress`](JobController::progress) allocates.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use winddown::prelude::*;
/// use winddown::{EmbeddedCluster, Mailbox};
/// use winddown::contracts::{BoxController, BoxScheduler, WorkerStopMode};
/// use winddown::testing::scripted::{Does, ScriptedController, ScriptedScheduler, Told};
///
/// let embedded = EmbeddedCluster::default();
/// let (open, mailbox) = (OpenRun::without_store("words", RunId::new(1)), Mailbox::new(64));
/// let topology = Topology::builder().operator("source", Role::Source, [WorkerId::new(1)]).build()?;
/// let workers = embedded.start(&open, &topology, mailbox.sender(), |mut ctx| async move {
///     while !matches!(ctx.order().await, TaskOrder::Stop(_)) {}
///     Ok(())
/// })?;
/// let clustered: BoxController =
///     Box::new(ClusterController::builder(&open, topology, Arc::new(workers)).build());
///
/// let scripted = ScriptedController::new(2);
/// scripted.on(Told::Stop(WorkerStopMode::Immediate), std::time::Duration::ZERO, Does::Finish);
/// let scripted: BoxController = Box::new(scripted);
///
/// let hosts: [BoxScheduler; 2] = [Arc::new(embedded), Arc::new(ScriptedScheduler::new([1, 2]))];
/// let [embedded, away] = hosts;
/// let mut jobs: Vec<(JobContext<BoxController, BoxScheduler>, Running)> = vec![
///     JobContext::builder(&open).mailbox(mailbox).build(clustered, embedded)?,
///     JobContext::new(&OpenRun::without_store("clicks", RunId::new(7)), scripted, away)?,
/// ];
/// for (mut job, running) in jobs.drain(..) {
///     job.sender().request(StopRequest::Immediate)?;
///     println!("{}", drive(running, &mut job, &Policy::escalate()).await?);
/// }
/// # Ok(())
/// # }
/// ```
pub type BoxController = Box<dyn DynJobController>;

#[diagnostic::do_not_recommend]
impl JobController for BoxController {
    fn is_for(&self, open: &OpenRun) -> Result<(), OtherRun> {
        (**self).is_for_dyn(open)
    }

    fn status(&self) -> RunStatus {
        (**self).status_dyn()
    }

    fn failure(&self) -> Option<&RunFailure> {
        (**self).failure_dyn()
    }

    fn latest_failure(&self) -> Option<&RunFailure> {
        (**self).latest_failure_dyn()
    }

    fn waits_for(&self) -> Vec<WorkerId> {
        (**self).waits_for_dyn()
    }

    fn lost_workers(&self) -> Vec<WorkerId> {
        (**self).lost_workers_dyn()
    }

    fn holdups(&self) -> Holdups {
        (**self).holdups_dyn()
    }

    fn has_lost_worker(&self) -> bool {
        (**self).has_lost_worker_dyn()
    }

    fn handle(&mut self, event: WorkerEvent, now: Instant) -> Result<Applied, Rejection> {
        (**self).handle_dyn(event, now)
    }

    fn check_health(&mut self, now: Instant) {
        (**self).check_health_dyn(now);
    }

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        (**self).begin_checkpoint_dyn(then_stop)
    }

    fn begin_stop(&mut self, mode: WorkerStopMode) {
        (**self).begin_stop_dyn(mode);
    }

    fn begin_release(&mut self) {
        (**self).begin_release_dyn();
    }

    async fn progress(&mut self) -> Result<(), ControllerError> {
        (**self).progress_boxed().await
    }
}
