//! What Ctrl-C asks for.

use winddown::{JobSender, StopRequest};

/// From a stop that was asked for to the next stronger one that makes a difference.
pub(crate) fn next(asked: Option<StopRequest>) -> Option<StopRequest> {
    match asked {
        None => Some(StopRequest::Checkpoint),
        Some(StopRequest::Checkpoint | StopRequest::Graceful) => Some(StopRequest::Immediate),
        Some(StopRequest::Immediate) => Some(StopRequest::Force),
        Some(StopRequest::Force) => None,
    }
}

/// What the next Ctrl-C will do.
pub(crate) fn hint(asked: Option<StopRequest>) -> &'static str {
    match next(asked) {
        Some(StopRequest::Immediate) => "Ctrl-C: cancel the job instead",
        Some(StopRequest::Force) => "Ctrl-C: cancel it once more, and believe nothing but its end",
        Some(_) => "Ctrl-C: stop the job",
        None => "Ctrl-C does nothing more; to leave, kill this command: the order stands",
    }
}

/// Climbs with every Ctrl-C and SIGTERM. The signals are caught from the moment this returns.
///
/// # Errors
/// When the operating system does not let signals be caught.
pub(crate) fn climb(job: JobSender) -> std::io::Result<()> {
    let mut signals = signals::Signals::new()?;
    tokio::spawn(async move {
        loop {
            signals.next().await;
            if let Some(request) = next(job.requested()) {
                // A job that has stopped needs no stop.
                let _ = job.request(request);
                eprintln!("stop asked for: {request}; {}", hint(Some(request)));
            } else {
                eprintln!("{}", hint(job.requested()));
            }
        }
    });
    Ok(())
}

#[cfg(unix)]
mod signals {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    pub(super) struct Signals {
        interrupt: Signal,
        terminate: Signal,
    }

    impl Signals {
        pub(super) fn new() -> std::io::Result<Self> {
            Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
        }

        pub(super) async fn next(&mut self) {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        }
    }
}

#[cfg(not(unix))]
mod signals {
    pub(super) struct Signals;

    impl Signals {
        pub(super) fn new() -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(super) async fn next(&mut self) {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_goes_up_and_ends() {
        let mut asked = None;
        let mut rungs = Vec::new();
        while let Some(rung) = next(asked) {
            assert!(asked < Some(rung), "{rung}");
            asked = Some(rung);
            rungs.push(rung);
        }
        assert_eq!(rungs, [StopRequest::Checkpoint, StopRequest::Immediate, StopRequest::Force]);
        assert_eq!(next(Some(StopRequest::Graceful)), Some(StopRequest::Immediate));
    }
}
