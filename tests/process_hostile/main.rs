//! Worker processes that hide, fork in storms and outlive their stop, folders that others have
//! changed, and stops that cross starts.
//!
//! A separate program: some tests need root, a mount namespace or another user, and print a message
//! if they are skipped.
#![cfg(all(feature = "process", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod folder;
mod hidden;
mod nested;
mod others;
mod records;
mod starts;
#[path = "../support/process.rs"]
mod support;
mod watchdog;

use std::io::Write as _;

use support::*;
use tokio::sync::Mutex;
use winddown::process::{HeldBy, ProcessError, ProcessScheduler};

/// Not a test: the watchdog of the schedulers here starts in it.
#[test]
fn watchdog_entry() {
    winddown::process::init();
}

/// One test at a time: without control groups, hidden children are suspects in every other test.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Prints that a test was skipped, directly to standard error, because the harness would hide it.
fn skipped(why: &str) {
    let text = format!("*** {}: skipped: {why}\n", std::thread::current().name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A scheduler that holds its workers this way, and kills at once what does not leave. `None`, and
/// a message, if control groups cannot be made.
async fn held(stage: &Stage, held_by: HeldBy) -> Option<ProcessScheduler> {
    let opened =
        stage.builder().held_by(held_by).grace(NEVER).orphan_grace(std::time::Duration::from_millis(300)).open().await;
    if let Err(ProcessError::NoControlGroup { reason }) = &opened {
        skipped(reason);
        return None;
    }
    let scheduler = opened.unwrap();
    assert_eq!(scheduler.held_by(), held_by);
    Some(scheduler)
}

/// The remaining processes of a stage, without its watchdog.
fn workers_of(stage: &Stage) -> Vec<i32> {
    let watchdog = stage.watchdog();
    stage.processes().into_iter().filter(|pid| Some(*pid) != watchdog).collect()
}

fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}
