//! For tests: scripted collaborators, and the explorer.

pub mod explore;
