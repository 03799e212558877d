//! Which jobs a server knows, and the way into the mailbox of each.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::{Semaphore, watch};
use tonic::Status;

use crate::{
    contracts::{Event, JobId, RunId, WorkerEvent, WorkerId},
    grpc::GrpcTransport,
    mailbox::{JobGone, JobSender, TryEventError},
};

/// The jobs of a server, by name.
#[derive(Default)]
pub(super) struct Registry {
    jobs: RwLock<HashMap<String, Arc<Hosted>>>,
}

/// One run that a server takes messages for.
pub(super) struct Hosted {
    pub(super) transport: Arc<GrpcTransport>,
    sender: JobSender,
    /// One permit for each call that waits for room in the mailbox.
    waiting: Semaphore,
    leaving: watch::Sender<BTreeSet<WorkerId>>,
}

/// A run that is not newer than the one that is registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a run of job `{job}` after run {registered}, which is registered, got run {got}")]
pub struct RegisterError {
    /// The job.
    pub job: JobId,
    /// The run that is registered.
    pub registered: RunId,
    /// The run that was to be registered.
    pub got: RunId,
}

/// A job's place in a [`ControllerServer`](crate::grpc::ControllerServer). Dropping it unregisters the run; messages from its workers
/// are answered `NOT_FOUND` then.
#[must_use = "dropping it unregisters the job"]
pub struct Registration {
    registry: Arc<Registry>,
    hosted: Arc<Hosted>,
}

impl Registry {
    pub(super) fn register(
        self: &Arc<Self>,
        transport: Arc<GrpcTransport>,
        sender: JobSender,
        waiting: u32,
    ) -> Result<Registration, RegisterError> {
        let waiting = Semaphore::new((waiting as usize).clamp(1, Semaphore::MAX_PERMITS));
        let hosted = Arc::new(Hosted { transport, sender, waiting, leaving: watch::Sender::default() });
        let (job, got) = (hosted.transport.job(), hosted.transport.run());
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        match jobs.entry(job.as_str().to_owned()) {
            Entry::Occupied(place) if place.get().transport.run() >= got => {
                let registered = place.get().transport.run();
                return Err(RegisterError { job: job.clone(), registered, got });
            }
            Entry::Occupied(mut place) => drop(place.insert(Arc::clone(&hosted))),
            Entry::Vacant(place) => drop(place.insert(Arc::clone(&hosted))),
        }
        drop(jobs);
        Ok(Registration { registry: Arc::clone(self), hosted })
    }

    pub(super) fn get(&self, job: &str) -> Option<Arc<Hosted>> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).get(job).cloned()
    }

    pub(super) fn jobs(&self) -> Vec<String> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

impl Registration {
    /// The workers that were asked to leave from outside (a pod that is evicted, say) and gave
    /// [notice](crate::grpc::GrpcWorker::notice). They work on for a while: a stop request made now may still get its final checkpoint.
    ///
    /// ```
    /// # async fn example(registration: winddown::grpc::Registration, job: winddown::JobSender) {
    /// if registration.leaving().wait_for(|leaving| !leaving.is_empty()).await.is_ok() {
    ///     let _ = job.request(winddown::StopRequest::Checkpoint);
    /// }
    /// # }
    /// ```
    pub fn leaving(&self) -> watch::Receiver<BTreeSet<WorkerId>> {
        self.hosted.leaving.subscribe()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut jobs = self.registry.jobs.write().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(place) = jobs.entry(self.hosted.transport.job().as_str().to_owned()) {
            // A newer run may have taken the place.
            if Arc::ptr_eq(place.get(), &self.hosted) {
                place.remove();
            }
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("transport", &self.hosted.transport).finish_non_exhaustive()
    }
}

impl Hosted {
    /// Passes an event on; waits up to `wait` for room.
    pub(super) async fn deliver(&self, worker: WorkerId, event: Event, wait: Duration) -> Result<(), Status> {
        let event = WorkerEvent::new(self.transport.run(), worker, event);
        let event = match self.sender.try_event(event) {
            Ok(()) => return Ok(()),
            Err(TryEventError::Gone(gone)) => return Err(self.gone(gone)),
            Err(TryEventError::Full(event)) => event,
        };
        let full = |what: &str| {
            let job = self.transport.job();
            Status::resource_exhausted(format!("the mailbox of job `{job}` is full, and {what}; send it again later"))
        };
        let _place = self.waiting.try_acquire().map_err(|_| full("too many calls wait for it already"))?;
        match tokio::time::timeout(wait, self.sender.event(event)).await {
            Ok(delivered) => delivered.map_err(|gone| self.gone(gone)),
            Err(_) => Err(full(&format!("was so for {}", crate::text::rounded(wait)))),
        }
    }

    /// A sign of life that may be lost: it does not wait, so that a full mailbox can't keep a worker from registering.
    pub(super) fn hint(&self, worker: WorkerId) -> Result<(), Status> {
        let event = WorkerEvent::new(self.transport.run(), worker, Event::Heartbeat);
        match self.sender.try_event(event) {
            Err(TryEventError::Gone(gone)) => Err(self.gone(gone)),
            Ok(()) | Err(TryEventError::Full(_)) => Ok(()),
        }
    }

    /// A worker was asked to leave.
    pub(super) fn note_leaving(&self, worker: WorkerId) {
        if self.leaving.send_if_modified(|leaving| leaving.insert(worker)) {
            tracing::warn!(job = %self.transport.job(), worker = worker.get(), "a worker was asked to leave, and gives notice");
        }
    }

    fn gone(&self, gone: JobGone) -> Status {
        Status::not_found(format!("job `{}`: {gone}", self.transport.job()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contracts::{OpenRun, Role},
        mailbox::Mailbox,
    };

    /// So memory is bounded however many calls come in.
    #[tokio::test(start_paused = true)]
    async fn no_more_calls_wait_for_a_full_mailbox_than_may() {
        let (mailbox, worker, wait) = (Mailbox::new(1), WorkerId::new(1), Duration::from_secs(4));
        let topology =
            crate::contracts::Topology::builder().operator("source", Role::Source, [worker]).build().unwrap();
        let transport = Arc::new(GrpcTransport::new(&OpenRun::without_store("words", RunId::new(1)), topology));
        let registration = Arc::<Registry>::default().register(transport, mailbox.sender(), 1).unwrap();
        let hosted = &registration.hosted;
        let say = || hosted.deliver(worker, Event::Heartbeat, wait);
        say().await.unwrap();

        let begun = tokio::time::Instant::now();
        let second = async { (say().await.unwrap_err(), begun.elapsed()) };
        let third = async { (say().await.unwrap_err(), begun.elapsed()) };
        let ((waited, after), (refused, at)) = tokio::join!(second, third);
        assert!(waited.message().contains("was so for 4s") && after == wait, "{waited:?} {after:?}");
        assert!(refused.message().contains("too many calls wait for it already") && at.is_zero(), "{refused:?} {at:?}");
        hosted.hint(worker).unwrap();
    }
}
