//! Identifiers: of a job, one run of it, a worker, a task, and a checkpoint.
//!
//! They print bare (`7`, `0/3`), so that they can be log fields and parts of file names; a sentence
//! adds the noun.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The name of a job, stable over all its runs. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Arc<str>);

impl JobId {
    /// A job of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for JobId {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl From<&str> for JobId {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({:?})", &*self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps the number.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl From<u64> for $name {
            fn from(number: u64) -> Self {
                Self(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// One execution of a job. The number grows with every execution, and is the fencing
    /// generation: a message, worker or controller of another run changes nothing (invariant I11).
    RunId
);
number!(
    /// One worker of a run: a process, a pod, or an in-process host of tasks.
    WorkerId
);
number!(
    /// The number of a checkpoint. It grows over all runs of a job.
    Epoch
);

/// One operator subtask of a run: the operator's index in the
/// [`Topology`](crate::contracts::Topology) and the subtask's index in the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TaskId {
    /// Index of the operator in the topology.
    pub operator: u32,
    /// Index of the subtask in its operator.
    pub subtask: u32,
}

impl TaskId {
    /// Subtask `subtask` of operator `operator`.
    pub const fn new(operator: u32, subtask: u32) -> Self {
        Self { operator, subtask }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.operator, self.subtask)
    }
}
