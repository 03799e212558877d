//! Stop requests: from the command line at given times, and from the user with Ctrl-C. A request
//! also holds for the runs that follow.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::{Instant, sleep_until};
use winddown::{JobSender, StopRequest};

use crate::{cli::StopAt, screen::Screen};

/// What Ctrl-C asks for, one after the other.
const LADDER: [StopRequest; 3] = [StopRequest::Checkpoint, StopRequest::Immediate, StopRequest::Force];

/// The strongest stop request so far, and the run that gets it.
#[derive(Debug, Default)]
pub(crate) struct Stops(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    strongest: Option<StopRequest>,
    job: Option<JobSender>,
}

impl Stops {
    /// Requests a stop of the current run and of those that would follow. Returns whether the
    /// request is stronger than all before.
    pub(crate) fn ask(&self, request: StopRequest) -> bool {
        let mut state = self.lock();
        let news = state.strongest < Some(request);
        state.strongest = state.strongest.max(Some(request));
        state.tell();
        news
    }

    /// From now on this run gets the requests; at once, if there has been one.
    pub(crate) fn attach(&self, job: JobSender) {
        let mut state = self.lock();
        state.job = Some(job);
        state.tell();
    }

    /// The strongest stop that was asked for.
    pub(crate) fn strongest(&self) -> Option<StopRequest> {
        self.lock().strongest
    }

    /// What the next Ctrl-C asks for.
    pub(crate) fn next_rung(&self) -> Option<StopRequest> {
        let strongest = self.strongest();
        LADDER.into_iter().find(|&rung| Some(rung) > strongest)
    }

    /// What the next Ctrl-C will do, for people.
    pub(crate) fn hint(&self) -> &'static str {
        match self.next_rung() {
            Some(StopRequest::Checkpoint) => "Ctrl-C: stop with a checkpoint",
            Some(StopRequest::Immediate) => "Ctrl-C again: stop at once, without the checkpoint",
            Some(_) => "Ctrl-C again: kill the workers",
            None => "the workers are being killed; Ctrl-C does nothing more",
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Asked> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    fn tell(&self) {
        if let (Some(job), Some(request)) = (&self.job, self.strongest) {
            // A run that is over needs no stop.
            let _ = job.request(request);
        }
    }
}

/// Asks for the stops of the command line, at their times after `start`.
pub(crate) fn schedule(stops: &Arc<Stops>, screen: &Arc<Screen>, times: &[StopAt], start: Instant) {
    for &StopAt { request, after } in times {
        // A time beyond the clock never comes.
        let Some(at) = start.checked_add(after) else { continue };
        let (stops, screen) = (Arc::clone(stops), Arc::clone(screen));
        tokio::spawn(async move {
            sleep_until(at).await;
            if stops.ask(request) {
                screen.say(&format!("stop asked for: {request} (--stop); {}", stops.hint()));
            }
        });
    }
}

/// Climbs the ladder with every Ctrl-C and SIGTERM. The signals are caught as soon as this returns.
///
/// # Errors
/// When the operating system does not let signals be caught.
pub(crate) fn climb_on_signals(stops: &Arc<Stops>, screen: &Arc<Screen>) -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    let (stops, screen) = (Arc::clone(stops), Arc::clone(screen));
    tokio::spawn(async move {
        loop {
            let name = signals.next().await;
            let asked = stops.next_rung();
            if let Some(rung) = asked {
                stops.ask(rung);
            }
            let what = asked.map_or("nothing new", StopRequest::name);
            screen.say(&format!("stop asked for: {what} ({name}); {}", stops.hint()));
        }
    });
    Ok(())
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Cancel safe: a signal that was not returned is returned by the next call.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// Cancel safe: it only waits.
    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}

#[cfg(test)]
mod tests {
    use winddown::Mailbox;

    use super::*;

    #[test]
    fn the_ladder_has_three_rungs_and_never_goes_down() {
        let stops = Stops::default();
        let mut rungs = Vec::new();
        while let Some(rung) = stops.next_rung() {
            assert!(stops.hint().starts_with("Ctrl-C"));
            assert!(stops.ask(rung));
            rungs.push(rung);
        }
        assert_eq!(rungs, LADDER);
        assert!(!stops.ask(StopRequest::Graceful) && !stops.ask(StopRequest::Force));
        assert_eq!(stops.strongest(), Some(StopRequest::Force));
    }

    #[test]
    fn ctrl_c_goes_on_from_what_the_command_line_asked_for() {
        let stops = Stops::default();
        stops.ask(StopRequest::Graceful);
        assert_eq!(stops.next_rung(), Some(StopRequest::Immediate));
    }

    #[test]
    fn i8_a_stop_that_was_asked_for_holds_for_the_next_run_too() {
        let stops = Stops::default();
        let (first, second) = (Mailbox::new(1), Mailbox::new(1));
        stops.attach(first.sender());
        assert_eq!(first.requested(), None);
        stops.ask(StopRequest::Checkpoint);
        assert_eq!(first.requested(), Some(StopRequest::Checkpoint));
        stops.attach(second.sender());
        assert_eq!(second.requested(), Some(StopRequest::Checkpoint));
    }
}
