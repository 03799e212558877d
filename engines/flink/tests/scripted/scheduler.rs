//! Who counts as alive.

use winddown::{contracts::ConfirmedBy, prelude::*};
use winddown_flink::{FlinkJob, FlinkScheduler};

use crate::server::{Cluster, END, JOB, Server};

struct Asked {
    alive: Vec<Option<String>>,
    by: ConfirmedBy,
}

async fn ask(cluster: Cluster) -> Asked {
    let server = Server::start(cluster).await;
    let flink = FlinkJob::attach(&server.client(), JOB).await.unwrap();
    let (scheduler, open) = (FlinkScheduler::new(&flink), flink.open());
    let alive = scheduler.workers_for_job(open.job(), Some(open.run())).await.unwrap();
    let by = scheduler.confirmed_by(open.job(), Some(open.run()));
    Asked { alive: alive.into_iter().map(|worker| flink.task_manager(worker)).collect(), by }
}

#[tokio::test]
async fn i2_a_task_manager_is_alive_while_it_holds_a_subtask() {
    let asked = ask(Cluster { subtasks: vec!["FINISHED", "RUNNING"], ..Cluster::default() }).await;
    assert_eq!(asked.alive, [Some("tm-b".to_owned())]);
    let asked =
        ask(Cluster { state: "RESTARTING", subtasks: vec!["CANCELED", "CANCELED"], ..Cluster::default() }).await;
    assert_eq!(asked.alive, [None], "the job will run again: its JobMaster is listed");
    let asked = ask(Cluster { state: "SUSPENDED", subtasks: vec!["CANCELED", "CANCELED"], ..Cluster::default() }).await;
    assert_eq!(asked.alive, [None]);
}

#[tokio::test]
async fn i2_what_finished_was_said_by_its_host() {
    let finished = || Cluster { state: "FINISHED", subtasks: vec!["FINISHED"; 2], ..Cluster::default() };
    // Nobody needs to be heard.
    let asked = ask(Cluster { task_managers: vec![], ..finished() }).await;
    assert_eq!((asked.alive.len(), asked.by), (0, ConfirmedBy::Host));
    let asked = ask(Cluster { attempt: 1, ..finished() }).await;
    assert_eq!((asked.alive.len(), asked.by), (0, ConfirmedBy::Records), "nobody knows where the first attempt ran");
}

#[tokio::test]
async fn i2_a_task_manager_that_was_not_heard_since_the_end_may_be_frozen() {
    let canceled = |task_managers| Cluster {
        state: "CANCELED",
        subtasks: vec!["CANCELED", "CANCELED"],
        task_managers,
        ..Cluster::default()
    };
    let asked = ask(canceled(vec![("tm-a", END + 1), ("tm-b", END)])).await;
    assert_eq!(asked.alive, [Some("tm-b".to_owned())]);
    let asked = ask(canceled(vec![("tm-a", END + 1), ("tm-b", END + 1)])).await;
    assert_eq!((asked.alive.len(), asked.by), (0, ConfirmedBy::Host));
    let asked = ask(canceled(vec![("tm-a", END + 1)])).await;
    assert_eq!((asked.alive.len(), asked.by), (0, ConfirmedBy::Records), "the cluster gave tm-b up");
}

#[tokio::test]
async fn only_a_forced_stop_cancels_and_an_ended_job_is_not_cancelled() {
    for (state, force, cancels) in [("RUNNING", false, 0), ("RUNNING", true, 1), ("FINISHED", true, 0)] {
        let server = Server::start(Cluster { state, ..Cluster::default() }).await;
        let flink = FlinkJob::attach(&server.client(), JOB).await.unwrap();
        let open = flink.open();
        FlinkScheduler::new(&flink).stop_workers(open.job(), Some(open.run()), force).await.unwrap();
        assert_eq!(server.asked("PATCH").len(), cancels, "{state} {force}");
    }
}

#[tokio::test]
async fn i11_another_job_and_another_run_are_refused() {
    let server = Server::start(Cluster::default()).await;
    let flink = FlinkJob::attach(&server.client(), JOB).await.unwrap();
    let (scheduler, open) = (FlinkScheduler::new(&flink), flink.open());
    for (job, run) in [(JobId::new("other"), open.run()), (open.job().clone(), open.run().next())] {
        let error = scheduler.stop_workers(&job, Some(run), true).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        assert!(scheduler.workers_for_job(&job, Some(run)).await.is_err());
    }
    assert!(server.asked("PATCH").is_empty());
}
