//! Which of two controllers may act: a Kubernetes `Lease`, held as long as it is renewed in time.

use std::{fmt, sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::Client;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    api::{Api, Ask},
    error::{ApiError, NotLeader, Trouble},
    scheduler::token,
};
use crate::clock::bearable;

/// How many requests for a lease may be in flight; there is never more than one.
const IN_FLIGHT: usize = 1;

/// A lease that is to be had. Whoever holds it may act.
#[derive(Clone)]
pub struct LeaseCandidate {
    api: Api,
    name: String,
    identity: String,
    lasts: Duration,
}

/// A held lease, renewed in the background until it is [released](Self::release) or the last handle is dropped. A cheap handle to clone.
///
/// It stands beside the journal, and not in its place: the journal's compare-and-set lets only one of two controllers *advance* a job, whatever their
/// clocks do; the lease makes the other one *stop trying*, within the lease time.
#[derive(Clone)]
pub struct Leadership {
    shared: Arc<Shared>,
}

struct Shared {
    candidate: LeaseCandidate,
    /// Until when it is surely ours. A moment in the past: it is not.
    held_until: watch::Sender<Instant>,
    /// The object as it was written last, taken out by a release.
    last: tokio::sync::Mutex<Option<Lease>>,
    renewing: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl LeaseCandidate {
    /// A candidate for the lease `name`, one for each job or for each controller. `identity` is for people, and is made unique: a controller that
    /// comes back under its old name waits like any other. The lease lasts 15 s.
    pub fn new(client: Client, namespace: &str, name: impl Into<String>, identity: &str) -> Self {
        let lasts = Duration::from_secs(15);
        let api = Api::new(client, namespace, IN_FLIGHT, lasts / 3);
        Self { api, name: name.into(), identity: format!("{identity}_{}", token()), lasts }
    }

    /// How long the lease lasts after each renewal: so long nobody else may act after its holder died. In whole seconds, at least 2.
    #[must_use]
    pub fn lasts(mut self, lasts: Duration) -> Self {
        self.lasts = Duration::from_secs(bearable(lasts).as_secs().max(2));
        self.api = self.api.with_attempt(self.lasts / 3);
        self
    }

    /// Waits until the lease is free, and takes it: at once if nobody has it or its holder has released it, otherwise when it has not been
    /// renewed for its whole time by this machine's own clock. Clocks are never compared between machines.
    ///
    /// # Errors
    /// [`ApiError`] when the lease can't be read or written for a whole lease time.
    ///
    /// # Cancel safety
    /// Safe: if it is dropped in the last moment, the lease is taken and not renewed, and is free again after its time.
    pub async fn acquire(self) -> Result<Leadership, ApiError> {
        // What was seen of another's lease, and since when it has not changed.
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            let began = Instant::now();
            let there = match self.get(began + self.lasts).await {
                Ok(lease) => Some(lease),
                Err(error) if error.trouble == Trouble::NotFound => None,
                Err(error) => return Err(error),
            };
            let version = there.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
            if seen.as_ref().is_none_or(|(before, _)| *before != version) {
                seen = Some((version, Instant::now()));
            }
            let quiet = seen.as_ref().map_or(Duration::ZERO, |(_, since)| since.elapsed());
            if there.as_ref().is_none_or(|lease| is_free(lease, quiet, self.lasts)) {
                let began = Instant::now();
                match self.write(there.as_ref(), &self.identity, began + self.lasts).await {
                    Ok(lease) => return Ok(Leadership::begin(self, lease, began)),
                    // Another was faster.
                    Err(error) if error.trouble == Trouble::Conflict => {}
                    Err(error) => return Err(error),
                }
            }
            sleep(self.lasts / 4).await;
        }
    }

    async fn get(&self, until: Instant) -> Result<Lease, ApiError> {
        self.api.call::<Lease, Lease>(&self.name, &Ask::Get, until).await
    }

    /// Writes the lease for `holder`, if it still is as it was read.
    async fn write(&self, before: Option<&Lease>, holder: &str, until: Instant) -> Result<Lease, ApiError> {
        let now = MicroTime(Timestamp::now());
        let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let anew = spec.holder_identity.as_deref() != Some(holder);
        let lease = Lease {
            metadata: before.map_or_else(
                || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                |lease| lease.metadata.clone(),
            ),
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(self.lasts.as_secs().try_into().unwrap_or(i32::MAX)),
                acquire_time: if anew { Some(now.clone()) } else { spec.acquire_time },
                renew_time: Some(now),
                lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(anew && before.is_some())),
                ..LeaseSpec::default()
            }),
        };
        let body = serde_json::to_vec(&lease).unwrap_or_default();
        match before {
            None => self.api.call::<Lease, _>("", &Ask::Create(body), until).await,
            Some(_) => self.api.call::<Lease, _>(&self.name, &Ask::Update(body), until).await,
        }
    }
}

/// Whether nobody has the lease: it was released, or has not changed for its whole time.
fn is_free(lease: &Lease, quiet: Duration, usual: Duration) -> bool {
    let Some(spec) = &lease.spec else { return true };
    // One that does not say how long it lasts is not over at once: it is taken to last as long as ours.
    let seconds =
        spec.lease_duration_seconds.and_then(|seconds| seconds.try_into().ok()).filter(|seconds| *seconds > 0);
    let lasts = seconds.map_or(usual, Duration::from_secs);
    spec.holder_identity.as_deref().is_none_or(str::is_empty) || quiet >= lasts
}

impl Leadership {
    fn begin(candidate: LeaseCandidate, lease: Lease, began: Instant) -> Self {
        let (held_until, _) = watch::channel(surely_held(began, candidate.lasts));
        let (last, renewing) = (tokio::sync::Mutex::new(Some(lease)), std::sync::Mutex::new(None));
        let shared = Arc::new(Shared { candidate, held_until, last, renewing });
        let weak = Arc::downgrade(&shared);
        let every = shared.candidate.lasts / 4;
        let task = tokio::spawn(async move {
            loop {
                sleep(every).await;
                // The last handle was dropped, or it is lost.
                let Some(shared) = weak.upgrade() else { return };
                if !shared.renew().await {
                    return;
                }
            }
        });
        *shared.renewing.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(task);
        Self { shared }
    }

    /// Whether it is held, surely.
    pub fn is_held(&self) -> bool {
        Instant::now() < *self.shared.held_until.borrow()
    }

    /// # Errors
    /// [`NotLeader`] if it is not surely held.
    pub fn check(&self) -> Result<(), NotLeader> {
        let LeaseCandidate { api, name, identity, .. } = &self.shared.candidate;
        if self.is_held() {
            return Ok(());
        }
        Err(NotLeader { lease: name.clone(), namespace: api.namespace().to_owned(), identity: identity.clone() })
    }

    /// Waits until it is not held any more: another has taken it, it could not be renewed in time, or it was released.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn lost(&self) {
        let mut held_until = self.shared.held_until.subscribe();
        loop {
            let until = *held_until.borrow_and_update();
            tokio::select! {
                () = sleep_until(until) => return,
                // The sender is in `self`, so it is there.
                _ = held_until.changed() => {}
            }
        }
    }

    /// Does something for as long as the lease is held: the loser stops acting in that moment, by dropping it. What it has been used with must be
    /// cancel safe, as [`drive`](crate::drive::drive) is.
    ///
    /// # Errors
    /// [`NotLeader`] when the lease was lost before the work was done.
    ///
    /// # Cancel safety
    /// As safe as the work.
    pub async fn guard<T>(&self, work: impl Future<Output = T>) -> Result<T, NotLeader> {
        self.check()?;
        tokio::select! {
            biased;
            () = self.lost() => Err(NotLeader {
                lease: self.shared.candidate.name.clone(),
                namespace: self.shared.candidate.api.namespace().to_owned(),
                identity: self.shared.candidate.identity.clone(),
            }),
            result = work => Ok(result),
        }
    }

    /// Gives the lease up, so that the next controller need not wait for its end. From now on no handle holds it.
    ///
    /// # Errors
    /// [`ApiError`] when that can't be written; the lease then ends by itself.
    ///
    /// # Cancel safety
    /// Safe: it is not held from the first poll on.
    pub async fn release(self) -> Result<(), ApiError> {
        let Shared { candidate, held_until, last, .. } = &*self.shared;
        let held = self.is_held();
        held_until.send_replace(Instant::now());
        let Some(lease) = last.lock().await.take().filter(|_| held) else { return Ok(()) };
        match candidate.write(Some(&lease), "", Instant::now() + candidate.lasts).await {
            // It is another's already.
            Err(error) if error.trouble == Trouble::Conflict => Ok(()),
            answer => answer.map(drop),
        }
    }
}

impl Shared {
    /// Renews it. False when there is nothing to renew any more.
    async fn renew(&self) -> bool {
        let LeaseCandidate { name, identity, lasts, .. } = &self.candidate;
        let until = *self.held_until.borrow();
        let mut last = self.last.lock().await;
        let Some(lease) = last.as_ref() else { return false };
        let began = Instant::now();
        match self.candidate.write(Some(lease), identity, until).await {
            Ok(lease) => *last = Some(lease),
            // The answer to an earlier attempt may have been lost; then it is ours all the same.
            Err(error) if error.trouble == Trouble::Conflict => match self.candidate.get(until).await {
                Ok(lease) if holder(&lease) == Some(identity) => {
                    // Its time counts from the write, which is not known; the next one is.
                    *last = Some(lease);
                    return true;
                }
                there => {
                    tracing::warn!(lease = name, holder = there.as_ref().ok().and_then(holder), "the lease is lost");
                    self.held_until.send_replace(Instant::now());
                    return false;
                }
            },
            Err(error) => {
                tracing::warn!(lease = name, %error, "the lease was not renewed");
                return Instant::now() < until;
            }
        }
        let until = surely_held(began, *lasts);
        // A release, or the end of its time, is not taken back.
        self.held_until.send_if_modified(|held| {
            let goes_on = Instant::now() < *held;
            if goes_on {
                *held = until;
            }
            goes_on
        })
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref()
}

/// A write takes effect after it was begun, so the time of others begins later than ours. A tenth is kept for clocks that run at different speeds,
/// and for a busy machine.
fn surely_held(began: Instant, lasts: Duration) -> Instant {
    began + lasts * 9 / 10
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = self.renewing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LeaseCandidate { name, identity, lasts, .. } = &self.shared.candidate;
        f.debug_struct("Leadership")
            .field("lease", name)
            .field("identity", identity)
            .field("lasts", lasts)
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn b13_a_lease_of_any_length_is_a_time_that_can_be_computed() {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let candidate = LeaseCandidate::new(Client::try_from(config).unwrap(), "default", "name", "me");
        for (asked, lasts) in [(Duration::ZERO, 2), (Duration::from_millis(9999), 9), (Duration::MAX, 30 * 365 * 86400)]
        {
            let candidate = candidate.clone().lasts(asked);
            assert_eq!(candidate.lasts, Duration::from_secs(lasts));
            assert!(surely_held(Instant::now(), candidate.lasts) > Instant::now());
            assert!(i32::try_from(candidate.lasts.as_secs()).is_ok(), "what the API takes");
        }
    }

    #[test]
    fn b2_a_lease_that_does_not_say_how_long_it_lasts_is_not_free_at_once() {
        let usual = Duration::from_secs(15);
        for seconds in [None, Some(0), Some(-1)] {
            let spec = LeaseSpec {
                holder_identity: Some("a".to_owned()),
                lease_duration_seconds: seconds,
                ..LeaseSpec::default()
            };
            let lease = Lease { spec: Some(spec), ..Lease::default() };
            assert!(!is_free(&lease, Duration::from_secs(1), usual), "{seconds:?}");
            assert!(is_free(&lease, usual, usual), "{seconds:?}");
        }
        assert!(
            is_free(&Lease { spec: Some(LeaseSpec::default()), ..Lease::default() }, Duration::ZERO, usual),
            "nobody holds it"
        );
    }
}
