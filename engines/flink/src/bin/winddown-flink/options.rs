//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use winddown::{StopRequest, drive::Policy};
use winddown_flink::{Mount, RestSettings, TlsFiles};

/// Stops Flink jobs, and says what is proven about their end.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes of `stop`:
  0  stopped, with the evidence that was asked for
  2  the command line or a file that it names can't be used
  3  stopped, with weaker evidence, or the job had ended otherwise
  4  not stopped: the job is still there
  5  not known: nobody who knows has answered
  6  there is no such job";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Stops a job. Ctrl-C asks for a stronger stop.
    Stop(StopOptions),
    /// Lists the jobs that the cluster knows of.
    List(ListOptions),
}

#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StopOptions {
    /// The job's id, 32 hexadecimal digits.
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) cluster: Cluster,
    /// How to stop it.
    #[arg(long, value_enum, default_value_t = Mode::Checkpoint)]
    pub(crate) mode: Mode,
    /// How long that may take.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10m")]
    pub(crate) deadline: Duration,
    /// What to do if it takes longer, or can't succeed.
    #[arg(long, value_enum, default_value_t = OnSpent::GiveBack)]
    pub(crate) on_spent: OnSpent,
    /// Where Flink writes the savepoint, as it calls it. The cluster's own folder, if absent.
    #[arg(long, value_name = "DIR")]
    pub(crate) savepoints: Option<String>,
    /// Where a folder of savepoints is on this machine, such as
    /// `s3://bucket/savepoints=/mnt/savepoints`.
    #[arg(long = "mount", value_name = "URI=DIR", value_parser = mount)]
    pub(crate) mounts: Vec<Mount>,
    /// Prints the receipt as JSON. Progress goes to standard error.
    #[arg(long)]
    pub(crate) json: bool,
    /// Prints no progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// How the cluster is reached.
#[derive(Debug, Args)]
pub(crate) struct Cluster {
    /// The address of Flink's REST API, such as `http://localhost:8081`.
    #[arg(long, value_name = "URL", env = "WINDDOWN_FLINK_REST")]
    rest: String,
    /// A file with the value of the `Authorization` header. Without it,
    /// `WINDDOWN_FLINK_AUTHORIZATION` is that value.
    #[arg(long, value_name = "FILE")]
    authorization_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities to trust, instead of the system's.
    #[arg(long, value_name = "FILE", env = "WINDDOWN_FLINK_CA")]
    ca: Option<PathBuf>,
    /// The client's certificate (PEM).
    #[arg(long, value_name = "FILE", env = "WINDDOWN_FLINK_CERT", requires = "key")]
    cert: Option<PathBuf>,
    /// The client's key (PEM).
    #[arg(long, value_name = "FILE", env = "WINDDOWN_FLINK_KEY", requires = "cert")]
    key: Option<PathBuf>,
    /// How long one request may take.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "10s")]
    request_limit: Duration,
}

impl Cluster {
    /// The secret comes from the environment or a file: everyone can read a command line.
    pub(crate) fn settings(&self) -> Result<RestSettings, Box<dyn std::error::Error>> {
        let identity = self.cert.clone().zip(self.key.clone());
        let settings = RestSettings::new(&self.rest)
            .tls(TlsFiles { authorities: self.ca.clone(), identity })
            .request_limit(self.request_limit);
        let authorization =
            match &self.authorization_file {
                Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                    format!("the Authorization header can't be read from {}: {error}", path.display())
                })?),
                None => std::env::var("WINDDOWN_FLINK_AUTHORIZATION").ok(),
            };
        Ok(match authorization {
            Some(authorization) => settings.authorization(&authorization)?,
            None => settings,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// A stop with a savepoint, from which the job can be resumed.
    Checkpoint,
    /// A stop with a drain: sources end, windows fire, and the job is not meant to be resumed.
    Graceful,
    /// A cancellation.
    Immediate,
    /// A cancellation, and nothing is believed but the end.
    Force,
}

impl From<Mode> for StopRequest {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Checkpoint => Self::Checkpoint,
            Mode::Graceful => Self::Graceful,
            Mode::Immediate => Self::Immediate,
            Mode::Force => Self::Force,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnSpent {
    /// Try on, without limit, while it may succeed.
    Keep,
    /// Cancel the job.
    Escalate,
    /// Leave the job as it is.
    GiveBack,
}

impl From<OnSpent> for Policy {
    fn from(on_spent: OnSpent) -> Self {
        match on_spent {
            OnSpent::Keep => Self::keep_trying(),
            OnSpent::Escalate => Self::escalate(),
            OnSpent::GiveBack => Self::give_back(),
        }
    }
}

fn mount(text: &str) -> Result<Mount, String> {
    match text.rsplit_once('=') {
        Some((uri, folder)) if !uri.is_empty() && !folder.is_empty() => {
            Ok(Mount { uri: uri.into(), folder: folder.into() })
        }
        _ => Err(format!("expected URI=DIR, such as s3://bucket/savepoints=/mnt/savepoints, got {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        assert_eq!(mount("s3://b/x=/mnt").unwrap().folder, PathBuf::from("/mnt"));
        assert!(mount("s3://b").is_err() && mount("=").is_err());
    }
}
