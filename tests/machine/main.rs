//! The machine alone: phases and drive with scripted collaborators on a paused clock, the explorer, and the pages that say what the
//! code says.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod diagram;
#[cfg(feature = "testing")]
mod drive;
mod errors_page;
#[cfg(feature = "testing")]
mod explore;
mod generated;
mod interleavings;
mod invariants;
mod legality;
mod operations_page;
mod original;
#[cfg(feature = "testing")]
mod scripted;
#[path = "../support/mod.rs"]
mod support;
mod worst_case;
