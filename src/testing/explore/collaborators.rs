//! The collaborators of the code under test: a transport, a store, a scheduler and a journal of one
//! simulated world. Every call is a choice.

use std::{future::pending, time::Duration};

use tokio::time::sleep;

use super::{
    digest::digest,
    late::{LATE_WORKER, Late},
    report::CanHappen,
    state::digest_of_command,
    world::{Effect, JOB, RUN, Refusal, Shared, Signal, World, lock},
};
use crate::{
    contracts::{
        CheckpointStore, JobId, Manifest, OpenRun, Order, OrderError, OrderErrorKind, RunId, Scheduler, SchedulerError,
        StoreError, Transport, WorkerId,
    },
    machine::{Journal, JournalError, PhaseRecord},
};

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fate {
    /// It takes effect, and is answered.
    Done,
    /// It has no effect, and the answer is a retryable error.
    Error,
    /// It takes effect, but the answer is an error.
    DoneAndError,
    /// It has no effect, and the error is permanent.
    Refused,
    /// It has no effect, and is never answered.
    Silence,
    /// It takes effect, but is never answered.
    DoneAndSilence,
    /// It takes effect, and is answered late, but in time.
    LateAnswer,
    /// It takes effect when the caller no longer waits.
    DoneTooLate,
    /// It is answered as if it had taken effect.
    Ignored,
    /// The controller dies before it takes effect.
    CrashBefore,
    /// The controller dies before it gets the answer.
    CrashAfter,
    /// The controller dies, and then it takes effect.
    CrashAndDone,
    /// It can't look, and so says of nobody that it is gone.
    Blind,
}

use Fate::{
    Blind, CrashAfter, CrashAndDone, CrashBefore, Done, DoneAndError, DoneAndSilence, DoneTooLate, Error, Ignored,
    LateAnswer, Refused, Silence,
};

const OF_ORDERS: &[Fate] =
    &[Done, Error, Refused, Silence, DoneAndSilence, LateAnswer, DoneTooLate, CrashBefore, CrashAfter, CrashAndDone];
const OF_DEAD_WORKERS: &[Fate] = &[Error, Silence];
const OF_WRITES: &[Fate] = &[
    Done,
    Error,
    DoneAndError,
    Refused,
    Silence,
    DoneAndSilence,
    LateAnswer,
    DoneTooLate,
    CrashBefore,
    CrashAfter,
    CrashAndDone,
];
const OF_STOPS: &[Fate] =
    &[Done, Error, DoneAndError, Refused, Silence, LateAnswer, DoneTooLate, Ignored, CrashBefore, CrashAfter];
const OF_READS: &[Fate] = &[Done, Error, Refused, Silence, LateAnswer, CrashBefore];
const OF_LISTS: &[Fate] = &[Done, Error, Refused, Silence, LateAnswer, CrashBefore, Blind];

/// How long a late answer takes: less than every limit. Virtual milliseconds, as everywhere here.
const LATE: u64 = 3;
/// When the calls of a crashed controller take effect.
const AFTER_CRASH: u64 = 2;

/// When a late call takes effect: after the call's limit.
const fn too_late(effect: &Effect) -> u64 {
    match effect {
        Effect::Order(..) | Effect::Write(_) => 7,
        Effect::StopWorkers { .. } => 13,
        Effect::Publish(_) => 38,
    }
}

/// One simulated world, as a [`Transport`], a [`CheckpointStore`], a [`Scheduler`] and a
/// [`Journal`] for one job's run.
#[derive(Clone, Debug)]
pub struct Simulated(pub(super) Shared);

/// A call in progress, which is part of the state meanwhile.
struct UnderWay<'a>(&'a Shared, (u8, u64));

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut world = lock(self.0);
        if let Some(position) = world.calls.iter().position(|call| *call == self.1) {
            world.calls.remove(position);
        }
    }
}

enum Failed {
    /// A temporary failure of the whole world.
    World(Refusal),
    /// A temporary or permanent failure of this call.
    Call { for_ever: bool },
}

impl Simulated {
    /// Whether the job has this checkpoint store.
    pub fn has_store(&self) -> bool {
        lock(&self.0).scenario.has_store
    }

    fn choose(&self, what: u8, fates: &[Fate]) -> (Fate, UnderWay<'_>) {
        let mut world = lock(&self.0);
        let fate = world.choose(fates);
        let call = (what ^ ((fate as u8) << 4), world.now());
        world.calls.push(call);
        (fate, UnderWay(&self.0, call))
    }

    async fn act(&self, what: u8, fates: &[Fate], effect: Effect) -> Result<(), Failed> {
        let (fate, _under_way) = self.choose(what, fates);
        self.note_crash(fate);
        let apply = |effect: &Effect| lock(&self.0).apply(effect).map_err(Failed::World);
        match fate {
            Done => apply(&effect),
            Error => Err(Failed::Call { for_ever: false }),
            DoneAndError => apply(&effect).and(Err(Failed::Call { for_ever: false })),
            Refused => Err(Failed::Call { for_ever: true }),
            Silence => pending().await,
            DoneAndSilence => {
                let _ = apply(&effect);
                pending().await
            }
            LateAnswer => {
                let answer = apply(&effect);
                sleep(Duration::from_millis(LATE)).await;
                answer
            }
            DoneTooLate => {
                let wait = too_late(&effect);
                self.put_off(effect, wait);
                pending().await
            }
            Ignored | Blind => Ok(()),
            CrashBefore => self.crash().await,
            CrashAfter => {
                let _ = apply(&effect);
                self.crash().await
            }
            CrashAndDone => {
                self.put_off(effect, AFTER_CRASH);
                self.crash().await
            }
        }
    }

    async fn read<T>(&self, what: u8, read: impl FnOnce(&mut World) -> T) -> Result<T, Failed> {
        self.look(what, OF_READS, |world, _| read(world)).await
    }

    /// As [`read`](Self::read), which is told whether it can't look.
    async fn look<T>(&self, what: u8, fates: &[Fate], read: impl FnOnce(&mut World, bool) -> T) -> Result<T, Failed> {
        let (fate, _under_way) = self.choose(what, fates);
        let read = |world: &mut World| read(world, fate == Blind);
        self.note_crash(fate);
        match fate {
            Error => Err(Failed::Call { for_ever: false }),
            Refused => Err(Failed::Call { for_ever: true }),
            Silence => pending().await,
            CrashBefore => self.crash().await,
            LateAnswer => {
                let answer = read(&mut lock(&self.0));
                sleep(Duration::from_millis(LATE)).await;
                Ok(answer)
            }
            _ => Ok(read(&mut lock(&self.0))),
        }
    }

    /// The workers whose start is in flight. The scheduler lists them.
    pub fn starts_in_flight(&self) -> Vec<WorkerId> {
        let is_in_flight = lock(&self.0).late_worker == Late::InFlight;
        is_in_flight.then_some(LATE_WORKER).into_iter().collect()
    }

    /// Whether the last list of workers could not look, and so named them all.
    pub fn could_not_look(&self) -> bool {
        lock(&self.0).was_blind
    }

    /// Stops the workers that are there as [`Scheduler::stop_workers`] does, and lets starts that
    /// are in flight go on, which it does not.
    ///
    /// # Errors
    /// As [`Scheduler::stop_workers`].
    ///
    /// # Cancel safety
    /// As [`Scheduler::stop_workers`].
    pub async fn stop_those_that_are_there(
        &self,
        job: &JobId,
        run: Option<RunId>,
        force: bool,
    ) -> Result<(), SchedulerError> {
        {
            let mut world = lock(&self.0);
            if !world.check_stop(job, run, force) && run != Some(RUN) {
                world.neighbour_is_alive = false;
            }
        }
        self.act(5, OF_STOPS, Effect::StopWorkers { force }).await.map_err(scheduler_error)
    }

    fn put_off(&self, effect: Effect, wait: u64) {
        let mut world = lock(&self.0);
        let due = world.now() + wait;
        world.late.push((due, effect));
        world.note(CanHappen::EffectAfterItsTime);
    }

    fn note_crash(&self, fate: Fate) {
        if matches!(fate, CrashBefore | CrashAfter | CrashAndDone) {
            lock(&self.0).signal = Some(Signal::Crash);
        }
    }

    /// The process dies here: the runner sees the signal once this call has been polled.
    async fn crash<T>(&self) -> T {
        pending().await
    }
}

impl Transport for Simulated {
    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        let at = World::index_of(worker);
        let is_reachable = {
            let mut world = lock(&self.0);
            world.check_order(at, order.run, &order.command);
            // The number of attempts is part of the state.
            world.sent = world.sent.wrapping_add(digest(&(at, digest_of_command(&order.command))));
            !(world.workers[at].is_dead || world.workers[at].is_frozen)
        };
        let fates = if is_reachable { OF_ORDERS } else { OF_DEAD_WORKERS };
        let error = |kind| Err(OrderError::new(kind, ""));
        match self.act(1 + u8::from(at % 2 == 1), fates, Effect::Order(at, order.command)).await {
            Ok(()) => Ok(()),
            Err(Failed::World(Refusal::Order(kind))) => error(kind),
            Err(Failed::Call { for_ever: true }) => error(OrderErrorKind::Rejected),
            Err(_) => error(OrderErrorKind::Unreachable),
        }
    }
}

impl CheckpointStore for Simulated {
    async fn open_run(&self, _: &JobId) -> Result<OpenRun, StoreError> {
        let manifest = lock(&self.0).manifests.last().cloned();
        Ok(OpenRun::new(JOB, RUN.next(), manifest)?)
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        match self.act(3, OF_WRITES, Effect::Publish(manifest.clone())).await {
            Ok(()) => Ok(()),
            Err(Failed::World(Refusal::Store(error))) => Err(error),
            Err(Failed::Call { for_ever: true }) => {
                lock(&self.0).note(CanHappen::Fenced);
                Err(StoreError::Fenced { job: manifest.job.clone(), run: manifest.run, newer: manifest.run.next() })
            }
            Err(_) => Err(StoreError::Unavailable("".into())),
        }
    }

    async fn latest(&self, _: &JobId) -> Result<Option<Manifest>, StoreError> {
        match self.read(4, |world| world.manifests.last().cloned()).await {
            Ok(latest) => Ok(latest),
            Err(_) => Err(StoreError::Unavailable("".into())),
        }
    }
}

impl Scheduler for Simulated {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        if force {
            lock(&self.0).fence();
        }
        self.stop_those_that_are_there(job, run, force).await
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let look = |world: &mut World, is_blind| {
            world.was_blind = is_blind;
            if is_blind {
                world.note(CanHappen::BlindList);
            }
            world.late_was_listed |= world.late_worker != Late::NotCalled;
            if is_blind { vec![World::worker_id(0), World::worker_id(1)] } else { world.alive() }
        };
        self.look(6, OF_LISTS, look).await.map_err(scheduler_error)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is an argument of `map_err`")]
fn scheduler_error(failed: Failed) -> SchedulerError {
    match failed {
        Failed::Call { for_ever: true } => SchedulerError::Refused("".into()),
        _ => SchedulerError::Unavailable("".into()),
    }
}

impl Journal for Simulated {
    async fn load(&self, _: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        match self.read(7, |world| world.record.clone()).await {
            Ok(record) => Ok(record),
            Err(_) => Err(JournalError::Unavailable("".into())),
        }
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        match self.act(8, OF_WRITES, Effect::Write(record.clone())).await {
            Ok(()) => Ok(()),
            Err(Failed::World(Refusal::Journal(error))) => Err(error),
            Err(Failed::Call { for_ever: true }) => Err(JournalError::Corrupt {
                job: record.job.clone(),
                place: String::new(),
                expected: String::new(),
                got: String::new(),
            }),
            Err(_) => Err(JournalError::Unavailable("".into())),
        }
    }
}
