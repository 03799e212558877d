//! What is known of a job that is being stopped. No I/O and no clock: answers come in, a status
//! goes out.

use std::time::Duration;

use tokio::time::Instant;
use winddown::{
    Epoch, TaskId, WorkerId,
    contracts::{CheckpointStage, ControllerError, Count, FinalCheckpoint, RunFailure, RunStatus, TaskError},
};

use crate::{
    answers::{JobState, Triggered},
    controller::{Trouble, VertexView, View},
    look::{Detail, Look, Want},
    rest::{RestError, sentence},
    savepoint::{last_complete, stopped_with},
};

#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) want: Want,
    /// Whether the order was answered.
    pub(crate) given: bool,
    /// The number of the trigger.
    pub(crate) nth: u32,
    /// How often the order was given without an answer.
    unanswered: u32,
    most_unanswered: u32,
    /// Whether a drain that failed is told by the view alone.
    hold_failed_drain: bool,
    /// Since when the job is known to have ended.
    pub(crate) ended: Option<Instant>,
    refused: bool,
    pub(crate) status: RunStatus,
    pub(crate) failure: Option<RunFailure>,
    pub(crate) view: View,
}

impl Books {
    pub(crate) fn new(most_unanswered: u32, hold_failed_drain: bool) -> Self {
        let status = RunStatus { tasks: Count::new(0, 1), ..RunStatus::default() };
        Self {
            want: Want::Nothing,
            given: true,
            nth: 0,
            unanswered: 0,
            most_unanswered,
            hold_failed_drain,
            ended: None,
            refused: false,
            status,
            failure: None,
            view: View::default(),
        }
    }

    /// States what is wanted; whether that is a new order.
    pub(crate) fn want(&mut self, want: Want) -> bool {
        let is_again = self.want == want && (self.given || self.unanswered == 0) && !self.refused;
        if want < self.want || is_again {
            return false;
        }
        (self.want, self.given, self.unanswered, self.refused) = (want, false, 0, false);
        self.status.orders_outstanding = 1;
        true
    }

    /// The wait before the next round: longer while nobody answers.
    pub(crate) fn pause(&self, every: Duration) -> Duration {
        let doublings = self.view.silent_rounds.min(5);
        every.saturating_mul(1 << doublings).min(Duration::from_secs(5).max(every))
    }

    /// Takes the answers of a round in; whether the status has changed.
    pub(crate) fn apply(&mut self, look: Look, now: Instant) -> Result<bool, ControllerError> {
        let before = (self.status, self.view.clone());
        let Look { order, triggered, state, detail } = look;
        self.view.trouble = None;
        match state {
            Ok(state) => {
                (self.view.state, self.view.silent_rounds) = (Some(state), 0);
                self.ended = if state.is_globally_terminal() { self.ended.or(Some(now)) } else { None };
            }
            Err(error) => {
                self.view.silent_rounds += 1;
                self.note(&error);
            }
        }
        let order = order.map_or(Ok(()), |order| self.ordered(order));
        let triggered = triggered.map_or(Ok(()), |triggered| self.triggered(triggered));
        let detail = detail.map_or(Ok(()), |detail| match detail {
            Ok(detail) => self.detailed(&detail),
            Err(error) => {
                self.note(&error);
                Ok(())
            }
        });
        self.status.orders_outstanding = u32::from(!self.given && self.ended.is_none());
        // The order of the answers: the end of the job explains a failed trigger, not the other way
        // round.
        detail.and(triggered).and(order)?;
        Ok(before.0 != self.status || before.1 != self.view)
    }

    fn note(&mut self, error: &RestError) {
        self.view.trouble = Some(Trouble { is_away: error.is_retryable(), said: error.to_string() });
    }

    fn ordered(&mut self, order: Result<u32, RestError>) -> Result<(), ControllerError> {
        match order {
            Ok(nth) => {
                (self.given, self.nth, self.unanswered) = (true, nth, 0);
                Ok(())
            }
            Err(error) => {
                self.note(&error);
                self.unanswered += 1;
                // A job that is being recovered is unknown for a while.
                let may_succeed = error.is_retryable() || error.is_not_found();
                if may_succeed && self.unanswered <= self.most_unanswered {
                    return Ok(());
                }
                self.unanswered = 0;
                let said = error.to_string();
                if may_succeed {
                    return Err(ControllerError::Other(said.into()));
                }
                self.give_up(&said, false)
            }
        }
    }

    fn triggered(&mut self, triggered: Result<Triggered, RestError>) -> Result<(), ControllerError> {
        match triggered {
            Ok(Triggered::InProgress) => Ok(()),
            Ok(Triggered::Done { location }) => {
                (self.view.savepoint, self.view.failed_order) = (Some(location), None);
                Ok(())
            }
            // The job's end decides what that means.
            Ok(Triggered::Failed { .. }) if self.ended.is_some() => Ok(()),
            Ok(Triggered::Failed { trace }) => {
                let may_succeed = is_passing(&trace);
                self.give_up(&sentence(&trace), may_succeed)
            }
            Err(error) if error.is_not_found() => {
                // A JobManager that was restarted has forgotten it: the same order again.
                self.given = self.ended.is_some();
                self.note(&error);
                Ok(())
            }
            Err(error) => {
                self.note(&error);
                Ok(())
            }
        }
    }

    /// The order has failed. The next one of its kind is another one.
    fn give_up(&mut self, said: &str, may_succeed: bool) -> Result<(), ControllerError> {
        self.view.failed_order = Some(said.to_owned());
        if self.hold_failed_drain && self.want == (Want::Savepoint { drain: true }) {
            self.given = true;
            return Ok(());
        }
        self.refused = true;
        // Not given again before it is wanted again.
        self.given = true;
        self.status.final_checkpoint = FinalCheckpoint::NotStarted;
        self.status.checkpoint = CheckpointStage::Idle;
        let said = format!("the job was not stopped with a savepoint: {said}");
        Err(if may_succeed { ControllerError::Other(said.into()) } else { ControllerError::NoCheckpoint(said) })
    }

    fn detailed(&mut self, detail: &Detail) -> Result<(), ControllerError> {
        let Detail { graph, checkpoints, is_final, savepoint, cause } = detail;
        let is_over = *is_final && self.ended.is_some();
        let total: u32 = graph.vertices.iter().map(|vertex| vertex.parallelism).sum::<u32>().max(1);
        let finished: u32 = graph.vertices.iter().map(crate::answers::Vertex::finished).sum();
        self.view.vertices = graph
            .vertices
            .iter()
            .map(|vertex| VertexView {
                name: vertex.name.clone(),
                subtasks: Count::new(vertex.finished(), vertex.parallelism),
                states: vertex.tasks.iter().filter(|(_, count)| **count > 0).map(|(it, n)| (it.clone(), *n)).collect(),
            })
            .collect();
        self.status.last_complete = last_complete(checkpoints).map(Epoch::new);
        // The last task is held back until the job itself has ended: between two attempts, every
        // task of a job that restarts may have ended.
        let are_over = is_over && graph.vertices.iter().all(crate::answers::Vertex::has_ended);
        self.status.tasks = Count::new(if are_over { finished } else { finished.min(total - 1) }, total);
        self.status.tasks_failed = if are_over { total - self.status.tasks.done } else { 0 };
        if !are_over || self.want == Want::Cancel {
            return Ok(());
        }
        let Want::Savepoint { drain } = self.want else {
            self.ended_by_itself(graph.state, cause.as_deref());
            return Ok(());
        };
        match (stopped_with(checkpoints), savepoint) {
            (Some(it), Some(Ok(()))) if graph.state == JobState::Finished => {
                self.view.savepoint.clone_from(&it.external_path);
                self.view.is_savepoint_read = true;
                self.status.final_checkpoint = FinalCheckpoint::Complete(Epoch::new(it.id));
                self.status.checkpoint = CheckpointStage::Idle;
                Ok(())
            }
            (Some(it), Some(Err(why))) if graph.state == JobState::Finished && !drain => {
                self.view.savepoint.clone_from(&it.external_path);
                self.refused = true;
                Err(ControllerError::NoCheckpoint(why.clone()))
            }
            _ if graph.state == JobState::Finished && drain => Ok(()),
            _ => {
                self.ended_by_itself(graph.state, cause.as_deref());
                Ok(())
            }
        }
    }

    /// The job has ended, and not as it was told to.
    fn ended_by_itself(&mut self, state: JobState, cause: Option<&str>) {
        let task = TaskId::new(0, 0);
        let failure = match (state, self.status.final_checkpoint) {
            (JobState::Finished, FinalCheckpoint::InFlight(epoch)) => {
                RunFailure::FinishedWithoutSnapshot { task, epoch }
            }
            (JobState::Finished, _) => return,
            (state, _) => {
                let said = cause.map_or_else(|| "not by this stop".to_owned(), sentence);
                let error = TaskError::retryable(format!("the job is {state}: {said}"));
                RunFailure::TaskFailed { task, worker: WorkerId::new(0), error }
            }
        };
        if self.failure.is_none() {
            self.failure = Some(failure);
            self.status.failures = 1;
        }
    }

    /// The number that the final checkpoint will probably have: only Flink knows, when it is there.
    pub(crate) fn expected(&self) -> Epoch {
        self.status.last_complete.unwrap_or_default().next()
    }
}

/// Whether a savepoint that failed for this reason may succeed a moment later.
fn is_passing(trace: &str) -> bool {
    [
        "Not all required tasks are currently running",
        "Checkpoint Coordinator is suspending",
        "Checkpoint Coordinator is shutting down",
        "Checkpoint expired before completing",
        "Checkpoint was declined",
        "Some tasks of the job have already finished",
        "Task has failed",
        "Task local checkpoint failure",
        "The job has failed",
        "Trigger checkpoint failure",
        "StopWithSavepointStoppingException",
        "TimeoutException",
        "savepoint is already in progress",
    ]
    .iter()
    .any(|reason| trace.contains(reason))
        && !trace.contains("IO-problem")
}
