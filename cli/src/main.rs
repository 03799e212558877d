//! `winddown`: explains what winddown has written.
//!
//! - `winddown journal DIR` lists, verifies and explains journals and checkpoint logs: what would the
//!   next start do?
//! - `winddown why DIR` says what the shutdowns in the journals of a folder were doing.
//!
//! It changes nothing, and may be run while controllers are at work. It ends with 0 if all is sound,
//! with 1 if something is damaged, and with 2 if it was called wrongly or found nothing.

mod folder;
mod journal;
mod printable;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Explains what winddown has written: journals and checkpoint logs.
#[derive(Parser)]
#[command(name = "winddown", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List, verify and explain journals and checkpoint logs: what would the next start do?
    Journal {
        /// A folder with journals or checkpoint logs, at any depth up to four.
        dir: PathBuf,
    },
    /// Say what the unfinished shutdowns were doing.
    Why {
        /// A folder with journals, at any depth up to four.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Journal { dir } => journal::journal(&dir),
        Command::Why { dir } => journal::why(&dir),
    };
    match done {
        Ok(report) => {
            print!("{}", report.text);
            if report.is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("winddown: {}", printable::Printable(&error));
            ExitCode::from(2)
        }
    }
}
