//! What the measurements say: their figures as data, the goals that they are held against, and the page made of both. It measures
//! nothing itself, so that a test can make the page again from the stored figures.
#![allow(
    dead_code,
    reason = "the bench prints tables, the example writes the page, the test compares it: each uses its part"
)]

pub(crate) mod data;
pub(crate) mod goals;
pub(crate) mod page;
pub(crate) mod plots;
pub(crate) mod tables;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Result<T> = std::result::Result<T, Error>;
