//! Workers in this process.

use std::sync::Arc;

use winddown::{EmbeddedCluster, embedded::EmbeddedRun, worker::WorkerOptions};

use super::{NewRun, Runtime};
use crate::{meter::Meter, run_loop::JobError};

/// The embedded cluster.
pub(crate) struct Embedded {
    cluster: EmbeddedCluster,
    meter: Arc<Meter>,
}

impl Embedded {
    pub(crate) fn new(workers: u32) -> Self {
        Self { cluster: EmbeddedCluster::new(WorkerOptions::default()), meter: Meter::new(workers) }
    }
}

impl Runtime for Embedded {
    type Transport = EmbeddedRun;
    type Scheduler = EmbeddedCluster;
    type Hold = ();

    async fn start(&self, new: NewRun<'_>) -> Result<(Arc<EmbeddedRun>, ()), JobError> {
        let tasks = new.workload.start(new.open.manifest().map(|manifest| manifest.epoch), &self.meter);
        let hosted = self.cluster.start(new.open, &new.topology, new.mailbox, tasks)?;
        Ok((Arc::new(hosted), ()))
    }

    fn scheduler(&self) -> &EmbeddedCluster {
        &self.cluster
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    async fn close(self) {}
}
