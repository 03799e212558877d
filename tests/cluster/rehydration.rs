//! Every place in which a controller can die while it drives, and what the next one makes of it:
//! one table. A place without a row fails, and so does a row without a place;
//! `rehydration/awaits.rs` sees to it that no await of the drive is missing among the crash points.

mod awaits;
mod table;

use std::{collections::BTreeSet, time::Duration};

pub(crate) use crate::crash_points::{CrashPoint, Side};
use crate::{
    crash_points::Place,
    numbers::{Ending, Scene},
};
use table::TABLE;
use winddown::{Limits, Policy, Receipt, drive, testing::scripted::request_later};
pub(crate) use winddown::{PhaseKind, StopRequest};

/// What a job goes through before and while its controller dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Story {
    /// The user asks for a stop.
    Asked(StopRequest),
    /// The same with a checkpoint, and the store is away for a while.
    StoreAway,
    /// A kill, and the scheduler is away for a while.
    SchedulerAway,
    /// A kill, and the workers are still there for a moment.
    KillIsSlow,
    /// All input is read.
    InputEnds,
    /// A task fails.
    TaskFails,
}

use Story::{Asked, InputEnds, KillIsSlow, SchedulerAway, StoreAway, TaskFails};

const STORIES: [Story; 9] = [
    Asked(StopRequest::Checkpoint),
    Asked(StopRequest::Graceful),
    Asked(StopRequest::Immediate),
    Asked(StopRequest::Force),
    StoreAway,
    SchedulerAway,
    KillIsSlow,
    InputEnds,
    TaskFails,
];

/// A place, and what follows a death there.
pub(crate) struct Row {
    pub(crate) story: Story,
    pub(crate) phase: PhaseKind,
    pub(crate) point: CrashPoint,
    /// The phase in which the next controller goes on; none where nothing was on record, and the
    /// job starts from `Running`.
    pub(crate) taken_up: PhaseKind,
    /// The evidence that it ends with.
    pub(crate) evidence: &'static str,
}

impl Story {
    fn request(self) -> Option<StopRequest> {
        match self {
            Asked(request) => Some(request),
            StoreAway => Some(StopRequest::Checkpoint),
            SchedulerAway | KillIsSlow => Some(StopRequest::Force),
            InputEnds | TaskFails => None,
        }
    }

    async fn scene(self) -> Scene {
        let ending = match self {
            InputEnds => Ending::Exhausted,
            TaskFails => Ending::Fails,
            _ => Ending::Never,
        };
        // A periodic checkpoint completes before the user asks.
        let limits = Limits { checkpoint_every: Some(Duration::from_millis(5)), ..Limits::default() };
        let scene = Scene::new(true, ending, limits).await;
        match self {
            StoreAway => scene.watch.fail(CrashPoint::Publish(Side::Before), 2),
            SchedulerAway => scene.watch.fail(CrashPoint::Kill(Side::Before), 2),
            KillIsSlow => scene.watch.fail(CrashPoint::List(Side::After), 1),
            _ => {}
        }
        scene
    }
}

/// Drives until the end, or until the controller dies at `fatal`.
async fn live(scene: &Scene, fatal: Option<Place>, request: Option<StopRequest>) -> (PhaseKind, Option<Receipt>) {
    let (mut job, phase) = scene.take_up(fatal).await;
    if let Some(request) = request {
        request_later(&job, Duration::from_millis(20), request);
    }
    let taken_up = phase.kind();
    let policy = Policy::escalate().jitter_seed(1);
    let driven = scene.watch.until_death(drive(phase, &mut job, &policy)).await;
    scene.hang_up();
    (taken_up, driven.map(Result::unwrap))
}

/// What follows a death at this place.
async fn after_death(story: Story, place: Place) -> (PhaseKind, &'static str) {
    let scene = story.scene().await;
    let (_, receipt) = live(&scene, Some(place), story.request()).await;
    assert!(receipt.is_none(), "{story:?}: the controller did not die at {place:?}");
    // For a while nobody controls the workers. A user whose request died with the controller that
    // had it asks again.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let asked = scene.journal.records().last().and_then(winddown::journal::PhaseRecord::requested);
    let (taken_up, receipt) = live(&scene, None, story.request().filter(|_| asked.is_none())).await;
    let receipt = receipt.unwrap();
    scene.check(&receipt).await;
    assert_eq!(receipt.may_restart(), story.request().is_none(), "I8");
    (taken_up, receipt.stopped().name())
}

#[tokio::test(start_paused = true)]
async fn i7_every_phase_and_crash_point_has_a_row_and_is_taken_up_as_it_says() {
    let mut wrong = Vec::new();
    let mut phases = BTreeSet::new();
    for story in STORIES {
        let scene = story.scene().await;
        let (_, receipt) = live(&scene, None, story.request()).await;
        scene.check(&receipt.unwrap()).await;
        let reached = scene.watch.reached();
        for place in &reached {
            phases.insert(place.0);
            let (taken_up, evidence) = after_death(story, *place).await;
            let row = TABLE.iter().find(|row| (row.story, (row.phase, row.point)) == (story, *place));
            if row.is_none_or(|row| (row.taken_up, row.evidence) != (taken_up, evidence)) {
                wrong.push(format!(
                    "row({story:?}, {:?}, {:?}, {taken_up:?}, \"{evidence}\"),  // {}",
                    place.0,
                    place.1,
                    row.map_or_else(|| "no row".to_owned(), |row| format!("{:?}, {}", row.taken_up, row.evidence)),
                ));
            }
        }
        for row in TABLE.iter().filter(|row| row.story == story && !reached.contains(&(row.phase, row.point))) {
            wrong.push(format!(
                "{story:?}: nobody comes to {:?} in {} any more: its row is out of date",
                row.point, row.phase
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "what follows a death is not what tests/cluster/rehydration/table.rs says:\n{}",
        wrong.join("\n")
    );
    let missing: Vec<_> = PhaseKind::ALL.iter().filter(|kind| !kind.is_terminal() && !phases.contains(kind)).collect();
    assert!(missing.is_empty(), "no controller dies in {missing:?}: a phase without a row");
}
