//! Measures what a shutdown costs, and writes `docs/performance.md` with its tables and plots. The
//! measurements are those of the bench `performance`.
//!
//! ```text
//! cargo run --release -p winddown-benches --bin bench_report              # everything
//! cargo run --release -p winddown-benches --bin bench_report -- fan-out   # one section anew; the others stay
//! cargo run --release -p winddown-benches --bin bench_report -- --render  # the page, from the figures that are stored
//! ```
#![forbid(unsafe_code)]

use std::{fs, path::Path, process::ExitCode};

use clap::Parser;
use winddown_benches::{
    measure::{Args, Probe, Scale},
    report::{Result, data::Report, goals, page, tables},
};

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: Args,
    /// Measures nothing; only renders the page from the stored figures.
    #[arg(long)]
    render: bool,
}

fn main() -> ExitCode {
    match run(&Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(Command { args, render }: &Command) -> Result<()> {
    if !args.probe.is_empty() {
        return Probe::parse(&args.probe)?.run();
    }
    let repository = page::repository();
    let data = repository.join(page::DATA);
    let mut report = if data.exists() {
        serde_json::from_slice(&fs::read(&data)?)
            .map_err(|error| format!("{}: {error}: remove it, and measure everything anew", data.display()))?
    } else {
        Report::default()
    };
    if !render {
        let scale = if args.quick { Scale::Quick } else { Scale::Full };
        for section in args.sections() {
            section.measure(scale, &mut report).map_err(|error| format!("{}: {error}", section.name()))?;
            println!("{}", tables::section(&section.name(), &report));
            // Stored at once: who has waited for one section keeps it whatever becomes of the next.
            store(repository, &report)?;
        }
    }
    store(repository, &report)?;
    println!("{}", goals::table(&report));
    Ok(())
}

fn store(repository: &Path, report: &Report) -> Result<()> {
    let mut files = page::files(report)?;
    files.push((page::DATA.to_owned(), serde_json::to_string_pretty(report)? + "\n"));
    for (path, text) in files {
        let path = repository.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)?;
    }
    Ok(())
}
