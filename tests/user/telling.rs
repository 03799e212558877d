//! What is told of a shutdown: the one reason of every step, to the log, the progress, the receipt
//! and the stream of phases.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tracing::Level;
use winddown::{
    ClusterController, JobContext, Limits, ObjectStoreCheckpoints, OpenRun, PhaseKind, Policy, Running, StopRequest,
    TaskId, WorkerId,
    contracts::{Event, TaskError, WorkerEvent},
    drive,
    machine::{Reason, ReasonKind},
    testing::scripted::ScriptedScheduler,
};

use super::{Deaf, Line, Log, RUN, topology};

type Job = JobContext<ClusterController<Deaf>, ScriptedScheduler>;

/// A job of three workers that take every order in and do nothing, with this much time for
/// everything.
fn job(transport: Deaf, limits: &Limits) -> (Job, Running) {
    let store = ObjectStoreCheckpoints::new(Arc::new(object_store::memory::InMemory::new()), "");
    let controller =
        ClusterController::builder(&OpenRun::without_store("words", RUN), topology(3), Arc::new(transport));
    let controller = controller.limits(limits.clone()).store(Arc::new(store)).build();
    JobContext::builder(&OpenRun::without_store("words", RUN))
        .simulated()
        .limits(limits.clone())
        .build(controller, ScriptedScheduler::new([1, 2, 3]))
        .unwrap()
}

fn limits() -> Limits {
    Limits { order_retries: 0, checkpoint_every: None, heartbeat: Duration::from_secs(3600), ..Limits::default() }
}

fn says(worker: u64, event: Event) -> WorkerEvent {
    WorkerEvent::new(RUN, WorkerId::new(worker), event)
}

fn field<'a>(line: &'a Line, name: &str) -> Option<&'a str> {
    line.fields.get(name).map(String::as_str)
}

/// The one escalation, which has this reason and is about these.
#[track_caller]
fn assert_escalated(log: &Log, reason: &str, workers: Option<&str>, said: &str) {
    let lines = log.escalations();
    assert_eq!(lines.len(), 1, "one warning for one escalation: {lines:#?}");
    let line = &lines[0];
    assert_eq!((field(line, "reason"), field(line, "workers")), (Some(reason), workers), "{line:#?}");
    assert_eq!((field(line, "job"), field(line, "run")), (Some("words"), Some("7")), "values, not sentences");
    assert!(line.message.contains(said), "expected {said:?} in {line:#?}");
}

#[tokio::test(start_paused = true)]
async fn u7_a_lost_worker_in_the_final_checkpoint_is_a_warning_that_names_it() {
    let (log, _guard) = Log::start();
    let (mut job, running) = job(Deaf::default(), &limits());
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    job.sender().event(says(2, Event::WorkerFinished)).await.unwrap();
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert_escalated(&log, "worker-left", Some("2"), "the final checkpoint is lost: worker 2 left with 1 unfinished");
    let leg = &receipt.legs()[receipt.legs().len() - 2];
    assert_eq!((leg.phase, leg.reason.kind()), (PhaseKind::StoppingForce, ReasonKind::WorkerLeft));
    assert_eq!(leg.reason.workers(), [WorkerId::new(2)]);
    assert!(receipt.to_string().contains("worker 2 left"), "{receipt}");
}

/// The failure that comes first need not be the one that is given up for.
#[tokio::test(start_paused = true)]
async fn u7_a_worker_lost_after_a_failed_task_is_the_reason_and_not_the_task() {
    let (log, _guard) = Log::start();
    let (mut job, running) = job(Deaf::default(), &limits());
    let sender = job.sender();
    let error = TaskError::retryable("its neighbour does not answer");
    sender.event(says(1, Event::TaskFailed { task: TaskId::new(0, 0), error })).await.unwrap();
    let driven = tokio::spawn(async move { drive(running, &mut job, &Policy::escalate()).await.unwrap() });
    tokio::time::sleep(Duration::from_secs(1)).await;
    sender.event(says(3, Event::WorkerFinished)).await.unwrap();
    let receipt = driven.await.unwrap();
    let lines = log.escalations();
    let reasons: Vec<_> = lines.iter().map(|line| (field(line, "reason"), field(line, "workers"))).collect();
    assert_eq!(reasons, [(Some("task-failed"), Some("1")), (Some("worker-left"), Some("3"))], "{lines:#?}");
    assert_eq!(field(&lines[0], "tasks"), Some("0/0"));
    let walked: Vec<_> = receipt.legs().iter().map(|leg| leg.reason.kind()).collect();
    let kinds =
        [ReasonKind::Started, ReasonKind::TaskFailed, ReasonKind::CleanUp, ReasonKind::WorkerLeft, ReasonKind::Done];
    assert_eq!(walked, kinds);
}

#[tokio::test(start_paused = true)]
async fn u7_a_deadline_names_those_who_are_late() {
    let (log, _guard) = Log::start();
    let (mut job, running) = job(Deaf::default(), &limits());
    let stopping = running.stop_gracefully(&mut job).unwrap();
    job.sender().event(says(1, Event::TaskFinished { task: TaskId::new(0, 0) })).await.unwrap();
    drop(drive(stopping, &mut job, &Policy::escalate()).await.unwrap());
    assert_escalated(&log, "deadline", Some("2, 3"), "is not done within 1m");
}

#[tokio::test(start_paused = true)]
async fn u7_a_refused_order_names_who_refused() {
    let (log, _guard) = Log::start();
    let (mut job, running) = job(Deaf { refuses: Some(WorkerId::new(3)) }, &limits());
    let stopping = running.stop_immediately(&mut job).unwrap();
    drop(drive(stopping, &mut job, &Policy::escalate()).await.unwrap());
    assert_escalated(&log, "order-refused", Some("3"), "worker 3 rejected: no");
}

#[tokio::test(start_paused = true)]
async fn u7_a_final_checkpoint_that_a_user_gives_up_is_a_warning_too() {
    for (request, reason) in [(StopRequest::Immediate, "immediate-request"), (StopRequest::Force, "force-request")] {
        let (log, _guard) = Log::start();
        let (mut job, running) = job(Deaf::default(), &limits());
        let stopping = running.stop_with_checkpoint(&mut job).unwrap();
        job.sender().request(request).unwrap();
        assert!(matches!(stopping.next(&mut job).await, Ok(after) if after.kind() != PhaseKind::StoppedCheckpointed));
        assert_escalated(&log, reason, None, "the final checkpoint is lost: ");
        assert_eq!(job.progress_now().reason, Reason::from(request));
    }
}

#[tokio::test(start_paused = true)]
async fn u7_workers_that_do_not_leave_are_named() {
    let (log, _guard) = Log::start();
    let (mut job, running) = job(Deaf::default(), &limits());
    job.scheduler()
        .answers(winddown::testing::scripted::Call::Ask, [winddown::testing::scripted::SchedulerAnswer::Ignores]);
    let stopping = running.stop_gracefully(&mut job).unwrap();
    for worker in 1..=3 {
        let task = TaskId::new(0, u32::try_from(worker).unwrap() - 1);
        job.sender().event(says(worker, Event::TaskFinished { task })).await.unwrap();
    }
    let receipt = drive(stopping, &mut job, &Policy::escalate()).await.unwrap();
    assert!(receipt.stopped().killed_workers());
    assert_escalated(&log, "not-left", Some("1, 2, 3"), "killing what is left of the run");
}

/// What was asked for is no warning, and no field of any line is a sentence about a number.
#[tokio::test(start_paused = true)]
async fn u7_a_stop_as_it_was_asked_for_warns_of_nothing_and_fields_are_values() {
    let (log, _guard) = Log::start();
    let (mut job, running) = job(Deaf::default(), &limits());
    let stopping = running.stop_gracefully(&mut job).unwrap();
    for subtask in 0..3 {
        let event = Event::TaskFinished { task: TaskId::new(0, subtask) };
        job.sender().event(says(u64::from(subtask) + 1, event)).await.unwrap();
    }
    drop(drive(stopping, &mut job, &Policy::escalate()).await.unwrap());
    let lines = log.lines();
    assert!(lines.iter().all(|line| line.level > Level::WARN), "{lines:#?}");
    assert!(lines.iter().filter(|line| line.fields.contains_key("reason")).count() >= 2, "every step is told");
    for (name, value) in lines.iter().flat_map(|line| &line.fields) {
        for id in ["run", "worker", "epoch", "task"] {
            assert!(*name != id || !value.contains(' '), "{name}={value}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn u8_every_phase_is_heard_of_however_late_and_slow_one_listens() {
    let (mut job, running) = job(Deaf::default(), &limits());
    let early = job.phases();
    let watch = job.progress();
    let stopping = running.stop_with_checkpoint(&mut job).unwrap().give_up(&mut job).unwrap();
    let late = job.phases();
    drop(drive(stopping.force(&mut job).unwrap(), &mut job, &Policy::escalate()).await.unwrap());
    let after = job.phases();
    assert_eq!(watch.borrow().phase, PhaseKind::StoppedKilled, "the watch has the newest alone");
    let all = [
        PhaseKind::Running,
        PhaseKind::CheckpointStopping,
        PhaseKind::StoppingImmediate,
        PhaseKind::StoppingForce,
        PhaseKind::StoppedKilled,
    ];
    for mut phases in [early, late, after] {
        let mut heard = vec![];
        while let Some(visit) = phases.next().await {
            heard.push(visit);
        }
        assert_eq!(heard.iter().map(|visit| visit.phase).collect::<Vec<_>>(), all);
        assert_eq!(heard, job.walked());
        assert!(phases.next().await.is_none(), "the end stays the end");
    }
    let streamed: Vec<_> = job.phases().into_stream().map(|visit| visit.phase).collect().await;
    assert_eq!(streamed, all);
}

#[tokio::test(start_paused = true)]
async fn u8_a_stream_ends_with_its_job_and_what_was_entered_before_is_still_told() {
    let (mut job, running) = job(Deaf::default(), &limits());
    let mut phases = job.phases();
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let listening = tokio::spawn(async move {
        let mut heard = vec![];
        while let Some(visit) = phases.next().await {
            heard.push(visit.phase);
        }
        heard
    });
    drop((job, stopping));
    assert_eq!(listening.await.unwrap(), [PhaseKind::Running, PhaseKind::StoppingGraceful]);
}

#[tokio::test(start_paused = true)]
async fn u12_rejected_messages_are_counted_where_a_drive_can_be_watched() {
    let (mut job, running) = job(Deaf::default(), &limits());
    let (sender, mut progress) = (job.sender(), job.progress());
    let driven = tokio::spawn(async move { drop(drive(running, &mut job, &Policy::escalate()).await.unwrap()) });
    for _ in 0..2 {
        sender.event(WorkerEvent::new(RUN.next(), WorkerId::new(1), Event::Heartbeat)).await.unwrap();
    }
    sender.event(says(99, Event::Heartbeat)).await.unwrap();
    let progress = progress.wait_for(|progress| progress.rejected().total() == 3).await.unwrap().clone();
    assert_eq!(
        (progress.phase, progress.rejected().other_run, progress.rejected().unknown_worker),
        (PhaseKind::Running, 2, 1)
    );
    sender.request(StopRequest::Force).unwrap();
    driven.await.unwrap();
}
