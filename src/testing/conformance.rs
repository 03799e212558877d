//! Checks a [`Journal`](crate::journal::Journal), a [`Scheduler`](crate::contracts::Scheduler), a [`CheckpointStore`](crate::contracts::CheckpointStore), a
//! [`JobController`](crate::contracts::JobController) or a [`Transport`](crate::contracts::Transport) of yours against its contract, and names the rule that it
//! breaks.
//!
//! You say how to make one and, where a check needs more than the contract's own methods, how to do that: in a small trait, the
//! *subject*. [`journal()`], [`scheduler()`], [`store()`], [`controller()`] and [`transport()`] do the rest, and give a [`Report`] with every [`Rule`]:
//! kept, broken (with what was expected, what came, and where to begin), not applicable, or not checked.
//!
//! ```
//! use std::{collections::HashMap, sync::{Arc, Mutex}};
//! use winddown::prelude::*;
//! use winddown::journal::{JournalError, PhaseRecord};
//! use winddown::testing::conformance::{Hook, JournalSubject, Rule, self};
//!
//! /// Records in a database. (This one is in memory, so that the example is short.)
//! #[derive(Clone, Default)]
//! struct Database(Arc<Mutex<HashMap<JobId, PhaseRecord>>>);
//!
//! impl Journal for Database {
//!     async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
//!         Ok(self.0.lock().unwrap().get(job).cloned())
//!     }
//!
//!     async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
//!         self.0.lock().unwrap().insert(record.job().clone(), record.clone()); // without a look at what is there
//!         Ok(())
//!     }
//! }
//!
//! impl JournalSubject for Database {
//!     type Journal = Self;
//!
//!     async fn open(&self) -> Self {
//!         self.clone()
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let report = conformance::journal(async || Database::default()).await;
//! assert_eq!(report.broken(), [Rule::JournalCompareAndSet, Rule::JournalOneWriter, Rule::JournalNewerRun, Rule::JournalFencing]);
//! assert!(report.not_checked().contains(&Rule::JournalDurable), "it was not told how to crash");
//! println!("{report}");
//! # }
//! ```
//!
//! In a test, `conformance::journal(…).await.assert()` panics if a rule is broken, and says which were not checked.
//! `docs/implementing.md` shows such a test.
//!
//! # How it checks
//! Each rule gets a fresh subject, a thread and a runtime of its own (with two threads), and a limit: a subject that panics, hangs or
//! blocks breaks the rule that was being checked, and the suite goes on. A check that hangs leaves its thread behind. Real time passes:
//! a paused clock in your test changes nothing.
//!
//! Rules are checked side by side, four at a time, and a check that takes longer than two seconds keeps no other from starting. So a suite ends
//! within a minute even if every rule is broken, unless the subject sets a limit above 40 s (`LIMIT`); then it takes that long and 15 s more.
//! Subjects are at work at the same time: each needs a place of its own (a folder, a schema, a namespace), not one that is emptied for the next.
//!
//! A check can find a breach; it can't prove that there is none. What is said of races, crashes and dropped calls is tried in some dozens of
//! ways, not in all; the [explorer](super::explore) tries more of them, on the phases.

mod bench;
mod controller;
mod journal;
mod report;
mod rule;
mod scheduler;
mod store;
mod suite;
mod transport;
mod vault;
mod workers;

use std::fmt;

pub use controller::{ControllerSubject, RunSetup, controller};
pub use journal::{JournalSubject, journal};
pub use report::{Breach, NonConforming, Report, Verdict};
pub use rule::{Contract, Rule};
pub use scheduler::{Manners, Placed, SchedulerSubject, scheduler};
pub use store::{StoreSubject, store};
pub use suite::Hook;
pub use transport::{TransportRun, TransportSubject, transport};
pub use workers::{Around, Workers};

/// What has become of something that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// Its end is missing, as after a write that was interrupted.
    CutShort,
    /// It has its length, and a byte in the middle is another one.
    Altered,
    /// It was written by a newer version of winddown.
    NewerVersion,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CutShort => "cut short",
            Self::Altered => "altered",
            Self::NewerVersion => "of a newer version",
        })
    }
}

/// Names that have been mistaken for one another, or for something else than a name.
const NAMES: [&str; 20] = [
    "words",
    "Words",
    "words ",
    "",
    ".",
    "..",
    "../words",
    "/words",
    "a/b",
    "a\\b",
    "a%2Fb",
    "a_b",
    "a b",
    "a\nb",
    "a\0b",
    "'; DROP TABLE winddown_journal; --",
    "$1",
    "wörter",
    "単語",
    "words.record",
];
