//! Workers and a store that do what the test says, and write down what reached them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Mutex,
};

use super::*;
use crate::contracts::{CheckpointStore, JobId, Manifest, OpenRun, Order, OrderError, StoreError, Transport};

#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Ok,
    After(Duration),
    Never,
    Fails(OrderErrorKind),
}

/// An order that arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) worker: WorkerId,
    pub(super) order: Order,
}

#[derive(Default)]
pub(super) struct Workers {
    arrivals: Mutex<Vec<Arrival>>,
    /// What a worker answers: one after the other, the last for ever.
    scripts: Mutex<HashMap<WorkerId, VecDeque<Answer>>>,
    open: Mutex<usize>,
}

impl Workers {
    pub(super) fn script(&self, worker: u64, answers: impl IntoIterator<Item = Answer>) {
        self.scripts.lock().unwrap().insert(WorkerId::new(worker), answers.into_iter().collect());
    }

    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    /// How many orders of this name arrived at a worker.
    pub(super) fn count(&self, worker: u64, name: &str) -> usize {
        let is_it = |it: &&Arrival| it.worker == WorkerId::new(worker) && it.order.command.name() == name;
        self.arrivals().iter().filter(is_it).count()
    }

    /// When orders of this name arrived at a worker.
    pub(super) fn times(&self, worker: u64, name: &str, since: Instant) -> Vec<Duration> {
        let is_it = |it: &Arrival| it.worker == WorkerId::new(worker) && it.order.command.name() == name;
        self.arrivals().into_iter().filter(is_it).map(|it| it.at - since).collect()
    }

    /// Calls that have neither returned nor been dropped.
    pub(super) fn open(&self) -> usize {
        *self.open.lock().unwrap()
    }

    fn next_answer(&self, worker: WorkerId) -> Answer {
        let mut scripts = self.scripts.lock().unwrap();
        let Some(script) = scripts.get_mut(&worker) else { return Answer::Ok };
        if script.len() > 1 { script.pop_front() } else { script.front().copied() }.unwrap_or(Answer::Ok)
    }
}

struct Open<'a>(&'a Mutex<usize>);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap() -= 1;
    }
}

impl Transport for Workers {
    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        *self.open.lock().unwrap() += 1;
        let _open = Open(&self.open);
        self.arrivals.lock().unwrap().push(Arrival { at: Instant::now(), worker, order });
        match self.next_answer(worker) {
            Answer::Ok => Ok(()),
            Answer::After(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Answer::Never => std::future::pending().await,
            Answer::Fails(kind) => Err(OrderError::new(kind, "as the test says")),
        }
    }
}

#[derive(Default)]
pub(super) struct Store {
    /// What comes instead of success; the first is used up first.
    pub(super) failures: Mutex<VecDeque<StoreAnswer>>,
    pub(super) attempts: Mutex<Vec<Instant>>,
    pub(super) published: Mutex<Vec<(Instant, Manifest)>>,
}

pub(super) enum StoreAnswer {
    Error(StoreError),
    After(Duration),
    Never,
}

impl Store {
    pub(super) fn answer(&self, answer: StoreAnswer) {
        self.failures.lock().unwrap().push_back(answer);
    }

    pub(super) fn unavailable(&self) {
        self.answer(StoreAnswer::Error(StoreError::Unavailable("as the test says".into())));
    }

    pub(super) fn epochs(&self) -> Vec<u64> {
        self.published.lock().unwrap().iter().map(|(_, manifest)| manifest.epoch.get()).collect()
    }

    pub(super) fn attempts(&self) -> usize {
        self.attempts.lock().unwrap().len()
    }
}

impl CheckpointStore for Store {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        Ok(OpenRun::without_store(job.clone(), RUN))
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        self.attempts.lock().unwrap().push(Instant::now());
        let answer = self.failures.lock().unwrap().pop_front();
        match answer {
            Some(StoreAnswer::Error(error)) => return Err(error),
            Some(StoreAnswer::Never) => std::future::pending().await,
            Some(StoreAnswer::After(delay)) => tokio::time::sleep(delay).await,
            None => {}
        }
        self.published.lock().unwrap().push((Instant::now(), manifest.clone()));
        Ok(())
    }

    async fn latest(&self, _: &JobId) -> Result<Option<Manifest>, StoreError> {
        Ok(self.published.lock().unwrap().last().map(|(_, manifest)| manifest.clone()))
    }
}
