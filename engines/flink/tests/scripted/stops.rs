//! Stops whose cluster misbehaves.

use std::time::Duration;

use winddown::{
    contracts::WorkerStopMode,
    drive::{DriveError, drive},
    limits::Limits,
    prelude::*,
};
use winddown_flink::{FlinkController, FlinkJob, FlinkScheduler};

use crate::server::{Cluster, Fault, JOB, Server, done, failed, savepoint};

/// A folder with a savepoint, and its location.
fn saved() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("_metadata"), [0x49, 0x60, 0x67, 0x2d, 0, 0, 0, 6]).unwrap();
    let location = format!("file:{}", folder.path().display());
    (folder, location)
}

fn limits() -> Limits {
    Limits { backoff_min: Duration::from_millis(1), backoff_max: Duration::from_millis(2), ..Limits::default() }
}

async fn stop(server: &Server, request: StopRequest, limits: Limits, policy: Policy) -> Result<Receipt, DriveError> {
    let flink = FlinkJob::attach(&server.client(), JOB).await.unwrap();
    let controller = FlinkController::builder(&flink).every(Duration::from_millis(1)).order_retries(3).build();
    let built =
        JobContext::builder(&flink.open()).limits(limits).simulated().build(controller, FlinkScheduler::new(&flink));
    let (mut job, running) = built.unwrap();
    job.sender().request(request).unwrap();
    drive(running, &mut job, &policy).await
}

async fn checkpoint(server: &Server) -> Result<Receipt, DriveError> {
    stop(server, StopRequest::Checkpoint, limits(), Policy::give_back()).await
}

/// A cluster whose job is stopped with that savepoint after some questions.
fn stops_with(location: &str) -> Cluster {
    Cluster {
        outcomes: [done(location)].into(),
        savepoint: savepoint(location),
        then: Some((6, "FINISHED", "FINISHED")),
        ..Cluster::default()
    }
}

#[tokio::test]
async fn i3_a_complete_savepoint_is_not_the_end() {
    let (_folder, location) = saved();
    let server = Server::start(stops_with(&location)).await;
    let receipt = checkpoint(&server).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.stopped().epoch()), ("checkpointed", Some(Epoch::new(7))));
    assert!(
        server.asked(&format!("GET /jobs/{JOB}/status")).len() >= 6,
        "the trigger said COMPLETED from the first one on"
    );
    assert_eq!(server.triggers().len(), 1);
    assert!(server.asked("PATCH").is_empty());
}

#[tokio::test]
async fn i3_a_savepoint_that_cannot_be_read_is_no_evidence() {
    let (folder, location) = saved();
    std::fs::remove_file(folder.path().join("_metadata")).unwrap();
    for location in [location.as_str(), "s3://bucket/savepoint-1"] {
        let server = Server::start(stops_with(location)).await;
        let error = checkpoint(&server).await.unwrap_err().to_string();
        assert!(error.contains(location), "{error}");
    }
}

#[tokio::test]
async fn a_failed_trigger_is_a_failure_with_its_reason() {
    let trace = "a.CompletionException: b.CheckpointException: IO-problem detected.\n\tat x\nCaused by: java.io.IOException: read-only";
    let server = Server::start(Cluster { outcomes: [failed(trace)].into(), ..Cluster::default() }).await;
    let error = checkpoint(&server).await.unwrap_err();
    assert!(error.to_string().contains("java.io.IOException: read-only"), "{error}");
    assert_eq!(error.into_phase().kind(), PhaseKind::CheckpointStopping);
    assert_eq!(server.triggers().len(), 1, "what can't succeed is not repeated");
    assert!(server.asked("PATCH").is_empty(), "the job is left as it is");
}

#[tokio::test]
async fn a_failure_that_may_pass_is_followed_by_another_order() {
    let (_folder, location) = saved();
    let trace = "a.CheckpointException: Not all required tasks are currently running.";
    let outcomes = [failed(trace), done(&location)].into();
    let server = Server::start(Cluster { outcomes, ..stops_with(&location) }).await;
    let receipt = checkpoint(&server).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.retries()), ("checkpointed", 1));
    let triggers = server.triggers();
    assert_eq!(triggers.len(), 2);
    assert_ne!(triggers[0], triggers[1], "the failed one would only say that it has failed");
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_not_given_twice() {
    let (_folder, location) = saved();
    let server = Server::start(Cluster { faults: vec![("POST", Fault::LosesAnswer)], ..stops_with(&location) }).await;
    assert_eq!(checkpoint(&server).await.unwrap().stopped().name(), "checkpointed");
    assert_eq!(server.triggers().len(), 1, "the next round finds it under way");
}

#[tokio::test]
async fn two_controllers_give_one_order() {
    let (_folder, location) = saved();
    let server = Server::start(stops_with(&location)).await;
    let (one, other) = tokio::join!(checkpoint(&server), checkpoint(&server));
    assert_eq!((one.unwrap().stopped().name(), other.unwrap().stopped().name()), ("checkpointed", "checkpointed"));
    let mut triggers = server.triggers();
    triggers.dedup();
    assert_eq!(triggers.len(), 1);
}

#[tokio::test]
async fn a_job_manager_that_is_away_for_a_while_is_waited_for() {
    let (_folder, location) = saved();
    let not_there = r#"{"errors":["FlinkJobNotFoundException: Could not find Flink job"]}"#;
    let status = "GET /jobs/59fb3e87e2c1939ef85565f931a51227/status";
    let faults = vec![
        ("POST", Fault::Hangs),
        ("POST", Fault::Says(503, "no leader".into())),
        (status, Fault::Hangs),
        (status, Fault::Says(503, String::new())),
        (status, Fault::Says(500, not_there.into())),
        (status, Fault::Says(307, String::new())),
        (status, Fault::Says(200, "<html>a proxy</html>".into())),
    ];
    let server = Server::start(Cluster { faults, ..stops_with(&location) }).await;
    assert_eq!(checkpoint(&server).await.unwrap().stopped().name(), "checkpointed");
    assert!(server.cluster().faults.is_empty(), "each was met");
}

#[tokio::test]
async fn an_order_that_is_never_answered_is_given_up() {
    let faults = vec![("POST", Fault::Says(503, "no leader".into())); 200];
    let server = Server::start(Cluster { faults, ..Cluster::default() }).await;
    let few = Limits { checkpoint_retries: 1, final_checkpoint: Duration::from_secs(20), ..limits() };
    let error = stop(&server, StopRequest::Checkpoint, few, Policy::give_back()).await.unwrap_err();
    assert!(error.to_string().contains("no leader"), "{error}");
    assert_eq!(server.triggers().len(), 8, "a first try and 3 retries, twice");
}

#[tokio::test]
async fn an_order_that_is_refused_is_not_repeated() {
    let server =
        Server::start(Cluster { faults: vec![("POST", Fault::Says(403, "not you".into()))], ..Cluster::default() })
            .await;
    let error = checkpoint(&server).await.unwrap_err().to_string();
    assert!(error.contains("not you") && error.contains("403"), "{error}");
    assert_eq!(server.triggers().len(), 1);
}

#[tokio::test]
async fn a_trigger_that_a_restarted_job_manager_forgot_is_the_same_order_again() {
    let (_folder, location) = saved();
    let forgotten = |_: usize| ("GET /jobs/59fb3e87e2c1939ef85565f931a51227/savepoints", Fault::Says(404, "?".into()));
    // Before the order, after it, and before it is given again.
    let server = Server::start(Cluster { faults: (0..3).map(forgotten).collect(), ..stops_with(&location) }).await;
    assert_eq!(checkpoint(&server).await.unwrap().stopped().name(), "checkpointed");
    let triggers = server.triggers();
    assert_eq!(triggers.len(), 2);
    assert_eq!(triggers[0], triggers[1]);
}

#[tokio::test]
async fn i2_a_job_that_is_unknown_after_a_failover_has_not_stopped() {
    let server = Server::start(Cluster::default()).await;
    let flink = FlinkJob::attach(&server.client(), JOB).await.unwrap();
    let job = format!("GET /jobs/{JOB}");
    server.cluster().faults = vec![(Box::leak(job.into_boxed_str()), Fault::Says(404, "?".into())); 10_000];
    let open = flink.open();
    let error = FlinkScheduler::new(&flink).workers_for_job(open.job(), Some(open.run())).await.unwrap_err();
    assert!(error.is_retryable(), "it may be recovered: {error}");
    let controller = FlinkController::builder(&flink).every(Duration::from_millis(1)).build();
    let view = controller.watch();
    let short = Limits { final_checkpoint: Duration::from_millis(50), ..limits() };
    let (mut job, running) =
        JobContext::builder(&open).limits(short).build(controller, FlinkScheduler::new(&flink)).unwrap();
    job.sender().request(StopRequest::Checkpoint).unwrap();
    drop(drive(running, &mut job, &Policy::give_back()).await.unwrap_err());
    assert!(!view.borrow().trouble.as_ref().unwrap().is_away, "it answers, and does not know the job");
}

#[tokio::test]
async fn a_job_that_fails_meanwhile_says_why() {
    let server = Server::start(Cluster { then: Some((4, "FAILED", "FAILED")), ..Cluster::default() }).await;
    let error = checkpoint(&server).await.unwrap_err().to_string();
    assert!(error.contains("the job is FAILED") && error.contains("out of disk"), "{error}");
}

#[tokio::test]
async fn a_job_that_finished_by_itself_has_no_final_savepoint() {
    let cluster = Cluster { then: Some((4, "FINISHED", "FINISHED")), ..Cluster::default() };
    let server = Server::start(cluster).await;
    let error = checkpoint(&server).await.unwrap_err().to_string();
    assert!(error.contains("without a snapshot"), "{error}");
}

#[tokio::test]
async fn i2_tasks_that_have_ended_are_no_end_while_the_job_restarts() {
    let mut cluster = Cluster { state: "RESTARTING", subtasks: vec!["CANCELED", "FAILED"], ..Cluster::default() };
    cluster.then = Some((6, "CANCELED", "CANCELED"));
    let server = Server::start(cluster).await;
    let receipt = stop(&server, StopRequest::Immediate, limits(), Policy::give_back()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "halted");
    assert!(server.asked(&format!("GET /jobs/{JOB}/status")).len() >= 6);
    assert_eq!(server.asked("PATCH").len(), 1);
}

#[tokio::test]
async fn a_drain_is_a_drain_and_its_failure_can_be_held() {
    let (_folder, location) = saved();
    let server = Server::start(stops_with(&location)).await;
    let receipt = stop(&server, StopRequest::Graceful, limits(), Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.stopped().epoch()), ("drained", Some(Epoch::new(7))));
    assert!(server.asked("POST")[0].contains(r#""drain":true"#));

    let failing = Cluster { outcomes: [failed("a.B: IO-problem")].into(), ..Cluster::default() };
    let server = Server::start(failing).await;
    let flink = FlinkJob::attach(&server.client(), JOB).await.unwrap();
    let controller = FlinkController::builder(&flink).every(Duration::from_millis(1)).hold_failed_drain().build();
    let mut view = controller.watch();
    let soon = Limits { kill: Duration::from_millis(50), scheduler_retries: 0, ..limits() };
    let built =
        JobContext::builder(&flink.open()).limits(soon).simulated().build(controller, FlinkScheduler::new(&flink));
    let (mut job, running) = built.unwrap();
    job.sender().request(StopRequest::Graceful).unwrap();
    let policy = Policy::give_back();
    tokio::select! {
        driven = drive(running, &mut job, &policy) => panic!("{driven:?}"),
        view = view.wait_for(|view| view.failed_order.is_some()) => drop(view.unwrap()),
    }
    assert!(server.asked("PATCH").is_empty(), "the job was not cancelled");
}

#[tokio::test]
async fn i4_a_stronger_request_replaces_the_order_and_the_policy_is_kept() {
    let failing = Cluster { outcomes: [failed("a.B: IO-problem")].into(), ..Cluster::default() };
    let server = Server::start(Cluster { then: Some((8, "CANCELED", "CANCELED")), ..failing }).await;
    let receipt = stop(&server, StopRequest::Checkpoint, limits(), Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().name(), "halted");
    assert_eq!((server.triggers().len(), server.asked("PATCH").len()), (1, 1));
}

#[tokio::test]
async fn i2_a_job_that_restarts_has_a_task_left_to_wait_for() {
    let ended = |state| Cluster { state, subtasks: vec!["CANCELED", "FINISHED"], ..Cluster::default() };
    for (state, has_ended) in [("RESTARTING", false), ("SUSPENDED", false), ("CANCELED", true)] {
        let server = Server::start(ended(state)).await;
        let flink = FlinkJob::attach(&server.client(), JOB).await.unwrap();
        let mut controller = FlinkController::builder(&flink).every(Duration::from_millis(1)).build();
        controller.begin_stop(WorkerStopMode::Immediate);
        controller.progress().await.unwrap();
        // Until the answers can't come from a cache of before the end.
        while has_ended && !controller.status().all_ended() {
            controller.progress().await.unwrap();
        }
        assert_eq!(controller.status().all_ended(), has_ended, "{state}");
        assert!(!controller.status().all_finished(), "{state}: a cancelled task has not finished");
    }
}
