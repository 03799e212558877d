//! Every promise of the README and of `docs/operations.md` has a test: the table is in
//! `docs/testing.md`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use winddown::{
    ClusterController, Epoch, JobContext, JobId, Limits, OpenRun, PhaseKind, Policy, Progress, StopRequest, TaskId,
    WorkerId,
    contracts::{
        CheckpointStage, CheckpointStore, Count, Event, Manifest, Order, OrderError, StoreError, Transport, WorkerEvent,
    },
    drive,
    testing::scripted::{Call, SchedulerAnswer, ScriptedScheduler},
};

use super::{RUN, topology};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A page in one line, so that it does not matter where lines break.
fn flat(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The rows of the table: page, words, test.
fn rows() -> Vec<(String, String, String)> {
    let page = fs::read_to_string(root().join("docs/testing.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace("&#124;", "|")).collect()
    };
    let rows = page.lines().filter(|line| line.starts_with("| README |") || line.starts_with("| operations |"));
    rows.map(|line| {
        let [page, words, test] = cells(line).try_into().unwrap();
        (page, words, test.trim_matches('`').to_owned())
    })
    .collect()
}

/// The names of all tests of this repository.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut open: Vec<PathBuf> = ["src", "tests", "examples"].map(|folder| root().join(folder)).into();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.contains("test]") || line.contains("test(") {
                is_test = true;
            } else if let Some(name) = line.trim_start_matches("async ").strip_prefix("fn ")
                && std::mem::take(&mut is_test)
            {
                names.insert(name.split('(').next().unwrap_or_default().to_owned());
            }
        }
    }
    names
}

#[test]
fn every_promise_is_where_the_table_says_and_its_test_is_there() {
    let (readme, operations, tests) = (flat("README.md"), flat("docs/operations.md"), tests());
    assert!(tests.len() > 300, "only {} tests found: look at how they are found", tests.len());
    let rows = rows();
    assert!(rows.len() > 40, "only {} rows", rows.len());
    for (page, words, test) in rows {
        let text = if page == "README" { &readme } else { &operations };
        assert!(text.contains(&words), "{page} does not say {words:?} (any more)");
        assert!(tests.contains(&test), "{words:?} of {page}: there is no test `{test}`");
    }
}

#[test]
fn every_bullet_of_the_readme_and_every_chapter_of_operations_has_a_row() {
    let rows = rows();
    let has_row =
        |of: &str, text: &str| rows.iter().any(|(page, words, _)| page == of && text.contains(words.as_str()));
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut bullets = 0;
    for bullet in readme.split("\n- ").skip(1) {
        let bullet = bullet.split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        bullets += 1;
        assert!(has_row("README", &bullet), "no test tries this: {bullet}");
    }
    assert!(bullets >= 9, "only {bullets} bullets");
    let operations = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for chapter in operations.split("\n## ").skip(1) {
        let text = chapter.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(has_row("operations", &text), "no test tries anything of chapter {:?}", chapter.lines().next());
    }
}

/// Takes an order and never answers it, or answers and does nothing.
struct Hangs(bool);

impl Transport for Hangs {
    async fn send(&self, _: WorkerId, _: Order) -> Result<(), OrderError> {
        if self.0 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

/// Publishes, or hangs.
struct Store(bool);

impl CheckpointStore for Store {
    async fn open_run(&self, _: &JobId) -> Result<OpenRun, StoreError> {
        std::future::pending().await
    }

    async fn publish(&self, _: &Manifest) -> Result<(), StoreError> {
        if self.0 {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    async fn latest(&self, _: &JobId) -> Result<Option<Manifest>, StoreError> {
        Ok(None)
    }
}

/// Drives a job of two workers for a moment, after these events, and shows what can be seen then.
async fn seen(
    transport_hangs: bool,
    store_hangs: bool,
    request: Option<StopRequest>,
    scheduler: &ScriptedScheduler,
    events: impl IntoIterator<Item = (u64, Event)>,
) -> Progress {
    let limits = Limits { checkpoint_every: None, ..Limits::default() };
    let controller = ClusterController::builder(
        &OpenRun::without_store("words", RUN),
        topology(2),
        Arc::new(Hangs(transport_hangs)),
    );
    let controller = controller.limits(limits.clone()).store(Arc::new(Store(store_hangs))).build();
    let (mut job, running) = JobContext::builder(&OpenRun::without_store("words", RUN))
        .simulated()
        .limits(limits)
        .build(controller, scheduler.clone())
        .unwrap();
    let (sender, progress) = (job.sender(), job.progress());
    if let Some(request) = request {
        sender.request(request).unwrap();
    }
    let policy = Policy::escalate();
    let mut driven = std::pin::pin!(drive(running, &mut job, &policy));
    let moment = Duration::from_secs(1);
    assert!(tokio::time::timeout(moment, &mut driven).await.is_err());
    for (worker, event) in events {
        sender.event(WorkerEvent::new(RUN, WorkerId::new(worker), event)).await.unwrap();
    }
    assert!(tokio::time::timeout(moment, &mut driven).await.is_err());
    progress.borrow().clone()
}

/// The table of the first chapter of `docs/operations.md`, row by row.
#[tokio::test(start_paused = true)]
async fn what_progress_shows_is_what_is_waited_for() {
    let scheduler = ScriptedScheduler::new([1, 2]);
    let task = |worker: u64| TaskId::new(0, u32::try_from(worker).unwrap() - 1);
    let epoch = Epoch::new(1);
    let state = |commit: bool| {
        [1, 2].map(|worker| {
            let commit = commit.then(|| "rows".into());
            (worker, Event::CheckpointCompleted { task: task(worker), epoch, snapshot: "state".into(), commit })
        })
    };
    let ends = || [1, 2].map(|worker| (worker, Event::TaskFinished { task: task(worker) }));
    let checkpoint = Some(StopRequest::Checkpoint);

    let all =
        |progress: &Progress| (progress.status.checkpoint, progress.status.tasks.done, progress.status.workers_left);
    let progress = seen(false, false, checkpoint, &scheduler, state(false).into_iter().take(1)).await;
    let collecting = CheckpointStage::Collecting { epoch, acks: Count::new(1, 2) };
    assert_eq!(all(&progress), (collecting, 0, 2), "tasks whose snapshot does not come");
    let progress = seen(false, true, checkpoint, &scheduler, state(false)).await;
    assert_eq!(all(&progress), (CheckpointStage::Publishing { epoch }, 0, 2), "the manifest's write");
    let progress = seen(false, false, checkpoint, &scheduler, state(true)).await;
    let committing = CheckpointStage::Committing { epoch, acks: Count::new(0, 2) };
    assert_eq!(all(&progress), (committing, 0, 2), "the second phase of the commit");
    let progress = seen(false, false, Some(StopRequest::Graceful), &scheduler, ends().into_iter().take(1)).await;
    assert_eq!(all(&progress), (CheckpointStage::Idle, 1, 1), "a task that does not end");
    let progress = seen(true, false, Some(StopRequest::Graceful), &scheduler, []).await;
    assert_eq!(progress.status.orders_outstanding, 2, "workers that have not answered");

    let stays = ScriptedScheduler::new([1, 2]);
    stays.answers(Call::Ask, [SchedulerAnswer::Ignores]);
    let progress = seen(false, false, Some(StopRequest::Graceful), &stays, ends()).await;
    assert!(progress.status.all_finished() && progress.alive == Some(2), "{progress:?}");
    let away = ScriptedScheduler::new([1, 2]);
    away.answers(Call::Kill, [SchedulerAnswer::Unavailable]);
    let progress = seen(false, false, Some(StopRequest::Force), &away, []).await;
    assert!(progress.retries > 0 && progress.last_error.is_some(), "{progress:?}");
    let progress = seen(false, false, None, &scheduler, []).await;
    assert_eq!((progress.phase, progress.deadline), (PhaseKind::Running, None));
}
