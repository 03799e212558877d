//! The command line.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Parser, ValueEnum};
use winddown::{StopRequest, contracts::ParseStopRequestError};

/// Counts the words in files as a streaming job with exactly-once output, which can be stopped at
/// any moment without loss.
///
/// A word is a maximal sequence of ASCII letters, converted to lower case; all other bytes are
/// separators. When all input is consumed, `STATE_DIR/counts.tsv` contains `word<TAB>count`, sorted
/// by word. The same command resumes a run that was stopped in any way. If a call is killed during
/// a stop, the next call finishes that stop first, and says so.
///
/// Ctrl-C (or SIGTERM) stops with a checkpoint; a second one stops at once; a third one kills the
/// workers.
#[derive(Clone, Debug, Parser)]
#[command(name = "wordcount", verbatim_doc_comment)]
pub(crate) struct Args {
    /// Files, and folders that are read recursively (without hidden files, `target` and symbolic
    /// links). Default: `src` and `docs` of this repository, at a rate that makes the run last
    /// about ten seconds.
    #[arg(value_name = "INPUT")]
    pub(crate) inputs: Vec<PathBuf>,
    /// Number of workers that share the input lines.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) workers: u32,
    /// Maximum number of lines that each worker reads per second. Default: no limit.
    #[arg(long, value_name = "LINES_PER_SECOND_PER_WORKER", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// Folder for checkpoints and output. It belongs to one input and one number of workers.
    #[arg(long, value_name = "DIR", default_value = "wordcount-state")]
    pub(crate) state_dir: PathBuf,
    /// Time between checkpoints, for example `500ms` or `2s`.
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = positive_duration)]
    pub(crate) checkpoint_every: Duration,
    /// Requests a stop after a time, for example `checkpoint@2s`; may be repeated. Modes:
    /// checkpoint, graceful, immediate, force.
    #[arg(long, value_name = "MODE@AFTER")]
    pub(crate) stop: Vec<StopAt>,
    /// Stops the job at once after this time.
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub(crate) ttl: Option<Duration>,
    /// How many times a failed run is restarted from the last checkpoint.
    #[arg(long, default_value_t = 3)]
    pub(crate) restarts: u32,
    /// Starts over: first removes the checkpoints and the output in the state directory.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Format of the report on stdout at the end.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    pub(crate) report: ReportFormat,
    /// Where the workers run.
    #[arg(long, value_enum, default_value_t = Runtime::Embedded)]
    pub(crate) runtime: Runtime,
    #[cfg(all(target_os = "linux", feature = "kubernetes"))]
    #[command(flatten)]
    pub(crate) pods: Pods,
    /// Failure injection, to watch a recovery: the source of the first worker fails after this many
    /// lines, once per call of this program.
    #[arg(long, value_name = "N", hide = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) fail_at_line: Option<u64>,
    /// Failure injection, to watch a stop that has to wait: after this many lines, the source of
    /// the first worker accepts no order and reads nothing for `--stall-for`.
    #[arg(long, value_name = "N", hide = true, requires = "stall_for")]
    pub(crate) stall_at_line: Option<u64>,
    /// See `--stall-at-line`.
    #[arg(long, value_name = "DURATION", hide = true, value_parser = positive_duration)]
    pub(crate) stall_for: Option<Duration>,
}

/// The format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// A receipt as text.
    Text,
    /// One JSON object, as the last line of stdout.
    Json,
}

/// Where workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// In this process.
    Embedded,
    /// In one process per worker, over gRPC.
    #[cfg(target_os = "linux")]
    Process,
    /// In one pod per worker, in the cluster that `KUBECONFIG` names or that this program runs in.
    #[cfg(all(target_os = "linux", feature = "kubernetes"))]
    Kubernetes,
}

/// Options for pods.
#[cfg(all(target_os = "linux", feature = "kubernetes"))]
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Pods {
    /// With --runtime kubernetes: the pod template of a worker, as YAML. Its first container runs
    /// this program; state directory and input are mounted at the same paths as in the controller.
    #[arg(long, value_name = "FILE", required_if_eq("runtime", "kubernetes"))]
    pub(crate) pod_template: Option<PathBuf>,
    /// With --runtime kubernetes: where the controller listens for workers.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: std::net::SocketAddr,
    /// With --runtime kubernetes: the name or address at which pods reach the controller, if it
    /// differs from the one that it listens on.
    #[arg(long, value_name = "HOST")]
    pub(crate) advertise: Option<String>,
}

/// A stop request at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StopAt {
    /// The request.
    pub(crate) request: StopRequest,
    /// When, counted from the start of the job.
    pub(crate) after: Duration,
}

impl FromStr for StopAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mode, after) = text
            .split_once('@')
            .ok_or_else(|| format!("expected MODE@AFTER such as `checkpoint@2s`, got `{text}` without an `@`"))?;
        let request = mode.parse().map_err(|error: ParseStopRequestError| error.to_string())?;
        Ok(Self { request, after: duration(after)? })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("expected a duration such as `500ms` or `2s`, got `{text}`: {error}"))
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!("expected a duration above zero such as `500ms`, got `{text}`")),
        positive => Ok(positive),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("wordcount").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let args = parse("").unwrap();
        assert_eq!(args.inputs, Vec::<PathBuf>::new());
        assert_eq!((args.workers, args.rate, args.restarts), (4, None, 3));
        assert_eq!(args.state_dir, PathBuf::from("wordcount-state"));
        assert_eq!(args.checkpoint_every, Duration::from_millis(500));
        assert_eq!((args.report, args.runtime, args.fresh), (ReportFormat::Text, Runtime::Embedded, false));
    }

    #[test]
    fn stops_are_repeatable() {
        let args = parse("in --stop checkpoint@2s --stop force@2500ms --stop immediate@0s").unwrap();
        let at = |request, ms| StopAt { request, after: Duration::from_millis(ms) };
        assert_eq!(
            args.stop,
            [at(StopRequest::Checkpoint, 2000), at(StopRequest::Force, 2500), at(StopRequest::Immediate, 0)]
        );
    }

    #[test]
    fn usage_errors_say_what_was_expected_and_exit_with_2() {
        for (line, said) in [
            ("--stop checkpoint", "expected MODE@AFTER"),
            ("--stop soon@2s", "expected a stop request"),
            ("--stop force@later", "expected a duration such as"),
            ("--checkpoint-every 0s", "above zero"),
            ("--ttl 5parsecs", "expected a duration such as"),
            ("--workers 0", "1..=1024"),
            ("--rate 0", "--rate"),
            ("--fail-at-line 0", "--fail-at-line"),
            ("--stall-at-line 1", "--stall-for"),
            ("--runtime cloud", "embedded"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(said), "{line}: {error}");
        }
        assert_eq!(parse("--help").unwrap_err().kind(), ErrorKind::DisplayHelp);
    }
}
