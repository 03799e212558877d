//! Checks that a message can come from a worker of the run, before it has any effect. Every refusal
//! says what was expected and what was received.

use std::{fmt::Display, sync::Arc};

use tonic::Status;

use super::registry::{Hosted, Registry};
use crate::{
    contracts::{Epoch, Operator, RunId, TaskId, Topology, WorkerId},
    grpc::{
        arroyo::fence::Dialect,
        proto::arroyo_rpc::{TaskError, WorkerContext},
    },
};

/// Why a message is refused.
pub(super) struct Refusal {
    pub(super) status: Status,
    /// A registration would change the answer.
    pub(super) until_registered: bool,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self { status, until_registered: false }
    }
}

impl Refusal {
    pub(super) fn until_registered(status: Status) -> Self {
        Self { status, until_registered: true }
    }
}

/// A worker that may report for a run.
pub(super) struct Speaker {
    pub(super) hosted: Arc<Hosted>,
    pub(super) worker: WorkerId,
    pub(super) dialect: Dialect,
}

/// The subject of a report that a task began or ended.
pub(super) struct Subject {
    pub(super) task: TaskId,
    /// The whole chain that contains the task, which has more than one operator.
    pub(super) is_chain: bool,
}

pub(super) fn invalid(expected: impl Display, got: impl Display) -> Status {
    Status::invalid_argument(format!("expected {expected}, got {got}"))
}

/// How much of a name is repeated in an answer to an unknown sender.
const SHOWN: usize = 64;

pub(super) fn shown(name: &str) -> String {
    name.chars().take(SHOWN).collect()
}

impl Registry {
    /// The sender, if it is a worker of a registered run.
    pub(super) fn speaker(&self, context: Option<&WorkerContext>, dialect: Dialect) -> Result<Speaker, Refusal> {
        let context = context.ok_or_else(|| invalid("a worker_context", "none"))?;
        let hosted = self.get(&context.job_id).ok_or_else(|| {
            let got = shown(&context.job_id);
            Refusal::until_registered(Status::not_found(format!("expected a job that is registered here, got `{got}`")))
        })?;
        let (expected, got) = (hosted.transport.run(), RunId::new(context.generation));
        if expected != got {
            let status = Status::failed_precondition(format!(
                "expected generation {} of job `{}`, got {}",
                expected.get(),
                hosted.transport.job(),
                got.get()
            ));
            // A newer run may be about to be registered.
            return Err(if got > expected { Refusal::until_registered(status) } else { status.into() });
        }
        let worker = WorkerId::new(context.worker_id);
        if !hosted.transport.knows(worker) {
            let count = hosted.transport.topology().workers().len();
            return Err(invalid(
                format_args!("one of the {count} workers of run {expected}"),
                format_args!("worker {worker}"),
            )
            .into());
        }
        Ok(Speaker { hosted, worker, dialect })
    }
}

impl Speaker {
    fn topology(&self) -> &Topology {
        self.hosted.transport.topology()
    }

    /// The task of this operator id.
    pub(super) fn task_of(&self, operator_id: &str, subtask: u32) -> Result<TaskId, Status> {
        let operator = self
            .topology()
            .operator_index(operator_id)
            .ok_or_else(|| invalid("the id of an operator of the job", format_args!("`{}`", shown(operator_id))))?;
        self.task(operator, subtask)
    }

    /// The task that a `task_id` and a subtask's index name, if it is placed on the sender. Our kit
    /// names an operator by its index, others name a node of the job's graph by its id.
    pub(super) fn subject(&self, task_id: u32, subtask: u32) -> Result<Subject, Status> {
        if self.dialect == Dialect::Kit {
            return Ok(Subject { task: self.task(task_id, subtask)?, is_chain: false });
        }
        let chain = self.topology().node(task_id).ok_or_else(|| {
            let mut nodes: Vec<u32> = self.topology().operators().iter().map(Operator::node).collect();
            nodes.dedup();
            nodes.truncate(SHOWN);
            invalid(format_args!("a task_id among the job's nodes {nodes:?}"), task_id)
        })?;
        Ok(Subject { task: self.task(chain.start, subtask)?, is_chain: chain.len() > 1 })
    }

    /// The subject of an error: the named operator, if it is one of the chain.
    pub(super) fn subject_of_error(&self, error: &TaskError) -> Result<Subject, Status> {
        let subject = self.subject(error.task_id, error.subtask_idx)?;
        let chain = self.topology().chain_of(subject.task.operator);
        let named = self.topology().operator_index(&error.operator_id).filter(|named| chain.contains(named));
        let task = named.map_or(subject.task, |operator| TaskId::new(operator, subject.task.subtask));
        Ok(Subject { task, ..subject })
    }

    /// The task, if it is placed on the sender.
    pub(super) fn task(&self, operator: u32, subtask: u32) -> Result<TaskId, Status> {
        let operators = self.topology().operators();
        let Some(known) = operators.get(operator as usize) else {
            return Err(invalid(format_args!("a task_id below {}", operators.len()), operator));
        };
        if subtask >= known.parallelism() {
            let expected = format!("a subtask of operator `{}` below {}", known.name(), known.parallelism());
            return Err(invalid(expected, subtask));
        }
        let task = TaskId::new(operator, subtask);
        match self.topology().worker_of(task) {
            Some(worker) if worker != self.worker => Err(invalid(
                format_args!("task {task} to be reported by worker {worker}"),
                format_args!("worker {}", self.worker),
            )),
            _ => Ok(task),
        }
    }

    /// The epoch, if a worker can have been ordered to take part in it. An order of an earlier
    /// controller is not the worker's fault: the model knows how to treat its report.
    pub(super) fn epoch(&self, epoch: u64) -> Result<Epoch, Status> {
        let newest = self.hosted.transport.newest_epoch();
        if epoch == 0 || (epoch > newest.get() && self.dialect == Dialect::Kit) {
            let expected = format!("an epoch from 1 to {}, the newest that was ordered", newest.get());
            return Err(invalid(expected, epoch));
        }
        Ok(Epoch::new(epoch))
    }
}
