//! Who an order is meant for, and who speaks: what is said beside a message, in gRPC metadata.
//!
//! Arroyo's orders say which worker they are for, and no more; our controller says the run and the job too, in metadata that workers of
//! the Arroyo family never look at, and our worker checks what it finds (invariant I11). Our worker says with each report that it is
//! one: it can be told "later" and "again", which a worker of the Arroyo family can't.

use tonic::{
    Status,
    codegen::http::HeaderMap,
    metadata::{BinaryMetadataValue, MetadataMap, MetadataValue},
};

use crate::contracts::{JobId, RunId, WorkerId};

/// As Arroyo's own controller says it.
const TARGET: &str = "x-target-worker-id";
/// Present in what our worker kit reports.
const KIT: &str = "winddown-kit";
const RUN: &str = "winddown-run";
const WORKER: &str = "winddown-worker";
/// Binary, since a job's name may be any text.
const JOB: &str = "winddown-job-bin";

/// How a worker takes what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// It waits and reports again where it is asked to, and takes a repeated order as one.
    Kit,
    /// Any other worker, such as one of Arroyo's: an error for an answer ends it, and an order twice is two orders.
    Foreign,
}

impl Dialect {
    pub(super) fn of(metadata: &MetadataMap) -> Self {
        if metadata.contains_key(KIT) { Self::Kit } else { Self::Foreign }
    }

    pub(super) fn of_headers(headers: &HeaderMap) -> Self {
        if headers.contains_key(KIT) { Self::Kit } else { Self::Foreign }
    }

    /// Says that our worker kit speaks.
    pub(super) fn say_kit(metadata: &mut MetadataMap) {
        metadata.insert(KIT, MetadataValue::from_static("1"));
    }
}

/// Who an order is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addressee {
    pub(super) job: JobId,
    pub(super) run: RunId,
    pub(super) worker: WorkerId,
}

impl Addressee {
    pub(super) fn write(&self, metadata: &mut MetadataMap) {
        metadata.insert(TARGET, self.worker.get().into());
        metadata.insert(RUN, self.run.get().into());
        metadata.insert(WORKER, self.worker.get().into());
        let job: BinaryMetadataValue = MetadataValue::from_bytes(self.job.as_str().as_bytes());
        metadata.insert_bin(JOB, job);
    }

    /// Whether an order is for this worker. What the sender does not say is not checked: a controller of the Arroyo family says the
    /// worker at most.
    ///
    /// The answer is `PERMISSION_DENIED`: `FAILED_PRECONDITION` would tell a controller that wants to stop *its* worker that
    /// this has happened already.
    pub(super) fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let refuse = |expected: &dyn std::fmt::Display, got: &dyn std::fmt::Display| {
            Err(Status::permission_denied(format!("expected an order for {expected}, got one for {got}")))
        };
        if let Some(job) = metadata.get_bin(JOB) {
            let job = job.to_bytes().unwrap_or_default();
            if job != self.job.as_str().as_bytes() {
                let got = String::from_utf8_lossy(&job).into_owned();
                return refuse(&format_args!("job `{}`", self.job), &format_args!("job `{got}`"));
            }
        }
        let (run, worker) = (self.run.get(), self.worker.get());
        for (name, expected, label) in [(RUN, run, "run"), (WORKER, worker, "worker"), (TARGET, worker, "worker")] {
            let Some(got) = metadata.get(name) else { continue };
            let got = got.to_str().unwrap_or("?");
            if got.parse() != Ok(expected) {
                return refuse(&format_args!("{label} {expected}"), &format_args!("{label} {got}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addressee() -> Addressee {
        Addressee { job: "wörter".into(), run: RunId::new(7), worker: WorkerId::new(3) }
    }

    #[test]
    fn i11_an_order_for_another_run_worker_or_job_is_refused() {
        let mut metadata = MetadataMap::new();
        assert!(addressee().check(&metadata).is_ok(), "a controller of the Arroyo family says nothing");
        addressee().write(&mut metadata);
        assert!(addressee().check(&metadata).is_ok());

        for (other, message) in [
            (Addressee { run: RunId::new(8), ..addressee() }, "expected an order for run 8, got one for run 7"),
            (
                Addressee { worker: WorkerId::new(4), ..addressee() },
                "expected an order for worker 4, got one for worker 3",
            ),
            (
                Addressee { job: "words".into(), ..addressee() },
                "expected an order for job `words`, got one for job `wörter`",
            ),
        ] {
            let status = other.check(&metadata).unwrap_err();
            assert_eq!((status.code(), status.message()), (tonic::Code::PermissionDenied, message));
        }
    }

    #[test]
    fn a5_the_target_is_said_as_arroyo_says_it_and_checked_without_the_rest() {
        let mut metadata = MetadataMap::new();
        addressee().write(&mut metadata);
        assert_eq!(metadata.get("x-target-worker-id").unwrap(), "3");

        let mut metadata = MetadataMap::new();
        metadata.insert(TARGET, 3_u64.into());
        assert!(addressee().check(&metadata).is_ok(), "Arroyo's own controller says no more");
        for another in ["4", "three", ""] {
            metadata.insert(TARGET, another.parse().unwrap());
            let status = addressee().check(&metadata).unwrap_err();
            assert_eq!(status.code(), tonic::Code::PermissionDenied, "{another:?}");
        }
    }

    #[test]
    fn i11_a_run_that_is_no_number_is_another_run() {
        let mut metadata = MetadataMap::new();
        metadata.insert(RUN, "seven".parse().unwrap());
        assert!(addressee().check(&metadata).is_err());
    }
}
