//! What the tasks of Arroyo-style sinks commit in the newest checkpoint, all workers together.
//!
//! Some sinks of that family let their first subtask commit for all the others ("per operator"), so an order has to hold the data of the
//! whole operator, whichever worker it goes to; the family's own controller does the same.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use super::wire;
use crate::contracts::{Epoch, TaskCommit, TaskId};

/// The newest epoch that commit data was reported for, and the data. A controller commits one checkpoint at a time, so an older one is of
/// no use any more. The bytes are shared with the model, not copied.
#[derive(Default)]
pub(super) struct Commits(Mutex<(Epoch, BTreeMap<TaskId, Bytes>)>);

impl Commits {
    /// Notes what a task gave; the first report counts, as it does for the model.
    pub(super) fn note(&self, epoch: Epoch, task: TaskId, data: &Bytes) {
        if !wire::is_by_table(data) {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 < epoch {
            *known = (epoch, BTreeMap::new());
        }
        if known.0 == epoch {
            known.1.entry(task).or_insert_with(|| data.clone());
        }
    }

    /// The tasks of an order, and the other subtasks of their Arroyo-style operators.
    pub(super) fn completed(&self, epoch: Epoch, tasks: &[TaskCommit]) -> Vec<TaskCommit> {
        let by_table = tasks.iter().filter(|commit| wire::is_by_table(&commit.data));
        let operators: HashSet<u32> = by_table.map(|commit| commit.task.operator).collect();
        let mut all: BTreeMap<TaskId, Bytes> = BTreeMap::new();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 == epoch {
            let others = known.1.iter().filter(|(task, _)| operators.contains(&task.operator));
            all.extend(others.map(|(task, data)| (*task, data.clone())));
        }
        drop(known);
        all.extend(tasks.iter().map(|commit| (commit.task, commit.data.clone())));
        all.into_iter().map(|(task, data)| TaskCommit { task, data }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(task: TaskId, data: &'static [u8]) -> TaskCommit {
        TaskCommit { task, data: Bytes::from_static(data) }
    }

    #[test]
    fn an_order_holds_the_whole_operator_where_data_is_by_table() {
        let (here, there, other) = (TaskId::new(1, 0), TaskId::new(1, 1), TaskId::new(2, 0));
        let commits = Commits::default();
        let epoch = Epoch::new(4);
        for task in [here, there, other] {
            commits.note(epoch, task, &Bytes::from_static(b"arroyo-commit/1\nx"));
        }
        commits.note(epoch, there, &Bytes::from_static(b"arroyo-commit/1\nlater"));
        commits.note(Epoch::new(3), there, &Bytes::from_static(b"arroyo-commit/1\nolder"));
        let by_table = commit(here, b"arroyo-commit/1\nx");
        assert_eq!(
            commits.completed(epoch, std::slice::from_ref(&by_table)),
            [by_table.clone(), commit(there, b"arroyo-commit/1\nx")]
        );
        assert_eq!(
            commits.completed(Epoch::new(3), std::slice::from_ref(&by_table)),
            [by_table],
            "of another checkpoint"
        );
    }

    #[test]
    fn an_order_to_kit_tasks_holds_nothing_of_others() {
        let commits = Commits::default();
        commits.note(Epoch::new(4), TaskId::new(1, 1), &Bytes::from_static(b"rows"));
        let own = commit(TaskId::new(1, 0), b"rows");
        assert_eq!(commits.completed(Epoch::new(4), std::slice::from_ref(&own)), [own]);
    }
}
