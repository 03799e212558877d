//! Which jobs a server knows, and the way into the mailbox of each.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch},
    time::{Instant, timeout_at},
};
use tonic::Status;

use super::validate::Refusal;
use crate::{
    clock::after,
    contracts::{Event, JobId, RunId, WorkerEvent, WorkerId},
    grpc::{GrpcTransport, guard::permits},
    mailbox::{JobGone, JobSender, TryEventError},
};

/// The jobs of a server, by name.
pub(super) struct Registry {
    jobs: RwLock<Jobs>,
    began: Instant,
    /// Told of every job that comes.
    changes: watch::Sender<()>,
    /// One permit for each call that waits for a job to come.
    patience: Semaphore,
}

#[derive(Default)]
struct Jobs {
    hosted: HashMap<String, Arc<Hosted>>,
    /// When each job went that is not hosted any more.
    gone: HashMap<String, Instant>,
}

/// So many calls wait for jobs to come. Each holds its message.
const PATIENCE: usize = 1024;
/// So many jobs that went are remembered; beyond it those that went first are forgotten.
const REMEMBERED: usize = 4096;

impl Default for Registry {
    fn default() -> Self {
        Self {
            jobs: RwLock::default(),
            began: Instant::now(),
            changes: watch::Sender::default(),
            patience: Semaphore::new(PATIENCE),
        }
    }
}

/// One run that a server takes messages for.
pub(super) struct Hosted {
    pub(super) transport: Arc<GrpcTransport>,
    sender: JobSender,
    /// One permit for each call that waits for room in the mailbox.
    waiting: Semaphore,
    /// One permit for each byte of large messages that are not answered yet.
    room: (Arc<Semaphore>, u32),
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
        room: usize,
    ) -> Result<Registration, RegisterError> {
        let waiting = Semaphore::new((waiting as usize).clamp(1, Semaphore::MAX_PERMITS));
        let room = (Arc::new(Semaphore::new(permits(room) as usize)), permits(room));
        let hosted = Arc::new(Hosted { transport, sender, waiting, room, leaving: watch::Sender::default() });
        let (job, got) = (hosted.transport.job(), hosted.transport.run());
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        match jobs.hosted.entry(job.as_str().to_owned()) {
            Entry::Occupied(place) if place.get().transport.run() >= got => {
                let registered = place.get().transport.run();
                return Err(RegisterError { job: job.clone(), registered, got });
            }
            Entry::Occupied(mut place) => drop(place.insert(Arc::clone(&hosted))),
            Entry::Vacant(place) => drop(place.insert(Arc::clone(&hosted))),
        }
        jobs.gone.remove(job.as_str());
        drop(jobs);
        self.changes.send_replace(());
        Ok(Registration { registry: Arc::clone(self), hosted })
    }

    pub(super) fn get(&self, job: &str) -> Option<Arc<Hosted>> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).hosted.get(job).cloned()
    }

    /// For a call that waits for `job` to be registered, for at most `wait`.
    pub(super) fn patience<'a>(&'a self, job: &'a str, wait: Duration) -> Patience<'a> {
        Patience { registry: self, job, wait, deadline: after(wait), changes: self.changes.subscribe(), permit: None }
    }

    /// Whether the job was here, or may have been at a server before this one, not long ago.
    fn may_come(&self, job: &str, within: Duration) -> bool {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        // One that is registered still is one whose context has gone: its registration is about to.
        let gone = jobs.gone.get(job).is_some_and(|gone| gone.elapsed() < within);
        gone || jobs.hosted.contains_key(job) || self.began.elapsed() < within
    }

    /// How many workers the runs have that are registered.
    pub(super) fn workers(&self) -> usize {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.hosted.values().map(|hosted| hosted.transport.topology().workers().len()).sum()
    }

    pub(super) fn jobs(&self) -> Vec<String> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).hosted.keys().cloned().collect()
    }
}

/// A call that waits for its job.
pub(super) struct Patience<'a> {
    registry: &'a Registry,
    job: &'a str,
    wait: Duration,
    deadline: Instant,
    changes: watch::Receiver<()>,
    permit: Option<SemaphorePermit<'a>>,
}

impl Patience<'_> {
    /// Whether the call is worth another attempt after an answer like this: not for an error that no registration can mend, not where nobody
    /// knows why the job should come, not for ever. Returns as soon as a job has come since the last attempt.
    pub(super) async fn again(&mut self, refusal: &Refusal) -> bool {
        if !refusal.until_registered {
            return false;
        }
        if self.permit.is_none() && self.registry.may_come(self.job, self.wait) {
            self.permit = self.registry.patience.try_acquire().ok();
        }
        self.permit.is_some() && timeout_at(self.deadline, self.changes.changed()).await.is_ok()
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
        let name = self.hosted.transport.job().as_str();
        // A newer run may have taken the place.
        if jobs.hosted.get(name).is_some_and(|it| Arc::ptr_eq(it, &self.hosted)) {
            jobs.hosted.remove(name);
            if jobs.gone.len() >= REMEMBERED
                && let Some(first) = jobs.gone.iter().min_by_key(|(_, gone)| **gone).map(|(name, _)| name.clone())
            {
                jobs.gone.remove(&first);
            }
            jobs.gone.insert(name.to_owned(), Instant::now());
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("transport", &self.hosted.transport).finish_non_exhaustive()
    }
}

impl Hosted {
    /// Room for a large message, until it is answered.
    pub(super) async fn room(&self, len: usize) -> Option<OwnedSemaphorePermit> {
        let (room, most) = &self.room;
        // It is never closed.
        Arc::clone(room).acquire_many_owned(permits(len).min(*most)).await.ok()
    }

    /// Passes an event on; waits for room for as long as it takes.
    pub(super) async fn deliver_at_length(&self, worker: WorkerId, event: Event) -> Result<(), Refusal> {
        let event = WorkerEvent::new(self.transport.run(), worker, event);
        let event = match self.sender.try_event(event) {
            Ok(()) => return Ok(()),
            Err(TryEventError::Gone(gone)) => return Err(Refusal::until_registered(self.gone(gone))),
            Err(TryEventError::Full(event)) => event,
        };
        // It is never closed.
        let _place = self.waiting.acquire().await;
        self.sender.event(event).await.map_err(|gone| Refusal::until_registered(self.gone(gone)))
    }

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

    fn transport(run: u64) -> Arc<GrpcTransport> {
        let topology = crate::Topology::builder().operator("source", Role::Source, [WorkerId::new(1)]).build().unwrap();
        Arc::new(GrpcTransport::new(&OpenRun::without_store("words", RunId::new(run)), topology))
    }

    /// Whether a call for `job` is worth another attempt, and after how long that is known.
    async fn again(registry: &Registry, job: &str, wait: Duration) -> (bool, Duration) {
        let begun = Instant::now();
        let refusal = Refusal::until_registered(Status::not_found("no"));
        (registry.patience(job, wait).again(&refusal).await, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a4_a_call_waits_for_a_job_that_was_here_a_moment_ago_and_for_any_at_a_server_that_has_just_begun() {
        let (registry, mailbox, wait) = (Arc::<Registry>::default(), Mailbox::new(1), Duration::from_secs(30));
        assert_eq!(again(&registry, "anything", wait).await, (false, wait), "the server is new");
        assert_eq!(again(&registry, "anything", wait).await, (false, Duration::ZERO), "it is not any more");

        drop(registry.register(transport(1), mailbox.sender(), 1, 1).unwrap());
        let come = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            registry.register(transport(1), mailbox.sender(), 1, 1).unwrap()
        };
        let (registration, outcome) = tokio::join!(come, again(&registry, "words", wait));
        assert_eq!(outcome, (true, Duration::from_secs(3)));
        drop(registration);
        assert_eq!(again(&registry, "words", wait).await, (false, wait));
        assert_eq!(again(&registry, "words", wait).await, (false, Duration::ZERO), "longer ago than that");

        let fault = Refusal::from(Status::invalid_argument("no"));
        assert!(!registry.patience("words", wait).again(&fault).await, "no registration mends it");
    }

    #[tokio::test(start_paused = true)]
    async fn a4_so_many_calls_wait_and_no_more() {
        let (registry, wait) = (Registry::default(), Duration::from_secs(30));
        let _taken = registry.patience.try_acquire_many(u32::try_from(PATIENCE).unwrap()).unwrap();
        assert_eq!(again(&registry, "anything", wait).await, (false, Duration::ZERO));
    }

    /// So memory is bounded however many calls come in.
    #[tokio::test(start_paused = true)]
    async fn no_more_calls_wait_for_a_full_mailbox_than_may() {
        let (mailbox, worker, wait) = (Mailbox::new(1), WorkerId::new(1), Duration::from_secs(4));
        let topology =
            crate::contracts::Topology::builder().operator("source", Role::Source, [worker]).build().unwrap();
        let transport = Arc::new(GrpcTransport::new(&OpenRun::without_store("words", RunId::new(1)), topology));
        let registration = Arc::<Registry>::default().register(transport, mailbox.sender(), 1, 1).unwrap();
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
