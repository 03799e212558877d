//! Runs `wordcount` as a user does, and stops it in every way that there is.

use std::{fs, path::PathBuf, thread::sleep, time::Duration};

use nix::sys::signal::Signal;

use crate::harness::{Case, Random, contents};

const EVIDENCE: [(&str, &str); 4] =
    [("checkpoint", "checkpointed"), ("graceful", "drained"), ("immediate", "halted"), ("force", "killed")];

#[test]
fn a_finished_job_has_the_exact_counts_and_stays_finished() {
    let case = Case::new(300);
    let first = case.run("--report json");
    assert_eq!(first.code, Some(0), "{first:?}");
    let report = first.report();
    let keys = [
        "run",
        "phases",
        "evidence",
        "epoch",
        "input_lines_total",
        "input_lines_committed",
        "input_done",
        "workers_left",
        "elapsed_ms",
    ];
    let mut position = 0;
    for key in keys {
        let at = first.last_line().find(&format!("\"{key}\":")).unwrap();
        assert!(at >= position, "{key} is out of place in {}", first.last_line());
        position = at;
    }
    assert_eq!(report.as_object().unwrap().len(), keys.len());
    assert_eq!(
        (&report["run"], &report["evidence"], &report["input_done"]),
        (&1.into(), &"completed".into(), &true.into())
    );
    assert_eq!(report["input_lines_total"], case.lines());
    assert_eq!(report["input_lines_committed"], case.lines());
    assert_eq!(report["workers_left"], 0);
    assert_eq!(first.phases(), ["Running", "Finishing", "Stopped<Completed>"]);
    assert!(report["phases"][0]["ms"].is_u64() && report["elapsed_ms"].is_u64() && report["epoch"].is_u64());
    case.assert_exact();

    let before = contents(&case.state());
    let again = case.run("--report json");
    assert_eq!((again.code, &again.report()["input_done"]), (Some(0), &true.into()), "{again:?}");
    assert_eq!(again.report()["run"], 1, "no run is started for a job that is complete");
    assert_eq!(contents(&case.state()), before);
    fs::remove_file(case.state().join("counts.tsv")).unwrap();
    let receipt = case.run("");
    assert!(receipt.stdout.contains("complete already") && receipt.stdout.contains("counts.tsv"), "{receipt:?}");
    case.assert_exact();
}

#[test]
fn stops_of_every_mode_at_random_times_lose_and_double_nothing() {
    let case = Case::new(900);
    let mut random = Random::new(1);
    let (mut committed, mut epoch) = (0, 0);
    for round in 0..12 {
        let (mode, evidence) = EVIDENCE[round % EVIDENCE.len()];
        let after = random.below(200);
        let end = case.run(&format!("--rate 60 --checkpoint-every 40ms --stop {mode}@{after}ms --report json"));
        assert_eq!(end.code, Some(0), "{end:?}");
        let report = end.report();
        if report["input_done"] == true {
            break;
        }
        assert_eq!((&report["evidence"], &report["workers_left"]), (&evidence.into(), &0.into()), "{end:?}");
        let now = (report["input_lines_committed"].as_u64().unwrap(), report["epoch"].as_u64().unwrap_or(0));
        assert!(now.0 >= committed && now.1 >= epoch, "{now:?} after {committed} lines and epoch {epoch}");
        if mode == "checkpoint" {
            assert!(now.1 > epoch, "a final checkpoint was taken");
        }
        (committed, epoch) = now;
        assert!(!case.state().join("counts.tsv").exists());
    }
    assert!(committed > 0 && committed < case.lines(), "{committed} lines: the stops hit the middle of the job");
    assert_eq!(case.run("").code, Some(0));
    case.assert_exact();
}

/// Kills the program `rounds` times, within `within` of its start; says how often it was still
/// running.
fn kill(case: &Case, line: &str, rounds: u32, within: Duration, random: &mut Random) -> u32 {
    let mut kills = 0;
    for _ in 0..rounds {
        let mut child = case.start(line);
        sleep(Duration::from_micros(random.below(within.as_micros().try_into().unwrap())));
        kills += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let end = case.run("--report json");
    assert_eq!((end.code, &end.report()["input_done"]), (Some(0), &true.into()), "{end:?}");
    case.assert_exact();
    kills
}

#[test]
fn kills_at_random_moments_lose_and_double_nothing() {
    // Some die while they start, some while they commit, some while they fold.
    let line = "--rate 60 --checkpoint-every 5ms";
    let kills = kill(&Case::new(1500), line, 50, Duration::from_millis(120), &mut Random::new(2));
    assert_eq!(kills, 50, "the job lasts longer than all of them");
}

#[test]
fn kills_at_full_speed_lose_and_double_nothing() {
    let line = "--checkpoint-every 1ms";
    kill(&Case::new(60_000), line, 30, Duration::from_millis(60), &mut Random::new(3));
}

#[test]
fn a_state_directory_of_another_job_is_refused_untouched() {
    let case = Case::new(100);
    assert_eq!(case.run("--rate 40 --stop checkpoint@200ms").code, Some(0));
    let before = contents(&case.state());
    let refused = case.run("--workers 2");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("expected") && refused.stderr.contains("--fresh"), "{refused:?}");
    fs::write(case.input().join("new"), "word").unwrap();
    let refused = case.run("");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("`input/new` is new"), "{refused:?}");
    assert_eq!(contents(&case.state()), before);
    // Starting over is what the message offers.
    assert_eq!(case.run("--workers 2 --fresh").code, Some(0));
    case.assert_exact();
}

#[test]
fn what_is_wrong_with_a_call_is_said_before_anything_starts() {
    let case = Case::new(10);
    for (line, said) in [
        ("--stop whenever", "MODE@AFTER"),
        ("--stop soon@1s", "checkpoint, graceful, immediate or force"),
        ("--workers 0", "1..=1024"),
        ("--runtime cloud", "embedded"),
        ("missing.txt", "missing.txt` can't be read"),
    ] {
        let refused = case.run(line);
        assert_eq!(refused.code, Some(2), "{line}: {refused:?}");
        assert!(refused.stderr.contains(said), "{line}: {refused:?}");
        assert!(!case.state().exists(), "{line}");
    }
    fs::create_dir(case.state()).unwrap();
    fs::write(case.state().join("diary"), "mine").unwrap();
    let refused = case.run("--fresh");
    assert!(refused.code == Some(2) && refused.stderr.contains("not a wordcount state directory"), "{refused:?}");
    assert_eq!(contents(&case.state()).keys().collect::<Vec<_>>(), [&PathBuf::from("diary")]);
}

#[test]
fn the_second_run_on_a_state_directory_is_refused_and_the_first_goes_on() {
    let case = Case::new(100);
    let first = case.start("--rate 5 --report json");
    case.await_checkpoint();
    let second = case.run("");
    assert!(second.code == Some(2) && second.stderr.contains("in use"), "{second:?}");
    assert_eq!(case.run("--fresh").code, Some(2));
    crate::harness::signal(&first, Signal::SIGTERM);
    let end = crate::harness::wait(first);
    assert_eq!((end.code, &end.report()["evidence"]), (Some(0), &"checkpointed".into()), "{end:?}");
    assert_eq!(case.run("").code, Some(0));
    case.assert_exact();
}

#[test]
fn ctrl_c_and_sigterm_climb_the_ladder() {
    let case = Case::new(100);
    let child = case.start("--rate 5 --report json");
    case.await_checkpoint();
    crate::harness::signal(&child, Signal::SIGINT);
    let end = crate::harness::wait(child);
    assert_eq!((end.code, &end.report()["evidence"]), (Some(0), &"checkpointed".into()), "{end:?}");
    assert_eq!(end.phases(), ["Running", "CheckpointStopping", "Stopped<Checkpointed>"]);
    assert!(end.stderr.contains("Ctrl-C: stop with a checkpoint"), "it is said before: {end:?}");
    assert!(end.stderr.contains("checkpoint (Ctrl-C); Ctrl-C again: stop at once"), "{end:?}");

    // Both arrive at once, so that the first rung has no time to end the job.
    let child = case.start("--rate 5 --report json");
    case.await_run(2);
    for signal in [Signal::SIGSTOP, Signal::SIGINT, Signal::SIGTERM, Signal::SIGCONT] {
        crate::harness::signal(&child, signal);
    }
    let end = crate::harness::wait(child);
    assert_eq!(end.code, Some(0), "{end:?}");
    assert!(end.stderr.contains("stop asked for: checkpoint"), "{end:?}");
    assert!(end.stderr.contains("stop asked for: immediate"), "{end:?}");
    assert!(end.stderr.contains("Ctrl-C again: kill the workers"), "{end:?}");
    assert_eq!(case.run("").code, Some(0));
    case.assert_exact();
}

#[test]
fn a_failed_run_is_followed_by_another_from_the_last_checkpoint() {
    let case = Case::new(200);
    let line = "--rate 100 --checkpoint-every 50ms --fail-at-line 20 --report json";
    let given_up = case.run(&format!("{line} --restarts 0"));
    assert_eq!(given_up.code, Some(1), "{given_up:?}");
    assert_eq!((&given_up.report()["evidence"], &given_up.report()["run"]), (&"halted".into(), &1.into()));
    assert_eq!(given_up.phases(), ["Running", "Recovering", "Stopping<Immediate>", "Stopped<Halted>"]);
    assert!(given_up.stderr.contains("injected failure at line 20"), "{given_up:?}");

    let end = case.run(&format!("{line} --fresh"));
    assert_eq!(end.code, Some(0), "{end:?}");
    assert_eq!((&end.report()["run"], &end.report()["input_done"]), (&2.into(), &true.into()), "{end:?}");
    assert!(end.stderr.contains("follows from the last checkpoint"), "{end:?}");
    case.assert_exact();
}

#[test]
fn i8_a_job_that_was_asked_to_stop_is_not_restarted() {
    let case = Case::new(200);
    // The run fails at its first line, whatever the stop has made of it by then.
    for mode in ["checkpoint", "graceful", "immediate"] {
        let end = case.run(&format!("--fresh --rate 1 --fail-at-line 1 --stop {mode}@0ms --report json"));
        assert_eq!((end.code, &end.report()["run"]), (Some(0), &1.into()), "{end:?}");
    }
    // The time to live is a stop, too.
    let end = case.run("--rate 20 --ttl 300ms --report json");
    assert_eq!((end.code, &end.report()["evidence"], &end.report()["run"]), (Some(0), &"halted".into(), &2.into()));
    assert_eq!(end.phases(), ["Running", "Stopping<Immediate>", "Stopped<Halted>"]);
}

#[test]
fn the_receipt_names_the_command_that_resumes() {
    let case = Case::new(100);
    let stopped = case.run("--rate 40 --checkpoint-every 1500ms --stop checkpoint@200ms --ttl 1h");
    for part in ["run 1: checkpointed", "CheckpointStopping", "workers left             0"] {
        assert!(stopped.stdout.contains(part), "{part}: {stopped:?}");
    }
    let command = stopped.stdout.lines().find_map(|line| line.trim().strip_prefix("resume with")).unwrap().trim();
    assert!(!command.contains("--stop") && !command.contains("--ttl"), "{command}");
    let resumed = case.shell(command);
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    case.assert_exact();
}

#[test]
fn more_workers_than_lines_and_empty_files_are_no_trouble() {
    let case = Case::empty();
    fs::write(case.input().join("a"), "").unwrap();
    assert_eq!(case.run("--workers 3").code, Some(0));
    case.assert_exact();
    fs::write(case.input().join("b"), "one line").unwrap();
    let end = case.run("--workers 3 --fresh --report json");
    assert_eq!((end.code, &end.report()["input_lines_total"]), (Some(0), &1.into()), "{end:?}");
    case.assert_exact();
}

/// As in `wordcount 2>&1 | head -1`: a listener that leaves is no reason for a job to die.
#[test]
fn nobody_has_to_listen() {
    let case = Case::new(300);
    let mut child = case.start("--rate 200 --checkpoint-every 20ms");
    case.await_run(1);
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    case.assert_exact();
}

#[test]
fn a_report_that_can_not_be_written_is_an_error() {
    let full = "/dev/full";
    if !std::path::Path::new(full).exists() {
        return eprintln!("skipped: this system has no {full}");
    }
    let case = Case::new(30);
    let mut command = case.command("--report json");
    let end: crate::harness::End =
        command.stdout(fs::File::options().write(true).open(full).unwrap()).output().unwrap().into();
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(end.stderr.contains("the report can't be written") && !end.stderr.contains("panicked"), "{end:?}");
    case.assert_exact();
}

#[test]
fn a_stop_beyond_all_time_never_comes() {
    let case = Case::new(30);
    let end = case.run("--stop force@500000000000y");
    assert!(end.code == Some(0) && !end.stderr.contains("panicked"), "{end:?}");
    case.assert_exact();
}
