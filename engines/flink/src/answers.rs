//! What Flink's REST API answers, as far as a stop needs it. Fields that are not read are not
//! named.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum JobState {
    /// It has been accepted.
    Created,
    /// Its `JobMaster` starts.
    Initializing,
    /// It runs.
    Running,
    /// It has failed; its tasks are being cancelled.
    Failing,
    /// It has failed for good.
    Failed,
    /// It is being cancelled.
    Cancelling,
    /// It was cancelled.
    Canceled,
    /// Every task has finished.
    Finished,
    /// It will run again.
    Restarting,
    /// This `JobManager` has let go of it; another one may run it.
    Suspended,
    /// It is being taken over.
    Reconciling,
    /// A state that this version does not know: never taken for an end.
    #[serde(other)]
    Unknown,
}

impl JobState {
    /// Whether the job will never run again, on any `JobManager`.
    pub const fn is_globally_terminal(self) -> bool {
        matches!(self, Self::Failed | Self::Canceled | Self::Finished)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_uppercase())
    }
}

/// A state of a subtask after which it does nothing more.
fn is_terminal(subtask: &str) -> bool {
    matches!(subtask, "FINISHED" | "CANCELED" | "FAILED")
}

#[derive(Debug, Deserialize)]
pub(crate) struct StatusAnswer {
    pub(crate) status: JobState,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConfigAnswer {
    /// In milliseconds: how old an answer about a job's graph may be.
    #[serde(rename = "refresh-interval")]
    pub(crate) refresh: u64,
}

/// One job in the cluster's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSummary {
    /// Its id.
    #[serde(rename = "jid")]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: JobState,
}

#[derive(Debug, Deserialize)]
pub(crate) struct JobsAnswer {
    pub(crate) jobs: Vec<JobSummary>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct GraphAnswer {
    pub(crate) name: String,
    pub(crate) state: JobState,
    #[serde(rename = "start-time")]
    pub(crate) start_time: u64,
    /// When each state was entered, in milliseconds of the `JobManager`'s clock; 0 if never.
    #[serde(default)]
    pub(crate) timestamps: BTreeMap<String, u64>,
    pub(crate) vertices: Vec<Vertex>,
}

impl GraphAnswer {
    /// When the job ended, on the `JobManager`'s clock.
    pub(crate) fn ended_at(&self) -> Option<u64> {
        self.timestamps.get(&self.state.to_string()).copied().filter(|&at| at > 0 && self.state.is_globally_terminal())
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Vertex {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) parallelism: u32,
    /// How many subtasks are in each state.
    pub(crate) tasks: BTreeMap<String, u32>,
}

impl Vertex {
    pub(crate) fn finished(&self) -> u32 {
        self.tasks.get("FINISHED").copied().unwrap_or(0)
    }

    /// Whether every subtask has ended.
    pub(crate) fn has_ended(&self) -> bool {
        let ended: u32 = self.tasks.iter().filter(|(state, _)| is_terminal(state)).map(|(_, count)| count).sum();
        ended >= self.parallelism
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct VertexAnswer {
    pub(crate) subtasks: Vec<Subtask>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Subtask {
    pub(crate) status: String,
    pub(crate) attempt: u32,
    #[serde(rename = "taskmanager-id")]
    pub(crate) task_manager: Option<String>,
}

impl Subtask {
    pub(crate) fn has_ended(&self) -> bool {
        is_terminal(&self.status)
    }

    /// Only its `TaskManager` says this. The other ends may be declared by the `JobManager`, of one
    /// that is lost.
    pub(crate) fn has_finished(&self) -> bool {
        self.status == "FINISHED"
    }

    /// Where it runs; `(unassigned)` is nowhere.
    pub(crate) fn task_manager(&self) -> Option<&str> {
        self.task_manager.as_deref().filter(|id| !id.is_empty() && *id != "(unassigned)")
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct CheckpointsAnswer {
    pub(crate) latest: Latest,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Latest {
    pub(crate) completed: Option<Checkpoint>,
    pub(crate) savepoint: Option<Checkpoint>,
    pub(crate) restored: Option<Restored>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) id: u64,
    pub(crate) status: String,
    /// When the last task had sent its state, in milliseconds of the `JobManager`'s clock.
    pub(crate) latest_ack_timestamp: u64,
    /// `CHECKPOINT`, `UNALIGNED_CHECKPOINT`, `SAVEPOINT`, or `SYNC_SAVEPOINT` for the one that a
    /// job stops with.
    #[serde(rename = "checkpoint_type", default)]
    pub(crate) kind: String,
    pub(crate) external_path: Option<String>,
    #[serde(default)]
    pub(crate) discarded: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Restored {
    pub(crate) restore_timestamp: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TriggerAnswer {
    status: TriggerStatus,
    operation: Option<Operation>,
}

#[derive(Debug, Deserialize)]
struct TriggerStatus {
    id: String,
}

#[derive(Debug, Deserialize)]
struct Operation {
    location: Option<String>,
    #[serde(rename = "failure-cause")]
    failure: Option<FailureCause>,
}

#[derive(Debug, Deserialize)]
struct FailureCause {
    class: String,
    #[serde(rename = "stack-trace", default)]
    trace: String,
}

/// How an order to stop with a savepoint goes. Flink calls a failure completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Triggered {
    InProgress,
    /// The savepoint is there, and the job was told to finish.
    Done {
        location: String,
    },
    Failed {
        trace: String,
    },
}

impl From<TriggerAnswer> for Triggered {
    fn from(answer: TriggerAnswer) -> Self {
        match answer.operation {
            Some(Operation { failure: Some(failure), .. }) => {
                Self::Failed { trace: if failure.trace.is_empty() { failure.class } else { failure.trace } }
            }
            Some(Operation { location: Some(location), .. }) if answer.status.id == "COMPLETED" => {
                Self::Done { location }
            }
            _ => Self::InProgress,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct ExceptionsAnswer {
    #[serde(rename = "exceptionHistory")]
    history: Option<ExceptionHistory>,
}

#[derive(Debug, Deserialize)]
struct ExceptionHistory {
    entries: Vec<ExceptionEntry>,
}

#[derive(Debug, Deserialize)]
struct ExceptionEntry {
    stacktrace: String,
}

impl ExceptionsAnswer {
    pub(crate) fn newest(self) -> Option<String> {
        Some(self.history?.entries.into_iter().next()?.stacktrace)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct TaskManagersAnswer {
    #[serde(rename = "taskmanagers")]
    pub(crate) task_managers: Vec<TaskManager>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TaskManager {
    pub(crate) id: String,
    /// When it was heard last, in milliseconds of the `JobManager`'s clock: Flink's name says
    /// otherwise.
    #[serde(rename = "timeSinceLastHeartbeat")]
    pub(crate) last_heartbeat: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completed_covers_failure_too() {
        let read = |text: &str| Triggered::from(serde_json::from_str::<TriggerAnswer>(text).unwrap());
        assert_eq!(read(r#"{"status":{"id":"IN_PROGRESS"},"operation":null}"#), Triggered::InProgress);
        let done = r#"{"status":{"id":"COMPLETED"},"operation":{"location":"file:/s"}}"#;
        assert_eq!(read(done), Triggered::Done { location: "file:/s".into() });
        let failed =
            r#"{"status":{"id":"COMPLETED"},"operation":{"failure-cause":{"class":"a.B","stack-trace":"no"}}}"#;
        assert_eq!(read(failed), Triggered::Failed { trace: "no".into() });
        assert_eq!(read(r#"{"status":{"id":"COMPLETED"},"operation":null}"#), Triggered::InProgress);
    }

    #[test]
    fn a_state_of_a_later_flink_is_no_end() {
        let state: JobState = serde_json::from_str(r#""ASCENDING""#).unwrap();
        assert!(!state.is_globally_terminal());
        assert!(!JobState::Suspended.is_globally_terminal(), "another JobManager may run it");
        assert_eq!(serde_json::from_str::<JobState>(r#""CANCELED""#).unwrap().to_string(), "CANCELED");
    }
}
