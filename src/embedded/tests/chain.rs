//! A source of numbers on one worker; a running sum and a sink on another.

use super::*;

const TOTAL: u64 = 20;
const SOURCE: TaskId = TaskId::new(0, 0);
const SUM: TaskId = TaskId::new(1, 0);
const SINK: TaskId = TaskId::new(2, 0);

enum Item {
    Number(u64),
    Barrier(Barrier),
}

/// What the world sees, and how often each epoch was published.
#[derive(Default)]
struct World {
    published: BTreeMap<Epoch, Vec<u64>>,
    commits: Vec<Epoch>,
}

fn encode(numbers: &[u64]) -> Bytes {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn decode(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap())).collect()
}

fn restored_number(ctx: &TaskContext) -> u64 {
    ctx.restored().map_or(0, |restored| decode(&restored.snapshot)[0])
}

fn gone<E>(_: E) -> TaskError {
    TaskError::retryable("the next task is gone")
}

/// Emits 1 to `TOTAL`, one in ten milliseconds.
async fn source(mut ctx: TaskContext, out: mpsc::Sender<Item>) -> Result<(), TaskError> {
    let mut emitted = restored_number(&ctx);
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    pace.tick().await;
    loop {
        tokio::select! {
            biased;
            order = ctx.order() => match order {
                TaskOrder::Checkpoint(barrier) => {
                    out.send(Item::Barrier(barrier)).await.map_err(gone)?;
                    ctx.events().checkpointed(barrier.epoch, encode(&[emitted]), None).await?;
                    if barrier.then_stop {
                        return Ok(());
                    }
                }
                TaskOrder::Stop(_) => return Ok(()),
                TaskOrder::Commit { .. } => return Err(TaskError::fatal("nothing to commit")),
            },
            _ = pace.tick(), if emitted < TOTAL => {
                emitted += 1;
                out.send(Item::Number(emitted)).await.map_err(gone)?;
                if emitted == TOTAL {
                    ctx.events().source_exhausted().await?;
                }
            }
        }
    }
}

async fn sum(mut ctx: TaskContext, mut input: mpsc::Receiver<Item>, out: mpsc::Sender<Item>) -> Result<(), TaskError> {
    let mut sum = restored_number(&ctx);
    loop {
        tokio::select! {
            biased;
            order = ctx.order() => match order {
                TaskOrder::Stop(WorkerStopMode::Immediate) => return Ok(()),
                other => return Err(TaskError::fatal(format!("unexpected {other:?}"))),
            },
            item = input.recv() => match item {
                Some(Item::Number(number)) => {
                    sum += number;
                    out.send(Item::Number(sum)).await.map_err(gone)?;
                }
                Some(Item::Barrier(barrier)) => {
                    ctx.events().checkpointed(barrier.epoch, encode(&[sum]), None).await?;
                    out.send(Item::Barrier(barrier)).await.map_err(gone)?;
                    if barrier.then_stop {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            },
        }
    }
}

async fn write(
    mut ctx: TaskContext,
    mut input: mpsc::Receiver<Item>,
    world: Arc<Mutex<World>>,
) -> Result<(), TaskError> {
    let commit = |data: &[u8]| {
        let numbers = decode(data);
        let (epoch, numbers) = numbers.split_first().unwrap();
        let mut world = world.lock().unwrap();
        world.commits.push(Epoch::new(*epoch));
        world.published.insert(Epoch::new(*epoch), numbers.to_vec());
    };
    if let Some(data) = ctx.restored().and_then(|restored| restored.commit.clone()) {
        commit(&data);
    }
    let (mut unpublished, mut last) = (Vec::new(), None);
    loop {
        tokio::select! {
            biased;
            order = ctx.order() => match order {
                TaskOrder::Commit { epoch, data } => {
                    commit(&data);
                    ctx.events().committed(epoch).await?;
                    if last == Some(epoch) {
                        return Ok(());
                    }
                }
                TaskOrder::Stop(WorkerStopMode::Immediate) => return Ok(()),
                other => return Err(TaskError::fatal(format!("unexpected {other:?}"))),
            },
            item = input.recv(), if last.is_none() => match item {
                Some(Item::Number(number)) => unpublished.push(number),
                Some(Item::Barrier(barrier)) => {
                    unpublished.insert(0, barrier.epoch.get());
                    let data = encode(&std::mem::take(&mut unpublished));
                    ctx.events().checkpointed(barrier.epoch, Bytes::new(), Some(data)).await?;
                    last = barrier.then_stop.then_some(barrier.epoch);
                }
                None => return Ok(()),
            },
        }
    }
}

fn topology() -> Topology {
    Topology::builder()
        .operator("source", Role::Source, [FIRST])
        .operator("sum", Role::Inner, [SECOND])
        .operator("sink", Role::Inner, [SECOND])
        .build()
        .unwrap()
}

struct Chain {
    run: EmbeddedRun,
    listener: Listener,
    manifest: Option<Manifest>,
}

impl Chain {
    fn start(cluster: &EmbeddedCluster, run: u64, restored: Option<&Manifest>, world: &Arc<Mutex<World>>) -> Self {
        let (speaker, listener) = sink(100);
        let (to_sum, from_source) = mpsc::channel(2);
        let (to_sink, from_sum) = mpsc::channel(2);
        let mut ends = (Some(to_sum), Some((from_source, to_sink)), Some(from_sum));
        let open = OpenRun::new(job(), RunId::new(run), restored.cloned()).unwrap();
        let run = cluster.start(&open, &topology(), speaker, |ctx| {
            let world = Arc::clone(world);
            let ends = match ctx.task() {
                SOURCE => (ends.0.take(), None, None),
                SUM => (None, ends.1.take(), None),
                _ => (None, None, ends.2.take()),
            };
            async move {
                match ends {
                    (Some(out), _, _) => source(ctx, out).await,
                    (_, Some((input, out)), _) => sum(ctx, input, out).await,
                    (_, _, input) => write(ctx, input.unwrap(), world).await,
                }
            }
        });
        Self { run: run.unwrap(), listener, manifest: None }
    }

    /// Orders a checkpoint, and collects it.
    async fn checkpoint(&mut self, epoch: u64, then_stop: bool) -> Manifest {
        let epoch = Epoch::new(epoch);
        for worker in [FIRST, SECOND] {
            send(&self.run, worker, Command::Checkpoint { epoch, then_stop }).await;
        }
        let mut tasks = Vec::new();
        while tasks.len() < 3 {
            if let Event::CheckpointCompleted { task, epoch: of, snapshot, commit } = self.listener.event().await {
                assert_eq!(of, epoch);
                tasks.push(TaskSnapshot { task, snapshot, commit, finished: false });
            }
        }
        tasks.sort_by_key(|snapshot| snapshot.task);
        let manifest = Manifest { job: job(), run: self.run.run(), epoch, then_stop, tasks };
        self.manifest = Some(manifest.clone());
        manifest
    }

    /// Orders the commit of the last checkpoint.
    async fn commit(&mut self) {
        let manifest = self.manifest.as_ref().unwrap();
        let commit = |task: &TaskSnapshot| Some(TaskCommit { task: task.task, data: task.commit.clone()? });
        let tasks = manifest.tasks.iter().filter_map(commit).collect();
        send(&self.run, SECOND, Command::Commit { epoch: manifest.epoch, tasks }).await;
        assert_eq!(self.listener.event().await, Event::CommitCompleted { task: SINK, epoch: manifest.epoch });
    }
}

/// What has been published, in order.
fn published(world: &Mutex<World>) -> Vec<u64> {
    world.lock().unwrap().published.values().flatten().copied().collect()
}

/// 1, 1+2, 1+2+3, …
fn sums(count: u64) -> Vec<u64> {
    (1..=count).map(|n| n * (n + 1) / 2).collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_its_checkpoint_is_durable() {
    let (cluster, world) = (EmbeddedCluster::new(QUIET), Arc::default());
    let mut chain = Chain::start(&cluster, 1, None, &world);
    tokio::time::sleep(Duration::from_millis(55)).await;
    let manifest = chain.checkpoint(1, false).await;
    let snapshots: Vec<_> = manifest.tasks.iter().map(|task| decode(&task.snapshot)).collect();
    assert_eq!(snapshots, [vec![5], vec![15], vec![]]);
    assert_eq!(published(&world), Vec::<u64>::new());
    chain.commit().await;
    assert_eq!(published(&world), sums(5));
}

#[tokio::test(start_paused = true)]
async fn a_final_checkpoint_ends_every_task_and_the_last_one_after_its_commit() {
    let (cluster, world) = (EmbeddedCluster::new(QUIET), Arc::default());
    let mut chain = Chain::start(&cluster, 1, None, &world);
    tokio::time::sleep(Duration::from_millis(75)).await;
    chain.checkpoint(1, true).await;
    let mut ends = vec![];
    ends.extend(chain.listener.until_silent().await);
    assert!(!ends.contains(&finished(2)), "{ends:?}");
    chain.commit().await;
    assert_eq!(chain.listener.until_silent().await, [finished(2)]);
    assert_eq!(published(&world), sums(7));
    assert_eq!(alive(&cluster, 1).await, [FIRST, SECOND]);
    for worker in [FIRST, SECOND] {
        send(&chain.run, worker, Command::Release).await;
    }
    assert_eq!(chain.listener.until_silent().await, [Event::WorkerFinished, Event::WorkerFinished]);
    assert_eq!(alive(&cluster, 1).await, []);
}

#[tokio::test(start_paused = true)]
async fn repeated_orders_are_answered_again_and_publish_once() {
    let (cluster, world) = (EmbeddedCluster::new(QUIET), Arc::default());
    let mut chain = Chain::start(&cluster, 1, None, &world);
    tokio::time::sleep(Duration::from_millis(55)).await;
    let manifest = chain.checkpoint(1, false).await;
    assert_eq!(chain.checkpoint(1, false).await, manifest);
    chain.commit().await;
    chain.listener.until_silent().await;
    let data = manifest.tasks[2].commit.clone().unwrap();
    let commit = Command::Commit { epoch: Epoch::new(1), tasks: [TaskCommit { task: SINK, data }].into() };
    send(&chain.run, SECOND, commit).await;
    let again = chain.listener.until_silent().await;
    assert!(again.contains(&Event::CommitCompleted { task: SINK, epoch: Epoch::new(1) }), "{again:?}");
    assert_eq!(world.lock().unwrap().commits, [Epoch::new(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_graceful_stop_drains_what_was_read() {
    let (cluster, world) = (EmbeddedCluster::new(QUIET), Arc::default());
    let mut chain = Chain::start(&cluster, 1, None, &world);
    tokio::time::sleep(Duration::from_millis(35)).await;
    for worker in [FIRST, SECOND] {
        send(&chain.run, worker, Command::Stop(WorkerStopMode::Graceful)).await;
    }
    let ends: Vec<_> = chain.listener.events(3).await;
    assert_eq!(ends, [finished(0), finished(1), finished(2)], "each sees the end of its input");
}

#[tokio::test(start_paused = true)]
async fn an_immediate_stop_ends_every_task_where_it_is() {
    let (cluster, world) = (EmbeddedCluster::new(QUIET), Arc::default());
    let mut chain = Chain::start(&cluster, 1, None, &world);
    // Only the second worker is told: its tasks do not wait for the end of their input.
    send(&chain.run, SECOND, Command::Stop(WorkerStopMode::Immediate)).await;
    let mut ends = chain.listener.events(2).await;
    ends.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(ends, [finished(1), finished(2)]);
}

#[tokio::test(start_paused = true)]
async fn an_exhausted_source_says_so_and_stays_for_the_final_checkpoint() {
    let (cluster, world) = (EmbeddedCluster::new(QUIET), Arc::default());
    let mut chain = Chain::start(&cluster, 1, None, &world);
    assert_eq!(chain.listener.event().await, Event::SourceExhausted { task: SOURCE });
    assert_eq!(chain.listener.until_silent().await, []);
    chain.checkpoint(1, true).await;
    chain.listener.until_silent().await;
    chain.commit().await;
    assert_eq!(published(&world), sums(TOTAL));
}

#[tokio::test(start_paused = true)]
async fn restored_tasks_go_on_exactly_where_the_checkpoint_was_whenever_the_run_died() {
    // Died before anything, after the first phase, after the second phase.
    for (phases, committed_twice) in [(0, false), (1, false), (2, true)] {
        let (cluster, world) = (EmbeddedCluster::new(QUIET), Arc::default());
        let mut first = Chain::start(&cluster, 1, None, &world);
        tokio::time::sleep(Duration::from_millis(55)).await;
        if phases > 0 {
            first.checkpoint(1, false).await;
        }
        if phases > 1 {
            first.commit().await;
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
        cluster.stop_workers(&job(), Some(RunId::new(1)), true).await.unwrap();
        assert_eq!(alive(&cluster, 1).await, []);

        let mut second = Chain::start(&cluster, 2, first.manifest.as_ref(), &world);
        assert_eq!(second.listener.event().await, Event::SourceExhausted { task: SOURCE });
        second.checkpoint(2, true).await;
        second.listener.until_silent().await;
        second.commit().await;
        assert_eq!(published(&world), sums(TOTAL), "after {phases} phases");
        let commits = world.lock().unwrap().commits.iter().filter(|epoch| **epoch == Epoch::new(1)).count();
        assert_eq!(commits == 2, committed_twice);
    }
}
