//! Two controllers, one lease.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::{sleep, timeout};
use winddown::{
    Scheduler,
    kubernetes::{LeaseCandidate, StartError, client},
};

use crate::cluster::{Act, Cluster, RUN, SOON, Tap, env_of, job, ms, shell};

fn candidate(cluster: &Cluster, identity: &str) -> LeaseCandidate {
    LeaseCandidate::new(client(cluster.config.clone()).unwrap(), &cluster.namespace, "words", identity).lasts(ms(3000))
}

#[tokio::test]
async fn a_released_lease_is_the_next_ones_at_once_and_its_old_holder_acts_no_more() {
    let Some(cluster) = Cluster::get().await else { return };
    let first = candidate(&cluster, "a").acquire().await.unwrap();
    let scheduler = cluster.builder(client(cluster.config.clone()).unwrap()).leadership(first.clone()).build();
    scheduler.start(env_of(RUN, 1), shell("exit")).await.unwrap();
    let waiting = tokio::spawn(candidate(&cluster, "b").acquire());
    // Longer than a lease: it is renewed.
    sleep(ms(4000)).await;
    assert!(first.is_held() && !waiting.is_finished());
    first.clone().release().await.unwrap();
    assert!(!first.is_held());
    let second = timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    assert!(second.is_held());

    let error = scheduler.start(env_of(RUN, 2), shell("exit")).await.unwrap_err();
    assert!(matches!(error, StartError::NotLeader(_)), "{error}");
    let error = scheduler.stop_workers(&job(), Some(RUN), true).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("does not hold the lease `words`"), "{error}");
    let scheduler = cluster.builder(client(cluster.config.clone()).unwrap()).leadership(second).build();
    scheduler.stop_workers(&job(), Some(RUN), true).await.unwrap();
    cluster.end().await;
}

/// The holder can't reach the API server any more. It stops acting before the other one may begin.
#[tokio::test]
async fn the_loser_stops_acting_before_the_winner_acts() {
    let Some(cluster) = Cluster::get().await else { return };
    let cut = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_cut = std::sync::Arc::clone(&cut);
    let tap = Tap::on(cluster.config.clone(), move |_, _| {
        let cut = is_cut.load(std::sync::atomic::Ordering::SeqCst);
        // Nobody ever gives the word.
        if cut { Act::Hold(std::sync::Arc::default()) } else { Act::Pass }
    });
    let first =
        LeaseCandidate::new(tap.client(), &cluster.namespace, "words", "a").lasts(ms(3000)).acquire().await.unwrap();
    let acting = tokio::spawn({
        let first = first.clone();
        async move { first.guard(std::future::pending::<()>()).await }
    });
    let winner = async {
        let second = candidate(&cluster, "b").acquire().await.unwrap();
        assert!(!first.is_held(), "both hold it");
        second
    };
    let (second, ()) = tokio::join!(timeout(SOON, winner), async {
        sleep(ms(1500)).await;
        cut.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    assert!(second.unwrap().is_held());
    let error = timeout(SOON, acting).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("does not hold the lease `words`"), "{error}");
    cluster.end().await;
}

#[tokio::test]
async fn a_lease_that_was_given_to_another_by_hand_is_lost_at_the_next_renewal() {
    let Some(cluster) = Cluster::get().await else { return };
    let held = candidate(&cluster, "a").acquire().await.unwrap();
    let leases = Api::<Lease>::namespaced(cluster.admin.clone(), &cluster.namespace);
    let there = leases.get("words").await.unwrap().spec.unwrap();
    assert!(there.holder_identity.unwrap().starts_with("a_"));
    let patch = json!({ "spec": { "holderIdentity": "c" } });
    leases.patch("words", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    timeout(SOON, held.lost()).await.unwrap();
    assert_eq!(
        leases.get("words").await.unwrap().spec.unwrap().holder_identity.as_deref(),
        Some("c"),
        "it is not fought for"
    );
    cluster.end().await;
}

#[tokio::test]
async fn of_two_that_come_at_once_one_gets_it() {
    let Some(cluster) = Cluster::get().await else { return };
    let candidates = ["a", "b", "c"].map(|name| tokio::spawn(candidate(&cluster, name).acquire()));
    cluster.until("somebody has it", async || candidates.iter().any(tokio::task::JoinHandle::is_finished)).await;
    sleep(ms(2000)).await;
    assert_eq!(candidates.iter().filter(|it| it.is_finished()).count(), 1);
    for candidate in candidates {
        candidate.abort();
    }
    cluster.end().await;
}
