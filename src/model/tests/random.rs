//! Random sequences of everything that can come in, against the naive reference, and against
//! invariant I3 read from the bare history.

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRng, TestRunner},
};

use super::{reference::Naive, *};
use crate::contracts::CheckpointStart;

#[derive(Clone, Debug)]
enum Step {
    Say { run: RunId, worker: WorkerId, event: Event },
    Begin { then_stop: bool },
    Publish { epoch: Option<Epoch> },
    Abandon { epoch: Epoch },
    Stop(WorkerStopMode),
    Release,
    Wait { seconds: u64 },
    CheckHealth,
}

/// Stands for the newest epoch at the time when the event is said: else hardly any checkpoint would
/// become complete.
const NEWEST: u64 = 0;

fn with_epoch(mut event: Event, newest: Option<Epoch>) -> Event {
    if let Event::CheckpointCompleted { epoch, .. } | Event::CommitCompleted { epoch, .. } = &mut event
        && *epoch == Epoch::new(NEWEST)
    {
        *epoch = newest.unwrap_or(Epoch::new(1));
    }
    event
}

fn task() -> impl Strategy<Value = TaskId> {
    prop_oneof![60 => (0..2_u32, 0..2_u32), 1 => (0..4_u32, 0..4_u32)].prop_map(|(op, sub)| TaskId::new(op, sub))
}

/// Sinks mostly have something to commit.
fn snapshot(task: TaskId, epoch: u64, usual: bool) -> Event {
    let commit = ((task.operator == 1) == usual).then(|| Bytes::from_static(b"commit"));
    Event::CheckpointCompleted { task, epoch: Epoch::new(epoch), snapshot: Bytes::new(), commit }
}

fn event() -> impl Strategy<Value = (Option<TaskId>, Event)> {
    let number = || prop_oneof![12 => Just(NEWEST), 1 => 1..6_u64];
    let about = |weight, make: fn(TaskId) -> Event| (weight, task().prop_map(move |it| (Some(it), make(it))).boxed());
    let union = [
        about(2, |task| Event::SourceExhausted { task }),
        about(2, |task| Event::TaskFinished { task }),
        (1, Just((None, Event::Heartbeat)).boxed()),
    ];
    let rare = [
        about(3, |task| Event::TaskFailed { task, error: TaskError::fatal("no") }),
        (1, Just((None, Event::WorkerFinished)).boxed()),
    ];
    prop_oneof![
        120 => (task(), number(), prop::bool::weighted(0.95))
            .prop_map(|(task, epoch, usual)| (Some(task), snapshot(task, epoch, usual))),
        60 => (task(), number())
            .prop_map(|(task, epoch)| (Some(task), Event::CommitCompleted { task, epoch: Epoch::new(epoch) })),
        20 => proptest::strategy::Union::new_weighted(union.into()),
        1 => proptest::strategy::Union::new_weighted(rare.into()),
    ]
}

fn say() -> impl Strategy<Value = Step> {
    let run = prop_oneof![40 => Just(RUN), 1 => Just(RunId::new(2))];
    let other = prop_oneof![60 => Just(None), 1 => (1..4_u64).prop_map(|it| Some(WorkerId::new(it)))];
    (run, other, event()).prop_map(|(run, other, (task, event))| {
        let worker = other.unwrap_or_else(|| task.map_or(ONE, worker_of));
        Step::Say { run, worker, event }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        80 => say(),
        6 => prop::bool::weighted(0.25).prop_map(|then_stop| Step::Begin { then_stop }),
        8 => prop_oneof![8 => Just(None), 1 => (1..4_u64).prop_map(|it| Some(Epoch::new(it)))]
            .prop_map(|epoch| Step::Publish { epoch }),
        1 => (1..4_u64).prop_map(|it| Step::Abandon { epoch: Epoch::new(it) }),
        1 => prop_oneof![
            2 => Just(Step::Stop(WorkerStopMode::Graceful)),
            2 => Just(Step::Stop(WorkerStopMode::Immediate)),
            1 => Just(Step::Release),
        ],
        2 => (0..25_u64).prop_map(|seconds| Step::Wait { seconds }),
        3 => Just(Step::CheckHealth),
    ]
}

/// What has been said and done, in order, without any judgement of what it means.
#[derive(Default)]
struct History(Vec<Entry>);

enum Entry {
    Said(Event),
    Started(Epoch),
    Published(Epoch),
}

impl History {
    /// I3, read from the history: every task was in the checkpoint or had ended well before it
    /// began; each that gave something to commit committed it after the manifest was durable.
    fn allows_completion(&self, epoch: Epoch) -> bool {
        let position = |wanted: &dyn Fn(&Entry) -> bool| self.0.iter().position(wanted);
        let started = position(&|it| matches!(it, Entry::Started(it) if *it == epoch));
        let published = position(&|it| matches!(it, Entry::Published(it) if *it == epoch));
        let (Some(started), Some(published)) = (started, published) else { return false };
        all().all(|task| {
            let ended = Entry::said(Event::TaskFinished { task });
            if position(&ended).is_some_and(|at| at < started) {
                return true;
            }
            let snapshot = self.0[started..published].iter().find_map(|it| match it {
                Entry::Said(Event::CheckpointCompleted { task: it, epoch: at, commit, .. })
                    if *it == task && *at == epoch =>
                {
                    Some(commit)
                }
                _ => None,
            });
            let committed = Entry::said(Event::CommitCompleted { task, epoch });
            snapshot.is_some_and(|commit| commit.is_none() || self.0[published..].iter().any(committed))
        })
    }
}

impl Entry {
    fn said(event: Event) -> impl Fn(&Self) -> bool {
        move |it| matches!(it, Self::Said(it) if *it == event)
    }
}

/// How often something interesting was reached: a test that explores nothing must fail.
type Reached = BTreeMap<&'static str, u32>;

fn play(steps: Vec<Step>, reached: &mut Reached) {
    let mut bench = Bench::new();
    let mut naive = Naive::new(bench.now);
    let mut history = History::default();
    for step in steps {
        take(step, &mut bench, &mut naive, &mut history);
        check(&mut bench, &naive, &history);
    }
    let (status, counters) = (bench.model.status(), bench.model.counters());
    let mut note = |what, is_so| *reached.entry(what).or_default() += u32::from(is_so);
    note("final complete", matches!(status.final_checkpoint, FinalCheckpoint::Complete(_)));
    note("final stuck", status.failures > 0 && matches!(status.final_checkpoint, FinalCheckpoint::InFlight(_)));
    note("second periodic complete", counters.checkpoints_completed > 1);
    note("abandoned", counters.checkpoints_abandoned > 0);
    note("committing", matches!(status.checkpoint, crate::contracts::CheckpointStage::Committing { .. }));
    note("all finished", status.all_finished());
    let failed = |wanted: fn(&RunFailure) -> bool| bench.model.failure().is_some_and(wanted);
    note("lost", failed(|it| matches!(it, RunFailure::WorkerLost { .. })));
    note("left", failed(|it| matches!(it, RunFailure::WorkerLeft { .. })));
    note("no snapshot", failed(|it| matches!(it, RunFailure::FinishedWithoutSnapshot { .. })));
    note("no commit", failed(|it| matches!(it, RunFailure::FinishedWithoutCommit { .. })));
}

fn take(step: Step, bench: &mut Bench, naive: &mut Naive, history: &mut History) {
    let model = &mut bench.model;
    match step {
        Step::Say { run, worker, event } => {
            let said = WorkerEvent::new(run, worker, with_epoch(event, naive.newest()));
            let expected = naive.handle(&said, bench.now);
            assert_eq!(model.handle(said.clone(), bench.now), expected, "{said:?}");
            if expected.is_ok() {
                history.0.push(Entry::Said(said.event));
            }
        }
        Step::Begin { then_stop } => {
            let expected = naive.begin_checkpoint(then_stop);
            assert_eq!(model.begin_checkpoint(then_stop).ok(), expected);
            if let Some(CheckpointStart::Started(epoch)) = expected {
                history.0.push(Entry::Started(epoch));
            }
        }
        Step::Publish { epoch } => {
            let publishing = naive.publishing();
            if let Some(epoch) = epoch.or(publishing) {
                if publishing == Some(epoch) {
                    history.0.push(Entry::Published(epoch));
                }
                naive.published(epoch);
                model.published(epoch);
            }
        }
        Step::Abandon { epoch } => {
            naive.abandon(epoch);
            model.abandon(epoch);
        }
        Step::Stop(mode) => {
            naive.begin_stop(mode);
            model.begin_stop(mode);
        }
        Step::Release => {
            naive.begin_release();
            model.begin_release();
        }
        Step::Wait { seconds } => bench.now += Duration::from_secs(seconds),
        Step::CheckHealth => {
            naive.check_health(bench.now);
            model.check_health(bench.now);
        }
    }
}

fn check(bench: &mut Bench, naive: &Naive, history: &History) {
    let status = bench.model.status();
    assert_eq!(status, naive.status());
    assert_eq!(bench.model.next_heartbeat_deadline(), naive.next_deadline());
    assert_eq!(bench.model.manifest(&job()).map(|it| (it.epoch, it.tasks.len())), naive.publishing().map(|it| (it, 4)));
    assert_eq!(bench.model.failure().is_some(), status.failures > 0);
    let counts = [status.tasks, status.sources];
    assert!(counts.into_iter().all(|it| it.done <= it.total), "{status:?}");
    assert!(status.tasks.done + status.tasks_failed <= status.tasks.total, "{status:?}");
    if let FinalCheckpoint::Complete(epoch) = status.final_checkpoint {
        assert!(history.allows_completion(epoch), "I3 does not hold for {epoch}");
    }
    if let Some(epoch) = status.last_complete {
        assert!(history.allows_completion(epoch), "{epoch} is not complete");
    }
    for action in bench.actions() {
        match action {
            Action::Publish(epoch) => assert_eq!(naive.publishing(), Some(epoch)),
            Action::Commit { orders } => {
                assert!(matches!(status.checkpoint, crate::contracts::CheckpointStage::Committing { .. }));
                let own = |(worker, command): &(WorkerId, Command)| {
                    let Command::Commit { tasks, .. } = command else { return false };
                    tasks.iter().all(|it| worker_of(it.task) == *worker)
                };
                assert!(orders.iter().all(own), "a worker gets the data of its own tasks only");
            }
            Action::Send { .. } => {}
        }
    }
}

#[test]
fn i3_random_histories_match_the_reference_and_complete_only_what_is_whole() {
    let config = Config { cases: 1024, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let reached = std::cell::RefCell::new(Reached::new());
    let outcome = TestRunner::new_with_rng(config, rng).run(&prop::collection::vec(step(), 1..160), |steps| {
        play(steps, &mut reached.borrow_mut());
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let reached = reached.into_inner();
    assert!(reached.values().all(|times| *times > 0), "some states were never reached: {reached:?}");
}
