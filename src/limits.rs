//! All limits of a shutdown (invariant I5).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long each part of a shutdown may take, and how often it is retried.
///
/// In configuration files, durations are text (`"90s"`, `"10m"`, `"1h 30m"`).
///
/// ```
/// use std::time::Duration;
/// use winddown::Limits;
///
/// let limits: Limits = serde_json::from_str(r#"{ "finish": "90s" }"#)?;
/// assert_eq!(limits.finish, Duration::from_secs(90));
/// assert_eq!(limits.kill, Limits::default().kill);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long the job may stay in `Running` before it is stopped at once; no limit if absent.
    #[serde(with = "optional_duration_text")]
    pub ttl: Option<Duration>,
    /// `CheckpointStopping` and `Finishing`: from entry until the final checkpoint is complete and
    /// every task has finished, retries included. 10 min.
    #[serde(with = "duration_text")]
    pub final_checkpoint: Duration,
    /// `Stopping<Graceful>` and `Stopping<Immediate>`: from entry until every task has finished. 60
    /// s.
    #[serde(with = "duration_text")]
    pub finish: Duration,
    /// The same for the immediate stop that cleans up before a restart. 5 s.
    #[serde(with = "duration_text")]
    pub recover: Duration,
    /// How long workers may take to leave by themselves once all of their tasks have ended; then
    /// they are killed. 10 s.
    #[serde(with = "duration_text")]
    pub release: Duration,
    /// One attempt to kill a run's workers, until the scheduler lists none. 30 s.
    #[serde(with = "duration_text")]
    pub kill: Duration,
    /// The time between two queries to the scheduler for remaining workers. 50 ms.
    #[serde(with = "duration_text")]
    pub verify_every: Duration,
    /// One order to one worker, from sending to answer. 5 s.
    #[serde(with = "duration_text")]
    pub order: Duration,
    /// One write of a phase's record to the journal. 5 s.
    #[serde(with = "duration_text")]
    pub journal: Duration,
    /// The silence after which a worker counts as lost. 30 s.
    #[serde(with = "duration_text")]
    pub heartbeat: Duration,
    /// The time between two checks of the heartbeats. 1 s.
    #[serde(with = "duration_text")]
    pub health_every: Duration,
    /// The time from the end of a periodic checkpoint to the start of the next; none are taken if
    /// absent. 10 s.
    #[serde(with = "optional_duration_text")]
    pub checkpoint_every: Option<Duration>,
    /// How often the start or the monitoring of the final checkpoint is retried. 10.
    pub checkpoint_retries: u32,
    /// How often one order to one worker is retried. 10.
    pub order_retries: u32,
    /// How often a write to the journal is retried. 10.
    pub journal_retries: u32,
    /// How often a kill by the scheduler is retried. 20.
    pub scheduler_retries: u32,
    /// The wait before the first retry. It doubles each time, up to `backoff_max`; each wait is
    /// lengthened by a random share of itself (jitter). 500 ms.
    #[serde(with = "duration_text")]
    pub backoff_min: Duration,
    /// The longest wait before a retry, without jitter. 1 min.
    #[serde(with = "duration_text")]
    pub backoff_max: Duration,
    /// How many worker messages a job's mailbox holds before senders have to wait. 1024.
    pub mailbox_capacity: u32,
}

impl Limits {
    /// Retries of a final checkpoint's start or monitoring (the original contract's figure).
    pub const CHECKPOINT_RETRIES: u32 = 10;
    /// Retries of an order to one worker (the original contract's figure).
    pub const ORDER_RETRIES: u32 = 10;
    /// Retries of a write into the journal.
    pub const JOURNAL_RETRIES: u32 = 10;
    /// Retries of a kill by the scheduler (the original contract's figure).
    pub const SCHEDULER_RETRIES: u32 = 20;
    /// Time for all tasks to finish after a stop order (the original contract's figure).
    pub const FINISH: Duration = Duration::from_secs(60);
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ttl: None,
            final_checkpoint: Duration::from_secs(600),
            finish: Self::FINISH,
            recover: Duration::from_secs(5),
            release: Duration::from_secs(10),
            kill: Duration::from_secs(30),
            verify_every: Duration::from_millis(50),
            order: Duration::from_secs(5),
            journal: Duration::from_secs(5),
            heartbeat: Duration::from_secs(30),
            health_every: Duration::from_secs(1),
            checkpoint_every: Some(Duration::from_secs(10)),
            checkpoint_retries: Self::CHECKPOINT_RETRIES,
            order_retries: Self::ORDER_RETRIES,
            journal_retries: Self::JOURNAL_RETRIES,
            scheduler_retries: Self::SCHEDULER_RETRIES,
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            mailbox_capacity: 1024,
        }
    }
}

pub(crate) mod duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!("expected a duration such as \"90s\" or \"10m\", got {text:?}: {error}"))
        })
    }
}

pub(crate) mod optional_duration_text {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Text(#[serde(with = "super::duration_text")] Duration);

    // serde's `with` requires this signature.
    #[allow(clippy::ref_option)]
    pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Text).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Text>::deserialize(deserializer)?.map(|text| text.0))
    }
}
