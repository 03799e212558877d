//! A job as the machine sees it: its context, and the two lanes by which the world reaches it.

mod context;
mod journaling;
mod lane;
mod mailbox;
mod progress;
mod request;

pub use context::{JobBuilder, JobContext, Visit};
pub use mailbox::{Incoming, JobGone, JobMessage, JobSender, Mailbox, Requested, TryEventError};
pub use progress::Progress;
pub use request::{ParseStopRequestError, StopRequest};
