//! How a stop ended: the exit code, and what is printed.

use std::{fmt, process::ExitCode};

use serde::Serialize;
use winddown::{AnyStopped, Receipt, StopRequest, drive::ReceiptReport};
use winddown_flink::View;

/// The exit codes; `--help` and docs/flink.md list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Exit {
    /// Stopped, with the evidence that was asked for.
    Asked = 0,
    /// The command line, or a file that it names, can't be used.
    Usage = 2,
    /// Stopped, with weaker evidence.
    Weaker = 3,
    /// The job is still there.
    NotStopped = 4,
    /// Nobody who knows has answered.
    Unknown = 5,
    /// There is no such job.
    NoJob = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Whether a stop proves what was asked for, or more.
pub(crate) fn judge(asked: StopRequest, stopped: &AnyStopped) -> Exit {
    let proves = match stopped {
        AnyStopped::Checkpointed(_) | AnyStopped::Completed(_) => StopRequest::Checkpoint,
        AnyStopped::Drained(_) => StopRequest::Graceful,
        AnyStopped::Halted(_) => StopRequest::Immediate,
        AnyStopped::Killed(_) => StopRequest::Force,
    };
    if proves <= asked { Exit::Asked } else { Exit::Weaker }
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome<'a> {
    pub(crate) exit: Exit,
    pub(crate) code: u8,
    pub(crate) job: &'a str,
    pub(crate) name: &'a str,
    pub(crate) asked: StopRequest,
    /// From here the job can be started again.
    pub(crate) savepoint: Option<&'a str>,
    pub(crate) receipt: Option<ReceiptReport>,
    pub(crate) error: Option<String>,
    /// Flink's own view.
    pub(crate) flink: &'a View,
}

impl Outcome<'_> {
    pub(crate) fn say(&self, receipt: Option<&Receipt>, json: bool) -> Exit {
        if json {
            return say_json(self, self.exit);
        }
        if let Some(receipt) = receipt {
            println!("{receipt}");
        }
        if let Some(savepoint) = self.savepoint {
            let read = if self.flink.is_savepoint_read { "" } else { "  (not read from here)" };
            println!("savepoint: {savepoint}{read}");
        }
        let state = self.flink.state.map_or_else(|| "unknown".to_owned(), |state| state.to_string());
        let error = self.error.as_deref().unwrap_or("it proves less than was asked for");
        match self.exit {
            Exit::Asked => {}
            Exit::Weaker => eprintln!("stopped ({state}), but {error}"),
            Exit::NotStopped => eprintln!("NOT stopped, the job is {state}: {error}"),
            _ => eprintln!("NOT KNOWN whether the job has stopped: {error}"),
        }
        self.exit
    }
}

/// Says what went wrong before there was a job.
pub(crate) fn say_error(exit: Exit, error: &dyn std::error::Error, json: bool) -> Exit {
    if json {
        let said = serde_json::json!({ "exit": exit, "code": exit as u8, "error": error.to_string() });
        return say_json(&said, exit);
    }
    eprintln!("{error}");
    exit
}

pub(crate) fn say_json(what: &(impl Serialize + fmt::Debug), exit: Exit) -> Exit {
    match serde_json::to_string(what) {
        Ok(text) => {
            println!("{text}");
            exit
        }
        Err(error) => {
            eprintln!("{what:?} can't be written as JSON: {error}");
            Exit::Unknown
        }
    }
}
