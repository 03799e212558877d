//! Checks a [`Journal`](crate::machine::Journal), a [`Scheduler`](crate::contracts::Scheduler), a
//! [`CheckpointStore`](crate::contracts::CheckpointStore), a
//! [`JobController`](crate::contracts::JobController) or a
//! [`Transport`](crate::contracts::Transport) of yours against its contract, and names each rule
//! that it breaks.
//!
//! You implement a small trait, the *subject*, which creates it and has hooks for what the
//! contract's own methods can't do. [`journal()`], [`scheduler()`], [`store()`], [`controller()`]
//! and [`transport()`] do the rest, and return a [`Report`] with every [`Rule`]: kept, broken (with
//! what was expected, what came, and where to start), not applicable, or not checked.
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
//! In a test, `conformance::journal(…).await.assert()` panics if a rule is broken, and prints which
//! were not checked.
//! `docs/implementing.md` shows such a test.
//!
//! # How it checks
//! Each rule gets a fresh subject, its own thread and runtime (with two threads), and a time limit:
//! a subject that panics, hangs or blocks breaks the rule that is being checked, and the suite
//! continues. A check that hangs leaves its thread behind. The checks use real time: a paused clock
//! in your test has no effect.
//!
//! Rules are checked concurrently, four at a time, and a check that takes longer than two seconds
//! does not keep others from starting. So a suite ends within a minute even if every rule is
//! broken, unless the subject sets a limit above 40 s (`LIMIT`); then it may take that limit plus
//! 15 s. Subjects are used at the same time: each needs its own place (a folder, a schema, a
//! namespace), not one that is emptied for the next.
//!
//! A check can find a violation, but can't prove that there is none. Races, crashes and dropped
//! calls are tried in dozens of ways, not in all; the [explorer](super::explore) tries more of
//! them, on the phases.

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

/// How a stored object is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// Its end is missing, as after an interrupted write.
    CutShort,
    /// A byte in the middle is altered; the length is the same.
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

/// Names that could be confused with each other, or with something other than a name.
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
