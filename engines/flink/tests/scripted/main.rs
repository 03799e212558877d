//! The controller, the scheduler and the command against a scripted `JobManager`: what goes wrong,
//! told apart.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;
mod scheduler;
mod server;
mod stops;
