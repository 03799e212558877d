//! A namespace on a real API server, and a client of it that can be listened in on and interfered
//! with.

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Client, Config,
    api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams},
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use winddown::{
    JobId, KubernetesScheduler, OpenRun, RunId, WorkerId,
    grpc::tonic::codegen::http::{Request, Response},
    kubernetes::{KubernetesSchedulerBuilder, client},
    process::WorkerEnv,
};

/// A KUBECONFIG that tests may use, as `scripts/kube-apiserver start` prints it.
const KUBECONFIG: &str = "WINDDOWN_TEST_KUBECONFIG";

/// Every wait ends within it. No figure that is promised: it only keeps a broken test from hanging.
pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const RUN: RunId = RunId::new(7);

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn job() -> JobId {
    JobId::from("words")
}

pub(crate) fn workers(numbers: impl IntoIterator<Item = u64>) -> Vec<WorkerId> {
    numbers.into_iter().map(WorkerId::new).collect()
}

/// Says aloud that a test was not run: the harness would swallow it.
pub(crate) fn skipped(why: &str) {
    // One piece, since others write there too.
    let text = format!("*** {}: skipped: {why}\n", std::thread::current().name().unwrap_or("a test"));
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A namespace of its own on the API server, gone at the end.
pub(crate) struct Cluster {
    pub(crate) config: Config,
    pub(crate) namespace: String,
    /// As cluster admin.
    pub(crate) admin: Client,
}

impl Cluster {
    /// `None`, and a loud word, where there is no API server.
    pub(crate) async fn get() -> Option<Self> {
        let Ok(path) = env::var(KUBECONFIG) else {
            skipped(&format!("no API server: {KUBECONFIG} is not set, see scripts/kube-apiserver"));
            return None;
        };
        Some(Self::at(path.into()).await)
    }

    pub(crate) async fn at(kubeconfig: PathBuf) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let file = Kubeconfig::read_from(kubeconfig).unwrap();
        let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let namespace = format!("winddown-{since}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        config.default_namespace.clone_from(&namespace);
        let admin = Client::try_from(config.clone()).unwrap();
        let cluster = Self { config, namespace, admin };
        cluster.create_all::<Namespace>(json!({ "metadata": { "name": cluster.namespace } })).await;
        cluster
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    /// A scheduler that asks as cluster admin, with limits that suit a test.
    pub(crate) fn scheduler(&self) -> KubernetesScheduler {
        self.builder(client(self.config.clone()).unwrap()).build()
    }

    pub(crate) fn builder(&self, client: Client) -> KubernetesSchedulerBuilder {
        KubernetesScheduler::builder(client).namespace(&self.namespace).grace(Duration::from_secs(2)).limit(SOON)
    }

    /// The configuration of a user of the token file, whom RBAC knows.
    pub(crate) fn user(&self, token: &str) -> Config {
        let mut config = self.config.clone();
        config.auth_info.token = Some(token.to_owned().into());
        config
    }

    /// Creates an object of the namespace.
    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.admin.clone(), &self.namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    async fn create_all<K>(&self, object: Value)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + Serialize
            + DeserializeOwned,
    {
        let api = Api::<K>::all(self.admin.clone());
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }

    /// Starts workers that run a shell script, and waits until all of them run.
    pub(crate) async fn start(&self, scheduler: &KubernetesScheduler, count: u64, script: &str) {
        for number in 1..=count {
            scheduler.start(env_of(RUN, number), shell(script)).await.unwrap();
        }
        self.until("all pods run", async || {
            let pods = self.pods().list(&ListParams::default()).await.unwrap().items;
            let running = |pod: &Pod| pod.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Running");
            pods.iter().filter(|pod| running(pod)).count() as u64 >= count
        })
        .await;
    }

    /// Waits for what is so sooner or later.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let end = Instant::now() + SOON;
        while !is_so().await {
            assert!(Instant::now() < end, "waited in vain: {what}");
            sleep(ms(50)).await;
        }
    }

    pub(crate) async fn pod(&self, name: &str) -> Option<Pod> {
        self.pods().get_opt(name).await.unwrap()
    }

    pub(crate) async fn is_terminating(&self, name: &str) -> bool {
        self.pod(name).await.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    pub(crate) async fn patch(&self, name: &str, patch: Value) {
        self.pods().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Removes a pod as an impatient operator would.
    pub(crate) async fn remove(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// The end of a test. On a server without controllers the namespace itself stays, empty.
    pub(crate) async fn end(self) {
        let left = self.pods().list(&ListParams::default()).await.unwrap().items;
        assert!(left.is_empty(), "{:?}", left.iter().map(|pod| &pod.metadata.name).collect::<Vec<_>>());
        let namespaces = Api::<Namespace>::all(self.admin.clone());
        namespaces.delete(&self.namespace, &DeleteParams::background()).await.unwrap();
    }
}

pub(crate) fn env_of(run: RunId, number: u64) -> WorkerEnv {
    WorkerEnv::new(&OpenRun::without_store(job(), run), WorkerId::new(number), "http://127.0.0.1:1")
}

/// A pod template for a shell script.
pub(crate) fn shell(script: &str) -> k8s_openapi::api::core::v1::PodTemplateSpec {
    template(&["/bin/sh", "-c", script], &[])
}

pub(crate) fn template(command: &[&str], env: &[(String, String)]) -> k8s_openapi::api::core::v1::PodTemplateSpec {
    let env: Vec<Value> = env.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    serde_json::from_value(json!({ "spec": {
        // The test kubelet binds them; a real scheduler leaves them alone.
        "schedulerName": "winddown-test",
        "terminationGracePeriodSeconds": 2,
        "containers": [{ "name": "worker", "image": "none", "command": command, "env": env }],
    } }))
    .unwrap()
}

/// What a tap does with a request.
pub(crate) enum Act {
    Pass,
    Answer {
        code: u16,
        retry_after: Option<&'static str>,
        body: String,
    },
    /// It is passed on, and the answer gets lost.
    Lose,
    /// It is passed on when the test says so.
    Hold(Arc<tokio::sync::Notify>),
}

type Script = Box<dyn FnMut(&str, &str) -> Act + Send>;

/// Listens in on a client, and interferes as it is told.
#[derive(Clone)]
pub(crate) struct Tap(Arc<Tapped>);

struct Tapped {
    inner: Client,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    asked: Mutex<Vec<String>>,
    script: Mutex<Script>,
}

impl Tap {
    /// `script` is given the method and the path with its query.
    pub(crate) fn on(config: Config, script: impl FnMut(&str, &str) -> Act + Send + 'static) -> Self {
        Self(Arc::new(Tapped {
            inner: client(config).unwrap(),
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            asked: Mutex::new(Vec::new()),
            script: Mutex::new(Box::new(script)),
        }))
    }

    pub(crate) fn client(&self) -> Client {
        let tap = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let tap = tap.clone();
            async move { tap.pass(request).await }
        });
        Client::new(service, self.0.inner.default_namespace())
    }

    /// The most requests that were in flight at once, watches included.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.0.most.load(Ordering::SeqCst)
    }

    /// What was asked of this kind: method, path and query.
    pub(crate) fn asked(&self, kind: &str) -> usize {
        self.0.asked.lock().unwrap().iter().filter(|asked| asked.contains(kind)).count()
    }

    async fn pass(&self, request: Request<Body>) -> Result<Response<Body>, kube::Error> {
        let Tapped { inner, in_flight, most, asked, script } = &*self.0;
        let (method, path) = (request.method().as_str().to_owned(), request.uri().to_string());
        asked.lock().unwrap().push(format!("{method} {path}"));
        most.fetch_max(in_flight.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _one_less = OneLess(in_flight);
        let act = script.lock().unwrap()(&method, &path);
        match act {
            Act::Pass => {}
            Act::Hold(go) => go.notified().await,
            Act::Lose => {
                inner.send(request).await?;
                return Ok(Response::builder().status(504).body(Body::from(b"lost".to_vec())).unwrap());
            }
            Act::Answer { code, retry_after, body } => {
                let mut answer = Response::builder().status(code);
                if let Some(seconds) = retry_after {
                    answer = answer.header("Retry-After", seconds);
                }
                return Ok(answer.body(Body::from(body.into_bytes())).unwrap());
            }
        }
        inner.send(request).await
    }
}

/// Counts a request out, however it ends.
struct OneLess<'a>(&'a AtomicUsize);

impl Drop for OneLess<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An API server of a test's own, which it may kill. `None`, and a loud word, where none can be
/// started.
pub(crate) struct OwnServer(tempfile::TempDir);

impl OwnServer {
    pub(crate) fn start() -> Option<Self> {
        let server = Self(tempfile::tempdir().unwrap());
        if env::var(KUBECONFIG).is_err() || !server.script("have") {
            skipped("no API server of its own: see scripts/kube-apiserver");
            return None;
        }
        assert!(server.script("start"), "the API server does not start");
        Some(server)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.0.path().join("kubeconfig")
    }

    /// Runs a command of `scripts/kube-apiserver`; blocks.
    pub(crate) fn script(&self, command: &str) -> bool {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kube-apiserver");
        Command::new(script).arg(command).arg(self.0.path()).status().unwrap().success()
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.script("stop");
    }
}
