//! For tests, not for production: [`scripted`] collaborators that do as a test says, and the [explorer](explore), which tries everything
//! that can go wrong.

pub mod explore;
pub mod scripted;
