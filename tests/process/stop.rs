//! The process scheduler starts, stops, kills and verifies real processes.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    pin::pin,
    process::Command,
    task::{Context, Waker},
    time::Duration,
};
use winddown::AnyStopped;
use winddown::ClusterController;
use winddown::Detached;
use winddown::JobContext;
use winddown::JobId;
use winddown::Limits;
use winddown::Role;
use winddown::RunId;
use winddown::StopRequest;
use winddown::Topology;
use winddown::contracts::Order;
use winddown::contracts::OrderError;

use crate::support::*;
use rustix::process::Signal;
use tokio::time::timeout;
use winddown::{
    OpenRun, PhaseKind, Policy, Scheduler, WorkerId,
    contracts::Transport,
    drive,
    process::{ProcessError, WorkerEnv},
};

/// A worker that ends with status 0 at SIGTERM, and notes each one.
const POLITE: &str =
    "trap 'echo TERM >> told-$WINDDOWN_WORKER; exit 0' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";
/// A worker that notes each SIGTERM and stays.
const DEAF: &str =
    "trap 'echo TERM >> told-$WINDDOWN_WORKER' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";

fn id(number: u64) -> WorkerId {
    WorkerId::new(number)
}

#[tokio::test]
async fn a_worker_gets_its_environment_its_output_files_and_no_input() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let script = "echo $WINDDOWN_JOB $WINDDOWN_RUN $WINDDOWN_WORKER $WINDDOWN_CONTROLLER $OWN; \
                  read line && echo input || echo no input; test -p \"$WINDDOWN_LIFELINE\" && echo lifeline; echo oops >&2";
    let worker = WorkerEnv::new(&OpenRun::without_store("a/b", RUN), id(3), "http://127.0.0.1:7000");
    let mut command = stage.sh(script);
    command.env("OWN", "own").env("WINDDOWN_JOB", "overridden");
    let mut started = scheduler.start(worker.clone(), command).await.unwrap();
    let status = timeout(SOON, started.gone()).await.unwrap().unwrap();
    assert!(status.success());

    let output = "a/b 7 3 http://127.0.0.1:7000 own\nno input\nlifeline\n";
    assert_eq!(fs::read_to_string(started.stdout()).unwrap(), output);
    assert_eq!(fs::read_to_string(started.stderr()).unwrap(), "oops\n");
    assert_eq!(started.stdout(), scheduler.state_folder().join("output/a%2Fb/7/3.stdout"));

    // Started again, it adds to them.
    let mut again = scheduler.start(worker, stage.sh("echo again")).await.unwrap();
    timeout(SOON, again.gone()).await.unwrap().unwrap();
    assert_eq!(fs::read_to_string(started.stdout()).unwrap(), format!("{output}again\n"));
    stage.end(scheduler).await;
}

#[tokio::test]
async fn a_worker_leads_a_group_of_its_own_so_ctrl_c_does_not_reach_it() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let worker = stage.start(&scheduler, 1, POLITE).await;
    let ours = stat(std::process::id().try_into().unwrap(), 5).unwrap();
    assert_eq!(stat(pid(&worker), 5), Some(pid(&worker).to_string()));
    assert_ne!(ours, pid(&worker).to_string());
    let watchdog = stage.watchdog().unwrap();
    assert_eq!(stat(watchdog, 5), Some(watchdog.to_string()), "nor the watchdog");
    stop(&scheduler, true).await;
    stage.end(scheduler).await;
}

#[tokio::test]
async fn a_failed_start_says_why_and_leaves_nothing_behind() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let before = stage.processes();
    let worker = WorkerEnv::new(&OpenRun::without_store(job(), RUN), id(1), "");
    let error = scheduler.start(worker.clone(), Command::new("/no/such/program")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "can't start worker 1 of job `words`, run 7: program `/no/such/program`: No such file or directory (os error 2)"
    );
    assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), []);
    assert_eq!((stage.records(), files(&stage.state().join("output"))), (0, vec![]));
    assert_eq!(stage.processes(), before);

    // What an earlier worker has written stays.
    let mut first = scheduler.start(worker.clone(), stage.sh("echo first")).await.unwrap();
    timeout(SOON, first.gone()).await.unwrap().unwrap();
    scheduler.start(worker, Command::new("/no/such/program")).await.unwrap_err();
    assert_eq!(fs::read_to_string(first.stdout()).unwrap(), "first\n");
    stage.end(scheduler).await;
}

#[tokio::test]
async fn two_workers_of_one_name_or_two_schedulers_on_one_folder_are_refused() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    stage.start(&scheduler, 1, POLITE).await;
    let again =
        scheduler.start(WorkerEnv::new(&OpenRun::without_store(job(), RUN), id(1), ""), stage.sh("touch twice")).await;
    let message = again.unwrap_err().to_string();
    assert_eq!(message, "worker 1 of job `words`, run 7, is already alive; stop it first, or use another id");
    let second = stage.builder().open().await;
    assert!(matches!(second, Err(ProcessError::InUse { .. })), "{second:?}");

    stop(&scheduler, true).await;
    assert!(!stage.path("twice").exists());
    stage.end(scheduler).await;
    let next = stage.open().await;
    stage.end(next).await;
}

#[tokio::test]
async fn without_force_a_worker_is_asked_once_and_may_end_by_itself() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let mut worker = stage.start(&scheduler, 1, POLITE).await;
    stop(&scheduler, false).await;
    assert_eq!(worker.gone().await.unwrap().code(), Some(0));
    assert_eq!(stage.text("told-1"), "TERM\n");
    stage.end(scheduler).await;
}

#[tokio::test]
async fn without_force_a_worker_that_stays_is_killed_after_the_grace_period() {
    let stage = Stage::new();
    let scheduler = stage.builder().grace(Duration::from_millis(500)).open().await.unwrap();
    let mut worker = stage.start(&scheduler, 1, DEAF).await;
    stop(&scheduler, false).await;
    assert_eq!(worker.gone().await.unwrap().signal(), Some(9));
    assert_eq!(stage.text("told-1"), "TERM\n", "it had its chance");
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i10_dropped_stops_ask_once_and_do_not_start_the_grace_period_again() {
    let stage = Stage::new();
    let scheduler = stage.builder().grace(Duration::from_secs(2)).open().await.unwrap();
    let mut worker = stage.start(&scheduler, 1, DEAF).await;
    // Each call is dropped long before a grace period of its own would end.
    let mut calls = 0;
    while timeout(Duration::from_millis(100), scheduler.stop_workers(&job(), Some(RUN), false)).await.is_err() {
        calls += 1;
        assert!(calls < 200, "the grace period starts again with every call");
    }
    assert!(calls > 1, "several calls were dropped");
    assert_eq!(worker.gone().await.unwrap().signal(), Some(9));
    assert_eq!(stage.text("told-1"), "TERM\n");
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i10_a_dropped_start_leaves_a_worker_that_is_listed() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let mut number = 0;
    // One step: it goes on aside. Now and then it is done before the step is over, and the next one
    // is tried.
    let was_dropped = |number| {
        let start = pin!(
            scheduler.start(WorkerEnv::new(&OpenRun::without_store(job(), RUN), id(number), ""), stage.sh(POLITE))
        );
        start.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    };
    while {
        number += 1;
        assert!(number < 100, "every start was done within its first step");
        !was_dropped(number)
    } {}
    stage.file(&format!("up-{number}")).await;
    let mut listed = scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap();
    listed.sort();
    assert_eq!(listed, (1..=number).map(id).collect::<Vec<_>>());
    stop(&scheduler, false).await;
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i2_a_frozen_worker_is_killed_or_thawed_to_leave() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let mut worker = stage.start(&scheduler, 1, POLITE).await;
    signal(pid(&worker), Signal::STOP);
    until("it is frozen", || state(pid(&worker)) == Some('T')).await;
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), [id(1)], "frozen is alive");
    stop(&scheduler, false).await;
    assert_eq!(worker.gone().await.unwrap().code(), Some(0), "it could take in the SIGTERM");

    let mut worker = stage.start(&scheduler, 2, POLITE).await;
    signal(pid(&worker), Signal::STOP);
    until("it is frozen", || state(pid(&worker)) == Some('T')).await;
    stop(&scheduler, true).await;
    assert_eq!(worker.gone().await.unwrap().signal(), Some(9));
    stage.end(scheduler).await;
}

/// The leader ends at once; what it leaves is `child`.
async fn leaves_a_child(child: &str, force: bool) {
    let stage = Stage::new();
    let scheduler = stage.builder().grace(Duration::from_millis(500)).open().await.unwrap();
    let script = format!("{child} & echo $! > child; mv child up-$WINDDOWN_WORKER");
    let worker = stage.start(&scheduler, 1, &script).await;
    until("the leader has ended", || state(pid(&worker)) == Some('Z')).await;
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), [id(1)], "its child is alive");
    stop(&scheduler, force).await;
    let child: i32 = stage.text("up-1").trim().parse().unwrap();
    assert!(state(child).is_none_or(|state| state == 'Z'), "the child is dead");
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i2_a_child_in_the_group_is_part_of_its_worker() {
    leaves_a_child("sleep 600", true).await;
    leaves_a_child("sleep 600", false).await;
}

#[tokio::test]
async fn i2_a_child_that_ignores_sigterm_is_part_of_its_worker() {
    leaves_a_child("(trap '' TERM; while :; do sleep 0.1; done)", true).await;
    leaves_a_child("(trap '' TERM; while :; do sleep 0.1; done)", false).await;
}

#[tokio::test]
async fn i2_a_child_that_has_left_the_group_is_part_of_its_worker() {
    leaves_a_child("exec setsid sleep 600", true).await;
    leaves_a_child("exec setsid sleep 600", false).await;
}

#[tokio::test]
async fn i2_unreaped_children_do_not_keep_a_worker_alive() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    // The shell becomes a program that never reaps, with a child that has ended.
    let worker = stage.start(&scheduler, 1, "sh -c 'exit 0' & touch up-1; exec sleep 600").await;
    assert_eq!(scheduler.workers_for_job(&job(), Some(RUN)).await.unwrap(), [id(1)]);
    stop(&scheduler, true).await;
    assert_eq!(state(pid(&worker)), None, "the worker is reaped");
    stage.end(scheduler).await;
}

#[tokio::test]
async fn a_worker_that_ends_is_reaped_though_nobody_asks() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let worker = stage.start(&scheduler, 1, "touch up-1").await;
    until("it is reaped", || state(pid(&worker)).is_none()).await;
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i9_fifty_workers_are_stopped_at_once() {
    const WORKERS: u64 = 50;
    let stage = Stage::new();
    let scheduler = stage.open().await;
    // None leaves before all have been asked: were they asked one after the other, nobody would
    // ever leave.
    let script = "trap 'touch told-$WINDDOWN_WORKER; until test -e all; do sleep 0.2; done; exit 0' TERM; \
                  touch up-$WINDDOWN_WORKER; while :; do sleep 0.2; done";
    let mut workers = Vec::new();
    for number in 1..=WORKERS {
        workers.push(stage.start(&scheduler, number, script).await);
    }
    let everybody_told = async {
        for number in 1..=WORKERS {
            stage.file(&format!("told-{number}")).await;
        }
        fs::write(stage.path("all"), "").unwrap();
    };
    tokio::join!(stop(&scheduler, false), everybody_told);
    for worker in &mut workers {
        assert_eq!(worker.gone().await.unwrap().code(), Some(0));
    }
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i9_force_waits_for_no_worker_that_is_being_asked_is_frozen_or_deaf() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let mut workers = vec![stage.start(&scheduler, 1, DEAF).await, stage.start(&scheduler, 2, POLITE).await];
    signal(pid(&workers[1]), Signal::STOP);
    workers.push(stage.start(&scheduler, 3, DEAF).await);

    // A stop without force is under way, and would wait for ever.
    let asking = tokio::spawn({
        let scheduler = scheduler.clone();
        async move { scheduler.stop_workers(&job(), Some(RUN), false).await }
    });
    stage.file("told-1").await;
    stop(&scheduler, true).await;
    timeout(SOON, asking).await.unwrap().unwrap().unwrap();
    for (worker, signal) in workers.iter_mut().zip([Some(9), None, Some(9)]) {
        let status = worker.gone().await.unwrap();
        assert!(signal.is_none() || status.signal() == signal, "{status}");
    }
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i11_a_stop_touches_no_other_run_and_no_other_job() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let next_run = RUN.next();
    for (number, (name, run)) in (1..).zip([("words", RUN), ("words", next_run), ("other", RUN)]) {
        let script = POLITE.replace("up-$WINDDOWN_WORKER", &format!("started-{number}"));
        scheduler
            .start(WorkerEnv::new(&OpenRun::without_store(name, run), id(1), ""), stage.sh(&script))
            .await
            .unwrap();
        stage.file(&format!("started-{number}")).await;
    }
    stop_run(&scheduler, Some(RUN), true).await;
    let left = [(JobId::from("other"), RUN, id(1)), (job(), next_run, id(1))];
    assert_eq!(scheduler.workers().await.unwrap(), left);
    assert!(!stage.path("told-1").exists(), "nobody else was asked");

    stop_run(&scheduler, None, false).await;
    assert_eq!(scheduler.workers().await.unwrap(), left[..1]);
    // What is stopped, or was never there, can be stopped.
    stop_run(&scheduler, Some(RUN), false).await;
    stop_run(&scheduler, Some(RunId::new(99)), true).await;
    scheduler.stop_workers(&"other".into(), None, true).await.unwrap();
    stage.end(scheduler).await;
}

#[tokio::test]
async fn i2_a_job_without_a_controller_is_stopped_by_killing_its_processes() {
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let worker = stage.start(&scheduler, 1, DEAF).await;
    let (mut context, running) = JobContext::builder(&OpenRun::without_store(job(), RUN))
        .simulated()
        .build(Detached, scheduler.clone())
        .unwrap();
    context.sender().request(StopRequest::Force).unwrap();
    let receipt = timeout(SOON, drive(running, &mut context, &Policy::give_back())).await.unwrap().unwrap();
    assert!(matches!(receipt.stopped(), AnyStopped::Killed(_)), "{receipt}");
    assert_eq!(state(pid(&worker)), None, "`Stopped` is a fact");
    stage.end(scheduler).await;
}

/// Takes every order in; nothing comes of it.
struct Deaf;

impl Transport for Deaf {
    async fn send(&self, _: WorkerId, _: Order) -> Result<(), OrderError> {
        Ok(())
    }
}

/// Silence would tell it only after an hour.
#[tokio::test]
async fn u9_a_worker_process_that_dies_is_heard_of_at_once_by_one_line() {
    for dies_before in [true, false] {
        let stage = Stage::new();
        let scheduler = stage.open().await;
        let limits = Limits { heartbeat: Duration::from_secs(3600), checkpoint_every: None, ..Limits::default() };
        let topology = Topology::builder().operator("source", Role::Source, [id(1), id(2)]).build().unwrap();
        let controller =
            ClusterController::builder(&OpenRun::without_store(job(), RUN), topology, std::sync::Arc::new(Deaf));
        let controller = controller.limits(limits.clone()).build();
        let (mut job, running) = JobContext::builder(&OpenRun::without_store(job(), RUN))
            .simulated()
            .limits(limits)
            .build(controller, scheduler.clone())
            .unwrap();
        stage.start(&scheduler, 1, POLITE).await;
        let mut struck = stage.start(&scheduler, 2, POLITE).await;
        if dies_before {
            signal(pid(&struck), Signal::KILL);
            timeout(SOON, struck.gone()).await.unwrap();
            job.hear_of_ends();
        } else {
            job.hear_of_ends();
            signal(pid(&struck), Signal::KILL);
        }
        let after = timeout(SOON, running.next(&mut job)).await.expect("it is heard of").unwrap();
        assert_eq!((after.kind(), job.progress_now().reason.workers()), (PhaseKind::Recovering, &[id(2)][..]));
        drop(drive(after, &mut job, &Policy::escalate()).await.unwrap());
        drop(job);
        stage.end(scheduler).await;
    }
}
