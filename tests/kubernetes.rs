//! The Kubernetes scheduler against a real API server, with a small kubelet that runs pods as local processes.
//!
//! The server is the one that `WINDDOWN_TEST_KUBECONFIG` names; `scripts/kube-apiserver` builds and starts one. Without it these tests say
//! aloud that they were skipped.
#![cfg(all(target_os = "linux", feature = "grpc", feature = "kubernetes", feature = "object-store"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/counting.rs"]
mod counting;
#[path = "support/kubelet.rs"]
mod kubelet;
#[path = "support/port.rs"]
mod port;

#[cfg(feature = "testing")]
#[path = "kubernetes/conformance.rs"]
mod conformance;
#[path = "kubernetes/errors.rs"]
mod errors;
#[path = "kubernetes/jobs.rs"]
mod jobs;
#[path = "kubernetes/lease.rs"]
mod lease;
#[path = "kubernetes/manifests.rs"]
mod manifests;
#[path = "kubernetes/outages.rs"]
mod outages;
#[path = "kubernetes/stops.rs"]
mod stops;

/// Not a test: the workers start at this one.
#[test]
fn worker_entry() {
    if let Some(worker) = winddown::WorkerEnv::from_env().unwrap() {
        counting::worker_main(worker);
    }
}
