//! Everything that happens to a job from outside: reports of workers, requests, and failures. Every
//! step is a choice.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use super::{
    late::Late,
    report::CanHappen,
    scenario::Opening,
    state::digest_of_event,
    world::{End, Item, Pending, RUN, Shared, Signal, World, lock},
};
use crate::{
    contracts::{Epoch, Event, RunId, StopRequest, TaskError, TaskId, WorkerEvent, WorkerId},
    drive::OnSpentCheckpoint,
    machine::PhaseKind,
    mailbox::JobSender,
};

/// Virtual milliseconds.
const HEARTBEAT_EVERY: u64 = 5;
const OPENING_AFTER: u64 = 2;
/// If nothing changes, choices continue for this long after the last change.
const QUIET_CHOICES: [u64; 4] = [1, 4, 9, 24];
const DELAY: u64 = 15;
/// A job that is not stopped gets a stop request after this time, and a force request after twice
/// that.
const RESCUE_AFTER: u64 = 150;
/// No schedule takes longer than this, whatever goes wrong in it.
const TOO_LONG: u64 = 4000;

/// What the environment will do by itself, and what it has done. Part of the state.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Agenda {
    last_step: u64,
    next_heartbeat: u64,
    opening_at: Option<u64>,
    has_opened: bool,
    rescue_at: Option<u64>,
    rescues: u8,
    changed_at: u64,
    seen_version: u64,
    pub(super) quiet_choices: usize,
    pub(super) strongest_sent: Option<u8>,
    /// When a worker appeared after the last one had gone.
    pub(super) appeared_at: Option<u64>,
}

/// The next possible actions of the environment. The first possible one is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The `n`th message in flight arrives.
    Arrive(usize),
    Nothing,
    /// The first message in flight arrives, and will arrive again.
    ArriveTwice,
    /// The first message in flight takes longer.
    Delay,
    Ask(StopRequest),
    Crash,
    Drop,
    Die(usize),
    Freeze(usize),
    Fail(usize),
    /// A worker appears after the last one had gone, for example one that was started late.
    Appear,
    Strangers,
    Exhaust,
    /// A worker's start is called.
    Start,
}

pub(super) enum Stepped {
    Acted,
    Crashed,
    TooLong,
}

/// How stop requests reach the job.
pub(super) type Ask<'a> = &'a dyn Fn(&JobSender, StopRequest);

pub(super) struct Environment<'a> {
    world: &'a Shared,
    ask: Ask<'a>,
    timer: Pin<Box<Sleep>>,
}

impl<'a> Environment<'a> {
    pub(super) fn new(world: &'a Shared, ask: Ask<'a>) -> Self {
        Self { world, ask, timer: Box::pin(sleep(Duration::ZERO)) }
    }

    /// Waits for the next thing to happen, and makes it happen.
    pub(super) async fn step(&mut self) -> Stepped {
        poll_fn(|cx| self.poll_step(cx)).await
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Stepped> {
        let mut world = lock(self.world);
        loop {
            if world.signal.take_if(|signal| *signal == Signal::Crash).is_some() {
                return Poll::Ready(Stepped::Crashed);
            }
            let now = world.now();
            if now > TOO_LONG {
                return Poll::Ready(Stepped::TooLong);
            }
            if world.agenda.seen_version != world.version {
                (world.agenda.seen_version, world.agenda.changed_at) = (world.version, now);
            }
            let wake = world.next_wake();
            if wake <= now {
                world.tick(now, self.ask);
                if world.signal != Some(Signal::Crash) {
                    return Poll::Ready(Stepped::Acted);
                }
                continue;
            }
            let wake: Instant = world.at(wake);
            if self.timer.deadline() != wake {
                self.timer.as_mut().reset(wake);
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
        }
    }
}

impl World {
    /// A controller starts, either the first one or one after a crash.
    pub(super) fn begin_attempt(&mut self) {
        let now = self.now();
        self.attempt += 1;
        self.signal = None;
        self.told = 0;
        self.failure_told_at = None;
        self.asked = self.record.as_ref().and_then(|record| record.requested);
        self.last_asked_at = now;
        self.agenda.rescue_at = Some(now + RESCUE_AFTER);
        self.agenda.rescues = 0;
        let is_request = matches!(self.scenario.opening, Opening::Request(_));
        let opens = if is_request { self.asked.is_none() } else { !self.agenda.has_opened };
        self.agenda.opening_at = opens.then_some(now + OPENING_AFTER);
    }

    /// The controller is gone.
    pub(super) fn end_attempt(&mut self) {
        self.sender = None;
        self.progress = None;
        self.calls.clear();
        self.touch();
    }

    fn is_ready(&self, pending: &Pending) -> bool {
        self.sender.is_some() || !matches!(pending.item, Item::Event(_))
    }

    fn quiet_choice_at(&self) -> Option<u64> {
        self.sender.as_ref()?;
        QUIET_CHOICES.get(self.agenda.quiet_choices).map(|after| self.agenda.changed_at + after)
    }

    fn next_wake(&self) -> u64 {
        let arrivals = self.queue.iter().filter(|pending| self.is_ready(pending)).map(|pending| pending.not_before);
        let arrival = arrivals.min().map(|at| at.max(self.agenda.last_step + 1));
        let late = self.late.iter().map(|(due, _)| *due).min();
        let opening = self.agenda.opening_at.filter(|_| self.sender.is_some());
        let quiet = self.quiet_choice_at().map(|at| at.max(self.agenda.last_step + 1));
        [arrival, late, opening, self.agenda.rescue_at, quiet]
            .into_iter()
            .flatten()
            .fold(self.agenda.next_heartbeat, u64::min)
    }

    fn tick(&mut self, now: u64, ask: Ask<'_>) {
        while let Some(position) = self.late.iter().position(|(due, _)| *due <= now) {
            let (_, effect) = self.late.remove(position);
            let _ = self.apply(&effect);
        }
        if self.agenda.next_heartbeat <= now {
            self.agenda.next_heartbeat = now + HEARTBEAT_EVERY;
            self.beat();
            self.check_noticed(now);
        }
        if self.sender.is_some() && self.agenda.opening_at.take_if(|at| *at <= now).is_some() {
            self.open(ask);
        }
        if self.agenda.rescue_at.is_some_and(|at| at <= now) {
            self.rescue(now, ask);
        }
        let arrives = self.queue.iter().any(|pending| self.is_ready(pending) && pending.not_before <= now);
        let quiet = self.quiet_choice_at().is_some_and(|at| at <= now);
        if self.agenda.last_step < now && (arrives || quiet) {
            self.agenda.last_step = now;
            self.agenda.quiet_choices += usize::from(!arrives);
            self.take_step(now, ask);
        }
    }

    fn beat(&mut self) {
        let Some(sender) = &self.sender else { return };
        for at in 0..2 {
            let worker = &self.workers[at];
            if !worker.is_dead && !worker.is_frozen {
                // If the mailbox is full, it already contains heartbeats.
                let _ = sender.try_event(WorkerEvent::new(RUN, Self::worker_id(at), Event::Heartbeat));
            }
        }
    }

    fn open(&mut self, ask: Ask<'_>) {
        self.agenda.has_opened = true;
        match self.scenario.opening {
            Opening::Request(request) => self.ask_for(request, ask),
            Opening::SourcesComplete => self.exhaust(),
            Opening::TaskFails => self.fail(2),
            Opening::WorkerDies => self.die(1),
            Opening::TimeIsOver => {}
        }
    }

    /// Nothing else stops this job, so a request does.
    fn rescue(&mut self, now: u64, ask: Ask<'_>) {
        let phase = self.progress.as_ref().map(|progress| progress.borrow().phase);
        if self.agenda.rescues == 0 && phase == Some(PhaseKind::Running) {
            self.ask_for(StopRequest::Immediate, ask);
        } else if self.agenda.rescues > 0 && self.scenario.spent == OnSpentCheckpoint::KeepTrying {
            self.ask_for(StopRequest::Force, ask);
        }
        self.agenda.rescues += 1;
        self.agenda.rescue_at = (self.agenda.rescues < 2).then_some(now + RESCUE_AFTER);
    }

    /// After a reported failure the job does not keep running.
    fn check_noticed(&mut self, now: u64) {
        let phase = self.progress.as_ref().map(|progress| progress.borrow().phase);
        // Two attempts to write to the journal may be in between.
        if phase == Some(PhaseKind::Running) && self.failure_told_at.is_some_and(|at| now > at + 25) {
            self.violated("I5", "a task's failure was told, and the job still runs");
        }
    }

    fn options(&self, now: u64) -> ([Step; 32], usize) {
        let mut options = ([Step::Nothing; 32], 0);
        let mut add = |step| {
            options.0[options.1] = step;
            options.1 += 1;
        };
        let ready = |pending: &Pending| self.is_ready(pending) && pending.not_before <= now;
        let arrivals = self.queue.iter().enumerate().filter(|(_, it)| ready(it)).map(|(at, _)| at).take(3);
        let before = add_all(arrivals, &mut add);
        if before == 0 {
            add(Step::Nothing);
        }
        if self.sender.is_none() {
            return options;
        }
        if before > 0 {
            add(Step::ArriveTwice);
            add(Step::Delay);
        }
        for request in StopRequest::ALL {
            add(Step::Ask(request));
        }
        add(Step::Crash);
        add(Step::Drop);
        for at in (0..2).filter(|at| !self.workers[*at].is_dead) {
            add(Step::Die(at));
            if !self.workers[at].is_frozen {
                add(Step::Freeze(at));
            }
        }
        for at in [0, 2] {
            let task = &self.tasks[at];
            if task.end.is_none() && !self.workers[task.worker].is_frozen {
                add(Step::Fail(at));
            }
        }
        if self.alive().is_empty() && self.agenda.appeared_at.is_none() {
            add(Step::Appear);
        }
        add(Step::Strangers);
        if self.can_exhaust() {
            add(Step::Exhaust);
        }
        if self.late_worker == Late::NotCalled {
            add(Step::Start);
        }
        options
    }

    fn take_step(&mut self, now: u64, ask: Ask<'_>) {
        let (options, count) = self.options(now);
        let step = self.choose(&options[..count]);
        let first = self.queue.iter().position(|pending| self.is_ready(pending) && pending.not_before <= now);
        match (step, first) {
            (Step::Arrive(at), _) => {
                if Some(at) != first {
                    self.note(CanHappen::EventsReordered);
                }
                if let Some(pending) = self.queue.remove(at) {
                    self.arrive(pending, now);
                }
            }
            (Step::ArriveTwice, Some(at)) => {
                self.note(CanHappen::EventTwice);
                let pending = self.queue[at].clone();
                self.arrive(pending, now);
            }
            (Step::Delay, Some(at)) => {
                self.note(CanHappen::EventLate);
                self.queue[at].not_before = now + DELAY;
            }
            (Step::Ask(request), _) => self.ask_for(request, ask),
            (Step::Crash, _) => self.signal = Some(Signal::Crash),
            (Step::Drop, _) => {
                self.note(CanHappen::DriveDropped);
                self.signal = Some(Signal::Drop);
            }
            (Step::Die(at), _) => {
                self.note(CanHappen::WorkerDied);
                self.die(at);
            }
            (Step::Freeze(at), _) => {
                self.note(CanHappen::WorkerFroze);
                self.touch();
                self.workers[at].is_frozen = true;
            }
            (Step::Fail(at), _) => self.fail(at),
            (Step::Appear, _) => {
                self.note(CanHappen::WorkerAppeared);
                self.touch();
                self.agenda.appeared_at = Some(now);
                // It accepts no orders, because it is unknown.
                (self.workers[1].is_dead, self.workers[1].is_frozen) = (false, true);
            }
            (Step::Strangers, _) => self.strangers_speak(),
            (Step::Exhaust, _) => self.exhaust(),
            (Step::Start, _) => self.call_start(now),
            (Step::Nothing | Step::ArriveTwice | Step::Delay, _) => {}
        }
    }

    fn arrive(&mut self, pending: Pending, now: u64) {
        match pending.item {
            Item::Exit(at) | Item::Kill(at) => self.die(at),
            Item::Enter => self.enter(),
            Item::Event(event) => {
                let Some(sender) = &self.sender else { return };
                let is_failure = matches!(event.event, Event::TaskFailed { .. });
                let digest = digest_of_event(&event);
                if sender.try_event(event.clone()).is_err() {
                    self.queue.push_back(Pending { item: Item::Event(event), not_before: now + 2 });
                    return;
                }
                self.told = self.told.wrapping_add(digest);
                if is_failure {
                    self.failure_told_at.get_or_insert(now);
                }
                self.touch();
            }
        }
    }

    fn fail(&mut self, at: usize) {
        self.note(CanHappen::TaskFailed);
        self.touch();
        if self.tasks[at].end.is_none() {
            self.end(at, End::Failed);
        }
    }

    fn ask_for(&mut self, request: StopRequest, ask: Ask<'_>) {
        let Some(sender) = &self.sender else { return };
        let before = sender.requested();
        ask(sender, request);
        let is_running = self.progress.as_ref().is_some_and(|progress| progress.borrow().phase == PhaseKind::Running);
        if before >= Some(request) {
            self.note(CanHappen::WeakerRequest);
        } else {
            self.last_asked_at = self.now();
            if !is_running {
                self.note(CanHappen::StrongerRequest);
            }
        }
        self.asked = self.asked.max(Some(request));
        self.touch();
    }

    /// Workers of other runs, unknown workers and tasks, and checkpoints that were never started.
    fn strangers_speak(&mut self) {
        self.note(CanHappen::StrangersSpeak);
        self.told = self.told.wrapping_add(1);
        let Some(sender) = &self.sender else { return };
        let (before, after) = (RunId::new(RUN.get() - 1), RUN.next());
        let say =
            |run, worker: usize, event| drop(sender.try_event(WorkerEvent::new(run, Self::worker_id(worker), event)));
        let epoch = self.final_epoch.unwrap_or(Epoch::new(1));
        for task in &self.tasks {
            let snapshot = bytes::Bytes::from_static(b"another's");
            say(before, task.worker, Event::CheckpointCompleted { task: task.id, epoch, snapshot, commit: None });
            say(before, task.worker, Event::TaskFinished { task: task.id });
        }
        say(after, 0, Event::TaskFailed { task: self.tasks[0].id, error: TaskError::fatal("another's") });
        say(RUN, 0, Event::TaskFinished { task: TaskId::new(9, 9) });
        say(RUN, 1, Event::CommitCompleted { task: self.tasks[2].id, epoch: Epoch::new(99) });
        let _ = sender.try_event(WorkerEvent::new(RUN, WorkerId::new(9), Event::WorkerFinished));
        self.touch();
    }
}

fn add_all(arrivals: impl Iterator<Item = usize>, add: &mut impl FnMut(Step)) -> usize {
    arrivals.map(|at| add(Step::Arrive(at))).count()
}
