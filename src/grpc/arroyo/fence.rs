//! Which run an order is meant for. Arroyo's orders do not say it, so our controller says it beside the message, in gRPC metadata
//! that workers of the Arroyo family never look at, and our worker checks what it finds (invariant I11).

use tonic::{
    Status,
    metadata::{BinaryMetadataValue, MetadataMap, MetadataValue},
};

use crate::contracts::{JobId, RunId, WorkerId};

const RUN: &str = "winddown-run";
const WORKER: &str = "winddown-worker";
/// Binary, since a job's name may be any text.
const JOB: &str = "winddown-job-bin";

/// Who an order is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addressee {
    pub(super) job: JobId,
    pub(super) run: RunId,
    pub(super) worker: WorkerId,
}

impl Addressee {
    pub(super) fn write(&self, metadata: &mut MetadataMap) {
        metadata.insert(RUN, self.run.get().into());
        metadata.insert(WORKER, self.worker.get().into());
        let job: BinaryMetadataValue = MetadataValue::from_bytes(self.job.as_str().as_bytes());
        metadata.insert_bin(JOB, job);
    }

    /// Whether an order is for this worker. What the sender does not say is not checked: a controller of the Arroyo family says
    /// nothing.
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
        for (name, expected, label) in [(RUN, self.run.get(), "run"), (WORKER, self.worker.get(), "worker")] {
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
    fn i11_a_run_that_is_no_number_is_another_run() {
        let mut metadata = MetadataMap::new();
        metadata.insert(RUN, "seven".parse().unwrap());
        assert!(addressee().check(&metadata).is_err());
    }
}
