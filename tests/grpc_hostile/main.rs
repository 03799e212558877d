//! Clients that mean harm, in a process of their own, against a controller in this one: slow, half-open, oversized, malformed, too many. What the
//! controller holds (memory, descriptors, CPU) is read from `/proc/self`, so each test has the process to itself; and a real job is stopped beside it.
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
