//! All requests to the API server: a limited number at a time, each with a deadline and retried if
//! that helps, and with errors that name the request.

use std::{borrow::Cow, sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_core::Stream;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Client, Resource,
    api::{DeleteParams, GetParams, ListParams, ObjectList, PostParams, WatchEvent, WatchParams},
    client::Body,
    core::Request,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::error::{ApiError, Trouble};
use crate::clock::after;

/// The maximum number of pods in one answer to a list.
const PAGE: u32 = 500;
/// The server ends a watch after this time; then a new one begins from a fresh list.
const WATCH_SECONDS: u32 = 240;

/// A namespace of a cluster, as this crate accesses it.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
    namespace: Arc<str>,
    in_flight: Arc<Semaphore>,
    /// For one attempt, from sending to the end of the answer.
    attempt: Duration,
}

/// A request about an object or a collection.
pub(super) enum Ask {
    Get,
    List(ListParams),
    Create(Vec<u8>),
    Update(Vec<u8>),
    Delete(DeleteParams),
}

impl Ask {
    const fn verb(&self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List(_) => "list",
            Self::Create(_) => "create",
            Self::Update(_) => "update",
            Self::Delete(_) => "delete",
        }
    }
}

/// A failed answer, before the request is known.
struct Bad {
    trouble: Trouble,
    said: String,
}

impl Api {
    pub(super) fn new(client: Client, namespace: &str, in_flight: usize, attempt: Duration) -> Self {
        Self { client, namespace: namespace.into(), in_flight: Arc::new(Semaphore::new(in_flight.max(1))), attempt }
    }

    /// The same, with another limit for one attempt.
    pub(super) fn with_attempt(mut self, attempt: Duration) -> Self {
        self.attempt = attempt;
        self
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Sends the request, and again as long as the error is temporary and `until` is not reached.
    pub(super) async fn call<K, T>(&self, name: &str, ask: &Ask, until: Instant) -> Result<T, ApiError>
    where
        K: Resource<DynamicType = ()>,
        T: DeserializeOwned,
    {
        let mut waits = waits();
        loop {
            let Bad { trouble, said } = match self.attempt::<K, T>(name, ask, until).await {
                Ok(answer) => return Ok(answer),
                Err(bad) => bad,
            };
            let wait = match trouble {
                Trouble::Throttled { retry_after: Some(wait) } => wait,
                _ => waits.next().unwrap_or(self.attempt),
            };
            if !trouble.passes() || after(wait) >= until {
                return Err(self.error::<K>(ask.verb(), name, trouble, said));
            }
            tracing::debug!(verb = ask.verb(), name, %trouble, said, ?wait, "asking the API server again");
            sleep(wait).await;
        }
    }

    async fn attempt<K, T>(&self, name: &str, ask: &Ask, until: Instant) -> Result<T, Bad>
    where
        K: Resource<DynamicType = ()>,
        T: DeserializeOwned,
    {
        let url = Request::new(K::url_path(&(), Some(&self.namespace)));
        let request = match ask {
            Ask::Get => url.get(name, &GetParams::default()),
            Ask::List(params) => url.list(params),
            Ask::Create(body) => url.create(&PostParams::default(), body.clone()),
            Ask::Update(body) => url.replace(name, &PostParams::default(), body.clone()),
            Ask::Delete(params) => url.delete(name, params),
        };
        let request = request.map_err(|error| Bad { trouble: Trouble::Refused, said: error.to_string() })?;
        // The semaphore is never closed, so this can only be the end of the time.
        let Ok(_permit) = timeout_at(until, self.in_flight.acquire()).await else {
            return Err(unavailable("all requests that may be in flight are"));
        };
        let answer = async {
            let response = self.client.send(request.map(Body::from)).await?;
            let status = response.status();
            let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            Ok::<_, kube::Error>((status, retry_after, response.into_body().collect_bytes().await?))
        };
        let began = Instant::now();
        let Ok(answer) = timeout_at(until.min(after(self.attempt)), answer).await else {
            let waited = Duration::from_millis(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
            return Err(unavailable(format!("no answer within {}", crate::text::rounded(waited))));
        };
        let (status, retry_after, body) = answer.map_err(|error| unavailable(chain(&error)))?;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|error| Bad { trouble: Trouble::Unexpected, said: error.to_string() });
        }
        let said = serde_json::from_slice::<kube::core::Status>(&body);
        let said = said.map_or_else(|_| String::from_utf8_lossy(&body).trim().to_owned(), |status| status.message);
        Err(Bad { trouble: Trouble::of(status.as_u16(), retry_after.map(Duration::from_secs), &said), said })
    }

    fn error<K: Resource<DynamicType = ()>>(
        &self,
        verb: &'static str,
        name: &str,
        trouble: Trouble,
        said: String,
    ) -> ApiError {
        // The types of the core API have static names.
        let Cow::Borrowed(resource) = K::plural(&()) else { return self.error::<Pod>(verb, name, trouble, said) };
        ApiError {
            verb,
            resource,
            namespace: Arc::clone(&self.namespace),
            name: name.into(),
            trouble,
            said: said.into(),
        }
    }

    /// All pods of the selector at this moment, and the version from which a watch goes on.
    pub(super) async fn pods(&self, selector: &str, until: Instant) -> Result<(Vec<Pod>, String), ApiError> {
        let (mut pods, mut page) = (Vec::new(), None);
        loop {
            // Without a version, the server answers with the durable state, not with that of a
            // cache.
            let mut params = ListParams::default().labels(selector).limit(PAGE);
            params.continue_token = page.take();
            let later_page = params.continue_token.is_some();
            let list = match self.call::<Pod, ObjectList<Pod>>("", &Ask::List(params), until).await {
                // The server no longer knows the position of the list.
                Err(error) if error.trouble == Trouble::Expired && later_page && Instant::now() < until => {
                    pods.clear();
                    continue;
                }
                list => list?,
            };
            pods.extend(list.items);
            page = list.metadata.continue_.filter(|token| !token.is_empty());
            if page.is_none() {
                return Ok((pods, list.metadata.resource_version.unwrap_or_default()));
            }
        }
    }

    /// Begins to watch pods from a version. One attempt; after an error, the caller lists again and
    /// retries.
    pub(super) async fn watch(
        &self,
        selector: &str,
        version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Pod>, ApiError>> + Send + use<>, ApiError> {
        use futures_util::StreamExt as _;

        let url = Request::new(Pod::url_path(&(), Some(&self.namespace)));
        let params = WatchParams::default().labels(selector).timeout(WATCH_SECONDS);
        let bad = |Bad { trouble, said }: Bad| self.error::<Pod>("watch", "", trouble, said);
        let request = url.watch(&params, version);
        let request = request.map_err(|error| bad(Bad { trouble: Trouble::Refused, said: error.to_string() }))?;
        let events = timeout(self.attempt, self.client.request_events::<Pod>(request)).await;
        let events = events.map_err(|_| bad(unavailable("no answer")))?.map_err(|error| bad(watch_trouble(error)))?;
        let api = self.clone();
        let error = move |Bad { trouble, said }: Bad| api.error::<Pod>("watch", "", trouble, said);
        Ok(events.map(move |event| match event {
            Ok(WatchEvent::Error(status)) => {
                Err(error(Bad { trouble: Trouble::of(status.code, None, &status.message), said: status.message }))
            }
            event => event.map_err(|trouble| error(watch_trouble(trouble))),
        }))
    }
}

fn watch_trouble(error: kube::Error) -> Bad {
    match error {
        kube::Error::Api(status) => {
            Bad { trouble: Trouble::of(status.code, None, &status.message), said: status.message }
        }
        // What an interrupted answer looks like is arbitrary; a fresh list shows whether the error
        // lasts.
        error => unavailable(chain(&error)),
    }
}

fn unavailable(said: impl Into<String>) -> Bad {
    Bad { trouble: Trouble::Unavailable, said: said.into() }
}

/// The error and its causes: "error trying to connect" alone does not help.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// The waits between attempts, unless the server specifies one.
pub(super) fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .without_max_times()
        .with_jitter()
        .build()
}
