//! Checkpoint stores: the log in a local folder and in memory.

use std::{fs, path::Path, sync::Arc};

use winddown::{
    JobId, ObjectStoreCheckpoints,
    checkpoint::object_store::{ObjectStore, ObjectStoreExt as _, memory::InMemory},
    testing::conformance::{self, Damage, Hook, Rule, StoreSubject},
};

use crate::{
    assert_kept,
    place::{Place, damage_file, damaged},
};

struct Folder(Place);

impl StoreSubject for Folder {
    type Store = ObjectStoreCheckpoints;

    async fn open(&self) -> ObjectStoreCheckpoints {
        ObjectStoreCheckpoints::local(self.0.path()).unwrap()
    }

    async fn crash(&self) -> Hook {
        self.0.crash();
        Hook::Done
    }

    async fn damage(&self, job: &JobId, damage: Damage) -> Hook {
        damage_file(&last_file(&self.0.path().join(job.as_str()).join("log")), damage);
        Hook::Done
    }
}

fn last_file(folder: &Path) -> std::path::PathBuf {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap()
}

#[tokio::test]
async fn the_log_in_a_folder_keeps_its_contract() {
    assert_kept(conformance::store(async || Folder(Place::new())).await, &[], &[]);
}

struct Memory(Arc<InMemory>);

impl StoreSubject for Memory {
    type Store = ObjectStoreCheckpoints;

    async fn open(&self) -> ObjectStoreCheckpoints {
        ObjectStoreCheckpoints::new(Arc::clone(&self.0) as _, "checkpoints")
    }

    async fn damage(&self, job: &JobId, damage: Damage) -> Hook {
        let log = winddown::checkpoint::object_store::path::Path::from(format!("checkpoints/{job}/log"));
        let objects = self.0.list_with_delimiter(Some(&log)).await.unwrap().objects;
        let last = objects.into_iter().map(|object| object.location).max().unwrap();
        let text = self.0.get(&last).await.unwrap().bytes().await.unwrap();
        self.0.put(&last, damaged(&text, damage).into()).await.unwrap();
        Hook::Done
    }
}

#[tokio::test]
async fn the_log_in_memory_keeps_its_contract() {
    let report = conformance::store(async || Memory(Arc::new(InMemory::new()))).await;
    // Memory survives nothing.
    assert_kept(report, &[Rule::StoreDurable], &[]);
}
