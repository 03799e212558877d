//! The publication of one manifest in the store.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use crate::contracts::{BoxFuture, DynCheckpointStore, Epoch, Manifest, StoreError};

/// How many times the limit of one order a publication may take. Checking the fence, writing and
/// confirming need several round trips, and each may take as long as a worker's answer.
const ROUND_TRIPS: u32 = 6;

pub(super) struct Publication {
    epoch: Epoch,
    manifest: Arc<Manifest>,
    state: PublicationState,
}

enum PublicationState {
    UnderWay(BoxFuture<'static, Result<(), StoreError>>),
    Durable,
    /// The error is taken out when it is reported.
    Failed(Option<StoreError>),
}

impl Publication {
    pub(super) fn new(epoch: Epoch, manifest: Manifest) -> Self {
        Self { epoch, manifest: Arc::new(manifest), state: PublicationState::Failed(None) }
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
        self.state = outcome.map_or_else(|error| PublicationState::Failed(Some(error)), |()| PublicationState::Durable);
        true
    }

    pub(super) fn take_error(&mut self) -> Option<StoreError> {
        match &mut self.state {
            PublicationState::Failed(error) => error.take(),
            PublicationState::UnderWay(_) | PublicationState::Durable => None,
        }
    }
}
