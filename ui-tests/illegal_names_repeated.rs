// Job and run are said once, by what the store gave.
use winddown::{Detached, JobContext, RunId};

fn repeat() {
    let _ = JobContext::builder("words", RunId::new(1)).build(Detached, ());
}

fn main() {}
