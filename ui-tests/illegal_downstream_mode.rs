// A downstream crate can't add a mode of stopping.
use winddown::{contracts::WorkerStopMode, machine::{StopBehavior, StopMode}};

#[derive(Clone, Copy)]
struct Polite;

impl StopMode for Polite {
    const BEHAVIOR: StopBehavior = StopBehavior::StopJob(WorkerStopMode::Graceful);
}

fn main() {}
