//! Workers as pods: a [`Scheduler`](crate::contracts::Scheduler) that starts, stops and kills them, and verifies that they are gone; and a lease, so that of two
//! controllers only one acts.
//!
//! ```no_run
//! use k8s_openapi::api::core::v1::PodTemplateSpec;
//! use winddown::{KubernetesScheduler, kubernetes::{WorkerEnv, client}, prelude::*};
//!
//! # async fn control(template: &str) -> Result<(), Box<dyn std::error::Error>> {
//! // From KUBECONFIG, ~/.kube/config, or the service account of the pod that this runs in.
//! let client = client(kube::Config::infer().await?)?;
//! let scheduler = KubernetesScheduler::builder(client).build();
//! let template: PodTemplateSpec = serde_json::from_str(template)?;
//! let open = OpenRun::without_store("words", RunId::new(1)); // or what `CheckpointStore::open_run` gives
//! for number in 1..=4 {
//!     let worker = WorkerEnv::new(&open, WorkerId::new(number), "http://words-controller:7000");
//!     scheduler.start(worker, template.clone()).await?;
//! }
//! scheduler.stop_workers(open.job(), Some(open.run()), true).await?;
//! assert_eq!(scheduler.workers_for_job(open.job(), Some(open.run())).await?, []);
//! # Ok(())
//! # }
//! ```
//!
//! # What is kept
//! - **Stop.** Every pod is deleted by its UID, so that a newer pod of the same name is left alone; all at once, bounded by the number of requests in
//!   flight. Then a watch (with a new list wherever the watch is lost) until no pod object of the run is left. A terminating pod is alive.
//! - **Starts.** A worker is listed from the call of [`start`](KubernetesScheduler::start) on, also while its create is in flight. A forced stop lets no start of the
//!   run end with a pod: those that were called before are waited for and deleted, those that are called later are refused.
//! - **Force.** The node gets a second, and is waited for: when it has confirmed that every container has ended, the evidence says
//!   [`ConfirmedBy::Host`](crate::contracts::ConfirmedBy). Where it does not, [`Unconfirmed`] decides: the pod object is removed, and the
//!   evidence says [`ConfirmedBy::Records`](crate::contracts::ConfirmedBy); or the stop waits on.
//!   `kubectl delete --force` is what the first does, and what most programs do: the API server forgets the pod, and nobody knows what the node does.
//! - **Zombies.** A worker that lives on where it can't be reached is of an old run, and can commit nothing (invariant I11).
//! - **Errors.** Each says the verb, the resource and the namespace. What passes (no connection, 429, 5xx) is tried again, at 429 when the server says so;
//!   what does not pass (a role, a quota, admission) is reported for what it is.
//! - **Restart.** What pods there are is asked of the cluster, so that the next controller finds them. It has not seen how pods ended before its time,
//!   so its evidence says [`ConfirmedBy::Records`](crate::contracts::ConfirmedBy) at best.
//!
//! `docs/kubernetes.md` has the role that a controller needs, and the way from nothing to a stopped job.

mod api;
mod error;
mod fate;
mod follow;
mod lease;
mod names;
mod pod;
mod scheduler;
mod starts;
mod stop;
#[cfg(test)]
mod tests;
mod watcher;

pub use crate::worker_env::{CONTROLLER, JOB, RUN, WORKER, WorkerEnv, WorkerEnvError};
pub use error::{ApiError, NotLeader, StartError, TemplateError, Trouble};
pub use follow::{Follower, PodChange};
pub use lease::{Leadership, LeaseCandidate};
pub use names::{INSTANCE_LABEL, JOB_ANNOTATION, JOB_LABEL, RUN_LABEL, START_ANNOTATION, WORKER_LABEL};
pub use scheduler::{KubernetesScheduler, KubernetesSchedulerBuilder, Unconfirmed};
pub use starts::WorkerPod;

/// A client as the scheduler wants it: it leaves waiting and trying again to the scheduler, which knows how long there is.
///
/// # Errors
/// When the configuration can't be used: a certificate that can't be read, for example.
pub fn client(mut config: kube::Config) -> Result<kube::Client, kube::Error> {
    config.default_retry = false;
    kube::Client::try_from(config)
}
