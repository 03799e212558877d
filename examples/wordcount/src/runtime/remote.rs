//! What worker processes and worker pods have in common: a port of the controller, and files that
//! tell each worker what to do.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use winddown::grpc::{CallOptions, ControllerOptions, ControllerServer, GrpcTransport, Registration, ServeError};

use super::{NewRun, assignment::Assignment};
use crate::{meter::Meter, run_loop::JobError};

const ASSIGNMENTS: &str = "assignments";
const METER: &str = "meter";

/// The controller's side of workers that are elsewhere.
pub(super) struct Remote {
    server: ControllerServer,
    /// Where the controller listens.
    pub(super) address: SocketAddr,
    /// Dropped to end the server.
    shutdown: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
    folder: PathBuf,
    pub(super) meter: Arc<Meter>,
}

impl Remote {
    /// A controller's port for the runs of a job that keeps its files in `folder`.
    pub(super) async fn open(folder: PathBuf, workers: u32, listen: SocketAddr) -> Result<Self, JobError> {
        fs::create_dir_all(&folder)?;
        // Of the last call, whose workers are gone.
        match fs::remove_file(folder.join(METER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let meter = Meter::shared(&folder.join(METER), workers)?;
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let server = ControllerServer::new(ControllerOptions::default());
        let (shutdown, told) = oneshot::channel::<()>();
        let serving = {
            let server = server.clone();
            tokio::spawn(async move { server.serve(listener, async { drop(told.await) }).await })
        };
        Ok(Self { server, address, shutdown, serving, folder, meter })
    }

    /// Listens to the workers of a run. Call it before the first of them is started, because it may
    /// report at once.
    pub(super) fn register(&self, new: &NewRun<'_>) -> Result<(Arc<GrpcTransport>, Registration), JobError> {
        let options = CallOptions { call: new.limits.order, ..CallOptions::default() };
        let transport = GrpcTransport::new(new.open, Arc::clone(&new.topology)).options(options);
        let transport = Arc::new(transport);
        let registered = self.server.register(Arc::clone(&transport), new.mailbox.clone());
        Ok((transport, registered.map_err(|error| JobError::System(error.to_string()))?))
    }

    /// Writes down what each worker of a run is to do; gives the files in the order of the workers.
    pub(super) fn assign(&self, new: &NewRun<'_>) -> Result<Vec<PathBuf>, JobError> {
        // Those of the last run, whose workers are gone.
        let assignments = fs::canonicalize(&self.folder)?.join(ASSIGNMENTS);
        match fs::remove_dir_all(&assignments) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs::create_dir_all(&assignments)?,
        }
        let workers = u32::try_from(new.workload.works.len()).unwrap_or(u32::MAX);
        let write = |work: &crate::tasks::Work| {
            let path = assignments.join(format!("{}.json", work.id().get()));
            Assignment::new(workers, work, new.open.manifest()).write(&path).map(|()| path)
        };
        Ok(new.workload.works.iter().map(write).collect::<Result<_, _>>()?)
    }

    pub(super) async fn close(self) {
        drop(self.shutdown);
        if let Ok(Err(error)) = self.serving.await {
            tracing::warn!(%error, "the controller's server");
        }
    }
}

/// The meter lies where the folder of all assignments does.
pub(super) fn meter_of(assignment: &Path) -> PathBuf {
    assignment.ancestors().nth(2).unwrap_or(assignment).join(METER)
}
