//! Starts that are under way: what a list of pods can't show yet. They are counted as alive, and a forced stop lets no new one through.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    error::StartError,
    pod::{name, uid},
};
use crate::{
    clock::after,
    contracts::{JobId, RunId, SchedulerError, WorkerId},
    text::shortened,
    worker_env::{Fences, WorkerEnv},
};

/// A request whose answer was not heard may take effect for so long: an API server gives it up after its `--request-timeout`, a minute by default.
const MAY_TAKE_EFFECT: Duration = Duration::from_secs(60);

/// The starts that are under way, and the fences of forced stops.
#[derive(Debug, Default)]
pub(super) struct Starts {
    known: Mutex<Known>,
    changed: watch::Sender<()>,
}

/// Under one lock: a start is before a stop or after it.
#[derive(Debug, Default)]
struct Known {
    under_way: HashMap<Key, Start>,
    fences: Fences,
}

type Key = (JobId, RunId, WorkerId);

#[derive(Debug)]
struct Start {
    is_called: bool,
    /// An earlier request may take effect until then.
    uncertain_until: Option<Instant>,
}

impl Starts {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a start.
    pub(super) fn call(this: &Arc<Self>, worker: &WorkerEnv) -> Result<Ticket, StartError> {
        let WorkerEnv { job, run, worker, .. } = worker.clone();
        let mut known = this.lock();
        if !known.fences.lets_through(&job, run) {
            return Err(StartError::Stopped { job, run, worker });
        }
        let start = known.under_way.entry((job.clone(), run, worker));
        let start = start.or_insert(Start { is_called: false, uncertain_until: None });
        if std::mem::replace(&mut start.is_called, true) {
            return Err(StartError::UnderWay { job, run, worker });
        }
        Ok(Ticket { starts: Arc::clone(this), key: (job, run, worker), may_take_effect: false })
    }

    /// A forced stop begins: from here on no start of the run ends well.
    pub(super) fn fence(&self, job: &JobId, run: Option<RunId>) {
        self.lock().fences.raise(job, run);
    }

    /// Whether a forced stop was begun.
    pub(super) fn is_stopped(&self, job: &JobId, run: RunId) -> bool {
        self.lock().fences.refuses(job, run)
    }

    /// The workers of a run, or of all runs, that are being started at this moment.
    pub(super) fn in_flight(&self, job: &JobId, run: Option<RunId>) -> Vec<WorkerId> {
        self.open(job, run).0
    }

    /// And when the first of them is over by itself.
    fn open(&self, job: &JobId, run: Option<RunId>) -> (Vec<WorkerId>, Option<Instant>) {
        let mut known = self.lock();
        let now = Instant::now();
        known.under_way.retain(|_, start| start.is_called || start.uncertain_until.is_some_and(|until| until > now));
        let meant = |key: &Key| key.0 == *job && run.is_none_or(|run| run == key.1);
        let open: Vec<_> = known.under_way.iter().filter(|(key, _)| meant(key)).collect();
        let first =
            open.iter().filter(|(_, start)| !start.is_called).filter_map(|(_, start)| start.uncertain_until).min();
        (open.into_iter().map(|(key, _)| key.2).collect(), first)
    }

    /// Waits until none is under way.
    pub(super) async fn settled(&self, job: &JobId, run: Option<RunId>, until: Instant) -> Result<(), SchedulerError> {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let (workers, next) = self.open(job, run);
            if workers.is_empty() {
                return Ok(());
            }
            let next = next.unwrap_or(until);
            let change = async {
                tokio::select! {
                    // The sender is in `self`, so it is there.
                    _ = changed.changed() => {}
                    () = sleep_until(next) => {}
                }
            };
            if timeout_at(until, change).await.is_err() || Instant::now() >= until {
                let workers = shortened(workers.iter());
                let what = format!(
                    "expected every start to be over, got workers {workers} of which it is not known whether they were created"
                );
                return Err(SchedulerError::Unavailable(what.into()));
            }
        }
    }
}

/// A start that is under way for as long as this is there.
#[derive(Debug)]
pub(super) struct Ticket {
    starts: Arc<Starts>,
    key: Key,
    may_take_effect: bool,
}

impl Ticket {
    /// Its request may take effect after it was given up.
    pub(super) fn may_take_effect(&mut self) {
        self.may_take_effect = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut known = self.starts.lock();
        if let Some(start) = known.under_way.get_mut(&self.key) {
            start.is_called = false;
            if self.may_take_effect {
                start.uncertain_until = Some(after(MAY_TAKE_EFFECT));
            }
            if start.uncertain_until.is_none() {
                known.under_way.remove(&self.key);
            }
        }
        drop(known);
        self.starts.changed.send_replace(());
    }
}

/// A worker's pod that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerPod {
    name: String,
    uid: String,
}

impl WorkerPod {
    pub(super) fn new(pod: &Pod) -> Self {
        Self { name: name(pod).to_owned(), uid: uid(pod).to_owned() }
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod's UID: no other pod ever has it, whatever its name.
    pub fn uid(&self) -> &str {
        &self.uid
    }
}
