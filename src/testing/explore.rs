//! The explorer: systematic search over everything that can go wrong, on the real phases and the real [`drive`](crate::drive).
//!
//! TODO
mod choice;
mod collaborators;
mod digest;
mod environment;
mod report;
mod scenario;
mod schedule;
mod search;
mod subject;
mod truth;
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
    /// Explores the [`ClusterController`](crate::ClusterController).
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
