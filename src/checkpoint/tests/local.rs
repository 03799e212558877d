//! The local folder.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::{super::local, *};

#[tokio::test]
async fn an_unfinished_file_is_no_entry() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStoreCheckpoints::local(folder.path()).unwrap();
    store.open_run(&job()).await.unwrap();
    store.publish(&manifest(1, 1)).await.unwrap();
    let log = folder.path().join("job/log");
    // What a crash in the middle of a put leaves: the first bytes of the next entry, under a name
    // of its own.
    for name in ["00000000000000000003#1", "00000000000000000009#1"] {
        fs::write(log.join(name), "winddown-log 1 2").unwrap();
    }
    assert_eq!(store.latest(&job()).await.unwrap(), Some(manifest(1, 1)));
    store.publish(&manifest(1, 2)).await.unwrap();
    let expected = OpenRun::new(job(), RunId::new(2), Some(manifest(1, 2))).unwrap();
    assert_eq!(store.open_run(&job()).await.unwrap(), expected);
}

#[tokio::test]
async fn unfinished_files_are_deleted_once_they_are_old() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStoreCheckpoints::local(folder.path()).unwrap();
    store.open_run(&job()).await.unwrap();
    let log = folder.path().join("job/log");
    let [old, young, foreign] = ["00000000000000000001#7", "00000000000000000002#1", "notes#1"].map(|name| {
        let file = log.join(name);
        fs::write(&file, "").unwrap();
        file
    });
    for file in [&old, &foreign] {
        let long_ago = SystemTime::now() - Duration::from_secs(2 * 60 * 60);
        fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
    store.open_run(&job()).await.unwrap();
    assert!(!old.exists());
    assert!(young.exists(), "its writer may be alive");
    assert!(foreign.exists(), "it is not ours");
}

#[tokio::test]
async fn every_folder_up_to_the_root_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let root = local::LocalFolder::create(&folder.path().join("a/b")).unwrap();
    let log = root.root().join("job/log");
    let expected = [log.clone(), root.root().join("job"), root.root().to_path_buf()];
    assert_eq!(root.folders(&log), expected);
    let error = root.settle(log).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "a folder that can't be synced is an error: {error}");
}

#[tokio::test]
async fn a_store_survives_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let open = || ObjectStoreCheckpoints::local(folder.path()).unwrap();
    open().open_run(&job()).await.unwrap();
    open().publish(&manifest(1, 1)).await.unwrap();
    open().publish(&manifest(1, 2)).await.unwrap();
    assert_eq!(open().latest(&job()).await.unwrap(), Some(manifest(1, 2)));
}

#[tokio::test]
async fn a_folder_that_is_a_file_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let result = ObjectStoreCheckpoints::local(&path).map(|_| ());
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{path:?}: {result:?}");
    }
}
