//! A scheduler in a worker: its workers are part of that worker.

use std::process::Command;

use winddown::{
    contracts::{OpenRun, Scheduler, WorkerId},
    process::{HeldBy, ProcessScheduler, WorkerEnv},
};

use crate::{held, support::*, workers_of};

const INNER: &str = "WINDDOWN_TEST_INNER";
const DEAF: &str = "trap '' TERM; touch inner; while :; do sleep 0.1; done";

/// Not a test: a worker with a worker of its own.
#[test]
fn scheduler_entry() {
    let Ok(held_by) = std::env::var(INNER) else { return };
    let held_by = if held_by == "group" { HeldBy::ControlGroup } else { HeldBy::Environment };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let builder = ProcessScheduler::builder("inner-state").watchdog(watchdog()).orphan_grace(NEVER);
        let scheduler = builder.held_by(held_by).open().await.unwrap();
        let env = WorkerEnv::new(&OpenRun::without_store("inner", RUN), WorkerId::new(1), "");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", DEAF]).env_remove(INNER);
        scheduler.start(env, command).await.unwrap();
        tokio::time::sleep(NEVER).await;
    });
}

#[tokio::test]
async fn i2_b15_the_workers_of_a_worker_end_with_it() {
    let _alone = crate::ALONE.lock().await;
    for (outer, inner) in [
        (HeldBy::Environment, "environment"),
        (HeldBy::ControlGroup, "environment"),
        (HeldBy::ControlGroup, "group"),
        (HeldBy::Environment, "group"),
    ] {
        let stage = Stage::new();
        let Some(scheduler) = held(&stage, outer).await else { continue };
        if inner == "group" {
            let Some(tried) = held(&Stage::new(), HeldBy::ControlGroup).await else {
                stage.end(scheduler).await;
                continue;
            };
            tried.close().await;
        }
        let mut command = stage.this_program("nested::scheduler_entry");
        command.env(INNER, inner);
        let env = WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(1), "");
        scheduler.start(env, command).await.unwrap();
        stage.file("inner").await;
        stop(&scheduler, true).await;
        // The inner watchdog had until the end of time to look on.
        assert_eq!(workers_of(&stage), [0; 0], "{outer:?}, {inner}");
        assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), []);
        stage.end(scheduler).await;
    }
}
