//! What every journal keeps of its contract. Each place that records can be in runs all of it: see
//! [`contract`].

mod format;

use std::{
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, SystemTime},
};

use crate::{
    contracts::{Epoch, JobId, RunId, StopRequest},
    machine::{Journal, JournalError, PhaseKind, PhaseRecord},
};

/// Where the records of one test are.
pub(super) trait Site: Sized {
    type Journal: Journal + Clone + 'static;

    /// A place of its own, empty; `None` if there is none here, which has been said then.
    async fn new() -> Option<Self>;
    /// The journal as one more controller opens it.
    async fn open(&self) -> Self::Journal;
    /// What is stored for a job.
    async fn text(&self, job: &JobId) -> Vec<u8>;
    /// Stores anything for a job.
    async fn set_text(&self, job: &JobId, text: &[u8]);
}

/// Runs the contract's tests against a [`Site`].
macro_rules! contract {
    ($site:ty) => {
        crate::journal::tests::contract! { $site:
            a_job_that_was_never_written_has_no_record
            i7_every_record_is_what_it_was_for_the_next_controller
            a_record_may_be_written_again
            a_record_that_is_not_the_next_changes_nothing
            i11_two_writers_of_one_revision_are_told_apart
            i11_of_fifty_writers_at_once_one_wins
            i11_an_older_run_changes_nothing
            i11_a_newer_run_replaces_with_its_first_record
            i7_a_damaged_record_is_never_taken_or_overwritten
            i7_a_record_of_a_newer_version_is_never_taken_or_overwritten
            i10_a_dropped_write_may_be_written_again
            jobs_of_any_name_have_records_of_their_own
        }
    };
    ($site:ty: $( $test:ident )+) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            if let Some(site) = <$site as crate::journal::tests::Site>::new().await {
                crate::journal::tests::$test(site).await;
            }
        }
    )+ };
}
pub(super) use contract;

pub(super) fn record(run: u64, revision: u64) -> PhaseRecord {
    record_of("words", run, revision)
}

fn record_of(job: &str, run: u64, revision: u64) -> PhaseRecord {
    PhaseRecord {
        job: JobId::new(job),
        run: RunId::new(run),
        revision,
        phase: PhaseKind::CheckpointStopping,
        requested: Some(StopRequest::Checkpoint),
        final_epoch: Some(Epoch::new(17)),
        last_complete: None,
        killed_workers: false,
        attempt: 1,
        at: SystemTime::UNIX_EPOCH + Duration::new(1_750_000_000, 123_456_789),
    }
}

/// The same claim by another controller.
fn by_another(record: &PhaseRecord, attempt: u32) -> PhaseRecord {
    PhaseRecord { attempt, ..record.clone() }
}

#[track_caller]
fn assert_conflict(result: Result<(), JournalError>, record: &PhaseRecord, there: &PhaseRecord) {
    match result {
        Err(JournalError::Conflict { wrote, found }) => assert_eq!((&*wrote, &*found), (record, there)),
        other => panic!("expected a conflict of {record:?} with {there:?}, got {other:?}"),
    }
}

pub(super) async fn a_job_that_was_never_written_has_no_record(site: impl Site) {
    let journal = site.open().await;
    assert_eq!(journal.load(&"words".into()).await.unwrap(), None);
    journal.write(&record_of("other", 1, 1)).await.unwrap();
    assert_eq!(journal.load(&"words".into()).await.unwrap(), None);
}

pub(super) async fn i7_every_record_is_what_it_was_for_the_next_controller(site: impl Site) {
    let requests = StopRequest::ALL.map(Some);
    let mut revision = 0;
    for &phase in PhaseKind::ALL {
        for &requested in [None].iter().chain(&requests) {
            revision += 1;
            let record = PhaseRecord {
                phase,
                requested,
                final_epoch: None,
                last_complete: Some(Epoch::new(u64::MAX)),
                killed_workers: phase.is_terminal(),
                attempt: u32::MAX,
                ..record(u64::MAX, revision)
            };
            site.open().await.write(&record).await.unwrap();
            assert_eq!(site.open().await.load(&record.job).await.unwrap(), Some(record));
        }
    }
}

pub(super) async fn a_record_may_be_written_again(site: impl Site) {
    let journal = site.open().await;
    let first = record(1, 1);
    for _ in 0..2 {
        journal.write(&first).await.unwrap();
    }
    journal.write(&record(1, 2)).await.unwrap();
    for _ in 0..2 {
        site.open().await.write(&record(1, 2)).await.unwrap();
    }
    assert_conflict(journal.write(&first).await, &first, &record(1, 2));
    assert_eq!(journal.load(&"words".into()).await.unwrap(), Some(record(1, 2)));
}

pub(super) async fn a_record_that_is_not_the_next_changes_nothing(site: impl Site) {
    let journal = site.open().await;
    journal.write(&record(1, 5)).await.unwrap(); // the one before was removed by hand
    for revision in [1, 4, 7, u64::MAX] {
        let wrong = record(1, revision);
        assert_conflict(journal.write(&wrong).await, &wrong, &record(1, 5));
    }
    assert_eq!(journal.load(&"words".into()).await.unwrap(), Some(record(1, 5)));
}

pub(super) async fn i11_two_writers_of_one_revision_are_told_apart(site: impl Site) {
    let (one, other) = (site.open().await, site.open().await);
    for revision in 1..4 {
        let record = record(1, revision);
        one.write(&record).await.unwrap();
        let late = by_another(&record, 2);
        assert_conflict(other.write(&late).await, &late, &record);
        assert_eq!(other.load(&record.job).await.unwrap(), Some(record));
    }
}

pub(super) async fn i11_of_fifty_writers_at_once_one_wins(site: impl Site) {
    let mut journals = Vec::new();
    for _ in 0..5 {
        journals.push(site.open().await);
    }
    for revision in 1..=4 {
        let mut writers = tokio::task::JoinSet::new();
        for attempt in 0..50 {
            let journal = journals[attempt as usize % journals.len()].clone();
            let record = by_another(&record(1, revision), attempt);
            writers.spawn(async move {
                loop {
                    match journal.write(&record).await {
                        // A busy machine: a controller tries again.
                        Err(error) if error.is_retryable() => {}
                        result => break (record, result),
                    }
                }
            });
        }
        let results = writers.join_all().await;
        let won: Vec<_> = results.iter().filter(|(_, result)| result.is_ok()).collect();
        assert_eq!(won.len(), 1, "revision {revision}: {won:?}");
        let (winner, _) = won[0];
        for (_, result) in results.iter().filter(|(loser, _)| loser != winner) {
            assert!(matches!(result, Err(JournalError::Conflict { found, .. }) if **found == *winner), "{result:?}");
        }
        assert_eq!(site.open().await.load(&winner.job).await.unwrap().as_ref(), Some(winner));
    }
}

pub(super) async fn i11_an_older_run_changes_nothing(site: impl Site) {
    let (stale, newer) = (site.open().await, site.open().await);
    stale.write(&record(1, 1)).await.unwrap();
    newer.write(&record(2, 1)).await.unwrap();
    for revision in [1, 2, 3] {
        let late = record(1, revision);
        assert_conflict(stale.write(&late).await, &late, &record(2, 1));
    }
    assert_eq!(stale.load(&"words".into()).await.unwrap(), Some(record(2, 1)));
}

pub(super) async fn i11_a_newer_run_replaces_with_its_first_record(site: impl Site) {
    let journal = site.open().await;
    for revision in 1..=3 {
        journal.write(&record(1, revision)).await.unwrap();
    }
    for revision in [2, 4] {
        let no_first = record(7, revision);
        assert_conflict(journal.write(&no_first).await, &no_first, &record(1, 3));
    }
    journal.write(&record(7, 1)).await.unwrap();
    assert_eq!(site.open().await.load(&"words".into()).await.unwrap(), Some(record(7, 1)));
}

/// No call takes what is stored for a record, and none changes it.
async fn assert_refused<S: Site>(site: &S, text: &[u8], is: impl Fn(&JournalError) -> bool, what: &str) {
    let job = JobId::new("words");
    site.set_text(&job, text).await;
    let journal = site.open().await;
    let calls = [
        journal.load(&job).await.map(drop),
        journal.write(&record(1, 1)).await,
        journal.write(&record(1, 2)).await,
        journal.write(&record(9, 1)).await,
    ];
    for result in calls {
        let error = result.expect_err(what);
        assert!(is(&error), "{what}: {error}");
        assert!(!error.is_retryable());
    }
    assert_eq!(site.text(&job).await, text, "{what}");
}

pub(super) async fn i7_a_damaged_record_is_never_taken_or_overwritten(site: impl Site) {
    let corrupt = |error: &JournalError| matches!(error, JournalError::Corrupt { .. });
    let job = JobId::new("words");
    let journal = site.open().await;
    journal.write(&record(1, 1)).await.unwrap();
    let whole = site.text(&job).await;
    assert_refused(&site, b"", corrupt, "empty").await;
    // Each byte is tried in the tests of the format; here it is that a journal asks it before each
    // answer.
    for length in (1..whole.len()).step_by(29) {
        assert_refused(&site, &whole[..length], corrupt, &format!("cut to {length}")).await;
    }
    for byte in (0..whole.len()).step_by(31) {
        let mut damaged = whole.clone();
        damaged[byte] ^= 1;
        assert_refused(&site, &damaged, corrupt, &format!("byte {byte} altered")).await;
    }
    journal.write(&record_of("other", 1, 1)).await.unwrap();
    assert_refused(&site, &site.text(&"other".into()).await, corrupt, "another job's").await;
    site.set_text(&job, &whole).await;
    assert_eq!(journal.load(&job).await.unwrap(), Some(record(1, 1)), "the test must be able to fail");
    journal.write(&record(1, 2)).await.unwrap();
}

pub(super) async fn i7_a_record_of_a_newer_version_is_never_taken_or_overwritten(site: impl Site) {
    let newer =
        |error: &JournalError| matches!(error, JournalError::NewerVersion { got: 2, job } if job.as_str() == "words");
    assert_refused(&site, b"winddown-journal 2 anything\nfrom the future", newer, "newer").await;
}

pub(super) async fn i10_a_dropped_write_may_be_written_again(site: impl Site) {
    let journal = site.open().await;
    for polls in 0..12 {
        let record = record(1, polls + 1);
        {
            let mut write = pin!(journal.write(&record));
            for _ in 0..polls {
                if poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await.is_ready() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        journal.write(&record).await.unwrap();
        assert_eq!(journal.load(&record.job).await.unwrap(), Some(record));
    }
}

pub(super) async fn jobs_of_any_name_have_records_of_their_own(site: impl Site) {
    let long = "x".repeat(5_000);
    let longer = long.clone() + "y";
    let names = [
        "",
        ".",
        "..",
        "/",
        "../../words",
        "/etc/words",
        "a/b",
        "a\\b",
        "a%2Fb",
        "%",
        "~",
        "a b",
        "a\0b",
        "a\nb",
        "'; DROP TABLE winddown_journal; --",
        "$1",
        "con",
        "wörter",
        "単語",
        "🛑",
        "job-words.record",
        "words.tmp",
        &long,
        &longer,
    ];
    let journal = site.open().await;
    for (number, name) in (1..).zip(names) {
        journal.write(&record_of(name, number, 1)).await.unwrap();
    }
    for (number, name) in (1..).zip(names) {
        assert_eq!(journal.load(&name.into()).await.unwrap(), Some(record_of(name, number, 1)), "{name:?}");
    }
}
