//! Books that are opened by another controller than the first, and what stands on their cover.

use super::*;
use crate::contracts::{CheckpointStart, FinalCheckpoint};

#[test]
fn i3_a_final_checkpoint_goes_on_under_its_number() {
    let mut bench = Bench::new();
    bench.model.resume_final(epoch(7));
    assert!(!bench.model.may_start_periodic(), "it was asked for");
    assert_eq!(bench.model.status().final_checkpoint, FinalCheckpoint::NotStarted);
    bench.model.epochs_after(epoch(100));
    assert_eq!(bench.model.begin_checkpoint(true).unwrap(), CheckpointStart::Started(epoch(7)));
    assert_eq!(bench.actions(), [checkpoint_order(7, true)]);
    bench.collect(7);
    bench.model.published(epoch(7));
    // The controller before this one may have ordered the commits; the workers' answers count.
    for task in SINKS {
        assert_eq!(bench.commit(task, 7), Ok(Applied::Changed));
    }
    assert_eq!(bench.model.status().final_checkpoint, FinalCheckpoint::Complete(epoch(7)));
}

#[test]
fn what_a_controller_before_had_ordered_is_no_checkpoint_of_this_one() {
    let mut bench = Bench::new();
    bench.model.set_last_complete(Some(epoch(4)));
    bench.model.epochs_after(epoch(100));
    assert_eq!(bench.ack(SOURCES[0], 5), Ok(Applied::Duplicate), "late, and not of the future");
    assert_eq!(bench.model.begin_checkpoint(false).unwrap(), CheckpointStart::Started(epoch(101)));
    bench.collect(101);
    assert_eq!(
        (bench.ack(SOURCES[0], 5), bench.model.status().last_complete),
        (Ok(Applied::Duplicate), Some(epoch(4)))
    );
}

#[test]
fn another_limit_of_silence() {
    let mut bench = Bench::new();
    bench.model.set_heartbeat(Duration::from_secs(3));
    assert_eq!(bench.model.next_heartbeat_deadline(), Some(bench.start + Duration::from_secs(3)));
    bench.at(3);
    bench.model.check_health(bench.now);
    assert_eq!(bench.model.status().workers_lost, 2);
}

#[test]
fn whoever_sends_the_orders_can_tell_that_there_is_something_new() {
    let mut bench = Bench::new();
    assert_eq!((bench.model.run(), bench.model.topology().workers().len()), (RUN, 2));
    let mut seen = vec![bench.model.revision()];
    bench.model.begin_checkpoint(false).unwrap();
    seen.push(bench.model.revision());
    bench.say(ONE, Event::Heartbeat).unwrap();
    assert_eq!(Some(&bench.model.revision()), seen.last(), "a sign of life is nothing to send");
    bench.model.begin_stop(WorkerStopMode::Immediate);
    seen.push(bench.model.revision());
    bench.model.begin_release();
    seen.push(bench.model.revision());
    assert!(seen.is_sorted_by(|before, after| before < after), "{seen:?}");
}

#[test]
fn i3_what_was_committed_by_order_of_the_controller_before_is_not_ordered_again() {
    let mut bench = Bench::new();
    bench.model.resume_final(epoch(7));
    bench.model.begin_checkpoint(true).unwrap();
    assert_eq!(bench.actions(), [checkpoint_order(7, true)]);
    bench.collect(7);
    assert_eq!(bench.commit(SINKS[0], 7), Ok(Applied::Changed), "its manifest was durable");
    assert_eq!(bench.actions(), [Action::Publish(epoch(7))]);
    bench.model.published(epoch(7));
    let tasks = [crate::contracts::TaskCommit { task: SINKS[1], data: Bytes::from(format!("{} commits 7", SINKS[1])) }];
    let order = Command::Commit { epoch: epoch(7), tasks: Arc::from(tasks) };
    assert_eq!(bench.actions(), [Action::Commit { orders: vec![(TWO, order)] }]);
    assert_eq!(bench.commit(SINKS[1], 7), Ok(Applied::Changed));
    assert_eq!(bench.model.status().final_checkpoint, FinalCheckpoint::Complete(epoch(7)));
}
