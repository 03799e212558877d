//! The explorer: systematic search over everything that can go wrong, on the real phases and the
//! real [`drive`](crate::drive::drive).
//!
//! A schedule is one run of a small job (two workers, three tasks, one of which commits) on a
//! paused clock, from its start to its end, across crashes of its controller. At every call of a
//! collaborator it chooses one of the call's outcomes: success, an error with or without the
//! effect, a permanent refusal, silence with or without the effect, a late answer, a late effect,
//! or a crash before, during or after the call. At every step of the workers it chooses one of the
//! possible messages (in any order, twice, late, from strangers), possibly with a stop request, a
//! death, a freeze or a failed task. By default nothing goes wrong; a schedule is identified by its
//! deviations from that.
//!
//! The search runs every schedule with one deviation, then with two, and so on up to
//! [`depth`](Explorer::depth), and skips the rest of a schedule whose state was seen before with as
//! many deviations left; then it chooses at random. The invariants I2 to I11 are checked on every
//! schedule: claims are compared with the state of the simulated world. An exploration succeeds
//! only if it also took every edge of the machine, and if everything that can happen did happen.
//!
//! # What it does not explore
//! - Real clocks, threads and networks: one task is polled at a time, and a lost message is a call
//!   that is never answered.
//! - Jobs of another shape, and all combinations of more deviations than the depth (beyond it,
//!   random ones).
//! - Damage to durable data. A journal or store that loses what it has confirmed breaks its
//!   contract.
//! - The worker kit, the gRPC transport and the schedulers: the simulated workers stand in for
//!   them.
//! - I1, which the compiler checks.
//!
//! States are distinguished by a 64-bit digest, so two may be mistaken for one. With millions of
//! states that is improbable, and it only hides schedules.
mod choice;
mod collaborators;
mod digest;
mod environment;
mod late;
mod report;
mod scenario;
mod schedule;
mod search;
mod state;
mod subject;
mod truth;
mod workers;
mod world;

use std::{fmt, str::FromStr};

pub use collaborators::Simulated;
pub use report::{Finding, Report, Violation};
pub use subject::{OurController, Setup, Subject};

use choice::Deviation;
use scenario::{SCENARIOS, Scenario};
use search::{Bounds, Runner, minimize, search};

/// Explores schedules.
#[derive(Clone, Debug)]
#[must_use = "an explorer does nothing until it is run"]
pub struct Explorer<S = OurController> {
    subject: S,
    bounds: Bounds,
}

impl Explorer {
    /// Explores the [`ClusterController`](crate::cluster::ClusterController).
    pub fn new() -> Self {
        Self::of(OurController)
    }
}

impl Default for Explorer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Subject> Explorer<S> {
    /// Explores your own parts.
    pub fn of(subject: S) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { subject, bounds: Bounds { schedules: 1_000_000, depth: 2, seed: 1, threads, stop_early: false } }
    }

    /// The number of distinct schedules to run. Default: 1,000,000.
    pub fn schedules(mut self, schedules: u64) -> Self {
        self.bounds.schedules = schedules;
        self
    }

    /// Up to this many deviations from the default, all schedules are run; beyond that, random
    /// ones. Default: 2.
    pub fn depth(mut self, depth: u32) -> Self {
        self.bounds.depth = depth;
        self
    }

    /// The seed for the order of the schedules and the random ones. Default: 1.
    pub fn seed(mut self, seed: u64) -> Self {
        self.bounds.seed = seed;
        self
    }

    /// The number of threads. Default: the number of processors.
    pub fn threads(mut self, threads: usize) -> Self {
        self.bounds.threads = threads.max(1);
        self
    }

    /// Stops at the first violation.
    pub fn stop_early(mut self) -> Self {
        self.bounds.stop_early = true;
        self
    }

    /// Runs the schedules.
    pub fn run(&self) -> Report {
        let (mut report, found) = search(&self.subject, self.bounds);
        let mut runner = Runner::new(&self.subject);
        for found in &found {
            let plan = minimize(&mut runner, found);
            let shown = runner.run(found.0, &plan, None, true);
            let violation = shown.violations.into_iter().next().unwrap_or_else(|| found.2.clone());
            report.findings.push(Finding { violation, line: line(found.0, &plan), story: shown.story });
        }
        report
    }

    /// Replays one schedule, given by the line of a [`Finding`] or [`Report`].
    ///
    /// # Errors
    /// [`ParseLineError`] if the line is not a schedule.
    pub fn replay(&self, line: &str) -> Result<Vec<Finding>, ParseLineError> {
        let Line { scenario, plan } = line.parse()?;
        let shown = Runner::new(&self.subject).run(scenario, &plan, None, true);
        let finding = |violation| Finding { violation, line: line.to_owned(), story: shown.story.clone() };
        Ok(shown.violations.into_iter().map(finding).collect())
    }
}

fn line(scenario: &Scenario, plan: &[Deviation]) -> String {
    let plan: Vec<String> = plan.iter().map(ToString::to_string).collect();
    format!("{}:{}", scenario.name, plan.join(","))
}

struct Line {
    scenario: &'static Scenario,
    plan: Vec<Deviation>,
}

/// A line that is not a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseLineError(String);

impl fmt::Display for ParseLineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        write!(
            f,
            "expected SCENARIO:POINT=OPTION,… as the explorer prints it, got `{}`; scenarios are {}",
            self.0,
            names.join(", ")
        )
    }
}

impl std::error::Error for ParseLineError {}

impl FromStr for Line {
    type Err = ParseLineError;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let error = || ParseLineError(line.to_owned());
        let (name, plan) = line.trim().split_once(':').ok_or_else(error)?;
        let scenario = Scenario::named(name).ok_or_else(error)?;
        let deviation = |text: &str| {
            let (at, option) = text.split_once('=')?;
            Some(Deviation { at: at.parse().ok()?, option: option.parse().ok()? })
        };
        let plan = plan.split(',').filter(|text| !text.is_empty()).map(|text| deviation(text).ok_or_else(error));
        Ok(Self { scenario, plan: plan.collect::<Result<_, _>>()? })
    }
}
