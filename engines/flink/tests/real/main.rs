//! Real Flink jobs, stopped with faults; each time, every row is there once.
//!
//! `WINDDOWN_TEST_FLINK` is the folder that `engines/flink/cluster/flink-cluster get` has filled
//! (its `FLINK_CACHE`); without it, these tests are skipped.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![cfg(unix)]

mod cluster;

use nix::sys::signal::Signal;
use winddown_flink::JobState;

use cluster::Cluster;

#[tokio::test]
async fn a_stop_is_resumed_from_its_receipt_without_a_row_lost_or_doubled() {
    let Some(cluster) = Cluster::start().await else { return };
    let (mut savepoint, mut rows) = (None, 0);
    for round in 0..2 {
        let job = cluster.job(savepoint.as_deref()).await;
        let said = cluster.stop(&job, &[]).await;
        assert_eq!((said.code, said.stopped()), (Some(0), "stopped-checkpointed"), "{said:?}");
        assert_eq!(said.json["receipt"]["confirmed_by"], "host", "{said:?}");
        assert_eq!(cluster.state(&job).await, JobState::Finished, "what the receipt says holds at once");
        let now = cluster.exact_rows();
        assert!(now > rows, "round {round} made no rows");
        // Asked again, it says the same.
        let again = cluster.stop(&job, &[]).await;
        assert_eq!((again.code, again.savepoint()), (Some(0), said.savepoint()));
        assert_eq!(cluster.exact_rows(), now, "nothing came after the receipt");
        (savepoint, rows) = (Some(said.savepoint().to_owned()), now);
    }

    // Two at once, and a drain.
    let job = cluster.job(savepoint.as_deref()).await;
    let (one, other) = tokio::join!(cluster.stop(&job, &[]), cluster.stop(&job, &[]));
    assert_eq!((one.code, other.code), (Some(0), Some(0)), "{one:?} {other:?}");
    assert_eq!(one.savepoint(), other.savepoint());
    assert!(cluster.exact_rows() > rows);
    let job = cluster.job(Some(one.savepoint())).await;
    let said = cluster.stop(&job, &["--mode", "graceful"]).await;
    assert_eq!((said.code, said.stopped()), (Some(0), "stopped-drained"), "{said:?}");
    cluster.exact_rows();
}

#[tokio::test]
async fn a_savepoint_that_fails_leaves_the_job_running_until_a_stronger_stop() {
    let Some(cluster) = Cluster::start().await else { return };
    let job = cluster.job(None).await;
    for mode in ["checkpoint", "graceful"] {
        let said = cluster.stop(&job, &["--mode", mode, "--savepoints", "file:///proc/none"]).await;
        assert_eq!(said.code, Some(4), "{said:?}");
        assert!(said.json["error"].as_str().unwrap().contains("/proc/none"), "{said:?}");
        assert_eq!(cluster.state(&job).await, JobState::Running);
    }
    // The failed orders are no obstacle to the next one.
    let said = cluster.stop(&job, &[]).await;
    assert_eq!((said.code, said.stopped()), (Some(0), "stopped-checkpointed"), "{said:?}");
    cluster.exact_rows();

    let job = cluster.job(Some(said.savepoint())).await;
    let said = cluster.stop(&job, &["--savepoints", "file:///proc/none", "--on-spent", "escalate"]).await;
    assert_eq!((said.code, said.stopped()), (Some(3), "stopped-halted"), "{said:?}");
    assert_eq!(cluster.state(&job).await, JobState::Canceled);
    cluster.exact_rows();
    // It has ended already, and not with a savepoint.
    assert_eq!(cluster.stop(&job, &[]).await.code, Some(3));
    let unknown = cluster.stop("00000000000000000000000000000000", &[]).await;
    assert_eq!(unknown.code, Some(6), "{unknown:?}");

    let job = cluster.job(None).await;
    let said = cluster.stop(&job, &["--mode", "force"]).await;
    assert_eq!((said.code, said.stopped()), (Some(0), "stopped-killed"), "{said:?}");
    assert_eq!(said.json["receipt"]["confirmed_by"], "host", "{said:?}");
}

#[tokio::test]
async fn a_frozen_task_manager_is_never_said_to_be_gone_and_does_no_harm_when_it_wakes_up() {
    let Some(cluster) = Cluster::start().await else { return };
    let job = cluster.job(None).await;
    cluster.signal(0, Signal::SIGSTOP);
    let said = cluster.stop(&job, &["--deadline", "25s"]).await;
    assert!(matches!(said.code, Some(3 | 4)), "no savepoint can have been made: {said:?}");
    assert_eq!(said.stopped(), "no", "{said:?}");
    let forced = cluster.stop(&job, &["--mode", "force"]).await;
    assert_eq!((forced.code, forced.stopped()), (Some(0), "stopped-killed"), "{forced:?}");
    assert_eq!(forced.json["receipt"]["confirmed_by"], "records", "the frozen one was not heard: {forced:?}");

    // The next run goes on elsewhere, from the last checkpoint, while the old one wakes up.
    let rows = cluster.exact_rows();
    let checkpoint = cluster.last_checkpoint(&job).await;
    cluster.add_task_manager().await;
    let job = cluster.job(Some(&checkpoint)).await;
    cluster.signal(0, Signal::SIGCONT);
    cluster.heard_from(2).await;
    let after = cluster.stop(&job, &[]).await;
    assert_eq!((after.code, after.stopped()), (Some(0), "stopped-checkpointed"), "{after:?}");
    assert!(cluster.exact_rows() > rows);
}

#[tokio::test]
async fn a_killed_task_manager_is_no_stop() {
    let Some(cluster) = Cluster::start().await else { return };
    let job = cluster.job(None).await;
    // Killed while the savepoint is being made, or just before or after it.
    let (said, ()) = tokio::join!(cluster.stop(&job, &["--deadline", "25s"]), async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        cluster.signal(0, Signal::SIGKILL);
    });
    match said.code {
        Some(0) => assert!(said.json["flink"]["is_savepoint_read"].as_bool().unwrap(), "{said:?}"),
        code => {
            assert!(matches!(code, Some(3 | 4)), "{said:?}");
            let forced = cluster.stop(&job, &["--mode", "immediate"]).await;
            assert_eq!(forced.code, Some(0), "{forced:?}");
        }
    }
    assert!(cluster.state(&job).await.is_globally_terminal());
    cluster.add_task_manager().await;
    cluster.exact_rows();
}
