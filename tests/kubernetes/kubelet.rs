//! A small kubelet for tests: it binds the pods of one namespace to its node, runs their commands
//! as local processes, reports what they do, and obeys deletion with SIGTERM, grace period and
//! SIGKILL. It can be told to be cut off from the API server, to lose its power, and to come back.

use std::{
    collections::HashMap,
    process::ExitStatus,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::cluster::Cluster;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Healthy,
    /// Its containers run, and nothing passes between it and the API server: the network is cut, or
    /// the kubelet hangs.
    CutOff,
    /// Its power is out: nothing runs, and nobody says so.
    Off,
}

/// One node. Dropped, it takes its containers with it.
pub(crate) struct Kubelet {
    node: watch::Sender<Node>,
    running: Arc<Mutex<HashMap<String, i32>>>,
    task: JoinHandle<()>,
}

struct Work {
    name: String,
    pods: Api<Pod>,
    containers: HashMap<String, Running>,
    running: Arc<Mutex<HashMap<String, i32>>>,
}

/// A container, and how far its end has come.
struct Running {
    child: Child,
    group: Pid,
    kill_at: Option<Instant>,
    ended: Option<ExitStatus>,
}

impl Kubelet {
    /// A healthy node of that name, for the pods of the cluster's namespace.
    pub(crate) fn start(cluster: &Cluster, name: &str) -> Self {
        let (node, told) = watch::channel(Node::Healthy);
        let running = Arc::new(Mutex::new(HashMap::new()));
        let work = Work {
            name: name.to_owned(),
            pods: cluster.pods(),
            containers: HashMap::new(),
            running: Arc::clone(&running),
        };
        Self { node, running, task: tokio::spawn(work.go_on(told)) }
    }

    pub(crate) fn set(&self, node: Node) {
        self.node.send_replace(node);
    }

    /// The process groups of the containers that run, by pod name.
    pub(crate) fn running(&self) -> HashMap<String, i32> {
        self.running.lock().unwrap().clone()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
        for group in self.running().into_values() {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Work {
    async fn go_on(mut self, told: watch::Receiver<Node>) {
        loop {
            let node = *told.borrow();
            match node {
                // What the API server says to somebody who is away is not heard; it may be away
                // itself.
                Node::Healthy => drop(self.look().await),
                Node::CutOff => self.reap(),
                Node::Off => {
                    for container in self.containers.values() {
                        let _ = killpg(container.group, Signal::SIGKILL);
                    }
                    self.reap();
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&mut self) -> Result<(), kube::Error> {
        let pods = self.pods.list(&ListParams::default()).await?.items;
        self.reap();
        // What has no pod any more is ended as well: somebody has removed the pod with force.
        for (uid, container) in &mut self.containers {
            if container.ended.is_none() && !pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid)) {
                let _ = killpg(container.group, Signal::SIGKILL);
            }
        }
        for pod in &pods {
            // The API server may have gone on: then the next look sees what is so.
            if let Err(error) = self.tend(pod).await {
                println!("kubelet {}: {:?}: {error}", self.name, pod.metadata.name);
            }
        }
        Ok(())
    }

    async fn tend(&mut self, pod: &Pod) -> Result<(), kube::Error> {
        let name = pod.metadata.name.as_deref().unwrap();
        let uid = pod.metadata.uid.clone().unwrap();
        let spec = pod.spec.as_ref().unwrap();
        let terminating = pod.metadata.deletion_timestamp.is_some();
        match spec.node_name.as_deref() {
            None if terminating => return Ok(()),
            None => return self.bind(pod, name).await,
            Some(node) if node != self.name => return Ok(()),
            Some(_) => {}
        }
        let container = &spec.containers[0];
        if !self.containers.contains_key(&uid) && !terminating {
            let running = run(container);
            self.running.lock().unwrap().insert(name.to_owned(), running.group.as_raw());
            self.containers.insert(uid, running);
            return self.report(name, container, "Running", json!({ "running": {} })).await;
        }
        let Some(running) = self.containers.get_mut(&uid) else {
            // It was to end before it began.
            return self.remove(name, &uid).await;
        };
        if let Some(status) = running.ended {
            let code = status.code().unwrap_or(137);
            let phase = if code == 0 { "Succeeded" } else { "Failed" };
            if pod.status.as_ref().and_then(|status| status.phase.as_deref()) != Some(phase) {
                self.report(name, container, phase, json!({ "terminated": { "exitCode": code } })).await?;
            }
            return if terminating { self.remove(name, &uid).await } else { Ok(()) };
        }
        if terminating {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(30);
            let end = Instant::now() + Duration::from_secs(grace.try_into().unwrap_or(0));
            if running.kill_at.is_none() {
                let _ = killpg(running.group, Signal::SIGTERM);
            }
            // A second deletion may have shortened it.
            let kill_at = running.kill_at.map_or(end, |at| at.min(end));
            running.kill_at = Some(kill_at);
            if Instant::now() >= kill_at {
                let _ = killpg(running.group, Signal::SIGKILL);
            }
        }
        Ok(())
    }

    async fn bind(&self, pod: &Pod, name: &str) -> Result<(), kube::Error> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": { "name": name, "uid": pod.metadata.uid },
            "target": { "kind": "Node", "name": self.name },
        });
        self.pods.create_subresource::<_, Value>("binding", name, &PostParams::default(), &binding).await.map(drop)
    }

    async fn report(&self, name: &str, container: &Container, phase: &str, state: Value) -> Result<(), kube::Error> {
        let status = json!({ "status": { "phase": phase, "containerStatuses": [{
            "name": container.name, "image": "none", "imageID": "none", "restartCount": 0,
            "ready": phase == "Running", "state": state,
        }] } });
        self.pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.map(drop)
    }

    /// What a kubelet does last: it is the word that all containers have ended.
    async fn remove(&self, name: &str, uid: &str) -> Result<(), kube::Error> {
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params =
            DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
        self.pods.delete(name, &params).await.map(drop)
    }

    fn reap(&mut self) {
        for running in self.containers.values_mut().filter(|running| running.ended.is_none()) {
            running.ended = running.child.try_wait().unwrap();
            if running.ended.is_some() {
                // A container ends with its first process, and whatever that has started with it.
                let _ = killpg(running.group, Signal::SIGKILL);
                let group = running.group.as_raw();
                self.running.lock().unwrap().retain(|_, it| *it != group);
            }
        }
    }
}

fn run(container: &Container) -> Running {
    let line: Vec<String> = [&container.command, &container.args].into_iter().flatten().flatten().cloned().collect();
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).process_group(0).kill_on_drop(true);
    for variable in container.env.iter().flatten() {
        command.env(&variable.name, variable.value.as_deref().unwrap_or_default());
    }
    let child = command.spawn().unwrap();
    let group = Pid::from_raw(child.id().unwrap().try_into().unwrap());
    Running { child, group, kill_at: None, ended: None }
}
