//! The selection and order of schedules: all with one deviation from the default, then all with
//! two, and so on; beyond that, random ones.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::runtime::{Builder, Runtime};

use super::{
    choice::{Chooser, Deviation, Point, Random, Walk},
    digest::{Folded, digest},
    report::{CanHappen, Report, Violation},
    scenario::{SCENARIOS, Scenario},
    schedule,
    subject::Subject,
    world::{World, lock},
};
use crate::machine::EDGES;

/// Counting states ends here, to bound the memory.
const MOST_STATES: u64 = 20_000_000;
/// A runtime's clock only moves forward, and a timer wheel has an end.
const SCHEDULES_PER_RUNTIME: u32 = 1000;
const MOST_FINDINGS: usize = 16;

/// The result of one schedule.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) taken: Vec<Deviation>,
    pub(super) points: Vec<Point>,
    pub(super) violations: Vec<Violation>,
    pub(super) story: Vec<String>,
}

/// Runs schedules, one after the other.
pub(super) struct Runner<'a, S> {
    subject: &'a S,
    runtime: Option<(Runtime, u32)>,
    chooser: Chooser,
    edges: Vec<u64>,
    happened: [u64; CanHappen::COUNT],
}

impl<'a, S: Subject> Runner<'a, S> {
    pub(super) fn new(subject: &'a S) -> Self {
        let edges = vec![0; EDGES.len()];
        Self { subject, runtime: None, chooser: Chooser::default(), edges, happened: [0; CanHappen::COUNT] }
    }

    #[allow(clippy::expect_used, reason = "a runtime without I/O takes nothing from the system that could be lacking")]
    pub(super) fn run(
        &mut self,
        scenario: &'static Scenario,
        plan: &[Deviation],
        walk: Option<Walk>,
        tell: bool,
    ) -> Shown {
        let (runtime, used) = self.runtime.take_if(|(_, used)| *used < SCHEDULES_PER_RUNTIME).unwrap_or_else(|| {
            let built = Builder::new_current_thread().enable_time().start_paused(true).build();
            (built.expect("a runtime without I/O takes nothing from the system"), 0)
        });
        let mut chooser = std::mem::take(&mut self.chooser);
        chooser.start(plan, walk, tell);
        let (subject, edges) = (self.subject, &mut self.edges);
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                let mut world = World::new(scenario);
                world.chooser = chooser;
                let world = Arc::new(Mutex::new(world));
                schedule::run(subject, &world, edges).await;
                let mut world = lock(&world);
                let story = world.chooser.story.take().unwrap_or_default();
                let chooser = std::mem::take(&mut world.chooser);
                (chooser, std::mem::take(&mut world.violations), world.happened, story)
            })
        }));
        let Ok((mut chooser, violations, happened, story)) = ended else {
            // The runtime may hold anything now.
            let violations = vec![Violation::new("panic", "see the panic's own message".into())];
            return Shown { taken: plan.to_vec(), violations, ..Shown::default() };
        };
        self.runtime = Some((runtime, used + 1));
        for (sum, count) in self.happened.iter_mut().zip(happened) {
            *sum += u64::from(count);
        }
        let shown =
            Shown { taken: chooser.taken.clone(), points: std::mem::take(&mut chooser.points), violations, story };
        self.chooser = chooser;
        shown
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) schedules: u64,
    pub(super) depth: u32,
    pub(super) seed: u64,
    pub(super) threads: usize,
    /// Stop at the first violation.
    pub(super) stop_early: bool,
}

/// A schedule that led to a violation.
pub(super) type Found = (&'static Scenario, Vec<Deviation>, Violation);

struct Search<'a, S> {
    subject: &'a S,
    bounds: Bounds,
    schedules: AtomicU64,
    violations: AtomicU64,
    over: AtomicBool,
    states: Digests,
    found: Mutex<Vec<Found>>,
    edges: Vec<AtomicU64>,
    happened: Vec<AtomicU64>,
}

/// A set of digests that many threads add to.
struct Digests {
    shards: Vec<Mutex<HashSet<u64, Folded>>>,
    count: AtomicU64,
}

impl Digests {
    fn new() -> Self {
        Self { shards: (0..64).map(|_| Mutex::default()).collect(), count: AtomicU64::new(0) }
    }

    /// Whether it is new. When the set is full, everything is.
    fn add(&self, digest: u64) -> bool {
        if self.count.load(Ordering::Relaxed) >= MOST_STATES {
            return true;
        }
        let shard = &self.shards[(digest >> 58) as usize];
        let is_new = shard.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        self.count.fetch_add(u64::from(is_new), Ordering::Relaxed);
        is_new
    }
}

/// Explores, and reports the result; violations contain their original schedules.
pub(super) fn search<S: Subject>(subject: &S, bounds: Bounds) -> (Report, Vec<Found>) {
    let began = Instant::now();
    let search = Search {
        subject,
        bounds,
        schedules: AtomicU64::new(0),
        violations: AtomicU64::new(0),
        over: AtomicBool::new(false),
        states: Digests::new(),
        found: Mutex::default(),
        edges: EDGES.iter().map(|_| AtomicU64::new(0)).collect(),
        happened: (0..CanHappen::COUNT).map(|_| AtomicU64::new(0)).collect(),
    };
    let mut complete_depth = 0;
    let roots = search.defaults();
    for level in 1..=bounds.depth {
        search.level(level, &roots);
        if search.over.load(Ordering::Relaxed) {
            break;
        }
        complete_depth = level;
    }
    search.walk_at_random();
    let read = |counts: &[AtomicU64]| counts.iter().map(|count| count.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let report = Report {
        schedules: search.schedules.load(Ordering::Relaxed),
        distinct_states: search.states.count.load(Ordering::Relaxed),
        violations: search.violations.load(Ordering::Relaxed),
        complete_depth,
        seconds: began.elapsed().as_secs_f64(),
        ..Report::count(&read(&search.edges), &read(&search.happened))
    };
    (report, search.found.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl<S: Subject> Search<'_, S> {
    /// The default schedule of each scenario, with its other options.
    fn defaults(&self) -> Vec<(&'static Scenario, Deviation)> {
        let mut runner = Runner::new(self.subject);
        let mut roots = Vec::new();
        for scenario in SCENARIOS {
            let shown = self.run(&mut runner, scenario, &[], None);
            roots.extend(deviations(&shown.points).map(|deviation| (scenario, deviation)));
        }
        self.collect(&runner);
        // In an order that depends on the seed, so that a search that ends early has covered all
        // areas.
        let mut random = Random::new(self.bounds.seed);
        for last in (1..roots.len()).rev() {
            roots.swap(last, random.below(last + 1));
        }
        roots
    }

    /// Every schedule with `level` deviations.
    fn level(&self, level: u32, roots: &[(&'static Scenario, Deviation)]) {
        let (next, known) = (AtomicUsize::new(0), Digests::new());
        self.on_every_thread(|runner| {
            while let Some((scenario, first)) = roots.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.below(runner, scenario, &mut vec![*first], level - 1, &known);
            }
        });
    }

    fn below(
        &self,
        runner: &mut Runner<'_, S>,
        scenario: &'static Scenario,
        plan: &mut Vec<Deviation>,
        more: u32,
        known: &Digests,
    ) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        if more == 0 {
            self.run(runner, scenario, plan, None);
            return;
        }
        let mut shown = runner.run(scenario, plan, None, false);
        // A state that was seen with as many deviations left leads to nothing new.
        shown.points.retain(|point| known.add(digest(&(point.digest, more))));
        for deviation in deviations(&shown.points) {
            plan.push(deviation);
            self.below(runner, scenario, plan, more - 1, known);
            plan.pop();
        }
    }

    /// Random schedules with more deviations than were tried systematically.
    fn walk_at_random(&self) {
        let (next, walked) = (AtomicU64::new(0), Digests::new());
        self.on_every_thread(|runner| {
            while !self.over.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let mut random = Random::new(self.bounds.seed ^ number.rotate_left(32));
                let scenario = &SCENARIOS[random.below(SCENARIOS.len())];
                let one_in = [6, 12, 20][random.below(3)];
                let most = self.bounds.depth as usize + 1 + random.below(3);
                let shown = runner.run(scenario, &[], Some(Walk { random, one_in, most }), false);
                let is_new = shown.taken.len() > self.bounds.depth as usize
                    && walked.add(digest(&(
                        scenario.name,
                        shown.taken.iter().map(|it| (it.at, it.option)).collect::<Vec<_>>(),
                    )));
                if is_new || !shown.violations.is_empty() {
                    self.count(scenario, &shown);
                }
            }
        });
    }

    fn run(
        &self,
        runner: &mut Runner<'_, S>,
        scenario: &'static Scenario,
        plan: &[Deviation],
        walk: Option<Walk>,
    ) -> Shown {
        let shown = runner.run(scenario, plan, walk, false);
        self.count(scenario, &shown);
        shown
    }

    fn count(&self, scenario: &'static Scenario, shown: &Shown) {
        for point in &shown.points {
            self.states.add(point.digest);
        }
        if let Some(violation) = shown.violations.first() {
            self.violations.fetch_add(1, Ordering::Relaxed);
            let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            // One of each kind is more useful than many of one.
            let kind =
                |it: &Violation| (it.invariant, it.what.chars().filter(|c| !c.is_ascii_digit()).collect::<String>());
            if found.len() < MOST_FINDINGS && !found.iter().any(|(.., known)| kind(known) == kind(violation)) {
                found.push((scenario, shown.taken.clone(), violation.clone()));
            }
            if self.bounds.stop_early {
                self.over.store(true, Ordering::Relaxed);
            }
        }
        if self.schedules.fetch_add(1, Ordering::Relaxed) + 1 >= self.bounds.schedules {
            self.over.store(true, Ordering::Relaxed);
        }
    }

    fn on_every_thread(&self, work: impl Fn(&mut Runner<'_, S>) + Sync) {
        std::thread::scope(|scope| {
            for _ in 0..self.bounds.threads {
                scope.spawn(|| {
                    let mut runner = Runner::new(self.subject);
                    work(&mut runner);
                    self.collect(&runner);
                });
            }
        });
    }

    fn collect(&self, runner: &Runner<'_, S>) {
        let add = |sums: &[AtomicU64], counts: &[u64]| {
            for (sum, count) in sums.iter().zip(counts) {
                sum.fetch_add(*count, Ordering::Relaxed);
            }
        };
        add(&self.edges, &runner.edges);
        add(&self.happened, &runner.happened);
    }
}

fn deviations(points: &[Point]) -> impl Iterator<Item = Deviation> + '_ {
    points.iter().flat_map(|point| (1..point.options).map(|option| Deviation { at: point.at, option }))
}

/// Removes the deviations that the violation does not need from a schedule.
pub(super) fn minimize<S: Subject>(runner: &mut Runner<'_, S>, (scenario, plan, violation): &Found) -> Vec<Deviation> {
    let mut plan = plan.clone();
    let mut fails = |plan: &[Deviation]| {
        let shown = runner.run(scenario, plan, None, false);
        shown.violations.first().is_some_and(|it| it.invariant == violation.invariant)
    };
    loop {
        let shorter = (0..plan.len()).find_map(|out| {
            let mut shorter = plan.clone();
            shorter.remove(out);
            fails(&shorter).then_some(shorter)
        });
        match shorter {
            Some(shorter) => plan = shorter,
            None => return plan,
        }
    }
}
