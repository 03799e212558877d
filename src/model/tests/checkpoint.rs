//! The life of a checkpoint, and the commands around it.

use super::*;
use crate::contracts::{CheckpointStage, CheckpointStart, FinalCheckpoint, JobId};

const GRACEFUL: WorkerStopMode = WorkerStopMode::Graceful;
const IMMEDIATE: WorkerStopMode = WorkerStopMode::Immediate;

fn final_checkpoint(bench: &Bench) -> FinalCheckpoint {
    bench.model.status().final_checkpoint
}

#[test]
fn i3_a_two_phase_commit_goes_through_publication_to_completion() {
    let mut bench = Bench::new();
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(1)));
    assert_eq!(bench.actions(), [checkpoint_order(1, true)]);
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::InFlight(epoch(1)));
    assert_eq!(bench.pre_commit(SINKS[1], 1), Ok(Applied::Changed));
    assert_eq!(bench.stage(), CheckpointStage::Collecting { epoch: epoch(1), acks: Count::new(1, 4) });
    assert_eq!(bench.model.manifest(&job()), None);
    for task in SOURCES {
        bench.ack(task, 1).unwrap();
    }
    let early = bench.commit(SINKS[1], 1);
    assert_eq!(early, Err(Rejection::NothingToCommit { task: SINKS[1], epoch: epoch(1) }), "it was not ordered");
    bench.pre_commit(SINKS[0], 1).unwrap();

    assert_eq!(bench.stage(), CheckpointStage::Publishing { epoch: epoch(1) });
    assert_eq!(bench.actions(), [Action::Publish(epoch(1))], "no commit before the manifest is durable");
    let manifest = bench.model.manifest(&JobId::new("job")).unwrap();
    assert_eq!((manifest.run, manifest.epoch, manifest.then_stop), (RUN, epoch(1), true));
    assert_eq!(manifest.tasks.iter().map(|it| it.task).collect::<Vec<_>>(), all().collect::<Vec<_>>());
    assert!(manifest.tasks.iter().all(|it| !it.finished && it.snapshot == format!("{} at 1", it.task)));
    assert_eq!(manifest.tasks[3].commit.as_deref(), Some(&b"1/1 commits 1"[..]));
    assert_eq!(manifest.tasks[1].commit, None);
    assert!(bench.commit(SINKS[1], 1).is_err());
    assert_eq!(bench.model.status().last_complete, None);

    bench.model.published(epoch(1));
    bench.model.published(epoch(1));
    assert_eq!(bench.stage(), CheckpointStage::Committing { epoch: epoch(1), acks: Count::new(0, 2) });
    let commit = |worker, task| {
        let data = Bytes::from(format!("{task} commits 1"));
        let tasks = Arc::from([crate::contracts::TaskCommit { task, data }]);
        (worker, Command::Commit { epoch: epoch(1), tasks })
    };
    assert_eq!(bench.actions(), [Action::Commit { orders: vec![commit(ONE, SINKS[0]), commit(TWO, SINKS[1])] }]);
    assert_eq!(
        bench.commit(SOURCES[0], 1),
        Err(Rejection::NothingToCommit { task: SOURCES[0], epoch: epoch(1) }),
        "sources have nothing to commit"
    );
    let rejected = bench.model.counters().rejected;
    assert_eq!((rejected.nothing_to_commit, rejected.total()), (3, 3));
    assert_eq!(bench.commit(SINKS[0], 1), Ok(Applied::Changed));
    assert_eq!(bench.commit(SINKS[0], 1), Ok(Applied::Duplicate));
    assert_eq!(
        (final_checkpoint(&bench), bench.model.status().last_complete),
        (FinalCheckpoint::InFlight(epoch(1)), None)
    );
    assert_eq!(bench.commit(SINKS[1], 1), Ok(Applied::Changed));
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::Complete(epoch(1)));
    assert_eq!((bench.stage(), bench.model.status().last_complete), (CheckpointStage::Idle, Some(epoch(1))));
    assert_eq!(bench.commit(SINKS[1], 1), Ok(Applied::Duplicate));
    assert_eq!(bench.ack(SINKS[1], 1), Ok(Applied::Duplicate));
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), CheckpointStart::AlreadyStarted(epoch(1)));
    assert_eq!(bench.actions(), []);
}

#[test]
fn a_checkpoint_without_commits_is_complete_when_it_is_durable() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    for task in all() {
        bench.ack(task, 1).unwrap();
    }
    bench.model.published(epoch(9));
    assert_eq!(bench.stage(), CheckpointStage::Publishing { epoch: epoch(1) }, "another epoch was published");
    bench.model.published(epoch(1));
    assert_eq!((bench.stage(), bench.model.status().last_complete), (CheckpointStage::Idle, Some(epoch(1))));
    assert_eq!(
        (final_checkpoint(&bench), bench.model.counters().checkpoints_completed),
        (FinalCheckpoint::NotStarted, 1)
    );
}

#[test]
fn epochs_go_on_after_the_last_complete_one_and_never_come_back() {
    let start = Instant::now();
    let mut model = RunModel::new(topology(), RUN, HEARTBEAT, Some(epoch(41)), start);
    assert_eq!(model.begin_checkpoint(false).unwrap(), CheckpointStart::Started(epoch(42)));
    model.abandon(epoch(42));
    assert_eq!(model.begin_checkpoint(false).unwrap(), CheckpointStart::Started(epoch(43)));
    assert_eq!((model.status().last_complete, model.counters().checkpoints_abandoned), (Some(epoch(41)), 1));
}

#[test]
fn i3_a_controller_gives_out_no_more_epochs_than_the_next_one_skips() {
    let mut model = RunModel::new(topology(), RUN, HEARTBEAT, Some(epoch(5)), Instant::now());
    for _ in 1..EPOCHS_PER_CONTROLLER {
        assert!(model.may_start_periodic());
        let CheckpointStart::Started(given) = model.begin_checkpoint(false).unwrap() else {
            panic!("one is in flight")
        };
        model.abandon(given);
    }
    assert!(!model.may_start_periodic(), "the last number is the final checkpoint's");
    assert_eq!(model.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(5 + EPOCHS_PER_CONTROLLER)));

    let mut next = RunModel::new(topology(), RUN, HEARTBEAT, Some(epoch(5)), Instant::now());
    next.epochs_after(epoch(5 + EPOCHS_PER_CONTROLLER));
    assert_eq!(next.begin_checkpoint(false).unwrap(), CheckpointStart::Started(epoch(6 + EPOCHS_PER_CONTROLLER)));
}

#[test]
fn late_acknowledgements_of_an_abandoned_checkpoint_are_duplicates() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    bench.ack(SOURCES[0], 1).unwrap();
    bench.model.abandon(epoch(1));
    assert_eq!(bench.actions(), [], "its orders are not sent any more");
    assert_eq!(bench.ack(SOURCES[1], 1), Ok(Applied::Duplicate));
    bench.model.begin_checkpoint(true).unwrap();
    assert_eq!(bench.ack(SINKS[0], 1), Ok(Applied::Duplicate));
    assert_eq!(bench.commit(SINKS[0], 1), Ok(Applied::Duplicate));
    assert_eq!(bench.stage(), CheckpointStage::Collecting { epoch: epoch(2), acks: Count::new(0, 4) });
    assert_eq!(bench.ack(SOURCES[0], 2), Ok(Applied::Changed));
    assert_eq!(bench.ack(SOURCES[0], 2), Ok(Applied::Duplicate));
    let future = Rejection::FutureEpoch { newest: Some(epoch(2)), got: epoch(3) };
    assert_eq!(bench.ack(SOURCES[1], 3), Err(future));
    assert_eq!(bench.commit(SOURCES[1], 3), Err(future));
    bench.model.abandon(epoch(2));
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::InFlight(epoch(2)), "a final one is never abandoned");
}

#[test]
fn tasks_that_ended_before_a_checkpoint_are_carried_in_it() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    bench.collect(1);
    bench.model.published(epoch(1));
    for task in SINKS {
        bench.commit(task, 1).unwrap();
    }
    bench.finish(SOURCES[0]).unwrap();
    bench.finish(SINKS[0]).unwrap();
    bench.actions();

    bench.model.begin_checkpoint(true).unwrap();
    assert_eq!(
        bench.actions(),
        [Action::Send { command: Command::Checkpoint { epoch: epoch(2), then_stop: true }, workers: vec![TWO] }],
        "a worker without running tasks gets no barrier"
    );
    assert_eq!(bench.ack(SOURCES[0], 2), Err(Rejection::TaskEnded(SOURCES[0])));
    bench.ack(SOURCES[1], 2).unwrap();
    bench.ack(SINKS[1], 2).unwrap();
    let tasks = bench.model.manifest(&job()).unwrap().tasks;
    let told: Vec<_> = tasks.iter().map(|it| (&it.snapshot[..], it.commit.is_some(), it.finished)).collect();
    assert_eq!(
        told,
        [
            (&b"0/0 at 1"[..], false, true),
            (b"0/1 at 2", false, false),
            (b"1/0 at 1", false, true),
            (b"1/1 at 2", false, false)
        ]
    );
}

#[test]
fn a_run_whose_tasks_have_all_ended_has_a_final_checkpoint_of_what_it_started_from() {
    let mut bench = Bench::new();
    let snapshot =
        |task| crate::contracts::TaskSnapshot { task, snapshot: Bytes::from("old"), commit: None, finished: false };
    let tasks = all().map(snapshot).collect();
    let manifest = Manifest { job: job(), run: RunId::new(2), epoch: epoch(6), then_stop: false, tasks };
    bench.model.restore(&manifest);
    for task in all() {
        bench.finish(task).unwrap();
    }
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(7)));
    let manifest = bench.model.manifest(&job()).unwrap();
    assert!(manifest.tasks.iter().all(|it| it.finished && it.snapshot == "old"));
    let nobody = Action::Send { command: Command::Checkpoint { epoch: epoch(7), then_stop: true }, workers: vec![] };
    assert_eq!(bench.actions(), [nobody, Action::Publish(epoch(7))]);
    bench.model.published(epoch(7));
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::Complete(epoch(7)));
}

#[test]
fn a_periodic_checkpoint_is_abandoned_when_a_task_ends_without_its_snapshot() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    bench.ack(SOURCES[0], 1).unwrap();
    bench.finish(SOURCES[0]).unwrap();
    assert_eq!(
        bench.stage(),
        CheckpointStage::Collecting { epoch: epoch(1), acks: Count::new(1, 4) },
        "its state is in"
    );
    bench.finish(SOURCES[1]).unwrap();
    assert_eq!((bench.stage(), bench.model.counters().checkpoints_abandoned), (CheckpointStage::Idle, 1));
    assert_eq!(bench.model.failure(), None);
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(2)));
}

#[test]
fn i3_a_task_that_ends_without_a_snapshot_fails_the_final_checkpoint() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(true).unwrap();
    bench.finish(SINKS[0]).unwrap();
    let failure = RunFailure::FinishedWithoutSnapshot { task: SINKS[0], epoch: epoch(1) };
    assert_eq!(bench.model.failure(), Some(&failure));
    for task in [SOURCES[0], SOURCES[1], SINKS[1]] {
        bench.ack(task, 1).unwrap();
    }
    assert_eq!(bench.stage(), CheckpointStage::Collecting { epoch: epoch(1), acks: Count::new(3, 4) });
    let again = bench.model.begin_checkpoint(true);
    assert!(matches!(again, Err(ControllerError::Run(it)) if it == failure));
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::InFlight(epoch(1)));
}

#[test]
fn tasks_may_end_between_their_snapshot_and_completion_unless_they_have_to_commit() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(true).unwrap();
    bench.collect(1);
    bench.finish(SOURCES[0]).unwrap();
    bench.model.published(epoch(1));
    bench.finish(SOURCES[1]).unwrap();
    for task in SINKS {
        bench.commit(task, 1).unwrap();
        bench.finish(task).unwrap();
    }
    assert_eq!((final_checkpoint(&bench), bench.model.failure()), (FinalCheckpoint::Complete(epoch(1)), None));
    assert!(bench.model.status().all_finished());

    let mut bench = Bench::new();
    bench.model.begin_checkpoint(true).unwrap();
    bench.collect(1);
    bench.model.published(epoch(1));
    bench.finish(SINKS[0]).unwrap();
    let failure = RunFailure::FinishedWithoutCommit { task: SINKS[0], epoch: epoch(1) };
    assert_eq!(bench.model.failure(), Some(&failure));
    assert_eq!(bench.commit(SINKS[0], 1), Err(Rejection::TaskEnded(SINKS[0])));
    bench.commit(SINKS[1], 1).unwrap();
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::InFlight(epoch(1)));
}

#[test]
fn what_an_abandoned_checkpoint_left_uncommitted_must_not_be_lost() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    bench.pre_commit(SINKS[0], 1).unwrap();
    bench.pre_commit(SINKS[1], 1).unwrap();
    bench.model.abandon(epoch(1));
    bench.model.begin_checkpoint(false).unwrap();
    // The next snapshot says that nothing is left to commit; the other task ends without one.
    bench.ack(SINKS[0], 2).unwrap();
    bench.finish(SINKS[0]).unwrap();
    assert_eq!(bench.model.failure(), None);
    bench.finish(SINKS[1]).unwrap();
    let failure = RunFailure::FinishedWithoutCommit { task: SINKS[1], epoch: epoch(2) };
    assert_eq!(bench.model.failure(), Some(&failure));
}

#[test]
fn a_failure_ends_a_periodic_checkpoint_and_holds_a_final_one() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    bench.collect(1);
    bench.fail(SOURCES[0]).unwrap();
    assert_eq!((bench.stage(), bench.model.manifest(&job())), (CheckpointStage::Idle, None));
    assert_eq!(bench.actions(), [], "a manifest that was to be published is not");
    for then_stop in [false, true] {
        let start = bench.model.begin_checkpoint(then_stop);
        assert!(matches!(start, Err(error @ ControllerError::Run(_)) if !error.is_retryable()));
    }

    let mut bench = Bench::new();
    bench.model.begin_checkpoint(true).unwrap();
    bench.collect(1);
    bench.at(30);
    bench.model.check_health(bench.now);
    bench.model.published(epoch(1));
    assert_eq!(bench.stage(), CheckpointStage::Publishing { epoch: epoch(1) });
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::InFlight(epoch(1)));
    assert_eq!(bench.actions(), []);
}

#[test]
fn a_final_checkpoint_waits_for_a_periodic_one_and_no_other_starts() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    assert_eq!(bench.model.begin_checkpoint(false).unwrap(), CheckpointStart::Busy(epoch(1)));
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), CheckpointStart::Busy(epoch(1)));
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::NotStarted);
    for task in all() {
        bench.ack(task, 1).unwrap();
    }
    bench.model.published(epoch(1));
    assert!(no_checkpoint(&bench.model.begin_checkpoint(false)));
    assert!(!bench.model.may_start_periodic());
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(2)));
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), CheckpointStart::AlreadyStarted(epoch(2)));
    assert_eq!(bench.model.begin_checkpoint(false).unwrap(), CheckpointStart::Busy(epoch(2)));
}

#[test]
fn i4_a_stop_only_grows_stronger() {
    let mut bench = Bench::new();
    bench.model.begin_stop(GRACEFUL);
    bench.model.begin_stop(GRACEFUL);
    assert_eq!(bench.actions(), [stop_order(GRACEFUL, [ONE, TWO])]);
    bench.model.begin_stop(IMMEDIATE);
    bench.model.begin_stop(GRACEFUL);
    assert_eq!(bench.actions(), [stop_order(IMMEDIATE, [ONE, TWO])]);
    for task in [SOURCES[0], SINKS[0], SOURCES[1], SINKS[1]] {
        bench.finish(task).unwrap();
    }
    bench.model.begin_release();
    bench.model.begin_release();
    bench.model.begin_stop(IMMEDIATE);
    assert_eq!(bench.actions(), [Action::Send { command: Command::Release, workers: vec![ONE, TWO] }]);
}

#[test]
fn a_stop_replaces_orders_that_have_not_gone_out() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    bench.model.begin_stop(GRACEFUL);
    bench.model.begin_stop(IMMEDIATE);
    assert_eq!(bench.actions(), [stop_order(IMMEDIATE, [ONE, TWO])]);
    assert_eq!((bench.stage(), bench.model.counters().checkpoints_abandoned), (CheckpointStage::Idle, 1));
    assert!(no_checkpoint(&bench.model.begin_checkpoint(true)));
}

#[test]
fn a_stop_does_not_keep_a_durable_checkpoint_from_its_commits() {
    for then_stop in [false, true] {
        let mut bench = Bench::new();
        bench.model.begin_checkpoint(then_stop).unwrap();
        bench.collect(1);
        bench.model.published(epoch(1));
        bench.actions();
        bench.model.begin_stop(IMMEDIATE);
        for task in SINKS {
            bench.commit(task, 1).unwrap();
        }
        assert_eq!(bench.model.status().last_complete, Some(epoch(1)));
    }
}

#[test]
fn a_stopped_task_that_commits_no_more_is_no_failure_and_no_complete_checkpoint() {
    for then_stop in [false, true] {
        let mut bench = Bench::new();
        bench.model.begin_checkpoint(then_stop).unwrap();
        bench.collect(1);
        bench.model.published(epoch(1));
        bench.model.begin_stop(IMMEDIATE);
        bench.finish(SINKS[0]).unwrap();
        let _ = bench.commit(SINKS[1], 1).unwrap();
        let status = bench.model.status();
        assert_eq!((status.failures, status.last_complete), (0, None));
        assert!(!matches!(status.final_checkpoint, FinalCheckpoint::Complete(_)));
    }
}

#[test]
fn a_stop_gives_up_a_final_checkpoint_that_is_not_durable() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(true).unwrap();
    bench.model.begin_stop(IMMEDIATE);
    bench.collect(1);
    assert_eq!(bench.actions(), [stop_order(IMMEDIATE, [ONE, TWO])], "nothing is published");
    assert_eq!(final_checkpoint(&bench), FinalCheckpoint::InFlight(epoch(1)));
    for task in all() {
        bench.finish(task).unwrap();
    }
    assert_eq!(bench.model.failure(), None, "tasks that were told to stop may end at any point");
}

#[test]
fn a_release_is_taken_back_by_a_stop_only_where_tasks_run() {
    let mut bench = Bench::new();
    bench.model.begin_release();
    bench.model.begin_stop(GRACEFUL);
    assert_eq!(bench.actions(), [stop_order(GRACEFUL, [ONE, TWO])]);
    bench.model.begin_release();
    assert_eq!(bench.actions(), [Action::Send { command: Command::Release, workers: vec![ONE, TWO] }]);
}
