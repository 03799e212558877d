//! Explores what can go wrong in a shutdown, on the real phases: every outcome of every
//! collaborator, every order of messages, every stop request, and a crash at every step.
//!
//! `cargo run --release --all-features --example explore -- [--schedules N] [--depth D] [--seed S] [--replay LINE] [--report text|json]`
//!
//! The exit code is 1 if an invariant was violated, if an edge of the machine was never taken, or
//! if something that can happen never did.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use winddown::testing::explore::{Explorer, Report};

#[derive(Parser)]
#[command(about = "Explores what can go wrong in a shutdown, on the real phases and a paused clock")]
struct Options {
    /// Number of distinct schedules to run.
    #[arg(long, default_value_t = 1_000_000)]
    schedules: u64,
    /// Up to this many deviations from the default, all schedules are run; beyond that, random
    /// ones.
    #[arg(long, default_value_t = 2)]
    depth: u32,
    /// Seed for the order of the schedules and the random ones.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Replays one schedule, given by the line that a violation prints.
    #[arg(long, value_name = "LINE")]
    replay: Option<String>,
    /// Format of the report; with `json`, the last line is one object.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    report: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let explorer = Explorer::new().schedules(options.schedules).depth(options.depth).seed(options.seed);
    if let Some(line) = &options.replay {
        return replay(&explorer, line);
    }
    let report = explorer.run();
    println!("{report}");
    for edge in report.edges_unreached() {
        println!("never taken: {} -> {}", edge.from, edge.to);
    }
    for name in report.did_not_happen() {
        println!("never happened: {name}");
    }
    if options.report == Form::Json {
        println!("{}", json(&report));
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(explorer: &Explorer, line: &str) -> ExitCode {
    match explorer.replay(line) {
        Ok(findings) if findings.is_empty() => {
            println!("no violation");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            for finding in &findings {
                println!("violation of {finding}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn json(report: &Report) -> String {
    serde_json::json!({
        "schedules": report.schedules,
        "distinct_states": report.distinct_states,
        "violations": report.violations,
        "edges_unreached": report.edges_unreached().count(),
        "seconds": report.seconds,
    })
    .to_string()
}
