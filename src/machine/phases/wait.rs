//! Waiting for something to happen: the one place where a phase waits for its workers. A stop request comes first, then the
//! deadline, then the controller's own work, then messages.

use std::{future::poll_fn, task::Poll};

use tokio::time::{Instant, sleep_until};

use crate::{
    clock::{MOMENT, after},
    contracts::{ControllerError, JobController, StopRequest, WorkerEvent},
    machine::{JobContext, progress::LiveProgress},
    mailbox::Incoming,
};

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A stop request stronger than the phase fulfils.
    Request(StopRequest),
    /// The deadline has passed.
    Deadline,
    /// The run's status may have changed.
    Status,
}

/// Messages taken in before the status is looked at again. It bounds how long a failure may go unseen in a flood; a stop request
/// is looked for before each message.
const BATCH: usize = 64;

/// Waits until the run's status may have changed, a request stronger than `level` is made, or the deadline has passed.
///
/// Cancel safe (invariant I10): a message is handled where it is taken out, and the controller's work is cancel safe by contract.
pub(crate) async fn news<C: JobController, S>(
    job: &mut JobContext<C, S>,
    level: Option<StopRequest>,
    deadline: Option<Instant>,
) -> Result<News, ControllerError> {
    let mut taken = 0;
    while taken < BATCH {
        if let Some(request) = job.mailbox.stronger_than(level) {
            return Ok(News::Request(request));
        }
        let Some(event) = job.mailbox.try_recv() else { break };
        take_in(&mut job.controller, &mut job.progress, event);
        taken += 1;
    }
    let now = Instant::now();
    if deadline.is_some_and(|deadline| now >= deadline) {
        return Ok(News::Deadline);
    }
    let next_look = look_at_health(job, now);
    job.publish_status();
    let JobContext { controller, mailbox, progress, .. } = job;
    tokio::select! {
        biased;
        // Before messages, so that a flood of them does not keep orders from being sent.
        result = controller.progress() => result.map(|()| News::Status),
        // Messages were taken in, so there is something to look at; others may run first, or a flood would let nobody else run.
        () = yield_once(), if taken > 0 => Ok(News::Status),
        incoming = mailbox.next(level), if taken == 0 => Ok(match incoming {
            Incoming::Request(request) => News::Request(request),
            Incoming::Worker(event) => {
                take_in(controller, progress, event);
                News::Status
            }
        }),
        () = sleep_until(deadline.map_or(next_look, |deadline| deadline.min(next_look))) => Ok(News::Status),
    }
}

/// Waits until `until` while messages are taken in and the controller works on; a request stronger than `level` ends it.
pub(crate) async fn pause<C: JobController, S>(job: &mut JobContext<C, S>, level: Option<StopRequest>, until: Instant) {
    loop {
        match news(job, level, Some(until)).await {
            Ok(News::Status) => {}
            Ok(News::Request(_) | News::Deadline) => return,
            Err(error) => job.note_error(&error),
        }
    }
}

/// Waits until then, or until a stronger request comes. Neither is the controller polled nor a message taken in.
pub(crate) async fn hold<C, S>(job: &mut JobContext<C, S>, level: Option<StopRequest>, until: Instant) {
    tokio::select! {
        biased;
        _ = job.mailbox.request_above(level) => {}
        () = sleep_until(until) => {}
    }
}

/// Gives the executor's other tasks a turn. Tokio's own needs a feature that the pure machine does without.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Hands a message to the controller. What it rejects has changed nothing, so it is only told, and counted.
pub(super) fn take_in<C: JobController>(controller: &mut C, progress: &mut LiveProgress, event: WorkerEvent) {
    if let Err(rejection) = controller.handle(event, Instant::now().into_std()) {
        tracing::debug!(%rejection, "rejected a worker's message");
        progress.note_rejection(rejection);
    }
}

/// When silent workers are looked for.
#[derive(Debug, Default)]
pub(crate) struct HealthWatch {
    /// When somebody last waited for news.
    awake: Option<Instant>,
    /// When it is time for the next look.
    next: Option<Instant>,
    /// The look is due as soon as so many messages have been taken out in all.
    heard: Option<u64>,
}

/// Looks for silent workers when it is time; says when it is time again.
///
/// A heartbeat may be among the messages that wait, so those that were there when the time came are heard first: these and no
/// more, or a flood would hide who is silent. Senders may also have been held back while nobody waited for news, so after a
/// break they get time to come through.
fn look_at_health<C: JobController, S>(job: &mut JobContext<C, S>, now: Instant) -> Instant {
    let every = job.limits.health_every.max(MOMENT);
    let JobContext { controller, mailbox, health, .. } = job;
    let break_ended = health.awake.is_none_or(|awake| now.saturating_duration_since(awake) >= every.saturating_mul(2));
    health.awake = Some(now);
    if break_ended {
        (health.next, health.heard) = (None, None);
    }
    let next = *health.next.get_or_insert_with(|| after(every));
    if now < next {
        return next;
    }
    if mailbox.taken() >= *health.heard.get_or_insert_with(|| mailbox.taken() + mailbox.waiting()) {
        controller.check_health(now.into_std());
        (health.next, health.heard) = (Some(after(every)), None);
    }
    after(every)
}
