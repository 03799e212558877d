//! The machine alone: phases and drive with scripted collaborators on a paused clock, the explorer,
//! and the pages that say what the code says.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod architecture;
mod diagram;
#[cfg(feature = "testing")]
mod drive;
mod errors_page;
#[cfg(feature = "testing")]
mod explore;
mod generated;
#[cfg(feature = "testing")]
mod interleavings;
#[cfg(feature = "testing")]
mod invariants;
mod legality;
mod operations_page;
#[cfg(feature = "testing")]
mod original;
mod pages;
#[cfg(feature = "testing")]
#[path = "../support/records.rs"]
mod records;
#[cfg(all(feature = "object-store", feature = "testing"))]
mod recovery;
#[cfg(feature = "testing")]
mod scripted;
#[cfg(feature = "testing")]
mod starts;
#[cfg(feature = "testing")]
mod support;
#[cfg(feature = "testing")]
mod worst_case;
