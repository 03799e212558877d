//! Stale controllers, and races for the log.

use std::{collections::BTreeSet, time::Duration};

use super::*;

fn is_fenced(result: &Result<(), StoreError>, by: u64) -> bool {
    matches!(result, Err(StoreError::Fenced { newer, .. }) if *newer == RunId::new(by))
}

#[tokio::test]
async fn i11_a_stale_run_cannot_publish() {
    for (_folder, store) in places() {
        store.open_run(&job()).await.unwrap();
        store.publish(&manifest(1, 1)).await.unwrap();
        store.open_run(&job()).await.unwrap();
        assert!(is_fenced(&store.publish(&manifest(1, 2)).await, 2));
        assert!(is_fenced(&store.publish(&manifest(1, 1)).await, 2), "not even what it had published before");
        assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, 1)));
        store.publish(&manifest(2, 2)).await.unwrap();
        assert!(is_fenced(&store.publish(&manifest(1, 3)).await, 2));
        assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(2, 2)));
    }
}

/// The controller of run 1 looks, sleeps, and puts when its number has been used, pruned, and is
/// free again.
#[tokio::test]
async fn i11_a_stale_run_cannot_publish_into_a_pruned_number() {
    let memory = Arc::new(InMemory::new());
    let (probe, stale) = probe::probed(&memory);
    let fresh = ObjectStoreCheckpoints::new(Arc::clone(&memory) as _, "checkpoints");
    stale.open_run(&job()).await.unwrap();
    stale.publish(&manifest(1, 1)).await.unwrap();

    let held = probe.hold_next_put();
    let publish = tokio::spawn({
        let stale = stale.clone();
        async move { stale.publish(&manifest(1, 2)).await }
    });
    held.reached.await.unwrap();
    fresh.open_run(&job()).await.unwrap();
    for epoch in 2..=9 {
        fresh.publish(&manifest(2, epoch)).await.unwrap();
    }
    let hole = "checkpoints/job/log/00000000000000000003".to_owned();
    assert!(!objects(&*memory).await.contains(&hole), "the number must be free, or the test shows nothing");
    held.go_on.send(()).unwrap();

    assert!(is_fenced(&publish.await.unwrap(), 2));
    assert!(objects(&*memory).await.contains(&hole), "the put itself went through");
    assert_eq!(fresh.latest(&job()).await.unwrap(), Some(manifest(2, 9)));
    let expected = OpenRun::new(job(), RunId::new(3), Some(manifest(2, 9))).unwrap();
    assert_eq!(fresh.open_run(&job()).await.unwrap(), expected);
    assert!(!objects(&*memory).await.contains(&hole), "the stray entry goes with the next pruning");
}

/// The same hole, after claims alone: run 2 and 3 never published, and the stray manifest is above
/// the last published one.
#[tokio::test]
async fn i11_a_stray_manifest_is_never_restored() {
    let memory = Arc::new(InMemory::new());
    let (probe, stale) = probe::probed(&memory);
    let fresh = ObjectStoreCheckpoints::new(Arc::clone(&memory) as _, "checkpoints");
    stale.open_run(&job()).await.unwrap();
    stale.publish(&manifest(1, 1)).await.unwrap();

    let held = probe.hold_next_put();
    let publish = tokio::spawn({
        let stale = stale.clone();
        async move { stale.publish(&manifest(1, 2)).await }
    });
    held.reached.await.unwrap();
    fresh.open_run(&job()).await.unwrap();
    fresh.open_run(&job()).await.unwrap();
    held.go_on.send(()).unwrap();
    assert!(is_fenced(&publish.await.unwrap(), 3));

    assert_eq!(fresh.latest(&job()).await.unwrap(), Some(manifest(1, 1)));
    assert_eq!(fresh.open_run(&job()).await.unwrap().manifest(), Some(&manifest(1, 1)));
}

#[tokio::test]
async fn i11_a_claim_into_a_pruned_number_gives_no_run_twice() {
    let memory = Arc::new(InMemory::new());
    let (probe, slow) = probe::probed(&memory);
    let quick = ObjectStoreCheckpoints::new(Arc::clone(&memory) as _, "checkpoints");

    let held = probe.hold_next_put();
    let open = tokio::spawn({
        let slow = slow.clone();
        async move { slow.open_run(&job()).await }
    });
    held.reached.await.unwrap();
    for run in 1..=4 {
        assert_eq!(quick.open_run(&job()).await.unwrap().run(), RunId::new(run));
    }
    assert_eq!(objects(&*memory).await, ["checkpoints/job/log/00000000000000000004"], "number 1 must be free");
    held.go_on.send(()).unwrap();
    assert_eq!(open.await.unwrap().unwrap().run(), RunId::new(5));
}

/// A newer run claims while a publish is on its way: whoever is first, the two agree.
#[tokio::test]
async fn i11_a_publish_that_was_ok_is_what_the_next_run_starts_from() {
    let memory = Arc::new(InMemory::new());
    let (probe, old) = probe::probed(&memory);
    let new = ObjectStoreCheckpoints::new(Arc::clone(&memory) as _, "checkpoints");
    old.open_run(&job()).await.unwrap();
    let held = probe.hold_next_put();
    let publish = tokio::spawn({
        let old = old.clone();
        async move { old.publish(&manifest(1, 1)).await }
    });
    held.reached.await.unwrap();
    let restored = new.open_run(&job()).await.unwrap();
    held.go_on.send(()).unwrap();
    assert!(is_fenced(&publish.await.unwrap(), 2));
    assert_eq!(restored.manifest(), None);
    assert_eq!(new.latest(&job()).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn racing_controllers_get_different_runs() {
    const EACH: usize = 12;
    let (folder, _) = in_folder();
    let memory = Arc::new(InMemory::new());
    // Two stores on one place, as two processes have them.
    let local = || ObjectStoreCheckpoints::local(folder.path()).unwrap();
    let remote = || ObjectStoreCheckpoints::new(Arc::clone(&memory) as _, "checkpoints");
    for stores in [[local(), local()], [remote(), remote()]] {
        let mut openers = tokio::task::JoinSet::new();
        for opener in 0..2 * EACH {
            let store = stores[opener % 2].clone();
            openers.spawn(async move { store.open_run(&job()).await.unwrap().run() });
        }
        let runs: BTreeSet<_> = openers.join_all().await.into_iter().collect();
        assert_eq!(runs.len(), 2 * EACH, "{runs:?}");
        let next = stores[0].open_run(&job()).await.unwrap().run();
        assert!(runs.iter().all(|run| *run < next));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_controllers_with_one_run_number_one_publishes_an_epoch() {
    for (_folder, store) in places() {
        store.open_run(&job()).await.unwrap();
        for epoch in 1..=8 {
            let (one, two) = (store.clone(), store.clone());
            let one = tokio::spawn(async move { one.publish(&manifest(1, epoch)).await });
            let two = tokio::spawn(async move { two.publish(&other_manifest(1, epoch)).await });
            let (one, two) = (one.await.unwrap(), two.await.unwrap());
            let published = store.latest(&job()).await.unwrap().unwrap();
            let (loser, winner) = if one.is_ok() { (two, manifest(1, epoch)) } else { (one, other_manifest(1, epoch)) };
            assert!(matches!(loser, Err(StoreError::Conflict { .. })), "{loser:?}");
            assert_eq!(published, winner);
        }
    }
}

/// Dropping a call at any point loses nothing: the same call again completes it.
#[tokio::test(start_paused = true)]
async fn a_dropped_publish_can_be_published_again() {
    let memory = Arc::new(InMemory::new());
    let (probe, store) = probe::probed(&memory);
    store.open_run(&job()).await.unwrap();
    let held = probe.hold_next_put();
    tokio::time::timeout(Duration::from_secs(1), store.publish(&manifest(1, 1))).await.unwrap_err();
    drop(held);
    store.publish(&manifest(1, 1)).await.unwrap();
    assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, 1)));
}
