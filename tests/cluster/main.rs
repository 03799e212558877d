//! Real workers in this process, the real controller and the real store: every stop with every
//! fault, and controllers that die.
#![cfg(all(feature = "embedded", feature = "object-store", feature = "testing"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod crash;
mod crash_points;
mod numbers;
mod rehydration;
mod stops;
mod why;
