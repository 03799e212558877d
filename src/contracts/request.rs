//! What a user wants of a job.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A request to stop a job, from the mildest to the strongest. "No request" is `Option::None`,
/// which sorts before all.
///
/// Requests only ever get stronger (invariant I4): the strongest one that was made is the one in
/// force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopRequest {
    /// Take a final checkpoint, let every task finish: nothing is lost, nothing is replayed.
    Checkpoint,
    /// Let what has been read flow to the end. What was not committed by then is replayed by the
    /// next run.
    Graceful,
    /// Stop every task where it is. The next run replays from the last complete checkpoint.
    Immediate,
    /// Kill the workers.
    Force,
}

impl StopRequest {
    /// Every request, the mildest first.
    pub const ALL: [Self; 4] = [Self::Checkpoint, Self::Graceful, Self::Immediate, Self::Force];

    /// The request's name, as [`FromStr`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Graceful => "graceful",
            Self::Immediate => "immediate",
            Self::Force => "force",
        }
    }

    /// For the request lane, where 0 is "none".
    pub(crate) const fn level(self) -> u8 {
        self as u8 + 1
    }

    #[inline]
    pub(crate) fn from_level(level: u8) -> Option<Self> {
        Self::ALL.get(usize::from(level).checked_sub(1)?).copied()
    }
}

impl fmt::Display for StopRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that is no stop request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a stop request (checkpoint, graceful, immediate or force), got `{}`", crate::text::Printable(.0))]
pub struct ParseStopRequestError(String);

impl FromStr for StopRequest {
    type Err = ParseStopRequestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|r| r.name() == text).ok_or_else(|| ParseStopRequestError(text.to_owned()))
    }
}
