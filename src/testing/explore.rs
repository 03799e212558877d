//! The explorer: systematic search over everything that can go wrong, on the real phases and the real [`drive`](crate::drive::drive).
//!
//! A schedule is one run of a small job (two workers, three tasks, one of which commits) on a paused clock, from its start to its end, over
//! crashes of its controller. At every call of a collaborator it takes one of the call's outcomes: done, an error with or without the
//! effect, refused for good, silence with or without the effect, a late answer, an effect after its time, a crash before, at or after it. At every
//! step of the workers it takes one of the messages that may come (in each order, twice, late, from strangers), and a stop request, a death, a freeze or
//! a failed task may come with it. The default of each choice is that nothing goes wrong; a schedule is named by its deviations from that.
//!
//! The search runs every schedule with one deviation, then with two, and so on up to [`depth`](Explorer::depth), and skips the rest of a schedule
//! whose state was seen before with as many deviations left; then it walks at random. What happens in the simulated world is compared with what is claimed:
//! the invariants I2 to I11 are checked on every schedule, the world being the truth. A run is good only if it also took every edge of
//! the machine, and if everything that can happen did.
//!
//! # What it does not explore
//! - Real clocks, threads and networks: one task is polled at a time, and a lost message is a call that is never answered.
//! - Jobs of another shape than the one above, and more deviations at a time than the depth (beyond it: at random).
//! - Damage to what is durable. A journal or store that loses what it has confirmed breaks its contract.
//! - The worker kit, the gRPC transport and the schedulers: the simulated workers stand in for them.
//! - I1, which is the compiler's.
//!
//! States are told apart by a 64-bit digest, so two may be taken for one; with millions of states that is improbable, and it only hides schedules.
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
    /// Explores a user's own parts.
    pub fn of(subject: S) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { subject, bounds: Bounds { schedules: 1_000_000, depth: 2, seed: 1, threads, stop_early: false } }
    }

    /// How many distinct schedules are run. 1,000,000.
    pub fn schedules(mut self, schedules: u64) -> Self {
        self.bounds.schedules = schedules;
        self
    }

    /// Up to how many deviations from the default every schedule is run, before it goes on at random. 2.
    pub fn depth(mut self, depth: u32) -> Self {
        self.bounds.depth = depth;
        self
    }

    /// The order in which schedules are run, and which random ones. 1.
    pub fn seed(mut self, seed: u64) -> Self {
        self.bounds.seed = seed;
        self
    }

    /// How many threads run schedules. As many as there are processors.
    pub fn threads(mut self, threads: usize) -> Self {
        self.bounds.threads = threads.max(1);
        self
    }

    /// Stop at the first violation.
    pub fn stop_early(mut self) -> Self {
        self.bounds.stop_early = true;
        self
    }

    /// Runs schedules until there are enough.
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

    /// Runs one schedule again, as a [`Finding`] or [`Report`] names it.
    ///
    /// # Errors
    /// [`ParseLineError`] when it is no such line.
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

/// A line that is no schedule.
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
