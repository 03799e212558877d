//! The end of a worker is heard of at once, by one line.

use std::{sync::Arc, time::Duration};

use winddown::{
    ClusterController, EmbeddedCluster, JobContext, JobId, Mailbox, OpenRun, PhaseKind, Policy, RunId, Running,
    TaskContext, TaskOrder, WorkerId,
    contracts::{Event, TaskError, WorkerEvent},
    drive,
    embedded::EmbeddedRun,
    mailbox::{Incoming, WorkerEnds},
};

use super::{RUN, topology};

/// So long a worker may be silent. Nothing here waits for it: the clock is paused, and would show
/// it.
const SILENCE: Duration = Duration::from_secs(30);

fn waits() -> impl FnMut(TaskContext) -> std::pin::Pin<Box<dyn Future<Output = Result<(), TaskError>> + Send>> {
    |mut ctx| {
        Box::pin(async move {
            while !matches!(ctx.order().await, TaskOrder::Stop(_)) {}
            Ok(())
        })
    }
}

fn embedded(listens: bool) -> (JobContext<ClusterController<EmbeddedRun>, EmbeddedCluster>, Running, EmbeddedRun) {
    let cluster = EmbeddedCluster::default();
    let mailbox = Mailbox::new(64);
    let open = OpenRun::without_store("words", RUN);
    let workers = cluster.start(&open, &topology(2), mailbox.sender(), waits()).unwrap();
    let controller = ClusterController::builder(&open, topology(2), Arc::new(workers.clone())).build();
    let (job, running) = JobContext::builder(&open).simulated().mailbox(mailbox).build(controller, cluster).unwrap();
    if listens {
        job.hear_of_ends();
    }
    (job, running, workers)
}

#[tokio::test(start_paused = true)]
async fn u9_a_dead_embedded_worker_is_heard_of_at_once_by_one_line_and_by_silence_without_it() {
    for listens in [true, false] {
        let (mut job, running, workers) = embedded(listens);
        let began = tokio::time::Instant::now();
        workers.kill_worker(WorkerId::new(2));
        let after = running.next(&mut job).await.unwrap();
        assert_eq!(after.kind(), PhaseKind::Recovering);
        let heard = began.elapsed();
        assert_eq!(heard < Duration::from_secs(1), listens, "after {heard:?}");
        assert!(listens || heard >= SILENCE, "after {heard:?}");
        assert_eq!(job.progress_now().reason.workers(), [WorkerId::new(2)]);
    }
}

/// Those that leave in order say so for themselves, after everything else that they have to say.
#[tokio::test(start_paused = true)]
async fn u9_the_end_of_a_worker_that_leaves_is_no_failure() {
    let (mut job, running, _workers) = embedded(true);
    let stopping = running.stop_gracefully(&mut job).unwrap();
    let receipt = drive(stopping, &mut job, &Policy::give_back()).await.unwrap();
    assert_eq!((receipt.stopped().name(), receipt.stopped().killed_workers()), ("drained", false));
    assert_eq!(job.controller().model().failure(), None);
}

#[tokio::test]
async fn u9_ends_are_told_once_to_the_newest_run_also_of_those_that_were_gone_before() {
    let (job, other) = (JobId::from("words"), JobId::from("other"));
    let ends = WorkerEnds::default();
    let mut mailbox = Mailbox::new(8);
    ends.gone(&job, RUN, WorkerId::new(1));
    ends.report_to(&job, RUN, Arc::new(mailbox.sender()));
    ends.gone(&job, RUN, WorkerId::new(1));
    ends.gone(&job, RUN, WorkerId::new(2));
    ends.gone(&job, RunId::new(6), WorkerId::new(3));
    ends.gone(&other, RUN, WorkerId::new(4));
    let told: Vec<_> = std::iter::from_fn(|| mailbox.try_recv()).collect();
    let expected = [1, 2].map(|worker| WorkerEvent::new(RUN, WorkerId::new(worker), Event::WorkerFinished));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn u9_a_full_mailbox_delays_the_telling_and_loses_nothing() {
    let ends = WorkerEnds::default();
    let mut mailbox = Mailbox::new(1);
    ends.report_to(&"words".into(), RUN, Arc::new(mailbox.sender()));
    for worker in 1..=3 {
        ends.gone(&"words".into(), RUN, WorkerId::new(worker));
    }
    let mut told = vec![];
    while told.len() < 3 {
        let Incoming::Worker(event) = mailbox.next(None).await else { panic!("nobody asked for a stop") };
        told.push(event.worker.get());
    }
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3]);
}

#[tokio::test]
async fn u9_a_sender_knows_when_its_job_is_gone() {
    let mailbox = Mailbox::new(1);
    let sender = mailbox.sender();
    assert!(!sender.is_closed());
    let waiting = tokio::spawn(async move { sender.closed().await });
    tokio::task::yield_now().await;
    drop(mailbox);
    waiting.await.unwrap();
}
