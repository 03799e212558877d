//! For tests, not for production: [`scripted`] collaborators that do as a test says, a [`conformance`] suite for collaborators of your own,
//! and the [explorer](explore), which tries everything that can go wrong.

pub mod conformance;
pub mod explore;
pub mod scripted;
