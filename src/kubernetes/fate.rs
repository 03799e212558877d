//! Records for each pod that this scheduler has started whether its node has confirmed its end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Pod;

use super::pod::{host_says_ended, node, uid};
use crate::contracts::{ConfirmedBy, JobId, RunId};

/// The fates of runs.
#[derive(Debug, Default)]
pub(super) struct Fates(Mutex<HashMap<JobId, BTreeMap<RunId, Fate>>>);

/// The fate of one run's pods, by their UIDs.
type Fate = HashMap<String, Seen>;

/// What is known about one pod.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// This scheduler has started it. Nothing is certain about a run that another scheduler
    /// started: that one may have removed other pods of it, and nobody knows how those ended.
    own: bool,
    /// The node has confirmed that all containers have ended.
    ended: bool,
}

impl Fates {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, BTreeMap<RunId, Fate>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a new pod, and drops older runs, whose evidence has been read by then.
    pub(super) fn started(&self, job: &JobId, run: RunId, pod: &Pod) {
        let mut fates = self.lock();
        let runs = fates.entry(job.clone()).or_default();
        runs.retain(|of, _| *of >= run);
        // A list or a watch may have been faster than the answer to the create.
        runs.entry(run).or_default().entry(uid(pod).to_owned()).or_default().own = true;
    }

    /// A pod as it is, or was last.
    pub(super) fn seen(&self, job: &JobId, run: RunId, pod: &Pod) {
        let mut fates = self.lock();
        let fate = fates.entry(job.clone()).or_default().entry(run).or_default();
        // Without a node, a pod counts as ended only once it is gone.
        fate.entry(uid(pod).to_owned()).or_default().ended |= node(pod).is_some() && host_says_ended(pod);
    }

    /// A pod that is gone, in its last state.
    pub(super) fn gone(&self, job: &JobId, run: RunId, pod: &Pod) {
        self.seen(job, run, pod);
        if let Some(seen) = self.lock().get_mut(job).and_then(|runs| runs.get_mut(&run)?.get_mut(uid(pod))) {
            seen.ended |= host_says_ended(pod);
        }
    }

    /// Which source confirms that the pods of a run, or of all runs, are gone.
    pub(super) fn confirmed_by(&self, job: &JobId, run: Option<RunId>) -> ConfirmedBy {
        let fates = self.lock();
        let mut runs = fates.get(job).into_iter().flatten().filter(|(of, _)| run.is_none_or(|run| run == **of));
        let known = runs.clone().next().is_some();
        let sure = |fate: &Fate| fate.values().all(|seen| seen.own && seen.ended);
        if known && runs.all(|(_, fate)| sure(fate)) { ConfirmedBy::Host } else { ConfirmedBy::Records }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RUN: RunId = RunId::new(7);

    fn pod(uid: &str, node: Option<&str>, ended: bool) -> Pod {
        let state = if ended { json!({ "terminated": { "exitCode": 0 } }) } else { json!({ "running": {} }) };
        serde_json::from_value(json!({
            "metadata": { "uid": uid },
            "spec": { "nodeName": node, "containers": [{ "name": "work" }] },
            "status": { "containerStatuses": [
                { "name": "work", "ready": false, "restartCount": 0, "image": "i", "imageID": "i", "state": state },
            ] },
        }))
        .unwrap()
    }

    #[test]
    fn the_host_confirms_only_what_was_seen_to_end_from_beginning_to_end() {
        let (job, fates) = (JobId::from("words"), Fates::default());
        let confirmed = || fates.confirmed_by(&job, Some(RUN));
        assert_eq!(confirmed(), ConfirmedBy::Records, "of what it never saw it knows nothing");
        for uid in ["a", "b"] {
            fates.started(&job, RUN, &pod(uid, None, false));
        }
        fates.seen(&job, RUN, &pod("a", Some("n"), true));
        assert_eq!(confirmed(), ConfirmedBy::Records, "b runs");
        fates.gone(&job, RUN, &pod("b", Some("n"), false));
        assert_eq!(confirmed(), ConfirmedBy::Records, "b was removed while it ran");
        fates.gone(&job, RUN, &pod("b", Some("n"), true));
        assert_eq!(confirmed(), ConfirmedBy::Host);
        fates.seen(&job, RUN, &pod("c", Some("n"), true));
        assert_eq!(confirmed(), ConfirmedBy::Records, "c was another's");
        // The watch was faster than the answer to the create.
        fates.seen(&job, RUN.next(), &pod("d", None, false));
        fates.started(&job, RUN.next(), &pod("d", None, false));
        fates.seen(&job, RUN.next(), &pod("d", None, false));
        assert_eq!(fates.confirmed_by(&job, None), ConfirmedBy::Records, "d waits for a node");
        fates.gone(&job, RUN.next(), &pod("d", None, false));
        assert_eq!(fates.confirmed_by(&job, None), ConfirmedBy::Host, "d has never run, and older runs are forgotten");
    }
}
