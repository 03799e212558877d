//! The short form of the soak: a few rounds with a fixed seed. The long form is
//! `cargo run --release -p wordcount --bin soak -- --minutes 10`.

use std::{fs, path::Path, process::Command};

use crate::harness::End;

fn soak(line: &str) -> End {
    Command::new(env!("CARGO_BIN_EXE_soak")).args(line.split_whitespace()).output().unwrap().into()
}

/// The first number of a row of the summary.
fn row(end: &End, name: &str) -> u64 {
    let row = end.stdout.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {end:?}"));
    row.split_whitespace().next().unwrap().parse().unwrap()
}

fn assert_good(end: &End, rounds: u64) {
    assert_eq!(end.code, Some(0), "{end:?}");
    assert_eq!(row(end, "rounds"), rounds, "{end:?}");
    for nothing in ["lost", "duplicated", "leftover processes"] {
        assert_eq!(row(end, nothing), 0, "{end:?}");
    }
    // It can fail: something was done, in every round.
    assert!(row(end, "calls") > 3 * rounds && row(end, "kills of controllers") > rounds, "{end:?}");
    println!("{}", end.stdout);
}

#[test]
fn a_short_soak_loses_and_doubles_nothing() {
    assert_good(&soak("--rounds 3 --seed 11 --runtime embedded"), 3);
}

#[test]
fn a_short_soak_with_worker_processes_loses_and_doubles_nothing() {
    assert_good(&soak("--rounds 2 --seed 12 --runtime process"), 2);
}

/// One word too many, and the soak says so, names the seed, and keeps all that is needed to look at
/// it.
#[test]
fn a_difference_is_found_and_kept() {
    let end = soak("--rounds 3 --seed 13 --tamper");
    assert_eq!(end.code, Some(1), "{end:?}");
    assert!(end.stdout.contains("FAILED in round 1, seed 13"), "{end:?}");
    assert!(end.stdout.contains("got 0 words lost and 1 duplicated"), "{end:?}");
    assert_eq!((row(&end, "rounds"), row(&end, "duplicated")), (0, 1), "no round follows");
    let kept = end.stdout.lines().find_map(|line| line.strip_prefix("round 1 is kept in ")).unwrap();
    let kept = Path::new(kept.trim_end_matches(':'));
    let read = |name: &str| fs::read_to_string(kept.join(name)).unwrap();
    assert_ne!(read("expected.tsv"), read("state/counts.tsv"));
    assert!(read("calls.log").contains("wordcount"), "every call is there");
    let command = end.stdout.lines().find_map(|line| line.trim().strip_prefix("one more call")).unwrap();
    let again: End = Command::new("sh").args(["-c", command]).output().unwrap().into();
    assert_eq!((again.code, &again.report()["input_done"]), (Some(0), &true.into()), "{again:?}");
    fs::remove_dir_all(kept).unwrap();
}

#[test]
fn the_help_says_what_it_does() {
    let help = soak("--help");
    assert_eq!(help.code, Some(0));
    for part in ["--minutes", "--runtime", "--seed", "--rounds", "counts.tsv", "SIGKILL", "SIGSTOP"] {
        assert!(help.stdout.contains(part), "{part}: {help:?}");
    }
}
