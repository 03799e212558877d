//! Runs `wordcount` with worker pods, as a user does: whatever befalls it, the counts are exact in
//! the end, and no pod is left.

use std::fs;

use kube::{
    api::{EvictParams, ListParams},
    config::Kubeconfig,
};
use nix::sys::signal::Signal;

use crate::{
    cluster::Cluster,
    harness::{Case, End, example, signal, wait},
    kubelet::Kubelet,
};

const SLOWLY: &str = "--rate 150";

/// A case on a cluster.
struct Call {
    case: Case,
    pods: String,
}

impl Call {
    fn new(cluster: &Cluster) -> Self {
        let case = Case::new(2000);
        let folder = case.input().parent().unwrap().to_owned();
        let path = std::env::var("WINDDOWN_TEST_KUBECONFIG").unwrap();
        let mut file = Kubeconfig::read_from(path).unwrap();
        for context in &mut file.contexts {
            context.context.as_mut().unwrap().namespace = Some(cluster.namespace.clone());
        }
        fs::write(folder.join("kubeconfig"), serde_json::to_string(&file).unwrap()).unwrap();
        let template = format!(
            "spec:\n  schedulerName: winddown-test\n  terminationGracePeriodSeconds: 60\n  containers:\n  - name: wordcount\n    \
             image: none\n    command: [\"{}\"]\n    env:\n    - {{ name: POD_IP, value: 127.0.0.1 }}\n",
            example("wordcount").display()
        );
        fs::write(folder.join("worker.yaml"), template).unwrap();
        Self { case, pods: "--runtime kubernetes --pod-template worker.yaml --workers 2 --report json".to_owned() }
    }

    fn start(&self, more: &str) -> std::process::Child {
        let mut command = self.case.command(&format!("{} {more}", self.pods));
        command.env("KUBECONFIG", self.case.input().with_file_name("kubeconfig")).spawn().unwrap()
    }

    fn finish(&self) {
        let end = wait(self.start(""));
        assert_eq!((end.code, &end.report()["input_done"]), (Some(0), &true.into()), "{end:?}");
        assert_eq!(end.report()["workers_left"], 0, "{end:?}");
        self.case.assert_exact();
    }
}

fn evidence(end: &End) -> String {
    assert_eq!((end.code, &end.report()["workers_left"]), (Some(0), &0.into()), "{end:?}");
    end.report()["evidence"].as_str().unwrap().to_owned()
}

/// The program, and the test's waiting for it, beside the kubelet.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_count_on_pods_stops_in_every_mode_and_its_counts_are_exact() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let call = Call::new(&cluster);
    aside(move || {
        for (mode, expected) in
            [("checkpoint", "checkpointed"), ("graceful", "drained"), ("immediate", "halted"), ("force", "killed")]
        {
            let end = wait(call.start(&format!("{SLOWLY} --stop {mode}@1500ms")));
            assert_eq!(evidence(&end), expected, "{end:?}");
        }
        call.finish();
    })
    .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_count_whose_controller_is_killed_ends_its_pods_at_the_next_call() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let call = Call::new(&cluster);
    aside(move || {
        let mut controller = call.start(SLOWLY);
        call.case.await_checkpoint();
        controller.kill().unwrap();
        controller.wait().unwrap();
        call.finish();
    })
    .await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_word_count_of_which_a_pod_is_evicted_stops_with_a_checkpoint_and_goes_on_from_it() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let call = Call::new(&cluster);
    let (call, controller) = aside(move || {
        let controller = call.start(SLOWLY);
        call.case.await_checkpoint();
        (call, controller)
    })
    .await;
    let pods = cluster.pods().list(&ListParams::default()).await.unwrap().items;
    cluster.pods().evict(pods[1].metadata.name.as_deref().unwrap(), &EvictParams::default()).await.unwrap();
    aside(move || {
        let end = wait(controller);
        assert_eq!(evidence(&end), "checkpointed", "{end:?}");
        assert!(end.stderr.contains("is evicted: stopping with a checkpoint"), "{end:?}");
        // Ctrl-C, for comparison.
        let controller = call.start(SLOWLY);
        call.case.await_run(2);
        std::thread::sleep(std::time::Duration::from_millis(500));
        signal(&controller, Signal::SIGINT);
        assert_eq!(evidence(&wait(controller)), "checkpointed");
        call.finish();
    })
    .await;
    cluster.end().await;
}
