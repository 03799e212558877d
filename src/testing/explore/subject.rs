//! What is explored: ours by default, or a user's own controller.

use std::sync::Arc;

use super::collaborators::Simulated;
use crate::{
    cluster::ClusterController,
    contracts::{JobController, OpenRun, Scheduler, StopRequest, Topology},
    limits::Limits,
    machine::Journal,
    mailbox::JobSender,
};

/// What a controller is built from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The run, or the run as it is taken up after a crash.
    pub open: OpenRun,
    /// Two workers, three tasks.
    pub topology: Arc<Topology>,
    /// The transport and the checkpoint store.
    pub world: Simulated,
    /// Small limits.
    pub limits: Limits,
}

/// What is explored. The methods say how the parts that a user may write are made of the simulated ones; the phases,
/// [`drive`](crate::drive::drive) and [`rehydrate`](crate::drive::rehydrate) are always the real ones.
pub trait Subject: Sync {
    /// The controller.
    type Controller: JobController;
    /// The scheduler.
    type Scheduler: Scheduler;
    /// The journal.
    type Journal: Journal + 'static;

    /// A controller for a run that starts, or that is taken up after a crash.
    fn controller(&self, setup: Setup) -> Self::Controller;

    /// The scheduler. It may wrap the simulated one, and must not hide from it what it is told.
    fn scheduler(&self, world: Simulated) -> Self::Scheduler;

    /// The journal.
    fn journal(&self, world: Simulated) -> Self::Journal;

    /// How a stop request reaches the job.
    fn request(&self, job: &JobSender, request: StopRequest) {
        // The job is there for as long as it is asked; an equal or stronger request in force is as good.
        let _ = job.request(request);
    }
}

/// The [`ClusterController`].
#[derive(Clone, Copy, Debug, Default)]
pub struct OurController;

impl OurController {
    /// It, as the explorer builds it.
    pub fn build<T: crate::contracts::Transport>(setup: Setup, transport: T) -> ClusterController<T> {
        let Setup { open, topology, world, limits } = setup;
        let builder = ClusterController::builder(&open, topology, Arc::new(transport));
        let builder = builder.limits(limits);
        if world.has_store() { builder.store(Arc::new(world)).build() } else { builder.build() }
    }
}

impl Subject for OurController {
    type Controller = ClusterController<Simulated>;
    type Scheduler = Simulated;
    type Journal = Simulated;

    fn controller(&self, setup: Setup) -> Self::Controller {
        let transport = setup.world.clone();
        Self::build(setup, transport)
    }

    fn scheduler(&self, world: Simulated) -> Simulated {
        world
    }

    fn journal(&self, world: Simulated) -> Simulated {
        world
    }
}
