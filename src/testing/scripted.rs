//! A controller, a scheduler and a journal that follow a test's script and record their calls. With
//! tokio's paused clock (`#[tokio::test(start_paused = true)]`), a test that spans minutes takes no
//! time.
//!
//! Each is a handle: clone it, give one to the job, and keep one to script it and to read its
//! calls.

mod controller;
mod journal;
mod scheduler;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{contracts::StopRequest, machine::JobContext};

pub use controller::{CheckpointAnswer, ControllerCall, Does, ScriptedController, Told};
pub use journal::{JournalAnswer, ScriptedJournal};
pub use scheduler::{Call, SchedulerAnswer, ScriptedScheduler};

/// Requests a stop of the job after a delay, from a separate task. The job may have ended by then.
///
/// # Panics
/// It needs a tokio runtime around it.
pub fn request_later<C, S>(job: &JobContext<C, S>, after: Duration, request: StopRequest) {
    let sender = job.sender();
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        let _ = sender.request(request);
    });
}

/// A script stays readable after a panic elsewhere: the test is failing anyway, and should show
/// why.
fn lock<T>(script: &Mutex<T>) -> MutexGuard<'_, T> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next answer; the last one is repeated.
fn next_of<A: Copy + Default>(answers: &mut Vec<A>) -> A {
    if answers.len() > 1 { answers.remove(0) } else { answers.first().copied().unwrap_or_default() }
}
