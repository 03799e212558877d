//! Names are said once, and what is somebody else's is refused.

use std::sync::Arc;

use winddown::{
    ClusterController, Detached, EmbeddedCluster, Epoch, JobContext, Limits, Mailbox, OpenRun, Role, RunId, Scheduler,
    TaskContext, TaskOrder, Topology, WorkerId,
    contracts::{Manifest, OpenRunError, TaskError},
    drive::Unfit,
    embedded::EmbeddedRun,
    machine::BuildError,
    rehydrate,
    testing::scripted::*,
};

use super::*;

fn topology() -> Topology {
    Topology::builder().operator("source", Role::Source, [WorkerId::new(1)]).build().unwrap()
}

async fn until_stopped(mut ctx: TaskContext) -> Result<(), TaskError> {
    while !matches!(ctx.order().await, TaskOrder::Stop(_)) {}
    Ok(())
}

/// A cluster with a run of that name on it, and the transport to that.
fn hosted(open: &OpenRun) -> (EmbeddedCluster, EmbeddedRun) {
    let (cluster, mailbox) = (EmbeddedCluster::default(), Mailbox::new(8));
    let hosted = cluster.start(open, &topology(), mailbox.sender(), until_stopped).unwrap();
    (cluster, hosted)
}

#[tokio::test]
async fn u2_a_controller_or_a_transport_of_another_run_is_refused() {
    let (clicks, typo) = (open("u2 clicks"), open("u2 cliks"));
    let newer = OpenRun::without_store("u2 clicks", RunId::new(8));
    for other in [&typo, &newer] {
        let (cluster, transport) = hosted(&clicks);
        let controller = ClusterController::builder(other, topology(), Arc::new(transport)).build();
        let error = JobContext::new(&clicks, controller, cluster.clone()).unwrap_err();
        assert!(matches!(&error, BuildError::OtherRun(it) if it.got == (other.job().clone(), other.run())), "{error}");

        // The typo is in the transport's name.
        let (_, transport) = hosted(other);
        let controller = ClusterController::builder(&clicks, topology(), Arc::new(transport)).build();
        let error = JobContext::new(&clicks, controller, cluster.clone()).unwrap_err();
        assert!(error.to_string().contains("build everything of a run from one `OpenRun`"), "{error}");
        assert_eq!(cluster.workers_for_job(clicks.job(), None).await.unwrap(), [WorkerId::new(1)], "nothing was done");
    }
}

#[test]
fn u2_a_run_starts_from_a_checkpoint_of_its_own_job_and_of_an_older_run() {
    let manifest = |job: &str, run| Manifest {
        job: job.into(),
        run: RunId::new(run),
        epoch: Epoch::new(5),
        then_stop: true,
        tasks: vec![],
    };
    let opened = |manifest| OpenRun::new("words", RunId::new(3), Some(manifest));
    assert_eq!(opened(manifest("words", 2)).unwrap().last_complete(), Some(Epoch::new(5)));
    assert!(matches!(opened(manifest("clicks", 2)), Err(OpenRunError::OtherJob { .. })));
    assert!(matches!(opened(manifest("words", 3)), Err(OpenRunError::NotOlder { .. })));
}

#[test]
fn u3_a_run_has_one_context_in_a_process() {
    let open = open("u3 one context");
    let (first, _running) = JobContext::new(&open, obedient(), Fleet::default()).unwrap();
    let error = JobContext::new(&open, obedient(), Fleet::default()).unwrap_err();
    let BuildError::Live { place, .. } = &error else { panic!("{error}") };
    assert!(place.contains("evidence/names.rs:") || place.contains("evidence\\names.rs:"), "{error}");
    assert!(error.to_string().contains("go on with that one, or drop it first"), "{error}");

    // Another run is another matter; and it is free again with the context.
    let newer = OpenRun::without_store(open.job().clone(), open.run().next());
    assert!(JobContext::new(&newer, obedient(), Fleet::default()).is_ok());
    let (detached, _) = first.detach();
    assert!(JobContext::new(&open, obedient(), Fleet::default()).is_err(), "a detached context is one");
    drop(detached);
    assert!(JobContext::new(&open, obedient(), Fleet::default()).is_ok());
}

#[tokio::test(start_paused = true)]
async fn u3_a_live_run_can_not_be_rehydrated() {
    let (open, journal, fleet) = (open("u3 live"), ScriptedJournal::default(), Fleet::default());
    fleet.appear(1);
    let builder = JobContext::builder(&open).journal(journal.clone());
    let (mut job, running) = builder.build(obedient(), fleet.clone()).unwrap();
    let mut stopping = running.stop_with_checkpoint(&mut job).unwrap();
    assert!(tokio::time::timeout(secs(0), stopping.run(&mut job)).await.is_err());

    let again = || async {
        let found = rehydrate(open.job(), journal.clone(), fleet.clone(), None, Limits::default()).await;
        found.unwrap().unwrap().build(Detached).await.map(drop)
    };
    let unfit = again().await.unwrap_err();
    assert!(matches!(unfit, Unfit::Build(BuildError::Live { .. })), "{unfit}");
    drop(job);
    again().await.unwrap();
}
