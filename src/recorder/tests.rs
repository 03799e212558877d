use std::{fs, io::Write as _, time::Duration};

use super::*;
use crate::{
    contracts::{Detached, OpenRun},
    drive::{Policy, drive},
    testing::scripted::{SchedulerAnswer, ScriptedScheduler},
};

const LONG: Duration = Duration::from_secs(3_600);

/// Stops a job by force and records it at `path`.
async fn stop(name: &str, path: &Path, answer: SchedulerAnswer) -> (PhaseKind, bool, u64) {
    let scheduler = ScriptedScheduler::new([1]);
    scheduler.always(answer);
    let open = OpenRun::without_store(name, RunId::new(1));
    let (mut job, running) = JobContext::builder(&open).simulated().build(Detached, scheduler).unwrap();
    let recorder = Recorder::open(path);
    recorder.follow(&job);
    let _ = drive(running, &mut job, &Policy::escalate()).await;
    let phase = job.phase();
    drop(job);
    let shared = Arc::clone(&recorder.shared);
    (phase, recorder.finish(LONG).await, shared.dropped())
}

#[tokio::test]
async fn a_stop_is_recorded_with_its_phases_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.jsonl");
    assert_eq!(stop("recorded", &path, SchedulerAnswer::Obeys).await, (PhaseKind::StoppedKilled, true, 0));
    let record = read(&path).unwrap();
    let phases: Vec<_> = record.phases().collect();
    assert_eq!(phases, [PhaseKind::Running, PhaseKind::StoppingForce, PhaseKind::StoppedKilled]);
    assert_eq!((record.controllers(), record.damaged, record.newer), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_is_stuck_is_recorded_with_who_holds_it_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.jsonl");
    assert_eq!(stop("stuck", &path, SchedulerAnswer::Unavailable).await.0, PhaseKind::StoppingForce);
    let record = read(&path).unwrap();
    let first = record.lines.iter().find_map(|line| match &line.entry {
        Entry::Why { why } => why.culprits.first(),
        _ => None,
    });
    assert_eq!(first.map(|first| &first.who), Some(&Who::Scheduler), "{record:#?}");
    assert_eq!(record.lines.last().map(|line| &line.entry), Some(&Entry::LetGo));
}

#[tokio::test]
async fn a_damaged_tail_loses_only_itself_and_the_next_controller_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.jsonl");
    stop("first", &path, SchedulerAnswer::Obeys).await;
    let whole = fs::read(&path).unwrap();
    let lines = read(&path).unwrap().lines.len();
    for cut in 1..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let record = read(&path).unwrap();
        let complete = whole[..cut].split(|byte| *byte == b'\n').count() - 1;
        // The last line may be complete but for its end.
        assert!(record.lines.len() - complete <= 1 && record.damaged <= 1, "cut at {cut}: {record:?}");
    }
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n{\"v\":9,\"new\":1}\n\xff\n{").unwrap();
    stop("second", &path, SchedulerAnswer::Obeys).await;
    let record = read(&path).unwrap();
    assert_eq!((record.controllers(), record.damaged, record.newer), (2, 3, 1));
    assert_eq!(record.lines.len(), 2 * lines - 1);
}

#[tokio::test]
async fn a_place_that_can_not_be_written_changes_nothing_about_the_stop_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    // A folder is no file, for root too.
    let recorder = Recorder::open(folder.path());
    let open = OpenRun::without_store("unwritable", RunId::new(1));
    let (mut job, running) =
        JobContext::builder(&open).simulated().build(Detached, ScriptedScheduler::new([1])).unwrap();
    recorder.follow(&job);
    let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
    assert_eq!(receipt.stopped().kind(), PhaseKind::StoppedKilled);
    let shared = Arc::clone(&recorder.shared);
    assert!(!recorder.finish(LONG).await);
    assert!(shared.problem().is_some() && shared.dropped() > 0);
}

#[test]
fn the_file_is_bounded_and_keeps_room_for_phases() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.jsonl");
    fs::write(&path, vec![b'\n'; usize::try_from(Recorder::MOST - Recorder::RESERVE).unwrap()]).unwrap();
    let (lines, queue) = sync_channel(Recorder::QUEUE);
    let shared = Arc::new(Shared::default());
    let to = Lines { lines, shared: Arc::clone(&shared) };
    for _ in 0..5 {
        to.put(SystemTime::now(), Entry::Requested { request: StopRequest::Force });
    }
    to.put(SystemTime::now(), Entry::Phase { phase: PhaseKind::StoppedKilled, reason: StopRequest::Force.into() });
    drop(to);
    write(&path, &queue, &shared);
    assert_eq!(shared.dropped(), 5);
    assert!(fs::metadata(&path).unwrap().len() <= Recorder::MOST);
    assert_eq!(read(&path).unwrap().phases().last(), Some(PhaseKind::StoppedKilled));
}

/// Nobody takes the lines, as if the disk hung: the sender does not wait.
#[test]
fn a_disk_that_hangs_holds_nothing_up() {
    let (lines, queue) = sync_channel(Recorder::QUEUE);
    let shared = Arc::new(Shared::default());
    let to = Lines { lines, shared: Arc::clone(&shared) };
    for _ in 0..Recorder::QUEUE + 3 {
        to.put(SystemTime::now(), Entry::LetGo);
    }
    assert_eq!(shared.dropped(), 3);
    drop(queue);
}
