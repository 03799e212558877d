//! The environment that a scheduler starts a worker with, and the worker's side of it: the same for processes and pods.

mod fence;

use std::{env, ffi::OsString};

pub(crate) use fence::Fences;

use crate::contracts::{JobId, OpenRun, RunId, WorkerId};

/// The variable that names the job.
pub const JOB: &str = "WINDDOWN_JOB";
/// The variable that holds the run, a decimal number.
pub const RUN: &str = "WINDDOWN_RUN";
/// The variable that holds the worker's id, a decimal number.
pub const WORKER: &str = "WINDDOWN_WORKER";
/// The variable that holds the controller's address, as it was given to the scheduler.
pub const CONTROLLER: &str = "WINDDOWN_CONTROLLER";
/// The variable that holds the path of the lifeline: a named pipe that nothing is ever written to, and whose end is reached when the
/// scheduler is gone. A worker in another language opens it for reading and leaves at its end, or when it can't be found.
#[cfg(all(feature = "process", target_os = "linux"))]
pub const LIFELINE: &str = "WINDDOWN_LIFELINE";
/// The variable that names this start of the worker, after those of the workers that its scheduler is itself a part of. The scheduler
/// recognises a worker's children by it: leave it as it is.
#[cfg(all(feature = "process", target_os = "linux"))]
pub const SPAWN: &str = "WINDDOWN_SPAWN";

/// Who a worker is, and whom it reports to: what the scheduler passes, and what the worker reads.
///
/// ```
/// use winddown::process::WorkerEnv;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// match WorkerEnv::from_env()? {
///     Some(worker) => println!("a worker: {} of job `{}`, reports to {}", worker.worker, worker.job, worker.controller),
///     None => println!("not started by a scheduler"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerEnv {
    /// The job.
    pub job: JobId,
    /// The run.
    pub run: RunId,
    /// The worker.
    pub worker: WorkerId,
    /// The controller's address, in the form that the transport wants.
    pub controller: String,
    #[cfg(all(feature = "process", target_os = "linux"))]
    pub(crate) lifeline: Option<std::path::PathBuf>,
}

impl WorkerEnv {
    /// A worker to be started.
    pub fn new(open: &OpenRun, worker: WorkerId, controller: impl Into<String>) -> Self {
        Self {
            job: open.job().clone(),
            run: open.run(),
            worker,
            controller: controller.into(),
            #[cfg(all(feature = "process", target_os = "linux"))]
            lifeline: None,
        }
    }

    /// What the scheduler has told this process. `None` if no scheduler started it ([`WORKER`] is not set).
    ///
    /// # Errors
    /// [`WorkerEnvError`] names the first variable that is missing or can't be read.
    pub fn from_env() -> Result<Option<Self>, WorkerEnvError> {
        Self::read(|variable| env::var_os(variable))
    }

    fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, WorkerEnvError> {
        if get(WORKER).is_none() {
            return Ok(None);
        }
        let text = |variable, expected| {
            let error = |got| WorkerEnvError { variable, expected, got };
            let value = get(variable).ok_or_else(|| error("nothing".to_owned()))?;
            value.into_string().map_err(|value| error(format!("{:?}", value.display().to_string())))
        };
        let number = |variable| {
            let expected = "a decimal number";
            let value = text(variable, expected)?;
            value.parse().map_err(|_| WorkerEnvError { variable, expected, got: format!("{value:?}") })
        };
        Ok(Some(Self {
            job: JobId::new(text(JOB, "the job's name")?),
            run: RunId::new(number(RUN)?),
            worker: WorkerId::new(number(WORKER)?),
            controller: text(CONTROLLER, "the controller's address")?,
            #[cfg(all(feature = "process", target_os = "linux"))]
            lifeline: get(LIFELINE).map(std::path::PathBuf::from),
        }))
    }

    /// What the worker is told: each variable and its value.
    pub(crate) fn variables(&self) -> [(&'static str, String); 4] {
        [
            (JOB, self.job.as_str().to_owned()),
            (RUN, self.run.get().to_string()),
            (WORKER, self.worker.get().to_string()),
            (CONTROLLER, self.controller.clone()),
        ]
    }
}

/// A worker's environment that is incomplete or can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the environment variable `{variable}` to hold {expected}, got {got}; the scheduler that starts the worker sets it"
)]
pub struct WorkerEnvError {
    /// The variable.
    pub variable: &'static str,
    /// What it is to hold.
    pub expected: &'static str,
    /// What it holds.
    pub got: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(run: &str, without: &str) -> Result<Option<WorkerEnv>, WorkerEnvError> {
        let variables = [(JOB, "words"), (RUN, run), (WORKER, "3"), (CONTROLLER, "http://127.0.0.1:1")];
        let set = |variable: &str| variables.iter().find(|(name, _)| *name == variable && variable != without);
        WorkerEnv::read(|variable| set(variable).map(|(_, value)| value.into()))
    }

    #[test]
    fn what_the_scheduler_passes_is_what_the_worker_reads() {
        let sent =
            WorkerEnv::new(&OpenRun::without_store("words", RunId::new(7)), WorkerId::new(3), "http://127.0.0.1:1");
        assert_eq!(read("7", ""), Ok(Some(sent)));
        assert_eq!(read("7", WORKER), Ok(None), "no worker");
    }

    #[test]
    fn a_variable_that_is_missing_or_wrong_is_named() {
        assert_eq!(
            read("7", CONTROLLER).unwrap_err().to_string(),
            "expected the environment variable `WINDDOWN_CONTROLLER` to hold the controller's address, got nothing; the scheduler \
             that starts the worker sets it"
        );
        let error = read("-1", "").unwrap_err();
        assert_eq!((error.variable, error.expected, error.got.as_str()), (RUN, "a decimal number", "\"-1\""));
    }
}
