//! The results of the measurements: their figures as data, the goals that they are compared with,
//! and the page generated from both. It measures nothing itself, so that a test can make the page
//! again from the stored figures.

pub mod data;
pub mod goals;
pub mod page;
pub mod plots;
pub mod tables;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;
