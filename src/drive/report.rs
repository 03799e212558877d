//! The result of a drive, to send or to store.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::Receipt;
use crate::{
    contracts::{ConfirmedBy, Epoch, JobId, RunId, StopRequest},
    limits::duration_text,
    machine::{PhaseKind, Reason},
};

/// A [`Receipt`] without its typed evidence: it can be sent and stored, but proves nothing to its
/// reader.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use winddown::{drive::ReceiptReport, prelude::*, testing::scripted::ScriptedScheduler};
///
/// let (mut job, running) = JobContext::new(&OpenRun::without_store("words", RunId::new(1)), Detached, ScriptedScheduler::new([1]))?;
/// let report = drive(running, &mut job, &Policy::escalate()).await?.report();
/// let text = serde_json::to_string(&report)?;
/// assert!(text.contains(r#""stopped":"stopped-killed""#));
/// assert_eq!(serde_json::from_str::<ReceiptReport>(&text)?, report);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReceiptReport {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: RunId,
    /// The terminal phase.
    pub stopped: PhaseKind,
    /// The last complete checkpoint that the stop knows of.
    pub epoch: Option<Epoch>,
    /// Whether workers had to be killed.
    pub killed_workers: bool,
    /// Who confirmed that nothing is alive.
    pub confirmed_by: ConfirmedBy,
    /// The phases, the terminal one last.
    pub legs: Vec<LegReport>,
    /// The strongest stop request that was made.
    pub requested: Option<StopRequest>,
    /// Whether another run of the job may be started.
    pub may_restart: bool,
    /// Retries used by the drive.
    pub retries: u32,
    /// The last error, even if a retry succeeded.
    pub last_error: Option<Arc<str>>,
}

/// One phase of the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LegReport {
    /// The phase.
    pub phase: PhaseKind,
    /// Why it was entered.
    pub reason: Reason,
    /// How long the job was in it; zero for the terminal one.
    #[serde(with = "duration_text")]
    pub took: Duration,
}

impl Receipt {
    /// The same to send or to store, without the typed evidence.
    pub fn report(&self) -> ReceiptReport {
        let legs = self.legs().iter();
        ReceiptReport {
            job: self.job().clone(),
            run: self.run(),
            stopped: self.stopped().kind(),
            epoch: self.stopped().epoch(),
            killed_workers: self.stopped().killed_workers(),
            confirmed_by: self.stopped().confirmed_by(),
            legs: legs.map(|leg| LegReport { phase: leg.phase, reason: leg.reason.clone(), took: leg.took }).collect(),
            requested: self.requested(),
            may_restart: self.may_restart(),
            retries: self.retries(),
            last_error: self.last_error().map(Into::into),
        }
    }
}
