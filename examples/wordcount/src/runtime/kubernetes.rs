//! Workers as pods, which report over gRPC. They share the state directory and the input with the
//! controller, by a volume that is mounted at the same paths everywhere.
//!
//! Below the state directory's `processes/`, beside what `remote` keeps there:
//!
//! | path | what it holds |
//! |---|---|
//! | `pods.json` | the namespace of the pods, and the name by which those of this state directory are told apart |

use std::{fs, io, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use winddown::{
    JobSender, KubernetesScheduler, StopRequest,
    grpc::{GrpcTransport, Registration},
    kubernetes::{Follower, PodChange, WorkerEnv},
};

use super::{NewRun, Runtime, kill, remote::Remote};
use crate::{cli::Pods, meter::Meter, run_loop::JobError, screen::Screen};

const RECORD: &str = "pods.json";

/// Worker pods.
pub(crate) struct Kubernetes {
    scheduler: KubernetesScheduler,
    remote: Remote,
    template: PodTemplateSpec,
    advertise: String,
    screen: Arc<Screen>,
}

/// Dropped at the end of a run: then nobody follows its pods any more.
pub(crate) struct Hold {
    _watches: JoinSet<()>,
}

/// Where the pods of a state directory are.
#[derive(Serialize, Deserialize)]
struct Record {
    namespace: String,
    instance: String,
}

impl Record {
    fn read(folder: &Path) -> io::Result<Option<Self>> {
        match fs::read(folder.join(RECORD)) {
            // Nothing was ever written there. If a file is in the way, the first write reports it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            text => Ok(Some(serde_json::from_slice(&text?)?)),
        }
    }

    /// Kept before the first pod, so that the next call finds them.
    fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join(RECORD), serde_json::to_vec(self)?)
    }

    fn scheduler(self, client: kube::Client) -> KubernetesScheduler {
        KubernetesScheduler::builder(client).namespace(self.namespace).instance(self.instance).build()
    }
}

fn system(error: impl std::fmt::Display) -> JobError {
    JobError::System(error.to_string())
}

/// A client of whatever `KUBECONFIG` says, or of the cluster that this runs in.
async fn client() -> Result<kube::Client, JobError> {
    let config = kube::Config::infer().await.map_err(system)?;
    winddown::kubernetes::client(config).map_err(system)
}

/// Ends what earlier calls have left, and starts nothing. None if the job was never run with pods.
pub(super) async fn earlier(folder: &Path) -> Result<Option<KubernetesScheduler>, JobError> {
    match Record::read(folder)? {
        Some(record) => Ok(Some(record.scheduler(client().await?))),
        None => Ok(None),
    }
}

impl Kubernetes {
    /// A scheduler and a controller's port for the runs of a job that keeps its files in `folder`.
    pub(crate) async fn open(folder: &Path, workers: u32, pods: &Pods, screen: Arc<Screen>) -> Result<Self, JobError> {
        let path = pods.pod_template.as_deref().ok_or_else(|| system("expected --pod-template, got none"))?;
        let template = serde_saphyr::from_str(&fs::read_to_string(path)?);
        let template = template.map_err(|error| system(format_args!("`{}`: {error}", path.display())))?;
        let client = client().await?;
        let record = Record::read(folder)?.unwrap_or_else(|| {
            let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            Record { namespace: client.default_namespace().to_owned(), instance: format!("w{:x}", since.as_micros()) }
        });
        record.write(folder)?;
        let remote = Remote::open(folder.to_owned(), workers, pods.listen).await?;
        let advertise = pods.advertise.clone().unwrap_or_else(|| pods.listen.ip().to_string());
        Ok(Self { scheduler: record.scheduler(client), remote, template, advertise, screen })
    }

    async fn start_workers(&self, new: &NewRun<'_>) -> Result<(), JobError> {
        let controller = format!("http://{}:{}", self.advertise, self.remote.address.port());
        for (work, path) in new.workload.works.iter().zip(self.remote.assign(new)?) {
            let mut template = self.template.clone();
            let path =
                path.into_os_string().into_string().map_err(|_| system("the state directory's name is no UTF-8"))?;
            if let Some(container) = template.spec.as_mut().and_then(|spec| spec.containers.first_mut()) {
                container.args.get_or_insert_default().push(path);
            }
            let env = WorkerEnv::new(new.open, work.id(), controller.clone());
            self.scheduler.start(env, template).await.map_err(system)?;
        }
        Ok(())
    }
}

impl Runtime for Kubernetes {
    type Transport = GrpcTransport;
    type Scheduler = KubernetesScheduler;
    type Hold = Hold;

    async fn start(&self, new: NewRun<'_>) -> Result<(Arc<GrpcTransport>, Hold), JobError> {
        let (transport, registration) = self.remote.register(&new)?;
        if let Err(error) = self.start_workers(&new).await {
            kill(&self.scheduler, new.open.job(), Some(new.open.run())).await.map_err(JobError::System)?;
            return Err(error);
        }
        let mut watches = JoinSet::new();
        let follower = self.scheduler.follow(new.open.job().clone(), new.open.run());
        watches.spawn(tell_ends(follower, new.mailbox.clone(), Arc::clone(&self.screen)));
        watches.spawn(stop_on_notice(registration, new.mailbox, Arc::clone(&self.screen)));
        Ok((transport, Hold { _watches: watches }))
    }

    fn scheduler(&self) -> &KubernetesScheduler {
        &self.scheduler
    }

    fn meter(&self) -> &Meter {
        &self.remote.meter
    }

    async fn close(self) {
        self.remote.close().await;
    }
}

/// Tells the person before the screen of pods that end; the run hears of them from the scheduler.
async fn tell_ends(mut follower: Follower, mailbox: JobSender, screen: Arc<Screen>) {
    // Those of the rest often follow because of it.
    let mut told_of_one = false;
    loop {
        let (worker, change) = match follower.next().await {
            Ok(news) => news,
            Err(error) => {
                screen.say(&format!("the pods can't be followed: {error}"));
                return;
            }
        };
        if matches!(change, PodChange::Leaving) {
            continue;
        }
        if !matches!(change, PodChange::Ended { code: Some(0) }) && mailbox.requested().is_none() && !told_of_one {
            told_of_one = true;
            screen.say(&format!("the pod of worker {worker} is gone: {change:?}"));
        }
    }
}

/// A worker whose pod is evicted gives notice: the job stops with a checkpoint while there is time,
/// and the next call continues from it.
async fn stop_on_notice(registration: Registration, mailbox: JobSender, screen: Arc<Screen>) {
    let mut leaving = registration.leaving();
    if leaving.wait_for(|leaving| !leaving.is_empty()).await.is_ok() && mailbox.requested().is_none() {
        screen.say("a worker's pod is evicted: stopping with a checkpoint");
        let _ = mailbox.request(StopRequest::Checkpoint);
    }
    // The registration lasts as long as the run.
    std::future::pending::<()>().await;
}
