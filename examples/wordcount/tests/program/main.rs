//! Runs the programs as a user does: `wordcount` on every runtime, and a short `soak`.
#![cfg(unix)]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod embedded;
mod harness;
mod output;
#[cfg(target_os = "linux")]
mod process;
#[path = "../../../../tests/support/records.rs"]
mod records;
mod report;
#[cfg(target_os = "linux")]
mod resume;
#[cfg(target_os = "linux")]
mod soak;
