//! Records and manifests that prove nothing.

use std::sync::Arc;

use serde_json::json;
use winddown::{
    Epoch, JobContext, JobId, Limits, ObjectStoreCheckpoints, PhaseKind, Policy, Role, RunId, Scheduler, TaskId,
    Topology, WorkerId,
    checkpoint::object_store::memory::InMemory,
    contracts::{CheckpointStore, DynCheckpointStore, Manifest, TaskSnapshot},
    drive,
    drive::Unfit,
    journal::{Journal, JournalError, PhaseRecord},
    rehydrate,
    testing::scripted::*,
};

use super::*;

/// A journal that answers with this record, whoever asks.
#[derive(Clone)]
struct Says(PhaseRecord);

impl Journal for Says {
    async fn load(&self, _: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        Ok(Some(self.0.clone()))
    }

    async fn write(&self, _: &PhaseRecord) -> Result<(), JournalError> {
        Ok(())
    }
}

fn says(job: &str, phase: PhaseKind) -> Says {
    let record = json!({
        "job": job, "run": 7, "revision": 2, "phase": phase.tag(), "requested": "checkpoint", "final_epoch": 5,
        "last_complete": 5, "killed_workers": false, "attempt": 1, "at": "2026-01-01T00:00:00Z",
    });
    Says(serde_json::from_value(record).unwrap())
}

fn topology() -> Topology {
    Topology::builder().operator("source", Role::Source, [WorkerId::new(1), WorkerId::new(2)]).build().unwrap()
}

async fn store_of(job: &str, tasks: impl IntoIterator<Item = u32>) -> Arc<dyn DynCheckpointStore> {
    let store = ObjectStoreCheckpoints::new(Arc::new(InMemory::new()), "");
    let snapshot = |subtask| TaskSnapshot {
        task: TaskId::new(0, subtask),
        snapshot: "state".into(),
        commit: None,
        finished: false,
    };
    let tasks = tasks.into_iter().map(snapshot).collect();
    let manifest = Manifest { job: job.into(), run: RunId::new(7), epoch: Epoch::new(5), then_stop: true, tasks };
    store.publish(&manifest).await.unwrap();
    Arc::new(store)
}

#[tokio::test]
async fn u3_a_record_of_another_job_is_refused() {
    let error =
        rehydrate(&"mine".into(), says("other", PhaseKind::StoppedKilled), Fleet::default(), None, Limits::default())
            .await
            .unwrap_err();
    assert!(matches!(error.unfit(), Unfit::ForeignJob { .. }), "{error}");
}

#[tokio::test]
async fn u3_a_manifest_without_every_task_proves_nothing() {
    let topology = topology();
    for (tasks, whole) in [(vec![], false), (vec![0], false), (vec![0, 1, 2], false), (vec![0, 1], true)] {
        for end in [PhaseKind::StoppedCheckpointed, PhaseKind::StoppedCompleted] {
            let store = store_of("mine", tasks.clone()).await;
            let asked = Some((store, &topology));
            let found = rehydrate(&"mine".into(), says("mine", end), Fleet::default(), asked, Limits::default()).await;
            match found {
                Ok(found) => assert!(whole && found.unwrap().phase() == end, "{tasks:?}"),
                Err(error) => {
                    assert!(!whole && matches!(error.unfit(), Unfit::NotEveryTask { .. }), "{tasks:?}: {error}");
                }
            }
        }
        for under_way in [PhaseKind::CheckpointStopping, PhaseKind::Finishing] {
            let asked = Some((store_of("mine", tasks.clone()).await, &topology));
            let says = says("mine", under_way);
            let found = rehydrate(&"mine".into(), says, Fleet::default(), asked, Limits::default()).await;
            let phase = found.unwrap().unwrap().phase();
            assert_eq!(phase.is_terminal(), whole, "{tasks:?}: {phase}");
        }
    }
}

/// Its record is what the journal had, and the job goes on with that journal and that scheduler.
#[tokio::test(start_paused = true)]
async fn u3_what_was_checked_is_what_the_job_goes_on_with() {
    let (open, fleet, journal) = (open("u3 the same"), Fleet::default(), ScriptedJournal::default());
    fleet.appear(1);
    {
        let builder = JobContext::builder(&open).journal(journal.clone());
        let (mut job, running) = builder.build(obedient(), fleet.clone()).unwrap();
        let mut stopping = running.stop_gracefully(&mut job).unwrap();
        assert!(tokio::time::timeout(secs(0), stopping.run(&mut job)).await.is_err());
    }
    let found = rehydrate(open.job(), journal.clone(), fleet.clone(), None, Limits::default()).await.unwrap().unwrap();
    assert_eq!((found.record().run(), found.open().run()), (open.run(), open.run()));
    let written = journal.records().len();
    let (mut job, phase) = found.build(obedient()).await.unwrap();
    let _: &Fleet = job.scheduler();
    let receipt = drive(phase, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "drained");
    assert!(journal.records().len() > written, "it was written into the journal that was read");
    assert_eq!(fleet.workers_for_job(open.job(), None).await.unwrap(), [], "it was the scheduler that was asked");
}
