//! Workers as pods. A [`Scheduler`](crate::contracts::Scheduler) starts, stops and kills them, and
//! verifies that they are gone; a lease ensures that only one of two controllers acts.
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
//! - **Stop.** Every pod is deleted by its UID, so that a newer pod of the same name is left alone.
//!   All deletes are sent at once, limited by the number of requests in flight. Then the scheduler
//!   watches (and lists again whenever the watch is lost) until no pod object of the run is left. A
//!   terminating pod counts as alive.
//! - **Starts.** A worker is listed from the call of [`start`](KubernetesScheduler::start) on, also
//!   while its create is in flight. After a forced stop, no start of the run leaves a pod: the stop
//!   waits for starts that were called before and deletes their pods, and later starts are refused.
//! - **Force.** The node gets one second of grace, and the stop waits for it: when it has confirmed
//!   that every container has ended, the evidence is
//!   [`ConfirmedBy::Host`](crate::contracts::ConfirmedBy). If it does not confirm, [`Unconfirmed`]
//!   decides: either the pod object is removed, and the evidence is
//!   [`ConfirmedBy::Records`](crate::contracts::ConfirmedBy); or the stop goes on waiting. The
//!   first is what `kubectl delete --force` and most programs do: the API server forgets the pod,
//!   and nobody knows what the node does.
//! - **Zombies.** A worker that lives on where it cannot be reached is of an old run, and can
//!   commit nothing (invariant I11).
//! - **Errors.** Each names the verb, the resource and the namespace. Temporary ones (no
//!   connection, 429, 5xx) are tried again, at 429 when the server says so. Lasting ones (a role, a
//!   quota, admission) are reported as what they are.
//! - **Restart.** The cluster is asked which pods there are, so the next controller finds them. It
//!   has not seen how pods ended before its time, so its evidence is
//!   [`ConfirmedBy::Records`](crate::contracts::ConfirmedBy) at best.
//!
//! `docs/kubernetes.md` has the role that a controller needs, and every step from an empty cluster
//! to a stopped job.

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

/// Makes a client for the scheduler: it does not retry requests by itself, because the scheduler
/// knows how much time is left.
///
/// # Errors
/// If the configuration cannot be used: an unreadable certificate, for example.
pub fn client(mut config: kube::Config) -> Result<kube::Client, kube::Error> {
    config.default_retry = false;
    kube::Client::try_from(config)
}
