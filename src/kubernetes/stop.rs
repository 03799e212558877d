//! One call to stop the pods of a job: delete each by its UID, then watch until every object is gone.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use serde::de::IgnoredAny;
use tokio::time::{Instant, timeout_at};

use super::{
    api::{Api, Ask},
    error::{ApiError, Trouble},
    fate::Fates,
    pod::{Owner, describe, name, owner, uid},
    watcher::{PodNews, Watcher},
};
use crate::{
    contracts::{JobId, RunId, SchedulerError},
    text::shortened,
};

/// The grace period that all pods are to have from some moment on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) at: Instant,
    pub(super) grace: u32,
}

/// What is to be stopped, and how.
pub(super) struct Stop<'a> {
    pub(super) api: &'a Api,
    pub(super) fates: &'a Fates,
    pub(super) job: &'a JobId,
    pub(super) selector: String,
    /// The first is to be done at once, the second may follow.
    pub(super) first: Step,
    pub(super) then: Option<Step>,
    pub(super) until: Instant,
}

/// A pod that is still there, and the grace period that it was given.
struct Left {
    pod: Pod,
    /// Where its labels say it.
    run: Option<RunId>,
    asked: Option<u32>,
}

impl Stop<'_> {
    pub(super) async fn run(mut self) -> Result<(), SchedulerError> {
        let began = Instant::now();
        let mut watcher = Watcher::new(self.api.clone(), self.selector.clone());
        let mut left = BTreeMap::new();
        loop {
            let next_step = self.then.map_or(self.until, |step| step.at.min(self.until));
            match timeout_at(next_step, watcher.next(self.until)).await {
                Ok(news) => self.take_in(news?, &mut left),
                Err(_) if Instant::now() >= self.until => return Err(lingering(&left, began.elapsed())),
                Err(_) => self.first = self.then.take().unwrap_or(self.first),
            }
            if left.is_empty() && watcher.has_listed() {
                return Ok(());
            }
            let ordered = self.order(&mut left);
            match self.then {
                // A pod whose delete hangs does not keep the others from the next step (invariant I9), which is an order to it as well.
                Some(step) => timeout_at(step.at, ordered).await.unwrap_or(Ok(()))?,
                None => ordered.await?,
            }
        }
    }

    fn take_in(&self, news: PodNews, left: &mut BTreeMap<String, Left>) {
        match news {
            PodNews::Listed(pods) => {
                let mut before = std::mem::take(left);
                for pod in pods {
                    let asked = before.remove(uid(&pod)).and_then(|left| left.asked);
                    self.keep(pod, asked, left);
                }
                // What has gone unseen: nobody has heard its node say anything.
            }
            PodNews::Changed(pod) => {
                let asked = left.get(uid(&pod)).and_then(|left| left.asked);
                self.keep(*pod, asked, left);
            }
            PodNews::Gone(pod) => {
                if let Some(Left { run: Some(run), .. }) = left.remove(uid(&pod)) {
                    self.fates.gone(self.job, run, &pod);
                }
            }
        }
    }

    fn keep(&self, pod: Pod, asked: Option<u32>, left: &mut BTreeMap<String, Left>) {
        let run = match owner(&pod, self.job) {
            Owner::Another => return,
            Owner::Worker(run, _) => Some(run),
            // It is the job's, and was selected: whichever worker it is, it is meant.
            Owner::Unreadable(_) => None,
        };
        if let Some(run) = run {
            self.fates.seen(self.job, run, &pod);
        }
        left.insert(uid(&pod).to_owned(), Left { pod, run, asked });
    }

    /// Deletes, all at once, the pods that have not been given this step's grace period. One that can't be deleted keeps no other from
    /// being deleted (invariant I9).
    async fn order(&self, left: &mut BTreeMap<String, Left>) -> Result<(), ApiError> {
        let grace = self.first.grace;
        let new = left.values_mut().filter(|left| left.asked != Some(grace));
        let mut answers: FuturesUnordered<_> = new
            .map(|left| async move {
                let result = self.delete(&left.pod, grace).await;
                if result.is_ok() {
                    left.asked = Some(grace);
                }
                result
            })
            .collect();
        let mut failed = None;
        while let Some(answer) = answers.next().await {
            failed = failed.or(answer.err());
        }
        failed.map_or(Ok(()), Err)
    }

    async fn delete(&self, pod: &Pod, grace: u32) -> Result<(), ApiError> {
        let params = DeleteParams {
            grace_period_seconds: Some(grace),
            // Names are used again; this pod, and no newer one of its name.
            preconditions: Some(Preconditions { uid: Some(uid(pod).to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.api.call::<Pod, IgnoredAny>(name(pod), &Ask::Delete(params), self.until).await {
            Err(error) if error.trouble == Trouble::Conflict => {
                tracing::info!(
                    pod = name(pod),
                    uid = uid(pod),
                    said = &*error.said,
                    "its name is another pod's by now; left alone"
                );
                Ok(())
            }
            Err(error) if error.trouble == Trouble::NotFound => Ok(()),
            answer => answer.map(drop),
        }
    }
}

fn lingering(left: &BTreeMap<String, Left>, after: Duration) -> SchedulerError {
    let after = crate::text::rounded(Duration::from_secs(after.as_secs()));
    let pods = shortened(left.values().map(|left| describe(&left.pod)));
    SchedulerError::Unavailable(
        format!("expected every pod to be gone {after} after the order, got {}: {pods}", left.len()).into(),
    )
}
