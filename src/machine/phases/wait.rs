//! The only place where a phase waits for its workers. A stop request comes first, then the
//! deadline, then the controller's own work, then messages.

use std::{future::poll_fn, task::Poll};

use tokio::time::{Instant, sleep_until};

use crate::{
    clock::{MOMENT, after},
    contracts::{ControllerError, Event, JobController, StopRequest, WorkerEvent},
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

/// Messages that are handled before the status is checked again. This bounds how long a failure may
/// go unnoticed in a flood; stop requests are checked before each message.
const BATCH: usize = 64;

/// Waits until the run's status may have changed, a request stronger than `level` is made, or the
/// deadline has passed.
///
/// Cancel safe (invariant I10): a message is handled as soon as it is taken out, and the
/// controller's work is cancel safe by contract.
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
    job.note_call(None);
    job.publish_status();
    job.publish_holdups(now);
    let JobContext { controller, mailbox, progress, .. } = job;
    tokio::select! {
        biased;
        // Before messages, so that a flood of them does not prevent orders from being sent.
        result = controller.progress() => result.map(|()| News::Status),
        // Messages were handled, so the status may have changed. Other tasks may run first, or a
        // flood would starve them.
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

/// Waits until `until`, while messages are handled and the controller continues its work; a request
/// stronger than `level` ends the wait.
pub(crate) async fn pause<C: JobController, S>(job: &mut JobContext<C, S>, level: Option<StopRequest>, until: Instant) {
    loop {
        match news(job, level, Some(until)).await {
            Ok(News::Status) => {}
            Ok(News::Request(_) | News::Deadline) => return,
            Err(error) => job.note_error(&error),
        }
    }
}

/// Waits until then, or until a stronger request arrives, without polling the controller or
/// handling messages.
pub(crate) async fn hold<C, S>(job: &mut JobContext<C, S>, level: Option<StopRequest>, until: Instant) {
    tokio::select! {
        biased;
        _ = job.mailbox.request_above(level) => {}
        () = sleep_until(until) => {}
    }
}

/// Yields to the executor's other tasks. Tokio's own function needs a feature that the pure machine
/// does without.
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

/// Passes a message to the controller. A rejected message has changed nothing, so it is only logged
/// and counted. A nonfatal error is reported to the job's watchers.
pub(super) fn take_in<C: JobController>(controller: &mut C, progress: &mut LiveProgress, event: WorkerEvent) {
    let nonfatal = match &event.event {
        Event::NonfatalError { task, error } => Some((event.worker, *task, error.clone())),
        _ => None,
    };
    if let Err(rejection) = controller.handle(event, Instant::now().into_std()) {
        tracing::debug!(%rejection, "rejected a worker's message");
        progress.note_rejection(rejection);
    } else if let Some((worker, task, error)) = nonfatal {
        let task = task.map(tracing::field::display);
        tracing::warn!(worker = worker.get(), task, %error, "a worker reported an error that ends nothing");
        progress.note_error(&error);
    }
}

/// When to check for silent workers.
#[derive(Debug, Default)]
pub(crate) struct HealthWatch {
    /// When the phase last waited for news.
    awake: Option<Instant>,
    /// When the next check is due.
    next: Option<Instant>,
    /// The check is done as soon as this many messages have been taken out in total.
    heard: Option<u64>,
}

/// Checks for silent workers when it is due, and returns when the next check is due.
///
/// A heartbeat may be among the waiting messages, so those that were waiting when the check became
/// due are handled first: only these, or a flood would hide silent workers. Senders may also have
/// been held back while the phase was not waiting for news, so after a break they get time to
/// deliver their messages.
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
