//! What becomes of worker processes when their scheduler dies, and how the next one finds them.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    process::{Child, Command},
    time::Duration,
};

use crate::support::*;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use winddown::{
    OpenRun, ProcessScheduler, Scheduler, WorkerId,
    process::{Watchdog, WorkerEnv},
};

/// Set for `scheduler_entry`: the state folder, which watchdog, and then one script for each
/// worker.
const SCHEDULER: &str = "WINDDOWN_TEST_SCHEDULER";
/// Any worker: it says that it is there, and stays.
const STAYS: &str = "touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";
const DEAF: &str = "trap 'touch told-$WINDDOWN_WORKER' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";

/// A scheduler in a process of its own, to be killed.
#[test]
fn scheduler_entry() {
    let Ok(plan) = env::var(SCHEDULER) else { return };
    let (guarded, scripts): (bool, Vec<String>) = serde_json::from_str(&plan).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let watchdog = if guarded { watchdog() } else { Watchdog::Off };
        let builder = ProcessScheduler::builder("state").watchdog(watchdog).orphan_grace(Duration::from_millis(500));
        let scheduler = builder.open().await.unwrap();
        for (number, script) in (1..).zip(scripts) {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &script]).env_remove(SCHEDULER);
            scheduler
                .start(WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(number), ""), command)
                .await
                .unwrap();
        }
        sleep(NEVER).await;
    });
}

/// A worker that leaves when its scheduler is gone.
#[test]
fn worker_entry() {
    let Some(worker) = WorkerEnv::from_env().unwrap() else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        fs::write(format!("up-{}", worker.worker.get()), "").unwrap();
        worker.lifeline().await.unwrap();
        // Also when it is asked for the first time after the fact.
        worker.lifeline().await.unwrap();
        fs::write("left", "").unwrap();
    });
}

/// Starts a scheduler in a process of its own, waits until its workers are up, and kills it with
/// SIGKILL.
async fn scheduler_that_dies(stage: &Stage, guarded: bool, scripts: &[&str]) {
    let mut scheduler = start_scheduler(stage, guarded, scripts);
    for number in 1..=scripts.len() {
        stage.file(&format!("up-{number}")).await;
    }
    // The record of the last worker may be a moment behind its first action.
    until("all records", || {
        records(stage).len() == scripts.len() && records(stage).iter().all(|(_, r)| !r["process"].is_null())
    })
    .await;
    scheduler.kill().unwrap();
    scheduler.wait().unwrap();
}

fn start_scheduler(stage: &Stage, guarded: bool, scripts: &[&str]) -> Child {
    let mut command = stage.this_program("restart::scheduler_entry");
    command.env(SCHEDULER, serde_json::to_string(&(guarded, scripts)).unwrap());
    command.process_group(0).spawn().unwrap()
}

/// Names and contents of the workers' records.
fn records(stage: &Stage) -> Vec<(String, Value)> {
    let folder = stage.state().join("workers");
    let names = files(&folder).into_iter().filter(|name| !name.ends_with("tmp"));
    let read =
        |name: String| Some((name.clone(), serde_json::from_slice(&fs::read(folder.join(&name)).ok()?).unwrap()));
    names.filter_map(read).collect()
}

fn write_record(stage: &Stage, token: &str, record: &Value) {
    fs::create_dir_all(stage.state().join("workers")).unwrap();
    fs::write(stage.state().join(format!("workers/{token}.json")), record.to_string()).unwrap();
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

#[tokio::test]
async fn i2_workers_do_not_outlive_a_killed_scheduler() {
    let stage = Stage::new();
    let workers = [
        DEAF,
        // Frozen by itself.
        "touch up-$WINDDOWN_WORKER; kill -STOP $$",
        // One whose children ignore SIGTERM, in the group and out of it.
        "trap '' TERM; sleep 600 & setsid sleep 600 & touch up-$WINDDOWN_WORKER; wait",
        // One that has ended, but whose child has not.
        "setsid sleep 600 & touch up-$WINDDOWN_WORKER",
    ];
    scheduler_that_dies(&stage, true, &workers).await;
    stage.nothing_is_left().await;
    assert!(stage.path("told-1").exists(), "it was asked before it was killed");
    assert_eq!(stage.records(), 0);
    assert!(!files(&stage.state()).iter().any(|name| name.starts_with("lifeline")));
    assert_eq!(fs::read_to_string(stage.state().join("watchdog.log")).unwrap().matches("winddown").count(), 0);
}

#[tokio::test]
async fn i2_a_scheduler_killed_while_it_starts_workers_leaves_none() {
    // Killed at some moment of the starts; whichever it is, no worker stays.
    for delay in [0, 3, 10, 30] {
        let stage = Stage::new();
        let mut scheduler = start_scheduler(&stage, true, &[DEAF; 20]);
        stage.file("state/workers").await;
        until("a first record", || !files(&stage.state().join("workers")).is_empty()).await;
        sleep(Duration::from_millis(delay)).await;
        scheduler.kill().unwrap();
        scheduler.wait().unwrap();
        stage.nothing_is_left().await;
    }
}

#[tokio::test]
async fn i2_a_worker_that_appears_after_its_scheduler_died_is_ended() {
    let stage = Stage::new();
    let scheduler = stage.builder().orphan_grace(Duration::ZERO).open().await.unwrap();
    // The scheduler dies between the record and the process: the process shows its token only after
    // its exec.
    let lifeline = files(&stage.state()).into_iter().find(|name| name.starts_with("lifeline-")).unwrap();
    let schedulers = [lifeline.trim_start_matches("lifeline-")];
    write_record(
        &stage,
        "late",
        &json!({ "job": "words", "run": 7, "worker": 1, "token": "late", "schedulers": schedulers, "boot": boot(), "process": null }),
    );
    drop(scheduler);
    sleep(Duration::from_millis(100)).await;
    let mut late = stage.sh("exec sleep 600").env("WINDDOWN_SPAWN", "late").spawn().unwrap();
    stage.nothing_is_left().await;
    assert!(!late.wait().unwrap().success());
    assert_eq!(stage.records(), 0);
}

#[tokio::test]
async fn a_worker_sees_the_end_of_its_scheduler_on_the_lifeline() {
    let stage = Stage::new();
    let scheduler = stage.builder().watchdog(Watchdog::Off).open().await.unwrap();
    let worker = WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(1), "");
    scheduler.start(worker, stage.this_program("restart::worker_entry")).await.unwrap();
    stage.file("up-1").await;
    // It notices nothing as long as the scheduler is there; then it leaves with nobody killing it.
    sleep(Duration::from_millis(200)).await;
    assert!(!stage.path("left").exists());
    drop(scheduler);
    stage.file("left").await;
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn a_dropped_or_closed_scheduler_takes_its_workers_along() {
    for close in [true, false] {
        let stage = Stage::new();
        let scheduler = stage.builder().orphan_grace(Duration::from_millis(300)).open().await.unwrap();
        let worker = stage.start(&scheduler, 1, DEAF).await;
        let other = scheduler.clone();
        if close {
            timeout(SOON, scheduler.close()).await.unwrap();
            assert_eq!(stage.processes(), [0; 0], "close waits for the end");
            assert_eq!(state(pid(&worker)), None, "and reaps");
            let refused = other
                .start(WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(2), ""), stage.sh(STAYS))
                .await;
            assert_eq!(
                refused.unwrap_err().to_string(),
                "the process scheduler is closed: open another one to start workers"
            );
        } else {
            drop((scheduler, other));
            stage.nothing_is_left().await;
        }
        assert!(stage.path("told-1").exists());
    }
}

#[tokio::test]
async fn a_watchdog_that_is_killed_is_replaced() {
    let stage = Stage::new();
    let scheduler = stage.builder().orphan_grace(Duration::ZERO).open().await.unwrap();
    stage.start(&scheduler, 1, STAYS).await;
    let first = stage.watchdog().unwrap();
    signal(first, Signal::KILL);
    until("another watchdog", || stage.watchdog().is_some_and(|pid| pid != first)).await;
    assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), [WorkerId::new(1)], "the worker did not notice");
    assert_eq!(state(first), None, "the first one is reaped");
    // The new one watches over old and new workers.
    until("starts are allowed again", || stage.watchdog().is_some()).await;
    while scheduler
        .start(WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(2), ""), stage.sh(STAYS))
        .await
        .is_err()
    {
        sleep(Duration::from_millis(10)).await;
    }
    timeout(SOON, scheduler.close()).await.unwrap();
    assert_eq!(stage.processes(), [0; 0]);
}

#[tokio::test]
async fn a_watchdog_that_does_not_answer_is_an_error_and_leaves_nothing() {
    let stage = Stage::new();
    for (program, expected) in
        [("/bin/true", "it did not answer"), ("/no/such/watchdog", "/no/such/watchdog: No such file")]
    {
        let watchdog = Watchdog::Program { program: program.into(), args: vec![] };
        let error = stage.builder().watchdog(watchdog).open().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        stage.nothing_is_left().await;
        assert!(!files(&stage.state()).iter().any(|name| name.starts_with("lifeline")));
    }
    // The folder is free again.
    let scheduler = stage.open().await;
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i2_the_next_scheduler_finds_and_stops_the_workers_of_one_that_died() {
    for force in [true, false] {
        let stage = Stage::new();
        let workers = [STAYS, DEAF, "setsid sleep 600 & touch up-$WINDDOWN_WORKER"];
        scheduler_that_dies(&stage, false, &workers).await;
        let scheduler = stage.builder().grace(Duration::from_millis(500)).open().await.unwrap();
        let all = [1, 2, 3].map(WorkerId::new);
        assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), all);
        let taken = scheduler
            .start(WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(1), ""), stage.sh(STAYS))
            .await;
        assert!(taken.is_err(), "its name is taken");
        // Another run's stop touches none (invariant I11).
        stop_run(&scheduler, Some(RUN.next()), true).await;
        assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), all);

        stop(&scheduler, force).await;
        assert_eq!(stage.path("told-2").exists(), !force, "without force it is asked first");
        stage.end(scheduler).await;
    }
}

#[tokio::test]
async fn i2_adopted_workers_are_under_the_new_watchdog() {
    let stage = Stage::new();
    scheduler_that_dies(&stage, false, &[DEAF]).await;
    let second = stage.builder().watchdog(Watchdog::Off).open().await.unwrap();
    assert_eq!(second.workers_for_job(&job(), None).await.unwrap(), [WorkerId::new(1)]);
    // Without a watchdog, closing waits for workers that may stay, but a stop ends them.
    assert!(timeout(Duration::from_millis(200), second.clone().close()).await.is_err());
    stop(&second, true).await;
    drop(second);
    stage.nothing_is_left().await;

    let stage = Stage::new();
    scheduler_that_dies(&stage, false, &[DEAF]).await;
    let second = stage.builder().orphan_grace(Duration::from_millis(300)).open().await.unwrap();
    timeout(SOON, second.close()).await.unwrap();
    assert_eq!((stage.processes(), stage.records()), (vec![], 0));
}

#[tokio::test]
async fn i11_a_number_that_is_in_use_again_is_left_alone() {
    let stage = Stage::new();
    // Somebody else's process, leading a group.
    let mut stranger = stage.sh("exec sleep 600").env("WINDDOWN_SPAWN", "itself").process_group(0).spawn().unwrap();
    let number = i32::try_from(stranger.id()).unwrap();
    let start: u64 = stat(number, 22).unwrap().parse().unwrap();
    let record = |token: &str, worker: u64, boot: &str, process: Value| {
        write_record(
            &stage,
            token,
            &json!({ "job": "words", "run": 7, "worker": worker, "token": token, "schedulers": ["old"], "boot": boot, "process": process }),
        );
    };
    record("another-start", 1, &boot(), json!({ "pid": number, "start": start - 1 }));
    record("another-boot", 2, "00000000-0000-0000-0000-000000000000", json!({ "pid": number, "start": start }));
    let scheduler = stage.open().await;
    assert_eq!(scheduler.workers().await.unwrap(), [], "these workers are gone");
    assert_eq!(stage.records(), 0);
    stop_run(&scheduler, None, true).await;
    timeout(SOON, scheduler.close()).await.unwrap();
    assert!(stranger.try_wait().unwrap().is_none(), "nobody has touched it");

    // The check of the check: with its token, its true start and boot it would have been found.
    record("itself", 3, &boot(), json!({ "pid": number, "start": start }));
    let scheduler = stage.open().await;
    assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), [WorkerId::new(3)]);
    stop_run(&scheduler, None, true).await;
    assert_eq!(state(number), Some('Z'), "killed; to reap it is its parent's business");
    stranger.wait().unwrap();
    stage.end(scheduler).await;
}

#[tokio::test]
async fn a_start_that_was_cut_off_is_found_by_its_token() {
    let stage = Stage::new();
    let mut worker = stage.sh("exec sleep 600").env("WINDDOWN_SPAWN", "cut-off").process_group(0).spawn().unwrap();
    for token in ["cut-off", "never-started"] {
        let worker = if token == "cut-off" { 1 } else { 2 };
        write_record(
            &stage,
            token,
            &json!({ "job": "words", "run": 7, "worker": worker, "token": token, "schedulers": [], "boot": boot(), "process": null }),
        );
    }
    let scheduler = stage.open().await;
    // For a moment the other one might still appear.
    assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), [1, 2].map(WorkerId::new));
    stop_run(&scheduler, None, true).await;
    assert!(!worker.wait().unwrap().success());
    stage.end(scheduler).await;
}

#[tokio::test]
async fn a_record_that_is_none_is_set_aside_and_kept() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    stage.end(scheduler).await;
    write_record(&stage, "damaged", &json!({ "job": "words" }));
    let scheduler = stage.open().await;
    assert_eq!(scheduler.workers().await.unwrap(), []);
    let folder = stage.state().join("workers");
    assert_eq!(files(&folder), ["damaged.damaged"]);
    fs::remove_file(folder.join("damaged.damaged")).unwrap();
    stage.end(scheduler).await;
}
