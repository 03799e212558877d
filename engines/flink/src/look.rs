//! One round of questions to the cluster: it gives the order that is due, then asks how things are.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    answers::{CheckpointsAnswer, GraphAnswer, JobState, Triggered},
    job::{FlinkJob, jittered, trigger},
    rest::RestError,
    savepoint::{Mount, read_metadata, stopped_with},
};

/// What is wanted of the job, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Want {
    /// It may run on.
    Nothing,
    /// A stop with a savepoint; `drain` is a stop after which it is not meant to be resumed.
    Savepoint { drain: bool },
    /// A cancellation.
    Cancel,
}

/// What a round is to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) want: Want,
    /// Whether the order was answered already.
    pub(crate) given: bool,
    /// The number of the trigger.
    pub(crate) nth: u32,
    /// How long to wait first.
    pub(crate) pause: Duration,
    pub(crate) savepoints: Option<Arc<str>>,
    pub(crate) mounts: Arc<[Mount]>,
    /// From then on, no answer about the ended job comes from a cache that knew it alive.
    pub(crate) settled: Option<Instant>,
}

/// What a round has found out.
#[derive(Debug)]
pub(crate) struct Look {
    /// The number of the trigger that is in force, if an order was due.
    pub(crate) order: Option<Result<u32, RestError>>,
    pub(crate) triggered: Option<Result<Triggered, RestError>>,
    pub(crate) state: Result<JobState, RestError>,
    pub(crate) detail: Option<Result<Detail, RestError>>,
}

/// The parts of the job.
#[derive(Debug)]
pub(crate) struct Detail {
    pub(crate) graph: GraphAnswer,
    pub(crate) checkpoints: CheckpointsAnswer,
    /// Whether these are the last answers about an ended job.
    pub(crate) is_final: bool,
    /// Whether the savepoint that the job stopped with can be read.
    pub(crate) savepoint: Option<Result<(), String>>,
    /// Why the job failed.
    pub(crate) cause: Option<String>,
}

/// Earlier orders that failed before this program came are skipped, but not for ever.
const MOST_TRIGGERS: u32 = 10_000;

pub(crate) async fn look(job: FlinkJob, plan: Plan) -> Look {
    sleep(jittered(plan.pause)).await;
    let order = if plan.given { None } else { give(&job, &plan).await };
    let nth = match &order {
        Some(Ok(nth)) => Some(*nth),
        Some(Err(_)) => None,
        None => plan.given.then_some(plan.nth),
    };
    let triggered = match (plan.want, nth) {
        (Want::Savepoint { drain }, Some(nth)) => Some(job.triggered(&trigger(job.id(), drain, nth)).await),
        _ => None,
    };
    let state = job.state().await;
    let detail = if state.is_ok() { Some(detail(&job, &plan).await) } else { None };
    Look { order, triggered, state, detail }
}

async fn give(job: &FlinkJob, plan: &Plan) -> Option<Result<u32, RestError>> {
    match plan.want {
        Want::Nothing => None,
        Want::Cancel => Some(job.cancel().await.map(|()| 0)),
        Want::Savepoint { drain } => Some(stop(job, plan, drain).await),
    }
}

/// Joins the order that is under way, or gives the first one that has not failed yet.
async fn stop(job: &FlinkJob, plan: &Plan, drain: bool) -> Result<u32, RestError> {
    let mut nth = plan.nth;
    loop {
        let id = trigger(job.id(), drain, nth);
        match job.triggered(&id).await {
            Ok(Triggered::Failed { .. }) if nth < MOST_TRIGGERS => nth += 1,
            Ok(_) => return Ok(nth),
            Err(error) if error.is_not_found() => {
                return job.stop(&id, drain, plan.savepoints.as_deref()).await.map(|()| nth);
            }
            Err(error) => return Err(error),
        }
    }
}

async fn detail(job: &FlinkJob, plan: &Plan) -> Result<Detail, RestError> {
    let is_settled = plan.settled.is_some_and(|settled| Instant::now() >= settled);
    let (graph, checkpoints) = (job.graph().await?, job.checkpoints().await?);
    let mut savepoint = None;
    if graph.state == JobState::Finished
        && matches!(plan.want, Want::Savepoint { .. })
        && let Some(location) = stopped_with(&checkpoints).and_then(|it| it.external_path.clone())
    {
        let mounts = Arc::clone(&plan.mounts);
        let read = tokio::task::spawn_blocking(move || read_metadata(&location, &mounts)).await;
        savepoint = Some(read.unwrap_or_else(|error| Err(format!("the savepoint could not be read: {error}"))));
    }
    let cause = if graph.state == JobState::Failed { job.newest_exception().await } else { None };
    // The two answers come from two caches. A savepoint that is there needs no later look.
    let is_final = graph.state.is_globally_terminal() && (is_settled || savepoint.is_some());
    Ok(Detail { graph, checkpoints, is_final, savepoint, cause })
}
