//! What happens to the pods of a run without the controller's doing: evictions, crashes, ends.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{
    api::Api,
    error::ApiError,
    fate::Fates,
    pod::{exit_code, host_says_ended, is_alive, is_terminating, owner, uid},
    watcher::{PodNews, Watcher},
};
use crate::contracts::{JobId, RunId, WorkerId};

/// How long a list is tried before the trouble is reported; whoever follows asks again.
const LIST: Duration = Duration::from_secs(60);

/// What has happened to a worker's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PodChange {
    /// It is being deleted: by a stop, by an eviction (a drained node, a preemption), or by hand. It has until the end of its grace period.
    Leaving,
    /// It has ended, on the word of its node. `code` is the exit code, if it is known.
    Ended {
        /// 0, or the first other exit code among its containers.
        code: Option<i32>,
    },
    /// Its object is gone, and its node has not said that it has ended.
    Removed,
}

/// Follows the pods of a run; [`next`](Self::next) says what has happened.
pub struct Follower {
    watcher: Watcher,
    fates: Arc<Fates>,
    job: JobId,
    run: RunId,
    pods: HashMap<String, (WorkerId, Told)>,
    news: VecDeque<(WorkerId, PodChange)>,
}

/// How far a pod has come, as was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Leaving,
    Over,
}

impl Follower {
    pub(super) fn new(api: Api, fates: Arc<Fates>, selector: String, job: JobId, run: RunId) -> Self {
        let watcher = Watcher::new(api, selector);
        Self { watcher, fates, job, run, pods: HashMap::new(), news: VecDeque::new() }
    }

    /// The next change. Each is told once for each pod. It waits as long as nothing happens.
    ///
    /// # Errors
    /// [`ApiError`] when the pods can't be listed for a minute, or may not be. It can be called again.
    ///
    /// # Cancel safety
    /// Safe: nothing that was heard is lost.
    pub async fn next(&mut self) -> Result<(WorkerId, PodChange), ApiError> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
            }
            match self.watcher.next(Instant::now() + LIST).await? {
                PodNews::Listed(pods) => {
                    let mut before = std::mem::take(&mut self.pods);
                    for pod in &pods {
                        if let Some(known) = before.remove(uid(pod)) {
                            self.pods.insert(uid(pod).to_owned(), known);
                        }
                        self.changed(pod);
                    }
                    for (worker, told) in before.into_values().filter(|(_, told)| *told != Told::Over) {
                        tracing::debug!(?told, worker = worker.get(), "a pod has gone unseen");
                        self.news.push_back((worker, PodChange::Removed));
                    }
                }
                PodNews::Changed(pod) => self.changed(&pod),
                PodNews::Gone(pod) => {
                    self.changed(&pod);
                    let Some((worker, told)) = self.pods.remove(uid(&pod)) else { continue };
                    self.fates.gone(&self.job, self.run, &pod);
                    if told != Told::Over {
                        self.news.push_back((worker, PodChange::Removed));
                    }
                }
            }
        }
    }

    fn changed(&mut self, pod: &Pod) {
        let Some((run, worker)) = owner(pod, &self.job).worker() else { return };
        if run != self.run {
            return;
        }
        self.fates.seen(&self.job, run, pod);
        let (_, told) = self.pods.entry(uid(pod).to_owned()).or_insert((worker, Told::Nothing));
        let now = if !is_alive(pod) || (is_terminating(pod) && host_says_ended(pod)) {
            (Told::Over, PodChange::Ended { code: exit_code(pod) })
        } else if is_terminating(pod) {
            (Told::Leaving, PodChange::Leaving)
        } else {
            return;
        };
        if now.0 > *told {
            *told = now.0;
            self.news.push_back((worker, now.1));
        }
    }
}
