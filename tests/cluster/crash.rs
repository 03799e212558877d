//! The controller dies at any moment of a shutdown, and the next one goes on: with real workers
//! that outlive it, the real store, and a journal. Whatever the moment, every number is published
//! once, there is at most one final epoch, and the evidence is the same or less.

use std::time::Duration;

use crate::numbers::{Ending, Scene};
use winddown::{Limits, Policy, Receipt, StopRequest, drive, testing::scripted::request_later};

/// Lets a controller drive for so long, then lets it die with all that it knows. The user asks in
/// the 20th millisecond of the first.
async fn drive_for(scene: &Scene, time: Duration, request: Option<StopRequest>) -> Option<Receipt> {
    let (mut job, phase) = scene.take_up(None).await;
    if let Some(request) = request {
        request_later(&job, ASKED, request);
    }
    let driven = tokio::time::timeout(time, drive(phase, &mut job, &Policy::escalate())).await;
    scene.hang_up();
    driven.ok().map(Result::unwrap)
}

const ASKED: Duration = Duration::from_millis(20);

fn strength(evidence: &str) -> usize {
    ["killed", "halted", "drained", "checkpointed"].iter().position(|name| *name == evidence).unwrap()
}

/// The controller dies after each of `lives`; the last one brings the job to its end.
async fn with_lives(request: StopRequest, commits: bool, lives: &[Duration]) -> (&'static str, usize) {
    let scene = Scene::new(commits, Ending::Never, Limits::default()).await;
    let mut asked = Some(request);
    let mut receipt = None;
    let mut crashes = 0;
    for life in lives.iter().copied().chain([Duration::from_secs(3600)]) {
        receipt = drive_for(&scene, life, asked).await;
        // A user whose request died with the controller that had it asks again.
        asked = asked.filter(|_| scene.journal.records().last().is_none_or(|record| record.requested().is_none()));
        if receipt.is_some() {
            break;
        }
        crashes += 1;
        // For a while nobody controls the workers.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let receipt = receipt.unwrap();
    assert!(!receipt.may_restart(), "I8");
    scene.check(&receipt).await;
    (receipt.stopped().name(), crashes)
}

#[tokio::test(start_paused = true)]
async fn i7_a_controller_may_die_at_any_moment_and_the_next_one_finishes_with_the_same_evidence_or_less() {
    for request in StopRequest::ALL {
        for commits in [true, false] {
            let (whole, _) = with_lives(request, commits, &[]).await;
            let mut seen = std::collections::BTreeMap::<_, u32>::new();
            for life in 0..60_u64 {
                let life = Duration::from_millis(life) + Duration::from_micros(500);
                let (evidence, crashes) = with_lives(request, commits, &[life]).await;
                assert!(strength(evidence) <= strength(whole), "{evidence} is more than {whole} ({request}, {life:?})");
                *seen.entry((evidence, crashes)).or_default() += 1;
            }
            assert!(
                seen.contains_key(&(whole, 1)),
                "{request}, commits: {commits}: no crash is survived with all: {seen:?}"
            );
            println!("{request:<10} commits: {commits:<5} {seen:?}");
        }
    }
}

/// Two crashes, the second one anywhere in the second life.
#[tokio::test(start_paused = true)]
async fn i7_and_die_again() {
    for first in (21..40).step_by(3) {
        for second in 0..20 {
            let lives = [Duration::from_millis(first), Duration::from_millis(second)];
            with_lives(StopRequest::Checkpoint, true, &lives).await;
        }
    }
}
