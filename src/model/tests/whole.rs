//! Operators that commit as a whole, as Arroyo's do, and chains that begin and end as a whole.

use super::*;
use crate::contracts::CheckpointStage;

impl Bench {
    fn whole(&mut self, task: TaskId, number: u64) -> Result<Applied, Rejection> {
        let (snapshot, commit) = (Bytes::from(format!("{task} at {number}")), Bytes::from(format!("files of {task}")));
        let event = Event::OperatorPreCommitted { task, epoch: epoch(number), snapshot, commit };
        self.say(worker_of(task), event)
    }

    fn commit_orders(&mut self) -> Vec<(WorkerId, Command)> {
        let commit = |action| match action {
            Action::Commit { orders } => Some(orders),
            _ => None,
        };
        self.actions().into_iter().find_map(commit).unwrap_or_default()
    }

    fn manifest_is_durable(&mut self, number: u64) -> Manifest {
        let manifest = self.model.manifest(&job()).unwrap();
        self.model.published(epoch(number));
        manifest
    }
}

fn committing(done: u32, total: u32) -> CheckpointStage {
    CheckpointStage::Committing { epoch: epoch(1), acks: Count::new(done, total) }
}

/// Whatever the order in which the subtasks speak, and whether the others have something of their
/// own.
#[test]
fn a1_one_subtask_speaks_for_its_whole_operator() {
    type Says = fn(&mut Bench) -> Result<Applied, Rejection>;
    let (nothing, own): (Says, Says) = (|it| it.ack(SINKS[0], 1), |it| it.pre_commit(SINKS[0], 1));
    let says: Says = |it| it.whole(SINKS[1], 1);
    for order in [[nothing, says], [says, nothing], [own, says], [says, own]] {
        let mut bench = Bench::new();
        bench.model.begin_checkpoint(true).unwrap();
        for source in SOURCES {
            bench.ack(source, 1).unwrap();
        }
        for say in order {
            assert_eq!(say(&mut bench), Ok(Applied::Changed));
        }
        let manifest = bench.manifest_is_durable(1);
        let to_commit: Vec<_> = manifest.tasks.iter().filter(|it| it.commit.is_some()).map(|it| it.task).collect();
        assert_eq!(to_commit, SINKS, "what a run after a crash has to commit");

        assert_eq!(bench.stage(), committing(0, 2));
        let orders = bench.commit_orders();
        assert_eq!(orders.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [ONE, TWO]);
        for (_, command) in &orders {
            let Command::Commit { tasks, .. } = command else { panic!("{command:?}") };
            assert_eq!(
                tasks.iter().map(|it| it.task).collect::<Vec<_>>(),
                SINKS,
                "each worker gets the whole operator"
            );
        }
        bench.commit(SINKS[1], 1).unwrap();
        assert_eq!(bench.stage(), committing(1, 2), "the one that gave nothing has not committed");
        bench.commit(SINKS[0], 1).unwrap();
        assert_eq!(bench.model.status().final_checkpoint, FinalCheckpoint::Complete(epoch(1)));
    }
}

#[test]
fn a1_periodic_checkpoints_commit_too_and_the_next_one_starts_afresh() {
    let mut bench = Bench::new();
    for number in 1..=3 {
        bench.model.begin_checkpoint(false).unwrap();
        for task in SOURCES {
            bench.ack(task, number).unwrap();
        }
        // In the second one the operator has nothing in two phases any more.
        for task in SINKS {
            if number == 2 { bench.ack(task, number) } else { bench.whole(task, number) }.unwrap();
        }
        bench.manifest_is_durable(number);
        if number != 2 {
            assert_eq!(bench.commit_orders().len(), 2);
            assert_eq!(bench.commit(SINKS[0], number), Ok(Applied::Changed));
            assert_ne!(bench.model.status().last_complete, Some(epoch(number)));
            bench.commit(SINKS[1], number).unwrap();
        }
        assert_eq!(bench.model.status().last_complete, Some(epoch(number)));
    }
}

#[test]
fn a1_a_subtask_that_ended_before_its_operator_turned_out_to_commit_is_a_failure() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(true).unwrap();
    bench.ack(SINKS[0], 1).unwrap();
    bench.finish(SINKS[0]).unwrap();
    assert_eq!(bench.model.failure(), None);
    bench.whole(SINKS[1], 1).unwrap();
    let failure = bench.model.failure();
    assert!(matches!(failure, Some(RunFailure::FinishedWithoutCommit { .. })), "{failure:?}");
}

#[test]
fn a1_a_subtask_that_ends_before_it_has_committed_for_its_operator_is_a_failure() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(true).unwrap();
    bench.whole(SINKS[1], 1).unwrap();
    bench.ack(SINKS[0], 1).unwrap();
    bench.finish(SINKS[0]).unwrap();
    let failure = bench.model.failure();
    assert!(
        matches!(failure, Some(RunFailure::FinishedWithoutCommit { task, .. }) if *task == SINKS[0]),
        "{failure:?}"
    );
}

/// Such an operator need not give again what it left uncommitted: a checkpoint that is given up
/// takes it along.
#[test]
fn a1_a_pre_commit_that_is_given_up_is_a_failure() {
    let give_up: [fn(&mut Bench); 4] = [
        |bench| {
            bench.whole(SINKS[0], 1).unwrap();
            bench.model.abandon(epoch(1));
        },
        |bench| {
            bench.model.abandon(epoch(1));
            assert_eq!(bench.model.failure(), None, "nothing is known of a pre-commit");
            bench.whole(SINKS[0], 1).unwrap();
        },
        |bench| {
            bench.whole(SINKS[0], 1).unwrap();
            bench.finish(SOURCES[0]).unwrap();
        },
        |bench| {
            bench.ack(SOURCES[0], 1).unwrap();
            bench.ack(SOURCES[1], 1).unwrap();
            bench.whole(SINKS[0], 1).unwrap();
            bench.whole(SINKS[1], 1).unwrap();
            bench.model.published(epoch(1));
            bench.model.abandon(epoch(1));
        },
    ];
    for (case, give_up) in give_up.into_iter().enumerate() {
        let mut bench = Bench::new();
        bench.model.begin_checkpoint(false).unwrap();
        give_up(&mut bench);
        assert_eq!(bench.model.failure(), Some(&RunFailure::PreCommitLost { epoch: epoch(1) }), "case {case}");
        assert!(bench.model.begin_checkpoint(true).is_err(), "case {case}: no later checkpoint covers it");
    }
}

#[test]
fn a1_what_was_committed_or_is_taken_back_by_a_stop_is_no_failure() {
    let mut bench = Bench::new();
    bench.model.begin_checkpoint(false).unwrap();
    for task in SOURCES {
        bench.ack(task, 1).unwrap();
    }
    for task in SINKS {
        bench.whole(task, 1).unwrap();
    }
    bench.manifest_is_durable(1);
    for task in SINKS {
        bench.commit(task, 1).unwrap();
    }
    assert_eq!(bench.whole(SINKS[0], 1), Ok(Applied::Duplicate));
    bench.model.begin_checkpoint(false).unwrap();
    bench.whole(SINKS[0], 2).unwrap();
    bench.model.begin_stop(WorkerStopMode::Immediate);
    assert_eq!(bench.whole(SINKS[1], 2), Ok(Applied::Duplicate));
    assert_eq!(bench.model.failure(), None);
}

/// A run before this one ended between its manifest and its commits.
#[test]
fn a1_the_commits_of_a_run_before_are_ordered_again_before_any_checkpoint() {
    let mut before = Bench::new();
    before.model.begin_checkpoint(false).unwrap();
    for task in SOURCES {
        before.ack(task, 1).unwrap();
    }
    before.ack(SINKS[0], 1).unwrap();
    before.whole(SINKS[1], 1).unwrap();
    let manifest = before.manifest_is_durable(1);

    let mut bench = Bench::new();
    bench.model.restore(&manifest);
    bench.model.commit_again(&manifest);
    let orders = bench.commit_orders();
    assert_eq!(orders.iter().map(|(worker, _)| *worker).collect::<Vec<_>>(), [ONE, TWO]);
    let Command::Commit { epoch: of, tasks } = &orders[0].1 else { panic!("{orders:?}") };
    assert_eq!((*of, tasks.len()), (epoch(1), 2));
    assert_eq!(tasks[1].data, format!("files of {}", SINKS[1]));

    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), crate::contracts::CheckpointStart::Busy(epoch(1)));
    bench.commit(SINKS[0], 1).unwrap();
    bench.commit(SINKS[1], 1).unwrap();
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), crate::contracts::CheckpointStart::Started(epoch(2)));
}

/// Its workers say again what they had said, in any order.
#[test]
fn a1_a_controller_that_takes_over_hears_of_a_commit_before_it_knows_who_commits() {
    let mut bench = Bench::new();
    bench.model.resume_final(epoch(1));
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), crate::contracts::CheckpointStart::Started(epoch(1)));
    bench.ack(SINKS[0], 1).unwrap();
    assert_eq!(bench.commit(SINKS[0], 1), Ok(Applied::Changed));
    assert_eq!(bench.commit(SINKS[0], 1), Ok(Applied::Duplicate));
    bench.finish(SINKS[0]).unwrap();
    bench.whole(SINKS[1], 1).unwrap();
    for task in SOURCES {
        bench.ack(task, 1).unwrap();
    }
    bench.manifest_is_durable(1);
    assert_eq!((bench.stage(), bench.model.failure()), (committing(1, 2), None));
    bench.commit(SINKS[1], 1).unwrap();
    assert_eq!(bench.model.status().final_checkpoint, FinalCheckpoint::Complete(epoch(1)));
}

#[test]
fn a1_a_restored_run_without_commits_starts_at_once() {
    let mut before = Bench::new();
    before.model.begin_checkpoint(false).unwrap();
    for task in all() {
        before.ack(task, 1).unwrap();
    }
    let manifest = before.model.manifest(&job()).unwrap();
    let mut bench = Bench::new();
    bench.model.commit_again(&manifest);
    assert_eq!(bench.actions(), []);
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), crate::contracts::CheckpointStart::Started(epoch(2)));
}

/// Node 3 with three operators, node 8 with one.
fn chained() -> Bench {
    let builder = Topology::builder().chain(3, Role::Source, ["source", "parse", "watermark"], [ONE, TWO]);
    let topology = builder.chain(8, Role::Inner, ["sink"], [ONE, TWO]).build().unwrap();
    let start = Instant::now();
    Bench { model: RunModel::new(Arc::new(topology), RUN, HEARTBEAT, None, start), start, now: start }
}

fn chain(operator: u32, subtask: u32) -> Event {
    Event::ChainFinished { task: TaskId::new(operator, subtask) }
}

#[test]
fn a2_a_chain_gives_a_state_for_each_operator_and_ends_once() {
    let mut bench = chained();
    assert_eq!(bench.model.status().sources, Count::new(0, 2), "the first operator of a chain reads the input");
    bench.model.begin_checkpoint(true).unwrap();
    for operator in 0..4 {
        for subtask in 0..2 {
            assert!(!matches!(bench.stage(), CheckpointStage::Publishing { .. }));
            bench.ack(TaskId::new(operator, subtask), 1).unwrap();
        }
    }
    assert_eq!(bench.stage(), CheckpointStage::Publishing { epoch: epoch(1) });
    assert_eq!(bench.manifest_is_durable(1).tasks.len(), 8);

    assert_eq!(bench.say(ONE, chain(0, 0)), Ok(Applied::Changed));
    assert_eq!(bench.say(ONE, chain(2, 0)), Ok(Applied::Duplicate), "named by another operator of it");
    assert_eq!(bench.model.status().tasks, Count::new(3, 8));
    assert_eq!(
        bench.say(ONE, chain(0, 1)),
        Err(Rejection::NotItsWorker { task: TaskId::new(0, 1), expected: TWO, got: ONE })
    );
    bench.say(TWO, chain(1, 1)).unwrap();
    bench.finish(TaskId::new(3, 0)).unwrap();
    bench.say(TWO, chain(3, 1)).unwrap();
    assert!(bench.model.status().all_finished());
    assert_eq!((bench.model.status().workers_left, bench.model.failure()), (0, None));
}

#[test]
fn a2_a_chain_that_ends_without_the_state_of_one_of_its_operators_is_a_failure() {
    let mut bench = chained();
    bench.model.begin_checkpoint(true).unwrap();
    bench.ack(TaskId::new(0, 0), 1).unwrap();
    bench.ack(TaskId::new(2, 0), 1).unwrap();
    bench.say(ONE, chain(0, 0)).unwrap();
    let missing = RunFailure::FinishedWithoutSnapshot { task: TaskId::new(1, 0), epoch: epoch(1) };
    assert_eq!(bench.model.failure(), Some(&missing));
}

#[test]
fn a2_a_chain_that_fails_is_one_failure() {
    let mut bench = chained();
    let failed = Event::ChainFailed { task: TaskId::new(1, 0), error: TaskError::fatal("disk full") };
    assert_eq!(bench.say(ONE, failed.clone()), Ok(Applied::Changed));
    assert_eq!(bench.say(ONE, failed), Ok(Applied::Duplicate));
    let status = bench.model.status();
    assert_eq!((status.failures, status.tasks_failed, status.tasks.done), (1, 3, 0));
    assert_eq!(bench.model.failure().unwrap().to_string(), "task 1/0 on worker 1 failed: disk full");
    assert_eq!(bench.say(ONE, chain(0, 0)), Err(Rejection::TaskEnded(TaskId::new(0, 0))));
}

#[test]
fn a3_an_error_that_ends_nothing_is_counted_and_a_worker_that_could_not_begin_is_a_failure() {
    let mut bench = Bench::new();
    let error = TaskError::fatal("a record that can't be read");
    let event = Event::NonfatalError { task: Some(SOURCES[0]), error: error.clone() };
    bench.at(29).say(ONE, event.clone()).unwrap();
    assert_eq!((bench.model.status().nonfatal_errors, bench.model.failure()), (1, None));
    let stranger = WorkerId::new(9);
    assert_eq!(bench.say(stranger, event), Err(Rejection::UnknownWorker(stranger)));
    let now = bench.at(31).now;
    bench.model.check_health(now);
    assert_eq!(bench.model.status().workers_lost, 1, "it was a sign of life");

    let mut bench = Bench::new();
    bench.say(ONE, Event::WorkerFailed { error: error.clone() }).unwrap();
    assert_eq!(bench.say(ONE, Event::WorkerFailed { error: error.clone() }), Ok(Applied::Duplicate));
    assert_eq!(bench.model.failure(), Some(&RunFailure::WorkerFailed { worker: ONE, error }));
    assert_eq!(bench.model.status().failures, 1);
}
