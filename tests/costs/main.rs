//! What things cost, counted and not timed. A program of its own: the counter of allocations is its
//! global allocator.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[cfg(all(feature = "embedded", feature = "object-store"))]
mod sizes;
mod work;
