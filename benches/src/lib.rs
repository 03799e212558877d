//! What a shutdown costs, compared with the usual ways to do it: the measurements, and the page of
//! their figures.
//!
//! Two programs and a test use it: `performance` (`cargo bench -p winddown-benches`) prints tables,
//! `bench_report` writes `docs/performance.md`, and `tests/performance_page.rs` compares that page
//! with the stored figures.
#![expect(clippy::unwrap_used, reason = "a bench that can't be set up has nothing to measure")]
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::missing_errors_doc, reason = "only the programs of this package call it")]

pub mod measure;
pub mod report;
