//! Workers that speak gRPC: over loopback, over a simulated network, and what strangers send.
#![cfg(feature = "grpc")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../support/arroyo.rs"]
mod arroyo;
mod input;
mod jobs_of_arroyo;
mod network;
mod original;
mod proto;
mod raw;
mod refusals;
mod simulation;
mod stop;
#[path = "../support/grpc.rs"]
mod support;
