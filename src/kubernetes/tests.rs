//! Limits against an API server that accepts connections and never answers, for all pods or for
//! one.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use kube::client::Body;
use serde_json::json;
use tokio::{net::TcpListener, time::timeout};

use super::{JOB_ANNOTATION, KubernetesScheduler, RUN_LABEL, Unconfirmed, WORKER_LABEL};
use crate::contracts::{JobId, Scheduler};

/// Long enough for any machine, and far below the limits that the test must not wait for.
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
        .unconfirmed(Unconfirmed::RemoveAfter(Duration::MAX))
        .build();
    let job = JobId::from("words");
    let stop = scheduler.stop_workers(&job, None, true);
    assert!(timeout(Duration::from_millis(50), stop).await.is_err(), "it waits");
}

/// The deletes that arrived: the pod, and its grace period.
type Deletes = Arc<Mutex<Vec<(String, u64)>>>;

/// A server that has these pods of the job `words`, and does not answer deletes of the first one.
fn stuck_on_the_first<const N: usize>(pods: [&'static str; N]) -> (Deletes, kube::Client) {
    let deletes = Deletes::default();
    let pod = |(worker, name): (usize, &&str)| {
        let labels = json!({ RUN_LABEL: "1", WORKER_LABEL: worker.to_string() });
        json!({ "metadata": { "name": name, "uid": name, "labels": labels, "annotations": { JOB_ANNOTATION: "words" } } })
    };
    let items: Vec<_> = pods.iter().enumerate().map(pod).collect();
    let list = json!({ "metadata": { "resourceVersion": "1" }, "items": items });
    let written = Arc::clone(&deletes);
    let serve = move |request: http::Request<Body>| {
        let (list, written) = (list.to_string(), Arc::clone(&written));
        async move {
            let (head, body) = request.into_parts();
            let said = if head.method == http::Method::DELETE {
                let name = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
                let options: serde_json::Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap();
                written.lock().unwrap().push((name.clone(), options["gracePeriodSeconds"].as_u64().unwrap()));
                if name == pods[0] {
                    pending::<()>().await;
                }
                json!({ "status": "Success" }).to_string()
            } else if head.uri.query().is_some_and(|query| query.contains("watch=true")) {
                pending().await
            } else {
                list
            };
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(said.into_bytes())))
        }
    };
    (deletes, kube::Client::new(tower::service_fn(serve), "default"))
}

#[tokio::test(start_paused = true)]
async fn i9_a_delete_that_hangs_keeps_no_other_pod_from_the_next_step() {
    let (deletes, client) = stuck_on_the_first(["a", "b", "c"]);
    let wait = Duration::from_secs(5);
    let hour = Duration::from_secs(3600);
    let scheduler = KubernetesScheduler::builder(client)
        .limit(hour)
        .request_limit(hour)
        .unconfirmed(Unconfirmed::RemoveAfter(wait))
        .build();
    let stopped = timeout(wait * 2, scheduler.stop_workers(&JobId::from("words"), None, true)).await;
    assert!(stopped.is_err(), "pods are left");
    let mut deletes = deletes.lock().unwrap().clone();
    deletes.sort_unstable();
    let expected = ["a", "b", "c"].map(|pod| [(pod.to_owned(), 0), (pod.to_owned(), 1)]);
    assert_eq!(deletes, expected.concat());
}
