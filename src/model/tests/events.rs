//! One event at a time: what it does, and why it is rejected.

use super::*;

#[test]
fn finished_tasks_and_sources_are_counted_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.finish(SOURCES[0]), Ok(Applied::Changed));
    assert_eq!(bench.finish(SOURCES[0]), Ok(Applied::Duplicate));
    let status = bench.model.status();
    assert_eq!((status.tasks, status.sources), (Count::new(1, 4), Count::new(1, 2)));
    assert_eq!(bench.say(ONE, Event::SourceExhausted { task: SOURCES[0] }), Ok(Applied::Duplicate));
    assert_eq!(bench.say(TWO, Event::SourceExhausted { task: SOURCES[1] }), Ok(Applied::Changed));
    assert_eq!(bench.say(TWO, Event::SourceExhausted { task: SOURCES[1] }), Ok(Applied::Duplicate));
    assert!(bench.model.status().sources_exhausted());
    let counters = bench.model.counters();
    assert_eq!((counters.applied, counters.duplicates, counters.rejected.total()), (2, 3, 0));
}

#[test]
fn a_failed_task_is_counted_once_and_the_first_failure_stays() {
    let mut bench = Bench::new();
    assert_eq!(bench.fail(SINKS[0]), Ok(Applied::Changed));
    assert_eq!(bench.fail(SINKS[0]), Ok(Applied::Duplicate));
    assert_eq!(bench.fail(SINKS[1]), Ok(Applied::Changed));
    let status = bench.model.status();
    assert_eq!((status.tasks_failed, status.failures), (2, 2));
    let first = RunFailure::TaskFailed { task: SINKS[0], worker: ONE, error: TaskError::fatal("disk full") };
    assert_eq!(bench.model.failure(), Some(&first));
    bench.finish(SOURCES[0]).unwrap();
    bench.finish(SOURCES[1]).unwrap();
    let status = bench.model.status();
    assert!(status.all_ended() && !status.all_finished());
}

#[test]
fn i11_foreign_and_wrong_events_change_nothing_and_are_counted_by_reason() {
    let mut bench = Bench::new();
    bench.fail(SOURCES[0]).unwrap();
    bench.finish(SINKS[0]).unwrap();
    let before = bench.model.status();
    let deadline = bench.model.next_heartbeat_deadline();
    bench.at(10);

    let other = WorkerEvent::new(RunId::new(2), TWO, Event::TaskFinished { task: SINKS[1] });
    let expected = Rejection::OtherRun { expected: RUN, got: RunId::new(2) };
    assert_eq!(bench.model.handle(other, bench.now), Err(expected));

    let stranger = WorkerId::new(9);
    let unknown_task = TaskId::new(1, 2);
    let rejections = [
        (stranger, Event::Heartbeat, Rejection::UnknownWorker(stranger)),
        (stranger, Event::WorkerFinished, Rejection::UnknownWorker(stranger)),
        (stranger, Event::TaskFinished { task: SINKS[1] }, Rejection::UnknownWorker(stranger)),
        (stranger, Event::TaskFinished { task: unknown_task }, Rejection::UnknownWorker(stranger)),
        (TWO, Event::TaskFinished { task: unknown_task }, Rejection::UnknownTask(unknown_task)),
        (TWO, Event::TaskFinished { task: TaskId::new(2, 0) }, Rejection::UnknownTask(TaskId::new(2, 0))),
        (
            TWO,
            Event::TaskFinished { task: TaskId::new(u32::MAX, u32::MAX) },
            Rejection::UnknownTask(TaskId::new(u32::MAX, u32::MAX)),
        ),
        (
            ONE,
            Event::TaskFinished { task: SINKS[1] },
            Rejection::NotItsWorker { task: SINKS[1], expected: TWO, got: ONE },
        ),
        (TWO, Event::SourceExhausted { task: SINKS[1] }, Rejection::NotASource(SINKS[1])),
        (ONE, Event::TaskFinished { task: SOURCES[0] }, Rejection::TaskEnded(SOURCES[0])),
        (
            ONE,
            Event::TaskFailed { task: SINKS[0], error: TaskError::fatal("too late") },
            Rejection::TaskEnded(SINKS[0]),
        ),
        (
            TWO,
            Event::CommitCompleted { task: SINKS[1], epoch: epoch(1) },
            Rejection::FutureEpoch { newest: None, got: epoch(1) },
        ),
    ];
    for (worker, event, rejection) in rejections {
        assert_eq!(bench.say(worker, event.clone()), Err(rejection), "{event:?} of {worker}");
    }

    assert_eq!(bench.model.status(), before);
    assert_eq!(bench.model.next_heartbeat_deadline(), deadline, "a rejected event is no sign of life");
    let rejected = bench.model.counters().rejected;
    let by_reason = Rejected {
        other_run: 1,
        unknown_worker: 4,
        unknown_task: 3,
        not_its_worker: 1,
        future_epoch: 1,
        nothing_to_commit: 0,
        task_ended: 2,
        not_a_source: 1,
    };
    assert_eq!((rejected, rejected.total()), (by_reason, 13));
}

#[test]
fn every_slot_belongs_to_its_task() {
    let workers: Vec<_> = (1..=5).map(WorkerId::new).collect();
    let builder = Topology::builder().operator("a", Role::Source, workers[..3].iter().copied());
    let builder = builder.operator("b", Role::Inner, workers.iter().copied().cycle().take(11));
    let topology = Arc::new(builder.operator("c", Role::Source, [workers[4]]).build().unwrap());
    let mut model = RunModel::new(Arc::clone(&topology), RUN, HEARTBEAT, None, Instant::now());
    assert_eq!(model.status().sources.total, 4);
    for (done, task) in (1..).zip(topology.task_ids()) {
        let worker = topology.worker_of(task).unwrap();
        let event = WorkerEvent::new(RUN, worker, Event::TaskFinished { task });
        assert_eq!(model.handle(event, Instant::now()), Ok(Applied::Changed), "{task}");
        assert_eq!(model.status().tasks, Count::new(done, 15));
    }
    assert_eq!((model.status().workers_left, model.status().sources.done), (0, 4));
}
