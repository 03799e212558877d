//! For tests, not for production: [`scripted`] collaborators that follow a script, [`conformance`]
//! suites for your own collaborators, and the [explorer](explore), which tries everything that can
//! go wrong.

pub mod conformance;
pub mod explore;
pub mod scripted;
