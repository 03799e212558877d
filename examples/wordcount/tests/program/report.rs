//! The JSON object of `wordcount --report json`: the last line of stdout, whatever has gone wrong.

use std::fs;

use crate::records::altered;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use winddown::journal::Journal;

use crate::harness::{Case, End, contents, signal, wait};

const KEYS: [&str; 10] = [
    "elapsed_ms",
    "epoch",
    "error",
    "evidence",
    "input_done",
    "input_lines_committed",
    "input_lines_total",
    "phases",
    "run",
    "workers_left",
];

/// A call that has failed after it was started: code 1, all keys, no evidence, and the reason in
/// the report and on stderr.
fn assert_failed(end: &End, reason: &str) -> Value {
    assert_eq!(end.code, Some(1), "{end:?}");
    let report = end.report();
    let mut keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, KEYS, "{end:?}");
    assert_eq!(report["evidence"], Value::Null, "{end:?}");
    let error = report["error"].as_str().unwrap();
    assert!(error.contains(reason) && end.stderr.contains(reason), "expected `{reason}` in {end:?}");
    report
}

/// A job that has been stopped with a checkpoint in the middle of its input.
fn stopped_in_the_middle() -> Case {
    let case = Case::new(200);
    let child = case.start("--rate 5 --checkpoint-every 200ms --report json");
    case.await_checkpoint();
    signal(&child, Signal::SIGTERM);
    let end = wait(child);
    assert_eq!((end.code, &end.report()["evidence"]), (Some(0), &"checkpointed".into()), "{end:?}");
    case
}

#[test]
fn a_store_that_can_not_be_trusted() {
    let case = stopped_in_the_middle();
    let log = case.state().join("checkpoints/wordcount/log");
    let newest = contents(&log).into_keys().max().unwrap();
    fs::write(log.join(newest), "nonsense").unwrap();
    let report = assert_failed(&case.run("--report json"), "damaged");
    assert_eq!(
        (&report["run"], &report["epoch"], &report["input_lines_total"]),
        (&0.into(), &Value::Null, &case.lines().into())
    );
    assert_eq!((&report["workers_left"], &report["phases"]), (&0.into(), &Vec::<Value>::new().into()));
}

#[test]
fn workers_that_can_not_be_started() {
    let case = stopped_in_the_middle();
    fs::write(case.state().join("processes"), "in the way").unwrap();
    let report = assert_failed(&case.run("--report json --runtime process"), "can't start the workers");
    // What the checkpoint says is known by then.
    assert!(report["epoch"].as_u64() > Some(0) && report["input_lines_committed"].as_u64() > Some(0), "{report}");
    assert_eq!((&report["input_done"], &report["workers_left"]), (&false.into(), &0.into()));
}

#[test]
fn a_worker_that_can_not_be_told_its_work() {
    let case = Case::new(100);
    fs::create_dir_all(case.state()).unwrap();
    let end = case.run("--rate 10 --stop checkpoint@200ms --report json --runtime process");
    assert_eq!(end.code, Some(0), "{end:?}");
    fs::remove_dir_all(case.state().join("processes/assignments")).unwrap();
    fs::write(case.state().join("processes/assignments"), "in the way").unwrap();
    let report = assert_failed(&case.run("--report json --runtime process"), "can't start the workers");
    assert_eq!((&report["run"], &report["workers_left"]), (&2.into(), &0.into()), "the run was claimed");
    assert_eq!(case.processes(), []);
}

/// Another controller takes the job over, as its journal says; a conflict is never retried.
#[test]
fn a_stuck_shutdown() {
    let case = Case::new(100);
    let child = case.start("--rate 5 --report json");
    case.await_checkpoint();
    let record = case.record().unwrap();
    let other = altered(&record, json!({ "revision": record.revision() + 1, "attempt": 2 }));
    case.with_journal(async |journal| journal.write(&other).await.unwrap());
    signal(&child, Signal::SIGTERM);
    let report = assert_failed(&wait(child), "another controller has taken the job over");
    let phases: Vec<_> = report["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].clone()).collect();
    assert_eq!(phases, ["Running", "CheckpointStopping"]);
    assert_eq!((&report["run"], &report["workers_left"]), (&1.into(), &0.into()), "its workers are ended all the same");
    assert_eq!(case.run("").code, Some(0));
    case.assert_exact();
}

#[test]
fn output_that_can_not_be_merged() {
    let case = Case::new(30);
    assert_eq!(case.run("").code, Some(0));
    fs::remove_file(case.state().join("counts.tsv")).unwrap();
    let folder = case.state().join("output/worker-0");
    for name in contents(&folder).into_keys() {
        fs::write(folder.join(name), "nonsense").unwrap();
    }
    let report = assert_failed(&case.run("--report json"), "is not the part of the output that the checkpoint names");
    assert_eq!(report["input_done"], true);
}

/// Its last run has stopped with evidence, and the reason why no other follows stands beside it.
#[test]
fn a_job_that_is_given_up() {
    let case = Case::new(200);
    let end = case.run("--rate 100 --fail-at-line 20 --restarts 0 --report json");
    assert_eq!((end.code, &end.report()["evidence"]), (Some(1), &"halted".into()), "{end:?}");
    assert!(end.report()["error"].as_str().unwrap().contains("injected failure at line 20"), "{end:?}");
    assert_eq!(case.run("").code, Some(0), "and there is no such key otherwise");
    assert_eq!(case.run("--report json").report().get("error"), None);
}

#[test]
fn a_journal_that_can_not_be_trusted_leaves_everything_as_it_is() {
    let case = stopped_in_the_middle();
    let path = case.state().join("journal/job-wordcount.record");
    let sound = fs::read_to_string(&path).unwrap();
    let foreign = {
        let other = Case::new(3);
        let record = altered(&case.record().unwrap(), json!({ "job": "other" }));
        fs::create_dir(other.state()).unwrap();
        other.with_journal(async |journal| journal.write(&record).await.unwrap());
        fs::read_to_string(other.state().join("journal/job-other.record")).unwrap()
    };
    for (text, reason) in [
        (sound.replace("stopped-checkpointed", "stopped-checkpointes"), "is corrupt"),
        (sound[..sound.len() / 2].to_owned(), "is corrupt"),
        (foreign, "job `other`"),
        (sound.replace("winddown-journal 1 ", "winddown-journal 9 "), "version 9"),
    ] {
        fs::write(&path, &text).unwrap();
        let before = contents(&case.state());
        for runtime in ["embedded", "process"] {
            assert_failed(&case.run(&format!("--report json --runtime {runtime}")), reason);
        }
        assert_eq!(contents(&case.state()), before, "{reason}");
    }
    // Put right, the job goes on; and starting over is what the message offers.
    fs::write(&path, &sound).unwrap();
    let end = case.run("--rate 40 --stop checkpoint@50ms --report json");
    assert_eq!((end.code, &end.report()["run"]), (Some(0), &2.into()), "{end:?}");
    fs::write(&path, "nonsense").unwrap();
    let end = case.run("--fresh --report json");
    assert_eq!((end.code, &end.report()["run"]), (Some(0), &1.into()), "{end:?}");
    case.assert_exact();
}
