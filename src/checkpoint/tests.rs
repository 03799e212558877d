//! What every place keeps of the store's contract; the submodules test the hard cases.

mod crash;
mod damage;
mod fencing;
mod format;
mod local;
mod probe;

use std::num::NonZeroUsize;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, memory::InMemory, path::Path};
use tempfile::TempDir;

use super::*;
use crate::contracts::{Epoch, TaskId, TaskSnapshot};

fn job() -> JobId {
    JobId::new("job")
}

fn manifest(run: u64, epoch: u64) -> Manifest {
    Manifest {
        job: job(),
        run: RunId::new(run),
        epoch: Epoch::new(epoch),
        then_stop: false,
        tasks: vec![TaskSnapshot {
            task: TaskId::new(0, 1),
            snapshot: Bytes::from(format!("state {epoch}")),
            commit: Some(Bytes::from_static(b"\x00\xff")),
            finished: false,
        }],
    }
}

/// The same run and epoch as [`manifest`], with other contents.
fn other_manifest(run: u64, epoch: u64) -> Manifest {
    Manifest { tasks: vec![], ..manifest(run, epoch) }
}

fn in_memory() -> (Arc<InMemory>, ObjectStoreCheckpoints) {
    let memory = Arc::new(InMemory::new());
    let store = ObjectStoreCheckpoints::new(Arc::clone(&memory) as _, "checkpoints");
    (memory, store)
}

fn in_folder() -> (TempDir, ObjectStoreCheckpoints) {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStoreCheckpoints::local(folder.path().join("not/yet/there")).unwrap();
    (folder, store)
}

/// Every place that a test should hold at.
fn places() -> Vec<(Option<TempDir>, ObjectStoreCheckpoints)> {
    let (folder, local) = in_folder();
    vec![(None, in_memory().1), (Some(folder), local)]
}

async fn objects(store: &dyn ObjectStore) -> Vec<String> {
    let mut paths: Vec<_> = store.list(None).map_ok(|object| object.location.to_string()).try_collect().await.unwrap();
    paths.sort();
    paths
}

async fn overwrite(store: &dyn ObjectStore, path: &str, object: impl Into<PutPayload>) {
    store.put(&Path::parse(path).unwrap(), object.into()).await.unwrap();
}

async fn object(store: &dyn ObjectStore, path: &str) -> Bytes {
    store.get(&Path::parse(path).unwrap()).await.unwrap().bytes().await.unwrap()
}

#[tokio::test]
async fn a_new_job_starts_with_run_1_and_nothing_to_restore() {
    for (_folder, store) in places() {
        assert_eq!(store.latest(&job()).await.unwrap(), None);
        assert_eq!(store.open_run(&job()).await.unwrap(), OpenRun::new(job(), RunId::new(1), None).unwrap());
        assert_eq!(store.open_run(&job()).await.unwrap(), OpenRun::new(job(), RunId::new(2), None).unwrap());
    }
}

#[tokio::test]
async fn a_new_run_starts_from_the_last_manifest() {
    for (_folder, store) in places() {
        store.open_run(&job()).await.unwrap();
        for epoch in 1..=5 {
            store.publish(&manifest(1, epoch)).await.unwrap();
            assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, epoch)));
        }
        let expected = OpenRun::new(job(), RunId::new(2), Some(manifest(1, 5))).unwrap();
        assert_eq!(store.open_run(&job()).await.unwrap(), expected);
        // A run that ends without a checkpoint hides nothing.
        let expected = OpenRun::new(job(), RunId::new(3), Some(manifest(1, 5))).unwrap();
        assert_eq!(store.open_run(&job()).await.unwrap(), expected);
        assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, 5)));
    }
}

#[tokio::test]
async fn publishing_the_same_manifest_again_is_ok_and_adds_nothing() {
    let (memory, store) = in_memory();
    store.open_run(&job()).await.unwrap();
    store.publish(&manifest(1, 1)).await.unwrap();
    let before = objects(&*memory).await;
    store.publish(&manifest(1, 1)).await.unwrap();
    assert_eq!(objects(&*memory).await, before);
    store.publish(&manifest(1, 2)).await.unwrap();
    store.publish(&manifest(1, 1)).await.unwrap();
    assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, 2)), "an old one does not come back as the last");
}

#[tokio::test]
async fn another_manifest_of_the_same_epoch_is_a_conflict() {
    for (_folder, store) in places() {
        store.open_run(&job()).await.unwrap();
        store.publish(&manifest(1, 1)).await.unwrap();
        for _ in 0..2 {
            let error = store.publish(&other_manifest(1, 1)).await.unwrap_err();
            assert!(matches!(error, StoreError::Conflict { by, .. } if by == RunId::new(1)), "{error}");
            assert!(!error.is_retryable());
            // The second time it is not the last one any more.
            store.publish(&manifest(1, 2)).await.unwrap();
        }
        assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, 2)));
    }
}

#[tokio::test]
async fn an_epoch_must_be_above_the_last_one() {
    for (_folder, store) in places() {
        store.open_run(&job()).await.unwrap();
        store.publish(&manifest(1, 7)).await.unwrap();
        store.open_run(&job()).await.unwrap();
        for epoch in [6, 7] {
            let error = store.publish(&manifest(2, epoch)).await.unwrap_err();
            let expected = format!(
                "expected an epoch of job `job` above epoch 7, which run 1 published, got epoch {epoch}; \
                 start from the last checkpoint"
            );
            assert_eq!(error.to_string(), expected);
            assert!(!error.is_retryable());
        }
        store.publish(&manifest(2, 8)).await.unwrap();
        let error = store.publish(&manifest(2, 5)).await.unwrap_err();
        assert!(matches!(error, StoreError::StaleEpoch { by, .. } if by == RunId::new(2)), "{error}");
        assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(2, 8)));
    }
}

#[tokio::test]
async fn a_run_with_a_number_of_its_own_enters_with_its_first_manifest() {
    for (_folder, store) in places() {
        store.publish(&manifest(40, 1)).await.unwrap();
        let error = store.publish(&manifest(39, 2)).await.unwrap_err();
        assert!(matches!(error, StoreError::Fenced { newer, .. } if newer == RunId::new(40)), "{error}");
        let expected = OpenRun::new(job(), RunId::new(41), Some(manifest(40, 1))).unwrap();
        assert_eq!(store.open_run(&job()).await.unwrap(), expected);
        store.publish(&manifest(50, 2)).await.unwrap();
        let error = store.publish(&manifest(41, 3)).await.unwrap_err();
        assert!(matches!(error, StoreError::Fenced { newer, .. } if newer == RunId::new(50)), "{error}");
    }
}

#[tokio::test]
async fn only_the_last_manifests_are_kept() {
    for keep in 1..=4 {
        let (memory, store) = in_memory();
        let store = store.keeping(NonZeroUsize::new(keep).unwrap());
        for run in 1..=3 {
            store.open_run(&job()).await.unwrap();
            for epoch in 1..=5 {
                store.publish(&manifest(run, run * 10 + epoch)).await.unwrap();
                let expected = keep.min(usize::try_from((run - 1) * 5 + epoch).unwrap());
                assert_eq!(objects(&*memory).await.len(), expected);
            }
        }
        // Claims without a checkpoint, as a job in a crash loop makes them, don't add up either.
        for _ in 0..5 {
            assert_eq!(store.open_run(&job()).await.unwrap().manifest(), Some(&manifest(3, 35)));
            assert_eq!(objects(&*memory).await.len(), keep + 1);
        }
    }
}

#[tokio::test]
async fn a_large_manifest_leaves_the_thread_to_others() {
    let (_memory, store) = in_memory();
    let task = |subtask| TaskSnapshot { task: TaskId::new(0, subtask), ..manifest(1, 1).tasks.remove(0) };
    let large = Manifest { tasks: (0..5_000).map(task).collect(), ..manifest(1, 1) };
    store.open_run(&job()).await.unwrap();
    let mut publish = std::pin::pin!(store.publish(&large));
    let mut polls = 0;
    // In memory nothing else is ever pending, so a call that does its own encoding would be ready
    // at once.
    std::future::poll_fn(|context| {
        polls += 1;
        publish.as_mut().poll(context)
    })
    .await
    .unwrap();
    assert!(polls > 1);
    assert_eq!(store.latest(&job()).await.unwrap().as_ref(), Some(&large));
}

#[tokio::test]
async fn jobs_do_not_see_each_other() {
    let names = ["a", "a/b", "a/log", "log", "", "%", "%25", "..", ".", "ü", "A b#1", "00000000000000000001", "\0"];
    for (_folder, store) in places() {
        for (position, name) in names.iter().enumerate() {
            let epoch = Epoch::new(position as u64 + 1);
            let manifest = Manifest { job: JobId::new(*name), epoch, ..manifest(1, 0) };
            assert_eq!(store.open_run(&manifest.job).await.unwrap().run(), RunId::new(1), "{name:?}");
            store.publish(&manifest).await.unwrap();
        }
        for (position, name) in names.iter().enumerate() {
            let latest = store.latest(&JobId::new(*name)).await.unwrap().unwrap();
            assert_eq!(latest.epoch, Epoch::new(position as u64 + 1), "{name:?}");
        }
    }
}

#[tokio::test]
async fn objects_with_other_names_are_no_entries() {
    let (memory, store) = in_memory();
    store.open_run(&job()).await.unwrap();
    for name in ["README", "2", "0000000000000000000x", "99999999999999999999", "00000000000000000009/deeper"] {
        overwrite(&*memory, &format!("checkpoints/job/log/{name}"), "not ours").await;
    }
    store.publish(&manifest(1, 1)).await.unwrap();
    assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, 1)));
}

#[tokio::test]
async fn a_store_that_fails_is_unavailable_and_worth_a_retry() {
    let (probe, store) = probe::probed(&InMemory::new().into());
    probe.crash_after(0);
    let error = store.open_run(&job()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.is_retryable());
}
