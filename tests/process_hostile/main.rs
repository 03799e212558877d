//! Worker processes that hide, storm and outlive, folders that others have been in, and stops that cross starts.
//!
//! A program of its own: some tests need root, a mount namespace or another user, and say aloud where they are skipped.
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

/// Not a test: the watchdog of the schedulers here starts at this one.
#[test]
fn watchdog_entry() {
    winddown::process::init();
}

/// One test at a time: children that hide are everybody's suspects who has no control groups.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Says aloud that something was not run: the harness would swallow it.
fn skipped(why: &str) {
    let text = format!("*** {}: skipped: {why}\n", std::thread::current().name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A scheduler that holds its workers so, and kills what does not leave at once. `None`, and a loud word, where control groups can't be made.
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

/// What is left of a stage but its watchdog.
fn workers_of(stage: &Stage) -> Vec<i32> {
    let watchdog = stage.watchdog();
    stage.processes().into_iter().filter(|pid| Some(*pid) != watchdog).collect()
}

fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}
