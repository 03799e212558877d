//! The figures, as stored in `docs/performance/data.json`. Times are in microseconds unless a name
//! says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All that has been measured; what has not is absent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub fan_out: Option<Measured<FanOut>>,
    pub sick_worker: Option<Measured<SickWorker>>,
    pub messages: Option<Measured<Messages>>,
    pub transitions: Option<Measured<Transitions>>,
    pub backlog: Option<Measured<Backlog>>,
    pub memory: Option<Measured<Memory>>,
    pub shutdown: Option<Measured<Shutdown>>,
    pub throughput: Option<Measured<Throughput>>,
    pub builds: Option<Measured<Builds>>,
}

/// A result, and under which circumstances it came about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured<T> {
    pub run: Circumstances,
    pub result: T,
}

/// Where and when something was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Circumstances {
    pub date: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub system: String,
    pub rustc: String,
    pub valgrind: Option<String>,
    /// How many processes wanted a core, on average over the minute before. If it is above the
    /// number of cores, times are noisy.
    pub load_before: f64,
    pub scale: String,
    pub seconds: f64,
}

/// Repetitions of one measurement.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Samples {
    pub median: f64,
    pub least: f64,
    pub repetitions: usize,
}

impl Samples {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match (values.len() % 2, values.get(middle)) {
            (0, Some(upper)) => f64::midpoint(values[middle - 1], *upper),
            (_, Some(one)) => *one,
            (_, None) => f64::NAN,
        };
        Self { median, least: values.first().copied().unwrap_or(f64::NAN), repetitions: values.len() }
    }
}

/// The middle one of some ratios, each taken of two neighbours in time.
pub fn median_ratio(over: &[f64], under: &[f64]) -> f64 {
    Samples::of(over.iter().zip(under).map(|(over, under)| over / under).collect()).median
}

#[derive(Debug, Serialize, Deserialize)]
pub struct FanOut {
    pub rows: Vec<FanOutRow>,
}

/// From the order until every worker has answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct FanOutRow {
    pub workers: usize,
    pub handler_ms: u64,
    /// One call to one worker: the slowest handler and one round trip.
    pub floor: Samples,
    pub ours: Samples,
    pub join_all: Samples,
    pub sequential: Samples,
    /// The processor time of both sides.
    pub ours_processor: Samples,
    pub join_all_processor: Samples,
    /// The first order, which opens the connections.
    pub first: f64,
    /// The median of `ours / floor` over the repetitions.
    pub over_floor: f64,
    pub over_join_all: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SickWorker {
    pub workers: usize,
    /// Until the last of the healthy workers has the order, when all are healthy.
    pub healthy: Samples,
    /// The same with one that never answers.
    pub sick: Samples,
    pub ratio: f64,
    /// One after the other, where the sick one is asked first and each call has this limit.
    pub sequential_limit_ms: u64,
    pub sequential: Samples,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Messages {
    pub workers: u32,
    pub rows: Vec<MessageRow>,
}

/// The cost of one message, in nanoseconds, the question whether all tasks have ended included.
#[derive(Debug, Serialize, Deserialize)]
pub struct MessageRow {
    pub message: String,
    pub tasks: usize,
    pub ours_ns: Samples,
    /// Scanning all tasks on every message.
    pub scan_ns: Option<Samples>,
    pub allocations: f64,
    pub instructions: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Transitions {
    pub rows: Vec<TransitionRow>,
}

/// One transition, in one way to write the machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct TransitionRow {
    pub way: String,
    pub ns: Samples,
    pub allocations: f64,
    pub instructions: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Backlog {
    pub rows: Vec<BacklogRow>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct BacklogRow {
    pub backlog: usize,
    /// Messages that were handled between the request and its effect, at most.
    pub read_before: u64,
    pub ours: Samples,
    pub shared_channel: Samples,
    pub shared_read_before: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Memory {
    pub rows: Vec<MemoryRow>,
    pub jobs: usize,
    pub grpc_jobs: usize,
    /// The size of each future, in bytes.
    pub futures: BTreeMap<String, usize>,
    pub at_once: AtOnce,
}

/// Bytes per job that is in a phase.
#[derive(Debug, Serialize, Deserialize)]
pub struct MemoryRow {
    pub phase: String,
    /// The machine's own share.
    pub at_rest: f64,
    /// The same while it is driven: with the future.
    pub machine: f64,
    pub embedded: f64,
    pub grpc: f64,
}

/// Many jobs of one process that are all asked to stop in one moment.
#[derive(Debug, Serialize, Deserialize)]
pub struct AtOnce {
    pub jobs: usize,
    pub seconds: f64,
    /// The most memory that was in use, workers and tasks included, per job.
    pub peak_bytes_per_job: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Shutdown {
    pub rows: Vec<ShutdownRow>,
}

/// From the request to the receipt, of a word count with a final checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub struct ShutdownRow {
    pub runtime: String,
    pub workers: u32,
    pub total: Samples,
    pub checkpoint: Samples,
    pub commit: Samples,
    pub finish: Samples,
    pub release: Samples,
    /// Time in which any task was writing or committing.
    pub tasks: Samples,
    /// The rest: ours.
    pub ours: Samples,
    /// The slowest task's own snapshot write.
    pub floor: Samples,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Throughput {
    pub input_mb: f64,
    /// Megabytes (10^6 bytes) per second and worker, on one core.
    pub without_checkpoints: Samples,
    pub with_checkpoints: Samples,
    /// Per second of processor time, the start and the end of the program included.
    pub without_per_processor: Samples,
    pub with_per_processor: Samples,
    pub every_ms: u64,
    pub checkpoints: f64,
    /// What share of the time the checkpoints cost.
    pub cost: f64,
}

/// The rows of [`Builds`] that goals speak of.
pub const NO_DEFAULTS: &str = "winddown, no default features";
pub const DEFAULTS: &str = "winddown, default features";
pub const FIRST_COMMAND: &str = "`cargo build --release -p wordcount`";

#[derive(Debug, Serialize, Deserialize)]
pub struct Builds {
    pub rows: Vec<BuildRow>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct BuildRow {
    pub what: String,
    pub crates: usize,
    pub cold_s: f64,
    /// After a change of one line of the user's.
    pub incremental_s: Option<f64>,
}
