//! The disturbance of one call, chosen at random, so that each phase is hit in each mode sooner or
//! later.

use std::time::Duration;

use winddown::{PhaseKind, StopRequest};

/// What happens to one call.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallPlan {
    /// The stop requests of the call, for `--stop`; a second one escalates.
    pub(crate) stops: Vec<(StopRequest, Duration)>,
    /// When its controller is killed, if it is.
    pub(crate) kill: Option<Kill>,
    /// What happens to a worker.
    pub(crate) worker: Option<Hit>,
}

/// When a controller is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// This long after its start.
    AnyTime(Duration),
    /// This long after it has reported a stop request.
    AfterStop(Duration),
    /// This long after it has reported this phase.
    InPhase(PhaseKind, Duration),
    /// This long after it has reported that it finishes an earlier call's shutdown.
    Resuming(Duration),
}

impl Kill {
    /// For the table of kill points.
    pub(crate) const POINTS: [&str; 4] =
        ["at any time", "after a stop was asked for", "in a phase of the shutdown", "while it resumed a shutdown"];

    /// Its place in [`POINTS`](Self::POINTS).
    pub(crate) fn point(self) -> usize {
        match self {
            Self::AnyTime(_) => 0,
            Self::AfterStop(_) => 1,
            Self::InPhase(..) => 2,
            Self::Resuming(_) => 3,
        }
    }

    /// How long after the start, or after what was said (none for the start).
    pub(crate) fn delay(self) -> (Option<String>, Duration) {
        match self {
            Self::AnyTime(delay) => (None, delay),
            Self::AfterStop(delay) => (Some("stop asked for".to_owned()), delay),
            // The end of a run is not shown as a phase.
            Self::InPhase(phase, delay) if phase.is_terminal() => (Some(" has stopped: ".to_owned()), delay),
            Self::InPhase(phase, delay) => (Some(format!("] {phase} ")), delay),
            Self::Resuming(delay) => (Some("that shutdown is finished first".to_owned()), delay),
        }
    }
}

/// What happens to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// Killed, or its task fails, this long after the start.
    Kill(Duration),
    /// Asked to leave (SIGTERM), or its task fails, this long after the start.
    Terminate(Duration),
    /// Frozen, or its task stalls, this long after the start, and for this long.
    Freeze(Duration, Duration),
}

/// Where a round is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// Whether the previous call was killed during a shutdown.
    pub(crate) unfinished: bool,
    /// Whether to consume the rest of the input now.
    pub(crate) ending: bool,
}

impl CallPlan {
    /// A plan for the next call. With `processes`, workers can be killed and frozen, and take
    /// longer to start.
    pub(crate) fn choose(situation: Situation, processes: bool, random: &mut fastrand::Rng) -> Self {
        let mut chance = Chance { random, processes };
        if situation.unfinished && chance.percent(20) {
            // It resumes nothing if the kill before came in the last moment.
            return Self { kill: Some(Kill::Resuming(chance.moment())), stops: vec![chance.stop()], worker: None };
        }
        if situation.ending {
            return chance.at_the_end();
        }
        match chance.random.u32(..100) {
            0..15 => Self { stops: vec![chance.stop()], ..Self::default() },
            15..45 => chance.killed_in_a_stop(),
            45..53 => Self { kill: Some(Kill::AnyTime(chance.up_to(chance.life()))), ..Self::default() },
            53..63 => chance.escalated(),
            63..80 => chance.with_a_lost_worker(),
            _ => chance.with_a_frozen_worker(),
        }
    }
}

struct Chance<'a> {
    random: &'a mut fastrand::Rng,
    processes: bool,
}

impl Chance<'_> {
    fn percent(&mut self, percent: u32) -> bool {
        self.random.u32(..100) < percent
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.random.f64())
    }

    /// The longest time without a disturbance of a call.
    fn life(&self) -> Duration {
        Duration::from_millis(if self.processes { 700 } else { 300 })
    }

    /// A phase lasts a millisecond, or a hundred: all orders of magnitude are as likely.
    fn moment(&mut self) -> Duration {
        let most = [1_000, 5_000, 20_000, 60_000, 150_000][self.random.usize(..5)];
        self.up_to(Duration::from_micros(most))
    }

    /// A phase that has been seen may be over in the next moment.
    fn in_phase(&mut self, phase: PhaseKind) -> Kill {
        let most = [0, 500, 2_000, 8_000][self.random.usize(..4)];
        Kill::InPhase(phase, self.up_to(Duration::from_micros(most)))
    }

    fn mode(&mut self) -> StopRequest {
        StopRequest::ALL[self.random.usize(..StopRequest::ALL.len())]
    }

    fn stop(&mut self) -> (StopRequest, Duration) {
        (self.mode(), self.up_to(self.life()))
    }

    fn killed_in_a_stop(&mut self) -> CallPlan {
        let stop @ (mode, _) = self.stop();
        let kill = if self.percent(60) {
            Kill::AfterStop(self.moment())
        } else {
            let (phase, end) = match mode {
                StopRequest::Checkpoint => (PhaseKind::CheckpointStopping, PhaseKind::StoppedCheckpointed),
                StopRequest::Graceful => (PhaseKind::StoppingGraceful, PhaseKind::StoppedDrained),
                StopRequest::Immediate => (PhaseKind::StoppingImmediate, PhaseKind::StoppedHalted),
                StopRequest::Force => (PhaseKind::StoppingForce, PhaseKind::StoppedKilled),
            };
            let phase = if self.percent(50) { phase } else { end };
            self.in_phase(phase)
        };
        CallPlan { stops: vec![stop], kill: Some(kill), worker: None }
    }

    fn escalated(&mut self) -> CallPlan {
        let first @ (mode, at) = self.stop();
        let stronger: Vec<_> = StopRequest::ALL.into_iter().filter(|&other| other > mode).collect();
        let stops = match stronger.get(self.random.usize(..stronger.len().max(1))) {
            Some(&second) => vec![first, (second, at + self.moment())],
            None => vec![first],
        };
        let kill = self.percent(50).then(|| Kill::AfterStop(self.moment()));
        CallPlan { stops, kill, worker: None }
    }

    /// The job recovers, by itself or not.
    fn with_a_lost_worker(&mut self) -> CallPlan {
        let hit = self.up_to(self.life());
        let stop = (self.mode(), hit + self.up_to(self.life()));
        let kill = match self.random.u32(..3) {
            0 => Some(self.in_phase(PhaseKind::Recovering)),
            1 => Some(Kill::AfterStop(self.moment())),
            _ => None,
        };
        let worker = if self.percent(40) { Hit::Terminate(hit) } else { Hit::Kill(hit) };
        CallPlan { stops: vec![stop], kill, worker: Some(worker) }
    }

    /// The stop has to wait for it, unless it is an escalation.
    fn with_a_frozen_worker(&mut self) -> CallPlan {
        let at = self.up_to(self.life());
        let time = self.up_to(Duration::from_millis(1500));
        let (mode, after) = (self.mode(), at + self.up_to(time));
        let mut stops = vec![(mode, after)];
        if self.percent(40) {
            stops.push((StopRequest::Force, after + self.up_to(time)));
        }
        let kill = self.percent(40).then(|| Kill::AfterStop(self.up_to(time)));
        CallPlan { stops, kill, worker: Some(Hit::Freeze(at, time)) }
    }

    /// Without a stop request the job ends by itself.
    fn at_the_end(&mut self) -> CallPlan {
        let phases = [PhaseKind::Finishing, PhaseKind::StoppingGraceful, PhaseKind::StoppedDrained];
        let phase = phases[self.random.usize(..phases.len())];
        let kill = self.percent(60).then(|| self.in_phase(phase));
        CallPlan { kill, ..CallPlan::default() }
    }
}
