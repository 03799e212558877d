//! The command: its exit codes, its JSON, and what it sends.

use serde_json::Value;
use tokio::process::Command;

use crate::server::{Cluster, Fault, JOB, Server, failed};

async fn command(rest: &str, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_winddown-flink"));
    command.args(arguments).args(["--rest", rest, "--json"]).env("WINDDOWN_FLINK_AUTHORIZATION", "Bearer s3cret");
    let done = command.kill_on_drop(true).output().await.unwrap();
    let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
    (done.status.code(), serde_json::from_str(&out).unwrap_or_default(), err)
}

#[tokio::test]
async fn exit_codes_say_what_is_known() {
    let server = Server::start(Cluster::default()).await;
    let (code, said, _) = command(&server.base, &["stop", "00000000000000000000000000000000"]).await;
    assert_eq!((code, &said["exit"]), (Some(6), &"no-job".into()));
    assert_eq!(command(&server.base, &["stop", "words"]).await.0, Some(2));
    assert_eq!(command("nowhere", &["stop", JOB]).await.0, Some(2));
    assert!(server.cluster().headers.iter().any(|header| header == "authorization: bearer s3cret"));

    let gone = Server::start(Cluster::default()).await.base.clone();
    assert_eq!(command(&gone, &["stop", JOB, "--deadline", "0s"]).await.0, Some(5));
}

#[tokio::test]
async fn a_job_that_cannot_be_stopped_with_a_savepoint_is_left_as_it_is() {
    let failing = || Cluster { outcomes: [failed("a.B: IO-problem: read-only")].into(), ..Cluster::default() };
    for mode in ["checkpoint", "graceful"] {
        let server = Server::start(failing()).await;
        let (code, said, _) = command(&server.base, &["stop", JOB, "--mode", mode]).await;
        assert_eq!(code, Some(4), "{said}");
        assert!(said["error"].as_str().unwrap().contains("read-only"), "{said}");
        assert!(server.asked("PATCH").is_empty());
    }
    let server = Server::start(Cluster { then: Some((8, "CANCELED", "CANCELED")), ..failing() }).await;
    let (code, said, _) = command(&server.base, &["stop", JOB, "--on-spent", "escalate"]).await;
    assert_eq!((code, &said["receipt"]["stopped"]), (Some(3), &"stopped-halted".into()), "{said}");
}

#[tokio::test]
async fn a_job_that_had_ended_otherwise_is_no_success() {
    let cluster = || Cluster { state: "CANCELED", subtasks: vec!["CANCELED"; 2], ..Cluster::default() };
    let server = Server::start(cluster()).await;
    assert_eq!(command(&server.base, &["stop", JOB]).await.0, Some(3));
    let (code, said, _) = command(&server.base, &["stop", JOB, "--mode", "immediate"]).await;
    assert_eq!((code, &said["flink"]["state"]), (Some(0), &"CANCELED".into()));
    let finished = Cluster { state: "FINISHED", subtasks: vec!["FINISHED"; 2], ..Cluster::default() };
    let server = Server::start(finished).await;
    let (code, said, _) = command(&server.base, &["stop", JOB, "--mode", "immediate"]).await;
    assert_eq!((code, &said["receipt"]["stopped"]), (Some(0), &"stopped-halted".into()), "{said}");
}

#[tokio::test]
async fn the_list_is_the_clusters() {
    let server = Server::start(Cluster::default()).await;
    let (code, said, _) = command(&server.base, &["list"]).await;
    assert_eq!((code, &said[0]["jid"]), (Some(0), &JOB.into()));
    server.cluster().faults.push(("GET", Fault::Says(401, "who are you?".into())));
    assert_eq!(command(&server.base, &["list"]).await.0, Some(5));
}
