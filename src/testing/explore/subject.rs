//! The subject of an exploration: ours by default, or a user's own controller.

use std::sync::Arc;

use super::collaborators::Simulated;
use crate::{
    cluster::ClusterController,
    contracts::{JobController, OpenRun, Scheduler, StopRequest, Topology},
    limits::Limits,
    machine::Journal,
    mailbox::JobSender,
};

/// The parts from which a controller is built.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The run, or the continued run after a crash.
    pub open: OpenRun,
    /// Two workers, three tasks.
    pub topology: Arc<Topology>,
    /// The transport and the checkpoint store.
    pub world: Simulated,
    /// Small limits.
    pub limits: Limits,
}

/// The subject of an exploration. The methods build the parts that a user may write from the
/// simulated ones; the phases, [`drive`](crate::drive::drive) and
/// [`rehydrate`](crate::drive::rehydrate) are always the real ones.
pub trait Subject: Sync {
    /// The controller.
    type Controller: JobController;
    /// The scheduler.
    type Scheduler: Scheduler;
    /// The journal.
    type Journal: Journal + 'static;

    /// A controller for a run that starts, or that continues after a crash.
    fn controller(&self, setup: Setup) -> Self::Controller;

    /// The scheduler. It may wrap the simulated one, but must pass all calls on to it.
    fn scheduler(&self, world: Simulated) -> Self::Scheduler;

    /// The journal.
    fn journal(&self, world: Simulated) -> Self::Journal;

    /// Sends a stop request to the job.
    fn request(&self, job: &JobSender, request: StopRequest) {
        // The job exists while this is called; an equal or stronger request in effect is fine, too.
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
