//! `cargo bench`: what a shutdown costs, beside the ways people do it today. `docs/performance.md` explains the figures.
//!
//! `cargo bench -- --quick` measures less, `cargo bench -- fan-out` one thing. `cargo test --bench performance` only sees whether
//! everything runs.
#![forbid(unsafe_code)]

mod measure;
mod report;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    measure::{Args, Probe, Scale},
    report::{Result, data::Report, goals, tables},
};

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("performance: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if !args.probe.is_empty() {
        return Probe::parse(&args.probe)?.run();
    }
    let scale = match (args.bench, args.quick) {
        (false, _) => Scale::Smoke,
        (true, true) => Scale::Quick,
        (true, false) => Scale::Full,
    };
    let mut report = Report::default();
    for section in args.sections() {
        section.measure(scale, &mut report).map_err(|error| format!("{}: {error}", section.name()))?;
        println!("{}", tables::section(&section.name(), &report));
    }
    if scale != Scale::Smoke {
        println!("{}", goals::table(&report));
    }
    Ok(())
}
