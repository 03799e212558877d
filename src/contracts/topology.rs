//! The topology of a run: its operators, their subtasks, and the worker of each subtask.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::contracts::{TaskId, WorkerId};

/// The role of an operator in the dataflow, as far as it matters for a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Reads the input. Checkpoint barriers and graceful stops start here.
    Source,
    /// Any other operator: barriers and the end of the stream arrive in its input.
    Inner,
}

/// One operator of a [`Topology`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    name: Arc<str>,
    role: Role,
    node: u32,
    placement: Arc<[u32]>,
}

impl Operator {
    /// The operator's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its role in the dataflow.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The id of the node that runs it: its own index, unless it was added with
    /// [`TopologyBuilder::chain`].
    pub fn node(&self) -> u32 {
        self.node
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
/// # Ok::<(), winddown::contracts::TopologyError>(())
/// ```
///
/// An engine that chains operators gives each *node* of its graph an id, and starts and ends the
/// node's subtasks as a whole, while each operator of the chain has its own state. Use
/// [`TopologyBuilder::chain`] for that:
///
/// ```
/// use winddown::{Role, Topology, WorkerId};
///
/// let workers = [WorkerId::new(1), WorkerId::new(2)];
/// let topology = Topology::builder()
///     .chain(1, Role::Source, ["kafka", "parse", "watermark"], workers)
///     .chain(4, Role::Inner, ["window", "sink"], workers)
///     .build()?;
/// assert_eq!(topology.tasks(), 10); // each gives a state in every checkpoint
/// assert_eq!(topology.node(4), Some(3..5)); // the operators that a subtask of node 4 begins and ends with
/// # Ok::<(), winddown::contracts::TopologyError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Topology {
    operators: Vec<Operator>,
    workers: Vec<WorkerId>,
    tasks: usize,
    names: HashMap<Arc<str>, u32>,
    /// The operators of each node, by its id.
    nodes: HashMap<u32, Range<u32>>,
}

/// Why a topology is invalid.
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
    /// Two operators have the same name.
    #[error("expected operator names to be distinct, got `{operator}` twice: rename one")]
    DuplicateOperator {
        /// The name.
        operator: Arc<str>,
    },
    /// A node has no operator.
    #[error("expected node {node} to run at least one operator, got none")]
    EmptyChain {
        /// The node's id.
        node: u32,
    },
    /// Two nodes have the same id.
    #[error(
        "expected node ids to be distinct, got {node} twice: an operator that is added by itself takes its own index for a node id"
    )]
    DuplicateNode {
        /// The id.
        node: u32,
    },
    /// More tasks or workers than can be numbered.
    #[error("expected at most {limit} {what}, got {got}: split the job")]
    TooLarge {
        /// What exceeds the limit.
        what: &'static str,
        /// The limit.
        limit: usize,
        /// The actual number.
        got: usize,
    },
}

/// Collects operators for a [`Topology`].
#[derive(Clone, Debug, Default)]
pub struct TopologyBuilder {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug)]
struct Node {
    /// The index of its operator, unless it has its own id.
    id: Option<u32>,
    role: Role,
    operators: Vec<Arc<str>>,
    placement: Vec<WorkerId>,
}

impl TopologyBuilder {
    /// Adds an operator whose subtask *i* runs on the *i*-th worker of `placement`. Operators are
    /// numbered in the order in which they are added.
    #[must_use]
    pub fn operator(
        mut self,
        name: impl Into<Arc<str>>,
        role: Role,
        placement: impl IntoIterator<Item = WorkerId>,
    ) -> Self {
        let (operators, placement) = (vec![name.into()], placement.into_iter().collect());
        self.nodes.push(Node { id: None, role, operators, placement });
        self
    }

    /// Adds the operators of one node of an engine's graph, which run chained in one task: the
    /// *i*-th subtasks of all of them run on the *i*-th worker of `placement`, and start and end
    /// together. `node` is the engine's id of the node; ids may have gaps. `role` is the role of
    /// the first operator; the others read its output, and are [`Inner`](Role::Inner).
    #[must_use]
    pub fn chain<N: Into<Arc<str>>>(
        mut self,
        node: u32,
        role: Role,
        operators: impl IntoIterator<Item = N>,
        placement: impl IntoIterator<Item = WorkerId>,
    ) -> Self {
        let (operators, placement) = (operators.into_iter().map(Into::into).collect(), placement.into_iter().collect());
        self.nodes.push(Node { id: Some(node), role, operators, placement });
        self
    }

    /// The topology.
    ///
    /// # Errors
    /// [`TopologyError`] names the operator or node, and what was expected.
    pub fn build(self) -> Result<Topology, TopologyError> {
        let mut workers = Vec::new();
        let mut index: HashMap<WorkerId, u32> = HashMap::new();
        let mut names: HashMap<Arc<str>, u32> = HashMap::new();
        let mut nodes: HashMap<u32, Range<u32>> = HashMap::new();
        let mut operators = Vec::with_capacity(self.nodes.len());
        let mut tasks = 0_usize;
        for Node { id, role, operators: chain, placement } in self.nodes {
            let first = number(operators.len());
            let node = id.unwrap_or(first);
            let Some(name) = chain.first() else { return Err(TopologyError::EmptyChain { node }) };
            if placement.is_empty() {
                return Err(TopologyError::NoSubtasks { operator: Arc::clone(name) });
            }
            tasks = tasks.saturating_add(placement.len().saturating_mul(chain.len()));
            let mut place = |worker| {
                let next = number(workers.len());
                *index.entry(worker).or_insert_with(|| {
                    workers.push(worker);
                    next
                })
            };
            let placement: Arc<[u32]> = placement.into_iter().map(&mut place).collect();
            for (position, name) in chain.into_iter().enumerate() {
                match names.entry(Arc::clone(&name)) {
                    Entry::Occupied(_) => return Err(TopologyError::DuplicateOperator { operator: name }),
                    Entry::Vacant(place) => place.insert(number(operators.len())),
                };
                let role = if position == 0 { role } else { Role::Inner };
                operators.push(Operator { name, role, node, placement: Arc::clone(&placement) });
            }
            if nodes.insert(node, first..number(operators.len())).is_some() {
                return Err(TopologyError::DuplicateNode { node });
            }
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
        Ok(Topology { operators, workers, tasks, names, nodes })
    }
}

/// More than a `u32` can number is refused in `build`.
fn number(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

impl Topology {
    /// The maximum number of tasks of a run.
    pub const MAX_TASKS: usize = u32::MAX as usize;
    /// The maximum number of workers of a run: a task's slot in the model keeps its worker in 24
    /// bits.
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

    /// The position in [`workers`](Self::workers) of the worker that a task is placed on; `None`
    /// for an unknown task.
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
        self.names.get(name).copied()
    }

    /// The indices of the operators that the node of this id runs.
    pub fn node(&self, id: u32) -> Option<Range<u32>> {
        self.nodes.get(&id).cloned()
    }

    /// The indices of the operators that run in one task with this one, itself included; empty if
    /// there is no such operator.
    pub fn chain_of(&self, operator: u32) -> Range<u32> {
        self.operators.get(operator as usize).and_then(|it| self.node(it.node)).unwrap_or_default()
    }
}

/// The serialised form of a topology. Reading it builds the topology again, with every check of
/// [`TopologyBuilder::build`].
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
    /// The id of its node, if that is not its index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<u32>,
    /// The operators that run in one task with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chained: Vec<Arc<str>>,
}

impl From<Topology> for Written {
    fn from(topology: Topology) -> Self {
        let mut operators = Vec::new();
        for (index, operator) in (0..).zip(topology.operators()) {
            let chain = topology.chain_of(index);
            if chain.start == index {
                let worker = |worker: &u32| topology.workers.get(*worker as usize).copied();
                let rest = topology.operators.iter().take(chain.end as usize).skip(index as usize + 1);
                operators.push(WrittenOperator {
                    name: Arc::clone(&operator.name),
                    role: operator.role,
                    placement: operator.placement.iter().filter_map(worker).collect(),
                    node: (operator.node != index).then_some(operator.node),
                    chained: rest.map(|it| Arc::clone(&it.name)).collect(),
                });
            }
        }
        Self { operators }
    }
}

impl TryFrom<Written> for Topology {
    type Error = TopologyError;

    fn try_from(written: Written) -> Result<Self, TopologyError> {
        let node = |WrittenOperator { name, role, placement, node, chained }| {
            let operators = std::iter::once(name).chain(chained).collect();
            Node { id: node, role, operators, placement }
        };
        TopologyBuilder { nodes: written.operators.into_iter().map(node).collect() }.build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: WorkerId = WorkerId::new(1);
    const TWO: WorkerId = WorkerId::new(2);

    #[test]
    fn a2_a_node_with_any_id_runs_one_operator_or_more() {
        let topology = Topology::builder()
            .operator("source", Role::Source, [ONE])
            .chain(7, Role::Source, ["read", "parse"], [ONE, TWO])
            .chain(4_000_000_000, Role::Inner, ["sink"], [TWO])
            .build()
            .unwrap();
        assert_eq!(topology.tasks(), 1 + 2 * 2 + 1);
        assert_eq!(topology.node(0), Some(0..1));
        assert_eq!(topology.node(7), Some(1..3));
        assert_eq!(topology.node(4_000_000_000), Some(3..4));
        assert_eq!(topology.node(1), None, "an operator's index is no node's id");
        assert_eq!((topology.chain_of(2), topology.chain_of(3), topology.chain_of(9)), (1..3, 3..4, 0..0));
        let roles: Vec<_> = topology.operators().iter().map(Operator::role).collect();
        assert_eq!(roles, [Role::Source, Role::Source, Role::Inner, Role::Inner]);
        for operator in 1..3 {
            assert_eq!(topology.worker_of(TaskId::new(operator, 1)), Some(TWO));
        }
        assert_eq!(topology.operator_index("parse"), Some(2));
    }

    #[test]
    fn a2_a_node_has_an_id_of_its_own_and_an_operator() {
        let twice = Topology::builder().chain(1, Role::Source, ["a"], [ONE]).operator("b", Role::Inner, [ONE]);
        assert_eq!(twice.build().unwrap_err(), TopologyError::DuplicateNode { node: 1 });
        let empty = Topology::builder().chain(1, Role::Source, Vec::<String>::new(), [ONE]);
        assert_eq!(empty.build().unwrap_err(), TopologyError::EmptyChain { node: 1 });
        let name = Topology::builder().chain(1, Role::Source, ["a", "a"], [ONE]);
        assert!(matches!(name.build().unwrap_err(), TopologyError::DuplicateOperator { .. }));
    }

    #[test]
    fn u12_a_topology_with_chains_is_read_as_it_was_written() {
        let topology = Topology::builder()
            .operator("source", Role::Source, [ONE])
            .chain(7, Role::Source, ["read", "parse"], [ONE, TWO])
            .chain(4, Role::Inner, ["sink"], [TWO])
            .build()
            .unwrap();
        let text = serde_json::to_string(&topology).unwrap();
        assert_eq!(serde_json::from_str::<Topology>(&text).unwrap(), topology, "{text}");
    }
}
