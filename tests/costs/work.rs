//! What things cost, counted and not timed: allocations, orders in flight, polls. A busy machine
//! changes none of it.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::oneshot;
use winddown::{
    ClusterController, Epoch, JobController, OpenRun, Role, RunId, TaskId, Topology, WorkerId,
    contracts::{Applied, Event, Order, OrderError, Transport, WorkerEvent, WorkerStopMode},
    model::RunModel,
};

const RUN: RunId = RunId::new(1);
const EPOCH: Epoch = Epoch::new(1);

/// So many tasks on so many workers.
fn topology(tasks: u32, workers: u64) -> Arc<Topology> {
    let placement = (0..tasks).map(|task| WorkerId::new(u64::from(task) % workers + 1));
    Arc::new(Topology::builder().operator("source", Role::Source, placement).build().unwrap())
}

/// One message from every task.
fn messages(topology: &Topology, event: impl Fn(TaskId) -> Event) -> Vec<WorkerEvent> {
    topology.task_ids().map(|task| WorkerEvent::new(RUN, topology.worker_of(task).unwrap(), event(task))).collect()
}

fn snapshot(task: TaskId) -> Event {
    Event::CheckpointCompleted { task, epoch: EPOCH, snapshot: Bytes::from_static(b"offset 42"), commit: None }
}

#[test]
fn no_worker_message_allocates_whatever_the_number_of_tasks() {
    let now = Instant::now();
    for tasks in [1_000, 100_000] {
        let topology = topology(tasks, 100);
        let mut model = RunModel::new(Arc::clone(&topology), RUN, Duration::from_secs(30), None, now);
        model.begin_checkpoint(true).unwrap();
        while model.poll_action().is_some() {}
        // All at once, so that making them is not counted.
        let mut all = messages(&topology, |_| Event::Heartbeat);
        all.extend(messages(&topology, snapshot));
        all.extend(messages(&topology, |task| Event::TaskFinished { task }));
        let mut changed = 0;
        let counted = allocation_counter::measure(|| {
            for message in &mut all {
                let message = std::mem::replace(message, WorkerEvent::new(RUN, WorkerId::new(1), Event::Heartbeat));
                changed += u32::from(model.handle(message, now) == Ok(Applied::Changed));
            }
        });
        assert_eq!(counted.count_total, 0, "{tasks} tasks");
        assert!(model.status().all_finished() && changed == 3 * tasks, "{changed} of {}", 3 * tasks);
    }
}

/// Answers an order when the test says so, and counts.
#[derive(Default)]
struct Counting {
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
    polls: AtomicUsize,
    open: Mutex<HashMap<WorkerId, oneshot::Sender<()>>>,
}

impl Counting {
    fn answer(&self, worker: WorkerId) {
        self.open.lock().unwrap().remove(&worker).unwrap().send(()).unwrap();
    }
}

impl Transport for Counting {
    async fn send(&self, worker: WorkerId, _: Order) -> Result<(), OrderError> {
        let (sender, answer) = oneshot::channel();
        // Tokio's budget for one turn of a task would add polls of its own.
        let mut answer = tokio::task::unconstrained(answer);
        self.open.lock().unwrap().insert(worker, sender);
        let now = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
        let answered = poll_fn(|cx| {
            self.polls.fetch_add(1, Ordering::Relaxed);
            std::pin::Pin::new(&mut answer).poll(cx)
        });
        answered.await.unwrap();
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Polls what `progress` gives, once.
fn poll_progress<T: Transport>(controller: &mut ClusterController<T>) -> bool {
    let progress = std::pin::pin!(controller.progress());
    matches!(progress.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(())))
}

#[tokio::test(start_paused = true)]
async fn i9_every_order_is_in_flight_before_the_first_answer_and_an_answer_wakes_no_other() {
    const WORKERS: u32 = 1_000;
    let transport = Arc::new(Counting::default());
    let builder = ClusterController::builder(
        &OpenRun::without_store("job", RUN),
        topology(WORKERS, WORKERS.into()),
        Arc::clone(&transport),
    );
    let mut controller = builder.build();
    controller.begin_stop(WorkerStopMode::Graceful);
    while transport.in_flight.load(Ordering::Relaxed) < 1_000 {
        // It may take several polls: one hands out as much as is fair to the runtime's other tasks.
        poll_progress(&mut controller);
        tokio::task::yield_now().await;
    }
    let first = transport.polls.load(Ordering::Relaxed);
    assert_eq!((first, transport.most_in_flight.load(Ordering::Relaxed)), (1_000, 1_000));

    // All but one answer, one by one. The one that never does is not looked at again, nor is any
    // that waits.
    for worker in (2..=WORKERS).map(|number| WorkerId::new(number.into())) {
        transport.answer(worker);
        while !poll_progress(&mut controller) {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(controller.status().orders_outstanding, 1);
    assert_eq!(transport.polls.load(Ordering::Relaxed) - first, 999, "each answer costs the poll of its own order");
}
