//! Limits against an API server that takes connections and never answers.

use std::time::Duration;

use tokio::{net::TcpListener, time::timeout};

use super::KubernetesScheduler;
use crate::{contracts::Scheduler, ids::JobId};

/// Long enough for any machine, and far below the limits that must not be waited for.
const SOON: Duration = Duration::from_secs(20);

async fn mute() -> (TcpListener, kube::Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, super::client(kube::Config::new(url.parse().unwrap())).unwrap())
}

#[tokio::test]
async fn i5_a_request_ends_with_the_call_that_it_belongs_to() {
    let (_listener, client) = mute().await;
    let scheduler = KubernetesScheduler::builder(client)
        .limit(Duration::from_millis(50))
        .request_limit(Duration::from_secs(3600))
        .build();
    let job = JobId::from("words");
    let listed = timeout(SOON, scheduler.workers_for_job(&job, None)).await.expect("the call's own limit");
    assert!(listed.unwrap_err().to_string().contains("no answer within"));
    let stopped = timeout(SOON, scheduler.stop_workers(&job, None, true)).await.expect("the call's own limit");
    assert!(stopped.is_err());
}

#[tokio::test]
async fn i6_a_limit_beyond_the_clock_is_no_panic() {
    let (_listener, client) = mute().await;
    let scheduler = KubernetesScheduler::builder(client)
        .limit(Duration::MAX)
        .request_limit(Duration::MAX)
        .unconfirmed(super::Unconfirmed::RemoveAfter(Duration::MAX))
        .build();
    let job = JobId::from("words");
    let stop = scheduler.stop_workers(&job, None, true);
    assert!(timeout(Duration::from_millis(50), stop).await.is_err(), "it waits");
}
