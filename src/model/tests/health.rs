//! Heartbeats, lost workers, workers that leave.

use super::*;

fn lost(worker: WorkerId, seconds: u64) -> RunFailure {
    RunFailure::WorkerLost { worker, silent_for: Duration::from_secs(seconds) }
}

#[test]
fn the_worker_that_is_silent_longest_sets_the_deadline() {
    let mut bench = Bench::new();
    assert_eq!(bench.model.next_heartbeat_deadline(), Some(bench.start + HEARTBEAT));
    bench.at(5).say(ONE, Event::Heartbeat).unwrap();
    assert_eq!(bench.model.next_heartbeat_deadline(), Some(bench.start + HEARTBEAT), "the other one is due first");
    bench.at(8).say(TWO, Event::SourceExhausted { task: SOURCES[1] }).unwrap();
    assert_eq!(bench.model.next_heartbeat_deadline(), Some(bench.start + Duration::from_secs(35)));
    bench.at(9).say(TWO, Event::SourceExhausted { task: SOURCES[1] }).unwrap();
    bench.at(34);
    bench.model.check_health(bench.now);
    assert_eq!(bench.model.failure(), None);
    bench.at(35);
    bench.model.check_health(bench.now);
    assert_eq!(bench.model.failure(), Some(&lost(ONE, 30)));
    let status = bench.model.status();
    assert_eq!((status.failures, status.workers_left), (1, 2), "a lost worker is still expected");
    assert_eq!(
        bench.model.next_heartbeat_deadline(),
        Some(bench.start + Duration::from_secs(39)),
        "a duplicate is a sign of life too"
    );
}

#[test]
fn each_lost_worker_is_told_once_in_one_check() {
    let mut bench = Bench::new();
    bench.at(40);
    bench.model.check_health(bench.now);
    bench.model.check_health(bench.now);
    assert_eq!((bench.model.status().failures, bench.model.failure()), (2, Some(&lost(ONE, 40))));
    assert_eq!(bench.model.next_heartbeat_deadline(), None);
}

#[test]
fn a_lost_worker_that_speaks_again_can_be_ordered_and_lost_again() {
    let mut bench = Bench::new();
    bench.at(29).say(TWO, Event::Heartbeat).unwrap();
    bench.at(30);
    bench.model.check_health(bench.now);
    let stop = Command::Stop(WorkerStopMode::Immediate);
    bench.model.begin_stop(WorkerStopMode::Immediate);
    assert_eq!(bench.actions(), [stop_order(WorkerStopMode::Immediate, [TWO])]);
    assert!(!bench.model.wants(ONE, &stop));
    bench.at(31).say(ONE, Event::Heartbeat).unwrap();
    assert!(bench.model.wants(ONE, &stop));
    bench.say(TWO, Event::Heartbeat).unwrap();
    bench.at(61);
    bench.model.check_health(bench.now);
    assert_eq!((bench.model.status().failures, bench.model.failure()), (3, Some(&lost(ONE, 30))));
}

#[test]
fn a_worker_without_running_tasks_is_watched_no_more() {
    let mut bench = Bench::new();
    bench.finish(SOURCES[0]).unwrap();
    assert_eq!(bench.model.status().workers_left, 2);
    bench.fail(SINKS[0]).unwrap();
    assert_eq!(bench.model.status().workers_left, 1);
    bench.at(20).say(TWO, Event::Heartbeat).unwrap();
    assert_eq!(bench.model.next_heartbeat_deadline(), Some(bench.start + Duration::from_secs(50)));
    bench.at(21).say(ONE, Event::Heartbeat).unwrap();
    bench.finish(SOURCES[1]).unwrap();
    bench.finish(SINKS[1]).unwrap();
    assert_eq!((bench.model.status().workers_left, bench.model.next_heartbeat_deadline()), (0, None));
    bench.at(1000);
    bench.model.check_health(bench.now);
    assert_eq!(bench.model.status().failures, 1, "only the task's own failure");
}

#[test]
fn a_worker_that_leaves_with_running_tasks_has_failed() {
    let mut bench = Bench::new();
    bench.finish(SOURCES[0]).unwrap();
    assert_eq!(bench.say(ONE, Event::WorkerFinished), Ok(Applied::Changed));
    assert_eq!(bench.say(ONE, Event::WorkerFinished), Ok(Applied::Duplicate));
    let left = RunFailure::WorkerLeft { worker: ONE, unfinished: 1 };
    assert_eq!(bench.model.failure(), Some(&left));
    assert_eq!(bench.model.status().workers_left, 1);
    // Late news of it still counts, but nothing is ordered from it any more.
    assert_eq!(bench.finish(SINKS[0]), Ok(Applied::Changed));
    assert_eq!((bench.model.status().workers_left, bench.model.status().tasks.done), (1, 2));
    bench.model.begin_release();
    assert_eq!(bench.actions(), [Action::Send { command: Command::Release, workers: vec![TWO] }]);
}

#[test]
fn a_worker_leaves_well_when_its_tasks_have_ended() {
    let mut bench = Bench::new();
    for task in [SOURCES[0], SINKS[0]] {
        bench.finish(task).unwrap();
    }
    assert_eq!(bench.say(ONE, Event::WorkerFinished), Ok(Applied::Changed));
    assert_eq!((bench.model.failure(), bench.model.status().workers_left), (None, 1));
}

#[test]
fn a_clock_reading_that_is_older_does_not_break_the_order() {
    let mut bench = Bench::new();
    bench.at(20).say(ONE, Event::Heartbeat).unwrap();
    bench.at(3).say(TWO, Event::Heartbeat).unwrap();
    bench.at(50);
    bench.model.check_health(bench.now);
    assert_eq!(bench.model.status().failures, 2);
}

#[test]
fn no_heartbeat_limit_is_too_long() {
    let start = Instant::now();
    let mut model = RunModel::new(topology(), RUN, Duration::MAX, None, start);
    model.check_health(start + Duration::from_secs(1 << 32));
    assert_eq!((model.failure(), model.next_heartbeat_deadline()), (None, None));
}
