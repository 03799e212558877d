//! Hostile clients in their own process against a controller in this one: slow, half-open,
//! oversized, malformed, too many. The controller's memory, descriptors and CPU are read from
//! `/proc/self`, so each test runs alone in the process; and a real job is stopped beside it.
#![cfg(all(feature = "grpc", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::await_holding_lock, reason = "one test at a time is what it is for")]
#![allow(unreachable_pub, reason = "each file uses its part of the others")]

mod attacks;
mod bodies;
mod connections;
mod extremes;
mod held;
mod measure;
#[path = "../grpc/raw.rs"]
mod raw;
#[path = "../support/grpc.rs"]
mod support;
