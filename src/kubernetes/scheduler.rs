//! The scheduler itself: how it is set up, starting workers, and the [`Scheduler`] contract.

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

/// The shortest grace period at which the API server keeps a pod until its node has confirmed the end. At 0 it forgets the pod at once.
const SHORTEST_GRACE: u32 = 1;

/// Runs workers as pods. A cheap handle to clone; see the [module](super) for what it keeps.
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

/// What a forced stop does about a pod whose node does not confirm that it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unconfirmed {
    /// Waits so long for the node, then removes the pod object with grace period 0, and the evidence says
    /// [`ConfirmedBy::Records`]. Zero: at once.
    RemoveAfter(Duration),
    /// Waits on. A worker on a node that is out of reach stays alive in the books, and the stop fails until the node comes back, or
    /// somebody who knows that it is off removes the pod.
    Wait,
}

/// Collects how a [`KubernetesScheduler`] is to work.
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
    /// Where the pods are. The client's default namespace, if it is not called.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The object that the pods belong to, in the same namespace: when it is deleted, the cluster removes them. The controller's own
    /// deployment or pod, for example.
    pub fn owner(mut self, owner: OwnerReference) -> Self {
        self.common.owner = Some(owner);
        self
    }

    /// Whose pods these are, where several controllers in a namespace may have jobs of one name: it becomes a label, and part of the pods'
    /// names, and pods without it are not touched.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.common.instance = Some(name.into());
        self
    }

    /// From SIGTERM to SIGKILL in a stop without force, in whole seconds, at least 1. 5 s: within the default
    /// [`Limits::release`](crate::limits::Limits::release), at whose end the phases kill anyway. It stands in for the template's
    /// `terminationGracePeriodSeconds`, which holds for evictions.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// What a forced stop does about a node that does not confirm. [`RemoveAfter`](Unconfirmed::RemoveAfter) 5 s.
    pub fn unconfirmed(mut self, unconfirmed: Unconfirmed) -> Self {
        self.unconfirmed = unconfirmed;
        self
    }

    /// How long one call may take, retries included. 25 s: within the default [`Limits::kill`](crate::limits::Limits::kill), so that the
    /// error that says what holds a pod is heard.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long one request may take, from sending to the end of its answer. 5 s.
    pub fn request_limit(mut self, limit: Duration) -> Self {
        self.request = limit;
        self
    }

    /// How many requests may be in flight at once; one watch for each stop that waits is not counted. 16.
    pub fn in_flight(mut self, most: usize) -> Self {
        self.in_flight = most;
        self
    }

    /// Starts and stops nothing unless this lease is held.
    pub fn leadership(mut self, leadership: Leadership) -> Self {
        self.leadership = Some(leadership);
        self
    }

    /// The scheduler. Nothing is asked of the cluster yet.
    pub fn build(self) -> KubernetesScheduler {
        let api = Api::new(self.client.clone(), &self.namespace, self.in_flight, self.request);
        KubernetesScheduler {
            shared: Arc::new(Shared { api, settings: self, fates: Arc::default(), starts: Arc::default() }),
        }
    }
}

impl KubernetesScheduler {
    /// Starts to say how the scheduler is to work: with this client (see [`client`](super::client)).
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

    /// Where the pods are.
    pub fn namespace(&self) -> &str {
        self.shared.api.namespace()
    }

    /// Creates the pod of a worker from a template, with the worker's labels, and the variables of [`WorkerEnv`] in every container. It
    /// returns when the pod is on record, not when it runs; the worker's registration with the controller says that.
    ///
    /// # Errors
    /// - [`StartError::Template`]: no worker can be made from the template.
    /// - [`StartError::AlreadyThere`], [`StartError::NameTaken`]: there is a pod of its name.
    /// - [`StartError::NotLeader`]: another controller may act.
    /// - [`StartError::Stopped`]: the run was stopped with force, before this call or during it. What is left of the attempt is being deleted.
    /// - [`StartError::Api`]: the API server refuses or can't be reached. If it can't be reached, the pod may be there all the same: the worker is
    ///   listed until that is known, and can be stopped like any other.
    ///
    /// # Cancel safety
    /// From its first poll on the worker is listed. If it is dropped, the pod is created all the same, on the runtime that it was called on.
    pub async fn start(&self, worker: WorkerEnv, template: PodTemplateSpec) -> Result<WorkerPod, StartError> {
        check(&template)?;
        self.lead()?;
        // Before anything that takes time: a stop that comes later sees it.
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
            // The stop looks again when this is over, and deletes it.
            return Err(stopped());
        }
        Ok(WorkerPod::new(&pod))
    }

    /// The pod that has the name, if it is the one that was just created and whose answer was lost.
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

    /// Follows the pods of a run: which of them leave, and which have ended. For the controller, which learns of an eviction and of a crash at
    /// once, and not from a heartbeat that does not come. What is seen here counts for [`confirmed_by`](Scheduler::confirmed_by): the end of a pod
    /// that somebody else deletes is seen by nobody otherwise.
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
            // Rounded up, since 0 would be no grace but force.
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
/// A stop returns when every pod object of the run is gone, or fails after the [limit](KubernetesSchedulerBuilder::limit) and says what holds
/// the pods that are left. Orders are given to all pods at once, bounded by
/// [`in_flight`](KubernetesSchedulerBuilder::in_flight) alone.
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
            // Pods may have come of them since the list: the next round finds those.
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
                // A worker that can't be named is not nobody.
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
        // Runs may have workers of one id.
        alive.sort_unstable();
        alive.dedup();
        Ok(alive)
    }

    fn confirmed_by(&self, job: &JobId, run: Option<RunId>) -> ConfirmedBy {
        self.shared.fates.confirmed_by(job, run)
    }

    /// It [follows](KubernetesScheduler::follow) the run's pods until the job is gone, on the runtime that it is called on.
    fn report_ends(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::warn!(%job, %run, "the run is not told of the ends of its pods: expected a tokio runtime, got none");
            return;
        };
        runtime.spawn(tell_ends(self.follow(job.clone(), run), job.clone(), run, to));
    }
}

/// How long to wait before the pods are asked for again after an error.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Until the job is gone.
async fn tell_ends(mut follower: Follower, job: JobId, run: RunId, to: Arc<dyn EndListener>) {
    let ends = WorkerEnds::default();
    ends.report_to(&job, run, to.clone());
    loop {
        let next = tokio::select! {
            () = to.closed() => return,
            next = follower.next() => next,
        };
        match next {
            // It has until the end of its grace period, and may have something to say.
            Ok((_, PodChange::Leaving)) => {}
            Ok((worker, PodChange::Ended { .. } | PodChange::Removed)) => ends.gone(&job, run, worker),
            Err(error) => {
                tracing::warn!(%job, %run, %error, "the pods can't be followed; silence will tell of their ends meanwhile");
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

/// A word that no other process has used, for all that matters here: the standard library seeds its hash maps from the system's randomness.
pub(super) fn token() -> String {
    let word = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}
