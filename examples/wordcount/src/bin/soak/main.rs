//! Stops, kills and freezes real `wordcount` jobs at random until the time is up, and compares
//! every result with a plain count.
//!
//! ```text
//! cargo run --release -p wordcount --bin soak -- --minutes 10 --runtime process --seed 7
//! ```
//!
//! One round is one job: it generates an input, and calls the word count repeatedly on the same
//! state directory, each time with some disturbance, until all input is consumed. The word count is
//! this program itself, started with `wordcount` as the first argument, so there is nothing else to
//! build.
//!
//! Where to look: `round.rs` plays one round, `plan.rs` chooses the disturbance of a call,
//! `call.rs` carries it out, `truth.rs` is the plain count, and `tally.rs` the summary.

mod call;
mod options;
mod plan;
mod processes;
mod round;
mod tally;
mod truth;

use std::{process::ExitCode, time::Instant};

use clap::Parser;

use crate::{options::Options, round::Round, tally::Tally};

fn main() -> ExitCode {
    if let Some(code) = wordcount::helper() {
        return code;
    }
    let words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == call::WORDCOUNT) {
        return wordcount::main(&words, 2);
    }
    soak(&Options::parse())
}

/// Runs rounds until the time is up, or until the first difference.
fn soak(options: &Options) -> ExitCode {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    let end = Instant::now().checked_add(options.time());
    println!("soak: runtime {}, seed {seed}", options.runtime_name());
    if let Err(error) = processes::adopt_orphans() {
        eprintln!("soak: orphans can't be adopted, so a frozen worker may not stay frozen: {error}");
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tally = Tally::new(options.has_processes());
    let mut rounds = 0;
    while options.rounds.map_or_else(|| end.is_none_or(|end| Instant::now() < end), |most| rounds < most) {
        rounds += 1;
        let round = match Round::new(rounds, options, random.fork()) {
            Ok(round) => round,
            Err(error) => {
                eprintln!("soak: round {rounds} can't be prepared: {error}");
                return ExitCode::FAILURE;
            }
        };
        if let Err(failed) = round.play(&mut tally) {
            println!("{tally}");
            println!("soak: FAILED in round {rounds}, seed {seed}: {failed}");
            return ExitCode::FAILURE;
        }
        if options.rounds.is_none() && rounds.is_multiple_of(10) {
            println!("round {rounds}: {}", tally.line());
        }
    }
    println!("{tally}");
    println!("seed                     {seed}");
    ExitCode::SUCCESS
}
