//! The checkpoint store of a controller's check: in memory, and as slow as the check wants.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;

use crate::contracts::{CheckpointStore, JobId, Manifest, OpenRun, RunId, StoreError};

#[derive(Debug)]
pub(super) struct Vault {
    run: RunId,
    /// Manifests whose publication has started, and those that are durable.
    manifests: Mutex<(Vec<Manifest>, Vec<Manifest>)>,
    is_open: watch::Sender<bool>,
    is_fenced: AtomicBool,
}

impl Vault {
    pub(super) fn new(run: RunId) -> Self {
        Self { run, manifests: Mutex::default(), is_open: watch::Sender::new(true), is_fenced: AtomicBool::new(false) }
    }

    fn manifests(&self) -> MutexGuard<'_, (Vec<Manifest>, Vec<Manifest>)> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begun(&self) -> usize {
        self.manifests().0.len()
    }

    pub(super) fn durable(&self) -> Vec<Manifest> {
        self.manifests().1.clone()
    }

    /// Nothing becomes durable until it is opened.
    pub(super) fn close(&self) {
        self.is_open.send_replace(false);
    }

    /// From now on a newer run has taken the job over.
    pub(super) fn fence(&self) {
        self.is_fenced.store(true, Ordering::Release);
    }

    pub(super) fn open(&self) {
        self.is_open.send_replace(true);
    }
}

impl CheckpointStore for Vault {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        Ok(OpenRun::new(job.clone(), self.run.next(), self.durable().pop())?)
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        self.manifests().0.push(manifest.clone());
        // The sender is in `self`, so it never closes.
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
        if self.is_fenced.load(Ordering::Acquire) {
            let newer = self.run.next();
            return Err(StoreError::Fenced { job: manifest.job.clone(), run: manifest.run, newer });
        }
        let mut manifests = self.manifests();
        if !manifests.1.contains(manifest) {
            manifests.1.push(manifest.clone());
        }
        Ok(())
    }

    async fn latest(&self, _: &JobId) -> Result<Option<Manifest>, StoreError> {
        Ok(self.durable().pop())
    }
}
