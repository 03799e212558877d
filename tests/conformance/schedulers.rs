//! Schedulers: the embedded cluster, the same behind a pointer, and processes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use winddown::{
    EmbeddedCluster, JobId, OpenRun, Role, RunId, TaskContext, TaskOrder, Topology, WorkerId,
    contracts::{BoxScheduler, TaskError, WorkerEvent},
    embedded::EmbeddedRun,
    testing::conformance::{self, Hook, Manners, Placed, Rule, SchedulerSubject},
    worker::{EventSink, SinkClosed, WorkerOptions},
};

use crate::assert_kept;

/// What the tasks of the embedded cluster note of themselves.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<HashMap<Placed, Note>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Note {
    is_running: bool,
    was_asked: bool,
}

impl Notes {
    fn change(&self, worker: &Placed, change: impl FnOnce(&mut Note)) {
        change(self.0.lock().unwrap().entry(worker.clone()).or_default());
    }

    fn of(&self, worker: &Placed) -> Note {
        self.0.lock().unwrap().get(worker).copied().unwrap_or_default()
    }
}

/// Notes the end of a task, however it comes.
struct Witness(Notes, Placed);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.change(&self.1, |note| note.is_running = false);
    }
}

async fn behave(mut ctx: TaskContext, witness: Witness, manners: Manners) -> Result<(), TaskError> {
    if manners == Manners::EndsLate {
        loop {
            // Blocks its thread: until this is over there is no point at which it could be aborted.
            std::thread::sleep(Duration::from_millis(300));
            tokio::task::yield_now().await;
        }
    }
    loop {
        if let TaskOrder::Stop(_) = ctx.order().await {
            witness.0.change(&witness.1, |note| note.was_asked = true);
            if manners == Manners::Leaves {
                return Ok(());
            }
        }
    }
}

struct Nowhere;

impl EventSink for Nowhere {
    async fn deliver(&self, _: WorkerEvent) -> Result<(), SinkClosed> {
        Ok(())
    }
}

struct Embedded {
    cluster: EmbeddedCluster,
    runs: Mutex<HashMap<(JobId, RunId), EmbeddedRun>>,
    notes: Notes,
}

impl Embedded {
    fn new() -> Self {
        let options = WorkerOptions { heartbeat: None, grace: Duration::from_secs(1) };
        Self { cluster: EmbeddedCluster::new(options), runs: Mutex::default(), notes: Notes::default() }
    }
}

impl SchedulerSubject for Embedded {
    type Scheduler = EmbeddedCluster;

    fn scheduler(&self) -> EmbeddedCluster {
        self.cluster.clone()
    }

    async fn start(&self, job: &JobId, run: RunId, workers: &[(WorkerId, Manners)]) -> Hook {
        // What a task spawns beside itself is not the cluster's: its documentation says so.
        if workers.iter().any(|(_, manners)| *manners == Manners::HasChild) {
            return Hook::Unsupported;
        }
        let manners: HashMap<_, _> = workers.iter().copied().collect();
        let placement = workers.iter().map(|(worker, _)| *worker);
        let topology = Topology::builder().operator("tasks", Role::Source, placement).build().unwrap();
        let started = self.cluster.start(&OpenRun::without_store(job.clone(), run), &topology, Nowhere, |ctx| {
            let placed = Placed { job: job.clone(), run, worker: ctx.worker() };
            self.notes.change(&placed, |note| note.is_running = true);
            let manners = manners[&ctx.worker()];
            behave(ctx, Witness(self.notes.clone(), placed), manners)
        });
        self.runs.lock().unwrap().insert((job.clone(), run), started.unwrap());
        Hook::Done
    }

    async fn is_running(&self, worker: &Placed) -> Option<bool> {
        Some(self.notes.of(worker).is_running)
    }

    async fn was_asked(&self, worker: &Placed) -> Option<bool> {
        Some(self.notes.of(worker).was_asked)
    }

    async fn cut_off(&self, worker: &Placed) -> Hook {
        assert!(self.runs.lock().unwrap()[&(worker.job.clone(), worker.run)].freeze_worker(worker.worker));
        Hook::Done
    }
}

#[tokio::test]
async fn the_embedded_cluster_keeps_its_contract() {
    let report = conformance::scheduler(async || Embedded::new()).await;
    assert_kept(report, &[Rule::SchedulerForceChildren], &[]);
}

struct Boxed(Embedded);

impl SchedulerSubject for Boxed {
    type Scheduler = BoxScheduler;

    fn scheduler(&self) -> BoxScheduler {
        Arc::new(self.0.scheduler())
    }

    async fn start(&self, job: &JobId, run: RunId, workers: &[(WorkerId, Manners)]) -> Hook {
        self.0.start(job, run, workers).await
    }

    async fn is_running(&self, worker: &Placed) -> Option<bool> {
        self.0.is_running(worker).await
    }

    async fn was_asked(&self, worker: &Placed) -> Option<bool> {
        self.0.was_asked(worker).await
    }

    async fn cut_off(&self, worker: &Placed) -> Hook {
        self.0.cut_off(worker).await
    }
}

#[tokio::test]
async fn a_boxed_scheduler_keeps_its_contract() {
    let report = conformance::scheduler(async || Boxed(Embedded::new())).await;
    assert_kept(report, &[Rule::SchedulerForceChildren], &[]);
}

#[cfg(all(feature = "process", target_os = "linux"))]
mod process {
    use rustix::process::Signal;
    use winddown::process::WorkerProcess;

    use super::{
        Duration, HashMap, Hook, JobId, Manners, Mutex, Placed, RunId, SchedulerSubject, WorkerId, assert_kept,
        conformance,
    };
    use crate::processes::{Stage, pid, signal, state, until};

    const LEAVES: &str =
        "trap 'touch told-$WINDDOWN_WORKER; exit 0' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";
    const STAYS: &str =
        "trap 'touch told-$WINDDOWN_WORKER' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";
    const HAS_CHILD: &str = "(trap '' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done) & \
                             trap 'exit 0' TERM; while :; do sleep 0.1; done";
    const ENDS_LATE: &str = "trap 'sleep 0.3; exit 0' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";

    struct Processes {
        stage: Stage,
        scheduler: winddown::ProcessScheduler,
        started: Mutex<HashMap<Placed, WorkerProcess>>,
    }

    impl Processes {
        async fn new() -> Self {
            let stage = Stage::new();
            let scheduler = stage.builder().grace(Duration::from_secs(3)).open().await.unwrap();
            Self { stage, scheduler, started: Mutex::default() }
        }
    }

    impl SchedulerSubject for Processes {
        type Scheduler = winddown::ProcessScheduler;

        fn scheduler(&self) -> winddown::ProcessScheduler {
            self.scheduler.clone()
        }

        async fn start(&self, job: &JobId, run: RunId, workers: &[(WorkerId, Manners)]) -> Hook {
            for (worker, manners) in workers {
                let script = match manners {
                    Manners::Leaves => LEAVES,
                    Manners::Stays => STAYS,
                    Manners::HasChild => HAS_CHILD,
                    Manners::EndsLate => ENDS_LATE,
                    _ => return Hook::Unsupported,
                };
                let env =
                    winddown::process::WorkerEnv::new(&winddown::OpenRun::without_store(job.clone(), run), *worker, "");
                let process = self.scheduler.start(env, self.stage.sh(script)).await.unwrap();
                self.stage.file(&format!("up-{}", worker.get())).await;
                let placed = Placed { job: job.clone(), run, worker: *worker };
                self.started.lock().unwrap().insert(placed, process);
            }
            Hook::Done
        }

        /// By the environment, which children inherit.
        async fn is_running(&self, worker: &Placed) -> Option<bool> {
            let mark = format!("WINDDOWN_WORKER={}", worker.worker.get());
            let is_its = |pid: &i32| {
                let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
            };
            Some(self.stage.processes().iter().any(is_its))
        }

        async fn was_asked(&self, worker: &Placed) -> Option<bool> {
            Some(self.stage.path(&format!("told-{}", worker.worker.get())).exists())
        }

        async fn cut_off(&self, worker: &Placed) -> Hook {
            let pid = pid(&self.started.lock().unwrap()[worker]);
            signal(pid, Signal::STOP);
            until("it is frozen", || state(pid) == Some('T')).await;
            Hook::Done
        }
    }

    #[tokio::test]
    async fn the_process_scheduler_keeps_its_contract() {
        assert_kept(conformance::scheduler(async || Processes::new().await).await, &[], &[]);
    }
}
