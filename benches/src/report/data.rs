//! The figures, as they are kept in `docs/performance/data.json`. Times are in microseconds unless a name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// All that has been measured; what has not is absent.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) fan_out: Option<Measured<FanOut>>,
    pub(crate) sick_worker: Option<Measured<SickWorker>>,
    pub(crate) messages: Option<Measured<Messages>>,
    pub(crate) transitions: Option<Measured<Transitions>>,
    pub(crate) backlog: Option<Measured<Backlog>>,
    pub(crate) memory: Option<Measured<Memory>>,
    pub(crate) shutdown: Option<Measured<Shutdown>>,
    pub(crate) throughput: Option<Measured<Throughput>>,
    pub(crate) builds: Option<Measured<Builds>>,
}

/// A result, and under which circumstances it came about.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured<T> {
    pub(crate) run: Circumstances,
    pub(crate) result: T,
}

/// Where and when something was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Circumstances {
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) system: String,
    pub(crate) rustc: String,
    pub(crate) valgrind: Option<String>,
    /// How many processes wanted a core, on average over the minute before. Above the number of cores, times are noisy.
    pub(crate) load_before: f64,
    pub(crate) scale: String,
    pub(crate) seconds: f64,
}

/// Repetitions of one measurement.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Samples {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) repetitions: usize,
}

impl Samples {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
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
pub(crate) fn median_ratio(over: &[f64], under: &[f64]) -> f64 {
    Samples::of(over.iter().zip(under).map(|(over, under)| over / under).collect()).median
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FanOut {
    pub(crate) rows: Vec<FanOutRow>,
}

/// From the order until every worker has answered.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FanOutRow {
    pub(crate) workers: usize,
    pub(crate) handler_ms: u64,
    /// One call to one worker: the slowest handler and one round trip.
    pub(crate) floor: Samples,
    pub(crate) ours: Samples,
    pub(crate) join_all: Samples,
    pub(crate) sequential: Samples,
    /// The processor time of both sides.
    pub(crate) ours_processor: Samples,
    pub(crate) join_all_processor: Samples,
    /// The first order, which opens the connections.
    pub(crate) first: f64,
    /// The median of `ours / floor` over the repetitions.
    pub(crate) over_floor: f64,
    pub(crate) over_join_all: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SickWorker {
    pub(crate) workers: usize,
    /// Until the last of the healthy workers has the order, when all are healthy.
    pub(crate) healthy: Samples,
    /// The same with one that never answers.
    pub(crate) sick: Samples,
    pub(crate) ratio: f64,
    /// One after the other, where the sick one is asked first and each call has this limit.
    pub(crate) sequential_limit_ms: u64,
    pub(crate) sequential: Samples,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Messages {
    pub(crate) workers: u32,
    pub(crate) rows: Vec<MessageRow>,
}

/// The cost of one message, in nanoseconds, the question whether all tasks have ended included.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageRow {
    pub(crate) message: String,
    pub(crate) tasks: usize,
    pub(crate) ours_ns: Samples,
    /// Scanning all tasks on every message.
    pub(crate) scan_ns: Option<Samples>,
    pub(crate) allocations: f64,
    pub(crate) instructions: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Transitions {
    pub(crate) rows: Vec<TransitionRow>,
}

/// One transition, in one way to write the machine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TransitionRow {
    pub(crate) way: String,
    pub(crate) ns: Samples,
    pub(crate) allocations: f64,
    pub(crate) instructions: Option<f64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Backlog {
    pub(crate) rows: Vec<BacklogRow>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BacklogRow {
    pub(crate) backlog: usize,
    /// Messages that were handled between the request and its effect, at most.
    pub(crate) read_before: u64,
    pub(crate) ours: Samples,
    pub(crate) shared_channel: Samples,
    pub(crate) shared_read_before: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) rows: Vec<MemoryRow>,
    pub(crate) jobs: usize,
    pub(crate) grpc_jobs: usize,
    /// The size of each future, in bytes.
    pub(crate) futures: BTreeMap<String, usize>,
    pub(crate) at_once: AtOnce,
}

/// Bytes per job that is in a phase.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MemoryRow {
    pub(crate) phase: String,
    /// The machine's own share.
    pub(crate) at_rest: f64,
    /// The same while it is driven: with the future.
    pub(crate) machine: f64,
    pub(crate) embedded: f64,
    pub(crate) grpc: f64,
}

/// Many jobs of one process that are all asked to stop in one moment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AtOnce {
    pub(crate) jobs: usize,
    pub(crate) seconds: f64,
    /// The most memory that was in use, workers and tasks included, per job.
    pub(crate) peak_bytes_per_job: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Shutdown {
    pub(crate) rows: Vec<ShutdownRow>,
}

/// From the request to the receipt, of a word count with a final checkpoint.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShutdownRow {
    pub(crate) runtime: String,
    pub(crate) workers: u32,
    pub(crate) total: Samples,
    pub(crate) checkpoint: Samples,
    pub(crate) commit: Samples,
    pub(crate) finish: Samples,
    pub(crate) release: Samples,
    /// Time in which any task was writing or committing.
    pub(crate) tasks: Samples,
    /// The rest: ours.
    pub(crate) ours: Samples,
    /// The slowest task's own snapshot write.
    pub(crate) floor: Samples,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Throughput {
    pub(crate) input_mb: f64,
    /// Megabytes (10^6 bytes) per second and worker, on one core.
    pub(crate) without_checkpoints: Samples,
    pub(crate) with_checkpoints: Samples,
    /// Per second of processor time, the start and the end of the program included.
    pub(crate) without_per_processor: Samples,
    pub(crate) with_per_processor: Samples,
    pub(crate) every_ms: u64,
    pub(crate) checkpoints: f64,
    /// What share of the time the checkpoints cost.
    pub(crate) cost: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Builds {
    pub(crate) rows: Vec<BuildRow>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BuildRow {
    pub(crate) what: String,
    pub(crate) crates: usize,
    pub(crate) cold_s: f64,
    pub(crate) incremental_s: f64,
}
