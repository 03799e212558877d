//! Real worker processes.
//!
//! A program of its own: it starts itself anew, at the tests called `…_entry`, as the watchdog, as
//! a worker, or as a controller that is to be killed.
#![cfg(all(feature = "process", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[cfg(all(feature = "grpc", feature = "object-store"))]
#[path = "../support/counting.rs"]
mod counting;
#[cfg(all(feature = "grpc", feature = "object-store"))]
mod jobs;
#[cfg(all(feature = "grpc", feature = "object-store"))]
#[path = "../support/port.rs"]
mod port;
mod restart;
#[cfg(all(feature = "grpc", feature = "object-store"))]
mod sick_run;
mod stop;
#[path = "../support/process.rs"]
mod support;

/// Not a test: the watchdog of the schedulers here starts at this one.
#[test]
fn watchdog_entry() {
    winddown::process::init();
}
