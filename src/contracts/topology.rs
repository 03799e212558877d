//! What a run consists of: its operators, their subtasks, and the worker that each subtask is placed on.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::contracts::{TaskId, WorkerId};

/// What an operator does in the dataflow, as far as a shutdown needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Reads the input. Checkpoint barriers and graceful stops start here.
    Source,
    /// Everything else: it meets barriers and the end of the stream in its own input.
    Inner,
}

/// One operator of a [`Topology`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    name: Arc<str>,
    role: Role,
    placement: Box<[u32]>,
}

impl Operator {
    /// The operator's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it does in the dataflow.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How many subtasks it has.
    pub fn parallelism(&self) -> u32 {
        // `Topology::new` refuses more subtasks than a u32 can number.
        u32::try_from(self.placement.len()).unwrap_or(u32::MAX)
    }
}

/// The operators, subtasks and workers of one run; never changes while the run lives.
///
/// ```
/// use winddown::{Role, TaskId, Topology, WorkerId};
///
/// let (one, two) = (WorkerId::new(1), WorkerId::new(2));
/// let topology = Topology::builder()
///     .operator("source", Role::Source, [one, two])
///     .operator("sink", Role::Inner, [one, two])
///     .build()?;
/// assert_eq!(topology.tasks(), 4);
/// assert_eq!(topology.worker_of(TaskId::new(1, 0)), Some(one));
/// # Ok::<(), winddown::TopologyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Topology {
    operators: Vec<Operator>,
    workers: Vec<WorkerId>,
    tasks: usize,
}

/// A topology that no run can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// There is no task at all.
    #[error("expected at least one operator with one subtask, got none: a job without tasks has nothing to stop")]
    Empty,
    /// An operator has no subtask.
    #[error("expected operator `{operator}` to be placed on at least one worker, got an empty placement")]
    NoSubtasks {
        /// The operator's name.
        operator: Arc<str>,
    },
    /// Two operators have one name.
    #[error("expected operator names to be distinct, got `{operator}` twice: rename one")]
    DuplicateOperator {
        /// The name.
        operator: Arc<str>,
    },
    /// More tasks or workers than can be numbered.
    #[error("expected at most {limit} {what}, got {got}: split the job")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The most there may be.
        limit: usize,
        /// How many there were.
        got: usize,
    },
}

/// Collects operators for a [`Topology`].
#[derive(Clone, Debug, Default)]
pub struct TopologyBuilder {
    operators: Vec<(Arc<str>, Role, Vec<WorkerId>)>,
}

impl TopologyBuilder {
    /// Adds an operator whose subtask *i* runs on the *i*-th worker of `placement`. Operators are numbered in the order
    /// in which they are added.
    #[must_use]
    pub fn operator(
        mut self,
        name: impl Into<Arc<str>>,
        role: Role,
        placement: impl IntoIterator<Item = WorkerId>,
    ) -> Self {
        self.operators.push((name.into(), role, placement.into_iter().collect()));
        self
    }

    /// The topology.
    ///
    /// # Errors
    /// [`TopologyError`] says which operator is at fault and what was expected.
    pub fn build(self) -> Result<Topology, TopologyError> {
        let mut workers = Vec::new();
        let mut index: HashMap<WorkerId, u32> = HashMap::new();
        let mut names: HashSet<Arc<str>> = HashSet::new();
        let mut operators = Vec::with_capacity(self.operators.len());
        let mut tasks = 0_usize;
        for (name, role, placement) in self.operators {
            if placement.is_empty() {
                return Err(TopologyError::NoSubtasks { operator: name });
            }
            if !names.insert(Arc::clone(&name)) {
                return Err(TopologyError::DuplicateOperator { operator: name });
            }
            tasks += placement.len();
            let mut placed = Vec::with_capacity(placement.len());
            for worker in placement {
                let next = u32::try_from(workers.len()).unwrap_or(u32::MAX);
                placed.push(*index.entry(worker).or_insert_with(|| {
                    workers.push(worker);
                    next
                }));
            }
            operators.push(Operator { name, role, placement: placed.into() });
        }
        if tasks == 0 {
            return Err(TopologyError::Empty);
        }
        for (what, limit, got) in
            [("tasks", Topology::MAX_TASKS, tasks), ("workers", Topology::MAX_WORKERS, workers.len())]
        {
            if got > limit {
                return Err(TopologyError::TooLarge { what, limit, got });
            }
        }
        Ok(Topology { operators, workers, tasks })
    }
}

impl Topology {
    /// The most tasks that a run may have.
    pub const MAX_TASKS: usize = u32::MAX as usize;
    /// The most workers that a run may have: a task's slot in the model keeps its worker in 24 bits.
    pub const MAX_WORKERS: usize = (1 << 24) - 1;

    /// Starts an empty topology.
    pub fn builder() -> TopologyBuilder {
        TopologyBuilder::default()
    }

    /// The operators, in the order of their indices.
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// The workers, each once, in the order in which they first appear.
    pub fn workers(&self) -> &[WorkerId] {
        &self.workers
    }

    /// How many tasks the run has.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Every task, operator by operator.
    pub fn task_ids(&self) -> impl Iterator<Item = TaskId> + '_ {
        (0_u32..)
            .zip(&self.operators)
            .flat_map(|(operator, op)| (0..op.parallelism()).map(move |subtask| TaskId::new(operator, subtask)))
    }

    /// The position in [`workers`](Self::workers) of the worker that a task is placed on; `None` for an unknown task.
    pub fn worker_index_of(&self, task: TaskId) -> Option<u32> {
        let operator = self.operators.get(task.operator as usize)?;
        operator.placement.get(task.subtask as usize).copied()
    }

    /// The worker that a task is placed on; `None` for an unknown task.
    pub fn worker_of(&self, task: TaskId) -> Option<WorkerId> {
        self.workers.get(self.worker_index_of(task)? as usize).copied()
    }

    /// The index of the operator of this name.
    pub fn operator_index(&self, name: &str) -> Option<u32> {
        let position = self.operators.iter().position(|op| &*op.name == name)?;
        u32::try_from(position).ok()
    }
}

/// A topology as it is written down; to read it is to build it anew, with every check of [`TopologyBuilder::build`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    operators: Vec<WrittenOperator>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenOperator {
    name: Arc<str>,
    role: Role,
    /// The worker of each subtask.
    placement: Vec<WorkerId>,
}

impl From<Topology> for Written {
    fn from(topology: Topology) -> Self {
        let Topology { operators, workers, .. } = topology;
        let written = |Operator { name, role, placement }: Operator| {
            let worker = |index: &u32| workers.get(*index as usize).copied();
            WrittenOperator { name, role, placement: placement.iter().filter_map(worker).collect() }
        };
        Self { operators: operators.into_iter().map(written).collect() }
    }
}

impl TryFrom<Written> for Topology {
    type Error = TopologyError;

    fn try_from(written: Written) -> Result<Self, TopologyError> {
        let operators = written.operators.into_iter().map(|it| (it.name, it.role, it.placement)).collect();
        TopologyBuilder { operators }.build()
    }
}
