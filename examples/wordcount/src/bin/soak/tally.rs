//! What was done, and the results.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;
use winddown::{PhaseKind, StopRequest, journal::PhaseRecord};

use crate::{plan::Kill, truth::Difference};

/// The stop request in effect when the controller was killed.
const MODES: [&str; 5] = ["none", "checkpoint", "graceful", "immediate", "force"];

/// What happened to workers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hits {
    /// Killed, or tasks failed.
    pub(crate) killed: u32,
    /// Told to leave.
    pub(crate) terminated: u32,
    /// Frozen, or tasks stalled.
    pub(crate) frozen: u32,
}

impl Hits {
    pub(crate) fn add(&mut self, more: Self) {
        self.killed += more.killed;
        self.terminated += more.terminated;
        self.frozen += more.frozen;
    }
}

/// The summary.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Whether workers are processes; otherwise tasks fail and stall.
    processes: bool,
    pub(crate) rounds: u64,
    pub(crate) calls: u64,
    pub(crate) runs: u64,
    pub(crate) words: u64,
    pub(crate) hits: Hits,
    pub(crate) leftovers: usize,
    pub(crate) difference: Difference,
    evidence: BTreeMap<String, u64>,
    resumed: BTreeMap<String, u64>,
    points: [u64; Kill::POINTS.len()],
    /// Kills before the call had written anything.
    starting: u64,
    /// By phase and mode.
    phases: BTreeMap<(PhaseKind, usize), u64>,
    /// Kills in a shutdown that was resumed.
    again: u64,
}

impl Tally {
    pub(crate) fn new(processes: bool) -> Self {
        Self { processes, ..Self::default() }
    }

    /// A controller was killed; `written` is what its call had written down by then.
    pub(crate) fn note_kill(&mut self, kill: Kill, written: Option<&PhaseRecord>) {
        self.points[kill.point()] += 1;
        let Some(record) = written else {
            self.starting += 1;
            return;
        };
        let mode = StopRequest::ALL.into_iter().position(|mode| Some(mode) == record.requested());
        *self.phases.entry((record.phase(), mode.map_or(0, |mode| mode + 1))).or_default() += 1;
        self.again += u64::from(record.attempt() > 1);
    }

    /// A call has ended by itself.
    pub(crate) fn note_end(&mut self, report: &Value) {
        let mut note = |report: &Value, resumed| {
            if let Some(evidence) = report["evidence"].as_str() {
                let tally = if resumed { &mut self.resumed } else { &mut self.evidence };
                *tally.entry(evidence.to_owned()).or_default() += 1;
            }
        };
        note(report, false);
        note(&report["resumed_shutdown"], true);
    }

    fn kills(&self) -> u64 {
        self.points.iter().sum()
    }

    fn in_phase(&self, phase: PhaseKind) -> u64 {
        (0..MODES.len()).filter_map(|mode| self.phases.get(&(phase, mode))).sum()
    }

    /// The phases in which no controller was killed.
    fn never_hit(&self) -> Vec<&'static str> {
        PhaseKind::ALL.iter().filter(|&&phase| self.in_phase(phase) == 0).map(|phase| phase.name()).collect()
    }

    /// The progress of the soak.
    pub(crate) fn line(&self) -> String {
        let resumed: u64 = self.resumed.values().sum();
        let (calls, kills) = (self.calls, self.kills());
        format!("{calls} calls, {kills} controllers killed, {resumed} shutdowns resumed, nothing lost")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, u64>| {
            let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
            counts.collect::<Vec<_>>().join(", ")
        };
        let mut row = |name: &str, text: String| writeln!(f, "{name:<24} {}", text.trim_end());
        row("rounds", format!("{} ({} words compared)", self.rounds, self.words))?;
        row("calls", self.calls.to_string())?;
        row("runs", self.runs.to_string())?;
        row("kills of controllers", format!("{} ({} of them in a resumed shutdown)", self.kills(), self.again))?;
        let Hits { killed, terminated, frozen } = self.hits;
        if self.processes {
            row("kills of workers", format!("{killed}, and {terminated} told to leave (SIGTERM)"))?;
            row("freezes of workers", frozen.to_string())?;
        } else {
            row("failures of tasks", killed.to_string())?;
            row("stalls of tasks", frozen.to_string())?;
        }
        row("stops by evidence", list(&self.evidence))?;
        row("resumed shutdowns", format!("{} ({})", self.resumed.values().sum::<u64>(), list(&self.resumed)))?;
        row("lost", self.difference.lost.to_string())?;
        row("duplicated", self.difference.duplicated.to_string())?;
        row("leftover processes", self.leftovers.to_string())?;

        writeln!(f, "\nkills of controllers, by what they were aimed at")?;
        for (point, kills) in Kill::POINTS.iter().zip(self.points) {
            writeln!(f, "  {point:<30} {kills:>8}")?;
        }
        writeln!(f, "\nkills of controllers, by the phase in the journal and the stop asked for")?;
        write!(f, "  {:<24}", "")?;
        for mode in MODES {
            write!(f, " {mode:>10}")?;
        }
        writeln!(f, "\n  {:<24} {:>10}", "before the first record", self.starting)?;
        for &phase in PhaseKind::ALL {
            write!(f, "  {:<24}", phase.name())?;
            for mode in 0..MODES.len() {
                write!(f, " {:>10}", self.phases.get(&(phase, mode)).unwrap_or(&0))?;
            }
            writeln!(f)?;
        }
        match self.never_hit().as_slice() {
            [] => writeln!(f, "  every phase was hit"),
            never => writeln!(f, "  never hit: {}", never.join(", ")),
        }
    }
}
