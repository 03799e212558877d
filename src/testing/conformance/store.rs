//! The rules of a [`CheckpointStore`].

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::sleep;

use super::{
    Damage,
    report::Report,
    rule::{Contract, Rule},
    suite::{Finding, Hook, LIMIT, Outcome, Suite, broken, cut_off, joined, ok, same},
};
use crate::contracts::{CheckpointStore, Epoch, JobId, Manifest, OpenRun, RunId, StoreError, TaskId, TaskSnapshot};

/// A place for checkpoints, initially empty, on which a [`CheckpointStore`] is checked. Dropping it
/// may clean up.
pub trait StoreSubject: 'static {
    /// The store.
    type Store: CheckpointStore + 'static;

    /// The time limit of one rule. A check that takes longer has found a call that does not answer.
    const LIMIT: Duration = LIMIT;

    /// Opens the store on the same place as another controller would: without sharing anything that
    /// two processes would not share.
    fn open(&self) -> impl Future<Output = Self::Store>;

    /// Removes what a crash of everything would lose: whatever is not on disk yet. Stores that were
    /// opened before are not used again.
    fn crash(&self) -> impl Future<Output = Hook> {
        async { Hook::Unsupported }
    }

    /// Damages the newest manifest of `job`. [`Damage::NewerVersion`] is not used.
    fn damage(&self, job: &JobId, damage: Damage) -> impl Future<Output = Hook> {
        let _ = (job, damage);
        async { Hook::Unsupported }
    }
}

/// Checks a [`CheckpointStore`]. `make` creates an empty place; it is called once for each rule.
///
/// # Cancel safety
/// The current check continues to its end or its limit, on its own thread.
pub async fn store<S: StoreSubject>(make: impl AsyncFn() -> S + Send + Sync + 'static) -> Report {
    let mut suite = Suite::new(Contract::Store, make, S::LIMIT);
    suite.check(Rule::StoreStartsEmpty, starts_empty);
    suite.check(Rule::StoreRunsGrow, runs_grow);
    suite.check(Rule::StoreOneRunEach, one_run_each);
    suite.check(Rule::StoreKeepsAll, keeps_all);
    suite.check(Rule::StoreDurable, durable);
    suite.check(Rule::StoreAtomic, atomic);
    suite.check(Rule::StorePutIfAbsent, put_if_absent);
    suite.check(Rule::StoreOnePublisher, one_publisher);
    suite.check(Rule::StorePublishAgain, publish_again);
    suite.check(Rule::StoreStaleEpoch, stale_epoch);
    suite.check(Rule::StoreFencing, fencing);
    suite.check(Rule::StoreHandover, handover);
    suite.check(Rule::StoreDamage, damage);
    suite.check(Rule::StoreCancelSafe, cancel_safe);
    suite.check(Rule::StoreJobsApart, jobs_apart);
    suite.report().await
}

fn job() -> JobId {
    JobId::new("conformance")
}

fn snapshot(subtask: u32, snapshot: impl Into<Bytes>, commit: Option<Bytes>) -> TaskSnapshot {
    TaskSnapshot { task: TaskId::new(0, subtask), snapshot: snapshot.into(), commit, finished: false }
}

fn manifest(job: &JobId, run: RunId, epoch: u64) -> Manifest {
    let tasks = vec![snapshot(0, "offset 42", None), snapshot(1, "state", Some("rows".into()))];
    Manifest { job: job.clone(), run, epoch: Epoch::new(epoch), then_stop: false, tasks }
}

/// The same epoch by another controller.
fn by_another(manifest: &Manifest) -> Manifest {
    let mut other = manifest.clone();
    other.tasks[0].snapshot = "offset 43".into();
    other
}

async fn open_run(store: &impl CheckpointStore, job: &JobId) -> Result<OpenRun, Finding> {
    ok("`open_run`", store.open_run(job).await)
}

async fn publish(store: &impl CheckpointStore, manifest: &Manifest) -> Outcome {
    ok("`publish`", store.publish(manifest).await)
}

async fn holds(store: &impl CheckpointStore, job: &JobId, expected: Option<&Manifest>) -> Outcome {
    same("the last checkpoint", &ok("`latest`", store.latest(job).await)?, &expected.cloned())
}

/// Publishing this must be refused in this way.
async fn refused(
    store: &impl CheckpointStore,
    manifest: &Manifest,
    how: &str,
    is: impl Fn(&StoreError) -> bool,
) -> Outcome {
    match store.publish(manifest).await {
        Err(error) if is(&error) => Ok(()),
        other => Err(broken(format_args!("{how} for epoch {} of run {}", manifest.epoch, manifest.run), other)),
    }
}

async fn starts_empty<S: StoreSubject>(subject: S) -> Outcome {
    let store = subject.open().await;
    let other = JobId::new("another");
    let run = open_run(&store, &other).await?.run();
    publish(&store, &manifest(&other, run, 1)).await?;
    holds(&store, &job(), None).await?;
    same("no checkpoint to start from:", &open_run(&store, &job()).await?.manifest(), &None)?;
    holds(&store, &job(), None).await
}

async fn runs_grow<S: StoreSubject>(subject: S) -> Outcome {
    // Two that are always open and take turns: neither may keep its own count.
    let stores = [subject.open().await, subject.open().await];
    let mut newest = None;
    for (round, store) in (0..12).zip(stores.iter().cycle()) {
        let run = open_run(store, &job()).await?.run();
        if Some(run) <= newest {
            return Err(broken(format_args!("a run above {newest:?}"), run));
        }
        newest = Some(run);
        if round % 3 == 0 {
            publish(store, &manifest(&job(), run, round + 1)).await?;
        }
    }
    Ok(())
}

async fn one_run_each<S: StoreSubject>(subject: S) -> Outcome {
    const OPENERS: usize = 6;
    let mut openers = Vec::new();
    for _ in 0..OPENERS {
        let store = subject.open().await;
        openers.push(tokio::spawn(async move { open_run(&store, &job()).await }));
    }
    let mut runs = BTreeSet::new();
    for opener in openers {
        runs.insert(joined(opener.await)?.run());
    }
    if runs.len() == OPENERS {
        return Ok(());
    }
    Err(broken(format_args!("{OPENERS} different runs for {OPENERS} controllers at once"), runs)
        .advise("claim the run with put-if-absent, and try the next number where it is taken"))
}

async fn keeps_all<S: StoreSubject>(subject: S) -> Outcome {
    let store = subject.open().await;
    let run = open_run(&store, &job()).await?.run();
    let bytes: Vec<u8> = (0..=255).collect();
    let ended = TaskSnapshot { finished: true, ..snapshot(2, Bytes::new(), None) };
    let far = TaskSnapshot { task: TaskId::new(u32::MAX, u32::MAX), ..snapshot(0, "far", None) };
    let tasks = vec![snapshot(0, bytes.clone(), Some(bytes.into())), snapshot(1, "", Some(Bytes::new())), ended, far];
    for (epoch, then_stop) in [(1, false), (2, true), (u64::MAX, true)] {
        let full = Manifest { then_stop, tasks: tasks.clone(), ..manifest(&job(), run, epoch) };
        publish(&store, &full).await?;
        holds(&store, &job(), Some(&full)).await?;
        holds(&subject.open().await, &job(), Some(&full)).await?;
    }
    let last = Manifest { then_stop: true, tasks, ..manifest(&job(), run, u64::MAX) };
    same("to start from", &open_run(&subject.open().await, &job()).await?.manifest(), &Some(&last))
}

async fn durable<S: StoreSubject>(subject: S) -> Outcome {
    for epoch in 1..=3 {
        let store = subject.open().await;
        let run = open_run(&store, &job()).await?.run();
        let manifest = manifest(&job(), run, epoch);
        publish(&store, &manifest).await?;
        subject.crash().await.needed("needs `StoreSubject::crash`")?;
        drop(store);
        holds(&subject.open().await, &job(), Some(&manifest)).await?;
    }
    Ok(())
}

async fn atomic<S: StoreSubject>(subject: S) -> Outcome {
    let (writer, reader) = (subject.open().await, subject.open().await);
    let run = open_run(&writer, &job()).await?.run();
    publish(&writer, &manifest(&job(), run, 1)).await?;
    let done = Arc::new(AtomicBool::new(false));
    let reading = tokio::spawn({
        let done = Arc::clone(&done);
        async move {
            let mut newest = 1;
            while !done.load(Ordering::Acquire) {
                let read = ok("`latest`", reader.latest(&job()).await)?;
                let epoch = read.as_ref().map_or(0, |read| read.epoch.get());
                if epoch < newest || read != Some(manifest(&job(), run, epoch)) {
                    return Err(broken(format_args!("epoch {newest} or a later one, whole"), read));
                }
                newest = epoch;
                tokio::task::yield_now().await;
            }
            Ok(())
        }
    });
    for epoch in 2..=30 {
        publish(&writer, &manifest(&job(), run, epoch)).await?;
    }
    done.store(true, Ordering::Release);
    joined(reading.await)
}

async fn put_if_absent<S: StoreSubject>(subject: S) -> Outcome {
    let store = subject.open().await;
    let run = open_run(&store, &job()).await?.run();
    let first = manifest(&job(), run, 1);
    publish(&store, &first).await?;
    let mut other_commit = first.clone();
    other_commit.tasks[1].commit = Some("other rows".into());
    let other_kind = Manifest { then_stop: true, ..first.clone() };
    for other in [by_another(&first), other_commit, other_kind] {
        refused(&store, &other, "a conflict", |error| matches!(error, StoreError::Conflict { .. })).await?;
        holds(&subject.open().await, &job(), Some(&first)).await?;
    }
    Ok(())
}

async fn one_publisher<S: StoreSubject>(subject: S) -> Outcome {
    let run = open_run(&subject.open().await, &job()).await?.run();
    for epoch in 1..=8 {
        let one = manifest(&job(), run, epoch);
        let other = by_another(&one);
        let mut publishers = Vec::new();
        for manifest in [one.clone(), other.clone()] {
            let store = subject.open().await;
            publishers.push(tokio::spawn(async move { store.publish(&manifest).await }));
        }
        let mut results = Vec::new();
        for publisher in publishers {
            results.push(joined(publisher.await.map(Ok))?);
        }
        let winner = match &results[..] {
            [Ok(()), Err(StoreError::Conflict { .. })] => one,
            [Err(StoreError::Conflict { .. }), Ok(())] => other,
            _ => return Err(broken("one Ok and one conflict", results)),
        };
        holds(&subject.open().await, &job(), Some(&winner)).await?;
    }
    Ok(())
}

async fn publish_again<S: StoreSubject>(subject: S) -> Outcome {
    let store = subject.open().await;
    let run = open_run(&store, &job()).await?.run();
    for epoch in 1..=3 {
        let manifest = manifest(&job(), run, epoch);
        for _ in 0..2 {
            publish(&store, &manifest).await?;
        }
        publish(&subject.open().await, &manifest).await?;
        holds(&store, &job(), Some(&manifest)).await?;
    }
    Ok(())
}

async fn stale_epoch<S: StoreSubject>(subject: S) -> Outcome {
    let store = subject.open().await;
    let run = open_run(&store, &job()).await?.run();
    publish(&store, &manifest(&job(), run, 1)).await?;
    let last = manifest(&job(), run, 5);
    publish(&store, &last).await?;
    for epoch in [4, 2, 0] {
        let stale = manifest(&job(), run, epoch);
        refused(&store, &stale, "`StaleEpoch`", |error| matches!(error, StoreError::StaleEpoch { .. })).await?;
        holds(&subject.open().await, &job(), Some(&last)).await?;
    }
    Ok(())
}

async fn fencing<S: StoreSubject>(subject: S) -> Outcome {
    let stale = subject.open().await;
    let old = open_run(&stale, &job()).await?.run();
    let published = manifest(&job(), old, 1);
    publish(&stale, &published).await?;
    let store = subject.open().await;
    let new = open_run(&store, &job()).await?.run();
    let mut last = published.clone();
    for epoch in 2..=4 {
        // It may not repeat what it had published before, either.
        for late in [manifest(&job(), old, epoch), published.clone(), manifest(&job(), old, 99)] {
            refused(&stale, &late, "`Fenced`", |error| matches!(error, StoreError::Fenced { .. })).await?;
            holds(&store, &job(), Some(&last)).await?;
        }
        last = manifest(&job(), new, epoch);
        publish(&store, &last).await?;
    }
    Ok(())
}

async fn handover<S: StoreSubject>(subject: S) -> Outcome {
    let (old, new) = (subject.open().await, subject.open().await);
    for epoch in 1..=10 {
        let run = open_run(&old, &job()).await?.run();
        let manifest = manifest(&job(), run, epoch);
        let later = async {
            sleep(Duration::from_micros(100 * epoch)).await;
            open_run(&new, &job()).await
        };
        let (published, restored) = tokio::join!(old.publish(&manifest), later);
        let restored = restored?.manifest().cloned();
        match published {
            Ok(()) if restored.as_ref() != Some(&manifest) => {
                let expected = format!("the next run to start from epoch {}, whose publication was Ok", manifest.epoch);
                let got = restored.map(|manifest| manifest.epoch);
                return Err(
                    broken(expected, got).advise("after the write, look again whether a newer run has been opened")
                );
            }
            // Fenced, although the new run starts from it: the answer came too late, which is
            // allowed.
            Ok(()) | Err(StoreError::Fenced { .. }) => {}
            Err(error) => return Err(broken("Ok or `Fenced`", error)),
        }
    }
    Ok(())
}

async fn damage<S: StoreSubject>(subject: S) -> Outcome {
    for (name, damage) in [("one", Damage::CutShort), ("two", Damage::Altered)] {
        let (store, job) = (subject.open().await, JobId::new(name));
        let run = open_run(&store, &job).await?.run();
        for epoch in 1..=2 {
            publish(&store, &manifest(&job, run, epoch)).await?;
        }
        subject.damage(&job, damage).await.needed("needs `StoreSubject::damage`")?;
        let store = subject.open().await;
        let (latest, opened) = (store.latest(&job).await, store.open_run(&job).await);
        let is_told =
            matches!(latest, Err(StoreError::Damaged { .. })) && matches!(opened, Err(StoreError::Damaged { .. }));
        if !is_told {
            return Err(broken(
                format_args!("`Damaged` from `latest` and `open_run` for a manifest that is {damage}"),
                (latest, opened),
            )
            .advise("store a length and a checksum with the manifest; never go back to the one before"));
        }
    }
    Ok(())
}

async fn cancel_safe<S: StoreSubject>(subject: S) -> Outcome {
    let store = subject.open().await;
    let mut newest = None;
    for (epoch, polls) in (1..).zip(0..12) {
        cut_off(store.open_run(&job()), polls).await;
        let run = open_run(&store, &job()).await?.run();
        if Some(run) <= newest {
            return Err(broken(format_args!("a run above {newest:?}"), run));
        }
        newest = Some(run);
        let manifest = manifest(&job(), run, epoch);
        cut_off(store.publish(&manifest), polls).await;
        publish(&store, &manifest).await?;
        holds(&store, &job(), Some(&manifest)).await?;
    }
    Ok(())
}

async fn jobs_apart<S: StoreSubject>(subject: S) -> Outcome {
    let store = subject.open().await;
    let mut published = Vec::new();
    for (epoch, name) in (1..).zip(super::NAMES) {
        let job = JobId::new(name);
        let restored = open_run(&store, &job).await?;
        same(&format!("nothing to start job {name:?} from:"), &restored.manifest(), &None)?;
        let manifest = manifest(&job, restored.run(), epoch);
        publish(&store, &manifest).await?;
        published.push(manifest);
    }
    for manifest in &published {
        holds(&store, &manifest.job, Some(manifest)).await?;
    }
    Ok(())
}
