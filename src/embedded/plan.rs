//! Where each task runs, and what it starts from.

use std::collections::HashMap;

use crate::{
    contracts::{JobId, Manifest, OpenRun, RunId, TaskId, TaskSnapshot, Topology},
    worker::{TaskSpec, WorkerSpec},
};

/// Why a run could not be started. Nothing of it is running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no runtime for the tasks.
    #[error(
        "expected to be called from within a tokio runtime, got none: call it from async code, or enter a runtime first"
    )]
    NoRuntime,
    /// The run is not newer than the known runs of the job.
    #[error(
        "expected a run of job `{job}` after run {newest}, got run {got}: take the number that the checkpoint store gave"
    )]
    RunNotNewer {
        /// The job.
        job: JobId,
        /// The newest run that was hosted here, or that took the checkpoint.
        newest: RunId,
        /// The run that was to be started.
        got: RunId,
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
pub(super) fn plan(open: &OpenRun, topology: &Topology) -> Result<Vec<WorkerSpec>, StartError> {
    let (run, restored) = (open.run(), open.manifest());
    let mut snapshots = restored.map_or_else(|| Ok(HashMap::new()), |manifest| check(open, topology, manifest))?;
    let spec = |worker: &_| WorkerSpec { run, worker: *worker, tasks: Vec::new() };
    let mut workers: Vec<_> = topology.workers().iter().map(spec).collect();
    for task in topology.task_ids() {
        let place = topology.worker_index_of(task).and_then(|index| workers.get_mut(index as usize));
        let role = topology.operators().get(task.operator as usize).map(crate::contracts::Operator::role);
        // Both are known for every task that the topology names.
        if let (Some(place), Some(role)) = (place, role) {
            place.tasks.push(TaskSpec { task, role, restored: snapshots.remove(&task) });
        }
    }
    Ok(workers)
}

/// A checkpoint fits a topology if none of its state is lost, and if it contains each operator
/// completely or not at all (a new one).
fn check(
    open: &OpenRun,
    topology: &Topology,
    manifest: &Manifest,
) -> Result<HashMap<TaskId, TaskSnapshot>, StartError> {
    // A run that continues after a crash may have taken its last checkpoint itself. Its workers are
    // not started again.
    if open.run() <= manifest.run {
        return Err(StartError::RunNotNewer { job: open.job().clone(), newest: manifest.run, got: open.run() });
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
