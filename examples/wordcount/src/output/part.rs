//! One file of a worker's output, as checkpoints name it.

use std::fmt;

use serde::{Deserialize, Serialize};
use winddown::{Epoch, RunId};

use super::OutputError;

/// What the counts of a part cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Span {
    /// Everything up to the barrier of its epoch.
    Base,
    /// What came between the previous barrier and that of its epoch: one transaction.
    Counts,
}

/// A part of the output: which one it is, and what its file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The checkpoint at whose barrier it ends.
    pub(crate) epoch: Epoch,
    /// The run that wrote it: a run that failed before its checkpoint was complete leaves a file of
    /// the same epoch.
    run: RunId,
    span: Span,
    /// The length of its file.
    bytes: u64,
    /// The CRC-32 of its file.
    crc: u32,
}

impl Part {
    /// The part with these contents.
    pub(super) fn new(epoch: Epoch, run: RunId, span: Span, contents: &[u8]) -> Self {
        Self { epoch, run, span, bytes: length(contents), crc: crc32fast::hash(contents) }
    }

    /// The name of its file once it counts.
    pub(super) fn file(self) -> String {
        self.named(match self.span {
            Span::Base => BASE,
            Span::Counts => COUNTS,
        })
    }

    /// The name of its file until its checkpoint is complete. A base has none: what it sums up is
    /// committed already.
    pub(super) fn pending(self) -> Option<String> {
        (self.span == Span::Counts).then(|| self.named(PENDING))
    }

    fn named(self, ending: &str) -> String {
        format!("{:020}-{}.{ending}", self.epoch.get(), self.run.get())
    }

    /// What is there instead, if `contents` are not those that were written.
    pub(super) fn difference(self, contents: &[u8]) -> Option<String> {
        let got = Self { bytes: length(contents), crc: crc32fast::hash(contents), ..self };
        (got != self).then(|| got.to_string())
    }

    /// The parts in a sink's snapshot or commit data.
    pub(crate) fn decode(data: &[u8]) -> Result<Vec<Self>, OutputError> {
        serde_json::from_slice(data).map_err(|error| OutputError::Snapshot(error.to_string()))
    }

    /// The parts that a sink named in the checkpoint `from`, where it has this `snapshot`; none at
    /// the beginning.
    pub(crate) fn restored(from: Option<Epoch>, snapshot: Option<&[u8]>) -> Result<Vec<Self>, OutputError> {
        match (from, snapshot) {
            (_, Some(snapshot)) => Self::decode(snapshot),
            (None, None) => Ok(Vec::new()),
            // Without its list every part would be taken for garbage.
            (Some(epoch), None) => Err(OutputError::Snapshot(format!("expected a list for epoch {epoch}, got none"))),
        }
    }

    /// The snapshot or commit data that names `parts`.
    pub(crate) fn encode(parts: &[Self]) -> Result<bytes::Bytes, OutputError> {
        serde_json::to_vec(parts).map(Into::into).map_err(|error| OutputError::Snapshot(error.to_string()))
    }
}

/// What its file holds.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes with checksum {:08x}", self.bytes, self.crc)
    }
}

fn length(contents: &[u8]) -> u64 {
    contents.len().try_into().unwrap_or(u64::MAX)
}

const BASE: &str = "base";
const COUNTS: &str = "counts";
const PENDING: &str = "pending";

/// What the name of a file in an output folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A committed part of this epoch.
    Committed(Epoch),
    /// A part that waits for its checkpoint.
    Pending,
}

impl Named {
    /// `None` for a file that no sink wrote.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (stem, ending) = name.rsplit_once('.')?;
        let (epoch, run) = stem.split_once('-')?;
        run.parse::<u64>().ok()?;
        let epoch = Epoch::new(epoch.parse().ok()?);
        match ending {
            BASE | COUNTS => Some(Self::Committed(epoch)),
            PENDING => Some(Self::Pending),
            _ => None,
        }
    }
}
