//! Runs `wordcount` with worker processes, and ends workers and controllers in every way that there
//! is: the counts are exact in the end, and no process is left.

use std::{fs, process::Child, thread::sleep, time::Duration};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::harness::{Case, End, Random, adopt_orphans, contents, signal, wait};

const PROCESS: &str = "--runtime process --report json";
/// From the controller's death until nothing of its workers is left: five seconds of grace, and
/// one.
const ORPHANS: Duration = Duration::from_secs(6);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_secs(4);

/// Runs to the end of the input, and checks all that is to be checked then.
fn finish(case: &Case, line: &str) -> End {
    let end = case.run(&format!("{PROCESS} {line}"));
    assert_eq!((end.code, &end.report()["input_done"]), (Some(0), &true.into()), "{end:?}");
    over(case, &end);
    case.assert_exact();
    end
}

/// The call is over, and so is everything that it had started.
fn over(case: &Case, end: &End) {
    assert_eq!(end.report()["workers_left"], 0, "{end:?}");
    assert_eq!(case.processes(), [], "{end:?}");
}

fn send(pid: Pid, what: Signal) {
    kill(pid, what).unwrap();
}

/// Kills a controller, and nothing else.
fn kill_controller(mut controller: Child) {
    controller.kill().unwrap();
    controller.wait().unwrap();
}

#[test]
fn a_finished_job_has_the_exact_counts_and_starts_no_process_again() {
    let case = Case::new(300);
    let end = finish(&case, "");
    assert_eq!(end.phases(), ["Running", "Finishing", "Stopped<Completed>"]);
    let before = contents(&case.state());
    let again = finish(&case, "");
    assert_eq!(again.report()["run"], 1, "no run is started for a job that is complete");
    assert_eq!(contents(&case.state()), before);
}

#[test]
fn stops_of_every_mode_lose_and_double_nothing_and_the_runtimes_may_change() {
    let case = Case::new(900);
    let modes = [("checkpoint", "checkpointed"), ("graceful", "drained"), ("immediate", "halted"), ("force", "killed")];
    let (mut random, mut committed) = (Random::new(4), 0);
    for round in 0..8 {
        let (mode, evidence) = modes[round % modes.len()];
        let after = random.below(350);
        let runtime = if round == 5 { "--runtime embedded --report json" } else { PROCESS };
        let end = case.run(&format!("{runtime} --rate 60 --checkpoint-every 40ms --stop {mode}@{after}ms"));
        assert_eq!((end.code, &end.report()["evidence"]), (Some(0), &evidence.into()), "{end:?}");
        over(&case, &end);
        let now = end.report()["input_lines_committed"].as_u64().unwrap();
        assert!(now >= committed, "{now} after {committed} lines");
        committed = now;
    }
    assert!(committed > 0 && committed < case.lines(), "{committed} lines: the stops hit the middle of the job");
    finish(&case, "");
}

#[test]
fn the_receipt_resumes_with_processes() {
    let case = Case::new(100);
    let stopped = case.run("--rate 40 --runtime process --stop checkpoint@300ms");
    let command = stopped.stdout.lines().find_map(|line| line.trim().strip_prefix("resume with")).unwrap().trim();
    assert!(command.ends_with("--runtime process"), "{command}");
    assert_eq!(case.shell(command).code, Some(0));
    case.assert_exact();
}

#[test]
fn killed_workers_are_followed_by_new_runs_that_lose_and_double_nothing() {
    let case = Case::new(1200);
    let mut random = Random::new(5);
    let child = case.start(&format!("{PROCESS} --rate 90 --checkpoint-every 30ms --restarts 100"));
    let kills = 6;
    for run in 1..=kills {
        let workers = case.await_workers(run, 4);
        sleep(Duration::from_millis(random.below(300)));
        let victim = workers[&(1 + random.below(4))];
        send(victim, Signal::SIGKILL);
    }
    let end = wait(child);
    assert_eq!((end.code, &end.report()["run"]), (Some(0), &(kills + 1).into()), "{end:?}");
    over(&case, &end);
    case.assert_exact();
}

/// It is noticed at once, and not when its heartbeats have been missed for thirty seconds.
#[test]
fn a_killed_worker_is_named_with_its_log_and_is_not_restarted_without_leave() {
    let case = Case::new(100);
    let child = case.start(&format!("{PROCESS} --rate 4 --restarts 0"));
    let workers = case.await_workers(1, 4);
    case.await_checkpoint();
    send(workers[&2], Signal::SIGKILL);
    let end = wait(child);
    assert_eq!((end.code, &end.report()["evidence"]), (Some(1), &"killed".into()), "{end:?}");
    assert_eq!(end.phases(), ["Running", "Recovering", "Stopping<Force>", "Stopped<Killed>"]);
    let named = format!("worker 2 (process {}) has ended: signal: 9 (SIGKILL); what it said is in ", workers[&2]);
    let line = end.stderr.lines().find_map(|line| line.strip_prefix(&named)).unwrap_or_else(|| panic!("{end:?}"));
    assert!(fs::metadata(line).is_ok(), "{line}");
    assert!(end.stderr.contains("worker 2 left with 3 unfinished tasks"), "{end:?}");
    assert!(end.report()["elapsed_ms"].as_u64().unwrap() < 20_000, "{end:?}");
    over(&case, &end);
    finish(&case, "");
}

#[test]
fn a_worker_that_is_terminated_leaves_by_itself_and_the_job_goes_on() {
    let case = Case::new(200);
    let child = case.start(&format!("{PROCESS} --rate 30 --checkpoint-every 50ms"));
    let workers = case.await_workers(1, 4);
    case.await_checkpoint();
    send(workers[&3], Signal::SIGTERM);
    let end = wait(child);
    assert_eq!((end.code, &end.report()["run"]), (Some(0), &2.into()), "{end:?}");
    over(&case, &end);
    case.assert_exact();
    let log = fs::read_to_string(case.state().join("processes/scheduler/output/wordcount/1/3.stderr")).unwrap();
    assert!(log.contains("leaving: SIGTERM"), "{log}");
}

/// It is in the middle of its work, and has given no state yet: the run has failed, and no
/// checkpoint may take its tasks for finished.
#[test]
fn i3_a_worker_that_is_terminated_before_its_first_checkpoint_loses_nothing() {
    let case = Case::new(200);
    let child = case.start(&format!("{PROCESS} --rate 15 --checkpoint-every 1s"));
    let workers = case.await_workers(1, 4);
    case.await_first_line(3);
    send(workers[&3], Signal::SIGTERM);
    let end = wait(child);
    assert_eq!((end.code, &end.report()["run"]), (Some(0), &2.into()), "{end:?}");
    assert!(end.stderr.contains("] Recovering ") && end.stderr.contains("its worker leaves"), "{end:?}");
    over(&case, &end);
    case.assert_exact();
}

#[test]
fn the_injected_failure_comes_once() {
    let case = Case::new(200);
    let end = finish(&case, "--rate 100 --checkpoint-every 50ms --fail-at-line 20");
    assert_eq!(end.report()["run"], 2, "{end:?}");
    assert!(end.stderr.contains("injected failure at line 20"), "{end:?}");
}

/// Every start finds what the kill before it has left, whatever that is, ends it and goes on.
#[test]
fn controllers_killed_at_random_moments_lose_and_double_nothing() {
    let case = Case::new(1500);
    let mut random = Random::new(6);
    for _ in 0..12 {
        let mut controller = case.start(&format!("{PROCESS} --rate 60 --checkpoint-every 20ms"));
        sleep(Duration::from_millis(random.below(700)));
        assert!(controller.try_wait().unwrap().is_none(), "the job lasts longer than all of them");
        kill_controller(controller);
    }
    case.assert_nothing_is_left(ORPHANS + SLACK);
    finish(&case, "");
}

/// The workers of a dead controller end within the documented time, one that is frozen included.
#[test]
fn no_worker_outlives_a_killed_controller() {
    adopt_orphans();
    let case = Case::new(400);
    let controller = case.start(&format!("{PROCESS} --rate 4"));
    let workers = case.await_workers(1, 4);
    send(workers[&1], Signal::SIGSTOP);
    kill_controller(controller);
    case.assert_nothing_is_left(ORPHANS + SLACK);
    finish(&case, "");
}

/// No worker is started without a watchdog, so the next run waits for the next watchdog.
#[test]
fn a_watchdog_that_was_killed_is_replaced_before_the_next_run() {
    let case = Case::new(200);
    let child = case.start(&format!("{PROCESS} --rate 30 --checkpoint-every 50ms"));
    let workers = case.await_workers(1, 4);
    let first = case.watchdog().unwrap();
    send(first, Signal::SIGKILL);
    send(workers[&1], Signal::SIGKILL);
    case.await_workers(2, 4);
    assert!(case.watchdog().is_some_and(|second| second != first));
    let end = wait(child);
    assert_eq!((end.code, &end.report()["run"]), (Some(0), &2.into()), "{end:?}");
    over(&case, &end);
    case.assert_exact();
}

/// Controller and watchdog die, and a frozen worker stays. Whoever uses the state directory next
/// ends it first, in whatever runtime.
#[test]
fn a_start_ends_what_a_dead_controller_and_watchdog_have_left() {
    adopt_orphans();
    for line in ["--runtime process", "--runtime embedded", "--runtime embedded --fresh"] {
        let case = Case::new(200);
        let controller = case.start(&format!("{PROCESS} --rate 4 --checkpoint-every 50ms"));
        let workers = case.await_workers(1, 4);
        case.await_checkpoint();
        send(workers[&1], Signal::SIGSTOP);
        send(case.watchdog().unwrap(), Signal::SIGKILL);
        kill_controller(controller);
        assert!(case.processes().contains(&workers[&1]), "the others leave, since their lifeline has ended");
        let end = case.run(&format!("--report json {line}"));
        assert_eq!((end.code, &end.report()["input_done"]), (Some(0), &true.into()), "{line}: {end:?}");
        over(&case, &end);
        case.assert_exact();
    }
}

/// A worker that nobody knows of any more keeps its folder to itself while it is there, and does
/// nothing when it wakes up.
#[test]
fn i11_a_forgotten_worker_that_wakes_up_late_does_no_harm() {
    adopt_orphans();
    let case = Case::new(200);
    let controller = case.start(&format!("{PROCESS} --rate 4 --checkpoint-every 50ms"));
    let zombie = case.await_workers(1, 4)[&1];
    case.await_checkpoint();
    send(zombie, Signal::SIGSTOP);
    send(case.watchdog().unwrap(), Signal::SIGKILL);
    kill_controller(controller);
    fs::remove_dir_all(case.state().join("processes/scheduler/workers")).unwrap();

    let refused = case.run(&format!("{PROCESS} --restarts 0"));
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("in use by another worker"), "{refused:?}");
    assert!(case.processes().contains(&zombie), "{refused:?}");
    send(zombie, Signal::SIGCONT);
    case.assert_nothing_is_left(ORPHANS + SLACK);
    finish(&case, "");
}

/// As a terminal does: the signal goes to the whole foreground group.
#[test]
fn ctrl_c_reaches_the_controller_alone_and_the_second_one_stops_at_once() {
    let case = Case::new(400);
    let child = case.start(&format!("{PROCESS} --rate 4"));
    let group = Pid::from_raw(child.id().try_into().unwrap());
    let workers = case.await_workers(1, 4);
    case.await_checkpoint();
    // The final checkpoint can't be had while this one is frozen.
    send(workers[&4], Signal::SIGSTOP);
    killpg(group, Signal::SIGINT).unwrap();
    sleep(Duration::from_millis(300));
    assert_eq!(case.workers().len(), 4, "no worker has heard of it");
    killpg(group, Signal::SIGINT).unwrap();
    sleep(Duration::from_millis(300));
    send(workers[&4], Signal::SIGCONT);
    let end = wait(child);
    assert_eq!((end.code, &end.report()["evidence"]), (Some(0), &"halted".into()), "{end:?}");
    assert_eq!(end.phases(), ["Running", "CheckpointStopping", "Stopping<Immediate>", "Stopped<Halted>"]);
    over(&case, &end);

    // One is enough where nothing is in the way; SIGTERM is the same.
    let child = case.start(&format!("{PROCESS} --rate 4"));
    case.await_workers(2, 4);
    signal(&child, Signal::SIGTERM);
    let end = wait(child);
    assert_eq!((end.code, &end.report()["evidence"]), (Some(0), &"checkpointed".into()), "{end:?}");
    over(&case, &end);
    finish(&case, "");
}

#[test]
fn i8_a_job_that_was_asked_to_stop_is_not_restarted_for_a_killed_worker() {
    let case = Case::new(400);
    let child = case.start(&format!("{PROCESS} --rate 4"));
    let workers = case.await_workers(1, 4);
    case.await_checkpoint();
    send(workers[&1], Signal::SIGSTOP);
    signal(&child, Signal::SIGINT);
    sleep(Duration::from_millis(300));
    send(workers[&1], Signal::SIGKILL);
    let end = wait(child);
    assert_eq!((end.code, &end.report()["evidence"]), (Some(0), &"killed".into()), "{end:?}");
    assert_eq!(end.phases(), ["Running", "CheckpointStopping", "Stopping<Force>", "Stopped<Killed>"]);
    over(&case, &end);
    finish(&case, "");
}
