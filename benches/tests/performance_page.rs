//! `docs/performance.md` shows only what was measured: the test generates it again from the stored
//! figures.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use winddown_benches::report::{
    data::{Backlog, BacklogRow, Circumstances, Measured, Report, Samples},
    goals::{Bound, goals, table},
    page,
};

fn stored() -> Report {
    let path = page::repository().join(page::DATA);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_page_and_its_pictures_are_what_was_measured() {
    for (path, expected) in page::files(&stored()).unwrap() {
        let found = fs::read_to_string(page::repository().join(&path)).unwrap_or_default();
        assert!(
            found == expected,
            "{path} is not what the stored figures say. It is generated: cargo run --release -p winddown-benches --bin bench_report -- --render"
        );
    }
}

#[test]
fn every_section_was_measured_in_full_and_every_goal_has_a_figure() {
    let report = stored();
    let page = fs::read_to_string(page::repository().join(page::PAGE)).unwrap();
    assert!(!page.contains("Not measured yet") && !page.contains("(quick"), "measure it anew, in full");
    for goal in goals(&report) {
        // The one figure that needs valgrind may be absent.
        assert!(goal.figure.is_some() || goal.text.contains("instructions"), "{}: {}", goal.item, goal.text);
    }
}

/// A report of which one goal is missed by half and another one met.
#[test]
fn a_goal_that_is_missed_is_called_so() {
    let samples = |median| Samples { median, least: median, repetitions: 1 };
    let row = |backlog, median| BacklogRow {
        backlog,
        read_before: 0,
        ours: samples(median),
        shared_channel: samples(1.0),
        shared_read_before: 0,
    };
    let run = Circumstances {
        date: String::new(),
        cpu: String::new(),
        cores: 2,
        memory_gib: 1.0,
        system: String::new(),
        rustc: String::new(),
        valgrind: None,
        load_before: 0.0,
        scale: "full".to_owned(),
        seconds: 1.0,
    };
    let report = |late| Report {
        backlog: Some(Measured {
            run: run.clone(),
            result: Backlog { rows: vec![row(0, 10.0), row(1_000_000, late)] },
        }),
        ..Report::default()
    };
    let latency = |report: &Report| {
        let goal = goals(report).into_iter().find(|goal| goal.text.starts_with("latency")).unwrap();
        assert_eq!(goal.bound, Bound::AtMost(50.0));
        (goal.figure, goal.is_met())
    };
    assert_eq!(latency(&report(85.0)), (Some(75.0), Some(false)));
    assert_eq!(latency(&report(11.0)), (Some(1.0), Some(true)));
    assert!(table(&report(85.0)).contains("75 µs | **missed**: 50 % above |"), "{}", table(&report(85.0)));
    assert!(table(&report(11.0)).contains("1 µs | met |"));
    // What was not measured is not met.
    assert!(goals(&Report::default()).iter().all(|goal| goal.is_met().is_none()));
}
