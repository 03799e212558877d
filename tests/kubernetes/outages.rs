//! The way to the API server breaks, or the server itself, in the middle of a stop.

use kube::api::ListParams;
use serde_json::json;
use tokio::time::sleep;
use winddown::kubernetes;
use winddown::{Scheduler, contracts::ConfirmedBy, kubernetes::client};

use crate::{
    cluster::{Act, Cluster, OwnServer, RUN, Tap, env_of, job, ms, shell, workers},
    kubelet::{Kubelet, Node},
    port::Port,
};

const STAYS: &str = "trap '' TERM; while :; do sleep 1; done";

/// The cluster's configuration by way of a port that can be closed.
async fn by_port(cluster: &Cluster) -> (kube::Config, Port) {
    let mut config = cluster.config.clone();
    let server = (config.cluster_url.host().unwrap(), config.cluster_url.port_u16().unwrap());
    let server = tokio::net::lookup_host(server).await.unwrap().next().unwrap();
    let port = Port::open(server).await;
    config.tls_server_name = config.cluster_url.host().map(str::to_owned);
    config.cluster_url = format!("https://{}", port.address()).parse().unwrap();
    (config, port)
}

#[tokio::test]
async fn the_watch_is_cut_in_mid_stop() {
    let Some(cluster) = Cluster::get().await else { return };
    let node = Kubelet::start(&cluster, "n1");
    let (config, mut port) = by_port(&cluster).await;
    let tap = Tap::on(config, |_, _| Act::Pass);
    let scheduler = cluster.builder(tap.client()).unconfirmed(kubernetes::Unconfirmed::Wait).build();
    cluster.start(&scheduler, 3, STAYS).await;
    node.set(Node::CutOff);
    let job = job();
    // One follows a list that was answered, so that nothing goes unseen from then on.
    let watches = || tap.asked("watch=true");
    let (stopped, ()) = tokio::join!(scheduler.stop_workers(&job, Some(RUN), true), async {
        cluster.until("the watch", async || watches() > 0).await;
        let before = watches();
        port.close().await;
        sleep(ms(1500)).await;
        port.open_again().await;
        cluster.until("a new watch", async || watches() > before).await;
        node.set(Node::Healthy);
    });
    stopped.unwrap();
    assert_eq!(scheduler.workers_for_job(&job, Some(RUN)).await.unwrap(), []);
    assert_eq!(scheduler.confirmed_by(&job, Some(RUN)), ConfirmedBy::Host);
    cluster.end().await;
}

#[tokio::test]
async fn what_goes_while_nobody_watches_is_gone_and_not_confirmed() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let (config, mut port) = by_port(&cluster).await;
    let tap = Tap::on(config, |_, _| Act::Pass);
    let scheduler = cluster.builder(tap.client()).build();
    cluster.start(&scheduler, 1, STAYS).await;
    let job = job();
    let (stopped, ()) = tokio::join!(scheduler.stop_workers(&job, Some(RUN), false), async {
        cluster.until("the watch", async || tap.asked("watch=true") > 0).await;
        port.close().await;
        cluster.until("the end of the pod", async || cluster.pod("words-7-1").await.is_none()).await;
        port.open_again().await;
    });
    stopped.unwrap();
    assert_eq!(scheduler.confirmed_by(&job, Some(RUN)), ConfirmedBy::Records);
    cluster.end().await;
}

#[tokio::test]
async fn an_api_server_that_is_away_is_an_error_only_when_the_time_is_over() {
    let Some(cluster) = Cluster::get().await else { return };
    let (config, mut port) = by_port(&cluster).await;
    let scheduler = cluster.builder(client(config).unwrap()).limit(ms(1500)).build();
    scheduler.start(env_of(RUN, 1), shell("exit")).await.unwrap();
    port.close().await;
    let error = scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap_err();
    assert!(error.is_retryable(), "not known is no empty list: {error}");
    assert!(error.to_string().contains("can't list pods") && error.to_string().contains("can't be reached"), "{error}");
    let job = job();
    let (stopped, ()) = tokio::join!(scheduler.stop_workers(&job, Some(RUN), true), async {
        sleep(ms(400)).await;
        port.open_again().await;
    });
    stopped.unwrap();
    cluster.end().await;
}

#[tokio::test]
async fn a_watch_that_is_too_old_or_never_answers_is_begun_anew() {
    let Some(cluster) = Cluster::get().await else { return };
    let mut watches = 0;
    let tap = Tap::on(cluster.config.clone(), move |_, path| {
        if !path.contains("watch=true") {
            return Act::Pass;
        }
        watches += 1;
        match watches {
            1 => {
                let gone = json!({ "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired",
                    "message": "too old resource version" });
                let body = format!("{}\n", json!({ "type": "ERROR", "object": gone }));
                Act::Answer { code: 200, retry_after: None, body }
            }
            // Never: nobody gives the word.
            2 => Act::Hold(std::sync::Arc::default()),
            _ => Act::Pass,
        }
    });
    let scheduler = cluster.builder(tap.client()).request_limit(ms(2000)).build();
    scheduler.start(env_of(RUN, 1), shell("exit")).await.unwrap();
    cluster.patch("words-7-1", json!({ "metadata": { "finalizers": ["example.com/hold"] } })).await;
    let job = job();
    let (stopped, ()) = tokio::join!(scheduler.stop_workers(&job, Some(RUN), true), async {
        cluster.until("the third watch", async || tap.asked("watch=true") > 2).await;
        assert_eq!(scheduler.workers_for_job(&job, Some(RUN)).await.unwrap(), workers([1]));
        cluster.patch("words-7-1", json!({ "metadata": { "finalizers": null } })).await;
    });
    stopped.unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_server_is_killed_and_started_again_in_mid_stop() {
    let Some(server) = OwnServer::start() else { return };
    let cluster = Cluster::at(server.kubeconfig()).await;
    let node = Kubelet::start(&cluster, "n1");
    let tap = Tap::on(cluster.config.clone(), |_, _| Act::Pass);
    let scheduler = cluster.builder(tap.client()).unconfirmed(kubernetes::Unconfirmed::Wait).limit(ms(180_000)).build();
    cluster.start(&scheduler, 3, STAYS).await;
    node.set(Node::CutOff);
    let job = job();
    let (stopped, ()) = tokio::join!(scheduler.stop_workers(&job, Some(RUN), true), async {
        cluster.until("the watch", async || tap.asked("watch=true") > 0).await;
        let before = tap.asked("watch=true");
        let again = tokio::task::spawn_blocking(move || {
            assert!(server.script("kill") && server.script("again"));
            server
        });
        let server = again.await.unwrap();
        cluster.until("a new watch", async || tap.asked("watch=true") > before).await;
        assert_eq!(
            scheduler.workers_for_job(&job, Some(RUN)).await.unwrap(),
            workers(1..=3),
            "it has forgotten nothing"
        );
        node.set(Node::Healthy);
        cluster.until("the ends", async || node.running().is_empty()).await;
        // Kept until here: dropped, it stops.
        cluster
            .until("the pods", async || {
                cluster.pods().list(&ListParams::default()).await.is_ok_and(|it| it.items.is_empty())
            })
            .await;
        sleep(ms(500)).await;
        drop(server);
    });
    stopped.unwrap();
    assert_eq!(scheduler.confirmed_by(&job, Some(RUN)), ConfirmedBy::Host);
}
