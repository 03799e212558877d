//! Creates that are in flight when a run is stopped.

use std::{
    env,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
};

use kube::api::ListParams;
use tokio::{sync::Notify, time::timeout};
use winddown::{
    contracts::{Detached, OpenRun, RunId, Scheduler, StopRequest},
    drive::{Policy, drive},
    kubernetes::{KubernetesScheduler, StartError},
    machine::{AnyStopped, JobContext},
};

use crate::cluster::{Act, Cluster, RUN, SOON, Tap, env_of, job, ms, shell, workers};

/// How many forced stops are tried; 1,000 of them, now and then.
fn rounds() -> u64 {
    env::var("WINDDOWN_TEST_FORCED_STOPS").map_or(20, |text| text.parse().unwrap())
}

async fn force(scheduler: &KubernetesScheduler, run: RunId) {
    let open = OpenRun::without_store(job(), run);
    let (mut context, running) = JobContext::builder(&open).simulated().build(Detached, scheduler.clone()).unwrap();
    context.sender().request(StopRequest::Force).unwrap();
    let receipt = timeout(SOON, drive(running, &mut context, &Policy::escalate())).await.expect("it ends").unwrap();
    assert!(matches!(receipt.stopped(), AnyStopped::Killed(_)), "{receipt}");
}

async fn pods(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pods().list(&ListParams::default()).await.unwrap().items;
    pods.into_iter().filter_map(|pod| pod.metadata.name).collect()
}

/// Creates are let through by the test: on the server one of them takes effect after the stop has
/// listed the pods.
#[tokio::test]
async fn i2_b1_a_pod_whose_create_is_in_flight_is_alive_and_does_not_survive_a_forced_stop() {
    let Some(cluster) = Cluster::get().await else { return };
    let (go, is_held) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let script = {
        let (go, is_held) = (Arc::clone(&go), Arc::clone(&is_held));
        move |method: &str, _: &str| {
            if method != "POST" {
                return Act::Pass;
            }
            is_held.store(true, Ordering::SeqCst);
            Act::Hold(Arc::clone(&go))
        }
    };
    let tap = Tap::on(cluster.config.clone(), script);
    let scheduler = cluster.builder(tap.client()).build();
    for is_dropped in [false, true] {
        let run = RunId::new(RUN.get() + u64::from(is_dropped));
        is_held.store(false, Ordering::SeqCst);
        let starting = {
            let scheduler = scheduler.clone();
            tokio::spawn(async move { scheduler.start(env_of(run, 1), shell("exec sleep 600")).await })
        };
        cluster.until("the create is under way", async || is_held.load(Ordering::SeqCst)).await;
        if is_dropped {
            starting.abort();
        }
        assert_eq!(scheduler.workers_for_job(&job(), Some(run)).await.unwrap(), workers([1]), "it is listed");
        let again = scheduler.start(env_of(run, 1), shell("exec sleep 600")).await;
        assert!(matches!(again, Err(StartError::UnderWay { .. })), "{again:?}");
        let before = tap.asked("GET");
        let ((), ()) = tokio::join!(force(&scheduler, run), async {
            cluster.until("the stop lists the pods", async || tap.asked("GET") > before).await;
            tokio::time::sleep(ms(200)).await;
            go.notify_one();
        });
        assert_eq!(pods(&cluster).await, [""; 0], "dropped: {is_dropped}");
        if !is_dropped {
            let started = starting.await.unwrap();
            assert!(matches!(started, Err(StartError::Stopped { .. })), "{started:?}");
        }
        let later = scheduler.start(env_of(run, 2), shell("exec sleep 600")).await;
        assert!(matches!(later, Err(StartError::Stopped { .. })), "{later:?}");
        assert_eq!(pods(&cluster).await, [""; 0]);
    }
    cluster.end().await;
}

/// A create that was given up may take effect later: until that can't be any more it is not known
/// that nothing is alive.
#[tokio::test]
async fn i2_b2_a_create_whose_answer_was_not_heard_is_not_taken_for_none() {
    let Some(cluster) = Cluster::get().await else { return };
    let tap = Tap::on(
        cluster.config.clone(),
        |method, _| {
            if method == "POST" { Act::Hold(Arc::default()) } else { Act::Pass }
        },
    );
    let scheduler = cluster.builder(tap.client()).limit(ms(600)).request_limit(ms(300)).build();
    let error = scheduler.start(env_of(RUN, 1), shell("exec sleep 600")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), workers([1]));
    let error = scheduler.stop_workers(&job(), Some(RUN), true).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("workers 1 of which it is not known whether they were created"), "{error}");
    // Other runs are nobody's business.
    scheduler.stop_workers(&job(), Some(RUN.next()), true).await.unwrap();
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_b1_forced_stops_leave_no_pod_of_a_start_in_flight() {
    let Some(cluster) = Cluster::get().await else { return };
    let scheduler = cluster.scheduler();
    let (mut started, mut refused) = (0, 0);
    for round in 1..=rounds() {
        let run = RunId::new(round);
        let mut starts = Vec::new();
        for number in 1..=4 {
            let scheduler = scheduler.clone();
            if number == 4 {
                // Dropped after its first step, in which it was called.
                let start = pin!(scheduler.start(env_of(run, number), shell("exec sleep 600")));
                let _ = start.poll(&mut Context::from_waker(Waker::noop()));
                continue;
            }
            let start = async move { scheduler.start(env_of(run, number), shell("exec sleep 600")).await };
            starts.push(tokio::spawn(start));
        }
        // Some rounds wait for a step or two of the starts, or for the first of them.
        match round % 4 {
            3 => tokio::time::sleep(ms(3)).await,
            steps => {
                for _ in 0..steps {
                    tokio::task::yield_now().await;
                }
            }
        }
        force(&scheduler, run).await;
        assert_eq!(pods(&cluster).await, [""; 0], "round {round}: a pod after `Stopped`");
        for start in starts {
            match start.await.unwrap() {
                Ok(_) => started += 1,
                Err(StartError::Stopped { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(pods(&cluster).await, [""; 0], "round {round}: a start that was called before the stop made a pod");
    }
    println!("{} forced stops, {started} pods created and deleted, {refused} starts refused", rounds());
    assert_eq!(started + refused, rounds() * 3);
    cluster.end().await;
}

/// A label that somebody has changed makes a pod nobody's worker, and not nobody.
#[tokio::test]
async fn i2_b2_a_pod_with_a_changed_label_is_an_error_and_is_stopped() {
    let Some(cluster) = Cluster::get().await else { return };
    let scheduler = cluster.scheduler();
    scheduler.start(env_of(RUN, 1), shell("exec sleep 600")).await.unwrap();
    cluster.patch("words-7-1", serde_json::json!({ "metadata": { "labels": { "winddown/worker": "x" } } })).await;
    let error = scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap_err();
    assert!(
        error.to_string().contains("`words-7-1` is the job's, and its label `winddown/worker` holds no number"),
        "{error}"
    );
    scheduler.stop_workers(&job(), Some(RUN), true).await.unwrap();
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), []);
    cluster.end().await;
}
