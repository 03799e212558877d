//! The start of a schedule: the default request and the policy. Everything else is a choice.

use std::{sync::Arc, time::Duration};

use crate::{
    contracts::{Role, StopRequest, Topology, WorkerId},
    drive::{OnSpentCheckpoint, Policy},
    limits::Limits,
};

/// What happens to the running job by default, two milliseconds after its controller is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Opening {
    Request(StopRequest),
    SourcesComplete,
    TaskFails,
    WorkerDies,
    TimeIsOver,
}

/// One scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each may hold with each other")]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) opening: Opening,
    pub(super) spent: OnSpentCheckpoint,
    /// Whether a task has something to commit.
    pub(super) commits: bool,
    /// Whether it pre-commits for its whole operator, whose other subtask does not.
    pub(super) as_whole: bool,
    /// Whether periodic checkpoints are taken.
    pub(super) periodic: bool,
    /// Whether the controller that follows a crash has no link to the workers.
    pub(super) detached: bool,
    /// Whether the job has a checkpoint store.
    pub(super) has_store: bool,
}

use OnSpentCheckpoint::{Escalate, GiveBack, KeepTrying};
use Opening::{Request, SourcesComplete, TaskFails, TimeIsOver, WorkerDies};
use StopRequest::{Checkpoint, Force, Graceful, Immediate};

const fn scenario(name: &'static str, opening: Opening, spent: OnSpentCheckpoint) -> Scenario {
    Scenario { name, opening, spent, commits: true, as_whole: false, periodic: false, detached: false, has_store: true }
}

/// All scenarios.
pub(super) const SCENARIOS: &[Scenario] = &[
    scenario("checkpoint", Request(Checkpoint), Escalate),
    scenario("graceful", Request(Graceful), Escalate),
    scenario("immediate", Request(Immediate), Escalate),
    scenario("force", Request(Force), Escalate),
    scenario("finish", SourcesComplete, Escalate),
    Scenario { has_store: false, ..scenario("finish-without-store", SourcesComplete, Escalate) },
    scenario("task-fails", TaskFails, Escalate),
    scenario("worker-dies", WorkerDies, Escalate),
    scenario("ttl", TimeIsOver, Escalate),
    scenario("checkpoint-keep-trying", Request(Checkpoint), KeepTrying),
    scenario("checkpoint-give-back", Request(Checkpoint), GiveBack),
    Scenario { commits: false, ..scenario("checkpoint-no-commits", Request(Checkpoint), Escalate) },
    Scenario { periodic: true, ..scenario("checkpoint-periodic", Request(Checkpoint), Escalate) },
    Scenario { as_whole: true, periodic: true, ..scenario("checkpoint-whole-operator", Request(Checkpoint), Escalate) },
    Scenario { periodic: true, ..scenario("graceful-periodic", Request(Graceful), Escalate) },
    Scenario { detached: true, ..scenario("checkpoint-then-detached", Request(Checkpoint), Escalate) },
];

impl Scenario {
    /// The scenario of this name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// Small limits: a schedule takes some hundred virtual milliseconds at most. Backoffs of one
    /// millisecond with jitter always take two on tokio's clock, so a schedule is the same each
    /// time although the jitter is not.
    pub(super) fn limits(&self) -> Limits {
        let ms = Duration::from_millis;
        Limits {
            ttl: (self.opening == TimeIsOver).then_some(ms(6)),
            final_checkpoint: ms(60),
            finish: ms(40),
            recover: ms(15),
            release: ms(12),
            kill: ms(10),
            verify_every: ms(2),
            order: ms(6),
            journal: ms(6),
            heartbeat: ms(20),
            health_every: ms(5),
            checkpoint_every: self.periodic.then_some(ms(1)),
            checkpoint_retries: 1,
            order_retries: 1,
            journal_retries: 1,
            scheduler_retries: 2,
            backoff_min: ms(1),
            backoff_max: ms(1),
            mailbox_capacity: 16,
        }
    }

    pub(super) fn policy(&self) -> Policy {
        match self.spent {
            KeepTrying => Policy::keep_trying(),
            Escalate => Policy::escalate(),
            GiveBack => Policy::give_back(),
        }
        .jitter_seed(1)
    }
}

#[allow(clippy::expect_used, reason = "the topology is written here, and is sound")]
/// Two workers: a source on the first, and a sink on each, of which the second one's has something
/// to commit.
pub(super) fn topology() -> Arc<Topology> {
    let (one, two) = (WorkerId::new(1), WorkerId::new(2));
    let built = Topology::builder().operator("source", Role::Source, [one]).operator("sink", Role::Inner, [one, two]);
    Arc::new(built.build().expect("two operators with distinct names, each placed on some worker"))
}
