//! The scheduler: its settings, starting workers, and the [`Scheduler`] contract.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::Client;
use tokio::time::Instant;

use super::{
    api::{Api, Ask},
    error::{ApiError, StartError, Trouble},
    fate::Fates,
    follow::{Follower, PodChange},
    lease::Leadership,
    names::{START_ANNOTATION, selector},
    pod::{Common, Owner, check, is_alive, make, name, owner},
    starts::{Starts, Ticket, WorkerPod},
    stop::{Step, Stop},
};
use crate::{
    clock::after,
    contracts::{ConfirmedBy, EndListener, JobId, RunId, Scheduler, SchedulerError, WorkerId},
    mailbox::WorkerEnds,
    worker_env::WorkerEnv,
};

/// The shortest grace period with which the API server keeps a pod until its node has confirmed the
/// end. At 0, it forgets the pod at once.
const SHORTEST_GRACE: u32 = 1;

/// Runs workers as pods. A handle that is cheap to clone; see the [module](super) for its
/// guarantees.
#[derive(Clone)]
pub struct KubernetesScheduler {
    shared: Arc<Shared>,
}

struct Shared {
    api: Api,
    settings: KubernetesSchedulerBuilder,
    fates: Arc<Fates>,
    starts: Arc<Starts>,
}

/// What a forced stop does with a pod if its node does not confirm the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unconfirmed {
    /// Waits this long for the node, then removes the pod object with grace period 0; the evidence
    /// is then [`ConfirmedBy::Records`]. Zero: at once.
    RemoveAfter(Duration),
    /// Goes on waiting. A worker on an unreachable node counts as alive, and the stop fails until
    /// the node comes back, or somebody who knows that the node is off removes the pod.
    Wait,
}

/// Builds a [`KubernetesScheduler`].
#[derive(Clone)]
#[must_use = "call `build` to get the scheduler"]
pub struct KubernetesSchedulerBuilder {
    client: Client,
    namespace: String,
    common: Common,
    grace: Duration,
    unconfirmed: Unconfirmed,
    limit: Duration,
    request: Duration,
    in_flight: usize,
    leadership: Option<Leadership>,
}

impl KubernetesSchedulerBuilder {
    /// Sets the namespace of the pods. Default: that of the client.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Sets the object that owns the pods, in the same namespace: when it is deleted, the cluster
    /// removes them. For example, the controller's own deployment or pod.
    pub fn owner(mut self, owner: OwnerReference) -> Self {
        self.common.owner = Some(owner);
        self
    }

    /// Distinguishes these pods if several controllers in a namespace may have jobs of the same
    /// name. It becomes a label and part of the pods' names; pods without it are not touched.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.common.instance = Some(name.into());
        self
    }

    /// Sets the time from SIGTERM to SIGKILL in a stop without force, in whole seconds, at least 1.
    /// Default: 5 s, within the default [`Limits::release`](crate::limits::Limits::release), after
    /// which the phases kill in any case. It replaces the template's
    /// `terminationGracePeriodSeconds`, which applies to evictions.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets what a forced stop does if a node does not confirm. Default:
    /// [`RemoveAfter`](Unconfirmed::RemoveAfter) 5 s.
    pub fn unconfirmed(mut self, unconfirmed: Unconfirmed) -> Self {
        self.unconfirmed = unconfirmed;
        self
    }

    /// Sets how long one call may take, retries included. Default: 25 s, within the default
    /// [`Limits::kill`](crate::limits::Limits::kill), so that the caller receives the error that
    /// says what holds a pod.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets how long one request may take, from sending to the end of its answer. Default: 5 s.
    pub fn request_limit(mut self, limit: Duration) -> Self {
        self.request = limit;
        self
    }

    /// Sets how many requests may be in flight at once, not counting one watch for each stop that
    /// waits. Default: 16.
    pub fn in_flight(mut self, most: usize) -> Self {
        self.in_flight = most;
        self
    }

    /// Allows starts and stops only while this lease is held.
    pub fn leadership(mut self, leadership: Leadership) -> Self {
        self.leadership = Some(leadership);
        self
    }

    /// Builds the scheduler. Sends no request yet.
    pub fn build(self) -> KubernetesScheduler {
        let api = Api::new(self.client.clone(), &self.namespace, self.in_flight, self.request);
        KubernetesScheduler {
            shared: Arc::new(Shared { api, settings: self, fates: Arc::default(), starts: Arc::default() }),
        }
    }
}

impl KubernetesScheduler {
    /// Starts a builder with this client (see [`client`](super::client)).
    pub fn builder(client: Client) -> KubernetesSchedulerBuilder {
        KubernetesSchedulerBuilder {
            namespace: client.default_namespace().to_owned(),
            client,
            common: Common::default(),
            grace: Duration::from_secs(5),
            unconfirmed: Unconfirmed::RemoveAfter(Duration::from_secs(5)),
            limit: Duration::from_secs(25),
            request: Duration::from_secs(5),
            in_flight: 16,
            leadership: None,
        }
    }

    /// The namespace of the pods.
    pub fn namespace(&self) -> &str {
        self.shared.api.namespace()
    }

    /// Creates the pod of a worker from a template, with the worker's labels, and the variables of
    /// [`WorkerEnv`] in every container. Returns when the pod is recorded, not when it runs; the
    /// worker's registration with the controller tells that.
    ///
    /// # Errors
    /// - [`StartError::Template`]: the template cannot be used for a worker.
    /// - [`StartError::AlreadyThere`], [`StartError::NameTaken`]: there is a pod with its name.
    /// - [`StartError::NotLeader`]: another controller may act.
    /// - [`StartError::Stopped`]: the run was stopped with force, before this call or during it.
    ///   What is left of the attempt is being deleted.
    /// - [`StartError::Api`]: the API server refuses or cannot be reached. If it cannot be reached,
    ///   the pod may exist: the worker is listed until that is known, and can be stopped like any
    ///   other.
    ///
    /// # Cancel safety
    /// The worker is listed from the first poll on. If the future is dropped, the pod is still
    /// created, on the runtime of the call.
    pub async fn start(&self, worker: WorkerEnv, template: PodTemplateSpec) -> Result<WorkerPod, StartError> {
        check(&template)?;
        self.lead()?;
        // Before anything that takes time, so that a later stop sees it.
        let ticket = Starts::call(&self.shared.starts, &worker)?;
        let scheduler = self.clone();
        let created = tokio::spawn(async move { scheduler.create(ticket, worker, template).await });
        created.await.unwrap_or(Err(StartError::Runtime))
    }

    async fn create(
        &self,
        mut ticket: Ticket,
        worker: WorkerEnv,
        template: PodTemplateSpec,
    ) -> Result<WorkerPod, StartError> {
        let Shared { api, settings, fates, starts } = &*self.shared;
        let until = after(settings.limit);
        let token = token();
        let wanted = make(template, &worker, &settings.common, &token);
        let body = serde_json::to_vec(&wanted).map_err(StartError::Json)?;
        let stopped = || StartError::Stopped { job: worker.job.clone(), run: worker.run, worker: worker.worker };
        let pod = match api.call::<Pod, Pod>("", &Ask::Create(body), until).await {
            Ok(pod) => pod,
            Err(error) if error.trouble == Trouble::Conflict => {
                self.ours(&wanted, &worker, &token, until).await.inspect_err(|error| {
                    if error.is_retryable() {
                        ticket.may_take_effect();
                    }
                })?
            }
            Err(error) => {
                if error.trouble == Trouble::Unavailable {
                    ticket.may_take_effect();
                }
                return Err(ApiError { name: name(&wanted).into(), ..error }.into());
            }
        };
        fates.started(&worker.job, worker.run, &pod);
        if starts.is_stopped(&worker.job, worker.run) {
            // The stop looks again when this is over, and deletes the pod.
            return Err(stopped());
        }
        Ok(WorkerPod::new(&pod))
    }

    /// The pod with this name, if it is the one that was just created and whose answer was lost.
    async fn ours(&self, wanted: &Pod, env: &WorkerEnv, token: &str, until: Instant) -> Result<Pod, StartError> {
        let there: Pod = self.shared.api.call::<Pod, _>(name(wanted), &Ask::Get, until).await?;
        let start = there.metadata.annotations.as_ref().and_then(|annotations| annotations.get(START_ANNOTATION));
        if start.is_some_and(|start| start == token) {
            return Ok(there);
        }
        let pod = name(wanted).to_owned();
        if owner(&there, &env.job) == Owner::Worker(env.run, env.worker) {
            let WorkerEnv { job, run, worker, .. } = env.clone();
            return Err(StartError::AlreadyThere { job, run, worker, pod });
        }
        Err(StartError::NameTaken { pod, namespace: self.namespace().to_owned() })
    }

    /// Follows the pods of a run: which of them leave, and which have ended. It tells the
    /// controller of an eviction or a crash at once, before a heartbeat is missed. What is seen
    /// here counts for [`confirmed_by`](Scheduler::confirmed_by): without it, nobody sees the end
    /// of a pod that somebody else deletes.
    pub fn follow(&self, job: impl Into<JobId>, run: RunId) -> Follower {
        let job = job.into();
        let Shared { api, fates, .. } = &*self.shared;
        Follower::new(api.clone(), Arc::clone(fates), self.selector(&job, Some(run)), job, run)
    }

    fn selector(&self, job: &JobId, run: Option<RunId>) -> String {
        selector(self.shared.settings.common.instance.as_deref(), job, run)
    }

    fn lead(&self) -> Result<(), super::NotLeader> {
        self.shared.settings.leadership.as_ref().map_or(Ok(()), Leadership::check)
    }

    fn steps(&self, force: bool) -> (Step, Option<Step>) {
        let settings = &self.shared.settings;
        let at = Instant::now();
        let shortest = Step { at, grace: SHORTEST_GRACE };
        if !force {
            // Rounded up: 0 would be force instead of grace.
            let seconds = settings.grace.as_millis().div_ceil(1000).max(SHORTEST_GRACE.into());
            return (Step { at, grace: seconds.try_into().unwrap_or(u32::MAX) }, None);
        }
        match settings.unconfirmed {
            Unconfirmed::Wait => (shortest, None),
            Unconfirmed::RemoveAfter(Duration::ZERO) => (Step { at, grace: 0 }, None),
            Unconfirmed::RemoveAfter(wait) => (shortest, Some(Step { at: after(wait), grace: 0 })),
        }
    }
}

/// # How stops are bounded
/// A stop returns when every pod object of the run is gone, or fails after the
/// [limit](KubernetesSchedulerBuilder::limit) with an error that says what holds the remaining
/// pods. All pods get their orders at once, limited only by
/// [`in_flight`](KubernetesSchedulerBuilder::in_flight).
impl Scheduler for KubernetesScheduler {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        self.lead().map_err(|error| SchedulerError::Refused(error.into()))?;
        let Shared { api, settings, fates, starts } = &*self.shared;
        if force {
            starts.fence(job, run);
        }
        let until = after(settings.limit);
        let (mut first, mut then) = self.steps(force);
        loop {
            let seen = starts.in_flight(job, run);
            let stop = Stop { api, fates, job, selector: self.selector(job, run), first, then, until };
            // Requests make large futures, and phases hold them.
            Box::pin(stop.run()).await?;
            if seen.is_empty() && starts.in_flight(job, run).is_empty() {
                return Ok(());
            }
            // They may have created pods since the list: the next round finds those.
            starts.settled(job, run, until).await?;
            (first, then) = self.steps(force);
        }
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let Shared { api, settings, fates, starts } = &*self.shared;
        // Before the list: a pod that is created meanwhile is in one of the two.
        let mut alive = starts.in_flight(job, run);
        let listed = Box::pin(api.pods(&self.selector(job, run), after(settings.limit))).await;
        let (pods, _) = listed?;
        for pod in pods {
            match owner(&pod, job) {
                Owner::Another => {}
                Owner::Worker(of, worker) => {
                    fates.seen(job, of, &pod);
                    if is_alive(&pod) {
                        alive.push(worker);
                    }
                }
                // A worker without a known number still counts.
                Owner::Unreadable(label) => {
                    let what = format!(
                        "pod `{}` is the job's, and its label `{label}` holds no number: stop the job, or remove it",
                        name(&pod)
                    );
                    return Err(SchedulerError::Unavailable(what.into()));
                }
            }
        }
        alive.extend(starts.in_flight(job, run));
        // Different runs may have workers with the same id.
        alive.sort_unstable();
        alive.dedup();
        Ok(alive)
    }

    fn confirmed_by(&self, job: &JobId, run: Option<RunId>) -> ConfirmedBy {
        self.shared.fates.confirmed_by(job, run)
    }

    /// It [follows](KubernetesScheduler::follow) the run's pods until the job is gone, on the
    /// runtime of the call.
    fn report_ends(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::warn!(
                %job, %run, "the ends of pods are not reported to the run: expected a tokio runtime, got none"
            );
            return;
        };
        runtime.spawn(tell_ends(self.follow(job.clone(), run), job.clone(), run, to));
    }
}

/// How long to wait after an error before the pods are listed again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Runs until the job is gone.
async fn tell_ends(mut follower: Follower, job: JobId, run: RunId, to: Arc<dyn EndListener>) {
    let ends = WorkerEnds::default();
    ends.report_to(&job, run, to.clone());
    loop {
        let next = tokio::select! {
            () = to.closed() => return,
            next = follower.next() => next,
        };
        match next {
            // It has until the end of its grace period, and may still report.
            Ok((_, PodChange::Leaving)) => {}
            Ok((worker, PodChange::Ended { .. } | PodChange::Removed)) => ends.gone(&job, run, worker),
            Err(error) => {
                tracing::warn!(
                    %job, %run, %error, "the pods can't be followed; meanwhile, only missed heartbeats show their ends"
                );
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }
}

impl fmt::Debug for KubernetesScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.settings.fmt(f)
    }
}

impl fmt::Debug for KubernetesSchedulerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesScheduler")
            .field("namespace", &self.namespace)
            .field("grace", &self.grace)
            .field("unconfirmed", &self.unconfirmed)
            .field("limit", &self.limit)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// A word that no other process has used, for all that matters here: the standard library seeds its
/// hash maps from the system's randomness.
pub(super) fn token() -> String {
    let word = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}
