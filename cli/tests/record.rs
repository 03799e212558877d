//! The built program on a real record of a stop that was stuck, with hostile names.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use winddown::{
    prelude::*,
    recorder::Recorder,
    testing::scripted::{SchedulerAnswer, ScriptedScheduler},
};

const HOSTILE: &str = "<script>alert(1)</script>\u{1b}[2J\"'&";

fn winddown(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_winddown")).args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

/// The record of a forced stop that the scheduler refuses, or obeys.
async fn record(folder: &Path, answer: SchedulerAnswer) -> PathBuf {
    let path = folder.join(format!("{answer:?}.jsonl"));
    let scheduler = ScriptedScheduler::new([1]);
    scheduler.always(answer);
    let open = OpenRun::without_store(HOSTILE, RunId::new(1));
    let (mut job, running) = JobContext::builder(&open).simulated().build(Detached, scheduler).unwrap();
    let recorder = Recorder::open(&path);
    recorder.follow(&job);
    let _ = drive(running, &mut job, &Policy::escalate()).await;
    drop(job);
    // A paused clock does not wait for the thread that writes.
    tokio::time::resume();
    assert!(recorder.finish(Duration::from_secs(3_600)).await);
    tokio::time::pause();
    path
}

#[tokio::test(start_paused = true)]
async fn why_on_a_record_names_who_held_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let stuck = record(folder.path(), SchedulerAnswer::Unavailable).await;
    let (code, text) = winddown(&["why", stuck.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("not stopped: the record ends in Stopping<Force>"), "{text}");
    assert!(text.contains("1. the scheduler has"), "{text}");
    assert!(!text.contains('\u{1b}'), "escaped: {text}");

    // The tail is cut off: it loses only itself, and is told.
    fs::OpenOptions::new().append(true).open(&stuck).unwrap().write_all(b"{\"v\":1,\"at").unwrap();
    let (code, text) = winddown(&["why", stuck.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(text.contains("1. the scheduler has") && text.contains("incomplete: 1 lines damaged"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_timeline_is_one_page_that_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    for (answer, verdict) in
        [(SchedulerAnswer::Obeys, "Stopped&lt;Killed&gt;"), (SchedulerAnswer::Unavailable, "not stopped: ")]
    {
        let record = record(folder.path(), answer).await;
        let (code, text) = winddown(&["timeline", record.to_str().unwrap(), "-o", page.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{text}");
        let html = fs::read_to_string(&page).unwrap();
        assert!(html.contains(verdict) && html.contains("Stopping&lt;Force&gt;"), "{html}");
        assert_eq!(html.contains("<b>the scheduler</b>"), answer == SchedulerAnswer::Unavailable, "{html}");
        assert!(html.contains("prefers-color-scheme: dark") && html.contains("default-src 'none'"), "{html}");
        for foreign in ["<script", "\u{1b}", "http://", "https://", "src="] {
            let found = html.replace("default-src", "").contains(foreign);
            assert!(!found, "a page that loads or runs something: {foreign:?}");
        }
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;\\u{1b}[2J&quot;&#39;&amp;"), "{html}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trace_has_the_phases_and_who_held_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let record = record(folder.path(), SchedulerAnswer::Unavailable).await;
    let to = folder.path().join("trace.json");
    let (code, text) = winddown(&["trace", record.to_str().unwrap(), "-o", to.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    let trace: serde_json::Value = serde_json::from_str(&fs::read_to_string(to).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let spans =
        |lane: u64| events.iter().filter(|event| event["ph"] == "X" && event["tid"] == lane).collect::<Vec<_>>();
    let phases: Vec<_> = spans(1).iter().map(|event| event["name"].clone()).collect();
    assert_eq!(phases, ["Running", "Stopping<Force>"]);
    assert!(spans(2).iter().any(|event| event["name"] == "the scheduler"), "{trace}");
}

#[test]
fn a_file_that_is_no_record_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no-record");
    fs::write(&path, "hello\n").unwrap();
    let (code, text) = winddown(&["why", path.to_str().unwrap()]);
    assert_eq!(code, Some(2));
    assert!(text.contains("expected a record in"), "{text}");
}
