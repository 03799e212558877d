//! Records that are damaged, forged, or of a scheduler that died.

use std::{
    env, fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use winddown::{
    contracts::{OpenRun, Scheduler, WorkerId},
    process::{HeldBy, ProcessScheduler, Watchdog, WorkerEnv},
};

use crate::{is_alive, skipped, support::*, workers_of};

/// Set for `scheduler_entry`: how it holds its workers, whether it has a watchdog, and a script for each worker.
const SCHEDULER: &str = "WINDDOWN_TEST_SCHEDULER";
const DEAF: &str = "trap '' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";

fn both() -> [HeldBy; 2] {
    [HeldBy::Environment, HeldBy::ControlGroup]
}

/// Not a test: a scheduler in a process of its own, to be killed.
#[test]
fn scheduler_entry() {
    let Ok(plan) = env::var(SCHEDULER) else { return };
    let (group, guarded, scripts): (bool, bool, Vec<String>) = serde_json::from_str(&plan).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let watchdog = if guarded { watchdog() } else { Watchdog::Off };
        let held_by = if group { HeldBy::ControlGroup } else { HeldBy::Environment };
        let builder = ProcessScheduler::builder("state").watchdog(watchdog).orphan_grace(Duration::from_millis(300));
        let Ok(scheduler) = builder.held_by(held_by).open().await else { return };
        for (number, script) in (1..).zip(scripts) {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", &script]).env_remove(SCHEDULER);
            let env = WorkerEnv::new(&OpenRun::without_store(job(), RUN), WorkerId::new(number), "");
            scheduler.start(env, command).await.unwrap();
        }
        fs::write("started", "").unwrap();
        sleep(NEVER).await;
    });
}

/// Starts a scheduler in a process of its own, does something when its workers are up, and kills it. False where there are no control groups.
pub(crate) async fn dies(stage: &Stage, held_by: HeldBy, guarded: bool, scripts: &[&str], then: impl FnOnce()) -> bool {
    let mut command = stage.this_program("records::scheduler_entry");
    let plan = serde_json::to_string(&(held_by == HeldBy::ControlGroup, guarded, scripts)).unwrap();
    let mut scheduler = command.env(SCHEDULER, plan).process_group(0).spawn().unwrap();
    while !stage.path("started").exists() {
        if let Some(status) = scheduler.try_wait().unwrap() {
            assert!(status.success() && held_by == HeldBy::ControlGroup, "{status}");
            skipped("no control groups");
            return false;
        }
        sleep(Duration::from_millis(10)).await;
    }
    for number in 1..=scripts.len() {
        stage.file(&format!("up-{number}")).await;
    }
    then();
    scheduler.kill().unwrap();
    scheduler.wait().unwrap();
    true
}

fn records(stage: &Stage) -> Vec<(PathBuf, Value)> {
    let folder = stage.state().join("workers");
    let names =
        files(&folder).into_iter().filter(|name| std::path::Path::new(name).extension().is_some_and(|it| it == "json"));
    names
        .map(|name| folder.join(name))
        .map(|path| (path.clone(), serde_json::from_slice(&fs::read(path).unwrap()).unwrap()))
        .collect()
}

/// Damages the record of worker 1, and gives its path.
fn damage(stage: &Stage, how: &str) -> PathBuf {
    let (path, record) = records(stage).into_iter().find(|(_, record)| record["worker"] == 1).unwrap();
    match how {
        "empty" => fs::write(&path, "").unwrap(),
        "torn" => fs::write(&path, &record.to_string()[..40]).unwrap(),
        "another's" => fs::write(&path, json!({ "job": "words" }).to_string()).unwrap(),
        _ => unreachable!(),
    }
    path
}

#[tokio::test]
async fn i2_b8_a_damaged_record_keeps_the_watchdog_from_ending_nobody() {
    let _alone = crate::ALONE.lock().await;
    for (held_by, how) in both().into_iter().zip(["empty", "torn"]) {
        let stage = Stage::new();
        let mut damaged = PathBuf::new();
        // The second one's child is one that only its worker's record tells of.
        let workers = [DEAF, "setsid sleep 600 & touch up-$WINDDOWN_WORKER", DEAF];
        if !dies(&stage, held_by, true, &workers, || damaged = damage(&stage, how)).await {
            continue;
        }
        stage.nothing_is_left().await;
        let aside = damaged.with_extension("damaged");
        assert!(!damaged.exists() && aside.exists(), "it is set aside");
        assert_eq!(stage.records(), 1, "nothing but that is left");
        let log = fs::read_to_string(stage.state().join("watchdog.log")).unwrap();
        let name = aside.file_name().unwrap().to_str().unwrap();
        assert!(log.contains(name), "{log}");
    }
}

#[tokio::test]
async fn i2_b8_the_next_scheduler_opens_and_ends_what_a_damaged_record_belongs_to() {
    let _alone = crate::ALONE.lock().await;
    for (held_by, how) in both().into_iter().zip(["another's", "empty"]) {
        let stage = Stage::new();
        let mut damaged = PathBuf::new();
        if !dies(&stage, held_by, false, &[DEAF, DEAF], || damaged = damage(&stage, how)).await {
            continue;
        }
        assert!(workers_of(&stage).len() >= 2, "both live");
        let scheduler = stage.builder().held_by(held_by).open().await.unwrap();
        assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), [WorkerId::new(2)], "whose record is whole");
        assert!(damaged.with_extension("damaged").exists());
        stop(&scheduler, true).await;
        assert_eq!(workers_of(&stage), [0; 0], "and nothing of the other one is alive");
        fs::remove_file(damaged.with_extension("damaged")).unwrap();
        stage.end(scheduler).await;
    }
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

/// A record of a group that is nobody's worker, true in all that can be looked up.
fn forge(stage: &Stage, pid: i32, token: &str, user: u32) {
    let start: u64 = stat(pid, 22).unwrap().parse().unwrap();
    let process = json!({ "pid": pid, "start": start });
    let record = json!({ "job": "words", "run": 7, "worker": 1, "token": token, "schedulers": ["x"], "boot": boot(),
        "process": process, "user": user });
    fs::write(stage.state().join(format!("workers/{token}.json")), record.to_string()).unwrap();
}

#[tokio::test]
async fn b10_a_forged_record_kills_nobody() {
    let _alone = crate::ALONE.lock().await;
    let us = rustix::process::geteuid().as_raw();
    // Without the token; with the token, and another user.
    for (variable, user) in [("NOTHING", us), ("WINDDOWN_SPAWN", us + 4711)] {
        let stage = Stage::new();
        let scheduler = stage.open().await;
        stage.end(scheduler).await;
        let mut stranger = stage.sh("exec sleep 600").env(variable, "forged").process_group(0).spawn().unwrap();
        let number = i32::try_from(stranger.id()).unwrap();
        until("it is a program of its own", || {
            fs::read(format!("/proc/{number}/cmdline")).unwrap().starts_with(b"sleep")
        })
        .await;
        forge(&stage, number, "forged", user);
        let scheduler = stage.open().await;
        // Nobody knows that it is not alive.
        assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), [WorkerId::new(1)]);
        let stopped = timeout(SOON, scheduler.stop_workers(&job(), Some(RUN), true)).await.expect("it ends");
        let error = stopped.unwrap_err().to_string();
        assert!(error.contains(&format!("process {number} (it has the number and start time on record")), "{error}");
        assert!(is_alive(number), "nobody has touched it");
        // The check of the check: what shows the token is killed.
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        stop(&scheduler, true).await;
        stage.end(scheduler).await;
    }
}

#[tokio::test]
async fn b10_a_forged_record_is_nothing_to_a_watchdog_either() {
    let _alone = crate::ALONE.lock().await;
    let stage = Stage::new();
    let scheduler = stage.builder().orphan_grace(Duration::ZERO).open().await.unwrap();
    let mut stranger = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
    let number = i32::try_from(stranger.id()).unwrap();
    let lifeline = files(&stage.state()).into_iter().find(|name| name.starts_with("lifeline-")).unwrap();
    let start: u64 = stat(number, 22).unwrap().parse().unwrap();
    let record = json!({ "job": "words", "run": 7, "worker": 1, "token": "forged", "boot": boot(),
        "schedulers": [lifeline.trim_start_matches("lifeline-")], "process": { "pid": number, "start": start } });
    fs::write(stage.state().join("workers/forged.json"), record.to_string()).unwrap();
    let watchdog = stage.watchdog().unwrap();
    drop(scheduler);
    let log = stage.state().join("watchdog.log");
    until("the watchdog has seen it", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("does not show the token"))
    })
    .await;
    assert!(is_alive(number));
    signal(watchdog, Signal::KILL);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    stage.nothing_is_left().await;
}

#[tokio::test]
async fn b10_folders_and_files_are_the_owners_alone() {
    let _alone = crate::ALONE.lock().await;
    let stage = Stage::new();
    let scheduler = stage.open().await;
    stage.start(&scheduler, 1, "echo secret; touch up-1; exec sleep 600").await;
    let mut seen = 0;
    let mut folders = vec![stage.state()];
    while let Some(folder) = folders.pop() {
        for name in files(&folder) {
            let path = folder.join(&name);
            let metadata = fs::symlink_metadata(&path).unwrap();
            seen += 1;
            let mode = metadata.mode() & 0o777;
            if metadata.is_dir() {
                assert_eq!(mode, 0o700, "{}", path.display());
                folders.push(path);
            } else if name.starts_with("lifeline-") {
                // Nothing is ever in it, and a worker may run as another user.
                assert_eq!(mode & 0o022, 0, "{}", path.display());
            } else {
                assert_eq!(mode, 0o600, "{}", path.display());
            }
        }
    }
    assert!(seen >= 8, "{seen}");
    assert_eq!(fs::metadata(stage.state()).unwrap().mode() & 0o777, 0o700);
    stop(&scheduler, true).await;
    stage.end(scheduler).await;
}

/// Ends its first thread, and goes on in another.
const THREADS: &str = "import ctypes, threading, time\n\
                       threading.Thread(target=lambda: time.sleep(600)).start()\n\
                       open('up-1', 'w').close()\n\
                       ctypes.CDLL(None).syscall(60, 0)";

/// A leader that has ended while its threads go on is a zombie to those that look; its environment shows on its threads alone.
#[tokio::test]
async fn i2_b2_a_leader_that_has_ended_while_its_threads_live_is_found_by_the_next_scheduler() {
    let _alone = crate::ALONE.lock().await;
    if Command::new("python3").args(["-c", "import ctypes"]).status().map_or(true, |status| !status.success()) {
        return skipped("no python3");
    }
    for held_by in both() {
        let stage = Stage::new();
        let script = format!("exec python3 -c \"{THREADS}\"");
        let mut leader = 0;
        let found = || leader = records(&stage)[0].1["process"]["pid"].as_i64().unwrap().try_into().unwrap();
        if !dies(&stage, held_by, false, &[&script], found).await {
            continue;
        }
        until("its first thread has ended", || state(leader) == Some('Z')).await;
        let scheduler = stage.builder().held_by(held_by).open().await.unwrap();
        assert_eq!(
            scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(),
            [WorkerId::new(1)],
            "its thread is alive"
        );
        stop(&scheduler, true).await;
        assert!(stat(leader, 20).is_none_or(|threads| threads == "1"), "no thread is left");
        stage.end(scheduler).await;
    }
}
