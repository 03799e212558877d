//! Stops Apache Flink jobs with evidence, over Flink's REST API.
//!
//! A savepoint that is complete is not a job that has stopped, and a job that Flink's records call
//! ended may have a frozen `TaskManager` that wakes up. [`FlinkController`] and [`FlinkScheduler`]
//! connect a job of a session cluster to winddown's machine, whose `Stopped` says what is proven:
//!
//! ```no_run
//! use winddown::prelude::*;
//! use winddown_flink::{FlinkController, FlinkJob, FlinkScheduler, RestClient, RestSettings};
//!
//! # async fn stop() -> Result<(), Box<dyn std::error::Error>> {
//! let client = RestClient::new(RestSettings::new("http://localhost:8081"))?;
//! let flink = FlinkJob::attach(&client, "59fb3e87e2c1939ef85565f931a51227").await?;
//! let controller = FlinkController::builder(&flink).build();
//! let view = controller.watch();
//! let (mut job, running) = JobContext::new(&flink.open(), controller, FlinkScheduler::new(&flink))?;
//! let stopping = running.stop_with_checkpoint(&mut job)?;
//! println!("{}", drive(stopping, &mut job, &Policy::give_back()).await?);
//! println!("resume from {:?}", view.borrow().savepoint);
//! # Ok(())
//! # }
//! ```
//!
//! The command `winddown-flink` does the same from a shell: `docs/flink.md`.
#![forbid(unsafe_code)]

pub mod answers;
mod books;
mod controller;
mod job;
mod look;
pub mod rest;
mod savepoint;
mod scheduler;

pub use answers::JobState;
pub use controller::{FlinkController, FlinkControllerBuilder, Trouble, VertexView, View};
pub use job::{AttachError, FlinkJob};
pub use rest::{RestClient, RestError, RestSettings, TlsFiles};
pub use savepoint::Mount;
pub use scheduler::FlinkScheduler;
