//! A scheduler of workers in memory, and what can be wrong with it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use winddown::{
    JobId, RunId, Scheduler, WorkerId,
    contracts::SchedulerError,
    testing::conformance::{self, Contract, Hook, Manners, Placed, Report, Rule, SchedulerSubject},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// Of each run only one worker is listed.
    ListsOne,
    /// Who is listed is asked to leave.
    ListingAsks,
    /// A run that was never heard of is an error.
    RefusesUnknown,
    /// What has ended is forgotten, and then an error.
    ForgetsTheDead,
    /// The run is not looked at.
    StopsEveryRun,
    /// Without a run, the newest is meant.
    StopsNewestRun,
    /// There is no asking.
    KillsAtOnce,
    /// Who takes no notice of being asked is waited for, and then forgotten.
    ForgetsTheDeaf,
    /// Force is the same question again, to those who would not hear it.
    ForceOnlyAsks,
    /// A child is not known.
    LeavesChildren,
    /// Who was told to end counts as dead.
    DeadWhenOrdered,
    /// Who does not answer is left out.
    SkipsUnreachable,
    /// A stop that has begun counts as done.
    BegunIsDone,
}

const ROWS: &[(Mistake, Rule)] = &[
    (Mistake::ListsOne, Rule::SchedulerListsAlive),
    (Mistake::ListingAsks, Rule::SchedulerOnlyReads),
    (Mistake::RefusesUnknown, Rule::SchedulerUnknownRun),
    (Mistake::ForgetsTheDead, Rule::SchedulerStopAgain),
    (Mistake::StopsEveryRun, Rule::SchedulerFencing),
    (Mistake::StopsNewestRun, Rule::SchedulerEveryRun),
    (Mistake::KillsAtOnce, Rule::SchedulerAsks),
    (Mistake::ForgetsTheDeaf, Rule::SchedulerAskedIsAlive),
    (Mistake::ForceOnlyAsks, Rule::SchedulerForce),
    (Mistake::LeavesChildren, Rule::SchedulerForceChildren),
    (Mistake::DeadWhenOrdered, Rule::SchedulerKillVerified),
    (Mistake::SkipsUnreachable, Rule::SchedulerNeverLeftOut),
    (Mistake::BegunIsDone, Rule::SchedulerCancelSafe),
];

async fn check(mistake: Mistake) -> Report {
    conformance::scheduler(async move || Fleet { mistake, inner: Arc::default() }).await
}

pub(super) async fn check_forgetful() -> Report {
    check(Mistake::ForgetsTheDeaf).await
}

#[tokio::test]
async fn every_mistake_in_a_scheduler_is_found_by_its_rule() {
    super::assert_found(Contract::Scheduler, ROWS, Mistake::None, check).await;
}

/// How long one that ends late goes on.
const LATE: Duration = Duration::from_millis(300);

/// How long one that takes no notice is waited for.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Fleet {
    mistake: Mistake,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    workers: HashMap<Placed, State>,
    begun: BTreeSet<(Option<RunId>, bool)>,
    forgotten: BTreeSet<RunId>,
}

struct State {
    manners: Manners,
    ends: Option<Instant>,
    has_child: bool,
    was_asked: bool,
    is_cut_off: bool,
    /// When it was asked, and took no notice.
    deaf_since: Option<Instant>,
}

impl State {
    fn is_alive(&self) -> bool {
        self.ends.is_none_or(|ends| Instant::now() < ends)
    }

    fn end(&mut self) {
        let late = if self.manners == Manners::EndsLate { LATE } else { Duration::ZERO };
        self.ends.get_or_insert(Instant::now() + late);
    }

    fn ask(&mut self) {
        if self.is_cut_off {
            return;
        }
        self.was_asked = true;
        if matches!(self.manners, Manners::Leaves | Manners::EndsLate) {
            self.end();
        } else {
            self.deaf_since.get_or_insert_with(Instant::now);
        }
    }

    fn kill(&mut self, mistake: Mistake) {
        if mistake == Mistake::ForceOnlyAsks && self.manners == Manners::Stays {
            return self.ask();
        }
        self.end();
        self.has_child &= mistake == Mistake::LeavesChildren;
    }
}

impl SchedulerSubject for Fleet {
    type Scheduler = Self;
    const LIMIT: Duration = super::LIMIT;

    fn scheduler(&self) -> Self {
        self.clone()
    }

    async fn start(&self, job: &JobId, run: RunId, workers: &[(WorkerId, Manners)]) -> Hook {
        for (worker, manners) in workers.iter().copied() {
            let has_child = manners == Manners::HasChild;
            let state = State { manners, ends: None, has_child, was_asked: false, is_cut_off: false, deaf_since: None };
            self.inner.lock().unwrap().workers.insert(Placed { job: job.clone(), run, worker }, state);
        }
        Hook::Done
    }

    async fn is_running(&self, worker: &Placed) -> Option<bool> {
        self.inner.lock().unwrap().workers.get(worker).map(|state| state.is_alive() || state.has_child)
    }

    async fn was_asked(&self, worker: &Placed) -> Option<bool> {
        self.inner.lock().unwrap().workers.get(worker).map(|state| state.was_asked)
    }

    async fn cut_off(&self, worker: &Placed) -> Hook {
        self.inner.lock().unwrap().workers.get_mut(worker).unwrap().is_cut_off = true;
        Hook::Done
    }
}

impl Scheduler for Fleet {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        let is_first = self.inner.lock().unwrap().begun.insert((run, force));
        if self.mistake == Mistake::BegunIsDone {
            if !is_first {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
        let mut inner = self.inner.lock().unwrap();
        if self.mistake == Mistake::ForgetsTheDead && run.is_some_and(|run| inner.forgotten.contains(&run)) {
            return Err(SchedulerError::Refused("no such run".into()));
        }
        let newest = inner.workers.keys().filter(|placed| placed.job == *job).map(|placed| placed.run).max();
        let run = match self.mistake {
            Mistake::StopsEveryRun => None,
            Mistake::StopsNewestRun => run.or(newest),
            _ => run,
        };
        let is_meant = |placed: &Placed| placed.job == *job && run.is_none_or(|run| placed.run == run);
        if self.mistake == Mistake::RefusesUnknown && !inner.workers.keys().any(is_meant) {
            return Err(SchedulerError::Refused("no such run".into()));
        }
        for (_, state) in inner.workers.iter_mut().filter(|(placed, _)| is_meant(placed)) {
            if force || self.mistake == Mistake::KillsAtOnce {
                state.kill(self.mistake);
            } else {
                state.ask();
            }
        }
        Ok(())
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let mut inner = self.inner.lock().unwrap();
        let is_meant = |placed: &Placed| placed.job == *job && run.is_none_or(|run| placed.run == run);
        let mut alive: Vec<_> =
            inner.workers.iter_mut().filter(|(it, state)| is_meant(it) && state.is_alive()).collect();
        match self.mistake {
            Mistake::ListingAsks => alive.iter_mut().for_each(|(_, state)| state.ask()),
            Mistake::DeadWhenOrdered => alive.retain(|(_, state)| state.ends.is_none()),
            Mistake::ForgetsTheDeaf => {
                alive.retain(|(_, state)| state.deaf_since.is_none_or(|since| since.elapsed() < GRACE));
            }
            Mistake::SkipsUnreachable => alive.retain(|(_, state)| !state.is_cut_off),
            _ => {}
        }
        // A child that is known keeps its worker alive; here it ends with it.
        let mut listed: Vec<_> = alive.iter().map(|(placed, _)| placed.worker).collect();
        listed.sort_unstable();
        if self.mistake == Mistake::ListsOne {
            listed.truncate(1);
        }
        if listed.is_empty() {
            inner.forgotten.extend(run);
        }
        Ok(listed)
    }
}
