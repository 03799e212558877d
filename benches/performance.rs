//! `cargo bench -p winddown-benches`: what a shutdown costs, compared with the usual ways to do it.
//! `docs/performance.md` explains the figures.
//!
//! `-- --quick` measures less; `-- fan-out` measures one section.
//! `cargo test -p winddown-benches --bench performance` only checks that everything runs.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use winddown_benches::{
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
