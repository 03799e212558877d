//! `winddown`: explains what winddown has written.
//!
//! - `winddown journal DIR` lists, verifies and explains journals and checkpoint logs: what would
//!   the next start do?
//! - `winddown why DIR|FILE` says what the shutdowns in the journals of a folder were doing, or,
//!   from a recorder's file, who held one up.
//! - `winddown timeline FILE -o page.html` makes a page of a record, and `winddown trace FILE -o
//!   trace.json` a trace for Perfetto.
//!
//! It changes nothing, and may be run while controllers are at work. It ends with 0 if all is
//! sound, with 1 if something is damaged, and with 2 if it was called wrongly or found nothing.

mod folder;
mod journal;
mod printable;
mod record;
mod timeline;
mod trace;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

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
    /// Say what the unfinished shutdowns were doing, or who held a recorded one up.
    Why {
        /// A folder with journals, at any depth up to four, or a recorder's file.
        path: PathBuf,
    },
    /// Make one static page of a recorder's file.
    Timeline(Made),
    /// Make a trace of a recorder's file, for Perfetto (Chrome trace events).
    Trace(Made),
}

#[derive(clap::Args)]
struct Made {
    /// The recorder's file.
    file: PathBuf,
    /// Where to write; an existing file is replaced.
    #[arg(short, long)]
    output: PathBuf,
}

impl Made {
    fn make(&self, content: impl FnOnce(&Path) -> Result<String, String>) -> Result<journal::Report, String> {
        let content = content(&self.file)?;
        let to = self.output.display();
        std::fs::write(&self.output, content).map_err(|error| format!("can't write `{to}`: {error}"))?;
        Ok(journal::Report { text: format!("wrote {}\n", printable::Printable(to)), is_sound: true })
    }
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Command::Journal { dir } => journal::journal(&dir),
        Command::Why { path } if path.is_file() => record::why(&path),
        Command::Why { path } => journal::why(&path),
        Command::Timeline(made) => made.make(timeline::timeline),
        Command::Trace(made) => made.make(trace::trace),
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
