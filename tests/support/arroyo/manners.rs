//! What a worker is told to do, what it works on, and what it writes down.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use winddown::grpc::tonic::Code;

/// What it does with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// As it should.
    Obeys,
    /// It answers, and does nothing.
    Nothing,
    /// It never answers.
    Hangs,
    /// It does as it should, and the answer is lost.
    ObeysAndHangs,
    /// It answers with this code.
    Refuses(Code),
    /// It answers, and its first node fails.
    Fails,
    /// It answers, and falls silent: no heartbeat any more.
    GoesSilent,
    /// It ends in the middle of the call, and its node with it.
    Dies,
}

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub checkpoint: Does,
    pub commit: Does,
    pub stop: Does,
    pub release: Does,
    /// The generation that it reports for.
    pub generation: u64,
    /// What it says when it has begun its work, or could not.
    pub begins: Result<(), &'static str>,
    /// It reports an error that ends nothing before each checkpoint.
    pub stumbles: bool,
    /// It has a preview to show.
    pub shows: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            checkpoint: Does::Obeys,
            commit: Does::Obeys,
            stop: Does::Obeys,
            release: Does::Obeys,
            generation: crate::support::RUN.get(),
            begins: Ok(()),
            stumbles: false,
            shows: false,
        }
    }
}

/// What an operator keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// A table that is no matter of commits.
    Offsets,
    /// Windows, in a table of another type.
    Windows,
    /// A transaction of Kafka: its table takes part in two-phase commit, and no commit data is ever
    /// given.
    Transaction,
    /// Files, whose commit data the first subtask of the operator commits for all.
    Files,
}

/// A node of the job's graph: operators that are chained.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: u32,
    pub operators: Vec<(&'static str, Keeps)>,
    /// The worker of each subtask.
    pub workers: Vec<u64>,
}

/// The job's graph: sources first.
pub type Graph = Vec<Node>;

/// One node with one operator, which commits files, on so many workers.
pub fn simple(workers: u64) -> Graph {
    vec![Node { id: 0, operators: vec![("count", Keeps::Files)], workers: (1..=workers).collect() }]
}

/// What it was told and what it was answered.
#[derive(Clone, Default)]
pub struct Diary(Arc<Mutex<Vec<String>>>, Arc<AtomicUsize>);

impl Diary {
    pub fn write(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub fn has(&self, entry: &str) -> bool {
        self.count(entry) > 0
    }

    pub fn count(&self, entry: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| *line == entry).count()
    }

    pub fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// How many orders came, each of which is a round trip.
    pub fn orders(&self) -> usize {
        self.1.load(Ordering::Relaxed)
    }

    pub(super) fn order(&self) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }

    /// The entries that begin so.
    pub fn of(&self, start: &str) -> Vec<String> {
        self.entries().into_iter().filter(|entry| entry.starts_with(start)).collect()
    }
}
