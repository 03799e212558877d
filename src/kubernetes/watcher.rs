//! The pods of a selector, as they change: a list, then a watch from there, and a list again whenever the watch is lost.

use std::{pin::Pin, time::Duration};

use backon::ExponentialBackoff;
use futures_core::Stream;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::WatchEvent;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    api::{Api, waits},
    error::{ApiError, Trouble},
};

/// A watch that says nothing for so long is not trusted any more: a connection that was cut off silently looks the same. The list that
/// follows costs one request.
const SILENCE: Duration = Duration::from_secs(10);

/// What has changed.
pub(super) enum PodNews {
    /// These are all, as of now; what is not among them is gone.
    Listed(Vec<Pod>),
    /// This one is new, or has changed.
    Changed(Box<Pod>),
    /// This one is gone; so it was last.
    Gone(Box<Pod>),
}

type Events = Pin<Box<dyn Stream<Item = Result<WatchEvent<Pod>, ApiError>> + Send>>;

/// Follows the pods of a selector.
pub(super) struct Watcher {
    api: Api,
    selector: String,
    /// The version of the last list, from which the watch is to begin.
    version: Option<String>,
    events: Option<Events>,
    waits: ExponentialBackoff,
    /// Not before: the wait after a watch that failed.
    list_at: Instant,
    listed: bool,
}

impl Watcher {
    pub(super) fn new(api: Api, selector: String) -> Self {
        Self { api, selector, version: None, events: None, waits: waits(), list_at: Instant::now(), listed: false }
    }

    /// Whether there was a list at all.
    pub(super) fn has_listed(&self) -> bool {
        self.listed
    }

    /// The next news; the first is a list. Cancel safe: a request that was under way is made again.
    pub(super) async fn next(&mut self, until: Instant) -> Result<PodNews, ApiError> {
        loop {
            if let Some(events) = &mut self.events {
                match timeout(SILENCE, events.next()).await {
                    Ok(Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod)))) => {
                        self.waits = waits();
                        return Ok(PodNews::Changed(pod.into()));
                    }
                    Ok(Some(Ok(WatchEvent::Deleted(pod)))) => {
                        self.waits = waits();
                        return Ok(PodNews::Gone(pod.into()));
                    }
                    Ok(Some(Ok(WatchEvent::Bookmark(_) | WatchEvent::Error(_)))) => {}
                    Ok(Some(Err(error))) => self.lost(error)?,
                    Ok(None) | Err(_) => self.events = None,
                }
                continue;
            }
            if let Some(version) = self.version.take() {
                match self.api.watch(&self.selector, &version).await {
                    Ok(events) => self.events = Some(Box::pin(events)),
                    Err(error) => self.lost(error)?,
                }
                continue;
            }
            sleep_until(self.list_at).await;
            let (pods, version) = self.api.pods(&self.selector, until).await?;
            (self.version, self.listed) = (Some(version), true);
            return Ok(PodNews::Listed(pods));
        }
    }

    /// The watch has failed. Where a list may get further, one is next; at once where the version was too old, else after a wait.
    fn lost(&mut self, error: ApiError) -> Result<(), ApiError> {
        self.events = None;
        match error.trouble {
            Trouble::Expired => {}
            trouble if trouble.passes() => self.list_at = Instant::now() + self.waits.next().unwrap_or(SILENCE),
            _ => return Err(error),
        }
        tracing::debug!(%error, "lost the watch; listing the pods anew");
        Ok(())
    }
}
