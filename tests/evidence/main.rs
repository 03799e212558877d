//! Evidence is never false: what a new user can do wrong, tried. Each test carries the name of the
//! row that it holds.
#![cfg(all(feature = "embedded", feature = "object-store", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod appearing;
mod dropped;
mod forged;
mod names;
mod page;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use winddown::{
    AnyStopped, ClusterController, Completed, EmbeddedCluster, Epoch, JobContext, JobId, Mailbox, OpenRun, Policy,
    Role, RunId, Running, Scheduler, Stopped, Topology, WorkerId,
    contracts::{SchedulerError, WorkerStopMode},
    drive,
    machine::{AfterFinishing, NothingToReplay},
    testing::scripted::*,
};

pub(crate) type Job = JobContext<ScriptedController, Fleet>;

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A run that no other test has.
pub(crate) fn open(name: &str) -> OpenRun {
    OpenRun::without_store(name, RunId::new(7))
}

/// A scheduler whose workers obey, and among which somebody may appear at any time.
#[derive(Clone, Default)]
pub(crate) struct Fleet(Arc<Mutex<Vec<WorkerId>>>);

impl Fleet {
    pub(crate) fn appear(&self, worker: u64) {
        self.0.lock().unwrap().push(WorkerId::new(worker));
    }
}

impl Scheduler for Fleet {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, _: bool) -> Result<(), SchedulerError> {
        self.0.lock().unwrap().clear();
        Ok(())
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        Ok(self.0.lock().unwrap().clone())
    }
}

/// A controller whose tasks do as they are told, a second later.
pub(crate) fn obedient() -> ScriptedController {
    let controller = ScriptedController::new(4);
    for does in [Does::CompleteFinal, Does::Finish] {
        controller.on(Told::FinalCheckpoint, secs(1), does);
    }
    for mode in [WorkerStopMode::Graceful, WorkerStopMode::Immediate] {
        controller.on(Told::Stop(mode), secs(1), Does::Finish);
    }
    controller
}

pub(crate) fn job(name: &str) -> (Job, Running, Fleet) {
    let fleet = Fleet::default();
    fleet.appear(1);
    let (job, running) = JobContext::new(&open(name), obedient(), fleet.clone()).unwrap();
    (job, running, fleet)
}

/// What takes only a job after which nothing is replayed.
fn hand_over<E: NothingToReplay>(stopped: &Stopped<E>) -> Epoch {
    stopped.evidence().final_epoch()
}

#[tokio::test(start_paused = true)]
async fn u11_a_job_that_ended_by_itself_has_evidence_of_its_own() {
    let (mut job, running, _) = job("u11");
    let finishing = running.finish(&mut job).unwrap();
    let AfterFinishing::Stopped(stopped) = finishing.next(&mut job).await.unwrap() else {
        panic!("{:?}", job.walked())
    };
    assert_eq!(hand_over(&stopped), ScriptedController::FINAL);
    let stopped: Stopped<Completed> = stopped;
    assert_eq!(AnyStopped::Completed(stopped).nothing_to_replay(), Some(ScriptedController::FINAL));
}

/// Without a checkpoint there is nothing that proves it.
#[tokio::test(start_paused = true)]
async fn u11_a_job_that_ended_without_a_checkpoint_is_drained() {
    let topology = Topology::builder().operator("source", Role::Source, [WorkerId::new(1)]).build().unwrap();
    let (cluster, mailbox, open) = (EmbeddedCluster::default(), Mailbox::new(8), open("u11 without a store"));
    let hosted = cluster.start(&open, &topology, mailbox.sender(), async |_| Ok(())).unwrap();
    let controller = ClusterController::builder(&open, topology, Arc::new(hosted)).build();
    let builder = JobContext::builder(&open).mailbox(mailbox);
    let (mut job, running) = builder.build(controller, cluster).unwrap();
    let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.stopped().nothing_to_replay()), ("drained", None));
}

#[tokio::test(start_paused = true)]
async fn u11_a_final_checkpoint_is_nothing_to_replay_either() {
    let (mut job, running, _) = job("u11 checkpointed");
    let receipt = drive(running.stop_with_checkpoint(&mut job).unwrap(), &mut job, &Policy::escalate()).await.unwrap();
    let AnyStopped::Checkpointed(stopped) = receipt.into_stopped() else { panic!() };
    assert_eq!(hand_over(&stopped), ScriptedController::FINAL);
}
