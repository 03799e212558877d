//! Kills `wordcount` in the middle of its shutdowns: the next start finishes the shutdown, says so,
//! and goes on with the job.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use winddown::{PhaseKind, journal::PhaseRecord};

use crate::harness::{Case, Random, signal};

/// What a resumed shutdown can't claim: more than the stop that was asked for proves.
fn strength(evidence: &str) -> usize {
    ["killed", "halted", "drained", "checkpointed"].iter().position(|name| *name == evidence).unwrap()
}

/// The record of a shutdown that has begun and not ended.
fn unfinished(record: Option<PhaseRecord>) -> Option<PhaseRecord> {
    let begun = |record: &PhaseRecord| record.phase() != PhaseKind::Running || record.requested().is_some();
    record.filter(|record| !record.phase().is_terminal() && begun(record))
}

/// How long to wait before a kill: up to 2 ms in the first try, twice as long in each that follows,
/// up to 256 ms, and so on from the start. So the middle of a shutdown is hit on a fast machine and
/// on a slow one.
fn moment(tried: u32, random: &mut Random) -> Duration {
    Duration::from_micros(random.below(2000 << (tried % 8)))
}

/// Starts the program, and kills it so long after it has said `what`. Gives the shutdown that it
/// has left in the journal.
fn kill_after(case: &Case, line: &str, what: &str, after: Duration) -> Option<PhaseRecord> {
    let mut child = case.start(line);
    crate::harness::await_line(&mut child, what);
    sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    unfinished(case.record())
}

/// Kills the program in shutdowns of each mode, and starts it again; `rounds` times or more, until
/// `enough` phases were hit.
fn kill_and_resume(runtime: &str, rounds: u32, enough: usize, random: &mut Random) {
    let case = Case::new(30_000);
    let runtime = format!("--runtime {runtime} --rate 60 --checkpoint-every 20ms --report json");
    let modes = [("checkpoint", "checkpointed"), ("graceful", "drained"), ("immediate", "halted"), ("force", "killed")];
    let mut phases = BTreeSet::new();
    for round in 0..100 {
        if round >= rounds && phases.len() >= enough {
            break;
        }
        for (mode, most) in modes {
            let line = format!("{runtime} --stop {mode}@150ms");
            let left = kill_after(&case, &line, "stop asked for", moment(round, random));
            let killed = case.record().map_or(0, |record| record.run().get());
            // The job goes on in the same call, until it is stopped itself.
            let end = case.run(&format!("{runtime} --stop immediate@10ms"));
            assert_eq!(end.code, Some(0), "{end:?}");
            let report = end.report();
            assert!(report["run"].as_u64().unwrap() > killed, "a new run follows: {end:?}");
            assert_eq!((&report["evidence"], &report["workers_left"]), (&"halted".into(), &0.into()), "{end:?}");
            assert!(case.record().unwrap().phase().is_terminal());
            let resumed = report.get("resumed_shutdown");
            assert_eq!(resumed.is_some(), left.is_some(), "{left:?} {end:?}");
            if let (Some(resumed), Some(record)) = (resumed, left) {
                assert_resumed(resumed, &record, most);
                assert_eq!(resumed["requested"], mode);
                assert!(end.stderr.contains("that shutdown is finished first"), "{end:?}");
                phases.insert(record.phase().name());
            }
        }
    }
    assert!(phases.len() >= enough, "the kills hit the middle of shutdowns: {phases:?}");
    let end = case.run(&runtime.replace("--rate 60", ""));
    assert_eq!((end.code, &end.report()["input_done"]), (Some(0), &true.into()), "{end:?}");
    assert_eq!(case.processes(), [], "no worker of any run is left");
    case.assert_exact();
}

/// What was finished is what the journal had, and no more is claimed than `most`.
fn assert_resumed(resumed: &Value, record: &PhaseRecord, most: &str) {
    assert_eq!((&resumed["run"], &resumed["found"]), (&record.run().get().into(), &record.phase().name().into()));
    let evidence = resumed["evidence"].as_str().unwrap();
    assert!(strength(evidence) <= strength(most), "{evidence} is more than {most}: {resumed}");
    let last = resumed["phases"].as_array().unwrap().last().unwrap()["phase"].as_str().unwrap();
    assert!(last.to_lowercase().contains(evidence), "{resumed}");
}

#[test]
fn i7_a_shutdown_whose_controller_was_killed_is_finished_by_the_next_start() {
    kill_and_resume("embedded", 10, 3, &mut Random::new(21));
}

#[test]
fn i7_the_same_with_worker_processes() {
    kill_and_resume("process", 5, 2, &mut Random::new(22));
}

/// Killed in the shutdown, and in the start that finishes it: it is never forgotten.
#[test]
fn i7_a_resumed_shutdown_may_be_killed_as_well() {
    let case = Case::new(30_000);
    let line = "--rate 60 --checkpoint-every 20ms --report json";
    let mut random = Random::new(23);
    let mut hit = false;
    for tried in 0..100 {
        let stopped = format!("{line} --stop checkpoint@100ms");
        let first = kill_after(&case, &stopped, "] CheckpointStopping ", moment(tried, &mut random));
        let Some(first) = first else { continue };
        let second = kill_after(&case, line, "that shutdown is finished first", moment(tried, &mut random));
        let end = case.run(&format!("{line} --stop immediate@0ms"));
        assert_eq!(end.report().get("resumed_shutdown").is_some(), second.is_some(), "{second:?} {end:?}");
        if let Some(second) = second.filter(|second| (second.run(), second.attempt()) == (first.run(), 2)) {
            assert_resumed(&end.report()["resumed_shutdown"], &second, "checkpointed");
            hit = true;
            break;
        }
    }
    assert!(hit, "no resumed shutdown was killed after it had written a record");
    let end = case.run("");
    assert_eq!(end.code, Some(0), "{end:?}");
    case.assert_exact();
}

/// Controller and watchdog die in a shutdown, and a frozen worker stays. The start that finishes
/// the shutdown finds it and kills it.
#[test]
fn a_frozen_worker_of_a_killed_shutdown_is_found_and_killed() {
    crate::harness::adopt_orphans();
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
    for tried in 0..200 {
        let line = "--rate 30 --checkpoint-every 30s --stop checkpoint@80ms";
        let record = kill_after(&case, line, "stop asked for", moment(tried, &mut random));
        let end = case.run("--rate 30 --stop immediate@0ms --report json");
        if let Some(resumed) = end.report().get("resumed_shutdown") {
            let evidence = resumed["evidence"].as_str().unwrap().to_owned();
            if evidence == "checkpointed" {
                let epoch = record.and_then(|record| record.final_epoch()).map(winddown::Epoch::get);
                assert_eq!(resumed["epoch"].as_u64(), epoch, "{end:?}");
                return;
            }
            seen.insert(evidence);
        }
    }
    panic!("no kill between the manifest and the end was hit: {seen:?}");
}
