//! The rules of a [`Journal`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use super::{
    Damage,
    report::Report,
    rule::{Contract, Rule},
    suite::{Finding, Hook, LIMIT, Outcome, Suite, broken, cut_off, joined, ok, same},
};
use crate::{
    contracts::{Epoch, JobId, RunId, StopRequest},
    machine::{Journal, JournalError, PhaseKind, PhaseRecord},
};

/// A place for records, initially empty, on which a [`Journal`] is checked. Dropping it may clean
/// up.
pub trait JournalSubject: 'static {
    /// The journal.
    type Journal: Journal + 'static;

    /// The time limit of one rule. A check that takes longer has found a call that does not answer.
    const LIMIT: Duration = LIMIT;

    /// Opens the journal on the same place as another controller would: without sharing anything
    /// that two processes would not share.
    fn open(&self) -> impl Future<Output = Self::Journal>;

    /// Whether it keeps records at all. [`NoJournal`](crate::journal::NoJournal) does not; then
    /// only the rules about calls apply.
    fn keeps_records(&self) -> bool {
        true
    }

    /// Removes what a crash of everything would lose: whatever is not on disk yet. Journals that
    /// were opened before are not used again.
    fn crash(&self) -> impl Future<Output = Hook> {
        async { Hook::Unsupported }
    }

    /// Damages what is stored for `job`.
    fn damage(&self, job: &JobId, damage: Damage) -> impl Future<Output = Hook> {
        let _ = (job, damage);
        async { Hook::Unsupported }
    }
}

/// Checks a [`Journal`]. `make` creates an empty place; it is called once for each rule.
///
/// # Cancel safety
/// The current check continues to its end or its limit, on its own thread.
pub async fn journal<S: JournalSubject>(make: impl AsyncFn() -> S + Send + Sync + 'static) -> Report {
    let mut suite = Suite::new(Contract::Journal, make, S::LIMIT);
    suite.check(Rule::JournalStartsEmpty, starts_empty);
    suite.check(Rule::JournalKeepsAll, keeps_all);
    suite.check(Rule::JournalDurable, durable);
    suite.check(Rule::JournalAtomic, atomic);
    suite.check(Rule::JournalCompareAndSet, compare_and_set);
    suite.check(Rule::JournalOneWriter, one_writer);
    suite.check(Rule::JournalNewerRun, newer_run);
    suite.check(Rule::JournalFencing, fencing);
    suite.check(Rule::JournalWriteAgain, write_again);
    suite.check(Rule::JournalCancelSafe, cancel_safe);
    suite.check(Rule::JournalDamage, damage);
    suite.check(Rule::JournalNewerVersion, newer_version);
    suite.check(Rule::JournalKeepsDamage, keeps_damage);
    suite.check(Rule::JournalJobsApart, jobs_apart);
    suite.report().await
}

fn job() -> JobId {
    JobId::new("conformance")
}

fn record(run: u64, revision: u64) -> PhaseRecord {
    PhaseRecord {
        job: job(),
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

fn of(name: &str, run: u64) -> PhaseRecord {
    PhaseRecord { job: JobId::new(name), ..record(run, 1) }
}

fn by_another(record: &PhaseRecord, attempt: u32) -> PhaseRecord {
    PhaseRecord { attempt, ..record.clone() }
}

fn keeps<S: JournalSubject>(subject: &S) -> Outcome {
    if subject.keeps_records() {
        Ok(())
    } else {
        Err(Finding::NotApplicable("this journal keeps no records, and says so"))
    }
}

async fn load(journal: &impl Journal, job: &JobId) -> Result<Option<PhaseRecord>, Finding> {
    ok("`load`", journal.load(job).await)
}

async fn write(journal: &impl Journal, record: &PhaseRecord) -> Outcome {
    ok("`write`", journal.write(record).await)
}

/// The loaded record must be this.
async fn holds(journal: &impl Journal, expected: &PhaseRecord) -> Outcome {
    same("the record", &load(journal, &expected.job).await?, &Some(expected.clone()))
}

/// Writing `record` must be a conflict with `there`, which stays.
async fn refused(journal: &impl Journal, record: &PhaseRecord, there: &PhaseRecord) -> Outcome {
    match journal.write(record).await {
        Err(JournalError::Conflict { wrote, found }) if *wrote == *record && *found == *there => {}
        other => {
            let expected = format!(
                "a conflict of revision {} of run {} with revision {} of run {}",
                record.revision, record.run, there.revision, there.run
            );
            return Err(broken(expected, other).advise("decide with `winddown::journal::may_write`, on what is stored"));
        }
    }
    holds(journal, there).await
}

async fn starts_empty<S: JournalSubject>(subject: S) -> Outcome {
    let journal = subject.open().await;
    same("no record of a job that was never written:", &load(&journal, &job()).await?, &None)?;
    write(&journal, &of("another", 1)).await?;
    same("no record of a job that was never written:", &load(&journal, &job()).await?, &None)
}

async fn keeps_all<S: JournalSubject>(subject: S) -> Outcome {
    keeps(&subject)?;
    let requests = [None].into_iter().chain(StopRequest::ALL.map(Some));
    let journal = subject.open().await;
    let mut revision = 0;
    for (requested, &phase) in requests.flat_map(|request| PhaseKind::ALL.iter().map(move |phase| (request, phase))) {
        revision += 1;
        let is_even = revision % 2 == 0;
        let record = PhaseRecord {
            phase,
            requested,
            final_epoch: is_even.then_some(Epoch::new(u64::MAX)),
            last_complete: (!is_even).then_some(Epoch::new(0)),
            killed_workers: is_even,
            attempt: u32::MAX,
            ..record(u64::MAX, revision)
        };
        write(&journal, &record).await?;
        holds(&journal, &record).await?;
    }
    let next = PhaseRecord { attempt: 2, ..record(u64::MAX, revision + 1) };
    write(&subject.open().await, &next).await?;
    holds(&journal, &next).await?;
    holds(&subject.open().await, &next).await
}

async fn durable<S: JournalSubject>(subject: S) -> Outcome {
    keeps(&subject)?;
    for revision in 1..=3 {
        let record = record(1, revision);
        let journal = subject.open().await;
        write(&journal, &record).await?;
        subject.crash().await.needed("needs `JournalSubject::crash`")?;
        drop(journal);
        holds(&subject.open().await, &record).await?;
    }
    Ok(())
}

async fn atomic<S: JournalSubject>(subject: S) -> Outcome {
    keeps(&subject)?;
    let (writer, reader) = (subject.open().await, subject.open().await);
    write(&writer, &record(1, 1)).await?;
    let done = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let mut newest = 1;
            while !done.load(Ordering::Acquire) {
                let Some(read) = load(&reader, &job()).await? else {
                    return Err(broken(format_args!("revision {newest} or a later one"), "no record"));
                };
                if read.revision < newest || read != record(1, read.revision) {
                    return Err(broken(format_args!("revision {newest} or a later one, whole"), read));
                }
                newest = read.revision;
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    });
    for revision in 2..=40 {
        write(&writer, &record(1, revision)).await?;
    }
    done.store(true, Ordering::Release);
    joined(reading.await)
}

async fn compare_and_set<S: JournalSubject>(subject: S) -> Outcome {
    keeps(&subject)?;
    let journal = subject.open().await;
    let there = record(1, 5);
    write(&journal, &there).await?;
    for revision in [1, 4, 7, u64::MAX] {
        refused(&journal, &record(1, revision), &there).await?;
    }
    refused(&subject.open().await, &by_another(&there, 2), &there).await?;
    write(&journal, &record(1, 6)).await?;
    // Whoever does not know of it is too late.
    refused(&subject.open().await, &by_another(&record(1, 6), 2), &record(1, 6)).await
}

async fn one_writer<S: JournalSubject>(subject: S) -> Outcome {
    keeps(&subject)?;
    for revision in 1..=8 {
        let mut writers = Vec::new();
        for attempt in 1..=6 {
            let (journal, record) = (subject.open().await, by_another(&record(1, revision), attempt));
            writers.push(tokio::spawn(async move { (journal.write(&record).await, record) }));
        }
        let mut winners = Vec::new();
        for writer in writers {
            match joined(writer.await.map(Ok))? {
                (Ok(()), record) => winners.push(record),
                (Err(JournalError::Conflict { .. }), _) => {}
                (Err(error), _) => return Err(broken("Ok or a conflict", error)),
            }
        }
        let [winner] = &winners[..] else {
            return Err(broken("one writer of 6 to win", format_args!("{} won", winners.len()))
                .advise("compare and set in one step: under a lock, or with the old record in the statement"));
        };
        holds(&subject.open().await, winner).await?;
    }
    Ok(())
}

async fn newer_run<S: JournalSubject>(subject: S) -> Outcome {
    keeps(&subject)?;
    let journal = subject.open().await;
    let there = record(1, 3);
    write(&journal, &there).await?;
    for revision in [2, 4] {
        refused(&journal, &record(7, revision), &there).await?;
    }
    write(&subject.open().await, &record(7, 1)).await?;
    holds(&journal, &record(7, 1)).await
}

async fn fencing<S: JournalSubject>(subject: S) -> Outcome {
    keeps(&subject)?;
    let stale = subject.open().await;
    write(&stale, &record(1, 1)).await?;
    let there = record(2, 1);
    write(&subject.open().await, &there).await?;
    for late in [record(1, 1), record(1, 2), record(0, 1)] {
        refused(&stale, &late, &there).await?;
    }
    Ok(())
}

async fn write_again<S: JournalSubject>(subject: S) -> Outcome {
    let journal = subject.open().await;
    for revision in 1..=2 {
        let record = record(1, revision);
        for _ in 0..2 {
            write(&journal, &record).await?;
        }
        write(&subject.open().await, &record).await?;
        if subject.keeps_records() {
            holds(&journal, &record).await?;
        }
    }
    Ok(())
}

async fn cancel_safe<S: JournalSubject>(subject: S) -> Outcome {
    let journal = subject.open().await;
    for polls in 0..16 {
        let record = record(1, polls as u64 + 1);
        cut_off(journal.write(&record), polls).await;
        write(&journal, &record).await?;
        if subject.keeps_records() {
            holds(&journal, &record).await?;
        }
    }
    Ok(())
}

/// Stores a record of `job`, damages it, and reopens the journal: an open one may remember what it
/// has written.
async fn damaged<S: JournalSubject>(subject: &S, job: &str, damage: Damage) -> Result<S::Journal, Finding> {
    keeps(subject)?;
    write(&subject.open().await, &of(job, 1)).await?;
    subject.damage(&job.into(), damage).await.needed("needs `JournalSubject::damage`")?;
    Ok(subject.open().await)
}

async fn damage<S: JournalSubject>(subject: S) -> Outcome {
    for (job, damage) in [("one", Damage::CutShort), ("two", Damage::Altered)] {
        match damaged(&subject, job, damage).await?.load(&job.into()).await {
            Err(JournalError::Corrupt { .. }) => {}
            other => {
                return Err(broken(format_args!("`Corrupt` for a record that is {damage}"), other)
                    .advise("store a length and a checksum with the record, and compare them"));
            }
        }
    }
    Ok(())
}

async fn newer_version<S: JournalSubject>(subject: S) -> Outcome {
    match damaged(&subject, "one", Damage::NewerVersion).await?.load(&"one".into()).await {
        Err(JournalError::NewerVersion { .. }) => Ok(()),
        other => Err(broken("`NewerVersion`", other).advise("store `PhaseRecord::VERSION` with the record")),
    }
}

async fn keeps_damage<S: JournalSubject>(subject: S) -> Outcome {
    let journal = damaged(&subject, "one", Damage::Altered).await?;
    for next in [PhaseRecord { revision: 2, ..of("one", 1) }, of("one", 9)] {
        if journal.write(&next).await.is_ok() {
            let got = format_args!("Ok for revision {} of run {}", next.revision, next.run).to_string();
            let advice = "read what is there before it is replaced, and give that error back";
            return Err(broken("an error of `write`", got).advise(advice));
        }
        if let Ok(Some(read)) = journal.load(&next.job).await {
            return Err(broken("the damage to stay", read));
        }
    }
    Ok(())
}

async fn jobs_apart<S: JournalSubject>(subject: S) -> Outcome {
    keeps(&subject)?;
    let journal = subject.open().await;
    for (run, name) in (1..).zip(super::NAMES) {
        write(&journal, &of(name, run)).await?;
    }
    for (run, name) in (1..).zip(super::NAMES) {
        holds(&journal, &of(name, run)).await?;
    }
    Ok(())
}
