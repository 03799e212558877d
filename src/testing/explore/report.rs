//! What an exploration has found.

use std::fmt;

use crate::machine::{EDGES, Edge};

/// A false claim, or a forbidden effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's number in the documentation: `"I1"` to `"I11"`; `"panic"` for a panic.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
}

impl Violation {
    pub(super) fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// A violation, with the shortest schedule found that leads to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was violated.
    pub violation: Violation,
    /// The schedule, for [`Explorer::replay`](super::Explorer::replay).
    pub line: String,
    /// The choices of the schedule that differ from the default, in words.
    pub story: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  replay: {}", self.violation, self.line)?;
        self.story.iter().try_for_each(|choice| write!(f, "\n    {choice}"))
    }
}

macro_rules! can_happen {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Something that every exploration must have met; otherwise it explored too little.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum CanHappen { $($(#[doc = $doc])+ $name,)+ }

        impl CanHappen {
            pub(super) const COUNT: usize = Self::NAMES.len();
            pub(super) const NAMES: &'static [&'static str] = &[$(stringify!($name),)+];
        }
    };
}

can_happen! {
    /// A crash before anything was recorded.
    CrashBeforeAnyRecord,
    /// A crash while the record had this phase.
    CrashInRunning,
    /// The same.
    CrashInFinishing,
    /// The same.
    CrashInRecovering,
    /// The same.
    CrashInCheckpointStopping,
    /// The same.
    CrashInStoppingGraceful,
    /// The same.
    CrashInStoppingImmediate,
    /// The same.
    CrashInStoppingForce,
    /// A crash after the end was recorded.
    CrashInStopped,
    /// A crash after the final epoch was recorded, and before its manifest was durable.
    CrashDuringFinalCheckpoint,
    /// A crash after the manifest of the final checkpoint was durable, and before its commit.
    CrashBeforeCommit,
    /// The store proved what the crashed controller had not recorded.
    CheckpointedFromStore,
    /// A controller after a crash finished the final checkpoint.
    CheckpointedAfterCrash,
    /// Two controllers crashed, the third stopped the job.
    StoppedAfterTwoCrashes,
    /// Workers that did not leave were killed after the evidence was proven.
    EvidenceSurvivedKill,
    /// A drive was dropped and continued.
    DriveDropped,
    /// A drive gave its phase back, and the next one finished.
    DriveGaveBack,
    /// A journal's late write made the controller hand the job over to the next one.
    TakenOver,
    /// The effect of an abandoned call happened after all.
    EffectAfterItsTime,
    /// An event came twice.
    EventTwice,
    /// An event overtook another.
    EventsReordered,
    /// An event came late.
    EventLate,
    /// Other runs, unknown workers and tasks.
    StrangersSpeak,
    /// A request that was not stronger than the one in effect.
    WeakerRequest,
    /// A request that was stronger than the one in effect, during a shutdown.
    StrongerRequest,
    /// A worker appeared after the last one had gone.
    WorkerAppeared,
    /// A start was called, and its worker was not there yet.
    StartInFlight,
    /// A forced stop ended a start that was in flight.
    StartRefused,
    /// A list of workers could not look, and said of nobody that it is gone.
    BlindList,
    /// A worker died.
    WorkerDied,
    /// A worker stopped answering, but was alive.
    WorkerFroze,
    /// A task failed.
    TaskFailed,
    /// A manifest was refused because of a newer run.
    Fenced,
}

/// What an exploration has found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The number of distinct schedules that were run.
    pub schedules: u64,
    /// The number of distinct states at choice points, by their digests; a lower bound, because
    /// counting ends at 20 million.
    pub distinct_states: u64,
    /// Up to sixteen violations, the first ones.
    pub findings: Vec<Finding>,
    /// The number of schedules in which an invariant was violated.
    pub violations: u64,
    /// How often each edge of [`EDGES`] was taken.
    pub edges: Vec<(Edge, u64)>,
    /// How often each thing that can happen did happen, by name.
    pub happened: Vec<(&'static str, u64)>,
    /// The number of deviations up to which every schedule was run, except for already known
    /// states.
    pub complete_depth: u32,
    /// Wall-clock time.
    pub seconds: f64,
}

impl Report {
    pub(super) fn count(edges: &[u64], happened: &[u64]) -> Self {
        Self {
            edges: EDGES.iter().copied().zip(edges.iter().copied()).collect(),
            happened: CanHappen::NAMES.iter().copied().zip(happened.iter().copied()).collect(),
            ..Self::default()
        }
    }

    /// The edges that no schedule took.
    pub fn edges_unreached(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(|(_, count)| *count == 0).map(|(edge, _)| edge)
    }

    /// What can happen but did not.
    pub fn did_not_happen(&self) -> impl Iterator<Item = &'static str> {
        self.happened.iter().filter(|(_, count)| *count == 0).map(|(name, _)| *name)
    }

    /// Whether there was no violation, every edge was taken, and everything that can happen did.
    pub fn is_good(&self) -> bool {
        self.violations == 0 && self.edges_unreached().next().is_none() && self.did_not_happen().next().is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "edges taken:")?;
        for (edge, count) in &self.edges {
            writeln!(f, "  {:<22} -> {:<22} {count:>10}", edge.from, edge.to)?;
        }
        writeln!(f, "what can happen:")?;
        for (name, count) in &self.happened {
            writeln!(f, "  {name:<47} {count:>10}")?;
        }
        for finding in &self.findings {
            writeln!(f, "violation of {finding}")?;
        }
        write!(
            f,
            "{} schedules (all up to {} deviations), {} distinct states, {} with a violation, {:.1} s",
            self.schedules, self.complete_depth, self.distinct_states, self.violations, self.seconds
        )
    }
}
