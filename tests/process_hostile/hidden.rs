//! Children that shed what they are recognised by. What is not known to be gone is not gone.

use std::time::Duration;

use tokio::time::timeout;
use winddown::{
    contracts::{OpenRun, Scheduler, SchedulerError, WorkerId},
    process::{HeldBy, WorkerEnv},
};

use crate::{held, is_alive, skipped, support::*, workers_of};

/// Leaves the group, drops its environment and loses its parents, all of it at once.
const HIDES: &str = "setsid sh -c 'setsid sh -c \"echo \\$\\$ > half; mv half child; exec env -i sleep 600\" & exit 0' & wait; touch up-1";

#[tokio::test]
async fn i2_b2_a_child_that_hides_everything_dies_with_its_control_group() {
    let _alone = crate::ALONE.lock().await;
    for force in [true, false] {
        let stage = Stage::new();
        let opened = stage.builder().held_by(HeldBy::ControlGroup).grace(Duration::from_millis(200)).open().await;
        let Ok(scheduler) = opened else { return skipped("no control groups") };
        // Once it is started, it is in its group.
        let env = WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(1), "");
        let script = format!("until test -e go; do sleep 0.05; done; {HIDES}");
        let worker = scheduler.start(env, stage.sh(&script)).await.unwrap();
        std::fs::write(stage.path("go"), "").unwrap();
        stage.file("child").await;
        let child: i32 = stage.text("child").trim().parse().unwrap();
        until("the leader has ended", || !is_alive(pid(&worker))).await;
        assert_eq!(
            scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(),
            [WorkerId::new(1)],
            "its child is alive"
        );
        stop(&scheduler, force).await;
        assert!(!is_alive(child), "the child is dead");
        stage.end(scheduler).await;
    }
}

/// It may be seen in time, by its parents, and then it is killed; or not, and then nobody says that it is gone.
async fn hides_at_once(held_by: HeldBy) {
    let stage = Stage::new();
    let Some(scheduler) = held(&stage, held_by).await else { return };
    let worker = stage.start(&scheduler, 1, HIDES).await;
    stage.file("child").await;
    let child: i32 = stage.text("child").trim().parse().unwrap();
    until("the leader has ended", || !is_alive(pid(&worker))).await;
    until("the child has no environment", || {
        std::fs::read(format!("/proc/{child}/environ")).is_ok_and(|it| it.is_empty())
    })
    .await;
    for _ in 0..3 {
        let listed = scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap();
        assert_eq!(listed, [WorkerId::new(1)], "its child is alive: {}", is_alive(child));
    }
    match timeout(SOON, scheduler.stop_workers(&job(), Some(RUN), true)).await.expect("it ends") {
        Ok(()) => assert!(!is_alive(child), "`Ok` was said with the child alive"),
        Err(error) => {
            assert!(matches!(error, SchedulerError::Unavailable(_)), "{error}");
            assert!(error.to_string().contains(&format!("process {child} (its environment")), "{error}");
            assert!(is_alive(child), "what is unknown is not killed");
            signal(child, rustix::process::Signal::KILL);
        }
    }
    stop(&scheduler, true).await;
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i2_b2_a_child_that_hides_everything_is_not_taken_for_gone() {
    let _alone = crate::ALONE.lock().await;
    hides_at_once(HeldBy::Environment).await;
}

/// In the moment in which the worker is not in its group yet.
#[tokio::test]
async fn i2_b2_a_child_that_hides_before_it_is_in_a_control_group_is_not_taken_for_gone() {
    let _alone = crate::ALONE.lock().await;
    for _ in 0..5 {
        hides_at_once(HeldBy::ControlGroup).await;
    }
}

/// Forks all the time, in its group.
const STORM: &str = "touch up-1; while :; do for i in 1 2 3 4 5 6 7 8; do (sleep 0.02 &) ; done; done";
/// Forks all the time, each time into another group and session.
const SCATTERED: &str = "touch up-1; f() { while :; do setsid sleep 0.02 & setsid sh -c 'sleep 0.02 & sleep 0.01' & wait $!; done; }; f & f & f & wait";

#[tokio::test]
async fn i2_b15_a_fork_storm_is_killed() {
    let _alone = crate::ALONE.lock().await;
    for (held_by, storm) in [
        (HeldBy::Environment, STORM),
        (HeldBy::ControlGroup, STORM),
        (HeldBy::ControlGroup, SCATTERED),
        (HeldBy::Environment, SCATTERED),
    ] {
        let stage = Stage::new();
        let Some(scheduler) = held(&stage, held_by).await else { continue };
        stage.start(&scheduler, 1, storm).await;
        stop(&scheduler, true).await;
        assert_eq!(workers_of(&stage), [0; 0], "{held_by:?}");
        stage.end(scheduler).await;
    }
}
