//! The program from the command line to the exit code. `soak` contains it, to start it repeatedly.

use std::{
    ffi::OsString,
    io::{ErrorKind, Write, stderr, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

use crate::{cli::Args, input::Input, report::Report, run_loop, state_dir::StateDir};

/// Exit codes. 0: stopped with evidence, or finished. 1: the stop failed, or the job failed for
/// good. 2: not started, because the call was wrong.
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// How long the run without arguments lasts, in seconds.
const DEMO_SECONDS: u64 = 10;

/// The work of a process that a call of this program has started: its watchdog or one of its
/// workers. `None` in the call itself.
pub fn helper() -> Option<ExitCode> {
    #[cfg(target_os = "linux")]
    {
        // The watchdog of worker processes is this program.
        winddown::process::init();
        match winddown::process::WorkerEnv::from_env() {
            Ok(None) => {}
            Ok(Some(env)) => {
                trace("warn");
                return Some(crate::runtime::worker::main(env));
            }
            Err(error) => return Some(fail(USAGE, &error)),
        }
    }
    None
}

/// One call of the program. The first `own` words of the command line are its name.
pub fn main(words: &[OsString], own: usize) -> ExitCode {
    let (program, _) = words.split_at(own.min(words.len()));
    let args = Args::parse_from(words.iter().skip(own.saturating_sub(1)));
    trace("off");
    let (input, state) = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(error) => return fail(USAGE, &error),
    };
    let demo = args.inputs.is_empty().then(|| (input.lines() / u64::from(args.workers) / DEMO_SECONDS).max(1));
    let report = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run_loop::run(&args, args.rate.or(demo), &input, &state)),
        Err(error) => Report::new(input.lines()).failed(&error),
    };
    if let Some(text) = report.render(&args, program, &state.counts()) {
        match writeln!(stdout(), "{text}") {
            // If the pipe is closed, the output is not wanted.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                return fail(FAILED, &format!("the report can't be written: {error}"));
            }
            _ => {}
        }
    }
    match &report.error {
        Some(error) => fail(FAILED, error),
        None => ExitCode::SUCCESS,
    }
}

/// Logs events to stderr according to `RUST_LOG`, or to `default`.
fn trace(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}

/// Everything that can be wrong with the call is detected here, before anything starts.
fn prepare(args: &Args) -> Result<(Input, StateDir), Box<dyn std::error::Error>> {
    let inputs = if args.inputs.is_empty() { own_sources() } else { args.inputs.clone() };
    let own = std::fs::canonicalize(&args.state_dir).ok();
    let input = Input::collect(&inputs, &|folder| own.as_deref() == Some(folder) || StateDir::is_at(folder))?;
    let state = StateDir::open(&args.state_dir, &input, args.workers, args.fresh)?;
    Ok((input, state))
}

/// The input of a call without one: this repository's own `src` and `docs`.
fn own_sources() -> Vec<PathBuf> {
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let folders = ["src", "docs"].map(|folder| repository.join(folder));
    folders.into_iter().filter(|folder| folder.exists()).collect()
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // If the output is closed, the exit code still tells.
    let _ = writeln!(stderr(), "wordcount: {error}");
    ExitCode::from(code)
}
