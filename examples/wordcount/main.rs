//! A streaming word count with exactly-once output, stopped by winddown's types: try `--help`, and Ctrl-C.
//!
//! Each worker is a chain of three tasks, source → count → sink, with checkpoint barriers in the stream and a two-phase commit in the
//! sink. Whatever ends a run, a stop of any mode, a failure or a kill of this process, the next start with the same
//! state directory goes on from the last complete checkpoint, and the counts are exact in the end.
//!
//! ```text
//! cargo run --release --example wordcount
//! cargo run --release --example wordcount -- big.txt --stop checkpoint@2s
//! ```
//!
//! With `--runtime process` the workers are processes of this same program that speak gRPC.
//!
//! Where to look: `run_loop.rs` puts a job together and drives it, `runtime/` says where workers run, `tasks.rs` is the dataflow,
//! `output.rs` the two-phase commit, `stops.rs` the Ctrl-C ladder.
#![forbid(unsafe_code)]

mod claim;
mod cli;
mod count;
mod durable;
mod input;
mod meter;
mod output;
mod report;
mod run_loop;
mod runtime;
mod screen;
mod share;
mod sink;
mod source;
mod state_dir;
mod stops;
mod table;
mod tasks;
mod words;

use std::{
    io::{ErrorKind, Write, stderr, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

use crate::{cli::Args, input::Input, state_dir::StateDir};

/// Stopped with evidence, or finished: 0. The stop failed, or the job failed for good: 1. Not started, because the call was wrong: 2.
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// How long the run without arguments lasts, in seconds.
const DEMO_SECONDS: u64 = 10;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    {
        // The watchdog of worker processes is this program.
        winddown::process::init();
        match winddown::WorkerEnv::from_env() {
            Ok(None) => {}
            Ok(Some(env)) => {
                trace("warn");
                return runtime::worker::main(env);
            }
            Err(error) => return fail(USAGE, &error),
        }
    }
    let args = Args::parse();
    trace("off");
    let (input, state) = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(error) => return fail(USAGE, &error),
    };
    let demo = args.inputs.is_empty().then(|| (input.lines() / u64::from(args.workers) / DEMO_SECONDS).max(1));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &error),
    };
    match runtime.block_on(run_loop::run(&args, args.rate.or(demo), &input, &state)) {
        Ok(end) => {
            let program = std::env::args().next().unwrap_or_else(|| "wordcount".to_owned());
            let report = end.report.render(&args, &program, &state.counts());
            match writeln!(stdout(), "{report}") {
                // Who closes the pipe does not want to know.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                    return fail(FAILED, &format!("the report can't be written: {error}"));
                }
                _ => {}
            }
            match end.given_up {
                Some(reason) => fail(FAILED, &reason),
                None => ExitCode::SUCCESS,
            }
        }
        Err(error) => fail(FAILED, &error),
    }
}

/// Events go to stderr as `RUST_LOG` says, or as `default` does.
fn trace(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// Everything that can be wrong with the call is found here, before anything starts.
fn prepare(args: &Args) -> Result<(Input, StateDir), Box<dyn std::error::Error>> {
    let inputs = if args.inputs.is_empty() { own_sources() } else { args.inputs.clone() };
    let own = std::fs::canonicalize(&args.state_dir).ok();
    let input = Input::collect(&inputs, &|folder| own.as_deref() == Some(folder) || StateDir::is_at(folder))?;
    let state = StateDir::open(&args.state_dir, &input, args.workers, args.fresh)?;
    Ok((input, state))
}

/// The input of a call without one: this repository's own `src` and `docs`.
fn own_sources() -> Vec<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "docs"].map(|folder| repository.join(folder));
    folders.into_iter().filter(|folder| folder.exists()).collect()
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // Where nobody listens the exit code still tells.
    let _ = writeln!(stderr(), "wordcount: {error}");
    ExitCode::from(code)
}
