//! The measurements of the bench `performance` and of the program `bench_report`. Each is a
//! function that returns its figures; who called it prints them, or makes a page of them.

mod backlog;
mod builds;
mod callgrind;
mod circumstances;
mod fan_out;
mod fleet;
mod interleave;
mod jobs;
mod memory;
mod messages;
mod shutdown;
mod throughput;
mod transition_ways;
mod transitions;
mod wordcount;

use std::time::Instant;

use clap::{Parser, ValueEnum};

use crate::report::{
    Result,
    data::{Measured, Report},
};

pub use callgrind::Probe;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Whether it runs at all: what `cargo test` does with a bench.
    Smoke,
    /// Every measurement, small.
    Quick,
    /// What the page shows.
    Full,
}

impl Scale {
    /// One of three.
    pub fn pick<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    FanOut,
    SickWorker,
    Messages,
    Transitions,
    Backlog,
    Memory,
    Shutdown,
    Throughput,
    Builds,
}

impl Section {
    /// Measures, and puts the figures into the report.
    pub fn measure(self, scale: Scale, report: &mut Report) -> Result<()> {
        match self {
            Self::FanOut => report.fan_out = Some(measured(scale, fan_out::fan_out)?),
            Self::SickWorker => report.sick_worker = Some(measured(scale, fan_out::sick_worker)?),
            Self::Messages => report.messages = Some(measured(scale, messages::messages)?),
            Self::Transitions => report.transitions = Some(measured(scale, transitions::transitions)?),
            Self::Backlog => report.backlog = Some(measured(scale, backlog::backlog)?),
            Self::Memory => report.memory = Some(measured(scale, memory::memory)?),
            Self::Shutdown => report.shutdown = Some(measured(scale, shutdown::shutdown)?),
            Self::Throughput => report.throughput = Some(measured(scale, throughput::throughput)?),
            Self::Builds => report.builds = Some(measured(scale, builds::builds)?),
        }
        Ok(())
    }

    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

fn measured<T>(scale: Scale, measure: impl FnOnce(Scale) -> Result<T>) -> Result<Measured<T>> {
    let mut run = circumstances::now(scale);
    let start = Instant::now();
    let result = measure(scale)?;
    run.seconds = start.elapsed().as_secs_f64();
    Ok(Measured { run, result })
}

/// The options of both programs.
#[derive(Debug, Parser)]
pub struct Args {
    /// The sections to measure; all if none is named.
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// Measures less and faster, to check that it works; do not quote these figures.
    #[arg(long)]
    pub quick: bool,
    /// Cargo passes this when it runs a bench as a bench.
    #[arg(long, hide = true)]
    pub bench: bool,
    /// Does one thing this many times, for a tool that counts instructions.
    #[arg(long, hide = true, num_args = 2, value_names = ["WHAT", "TIMES"])]
    pub probe: Vec<String>,
}

impl Args {
    pub fn sections(&self) -> &[Section] {
        if self.sections.is_empty() { Section::value_variants() } else { &self.sections }
    }
}
