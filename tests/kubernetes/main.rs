//! The Kubernetes scheduler against a real API server, with a small kubelet that runs pods as local
//! processes.
//!
//! The server is the one that `WINDDOWN_TEST_KUBECONFIG` names; `scripts/kube-apiserver` builds and
//! starts one. Without it these tests say aloud that they were skipped.
#![cfg(all(target_os = "linux", feature = "grpc", feature = "kubernetes", feature = "object-store"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
#[path = "../support/counting.rs"]
mod counting;
mod kubelet;
#[path = "../support/port.rs"]
mod port;

#[cfg(feature = "testing")]
mod conformance;
mod errors;
mod jobs;
mod lease;
mod manifests;
mod outages;
mod starts;
mod stops;

/// Not a test: the workers start at this one.
#[test]
fn worker_entry() {
    if let Some(worker) = winddown::process::WorkerEnv::from_env().unwrap() {
        counting::worker_main(worker);
    }
}
