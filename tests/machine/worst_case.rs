//! Invariant I5: the worst case of a shutdown is a formula of the limits, and whoever misbehaves,
//! it holds.

use std::time::Duration;

use crate::support::*;
use tokio::time::Instant;
use winddown::{AnyPhase, Limits, PhaseKind, Policy, contracts::WorkerStopMode, drive, drive::OnSpentCheckpoint};

const POLICIES: [OnSpentCheckpoint; 2] = [OnSpentCheckpoint::Escalate, OnSpentCheckpoint::GiveBack];

fn policy(on_spent_checkpoint: OnSpentCheckpoint) -> Policy {
    let policy = match on_spent_checkpoint {
        OnSpentCheckpoint::Escalate => Policy::escalate(),
        OnSpentCheckpoint::GiveBack => Policy::give_back(),
        _ => Policy::keep_trying(),
    };
    policy.jitter_seed(1)
}

/// Every way to misbehave, in every phase: drive comes back within the documented worst case.
#[tokio::test(start_paused = true)]
async fn i5_the_worst_case_holds_whoever_never_answers() {
    let answers = [
        SchedulerAnswer::Obeys,
        SchedulerAnswer::Ignores,
        SchedulerAnswer::Unavailable,
        SchedulerAnswer::Hangs,
        SchedulerAnswer::ObeysAfter(secs(29)),
    ];
    for start in
        [PhaseKind::CheckpointStopping, PhaseKind::StoppingGraceful, PhaseKind::StoppingImmediate, PhaseKind::Finishing]
    {
        for on_spent in POLICIES {
            for answer in answers {
                for ends in [true, false] {
                    let elapsed = drive_from(start, on_spent, answer, ends).await;
                    let bound = Limits::default().worst_case(start, on_spent).unwrap();
                    assert!(elapsed <= bound, "{start} {on_spent:?} {answer:?} {ends}: {elapsed:?} > {bound:?}");
                }
            }
        }
    }
}

async fn drive_from(start: PhaseKind, on_spent: OnSpentCheckpoint, answer: SchedulerAnswer, ends: bool) -> Duration {
    let (mut job, running, controller, workers) = job(Limits::default());
    if ends {
        let late = secs(599);
        completes(&controller, late, late);
        for mode in [WorkerStopMode::Graceful, WorkerStopMode::Immediate] {
            controller.on(Told::Stop(mode), secs(59), Does::Finish);
        }
    }
    workers.always(answer);
    let phase: AnyPhase = match start {
        PhaseKind::CheckpointStopping => running.stop_with_checkpoint(&mut job).unwrap().into(),
        PhaseKind::StoppingGraceful => running.stop_gracefully(&mut job).unwrap().into(),
        PhaseKind::StoppingImmediate => running.stop_immediately(&mut job).unwrap().into(),
        _ => running.finish(&mut job).unwrap().into(),
    };
    let begin = Instant::now();
    let _ = drive(phase, &mut job, &policy(on_spent)).await;
    begin.elapsed()
}

/// The formula is not just large: a scheduler that never answers uses all of it but the jitter's
/// slack.
#[tokio::test(start_paused = true)]
async fn i5_the_worst_case_is_reached() {
    let bound = Limits::default().worst_case(PhaseKind::StoppingGraceful, OnSpentCheckpoint::GiveBack).unwrap();
    let elapsed =
        drive_from(PhaseKind::StoppingGraceful, OnSpentCheckpoint::GiveBack, SchedulerAnswer::Hangs, false).await;
    assert!(elapsed >= Limits::FINISH + Limits::default().kill * 21, "{elapsed:?}");
    assert!(elapsed >= bound / 2, "{elapsed:?} of {bound:?}");
}

#[test]
fn i5_the_worst_case_is_the_documented_formula() {
    let limits = Limits { scheduler_retries: 3, backoff_min: secs(10), backoff_max: secs(25), ..Limits::default() };
    let force = 4 * 30 + 2 * (10 + 20 + 25);
    let cases = [
        (PhaseKind::StoppingForce, force),
        (PhaseKind::StoppingImmediate, 60 + 10 + force),
        (PhaseKind::Recovering, 5 + 10 + force),
        (PhaseKind::CheckpointStopping, 600 + 60 + 10 + force),
        (PhaseKind::Finishing, 600 + 60 + 10 + force),
        (PhaseKind::Running, 600 + 60 + 10 + force),
        (PhaseKind::StoppedKilled, 0),
    ];
    for (phase, seconds) in cases {
        assert_eq!(limits.worst_case(phase, OnSpentCheckpoint::Escalate), Some(secs(seconds)), "{phase}");
    }
    assert_eq!(limits.worst_case(PhaseKind::CheckpointStopping, OnSpentCheckpoint::KeepTrying), None);
}

/// Whatever the limits are, the formulas give a time, and no overflow.
#[test]
fn b13_the_worst_case_of_extreme_limits_is_a_time() {
    let extremes = [Duration::ZERO, Duration::from_nanos(1), secs(60), Duration::MAX];
    for wait in extremes {
        for backoff in extremes {
            for retries in [0, 1, 10, 1 << 31, u32::MAX] {
                let limits = Limits {
                    final_checkpoint: wait,
                    finish: wait,
                    recover: wait,
                    release: wait,
                    kill: wait,
                    journal: wait,
                    backoff_min: backoff,
                    backoff_max: wait,
                    scheduler_retries: retries,
                    journal_retries: retries,
                    ..Limits::default()
                };
                for phase in PhaseKind::ALL {
                    for on_spent in POLICIES {
                        assert!(limits.worst_case(*phase, on_spent).is_some(), "{phase:?}: {limits:?}");
                    }
                }
                assert!(limits.worst_record() >= wait.min(limits.journal));
            }
        }
    }
}
