//! What the run waits for: the only question whose answer costs O(tasks), so it is asked seldom.

use std::sync::Arc;

use super::{
    RunModel,
    tasks::{ACKED, ENDED},
};
use crate::contracts::{Awaited, CheckpointStage, Holdups, LateTask, LateWorker};

impl RunModel {
    /// What the run waits for from its tasks; O(1).
    pub(crate) fn awaited(&self) -> Awaited {
        let stage = self.in_flight.as_ref().map(super::InFlight::stage).unwrap_or_default();
        match stage {
            CheckpointStage::Committing { epoch, .. } => Awaited::Commits(epoch),
            _ if self.is_over() || self.final_complete.is_some() => Awaited::Ends,
            CheckpointStage::Collecting { epoch, .. } => Awaited::Snapshots(epoch),
            CheckpointStage::Publishing { epoch } => Awaited::Publication(epoch),
            CheckpointStage::Idle => Awaited::Nothing,
        }
    }

    /// The tasks and workers that it waits for. It costs O(tasks).
    ///
    /// It knows neither since when (only events bring the time) nor the orders.
    pub fn holdups(&self) -> Holdups {
        let mut holdups = Holdups { awaited: self.awaited(), ..Holdups::default() };
        let mut late_of = vec![0_u32; self.topology.workers().len()];
        for (at, task) in self.topology.task_ids().enumerate() {
            let is_late = match holdups.awaited {
                Awaited::Nothing | Awaited::Publication(_) => break,
                Awaited::Snapshots(_) => !self.tasks.has(at, ACKED | ENDED),
                Awaited::Commits(_) => self.tasks.has(at, ACKED) && self.tasks.commit_is_pending(task, at),
                Awaited::Ends => !self.tasks.has(at, ENDED),
            };
            if !is_late {
                continue;
            }
            let worker = self.tasks.worker(at);
            late_of[worker as usize] += 1;
            holdups.late += 1;
            let operator = self.topology.operators().get(task.operator as usize);
            if let Some(operator) = operator.filter(|_| holdups.tasks.len() < Holdups::LISTED) {
                holdups.tasks.push(LateTask::new(task, Arc::clone(operator.name()), self.worker_id(worker)));
            }
        }
        let latest = self.workers.latest();
        let mut silences = Vec::new();
        for (at, late) in (0..).zip(late_of) {
            let last_seen = self.workers.last_seen(at);
            if self.workers.is_busy(at) {
                silences.push(latest.saturating_duration_since(last_seen));
            }
            if late > 0 {
                let is_lost = !self.workers.is_reachable(at);
                holdups.workers.push(LateWorker::new(self.worker_id(at), last_seen, late, is_lost));
            }
        }
        holdups.workers.sort_by_key(|worker| (worker.last_seen, worker.worker));
        holdups.workers.truncate(Holdups::LISTED);
        silences.sort_unstable();
        let median = silences.get(silences.len() / 2).copied().unwrap_or_default();
        holdups.usual_silence = median.max(self.heartbeat / 4);
        holdups
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::contracts::{Epoch, Event, Role, RunId, TaskId, Topology, WorkerEvent, WorkerId};

    #[test]
    fn the_holdups_are_the_tasks_and_workers_that_have_not_answered() {
        let (one, two, run) = (WorkerId::new(1), WorkerId::new(2), RunId::new(1));
        let topology = Topology::builder().operator("count", Role::Source, [one, two]).build().unwrap();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut model = RunModel::new(Arc::new(topology), run, Duration::from_secs(8), None, start);
        assert_eq!(model.holdups().late, 0, "a running job waits for nothing");
        model.begin_checkpoint(true).unwrap();
        let epoch = Epoch::new(1);
        assert_eq!((model.holdups().awaited, model.holdups().late), (Awaited::Snapshots(epoch), 2));

        let task = TaskId::new(0, 1);
        let snapshot = Event::CheckpointCompleted { task, epoch, snapshot: "x".into(), commit: Some("y".into()) };
        model.handle(WorkerEvent::new(run, two, snapshot), at(3)).unwrap();
        let holdups = model.holdups();
        assert_eq!(holdups.tasks, [LateTask::new(TaskId::new(0, 0), "count", one)]);
        assert_eq!(holdups.workers, [LateWorker::new(one, start, 1, false)]);
        assert_eq!(holdups.usual_silence, Duration::from_secs(3), "the other one spoke just now");
        model.check_health(at(9));
        assert!(model.holdups().workers[0].is_lost);

        model.begin_stop(crate::contracts::WorkerStopMode::Immediate);
        assert_eq!((model.holdups().awaited, model.holdups().late), (Awaited::Ends, 2));
    }
}
