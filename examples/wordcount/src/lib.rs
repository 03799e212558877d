//! A streaming word count with exactly-once output, stopped by winddown's types: try `--help`, and Ctrl-C.
//!
//! Each worker is a chain of three tasks, source → count → sink, with checkpoint barriers in the stream and a
//! two-phase commit in the sink. Whatever ends a run, a stop of any mode, a failure or a kill of this process, the
//! next start with the same state directory goes on from the last complete checkpoint, and the counts are exact in
//! the end.
//!
//! ```text
//! cargo run --release -p wordcount
//! cargo run --release -p wordcount -- big.txt --stop checkpoint@2s
//! ```
//!
//! With `--runtime process` the workers are processes of this same program that speak gRPC. The program `soak` has
//! this library inside, and tries to break it.
//!
//! Where to look: `run_loop.rs` puts a job together and drives it, `runtime/` says where workers run, `tasks.rs` is
//! the dataflow, `output.rs` the two-phase commit, `stops.rs` the Ctrl-C ladder, `resume.rs` finishes the shutdown of
//! a call that was killed.

mod claim;
mod cli;
mod count;
mod durable;
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
