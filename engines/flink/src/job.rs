//! One job of a cluster: what is asked about it, and its names.

use std::{
    collections::hash_map::RandomState,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use winddown::{JobId, OpenRun, RunId, WorkerId};

use crate::{
    answers::{
        CheckpointsAnswer, ConfigAnswer, ExceptionsAnswer, GraphAnswer, JobState, JobSummary, JobsAnswer, StatusAnswer,
        TaskManagersAnswer, TriggerAnswer, Triggered, VertexAnswer,
    },
    rest::{RestClient, RestError},
};

/// A job of a Flink cluster, from which its controller and its scheduler are made. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlinkJob {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: RestClient,
    id: String,
    name: String,
    run: RunId,
    refresh: Duration,
    /// Ids of `TaskManager`s; a worker's number is one more than its place.
    task_managers: Mutex<Vec<String>>,
}

/// Why a job can't be stopped at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The id is none.
    #[error("expected a job's id of 32 hexadecimal digits (see `winddown-flink list`), got {got:?}")]
    NoId {
        /// What was given.
        got: String,
    },
    /// The cluster has no answer.
    #[error(transparent)]
    Rest(#[from] RestError),
}

impl FlinkJob {
    /// The job of this id. It asks the cluster once for the job, and how old its answers may be.
    ///
    /// # Errors
    /// [`AttachError`]; [`RestError::NotFound`] in it if there is no such job.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn attach(client: &RestClient, id: &str) -> Result<Self, AttachError> {
        let id = id.to_ascii_lowercase();
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(AttachError::NoId { got: id });
        }
        let graph: GraphAnswer = client.get(&format!("/jobs/{id}")).await?;
        let config: ConfigAnswer = client.get("/config").await?;
        let (run, refresh) = (RunId::new(graph.start_time), Duration::from_millis(config.refresh));
        let inner =
            Inner { client: client.clone(), id, name: graph.name, run, refresh, task_managers: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The jobs that the cluster knows of, those that have ended lately included.
    ///
    /// # Errors
    /// [`RestError`].
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn list(client: &RestClient) -> Result<Vec<JobSummary>, RestError> {
        Ok(client.get::<JobsAnswer>("/jobs/overview").await?.jobs)
    }

    /// The job's id: 32 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The name that its program gave it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The run for [`JobContext::builder`](winddown::JobContext::builder): Flink's id of the job,
    /// and for the run's number the time at which its `JobMaster` started, in milliseconds.
    pub fn open(&self) -> OpenRun {
        OpenRun::without_store(JobId::new(self.id()), self.inner.run)
    }

    /// The job's state now, not from the cache that the answers about its graph come from.
    ///
    /// # Errors
    /// [`RestError`].
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn state(&self) -> Result<JobState, RestError> {
        Ok(self.get::<StatusAnswer>("/status").await?.status)
    }

    /// The id of the `TaskManager` that has this number here.
    pub fn task_manager(&self, worker: WorkerId) -> Option<String> {
        let place = usize::try_from(worker.get().checked_sub(1)?).ok()?;
        self.names().get(place).cloned()
    }

    /// How old an answer about the job's graph may be.
    pub(crate) fn refresh(&self) -> Duration {
        self.inner.refresh
    }

    pub(crate) async fn graph(&self) -> Result<GraphAnswer, RestError> {
        self.get("").await
    }

    pub(crate) async fn checkpoints(&self) -> Result<CheckpointsAnswer, RestError> {
        self.get("/checkpoints").await
    }

    pub(crate) async fn vertex(&self, id: &str) -> Result<VertexAnswer, RestError> {
        self.get(&format!("/vertices/{id}")).await
    }

    /// Why the job failed last.
    pub(crate) async fn newest_exception(&self) -> Option<String> {
        self.get::<ExceptionsAnswer>("/exceptions").await.ok()?.newest()
    }

    pub(crate) async fn task_managers(&self) -> Result<TaskManagersAnswer, RestError> {
        self.inner.client.get("/taskmanagers").await
    }

    pub(crate) async fn triggered(&self, trigger: &str) -> Result<Triggered, RestError> {
        Ok(self.get::<TriggerAnswer>(&format!("/savepoints/{trigger}")).await?.into())
    }

    pub(crate) async fn stop(&self, trigger: &str, drain: bool, savepoints: Option<&str>) -> Result<(), RestError> {
        let mut body = serde_json::json!({ "drain": drain, "triggerId": trigger });
        if let (Some(savepoints), Some(fields)) = (savepoints, body.as_object_mut()) {
            fields.insert("targetDirectory".into(), savepoints.into());
        }
        let path = format!("/jobs/{}/stop", self.id());
        self.inner.client.post::<serde::de::IgnoredAny>(&path, &body).await.map(|_| ())
    }

    /// Cancels the job. One that has ended is as good as cancelled.
    pub(crate) async fn cancel(&self) -> Result<(), RestError> {
        match self.inner.client.patch(&format!("/jobs/{}?mode=cancel", self.id())).await {
            Err(RestError::Refused { status: http::StatusCode::CONFLICT, .. }) => Ok(()),
            other => other,
        }
    }

    pub(crate) fn worker(&self, task_manager: &str) -> WorkerId {
        let mut names = self.names();
        let place = names.iter().position(|name| name == task_manager).unwrap_or_else(|| {
            names.push(task_manager.to_owned());
            names.len() - 1
        });
        WorkerId::new(place as u64 + 1)
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, RestError> {
        self.inner.client.get(&format!("/jobs/{}{path}", self.id())).await
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        // Nothing can panic while it is held.
        self.inner.task_managers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The trigger of the `nth` order of this kind to a job. Everyone who computes it gets the same
/// one, so an order that is repeated, by this program or another, after a lost answer or a crash,
/// is the same order.
pub(crate) fn trigger(job: &str, drain: bool, nth: u32) -> String {
    let kind = if drain { "drain" } else { "savepoint" };
    // FNV-1a with 128 bits: it must be the same in every version of this program.
    let text = format!("winddown/{job}/{kind}/{nth}");
    let hash = text.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    format!("{hash:032x}")
}

/// Lengthens a wait by up to a half, so that many who wait for one `JobManager` do not come back
/// together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    let random = u32::try_from(RandomState::new().build_hasher().finish() & 0xff).unwrap_or(0);
    wait + wait * random / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_order_has_the_same_trigger_and_another_order_another() {
        let job = "59fb3e87e2c1939ef85565f931a51227";
        assert_eq!(trigger(job, false, 0), trigger(job, false, 0));
        let mut all =
            vec![trigger(job, false, 0), trigger(job, true, 0), trigger(job, false, 1), trigger("0", false, 0)];
        assert!(all.iter().all(|id| id.len() == 32));
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
    }
}
