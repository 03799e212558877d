//! Workers as child processes: a [`Scheduler`](crate::contracts::Scheduler) that starts, stops, kills and verifies them. Linux only.
//!
//! Each worker leads a process group of its own, so that Ctrl-C in a terminal reaches the scheduler alone, and a kill reaches what the
//! worker has forked. A worker is listed until its process is reaped and no child of it is left.
//!
//! ```no_run
//! use std::process::Command;
//! use winddown::{OpenRun, ProcessScheduler, RunId, Scheduler, WorkerId, process::WorkerEnv};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     winddown::process::init(); // first: the watchdog is this program, started a second time
//!     match WorkerEnv::from_env()? {
//!         Some(worker) => work(worker),
//!         None => tokio::runtime::Runtime::new()?.block_on(control()),
//!     }
//! }
//!
//! fn work(worker: WorkerEnv) -> Result<(), Box<dyn std::error::Error>> {
//!     println!("worker {} of job `{}`", worker.worker, worker.job); // to a file in the state folder
//!     Ok(())
//! }
//!
//! async fn control() -> Result<(), Box<dyn std::error::Error>> {
//!     let scheduler = ProcessScheduler::open("state").await?;
//!     let open = OpenRun::without_store("words", RunId::new(1)); // or what `CheckpointStore::open_run` gives
//!     for number in 1..=4 {
//!         let worker = WorkerEnv::new(&open, WorkerId::new(number), "http://127.0.0.1:7000");
//!         scheduler.start(worker, Command::new(std::env::current_exe()?)).await?;
//!     }
//!     scheduler.stop_workers(open.job(), Some(open.run()), true).await?;
//!     assert_eq!(scheduler.workers_for_job(open.job(), Some(open.run())).await?, []);
//!     scheduler.close().await;
//!     Ok(())
//! }
//! ```
//!
//! # What is kept
//! - **Stop.** Without force: SIGTERM to all groups at once (and SIGCONT, so that a frozen worker can take it in), then SIGKILL to what is
//!   left after the grace period. With force: SIGKILL at once. Both return when every process is reaped and every group empty.
//! - **Starts.** A worker is listed from the call of [`start`](ProcessScheduler::start) on. A forced stop refuses the starts of the run that were called
//!   before, or kills what comes of them, and refuses those that are called later; starts of other runs go on.
//! - **Children.** What a worker has forked belongs to it. Where control groups can be made it is in the worker's, which it can't leave; elsewhere
//!   it is recognised by its process group, by [`SPAWN`] in its environment, and by its parents, and one that hides all of them is *unknown*: it keeps
//!   the worker listed, and a stop is an error that names it. [`HeldBy`] says which of the two it is; `docs/security.md` has what can't be known.
//! - **The scheduler's death.** However it dies, its workers get SIGTERM at once and SIGKILL after the orphan grace period; nothing of
//!   them is left one second later. See [`Watchdog`] for how, and [`WorkerEnv::lifeline`] for workers that want to leave by themselves.
//!   It fails to hold if the watchdog is killed together with the scheduler (as `systemctl stop` does, which then kills the workers too),
//!   and while a process that the scheduler's program forked without exec lives on and so keeps the scheduler's end open.
//! - **Ends.** A worker's end is seen at once, and told to its run by [`JobContext::hear_of_ends`](crate::machine::JobContext::hear_of_ends).
//! - **Restart.** A scheduler opened on the state folder of one that died finds the workers that are still there, and lists and stops
//!   them. They are known by number, start time, boot, user, and the token that they carry; a number that is in use again is left alone.
//! - **The folder.** It belongs to the scheduler's user alone, or it is refused: who may write to it decides what is killed.
//!
//! # The state folder
//! | path | what it holds |
//! |---|---|
//! | `lock` | locked (`flock`) while a scheduler uses the folder |
//! | `workers/<token>.json` | one worker: job, run, id, process id, start time, boot, user, control group; removed when it is gone |
//! | `workers/<token>.damaged` | a record that could not be read, set aside; what carried its token was ended |
//! | `output/<job>/<run>/<worker>.stdout`, `.stderr` | what the worker wrote; appended to if it is started again, never removed |
//! | `lifeline-<token>` | the named pipe of this scheduler |
//! | `watchdog.log` | what a watchdog had to complain of |

mod cgroup;
mod error;
mod folder;
mod keeper;
mod lifeline;
mod lock;
mod members;
mod open;
mod origin;
mod proc;
mod record;
mod scheduler;
mod start;
mod table;
#[cfg(test)]
mod tests;
mod watchdog;

pub use crate::worker_env::{CONTROLLER, JOB, LIFELINE, RUN, SPAWN, WORKER, WorkerEnv, WorkerEnvError};
pub use error::ProcessError;
pub use open::{HeldBy, ProcessSchedulerBuilder};
pub use scheduler::{ProcessScheduler, WorkerProcess};
pub use watchdog::{Watchdog, init};

/// Whether these bytes are the record of a worker.
#[cfg(test)]
pub(crate) fn takes(bytes: &[u8]) -> bool {
    serde_json::from_slice::<record::Record>(bytes).is_ok()
}
