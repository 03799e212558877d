//! A streaming word count with exactly-once output that is stopped with winddown: try `--help`, and
//! Ctrl-C.
//!
//! Each worker is a chain of three tasks, source → count → sink, with checkpoint barriers in the
//! stream and a two-phase commit in the sink. Whatever ends a run (a stop of any mode, a failure,
//! or a kill of this process), the next start with the same state directory continues from the last
//! complete checkpoint, and the final counts are exact.
//!
//! ```text
//! cargo run --release -p wordcount
//! cargo run --release -p wordcount -- big.txt --stop checkpoint@2s
//! ```
//!
//! With `--runtime process` the workers are processes of the same program, connected over gRPC. The
//! program `soak` uses this library, and tries to break it.
//!
//! Where to look: `run_loop.rs` builds a job and drives it, `runtime/` defines where workers run,
//! `tasks.rs` is the dataflow, `output.rs` the two-phase commit, `stops.rs` the Ctrl-C ladder,
//! `resume.rs` finishes the shutdown of a call that was killed.

mod claim;
mod cli;
mod count;
mod input;
mod meter;
mod output;
mod program;
mod report;
mod resume;
mod run_loop;
mod runtime;
mod screen;
mod share;
mod sink;
mod source;
mod state_dir;
mod stops;
mod table;
mod tasks;
mod words;

pub use crate::{
    cli::Runtime,
    program::{helper, main},
    run_loop::JOB,
};
