//! The boxed forms of the contracts go wherever the generic ones do.

use std::{sync::Arc, time::Duration};

use winddown::{
    AnyPhase, ClusterController, FileJournal, JobContext, JobController, ObjectStoreCheckpoints, OpenRun, Policy,
    Scheduler, StopRequest,
    contracts::{
        BoxController, BoxScheduler, BoxStore, BoxTransport, CheckpointStore, DynTransport, Transport, WorkerStopMode,
    },
    drive,
    journal::{BoxJournal, Journal, NoJournal},
    testing::scripted::{Does, ScriptedController, ScriptedScheduler, Told},
};

use super::{Deaf, RUN, topology};

/// A job of any kind.
type AnyJob = (JobContext<BoxController, BoxScheduler>, AnyPhase);

fn scripted(journal: BoxJournal) -> AnyJob {
    let controller = ScriptedController::new(2);
    controller.on(Told::Stop(WorkerStopMode::Immediate), Duration::from_secs(1), Does::Finish);
    let builder = JobContext::builder(&OpenRun::without_store("scripted", RUN)).simulated().journal(journal);
    let (job, running) = builder.build(Box::new(controller) as BoxController, scheduler([1, 2])).unwrap();
    (job, running.into())
}

/// Workers that take every order, and do nothing: killed in the end.
fn clustered(store: BoxStore, transport: BoxTransport, journal: BoxJournal) -> AnyJob {
    let controller: ClusterController<dyn DynTransport> =
        ClusterController::builder(&OpenRun::without_store("clustered", RUN), topology(2), transport)
            .store(store)
            .build();
    let builder = JobContext::builder(&OpenRun::without_store("clustered", RUN)).simulated().journal(journal);
    let (job, running) = builder.build(Box::new(controller) as BoxController, scheduler([1, 2])).unwrap();
    (job, running.into())
}

fn scheduler(alive: impl IntoIterator<Item = u64>) -> BoxScheduler {
    Arc::new(ScriptedScheduler::new(alive))
}

#[tokio::test(start_paused = true)]
async fn u6_jobs_of_different_kinds_are_kept_in_one_list() {
    let folder = tempfile::tempdir().unwrap();
    let journal: BoxJournal = Arc::new(FileJournal::open(folder.path()).unwrap());
    let store: BoxStore = Arc::new(ObjectStoreCheckpoints::new(Arc::new(object_store::memory::InMemory::new()), ""));
    let transport: BoxTransport = Arc::new(Deaf::default());
    let mut jobs: Vec<AnyJob> = vec![scripted(Arc::clone(&journal)), clustered(store, transport, Arc::clone(&journal))];
    let mut stopped = vec![];
    for (mut job, phase) in jobs.drain(..) {
        job.sender().request(StopRequest::Immediate).unwrap();
        job.hear_of_ends();
        let receipt = drive(phase, &mut job, &Policy::escalate()).await.unwrap();
        // The journal is one as it is, too.
        let record = Journal::load(&journal, job.id()).await.unwrap().unwrap();
        assert_eq!(record.phase(), receipt.stopped().kind());
        stopped.push(receipt.stopped().name());
    }
    assert_eq!(stopped, ["halted", "killed"]);
}

/// Where a generic one is asked for, a boxed one is taken, and a pointer to a generic one.
#[tokio::test]
async fn u6_a_boxed_form_is_what_it_boxes() {
    fn controller<C: JobController>(_: &C) {}
    fn transport<T: Transport + ?Sized>(_: &T) {}
    fn journal<J: Journal + ?Sized>(_: &J) {}
    fn store<K: CheckpointStore + ?Sized>(_: &K) {}
    async fn lists<S: Scheduler + ?Sized>(scheduler: &S) -> usize {
        scheduler.workers_for_job(&"job".into(), None).await.unwrap().len()
    }
    let boxed: BoxController = Box::new(ScriptedController::new(1));
    controller(&boxed);
    // A box in a box is a controller still.
    controller::<BoxController>(&(Box::new(boxed) as BoxController));
    let boxed: BoxTransport = Arc::new(Deaf::default());
    transport(&boxed);
    transport(&*boxed);
    transport(&Arc::new(Deaf::default()));
    let boxed: BoxJournal = Arc::new(NoJournal);
    journal(&boxed);
    journal(&*boxed);
    journal(&Arc::new(NoJournal));
    let inner = ObjectStoreCheckpoints::new(Arc::new(object_store::memory::InMemory::new()), "");
    let boxed: BoxStore = Arc::new(inner);
    store(&boxed);
    store(&*boxed);
    assert_eq!(lists(&scheduler([1, 2])).await, 2);
    assert_eq!(lists(&*scheduler([1])).await, 1);
    assert_eq!(lists(&Arc::new(ScriptedScheduler::new([1, 2, 3]))).await, 3);
}
