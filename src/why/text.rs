//! [`Why`] for people.

use std::fmt;

use super::{Culprit, Escalation, Loss, Undone, Who, Why};
use crate::text::{Printable, rounded};

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {}", self.phase, rounded(self.elapsed))?;
        match (&self.limit, self.left) {
            (Some(limit), Some(left)) if left.is_zero() => write!(f, " (the limit `{}` is over)", Printable(limit))?,
            (Some(limit), Some(left)) => write!(f, " (ends by `{}` in {})", Printable(limit), rounded(left))?,
            _ => {}
        }
        if self.culprits.is_empty() {
            f.write_str(": nobody holds it up")?;
        }
        for (at, culprit) in self.culprits.iter().enumerate() {
            write!(f, "\n{:>3}. {culprit}", at + 1)?;
        }
        for escalation in &self.escalations {
            write!(f, "\n  -> {escalation}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Culprit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.who, self.what)?;
        if let Some(since) = self.since {
            write!(f, " for {}", rounded(since))?;
        }
        if let Some(others) = self.others {
            write!(f, "; the others took {}", rounded(others))?;
        }
        match self.failed {
            0 => {}
            1 => f.write_str(" (1 failed try)")?,
            failed => write!(f, " ({failed} failed tries)")?,
        }
        match &self.error {
            Some(error) => write!(f, ": {}", Printable(error)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Worker(worker) => write!(f, "worker {worker}"),
            Self::Task { task, operator, worker } => {
                write!(f, "task `{}/{}` on worker {worker}", Printable(operator), task.subtask)
            }
            Self::MoreTasks(more) => write!(f, "and {more} more tasks"),
            Self::MoreWorkers(more) => write!(f, "and {more} more workers"),
            Self::Store => f.write_str("the checkpoint store"),
            Self::Scheduler => f.write_str("the scheduler"),
            Self::Journal => f.write_str("the journal"),
            Self::Run => f.write_str("the run"),
        }
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(call) => write!(f, "has not answered `{}`", Printable(call)),
            Self::Failed(call) => write!(f, "has failed `{}`", Printable(call)),
            Self::Silent(late) => write!(f, "(waited for: {late} of its tasks) has been silent"),
            Self::Lost(late) => write!(f, "(waited for: {late} of its tasks) is lost, silent"),
            Self::Leave => f.write_str("has not left"),
            Self::Snapshot(epoch) => write!(f, "has not given its snapshot for epoch {epoch}"),
            Self::Commit(epoch) => write!(f, "has not committed epoch {epoch}"),
            Self::End => f.write_str("has not ended"),
            Self::Manifest(epoch) => write!(f, "has not made the manifest of epoch {epoch} durable"),
        }
    }
}

impl fmt::Display for Escalation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` now loses {}", self.request, self.loses)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Evidence(epoch) => {
                write!(f, "only the proof: epoch {epoch} is durable, and the next run carries out its commits")
            }
            Self::FinalCheckpoint { epoch, back_to: Some(back_to) } => {
                write!(f, "the final checkpoint (epoch {epoch}): the next run starts from epoch {back_to}")
            }
            Self::FinalCheckpoint { epoch, back_to: None } => {
                write!(f, "the final checkpoint (epoch {epoch}): the next run starts from the beginning")
            }
            Self::Replay(Some(epoch)) => write!(f, "no output; the next run replays what came after epoch {epoch}"),
            Self::Replay(None) => f.write_str("no output; the next run starts from the beginning"),
        }
    }
}
