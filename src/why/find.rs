//! Finds out who holds a stop up.

use std::time::Duration;

use tokio::time::Instant;

use super::{Culprit, Escalation, Loss, Undone, Who, Why};
use crate::{
    contracts::{Awaited, CheckpointStage, FinalCheckpoint, Holdups, StopRequest, WorkerId},
    machine::{Call, PhaseKind, Progress, ReasonKind, Trouble},
};

pub(super) fn why(progress: &Progress, now: Instant) -> Why {
    let ago = |since: Instant| now.saturating_duration_since(since);
    let limit = progress.deadline.and_then(|_| limit(progress)).map(Into::into);
    let is_waiting = progress.phase != PhaseKind::Running && !progress.phase.is_terminal();
    let mut culprits = Vec::new();
    if is_waiting || progress.call().is_some() || progress.trouble().is_some() {
        calls(progress, &ago, &mut culprits);
    }
    if is_waiting {
        if let Some(holdups) = progress.holdups() {
            let ago = |since: std::time::Instant| now.into_std().saturating_duration_since(since);
            of_run(holdups, &ago, &mut culprits);
        }
        leavers(progress, &ago, &mut culprits);
    }
    Why {
        phase: progress.phase,
        elapsed: ago(progress.since),
        limit,
        left: progress.deadline.map(|deadline| deadline.saturating_duration_since(now)),
        culprits,
        escalations: escalations(progress),
    }
}

fn culprit(who: Who, what: Undone, since: Option<Duration>) -> Culprit {
    Culprit { who, what, since, failed: 0, error: None, others: None }
}

/// The field of `Limits` that the phase's present deadline comes from.
fn limit(progress: &Progress) -> Option<&'static str> {
    let is_releasing = has_ended(progress) && progress.alive.is_some();
    Some(match progress.phase {
        PhaseKind::Running => "ttl",
        PhaseKind::StoppingForce => "kill",
        _ if is_releasing => "release",
        PhaseKind::Finishing | PhaseKind::CheckpointStopping => "final_checkpoint",
        PhaseKind::StoppingGraceful | PhaseKind::StoppingImmediate => "finish",
        PhaseKind::Recovering => "recover",
        _ => return None,
    })
}

fn has_ended(progress: &Progress) -> bool {
    progress.status.tasks.total > 0 && progress.status.all_ended()
}

/// What the machine itself waits for, or has failed at.
fn calls(progress: &Progress, ago: &impl Fn(Instant) -> Duration, culprits: &mut Vec<Culprit>) {
    let who = |call| if call == Call::Journal { Who::Journal } else { Who::Scheduler };
    if let Some(trouble) = progress.trouble() {
        culprits.extend(troubled(trouble, ago));
    }
    if let Some((call, since)) = progress.call() {
        match culprits.iter_mut().find(|known| known.who == who(call)) {
            Some(known) => known.what = Undone::Answer(call.name().into()),
            None => culprits.push(culprit(who(call), Undone::Answer(call.name().into()), Some(ago(since)))),
        }
    }
}

/// Who made the phase fail.
fn troubled(trouble: &Trouble, ago: &impl Fn(Instant) -> Duration) -> Vec<Culprit> {
    let reason = &trouble.reason;
    let (who, what) = match reason.kind() {
        ReasonKind::JournalFailed => (Who::Journal, Undone::Failed("write".into())),
        ReasonKind::SchedulerFailed => (Who::Scheduler, Undone::Failed("call".into())),
        ReasonKind::StoreFailed | ReasonKind::Fenced => (Who::Store, Undone::Failed("publication".into())),
        ReasonKind::NotLeft => (Who::Scheduler, Undone::Leave),
        // The controller knows which worker or task it is.
        ReasonKind::OrderRefused | ReasonKind::Deadline => return Vec::new(),
        _ => (Who::Run, Undone::Failed("run".into())),
    };
    let error = Some(reason.to_string().into());
    let base = Culprit { failed: trouble.times, error, ..culprit(who, what, Some(ago(trouble.since))) };
    if reason.workers().is_empty() {
        return vec![base];
    }
    let of = |worker: &WorkerId| Culprit { who: Who::Worker(*worker), ..base.clone() };
    reason.workers().iter().take(Holdups::LISTED).map(of).collect()
}

/// Whom the run waits for.
fn of_run(holdups: &Holdups, ago: &impl Fn(std::time::Instant) -> Duration, culprits: &mut Vec<Culprit>) {
    let since = holdups.since.map(ago);
    if let (Awaited::Publication(epoch), Some(store)) = (holdups.awaited, &holdups.store) {
        let known = culprit(Who::Store, Undone::Manifest(epoch), Some(ago(store.since)));
        culprits.retain(|culprit| culprit.who != Who::Store);
        culprits.push(Culprit { failed: store.failed, error: store.error.clone(), ..known });
    }
    for worker in holdups.workers.iter().filter(|worker| worker.is_lost) {
        add(culprit(Who::Worker(worker.worker), Undone::Lost(worker.late), Some(ago(worker.last_seen))), culprits);
    }
    let failing = holdups.orders.iter().filter(|order| order.failed > 0);
    for order in failing {
        let of = culprit(Who::Worker(order.worker), Undone::Failed(order.order.into()), Some(ago(order.since)));
        add(Culprit { failed: order.failed, error: order.error.clone(), ..of }, culprits);
    }
    for worker in holdups.workers.iter().filter(|worker| !worker.is_lost) {
        let silent = ago(worker.last_seen);
        if silent > holdups.usual_silence {
            add(culprit(Who::Worker(worker.worker), Undone::Silent(worker.late), Some(silent)), culprits);
        }
    }
    for order in &holdups.orders {
        add(culprit(Who::Worker(order.worker), Undone::Answer(order.order.into()), Some(ago(order.since))), culprits);
    }
    let listed = holdups.orders.len() as u64;
    let more = u64::from(holdups.late_orders).saturating_sub(listed);
    if more > 0 {
        let of = Undone::Answer(holdups.orders.first().map_or("", |order| order.order).into());
        culprits.push(culprit(Who::MoreWorkers(u32::try_from(more).unwrap_or(u32::MAX)), of, None));
    }
    tasks(holdups, since, culprits);
}

fn tasks(holdups: &Holdups, since: Option<Duration>, culprits: &mut Vec<Culprit>) {
    let what = match holdups.awaited {
        Awaited::Snapshots(epoch) => Undone::Snapshot(epoch),
        Awaited::Commits(epoch) => Undone::Commit(epoch),
        Awaited::Ends => Undone::End,
        Awaited::Nothing | Awaited::Publication(_) => return,
    };
    let others = match (holdups.since, holdups.progressed) {
        (Some(since), Some(progressed)) => Some(progressed.saturating_duration_since(since)),
        _ => None,
    };
    for late in &holdups.tasks {
        // Its worker is the culprit, if that is one.
        if !culprits.iter().any(|known| known.who == Who::Worker(late.worker)) {
            let who = Who::Task { task: late.task, operator: late.operator.clone(), worker: late.worker };
            culprits.push(Culprit { others, ..culprit(who, what.clone(), since) });
        }
    }
    let more = u64::from(holdups.late).saturating_sub(holdups.tasks.len() as u64);
    if more > 0 {
        culprits.push(culprit(Who::MoreTasks(u32::try_from(more).unwrap_or(u32::MAX)), what, since));
    }
}

/// Workers whose tasks have ended, and that are still there.
fn leavers(progress: &Progress, ago: &impl Fn(Instant) -> Duration, culprits: &mut Vec<Culprit>) {
    if has_ended(progress) || progress.phase == PhaseKind::StoppingForce {
        for worker in progress.alive_workers() {
            add(culprit(Who::Worker(*worker), Undone::Leave, Some(ago(progress.since))), culprits);
        }
    }
}

/// A culprit is named once, for the most certain thing.
fn add(new: Culprit, culprits: &mut Vec<Culprit>) {
    if !culprits.iter().any(|known| known.who == new.who) {
        culprits.push(new);
    }
}

fn escalations(progress: &Progress) -> Vec<Escalation> {
    if progress.phase.is_terminal() {
        return Vec::new();
    }
    let level = progress.phase.fulfils();
    let stronger = StopRequest::ALL.into_iter().filter(|request| Some(*request) > level);
    stronger.map(|request| Escalation { request, loses: loses(progress, request) }).collect()
}

fn loses(progress: &Progress, request: StopRequest) -> Loss {
    let status = &progress.status;
    let is_milder = progress.phase == PhaseKind::Running && request == StopRequest::Checkpoint;
    match (status.final_checkpoint, status.checkpoint) {
        _ if is_milder || has_ended(progress) => Loss::Nothing,
        (FinalCheckpoint::Complete(epoch), _)
        | (FinalCheckpoint::InFlight(_), CheckpointStage::Committing { epoch, .. }) => Loss::Evidence(epoch),
        (FinalCheckpoint::InFlight(epoch), _)
            if matches!(progress.phase, PhaseKind::Finishing | PhaseKind::CheckpointStopping) =>
        {
            Loss::FinalCheckpoint { epoch, back_to: status.last_complete }
        }
        _ => Loss::Replay(status.last_complete),
    }
}
