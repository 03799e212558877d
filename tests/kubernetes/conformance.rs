//! The Kubernetes scheduler keeps the contract of schedulers, as the suite checks it.

use std::fs;
use winddown::JobId;
use winddown::KubernetesScheduler;
use winddown::OpenRun;
use winddown::RunId;
use winddown::WorkerId;
use winddown::process::WorkerEnv;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use winddown::testing::conformance::{self, Hook, Manners, Placed, SchedulerSubject};

use crate::{
    cluster::{Cluster, SOON, ms, template},
    kubelet::{Kubelet, Node},
};

const LEAVES: &str = "trap 'touch $STAGE/told-$WINDDOWN_WORKER; exit 0' TERM; touch $STAGE/up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";
const STAYS: &str =
    "trap 'touch $STAGE/told-$WINDDOWN_WORKER' TERM; touch $STAGE/up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";
const HAS_CHILD: &str = "(trap '' TERM; touch $STAGE/up-$WINDDOWN_WORKER; while :; do sleep 0.1; done) & \
                         trap 'exit 0' TERM; while :; do sleep 0.1; done";
const ENDS_LATE: &str = "trap 'sleep 0.3; exit 0' TERM; touch $STAGE/up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";

struct Pods {
    scheduler: KubernetesScheduler,
    node: Kubelet,
    stage: TempDir,
}

impl Pods {
    async fn new() -> Self {
        let cluster = Cluster::get().await.unwrap();
        let node = Kubelet::start(&cluster, "n1");
        Self { scheduler: cluster.scheduler(), node, stage: tempfile::tempdir().unwrap() }
    }

    fn has(&self, file: &str) -> bool {
        self.stage.path().join(file).exists()
    }
}

impl SchedulerSubject for Pods {
    type Scheduler = KubernetesScheduler;

    const LIMIT: std::time::Duration = SOON;

    fn scheduler(&self) -> KubernetesScheduler {
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
            let env = [("STAGE".to_owned(), self.stage.path().display().to_string())];
            let template = template(&["/bin/sh", "-c", script], &env);
            self.scheduler
                .start(WorkerEnv::new(&OpenRun::without_store(job.clone(), run), *worker, ""), template)
                .await
                .unwrap();
            let up = async {
                while !self.has(&format!("up-{}", worker.get())) {
                    sleep(ms(20)).await;
                }
            };
            timeout(SOON, up).await.unwrap();
        }
        Hook::Done
    }

    /// By the environment, which children inherit.
    async fn is_running(&self, worker: &Placed) -> Option<bool> {
        let marks =
            [format!("WINDDOWN_WORKER={}", worker.worker.get()), format!("STAGE={}", self.stage.path().display())];
        let is_its = |environment: &[u8]| {
            marks.iter().all(|mark| environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
        };
        let mut processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        // That of a zombie is empty.
        Some(processes.any(|process| fs::read(process.path().join("environ")).is_ok_and(|it| is_its(&it))))
    }

    async fn was_asked(&self, worker: &Placed) -> Option<bool> {
        Some(self.has(&format!("told-{}", worker.worker.get())))
    }

    async fn cut_off(&self, _: &Placed) -> Hook {
        self.node.set(Node::CutOff);
        Hook::Done
    }
}

#[tokio::test]
async fn the_kubernetes_scheduler_keeps_its_contract() {
    let Some(cluster) = Cluster::get().await else { return };
    let report = conformance::scheduler(async || Pods::new().await).await;
    assert_eq!((report.not_checked(), report.not_applicable()), (vec![], vec![]), "{report}");
    report.assert();
    cluster.end().await;
}
