//! Error texts: each cause is told once, numbers are rounded for people, names are bare.

use std::{collections::BTreeSet, error::Error, io, time::Duration};

use winddown::{
    Detached, Epoch, JobContext, JobId, OpenRun, Policy, RunId, Scheduler, StepError, TaskId, WorkerId,
    contracts::{ControllerError, OrderError, Rejection, RunFailure, SchedulerError, StoreError},
    drive,
    drive::Unfit,
    journal::JournalError,
    testing::scripted::ScriptedScheduler,
};

/// An error and its causes, as `{:#}` of the usual error crates joins them.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// What no program says by itself, so that it is found wherever it is repeated.
const CAUSE: &str = "disk 17 is on fire";

fn io() -> io::Error {
    io::Error::other(CAUSE)
}

#[track_caller]
fn assert_told_once(error: &dyn Error) {
    let text = chain(error);
    assert_eq!(text.matches(CAUSE).count(), 1, "the cause is told once: {text}");
    let parts: Vec<_> = text.split(": ").collect();
    assert_eq!(parts.iter().collect::<BTreeSet<_>>().len(), parts.len(), "nothing is repeated: {text}");
}

#[tokio::test]
async fn u10_a_cause_is_told_once_in_every_error() {
    let scheduler = || SchedulerError::Unavailable(io().into());
    let store = || StoreError::Unavailable(io().into());
    let journal = || JournalError::Unavailable(io().into());
    assert_told_once(&scheduler());
    assert_told_once(&SchedulerError::Refused(io().into()));
    assert_told_once(&store());
    assert_told_once(&journal());
    assert_told_once(&ControllerError::Other(io().into()));
    assert_told_once(&ControllerError::from(store()));
    assert_told_once(&StepError::from(scheduler()));
    assert_told_once(&StepError::from(journal()));
    assert_told_once(&StepError::from(ControllerError::from(store())));
    assert_told_once(&StepError::from(ControllerError::Other(io().into())));
    assert_told_once(&Unfit::from(scheduler()));
    assert_told_once(&Unfit::from(store()));

    // The phase and the drive that could not go on.
    let refuses = Refuses;
    let (mut job, running) = JobContext::builder(&OpenRun::without_store("words", RunId::new(1)))
        .simulated()
        .build(Detached, refuses)
        .unwrap();
    let failed = running.force(&mut job).unwrap().next(&mut job).await.unwrap_err();
    assert_told_once(&failed);
    let error = drive(failed.into_phase(), &mut job, &Policy::escalate()).await.unwrap_err();
    assert_told_once(&error);
}

struct Refuses;

impl Scheduler for Refuses {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, _: bool) -> Result<(), SchedulerError> {
        Err(SchedulerError::Refused(io().into()))
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        Ok(vec![])
    }
}

#[cfg(all(feature = "process", target_os = "linux"))]
#[test]
fn u10_a_cause_is_told_once_in_every_error_of_processes() {
    use winddown::process::ProcessError;
    assert_told_once(&ProcessError::State { path: "state".into(), error: io() });
    assert_told_once(&ProcessError::Proc(io()));
    let (job, run, worker) = ("words".into(), RunId::new(1), WorkerId::new(2));
    assert_told_once(&ProcessError::Spawn { job, run, worker, program: "worker".into(), error: io() });
}

/// A `source` beside a text that holds it already is what repeats itself: no error enum of the
/// crate declares one.
#[test]
fn u10_no_error_declares_a_source_that_its_text_holds_already() {
    let mut files = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        seen += usize::from(text.contains("thiserror::Error"));
        let declares = text.contains("#[source]") || text.contains("fn source(&self)");
        assert!(!declares, "{} declares a source; its text says the cause already", path.display());
        // `#[from]` is a source too, and only right where the text is the cause's own.
        for (at, _) in text.match_indices("#[from]") {
            let before = text[..at].rfind("#[error").map(|start| &text[start..at]).unwrap_or_default();
            assert!(before.starts_with("#[error(transparent)]"), "{}: {before}", path.display());
        }
    }
    assert!(seen > 10, "only {seen} files with errors: look at how they are found");
}

#[test]
fn u10_durations_for_people_are_rounded() {
    let odd = Duration::from_nanos(30_015_741_054);
    let error = SchedulerError::TimedOut { call: "workers_for_job", after: odd };
    assert_eq!(error.to_string(), "the scheduler did not answer `workers_for_job` within 30s 16ms");
    let lost = RunFailure::WorkerLost { worker: WorkerId::new(3), silent_for: odd };
    assert_eq!(lost.to_string(), "worker 3 is lost: silent for 30s 16ms");
    let error = OrderError::timed_out(Duration::from_nanos(5_000_000_001));
    assert_eq!(error.to_string(), "timed out: no answer within 5s");
}

#[test]
fn u10_names_print_bare_and_sentences_put_the_noun_in() {
    assert_eq!(format!("{} {} {} {}", RunId::new(7), WorkerId::new(3), Epoch::new(9), TaskId::new(0, 4)), "7 3 9 0/4");
    assert_eq!(format!("{:>4}|{:04}", RunId::new(7), Epoch::new(9)), "   7|0009", "they are padded like numbers");
    let task = TaskId::new(0, 1);
    let rejection = Rejection::NotItsWorker { task, expected: WorkerId::new(2), got: WorkerId::new(1) };
    assert_eq!(rejection.to_string(), "task 0/1 runs on worker 2, but worker 1 reported it");
    let fenced = StoreError::Fenced { job: "words".into(), run: RunId::new(1), newer: RunId::new(2) };
    assert!(fenced.to_string().starts_with("run 1 of job `words` is fenced: run 2 has opened"), "{fenced}");
    let _ = ScriptedScheduler::new([1]);
}
