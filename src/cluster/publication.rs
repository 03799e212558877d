//! The publication of one manifest in the store.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::contracts::{BoxFuture, DynCheckpointStore, Epoch, LateStore, Manifest, StoreError};

/// How many times the limit of one order a publication may take. Checking the fence, writing and
/// confirming need several round trips, and each may take as long as a worker's answer.
const ROUND_TRIPS: u32 = 6;

pub(super) struct Publication {
    epoch: Epoch,
    manifest: Arc<Manifest>,
    state: PublicationState,
    since: Instant,
    failed: u32,
    last_error: Option<Arc<str>>,
}

enum PublicationState {
    UnderWay(BoxFuture<'static, Result<(), StoreError>>),
    Durable,
    /// The error is taken out when it is reported.
    Failed(Option<StoreError>),
}

impl Publication {
    pub(super) fn new(epoch: Epoch, manifest: Manifest) -> Self {
        let (manifest, state) = (Arc::new(manifest), PublicationState::Failed(None));
        Self { epoch, manifest, state, since: super::now(), failed: 0, last_error: None }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn is_durable(&self) -> bool {
        matches!(self.state, PublicationState::Durable)
    }

    /// Publishes, if it is neither in progress nor done. Publishing is idempotent, so an attempt
    /// that timed out does no harm.
    pub(super) fn start(&mut self, store: &Arc<dyn DynCheckpointStore>, order_limit: Duration) {
        if !matches!(self.state, PublicationState::Failed(_)) {
            return;
        }
        let (store, manifest) = (Arc::clone(store), Arc::clone(&self.manifest));
        let limit = order_limit.saturating_mul(ROUND_TRIPS);
        self.state = PublicationState::UnderWay(Box::pin(async move {
            let outcome = tokio::time::timeout(limit, store.publish_boxed(&manifest)).await;
            outcome.unwrap_or_else(|_| {
                let limit = crate::text::rounded(limit);
                Err(StoreError::Unavailable(
                    format!("it did not publish epoch {} within {limit}", manifest.epoch).into(),
                ))
            })
        }));
    }

    /// Returns whether it has just settled.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let PublicationState::UnderWay(publish) = &mut self.state else { return false };
        let Poll::Ready(outcome) = publish.as_mut().poll(cx) else { return false };
        if let Err(error) = &outcome {
            self.failed = self.failed.saturating_add(1);
            self.last_error = Some(error.to_string().into());
        }
        self.state = outcome.map_or_else(|error| PublicationState::Failed(Some(error)), |()| PublicationState::Durable);
        true
    }

    /// What is known of it, unless it is durable.
    pub(super) fn late(&self) -> Option<LateStore> {
        let mut late = LateStore::new(self.epoch, self.since);
        (late.failed, late.error) = (self.failed, self.last_error.clone());
        (!self.is_durable()).then_some(late)
    }

    pub(super) fn take_error(&mut self) -> Option<StoreError> {
        match &mut self.state {
            PublicationState::Failed(error) => error.take(),
            PublicationState::UnderWay(_) | PublicationState::Durable => None,
        }
    }
}
