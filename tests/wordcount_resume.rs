//! Kills `examples/wordcount` in the middle of its shutdowns: the next start finishes the shutdown, says so, and goes on with the job.
#![cfg(all(
    target_os = "linux",
    feature = "embedded",
    feature = "grpc",
    feature = "journal",
    feature = "object-store",
    feature = "process"
))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "wordcount/harness.rs"]
mod harness;

use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

use harness::{Case, Random, signal};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use winddown::{PhaseKind, PhaseRecord};

/// What a resumed shutdown can't claim: more than the stop that was asked for proves.
fn strength(evidence: &str) -> usize {
    ["killed", "halted", "drained", "checkpointed"].iter().position(|name| *name == evidence).unwrap()
}

fn is_shutdown(record: &PhaseRecord) -> bool {
    !record.phase.is_terminal() && (record.phase != PhaseKind::Running || record.requested.is_some())
}

/// Starts the program, and kills it so long after its stop was asked for.
fn kill_in_shutdown(case: &Case, line: &str, after: Duration) -> PhaseRecord {
    let mut child = case.start(line);
    harness::await_line(&mut child, "stop asked for");
    // Shorter than the system's timer can do.
    let end = Instant::now() + after;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    case.record().unwrap()
}

/// Kills the program `rounds` times in shutdowns of each mode. Gives the phases in which it was killed.
fn kill_and_resume(runtime: &str, rounds: u64, within: Duration, random: &mut Random) -> BTreeSet<&'static str> {
    let case = Case::new(6000);
    let runtime = format!("--runtime {runtime} --rate 60 --checkpoint-every 20ms --report json");
    let modes = [("checkpoint", "checkpointed"), ("graceful", "drained"), ("immediate", "halted"), ("force", "killed")];
    let mut phases = BTreeSet::new();
    for _ in 0..rounds {
        for (mode, most) in modes {
            let after = Duration::from_micros(random.below(within.as_micros().try_into().unwrap()));
            let record = kill_in_shutdown(&case, &format!("{runtime} --stop {mode}@150ms"), after);
            // The job goes on in the same call, until it is stopped itself.
            let end = case.run(&format!("{runtime} --stop immediate@10ms"));
            assert_eq!(end.code, Some(0), "{end:?}");
            let report = end.report();
            let resumed = report.get("resumed_shutdown");
            assert_eq!(resumed.is_some(), is_shutdown(&record), "{record:?} {end:?}");
            assert!(report["run"].as_u64().unwrap() > record.run.get(), "a new run follows: {end:?}");
            assert_eq!((&report["evidence"], &report["workers_left"]), (&"halted".into(), &0.into()), "{end:?}");
            assert!(case.record().unwrap().phase.is_terminal());
            let Some(resumed) = resumed else { continue };
            assert_eq!((&resumed["run"], &resumed["found"]), (&record.run.get().into(), &record.phase.name().into()));
            assert_eq!(resumed["requested"], mode);
            let evidence = resumed["evidence"].as_str().unwrap();
            assert!(strength(evidence) <= strength(most), "{evidence} is more than {mode} proves");
            let last = resumed["phases"].as_array().unwrap().last().unwrap()["phase"].as_str().unwrap();
            assert!(last.to_lowercase().contains(evidence), "{resumed}");
            assert!(end.stderr.contains("that shutdown is finished first"), "{end:?}");
            phases.insert(record.phase.name());
        }
    }
    let end = case.run(&runtime.replace("--rate 60", ""));
    assert_eq!((end.code, &end.report()["input_done"]), (Some(0), &true.into()), "{end:?}");
    assert_eq!(case.processes(), [], "no worker of any run is left");
    case.assert_exact();
    phases
}

#[test]
fn i7_a_shutdown_whose_controller_was_killed_is_finished_by_the_next_start() {
    let phases = kill_and_resume("embedded", 12, Duration::from_millis(25), &mut Random::new(21));
    assert!(phases.len() >= 3, "the kills hit the middle of shutdowns: {phases:?}");
}

#[test]
fn i7_the_same_with_worker_processes() {
    let phases = kill_and_resume("process", 6, Duration::from_millis(40), &mut Random::new(22));
    assert!(phases.len() >= 2, "the kills hit the middle of shutdowns: {phases:?}");
}

/// Killed in the shutdown, in the start that finishes it, and in the next: it is never forgotten.
#[test]
fn i7_a_resumed_shutdown_may_be_killed_as_well() {
    let case = Case::new(3000);
    let line = "--rate 60 --checkpoint-every 20ms --report json";
    let mut random = Random::new(23);
    let mut attempts = BTreeSet::new();
    for _ in 0..40 {
        let record = kill_in_shutdown(&case, &format!("{line} --stop checkpoint@100ms"), Duration::from_millis(2));
        if !is_shutdown(&record) {
            continue;
        }
        for _ in 0..2 {
            let mut child = case.start(line);
            harness::await_line(&mut child, "that shutdown is finished first");
            sleep(Duration::from_micros(random.below(4000)));
            child.kill().unwrap();
            child.wait().unwrap();
            let now = case.record().unwrap();
            if now.run == record.run {
                attempts.insert(now.attempt);
            }
            if now.phase.is_terminal() || now.run != record.run {
                break;
            }
        }
        let before = case.record().unwrap();
        let end = case.run(&format!("{line} --stop immediate@0ms"));
        assert_eq!(end.report().get("resumed_shutdown").is_some(), is_shutdown(&before), "{before:?} {end:?}");
        if attempts.len() >= 2 {
            break;
        }
    }
    assert!(attempts.len() >= 2, "a resumed shutdown was killed: {attempts:?}");
    assert_eq!(case.run("").code, Some(0));
    case.assert_exact();
}

/// Controller and watchdog die in a shutdown, and a frozen worker stays. The start that finishes the shutdown finds it and kills it.
#[test]
fn a_frozen_worker_of_a_killed_shutdown_is_found_and_killed() {
    harness::adopt_orphans();
    for line in ["--runtime process", "--runtime embedded"] {
        let case = Case::new(400);
        let mut child = case.start("--runtime process --rate 4 --checkpoint-every 50ms");
        let workers = case.await_workers(1, 4);
        case.await_checkpoint();
        kill(workers[&2], Signal::SIGSTOP).unwrap();
        signal(&child, Signal::SIGTERM);
        case.await_phase(PhaseKind::CheckpointStopping);
        kill(case.watchdog().unwrap(), Signal::SIGKILL).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();

        let end = case.run(&format!("--report json {line}"));
        assert_eq!((end.code, &end.report()["input_done"]), (Some(0), &true.into()), "{line}: {end:?}");
        let resumed = &end.report()["resumed_shutdown"];
        assert_eq!((&resumed["found"], &resumed["run"]), (&"CheckpointStopping".into(), &1.into()), "{end:?}");
        assert!(resumed["workers_found"].as_u64() >= Some(1), "{end:?}");
        assert_eq!((&resumed["evidence"], &resumed["requested"]), (&"killed".into(), &"checkpoint".into()));
        let walked: Vec<_> = resumed["phases"].as_array().unwrap().iter().map(|leg| leg["phase"].clone()).collect();
        assert_eq!(walked, ["CheckpointStopping", "Stopping<Force>", "Stopped<Killed>"].map(Value::from));
        assert_eq!(case.processes(), [], "{end:?}");
        case.assert_exact();
    }
}

/// A final checkpoint that is durable, and had nothing to commit, is proven without any worker.
#[test]
fn a_final_checkpoint_that_the_store_proves_keeps_its_evidence() {
    let case = Case::new(3);
    // No word in it: a checkpoint has nothing to commit.
    for name in ["one.txt", "deep/two", "zz"] {
        std::fs::write(case.input().join(name), "1\n2\n3\n".repeat(2000)).unwrap();
    }
    let mut random = Random::new(24);
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let after = Duration::from_micros(random.below(30_000));
        let record = kill_in_shutdown(&case, "--rate 30 --checkpoint-every 30s --stop checkpoint@80ms", after);
        let end = case.run("--rate 30 --stop immediate@0ms --report json");
        if let Some(resumed) = end.report().get("resumed_shutdown") {
            let evidence = resumed["evidence"].as_str().unwrap().to_owned();
            if evidence == "checkpointed" {
                assert_eq!(resumed["epoch"].as_u64(), record.final_epoch.map(winddown::Epoch::get), "{end:?}");
            }
            seen.insert(evidence);
        }
        if seen.contains("checkpointed") {
            return;
        }
    }
    panic!("no kill between the manifest and the end was hit: {seen:?}");
}
