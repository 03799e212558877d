//! Starting, stopping, killing, and what the evidence says.

use std::{sync::Arc, time::Duration};
use winddown::ClusterController;
use winddown::Limits;
use winddown::Role;
use winddown::Topology;
use winddown::contracts::Order;
use winddown::contracts::OrderError;
use winddown::kubernetes;

use serde_json::json;
use tokio::sync::Notify;
use winddown::{
    AnyStopped, Detached, JobContext, KubernetesScheduler, OpenRun, PhaseKind, Policy, Receipt, Scheduler, WorkerId,
    contracts::{ConfirmedBy, SchedulerError, Transport},
    drive,
    kubernetes::{StartError, Unconfirmed, client},
};

use crate::{
    cluster::{Act, Cluster, RUN, SOON, Tap, env_of, job, ms, shell, workers},
    kubelet::{Kubelet, Node},
};

const LEAVES: &str = "exec sleep 600";
const STAYS: &str = "trap '' TERM; while :; do sleep 1; done";

async fn stop(scheduler: &KubernetesScheduler, force: bool) -> Result<(), SchedulerError> {
    scheduler.stop_workers(&job(), Some(RUN), force).await
}

/// Stops with force by `drive`, as a job without a controller.
async fn force(scheduler: &KubernetesScheduler) -> Receipt {
    let (mut context, running) = JobContext::builder(&OpenRun::without_store(job(), RUN))
        .simulated()
        .build(Detached, scheduler.clone())
        .unwrap();
    drive(running, &mut context, &Policy::escalate()).await.unwrap()
}

fn killed(receipt: &Receipt) -> ConfirmedBy {
    let AnyStopped::Killed(stopped) = &receipt.stopped() else { panic!("{receipt}") };
    stopped.evidence().confirmed_by()
}

#[tokio::test]
async fn workers_start_with_what_they_are_told_and_leave_when_they_are_asked() {
    let Some(cluster) = Cluster::get().await else { return };
    let node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.scheduler();
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "echo $WINDDOWN_JOB $WINDDOWN_RUN $WINDDOWN_WORKER $WINDDOWN_CONTROLLER > {}/$WINDDOWN_WORKER; {LEAVES}",
        folder.path().display()
    );
    cluster.start(&scheduler, 3, &script).await;
    cluster.until("the workers write", async || folder.path().read_dir().unwrap().count() == 3).await;
    assert_eq!(std::fs::read_to_string(folder.path().join("2")).unwrap(), "words 7 2 http://127.0.0.1:1\n");
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), workers(1..=3));
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN.next())).await.unwrap(), []);
    let again = scheduler.start(env_of(RUN, 2), shell(LEAVES)).await.unwrap_err();
    assert!(matches!(&again, StartError::AlreadyThere { pod, .. } if pod == "words-7-2"), "{again}");

    scheduler.stop_workers(&job(), Some(RUN.next()), true).await.unwrap();
    assert_eq!(node.running().len(), 3, "those were another run's");
    stop(&scheduler, false).await.unwrap();
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), []);
    assert_eq!(scheduler.confirmed_by(&job(), Some(RUN)), ConfirmedBy::Host);
    assert!(node.running().is_empty());
    scheduler.stop_workers(&job(), None, true).await.unwrap();
    cluster.end().await;
}

#[tokio::test]
async fn a_worker_that_has_ended_by_itself_is_not_alive_and_its_pod_is_removed() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.scheduler();
    scheduler.start(env_of(RUN, 1), shell("exit 3")).await.unwrap();
    let mut follower = scheduler.follow(job(), RUN);
    let ended = kubernetes::PodChange::Ended { code: Some(3) };
    assert_eq!(follower.next().await.unwrap(), (WorkerId::new(1), ended));
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), []);
    assert_eq!(scheduler.confirmed_by(&job(), Some(RUN)), ConfirmedBy::Host);
    assert!(cluster.pod("words-7-1").await.is_some());
    stop(&scheduler, false).await.unwrap();
    cluster.end().await;
}

#[tokio::test]
async fn a_pod_that_ignores_sigterm_is_killed_after_the_grace_period_or_at_once() {
    let Some(cluster) = Cluster::get().await else { return };
    let node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.scheduler();
    for forced in [false, true] {
        cluster.start(&scheduler, 2, STAYS).await;
        stop(&scheduler, forced).await.unwrap();
        assert!(node.running().is_empty());
        assert_eq!(scheduler.confirmed_by(&job(), Some(RUN)), ConfirmedBy::Host, "forced: {forced}");
    }
    cluster.end().await;
}

#[tokio::test]
async fn i2_a_forced_stop_is_on_the_word_of_the_node_where_it_gives_it() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.scheduler();
    cluster.start(&scheduler, 2, STAYS).await;
    let receipt = force(&scheduler).await;
    assert_eq!(killed(&receipt), ConfirmedBy::Host, "{receipt}");
    cluster.end().await;
}

#[tokio::test]
async fn i2_a_node_that_is_gone_is_not_said_to_have_confirmed() {
    let Some(cluster) = Cluster::get().await else { return };
    let node = Kubelet::start(&cluster, "n1");
    let scheduler =
        cluster.builder(client(cluster.config.clone()).unwrap()).unconfirmed(Unconfirmed::RemoveAfter(ms(500)));
    let scheduler = scheduler.build();
    cluster.start(&scheduler, 2, LEAVES).await;
    node.set(Node::CutOff);
    let receipt = force(&scheduler).await;
    assert_eq!(killed(&receipt), ConfirmedBy::Records, "{receipt}");
    assert!(receipt.to_string().contains("the scheduler's records only"), "{receipt}");
    assert_eq!(node.running().len(), 2, "they live on, and that is what the receipt says");
    node.set(Node::Healthy);
    cluster.until("the node ends what has no pod", async || node.running().is_empty()).await;
    cluster.end().await;
}

#[tokio::test]
async fn i2_a_policy_may_wait_for_the_node() {
    let Some(cluster) = Cluster::get().await else { return };
    let node = Kubelet::start(&cluster, "n1");
    let scheduler =
        cluster.builder(client(cluster.config.clone()).unwrap()).unconfirmed(Unconfirmed::Wait).limit(ms(3000)).build();
    cluster.start(&scheduler, 1, LEAVES).await;
    node.set(Node::CutOff);
    let error = stop(&scheduler, true).await.unwrap_err();
    assert!(error.is_retryable());
    assert!(error.to_string().contains("`words-7-1` on node `n1`, terminating, its node has not said"), "{error}");
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), workers([1]), "a terminating pod is alive");
    let (stopped, ()) = tokio::join!(stop(&scheduler, true), async {
        tokio::time::sleep(ms(300)).await;
        node.set(Node::Healthy);
    });
    stopped.unwrap();
    assert_eq!(scheduler.confirmed_by(&job(), Some(RUN)), ConfirmedBy::Host);
    cluster.end().await;
}

#[tokio::test]
async fn a_node_without_power_is_not_told_apart_from_one_that_is_cut_off() {
    let Some(cluster) = Cluster::get().await else { return };
    let node = Kubelet::start(&cluster, "n1");
    let scheduler =
        cluster.builder(client(cluster.config.clone()).unwrap()).unconfirmed(Unconfirmed::RemoveAfter(Duration::ZERO));
    let scheduler = scheduler.build();
    cluster.start(&scheduler, 1, LEAVES).await;
    node.set(Node::Off);
    cluster.until("the power is out", async || node.running().is_empty()).await;
    assert_eq!(killed(&force(&scheduler).await), ConfirmedBy::Records);
    cluster.end().await;
}

#[tokio::test]
async fn a_pod_that_a_finalizer_holds_is_alive_and_the_error_names_the_finalizer() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.builder(client(cluster.config.clone()).unwrap()).limit(ms(4000)).build();
    cluster.start(&scheduler, 2, LEAVES).await;
    cluster.patch("words-7-2", json!({ "metadata": { "finalizers": ["example.com/backup"] } })).await;
    let error = stop(&scheduler, true).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("got 1: `words-7-2`"), "{error}");
    assert!(error.to_string().contains("held by the finalizers example.com/backup"), "{error}");
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), workers([2]));
    let (stopped, ()) = tokio::join!(stop(&scheduler, true), async {
        tokio::time::sleep(ms(300)).await;
        cluster.patch("words-7-2", json!({ "metadata": { "finalizers": null } })).await;
    });
    stopped.unwrap();
    cluster.end().await;
}

/// Between the list and the deletion, the pod goes and a newer run's takes its name. The server
/// refuses by the UID (409), and the new one lives.
#[tokio::test]
async fn i11_a_pod_of_a_newer_run_with_the_same_name_is_not_killed() {
    let Some(cluster) = Cluster::get().await else { return };
    let node = Kubelet::start(&cluster, "n1");
    let go = Arc::new(Notify::new());
    let hold = Arc::clone(&go);
    let tap =
        Tap::on(
            cluster.config.clone(),
            move |method, _| {
                if method == "DELETE" { Act::Hold(Arc::clone(&hold)) } else { Act::Pass }
            },
        );
    let scheduler = cluster.builder(tap.client()).build();
    cluster.start(&scheduler, 1, LEAVES).await;
    let old = cluster.pod("words-7-1").await.unwrap();
    let (stopped, newer) = tokio::join!(stop(&scheduler, true), async {
        cluster.until("the order is under way", async || tap.asked("DELETE") == 1).await;
        cluster.remove("words-7-1").await;
        let mut newer = old.clone();
        newer.status = None;
        newer.metadata.uid = None;
        newer.metadata.resource_version = None;
        newer.metadata.labels.as_mut().unwrap().insert(kubernetes::RUN_LABEL.to_owned(), "8".to_owned());
        newer.spec.as_mut().unwrap().node_name = None;
        let newer = cluster.pods().create(&kube::api::PostParams::default(), &newer).await.unwrap();
        go.notify_one();
        newer
    });
    stopped.unwrap();
    let there = cluster.pod("words-7-1").await.unwrap();
    assert_eq!((there.metadata.uid, there.metadata.deletion_timestamp), (newer.metadata.uid, None));
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), []);
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN.next())).await.unwrap(), workers([1]));

    // What the server says to it, for the record.
    let preconditions = kube::api::Preconditions { uid: old.metadata.uid, resource_version: None };
    let params = kube::api::DeleteParams { preconditions: Some(preconditions), ..Default::default() };
    let kube::Error::Api(status) = cluster.pods().delete("words-7-1", &params).await.unwrap_err() else { panic!() };
    assert_eq!(status.code, 409, "{status:?}");
    cluster.remove("words-7-1").await;
    drop(node);
    cluster.end().await;
}

#[tokio::test]
async fn two_hundred_pods_stop_at_once_with_no_more_requests_in_flight_than_allowed() {
    let Some(cluster) = Cluster::get().await else { return };
    let tap = Tap::on(cluster.config.clone(), |_, _| Act::Pass);
    let scheduler = cluster.builder(tap.client()).in_flight(8).build();
    let start = |number| scheduler.start(env_of(RUN, number), shell(LEAVES));
    for result in futures_util::future::join_all((1..=200).map(start)).await {
        result.unwrap();
    }
    assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), workers(1..=200));
    stop(&scheduler, true).await.unwrap();
    assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), []);
    assert_eq!(scheduler.confirmed_by(&job(), Some(RUN)), ConfirmedBy::Host, "none was ever given to a node");
    assert_eq!((tap.asked("DELETE"), tap.most_in_flight()), (200, 8));
    cluster.end().await;
}

#[tokio::test]
async fn one_that_finds_another_ones_pods_stops_them_and_does_not_say_more_than_it_knows() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    cluster.start(&cluster.scheduler(), 2, LEAVES).await;
    let next = cluster.scheduler();
    assert_eq!(next.workers_for_job(&job(), Some(RUN)).await.unwrap(), workers(1..=2));
    assert_eq!(killed(&force(&next).await), ConfirmedBy::Records);
    cluster.end().await;
}

#[tokio::test]
async fn an_eviction_is_heard_of_before_the_pod_is_gone() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.scheduler();
    cluster.start(&scheduler, 2, STAYS).await;
    let mut follower = scheduler.follow(job(), RUN);
    cluster.pods().evict("words-7-2", &kube::api::EvictParams::default()).await.unwrap();
    assert_eq!(follower.next().await.unwrap(), (WorkerId::new(2), kubernetes::PodChange::Leaving));
    assert!(cluster.is_terminating("words-7-2").await);
    let ended = kubernetes::PodChange::Ended { code: Some(137) };
    assert_eq!(follower.next().await.unwrap(), (WorkerId::new(2), ended));
    // Its object goes without the scheduler's doing; who follows has seen it end.
    cluster.until("the pod is gone", async || cluster.pod("words-7-2").await.is_none()).await;
    scheduler.stop_workers(&job(), None, true).await.unwrap();
    assert_eq!(scheduler.confirmed_by(&job(), Some(RUN)), ConfirmedBy::Host);
    cluster.end().await;
}

/// Silence would tell it only after an hour.
#[tokio::test]
async fn u9_a_pod_that_ends_is_heard_of_at_once_by_one_line() {
    struct Deaf;
    impl Transport for Deaf {
        async fn send(&self, _: WorkerId, _: Order) -> Result<(), OrderError> {
            Ok(())
        }
    }
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.scheduler();
    cluster.start(&scheduler, 2, LEAVES).await;
    let limits = Limits { heartbeat: Duration::from_secs(3600), checkpoint_every: None, ..Limits::default() };
    let topology = Topology::builder().operator("source", Role::Source, workers(1..=2)).build().unwrap();
    let controller = ClusterController::builder(&OpenRun::without_store(job(), RUN), topology, Arc::new(Deaf))
        .limits(limits.clone())
        .build();
    let (mut job, running) = JobContext::builder(&OpenRun::without_store(job(), RUN))
        .simulated()
        .limits(limits)
        .build(controller, scheduler)
        .unwrap();
    job.hear_of_ends();
    cluster.pods().delete("words-7-2", &kube::api::DeleteParams::default()).await.unwrap();
    let after = tokio::time::timeout(SOON, running.next(&mut job)).await.unwrap().unwrap();
    assert_eq!((after.kind(), job.progress_now().reason.workers()), (PhaseKind::Recovering, &[WorkerId::new(2)][..]));
    drop(drive(after, &mut job, &Policy::escalate()).await.unwrap());
    cluster.end().await;
}
