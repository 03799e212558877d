//! Fan-out: timeouts, retries, reports, what replaces what.

use super::*;
use crate::contracts::{OrderReport, Rejection};

fn report(error: &ControllerError) -> &OrderReport {
    let ControllerError::Orders(report) = error else { panic!("expected an order report, got {error}") };
    report
}

#[tokio::test(start_paused = true)]
async fn i9_a_dead_worker_delays_no_other() {
    let mut bench = Bench::new(40);
    bench.workers.script(7, [Answer::Never]);
    bench.controller.begin_stop(GRACEFUL);
    assert_eq!((bench.outstanding(), bench.workers.arrivals().len()), (40, 0), "a command sends nothing itself");
    bench.run_well_for(secs(4)).await;
    let arrivals = bench.workers.arrivals();
    assert_eq!(arrivals.len(), 40);
    assert!(arrivals.iter().all(|it| it.at == bench.start && it.order.run == RUN), "{arrivals:?}");
    assert_eq!(bench.outstanding(), 1);
}

#[tokio::test(start_paused = true)]
async fn i9_slow_workers_answer_side_by_side() {
    let mut bench = Bench::new(100);
    for worker in 1..=100 {
        bench.workers.script(worker, [Answer::After(ms(50))]);
    }
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(ms(49)).await;
    assert_eq!(bench.outstanding(), 100);
    bench.run_well_for(ms(2)).await;
    assert_eq!(bench.outstanding(), 0);
}

#[tokio::test(start_paused = true)]
async fn original_the_stop_order_is_retried_ten_times_for_the_failing_worker_alone() {
    let mut bench = Bench::new(3);
    bench.workers.script(2, [Answer::Never]);
    bench.controller.begin_stop(IMMEDIATE);
    // 11 attempts of 5 s, and at most twice 0.5 + 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 + 60 s between
    // them.
    let errors = bench.run_for(secs(55 + 2 * 244)).await;
    let times = bench.workers.times(2, "immediate stop", bench.start);
    assert_eq!(times.len(), 11);
    let waits: Vec<_> = times.windows(2).map(|it| it[1].saturating_sub(it[0] + limits().order)).collect();
    let mut expected = limits().backoff_min;
    for wait in waits {
        // Tokio's timer counts in milliseconds, and rounds up.
        assert!(wait >= expected && wait <= expected * 2 + ms(2), "{wait:?} for {expected:?}");
        expected = (expected * 2).min(limits().backoff_max);
    }
    assert_eq!((bench.workers.count(1, "immediate stop"), bench.workers.count(3, "immediate stop")), (1, 1));
    assert_eq!(errors.len(), 1, "told once: {errors:?}");
    assert_eq!(
        errors[0].1.to_string(),
        "1 of 3 workers refused: immediate stop order: worker 2 timed out: no answer within 5s"
    );
    assert_eq!(bench.outstanding(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_back_takes_the_order_on_a_retry() {
    let mut bench = Bench::new(2);
    bench.workers.script(1, [Answer::Fails(OrderErrorKind::Unreachable), Answer::Never, Answer::Ok]);
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(20)).await;
    assert_eq!((bench.workers.count(1, "graceful stop"), bench.outstanding()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn jitter_keeps_retries_of_many_workers_apart() {
    let mut bench = Bench::new(16);
    for worker in 1..=16 {
        bench.workers.script(worker, [Answer::Fails(OrderErrorKind::Refused), Answer::Ok]);
    }
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(2)).await;
    let retries: std::collections::BTreeSet<_> =
        (1..=16).map(|worker| bench.workers.times(worker, "graceful stop", bench.start)[1]).collect();
    assert!(retries.len() > 4, "{retries:?}");
}

#[tokio::test(start_paused = true)]
async fn one_report_names_the_workers_that_failed_in_order() {
    let mut bench = Bench::new(40);
    for worker in [31, 4, 17, 9] {
        bench.workers.script(worker, [Answer::Fails(OrderErrorKind::Rejected)]);
    }
    bench.workers.script(20, [Answer::After(secs(3))]);
    bench.controller.begin_stop(GRACEFUL);
    let errors = bench.run_for(secs(60)).await;
    assert_eq!(errors.len(), 1);
    assert!(errors[0].0 >= secs(3), "a report waits until all have settled");
    assert!(errors[0].1.is_retryable());
    assert_eq!(
        errors[0].1.to_string(),
        "4 of 40 workers refused: graceful stop order: worker 4 rejected: as the test says; \
         worker 9 rejected: as the test says; worker 17 rejected: as the test says; and 1 more"
    );
    assert_eq!(bench.workers.count(4, "graceful stop"), 1, "a rejected order is not sent again");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_command_goes_to_the_workers_that_failed_only() {
    let mut bench = Bench::new(4);
    bench.workers.script(2, [Answer::Fails(OrderErrorKind::Rejected), Answer::Ok]);
    bench.workers.script(3, [Answer::Fails(OrderErrorKind::Rejected)]);
    bench.workers.script(4, [Answer::After(secs(4))]);
    bench.controller.begin_stop(GRACEFUL);
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(1)).await;
    bench.controller.begin_stop(GRACEFUL);
    let errors = bench.run_for(secs(10)).await;
    assert_eq!(report(&errors[0].1).failures.len(), 1);
    bench.controller.begin_stop(GRACEFUL);
    assert_eq!(bench.outstanding(), 1);
    let errors = bench.run_for(secs(10)).await;
    assert_eq!((errors.len(), report(&errors[0].1).failures[0].0), (1, WorkerId::new(3)), "told again: {errors:?}");
    let sent = [1, 2, 3, 4].map(|worker| bench.workers.count(worker, "graceful stop"));
    assert_eq!(sent, [1, 2, 3, 1], "to those that had failed, and to none that had answered or was to answer yet");
}

#[tokio::test(start_paused = true)]
async fn i4_a_stronger_stop_replaces_a_weaker_one_and_its_orders() {
    let mut bench = Bench::new(3);
    bench.workers.script(2, [Answer::Never, Answer::Ok]);
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(1)).await;
    assert_eq!((bench.outstanding(), bench.workers.open()), (1, 1));
    bench.controller.begin_stop(IMMEDIATE);
    assert_eq!((bench.outstanding(), bench.workers.open()), (3, 0), "the older orders are dropped at once");
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(600)).await;
    let sent = |worker| (bench.workers.count(worker, "graceful stop"), bench.workers.count(worker, "immediate stop"));
    assert_eq!([1, 2, 3].map(sent), [(1, 1); 3]);
}

#[tokio::test(start_paused = true)]
async fn original_a_stop_order_answered_not_running_has_been_obeyed() {
    let mut bench = Bench::new(2);
    bench.workers.script(1, [Answer::Fails(OrderErrorKind::NotRunning)]);
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(60)).await;
    assert_eq!((bench.workers.count(1, "graceful stop"), bench.outstanding()), (1, 0));
    bench.controller.begin_release();
    bench.run_well_for(secs(60)).await;
    assert_eq!((bench.workers.count(1, "release"), bench.outstanding()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn workers_that_need_no_order_get_none() {
    let mut bench = Bench::new(4);
    bench.finish(1);
    bench.finish(2);
    bench.say(2, Event::WorkerFinished);
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(1)).await;
    let sent = [1, 2, 3, 4].map(|worker| bench.workers.count(worker, "graceful stop"));
    assert_eq!(sent, [0, 0, 1, 1]);
    bench.finish(3);
    bench.finish(4);
    bench.controller.begin_release();
    bench.run_well_for(secs(1)).await;
    let sent = [1, 2, 3, 4].map(|worker| bench.workers.count(worker, "release"));
    assert_eq!(sent, [1, 0, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn an_order_is_dropped_when_its_worker_has_obeyed_left_or_is_lost() {
    let mut bench = Bench::new(3);
    for worker in 1..=3 {
        bench.workers.script(worker, [Answer::Never]);
    }
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(1)).await;
    assert_eq!(bench.outstanding(), 3);
    bench.finish(1);
    assert_eq!(bench.outstanding(), 2);
    bench.say(2, Event::WorkerFinished);
    assert_eq!(bench.outstanding(), 1);
    tokio::time::advance(limits().heartbeat).await;
    bench.controller.check_health(super::super::now());
    assert_eq!(bench.outstanding(), 0);
    assert_eq!(bench.controller.status().failures, 2);
    bench.run_well_for(secs(600)).await;
    assert_eq!(bench.workers.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_order_to_a_worker_that_has_ended_since_is_not_reported() {
    let mut bench = Bench::new(2);
    bench.workers.script(1, [Answer::Fails(OrderErrorKind::Rejected)]);
    bench.workers.script(2, [Answer::After(secs(3))]);
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(1)).await;
    bench.finish(1);
    bench.run_well_for(secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn i10_progress_may_be_dropped_at_any_time() {
    let mut bench = Bench::new(5);
    for worker in 1..=5 {
        bench.workers.script(worker, [Answer::After(ms(500 * worker))]);
    }
    bench.controller.begin_stop(GRACEFUL);
    for _ in 0..5000 {
        assert!(!matches!(bench.poll_once(), Some(Err(_))));
        tokio::time::advance(ms(1)).await;
    }
    assert_eq!(bench.outstanding(), 0);
    assert_eq!([1, 2, 3, 4, 5].map(|worker| bench.workers.count(worker, "graceful stop")), [1; 5]);
}

#[tokio::test(start_paused = true)]
async fn i10_retries_and_timeouts_go_on_while_progress_is_dropped() {
    let mut bench = Bench::new(1);
    bench.workers.script(1, [Answer::Never, Answer::Fails(OrderErrorKind::Unreachable), Answer::Ok]);
    bench.controller.begin_stop(GRACEFUL);
    for _ in 0..1000 {
        assert!(!matches!(bench.poll_once(), Some(Err(_))));
        tokio::time::advance(ms(10)).await;
    }
    assert_eq!((bench.workers.count(1, "graceful stop"), bench.outstanding()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn progress_stays_pending_when_there_is_nothing_to_do() {
    let mut bench = Bench::new(1);
    bench.controller.begin_checkpoint(false).unwrap();
    bench.run_well_for(secs(1)).await;
    assert!(tokio::time::timeout(secs(500), send(bench.controller.progress())).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn i11_foreign_events_change_nothing() {
    let mut bench = Bench::new(2);
    bench.workers.script(1, [Answer::Never]);
    bench.controller.begin_stop(GRACEFUL);
    bench.run_well_for(secs(1)).await;
    let before = bench.controller.status();
    let foreign = WorkerEvent::new(RunId::new(4), WorkerId::new(1), Event::TaskFinished { task: task(1) });
    let outcome = bench.controller.handle(foreign, super::super::now());
    assert_eq!(outcome, Err(Rejection::OtherRun { expected: RUN, got: RunId::new(4) }));
    let stranger = WorkerEvent::new(RUN, WorkerId::new(9), Event::WorkerFinished);
    assert!(bench.controller.handle(stranger, super::super::now()).is_err());
    assert_eq!(bench.controller.status(), before);
    assert_eq!(bench.controller.model().counters().rejected.total(), 2);
}
