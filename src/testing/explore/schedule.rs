//! One schedule: a job from its start to its end, with every crash on the way.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use tokio::time::sleep;

use super::{
    collaborators::Simulated,
    environment::{Environment, Stepped},
    report::CanHappen,
    scenario,
    subject::{Setup, Subject},
    world::{JOB, RUN, Shared, Signal, World, lock},
};
use crate::{
    contracts::{Detached, DynCheckpointStore, JobId, OpenRun, Scheduler, StopRequest},
    drive::{Attachment, OnSpentCheckpoint, Policy, RehydrateError, Rehydrated, Unfit, drive, rehydrate},
    limits::Limits,
    machine::{AnyPhase, JobContext, JournalError, Phase, PhaseKind, PhaseRecord, Running, StepError, Visit},
};

/// A schedule with more consecutive controllers than this does not end.
const MOST_ATTEMPTS: u32 = 12;
/// A drive that has given up is retried in a world without further failures.
const MOST_DRIVES: u32 = 5;
const MOMENT: std::time::Duration = std::time::Duration::from_millis(1);

/// How a controller's life ended.
enum Life {
    /// The job has stopped, or a violation was recorded.
    Over,
    /// Another controller has written since: start over from the journal.
    TakenOver,
}

/// Runs the schedule that the world's chooser produces. `edges` counts the taken edges.
pub(super) async fn run<S: Subject>(subject: &S, world: &Shared, edges: &mut [u64]) {
    let scenario = lock(world).scenario;
    let limits = Arc::new(scenario.limits());
    let ask = |sender: &crate::mailbox::JobSender, request| subject.request(sender, request);
    let mut environment = Environment::new(world, &ask);
    for _ in 0..MOST_ATTEMPTS {
        lock(world).begin_attempt();
        let ended = {
            let mut life = pin!(live(subject, world, &limits, edges));
            loop {
                tokio::select! {
                    biased;
                    life = &mut life => break Some(life),
                    stepped = environment.step() => match stepped {
                        Stepped::Acted => {}
                        Stepped::Crashed => break None,
                        Stepped::TooLong => {
                            lock(world).violated("I5", "the schedule does not come to an end");
                            break Some(Life::Over);
                        }
                    },
                }
            }
        };
        let mut world = lock(world);
        world.end_attempt();
        match ended {
            Some(Life::Over) => return,
            Some(Life::TakenOver) => world.note(CanHappen::TakenOver),
            None => note_crash(&mut world),
        }
    }
    lock(world).violated("I7", format!("{MOST_ATTEMPTS} controllers did not stop the job"));
}

fn note_crash(world: &mut World) {
    use CanHappen::{
        CrashBeforeAnyRecord, CrashInCheckpointStopping, CrashInFinishing, CrashInRecovering, CrashInRunning,
        CrashInStopped, CrashInStoppingForce, CrashInStoppingGraceful, CrashInStoppingImmediate,
    };
    world.note(match world.phase_on_record() {
        None => CrashBeforeAnyRecord,
        Some(PhaseKind::Running) => CrashInRunning,
        Some(PhaseKind::Finishing) => CrashInFinishing,
        Some(PhaseKind::Recovering) => CrashInRecovering,
        Some(PhaseKind::CheckpointStopping) => CrashInCheckpointStopping,
        Some(PhaseKind::StoppingGraceful) => CrashInStoppingGraceful,
        Some(PhaseKind::StoppingImmediate) => CrashInStoppingImmediate,
        Some(PhaseKind::StoppingForce) => CrashInStoppingForce,
        Some(_) => CrashInStopped,
    });
    let Some(epoch) = world.record.as_ref().and_then(|record| record.final_epoch) else { return };
    if !world.has_manifest(epoch) {
        world.note(CanHappen::CrashDuringFinalCheckpoint);
    } else if world.tasks.iter().any(|task| task.has_commits && task.committed < Some(epoch)) {
        world.note(CanHappen::CrashBeforeCommit);
    }
}

/// One controller: continues from the record of the previous one, and drives the job.
async fn live<S: Subject>(subject: &S, world: &Shared, limits: &Arc<Limits>, edges: &mut [u64]) -> Life {
    let simulated = Simulated(Arc::clone(world));
    let driver = Driver { world, limits, edges };
    let Ok(taken_up) = take_up(subject, &simulated, limits).await else { return Life::Over };
    let Some(rehydrated) = taken_up else {
        let open = OpenRun::without_store(JOB, RUN);
        let builder = JobContext::builder(&open).limits(Arc::clone(limits)).simulated();
        let builder = builder.journal(subject.journal(simulated.clone()));
        let controller = subject.controller(setup(&simulated, limits, open));
        return match builder.build(controller, subject.scheduler(simulated)) {
            Ok((job, running)) => driver.go(job, running.into(), None).await,
            Err(error) => refused(world, &error),
        };
    };
    let record = rehydrated.record().clone();
    if record.phase == PhaseKind::CheckpointStopping && rehydrated.phase() == PhaseKind::StoppedCheckpointed {
        lock(world).note(CanHappen::CheckpointedFromStore);
    }
    resume(subject, driver, record, rehydrated, &simulated).await
}

async fn resume<S: Subject>(
    subject: &S,
    driver: Driver<'_>,
    record: PhaseRecord,
    rehydrated: Rehydrated<S::Scheduler>,
    simulated: &Simulated,
) -> Life {
    let is_detached = lock(driver.world).scenario.detached;
    if is_detached {
        return match rehydrated.build(Detached).await {
            Ok((job, phase)) => driver.go(job, phase, Some(&record)).await,
            Err(unfit) => not_built(driver.world, &unfit),
        };
    }
    let controller = subject.controller(setup(simulated, driver.limits, rehydrated.open().clone()));
    match rehydrated.build(controller).await {
        Ok((job, phase)) => driver.go(job, phase, Some(&record)).await,
        Err(unfit) => not_built(driver.world, &unfit),
    }
}

/// A further query was not answered: the next controller continues from the record.
fn not_built(world: &Shared, unfit: &Unfit) -> Life {
    if matches!(unfit, Unfit::Scheduler(_) | Unfit::StillAlive { .. }) {
        return Life::TakenOver;
    }
    refused(world, unfit)
}

fn refused(world: &Shared, error: &dyn std::fmt::Display) -> Life {
    lock(world).violated("I7", format!("the job could not be built: {error}"));
    Life::Over
}

fn setup(world: &Simulated, limits: &Arc<Limits>, open: OpenRun) -> Setup {
    Setup { open, topology: scenario::topology(), world: world.clone(), limits: (**limits).clone() }
}

async fn take_up<S: Subject>(
    subject: &S,
    world: &Simulated,
    limits: &Arc<Limits>,
) -> Result<Option<Rehydrated<S::Scheduler>>, ()> {
    let (job, topology) = (JobId::from(JOB), scenario::topology());
    loop {
        let (journal, scheduler) = (subject.journal(world.clone()), subject.scheduler(world.clone()));
        let store: Arc<dyn DynCheckpointStore> = Arc::new(world.clone());
        let error: RehydrateError =
            match rehydrate(&job, journal, scheduler, Some((store, &topology)), Arc::clone(limits)).await {
                Ok(rehydrated) => return Ok(rehydrated.map(Rehydrated::simulated)),
                Err(error) => error,
            };
        // A person has followed the advice of the error.
        if matches!(error.unfit(), Unfit::StillAlive { .. }) {
            lock(&world.0).bury();
            continue;
        }
        // A refusal need not be permanent: a person has fixed the cause.
        if !matches!(error.unfit(), Unfit::Journal(_) | Unfit::Scheduler(_) | Unfit::Store(_)) {
            lock(&world.0).violated("I7", format!("what was written down can't be taken up: {error}"));
            return Err(());
        }
        sleep(MOMENT).await;
    }
}

struct Driver<'a> {
    world: &'a Shared,
    limits: &'a Arc<Limits>,
    edges: &'a mut [u64],
}

impl Driver<'_> {
    async fn go<C: Attachment, S: Scheduler>(
        self,
        mut job: JobContext<C, S>,
        mut phase: AnyPhase,
        record: Option<&PhaseRecord>,
    ) -> Life {
        let replayed = job.walked().len() - 1;
        let mut policy = {
            let mut world = lock(self.world);
            (world.sender, world.progress) = (Some(job.sender()), Some(job.progress()));
            world.scenario.policy()
        };
        let mut gave_back = false;
        for _ in 0..MOST_DRIVES {
            let (from, started) = (phase.kind(), lock(self.world).now());
            let driven = drive_unless_dropped(self.world, phase, &mut job, &policy).await;
            let mut world = lock(self.world);
            let Some(driven) = driven else {
                let Some(parked) = job.take_parked() else {
                    world.violated("I10", format!("a drive from {from} was dropped, and the phase is lost"));
                    return Life::Over;
                };
                phase = parked;
                continue;
            };
            self.check_time(&mut world, job.walked(), replayed, (from, started), &policy);
            match driven {
                Ok(receipt) => {
                    world.check_requests(receipt.requested(), receipt.may_restart());
                    world.check_end(receipt.stopped(), record);
                    if gave_back {
                        world.note(CanHappen::DriveGaveBack);
                    }
                    count_edges(&job.walked()[replayed..], self.edges);
                    return Life::Over;
                }
                Err(error) => {
                    let (given, failure) = error.into_parts();
                    if given.kind() != job.phase() {
                        world.violated("I6", format!("{} was given back by a job in {}", given.kind(), job.phase()));
                    }
                    world.is_healed = true;
                    if matches!(*failure, StepError::Journal(JournalError::Conflict { .. })) {
                        return Life::TakenOver;
                    }
                    (phase, policy, gave_back) = (given, Policy::escalate().jitter_seed(1), true);
                }
            }
        }
        lock(self.world).violated("I6", format!("{MOST_DRIVES} drives did not stop the job, though nothing was wrong"));
        Life::Over
    }

    /// I5, counted from where this drive left `Running`, or from the last request that was stronger
    /// than the one in effect.
    fn check_time(
        &self,
        world: &mut World,
        walked: &[Visit],
        replayed: usize,
        (from, started): (PhaseKind, u64),
        policy: &Policy,
    ) {
        if policy.on_spent_checkpoint == OnSpentCheckpoint::KeepTrying && world.asked != Some(StopRequest::Force) {
            return;
        }
        let left = walked[replayed..].iter().find(|visit| visit.phase != Running::KIND);
        let (mut phase, mut since) = match left {
            Some(left) if from == Running::KIND => (left.phase, world.ms_of(left.entered)),
            _ => (from, started),
        };
        if world.last_asked_at > since {
            since = world.last_asked_at;
            phase = if world.asked == Some(StopRequest::Force) { PhaseKind::StoppingForce } else { PhaseKind::Running };
        }
        if phase == Running::KIND && left.is_none() {
            return;
        }
        // One for each phase entered since (the end is one of them), and one for the epoch of a
        // final checkpoint.
        let since_at = world.at(since);
        let left_since = |next: Option<&Visit>| next.is_none_or(|next| next.entered >= since_at);
        let walked = &walked[replayed..];
        let entered = (0..walked.len()).filter(|at| left_since(walked.get(at + 1))).map(|at| walked[at].phase);
        let takes_checkpoint = |kind| matches!(kind, PhaseKind::CheckpointStopping | PhaseKind::Finishing);
        let records = entered.map(|kind| 1 + u32::from(takes_checkpoint(kind))).sum();
        world.check_time(self.limits, since, phase, records);
    }
}

/// Drives, until the environment drops the drive.
async fn drive_unless_dropped<C: Attachment, S: Scheduler>(
    world: &Shared,
    phase: AnyPhase,
    job: &mut JobContext<C, S>,
    policy: &Policy,
) -> Option<Result<crate::drive::Receipt, crate::drive::DriveError>> {
    let mut driving = pin!(drive(phase, job, policy));
    poll_fn(|cx| {
        if let Poll::Ready(driven) = driving.as_mut().poll(cx) {
            return Poll::Ready(Some(driven));
        }
        let dropped = lock(world).signal.take_if(|signal| *signal == Signal::Drop);
        if dropped.is_some() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

fn count_edges(walked: &[Visit], edges: &mut [u64]) {
    for step in walked.windows(2) {
        let taken =
            crate::machine::EDGES.iter().position(|edge| (edge.from, edge.to) == (step[0].phase, step[1].phase));
        if let Some(count) = taken.and_then(|at| edges.get_mut(at)) {
            *count += 1;
        }
    }
}
