//! Whether a message can come from a worker of the run, before anything is done with it. Every refusal says what was expected and what
//! was got.

use std::{fmt::Display, sync::Arc};

use tonic::Status;

use super::registry::{Hosted, Registry};
use crate::{
    contracts::{Epoch, RunId, TaskId, Topology, WorkerId},
    grpc::proto::arroyo_rpc::WorkerContext,
};

/// A worker that may speak for a run.
pub(super) struct Speaker {
    pub(super) hosted: Arc<Hosted>,
    pub(super) worker: WorkerId,
}

pub(super) fn invalid(expected: impl Display, got: impl Display) -> Status {
    Status::invalid_argument(format!("expected {expected}, got {got}"))
}

/// How much of a name that a stranger sent is repeated to him.
const SHOWN: usize = 64;

pub(super) fn shown(name: &str) -> String {
    name.chars().take(SHOWN).collect()
}

impl Registry {
    /// Who speaks, if it is a worker of a registered run.
    pub(super) fn speaker(&self, context: Option<WorkerContext>) -> Result<Speaker, Status> {
        let context = context.ok_or_else(|| invalid("a worker_context", "none"))?;
        let hosted = self.get(&context.job_id).ok_or_else(|| {
            Status::not_found(format!("expected a job that is registered here, got `{}`", shown(&context.job_id)))
        })?;
        let (expected, got) = (hosted.transport.run(), RunId::new(context.generation));
        if expected != got {
            return Err(Status::failed_precondition(format!(
                "expected generation {} of job `{}`, got {}",
                expected.get(),
                hosted.transport.job(),
                got.get()
            )));
        }
        let worker = WorkerId::new(context.worker_id);
        if !hosted.transport.knows(worker) {
            let count = hosted.transport.topology().workers().len();
            return Err(invalid(
                format_args!("one of the {count} workers of run {expected}"),
                format_args!("worker {worker}"),
            ));
        }
        Ok(Speaker { hosted, worker })
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

    /// The task, if it is placed on the worker that speaks.
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

    /// The epoch, if a worker can have been ordered to take part in it.
    pub(super) fn epoch(&self, epoch: u64) -> Result<Epoch, Status> {
        let newest = self.hosted.transport.newest_epoch();
        if epoch == 0 || epoch > newest.get() {
            let expected = format!("an epoch from 1 to {}, the newest that was ordered", newest.get());
            return Err(invalid(expected, epoch));
        }
        Ok(Epoch::new(epoch))
    }
}
