//! Runs the unit tests that lie in the modules of `examples/wordcount` and `examples/soak`. A plain `cargo test` builds examples as programs
//! (`tests/wordcount.rs` runs this one), and does not run what is tested inside of them.
#![cfg(all(
    feature = "embedded",
    feature = "grpc",
    feature = "journal",
    feature = "object-store",
    feature = "process"
))]
#![allow(dead_code)] // `main` is not here, and it uses what then looks unused

#[path = "../examples/wordcount/app.rs"]
mod app;
#[path = "../examples/wordcount/claim.rs"]
mod claim;
#[path = "../examples/wordcount/cli.rs"]
mod cli;
#[path = "../examples/wordcount/count.rs"]
mod count;
#[path = "../examples/wordcount/durable.rs"]
mod durable;
#[path = "../examples/wordcount/input.rs"]
mod input;
#[path = "../examples/wordcount/meter.rs"]
mod meter;
#[path = "../examples/soak/options.rs"]
mod options;
#[path = "../examples/wordcount/output.rs"]
mod output;
#[path = "../examples/wordcount/report.rs"]
mod report;
#[path = "../examples/wordcount/resume.rs"]
mod resume;
#[path = "../examples/wordcount/run_loop.rs"]
mod run_loop;
#[path = "../examples/wordcount/runtime/mod.rs"]
mod runtime;
#[path = "../examples/wordcount/screen.rs"]
mod screen;
#[path = "../examples/wordcount/share.rs"]
mod share;
#[path = "../examples/wordcount/sink.rs"]
mod sink;
#[path = "../examples/wordcount/source.rs"]
mod source;
#[path = "../examples/wordcount/state_dir.rs"]
mod state_dir;
#[path = "../examples/wordcount/stops.rs"]
mod stops;
#[path = "../examples/wordcount/table.rs"]
mod table;
#[path = "../examples/wordcount/tasks.rs"]
mod tasks;
#[path = "../examples/soak/truth.rs"]
mod truth;
#[path = "../examples/wordcount/words.rs"]
mod words;
