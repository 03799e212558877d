//! Which task runs where, and from what it starts.

use std::collections::HashMap;

use crate::{
    contracts::{JobId, Manifest, RunId, TaskId, TaskSnapshot, Topology},
    worker::{TaskSpec, WorkerSpec},
};

/// Why a run could not be started. Nothing of it runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No runtime to run tasks on.
    #[error(
        "expected to be called from within a tokio runtime, got none: call it from async code, or enter a runtime first"
    )]
    NoRuntime,
    /// The run is not newer than what is known of the job.
    #[error(
        "expected a run of job `{job}` after run {newest}, got run {got}: take the number that the checkpoint store gave"
    )]
    RunNotNewer {
        /// The job.
        job: JobId,
        /// The newest run that was hosted here, or that the checkpoint was taken by.
        newest: RunId,
        /// The run that was to be started.
        got: RunId,
    },
    /// The checkpoint is of another job.
    #[error("expected a checkpoint of job `{expected}`, got one of job `{got}`")]
    OtherJob {
        /// The job to be started.
        expected: JobId,
        /// The job of the checkpoint.
        got: JobId,
    },
    /// The checkpoint holds a task that the topology does not have: its state would be lost.
    #[error(
        "the checkpoint holds task {0}, which the topology does not have: its state would be lost; restore with the old topology"
    )]
    UnknownTask(TaskId),
    /// The checkpoint holds some subtasks of an operator, but not this one.
    #[error(
        "the checkpoint holds other subtasks of the operator, but not task {0}: restore with the parallelism it was taken with"
    )]
    MissingTask(TaskId),
}

/// The workers of a run, in the order of the topology.
pub(super) fn plan(
    job: &JobId,
    run: RunId,
    topology: &Topology,
    restored: Option<&Manifest>,
) -> Result<Vec<WorkerSpec>, StartError> {
    let mut snapshots = restored.map_or_else(|| Ok(HashMap::new()), |manifest| check(job, run, topology, manifest))?;
    let spec = |worker: &_| WorkerSpec { run, worker: *worker, tasks: Vec::new() };
    let mut workers: Vec<_> = topology.workers().iter().map(spec).collect();
    for task in topology.task_ids() {
        let place = topology.worker_index_of(task).and_then(|index| workers.get_mut(index as usize));
        let role = topology.operators().get(task.operator as usize).map(crate::contracts::Operator::role);
        // Both are known of every task that the topology itself names.
        if let (Some(place), Some(role)) = (place, role) {
            place.tasks.push(TaskSpec { task, role, restored: snapshots.remove(&task) });
        }
    }
    Ok(workers)
}

/// A checkpoint restores a topology if no state of it is lost, and if an operator is in it whole or not at all (a new one).
fn check(
    job: &JobId,
    run: RunId,
    topology: &Topology,
    manifest: &Manifest,
) -> Result<HashMap<TaskId, TaskSnapshot>, StartError> {
    if manifest.job != *job {
        return Err(StartError::OtherJob { expected: job.clone(), got: manifest.job.clone() });
    }
    if run <= manifest.run {
        return Err(StartError::RunNotNewer { job: job.clone(), newest: manifest.run, got: run });
    }
    let snapshots: HashMap<_, _> = manifest.tasks.iter().map(|snapshot| (snapshot.task, snapshot.clone())).collect();
    if let Some(unknown) = snapshots.keys().filter(|task| topology.worker_index_of(**task).is_none()).min() {
        return Err(StartError::UnknownTask(*unknown));
    }
    let mut held = vec![false; topology.operators().len()];
    for task in snapshots.keys() {
        held[task.operator as usize] = true;
    }
    let missing = |task: &TaskId| held[task.operator as usize] && !snapshots.contains_key(task);
    if let Some(missing) = topology.task_ids().find(missing) {
        return Err(StartError::MissingTask(missing));
    }
    Ok(snapshots)
}
