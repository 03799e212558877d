//! Delivers one order to one worker, with a timeout for each attempt, and separate retries for that
//! worker.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};

use crate::{
    contracts::{BoxFuture, Command, JobId, Order, OrderError, OrderErrorKind, RunId, Transport, WorkerId},
    limits::Limits,
};

pub(super) struct Courier<T: ?Sized> {
    transport: Arc<T>,
    job: JobId,
    run: RunId,
    limit: Duration,
    backoff: ExponentialBuilder,
}

/// The failed tries of one order, by worker. It is empty as long as all goes well.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<HashMap<WorkerId, (u32, Arc<str>)>>);

impl Failures {
    fn note(&self, worker: WorkerId, error: &OrderError) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (failed, last) = all.entry(worker).or_insert_with(|| (0, "".into()));
        (*failed, *last) = (failed.saturating_add(1), error.to_string().into());
    }

    /// How many tries have failed at this worker, and the last error.
    pub(super) fn of(&self, worker: WorkerId) -> Option<(u32, Arc<str>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&worker).cloned()
    }
}

impl<T: Transport + ?Sized> Courier<T> {
    pub(super) fn new(transport: Arc<T>, job: JobId, run: RunId, limits: &Limits) -> Self {
        Self { transport, job, run, limit: limits.order, backoff: backoff(limits) }
    }

    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.limit = limits.order;
        self.backoff = backoff(limits);
    }

    pub(super) fn transport(&self) -> &T {
        &self.transport
    }

    pub(super) fn job(&self) -> &JobId {
        &self.job
    }

    /// The delivery of one order, retries included. It starts when it is first polled, and owns
    /// everything that it needs.
    pub(super) fn deliver(
        &self,
        worker: WorkerId,
        command: Command,
        failures: &Arc<Failures>,
    ) -> BoxFuture<'static, Result<(), OrderError>> {
        let failures = Arc::clone(failures);
        let Self { transport, job, run, limit, backoff } = self;
        let (transport, job, limit, backoff) = (Arc::clone(transport), job.clone(), *limit, *backoff);
        let order = Order { run: *run, command };
        Box::pin(async move {
            let attempt = || async {
                let answer = tokio::time::timeout(limit, transport.send(worker, order.clone())).await;
                let answer = accept(&order.command, answer.unwrap_or_else(|_| Err(OrderError::timed_out(limit))));
                answer.inspect_err(|error| failures.note(worker, error))
            };
            attempt
                .retry(backoff)
                .sleep(tokio::time::sleep)
                .when(|error| error.kind.is_retryable())
                .notify(|error, wait| {
                    let (run, name) = (order.run, order.command.name());
                    tracing::debug!(%job, %run, %worker, order = name, %error, ?wait, "order failed, will be tried again");
                })
                .await
        })
    }
}

/// A worker that is running nothing any more has already obeyed a stop or a release.
fn accept(command: &Command, answer: Result<(), OrderError>) -> Result<(), OrderError> {
    match (command, answer) {
        (Command::Stop(_) | Command::Release, Err(error)) if error.kind == OrderErrorKind::NotRunning => Ok(()),
        (_, answer) => answer,
    }
}

fn backoff(limits: &Limits) -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(limits.backoff_min)
        .with_max_delay(limits.backoff_max)
        .with_max_times(limits.order_retries as usize)
        .with_jitter()
}
