//! Every journal, scheduler, checkpoint store and job controller of this crate keeps its contract,
//! as the suite checks it.
#![cfg(all(
    feature = "testing",
    feature = "embedded",
    feature = "grpc",
    feature = "journal",
    feature = "object-store",
    feature = "sqlx"
))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod controllers;
#[path = "../support/grpc.rs"]
mod grpc;
mod journals;
mod place;
#[cfg(all(feature = "process", target_os = "linux"))]
#[path = "../support/process.rs"]
mod processes;
#[path = "../support/records.rs"]
mod records;
mod schedulers;
mod stores;
mod teeth;
mod transports;

use winddown::testing::conformance::{Report, Rule};

/// Nothing is broken, and these rules alone were not checked or do not apply.
#[track_caller]
fn assert_kept(report: Report, not_checked: &[Rule], not_applicable: &[Rule]) {
    assert_eq!(report.not_checked(), not_checked, "{report}");
    assert_eq!(report.not_applicable(), not_applicable, "{report}");
    let of_the_contract = Rule::ALL.iter().filter(|rule| rule.contract() == report.contract());
    assert!(
        of_the_contract.eq(report.findings().iter().map(|(rule, _)| rule)),
        "every rule is in the report:\n{report}"
    );
    report.assert();
}

/// The watchdog of the process scheduler here; by itself it is no test.
#[cfg(all(feature = "process", target_os = "linux"))]
#[test]
fn watchdog_entry() {
    winddown::process::init();
}
