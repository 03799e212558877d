//! Reports the ends of workers, as their scheduler learns of them, to their run.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{JobSender, TryEventError};
use crate::contracts::{BoxFuture, EndListener, Event, JobId, RunId, WorkerEvent, WorkerId};

/// What a scheduler needs for [`Scheduler::report_ends`](crate::contracts::Scheduler::report_ends):
/// it remembers which workers of a job's newest run are gone, and reports each once, as soon as the
/// run can receive it.
///
/// ```
/// use std::sync::Arc;
/// use winddown::{Mailbox, RunId, WorkerId, contracts::{Event, WorkerEvent}, mailbox::WorkerEnds};
///
/// let (ends, mut mailbox) = (WorkerEnds::default(), Mailbox::new(8));
/// let (job, run, worker) = ("words".into(), RunId::new(1), WorkerId::new(3));
/// ends.gone(&job, run, worker); // before anybody listens
/// ends.report_to(&job, run, Arc::new(mailbox.sender()));
/// assert_eq!(mailbox.try_recv(), Some(WorkerEvent::new(run, worker, Event::WorkerFinished)));
/// ```
#[derive(Default)]
pub struct WorkerEnds(Mutex<HashMap<JobId, Ends>>);

/// The ends of one run.
struct Ends {
    run: RunId,
    gone: BTreeSet<WorkerId>,
    to: Option<Arc<dyn EndListener>>,
}

impl fmt::Debug for WorkerEnds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs: Vec<_> = self.lock().keys().cloned().collect();
        f.debug_struct("WorkerEnds").field("jobs", &jobs).finish_non_exhaustive()
    }
}

impl WorkerEnds {
    /// The workers of `run` that are gone are told of to `to`, until its job is gone; those that
    /// have gone before too.
    pub fn report_to(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>) {
        let mut jobs = self.lock();
        // Entries without a receiver are removed here, so that they do not pile up.
        jobs.retain(|_, ends| ends.to.as_ref().is_none_or(|to| !to.is_closed()));
        let Some(ends) = newest(&mut jobs, job, run) else { return };
        for worker in &ends.gone {
            to.ended(run, *worker);
        }
        ends.to = Some(to);
    }

    /// A worker is gone. Its last message is already in the mailbox, if it arrived at all.
    ///
    /// If the mailbox is full, the report waits for room on the runtime on which this is called.
    pub fn gone(&self, job: &JobId, run: RunId, worker: WorkerId) {
        let mut jobs = self.lock();
        let Some(ends) = newest(&mut jobs, job, run) else { return };
        if ends.gone.insert(worker)
            && let Some(to) = &ends.to
        {
            to.ended(run, worker);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Ends>> {
        // No foreign code runs while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The ends of this run, unless a newer one is known. Run numbers only grow, so an older one is
/// never waited for.
fn newest<'a>(jobs: &'a mut HashMap<JobId, Ends>, job: &JobId, run: RunId) -> Option<&'a mut Ends> {
    let ends = jobs.entry(job.clone()).or_insert_with(|| Ends { run, gone: BTreeSet::new(), to: None });
    if ends.run < run {
        *ends = Ends { run, gone: BTreeSet::new(), to: None };
    }
    (ends.run == run).then_some(ends)
}

impl EndListener for JobSender {
    fn ended(&self, run: RunId, worker: WorkerId) {
        match self.try_event(WorkerEvent::new(run, worker, Event::WorkerFinished)) {
            Ok(()) => tracing::debug!(%run, %worker, "the end of a worker was told to its run"),
            // The run is over: nobody needs to know.
            Err(TryEventError::Gone(_)) => {}
            Err(TryEventError::Full(event)) => wait_for_room(self, &event),
        }
    }

    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::closed(self))
    }
}

#[cfg(any(feature = "worker", feature = "process", feature = "kubernetes"))]
fn wait_for_room(to: &JobSender, event: &WorkerEvent) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            let (to, event) = (to.clone(), event.clone());
            runtime.spawn(async move { to.event(event).await });
        }
        Err(_) => missed(event),
    }
}

#[cfg(not(any(feature = "worker", feature = "process", feature = "kubernetes")))]
fn wait_for_room(_: &JobSender, event: &WorkerEvent) {
    missed(event);
}

/// Its missing heartbeats will reveal it.
fn missed(event: &WorkerEvent) {
    tracing::warn!(run = %event.run, worker = %event.worker, "the end of a worker could not be told: the mailbox is full");
}
