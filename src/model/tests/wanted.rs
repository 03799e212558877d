//! What is still of use: orders that are sent again, and what a periodic checkpoint waits for.

use super::*;

fn checkpoint(number: u64) -> Command {
    Command::Checkpoint { epoch: epoch(number), then_stop: false }
}

fn commit(number: u64) -> Command {
    Command::Commit { epoch: epoch(number), tasks: Arc::from([]) }
}

/// Who still wants an order: the first worker, the second one.
fn wanted(bench: &Bench, command: &Command) -> (bool, bool) {
    (bench.model.wants(ONE, command), bench.model.wants(TWO, command))
}

#[test]
fn a_checkpoint_order_is_wanted_while_snapshots_are_missing_and_a_commit_order_while_commits_are() {
    let mut bench = Bench::new();
    let wanted_of = |bench: &Bench| (wanted(bench, &checkpoint(1)), wanted(bench, &commit(1)));
    let (both, none) = ((true, true), (false, false));
    assert_eq!(wanted_of(&bench), (none, none), "nothing has begun");
    bench.model.begin_checkpoint(false).unwrap();
    assert_eq!(wanted_of(&bench), (both, none), "snapshots are collected");
    bench.collect(1);
    assert_eq!(wanted_of(&bench), (none, none), "the manifest is published");
    bench.model.published(epoch(1));
    assert_eq!(wanted_of(&bench), (none, both), "commits are carried out");
    for task in SINKS {
        bench.commit(task, 1).unwrap();
    }
    assert_eq!(wanted_of(&bench), (none, none), "all is done");
    bench.model.begin_checkpoint(false).unwrap();
    assert_eq!(wanted_of(&bench), (none, none), "the next one is another");
    assert_eq!(wanted(&bench, &checkpoint(2)), both);
}

#[test]
fn an_order_about_a_checkpoint_is_not_wanted_where_no_task_is_left() {
    let mut bench = Bench::new();
    for task in [SOURCES[0], SINKS[0]] {
        bench.finish(task).unwrap();
    }
    bench.model.begin_checkpoint(false).unwrap();
    let send = Action::Send { command: checkpoint(1), workers: vec![TWO] };
    assert_eq!((bench.actions(), wanted(&bench, &checkpoint(1))), (vec![send], (false, true)));
    bench.ack(SOURCES[1], 1).unwrap();
    bench.pre_commit(SINKS[1], 1).unwrap();
    bench.model.published(epoch(1));
    assert_eq!(wanted(&bench, &commit(1)), (false, true));
}

#[test]
fn a_periodic_checkpoint_is_in_flight_until_it_is_complete_and_a_final_one_is_none() {
    let mut bench = Bench::new();
    let state = |bench: &Bench| (bench.model.periodic(), bench.model.is_publishing(epoch(1)));
    assert_eq!(state(&bench), (None, false));
    bench.model.begin_checkpoint(false).unwrap();
    assert_eq!(state(&bench), (Some(epoch(1)), false));
    bench.collect(1);
    assert_eq!(state(&bench), (Some(epoch(1)), true));
    bench.model.published(epoch(1));
    assert_eq!(state(&bench), (Some(epoch(1)), false));
    for task in SINKS {
        bench.commit(task, 1).unwrap();
    }
    assert_eq!(state(&bench), (None, false));
    bench.model.begin_checkpoint(true).unwrap();
    bench.collect(2);
    assert_eq!((state(&bench), bench.model.is_publishing(epoch(2))), ((None, false), true));
}

#[test]
fn a_stop_order_is_wanted_in_the_mode_of_the_stop_where_a_task_is_left() {
    let mut bench = Bench::new();
    let [graceful, immediate] = [WorkerStopMode::Graceful, WorkerStopMode::Immediate].map(Command::Stop);
    assert_eq!(wanted(&bench, &graceful), (false, false), "nobody has asked for one");
    for task in [SOURCES[0], SINKS[0]] {
        bench.finish(task).unwrap();
    }
    bench.model.begin_stop(WorkerStopMode::Graceful);
    assert_eq!((wanted(&bench, &graceful), wanted(&bench, &immediate)), ((false, true), (false, false)));
    bench.model.begin_stop(WorkerStopMode::Immediate);
    assert_eq!((wanted(&bench, &graceful), wanted(&bench, &immediate)), ((false, false), (false, true)));
}
