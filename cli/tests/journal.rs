//! The built program on real journals and checkpoint logs.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use winddown::{
    FileJournal, ObjectStoreCheckpoints,
    contracts::{Manifest, TaskSnapshot},
    prelude::*,
    testing::scripted::{SchedulerAnswer, ScriptedScheduler},
};

fn winddown(command: &str, dir: &Path) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_winddown")).args([command]).arg(dir).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

/// A stop by force: of a scheduler that obeys it comes to its end, of one that refuses it does not.
async fn force(name: &str, journal: &FileJournal, answer: SchedulerAnswer) {
    let scheduler = ScriptedScheduler::new([1]);
    scheduler.always(answer);
    let open = OpenRun::without_store(name, RunId::new(3));
    let builder = JobContext::builder(&open).simulated().journal(journal.clone());
    let (mut job, running) = builder.build(Detached, scheduler).unwrap();
    let _ = drive(running, &mut job, &Policy::escalate()).await;
}

#[tokio::test]
async fn the_journal_says_what_the_next_start_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(folder.path().join("state/journal")).unwrap();
    force("words", &journal, SchedulerAnswer::Obeys).await;
    force("eu/\u{1b}[2Jstuck", &journal, SchedulerAnswer::Refuses).await;

    let (output, text) = winddown("journal", folder.path());
    assert!(output.status.success(), "{text}");
    assert!(text.contains("job `words`, run 3: Stopped<Killed> since"), "{text}");
    assert!(text.contains("nothing is left to do if no worker is listed"), "{text}");
    assert!(text.contains("with workers alive, continues Stopping<Force> of run 3; with none, kills"), "{text}");
    assert!(!text.contains('\u{1b}') && text.contains(r"eu/\u{1b}[2Jstuck"), "names are escaped: {text}");

    let (output, text) = winddown("why", folder.path());
    assert!(output.status.success() && text.contains("it waited for: the scheduler"), "{text}");
    assert!(text.contains("job `words`, run 3: has stopped, Stopped<Killed>"), "{text}");
}

#[tokio::test]
async fn damage_is_told_and_ends_with_1_and_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(folder.path()).unwrap();
    force("words", &journal, SchedulerAnswer::Obeys).await;
    let path = folder.path().join("job-words.record");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    fs::copy(&path, folder.path().join("job-other.tmp")).unwrap();

    let (output, text) = winddown("journal", folder.path());
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("DAMAGED") && text.contains("refuses, and changes nothing"), "{text}");
    assert!(folder.path().join("job-other.tmp").exists(), "an inspection sweeps nothing");

    // A sound record under another job's name.
    fs::write(folder.path().join("job-clicks.record"), whole).unwrap();
    let (_, text) = winddown("journal", folder.path());
    assert!(text.contains("expected the record of `job-clicks`, got that of `job-words`"), "{text}");
}

#[tokio::test]
async fn a_checkpoint_log_is_listed_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let store = ObjectStoreCheckpoints::local(folder.path().join("checkpoints")).unwrap();
    let job = JobId::new("eu/words");
    let run = store.open_run(&job).await.unwrap().run();
    let task = TaskId::new(0, 0);
    let snapshot = TaskSnapshot { task, snapshot: "s".into(), commit: Some("c".into()), finished: false };
    let manifest = Manifest { job: job.clone(), run, epoch: Epoch::new(4), then_stop: true, tasks: vec![snapshot] };
    store.publish(&manifest).await.unwrap();

    let (output, text) = winddown("journal", folder.path());
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("job `eu/words`") && text.contains("final checkpoint, epoch 4: 1 tasks, 1 commits"),
        "{text}"
    );
    assert!(text.contains("and starts from epoch 4"), "{text}");

    let logs = fs::read_dir(folder.path().join("checkpoints")).unwrap().map(|entry| entry.unwrap().path().join("log"));
    let log = logs.into_iter().find(|log| log.is_dir()).unwrap();
    let mut entries: Vec<_> = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    fs::write(entries.last().unwrap(), b"winddown-log 1 5 00000000\nxxxxx").unwrap();
    let (output, text) = winddown("journal", folder.path());
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the last entry counts and is damaged"), "{text}");
}

#[test]
fn a_folder_with_nothing_in_it_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let (output, _) = winddown("journal", folder.path());
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("expected a journal or a checkpoint log in"), "{error}");
}
