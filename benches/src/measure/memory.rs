//! The memory of a job while it is being stopped, phase by phase, and of many jobs at once.
//! Everything that is counted lives on one thread, because the counting allocator counts each
//! thread separately.

use std::{
    collections::BTreeMap,
    mem::size_of_val,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, task::JoinSet, time::sleep};
use winddown::checkpoint::object_store::memory::InMemory;
use winddown::{
    AnyPhase, ClusterController, EmbeddedCluster, Epoch, JobContext, JobController, JobId, Limits, Mailbox,
    ObjectStoreCheckpoints, OpenRun, PhaseKind, Policy, RunId, Running, Scheduler, StopRequest, TaskContext, TaskOrder,
    WorkerId,
    contracts::{Command, DynCheckpointStore, Order, TaskError, Transport},
    drive,
    drive::Attachment,
    embedded::EmbeddedRun,
};

use super::{
    Scale,
    fleet::{self, Workers, allow_many_files},
    jobs::{self, NoController, NoScheduler},
};
use crate::report::{
    self,
    data::{AtOnce, Memory, MemoryRow},
};

/// The phases that wait. `Recovering` is left at once, and `Stopped` is the end.
const PHASES: [PhaseKind; 6] = [
    PhaseKind::Running,
    PhaseKind::Finishing,
    PhaseKind::CheckpointStopping,
    PhaseKind::StoppingGraceful,
    PhaseKind::StoppingImmediate,
    PhaseKind::StoppingForce,
];

/// A job that is being driven.
type Driven = Pin<Box<dyn Future<Output = ()> + Send>>;

fn id(number: u64) -> JobId {
    format!("job-{number:06}").as_str().into()
}

/// Takes a job into the phase.
fn enter<C: JobController, S>(
    kind: PhaseKind,
    running: Running,
    job: &mut JobContext<C, S>,
) -> report::Result<AnyPhase> {
    Ok(match kind {
        PhaseKind::Finishing => running.finish(job)?.into(),
        PhaseKind::CheckpointStopping => running.stop_with_checkpoint(job)?.into(),
        PhaseKind::StoppingGraceful => running.stop_gracefully(job)?.into(),
        PhaseKind::StoppingImmediate => running.stop_immediately(job)?.into(),
        PhaseKind::StoppingForce => running.force(job)?.into(),
        _ => running.into(),
    })
}

/// Takes a job into the phase, and drives it from there.
fn driven<C, S>(kind: PhaseKind, (mut job, running): (JobContext<C, S>, Running)) -> report::Result<Driven>
where
    C: JobController + Attachment + 'static,
    S: Scheduler + 'static,
{
    let phase = enter(kind, running, &mut job)?;
    Ok(Box::pin(async move {
        if drive(phase, &mut job, &Policy::keep_trying()).await.is_ok() {
            eprintln!("a job that was to wait has stopped");
        }
    }))
}

/// A store that nothing is published to: no task gives its state.
fn store() -> Arc<dyn DynCheckpointStore> {
    Arc::new(ObjectStoreCheckpoints::new(Arc::new(InMemory::new()), "bench"))
}

/// Polls each once.
fn poll_all(jobs: &mut [Driven]) -> report::Result<()> {
    let mut context = Context::from_waker(Waker::noop());
    let ended = jobs.iter_mut().filter_map(|job| job.as_mut().poll(&mut context).is_ready().then_some(())).count();
    if ended == 0 { Ok(()) } else { Err(format!("{ended} jobs did not wait in their phase").into()) }
}

/// Bytes per job of what `make` creates for this many jobs. It uses a separate runtime: tasks and
/// connections, which end only while a runtime runs, would otherwise be counted with the next
/// measurement.
fn bytes_each(
    jobs: usize,
    settle: &[Duration],
    mut make: impl FnMut(u64) -> report::Result<Driven>,
) -> report::Result<f64> {
    let runtime = current_thread()?;
    let mut driven = Vec::with_capacity(jobs);
    let mut outcome = Ok(());
    let counted = allocation_counter::measure(|| {
        outcome = runtime.block_on(async {
            for number in 0..jobs as u64 {
                driven.push(make(number)?);
            }
            poll_all(&mut driven)?;
            for wait in settle {
                sleep(*wait).await;
                poll_all(&mut driven)?;
            }
            Ok(())
        });
    });
    // Dropped on the runtime, as its parts ask for.
    runtime.block_on(async { drop(driven) });
    #[expect(clippy::cast_precision_loss, reason = "of counts far below 2^52")]
    outcome.map(|()| counted.bytes_current as f64 / jobs as f64)
}

/// The machine's own share: the context with its mailbox and live progress, and the phase. It is
/// not driven.
fn at_rest(kind: PhaseKind, jobs: usize) -> report::Result<f64> {
    let mut resting = Vec::new();
    let mut outcome = Ok(());
    let counted = allocation_counter::measure(|| {
        resting.reserve_exact(jobs);
        outcome = (0..jobs as u64).try_for_each(|number| {
            let (mut job, running) = jobs::job(&id(number), 1);
            let phase = enter(kind, running, &mut job)?;
            resting.push((job, phase));
            Ok(())
        });
    });
    #[expect(clippy::cast_precision_loss, reason = "of counts far below 2^52")]
    outcome.map(|()| counted.bytes_current as f64 / jobs as f64)
}

fn machine(kind: PhaseKind, jobs: usize) -> report::Result<f64> {
    bytes_each(jobs, &[], |number| {
        driven(
            kind,
            JobContext::builder(&OpenRun::without_store(id(number), RunId::new(1)))
                .simulated()
                .build(NoController, NoScheduler)
                .unwrap(),
        )
    })
}

/// A job on the embedded cluster: a worker with one task that does nothing, whatever it is told.
fn embedded(kind: PhaseKind, jobs: usize) -> report::Result<f64> {
    let (cluster, store, topology) = (EmbeddedCluster::default(), store(), fleet::topology(1)?);
    bytes_each(jobs, &[], |number| {
        let mailbox = Mailbox::new(Limits::default().mailbox_capacity);
        let (run, sender) = (RunId::new(1), mailbox.sender());
        let hosted =
            cluster.start(&OpenRun::without_store(id(number), run), &topology, sender, |_| std::future::pending())?;
        let controller = ClusterController::builder(
            &OpenRun::without_store(id(number), run),
            Arc::clone(&topology),
            Arc::new(hosted),
        );
        let controller = controller.store(Arc::clone(&store)).build();
        driven(
            kind,
            JobContext::builder(&OpenRun::without_store(id(number), run))
                .simulated()
                .mailbox(mailbox)
                .build(controller, cluster.clone())
                .unwrap(),
        )
    })
}

/// A job with one worker over gRPC, which takes every order and answers no stop. Its connection is
/// open in every phase.
fn grpc(kind: PhaseKind, jobs: usize) -> report::Result<f64> {
    let worker = WorkerId::new(1);
    let (workers, store, topology) = (Workers::start(1)?, store(), fleet::topology(1)?);
    workers.behave(0, Some(worker));
    let settle = [Duration::from_millis(100), Duration::from_millis(100), Duration::from_millis(300)];
    bytes_each(jobs, &settle, |number| {
        let open = OpenRun::without_store(id(number), fleet::RUN);
        let transport = fleet::transport(&open, workers.address, &topology)?;
        let opened = Arc::clone(&transport);
        tokio::spawn(async move {
            let command = Command::Checkpoint { epoch: Epoch::new(1), then_stop: false };
            if let Err(error) = opened.send(worker, Order { run: fleet::RUN, command }).await {
                eprintln!("a connection was not opened: {error}");
            }
        });
        let controller = ClusterController::builder(&open, Arc::clone(&topology), transport);
        let controller = controller.store(Arc::clone(&store)).build();
        driven(kind, JobContext::builder(&open).simulated().build(controller, NoScheduler).unwrap())
    })
}

/// The sizes of the futures that a caller holds.
fn futures() -> report::Result<BTreeMap<String, usize>> {
    type Cluster = ClusterController<EmbeddedRun>;
    let (cluster, topology) = (EmbeddedCluster::default(), fleet::topology(1)?);
    let make = |number| -> report::Result<(JobContext<Cluster, EmbeddedCluster>, Running)> {
        let (run, mailbox) = (RunId::new(1), Mailbox::new(1));
        let sender = mailbox.sender();
        let hosted =
            cluster.start(&OpenRun::without_store(id(number), run), &topology, sender, |_| std::future::pending())?;
        let controller = ClusterController::builder(
            &OpenRun::without_store(id(number), run),
            Arc::clone(&topology),
            Arc::new(hosted),
        )
        .build();
        Ok(JobContext::builder(&OpenRun::without_store(id(number), run))
            .simulated()
            .mailbox(mailbox)
            .build(controller, cluster.clone())
            .unwrap())
    };
    let mut sizes = BTreeMap::new();
    macro_rules! next_of {
        ($number:literal, $name:literal, $job:ident, $($make:tt)*) => {{
            let (mut $job, running) = make($number)?;
            let phase = running.$($make)*?;
            sizes.insert(concat!($name, "::next").to_owned(), size_of_val(&phase.next(&mut $job)));
        }};
    }
    let (mut job, running) = make(0)?;
    sizes.insert("Running::next".to_owned(), size_of_val(&running.next(&mut job)));
    next_of!(1, "Finishing", job, finish(&mut job));
    next_of!(2, "Recovering", job, recover(&mut job));
    next_of!(3, "CheckpointStopping", job, stop_with_checkpoint(&mut job));
    next_of!(4, "Stopping<Graceful>", job, stop_gracefully(&mut job));
    next_of!(5, "Stopping<Immediate>", job, stop_immediately(&mut job));
    next_of!(6, "Stopping<Force>", job, force(&mut job));
    let (mut job, running) = make(7)?;
    sizes.insert("drive".to_owned(), size_of_val(&drive(running, &mut job, &Policy::keep_trying())));
    Ok(sizes)
}

/// Ends when it is told to.
async fn until_stopped(mut ctx: TaskContext) -> Result<(), TaskError> {
    while !matches!(ctx.order().await, TaskOrder::Stop(_)) {}
    Ok(())
}

/// So many jobs, asked to stop in one moment, on one thread.
fn at_once(runtime: &Runtime, jobs: usize) -> report::Result<AtOnce> {
    let mut outcome = Ok(Duration::ZERO);
    let counted = allocation_counter::measure(|| {
        outcome = runtime.block_on(async {
            let (cluster, topology, run) = (EmbeddedCluster::default(), fleet::topology(1)?, RunId::new(1));
            let (mut driving, mut senders) = (JoinSet::new(), Vec::with_capacity(jobs));
            for number in 0..jobs as u64 {
                let mailbox = Mailbox::new(Limits::default().mailbox_capacity);
                let hosted = cluster.start(
                    &OpenRun::without_store(id(number), run),
                    &topology,
                    mailbox.sender(),
                    until_stopped,
                )?;
                let controller = ClusterController::builder(
                    &OpenRun::without_store(id(number), run),
                    Arc::clone(&topology),
                    Arc::new(hosted),
                );
                senders.push(mailbox.sender());
                let builder =
                    JobContext::builder(&OpenRun::without_store(id(number), run)).simulated().mailbox(mailbox);
                let (mut job, running) = builder.build(controller.build(), cluster.clone()).unwrap();
                driving.spawn(async move { drive(running, &mut job, &Policy::keep_trying()).await });
            }
            tokio::task::yield_now().await;
            let start = Instant::now();
            for sender in senders {
                sender.request(StopRequest::Graceful)?;
            }
            while let Some(receipt) = driving.join_next().await {
                let receipt = receipt??;
                if receipt.stopped().name() != "drained" {
                    return Err(format!("expected it to drain, got {receipt}").into());
                }
            }
            report::Result::Ok(start.elapsed())
        });
    });
    #[expect(clippy::cast_precision_loss, reason = "of counts far below 2^52")]
    let peak_bytes_per_job = counted.bytes_max as f64 / jobs as f64;
    Ok(AtOnce { jobs, seconds: outcome?.as_secs_f64(), peak_bytes_per_job })
}

fn current_thread() -> report::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Item 6.
pub(super) fn memory(scale: Scale) -> report::Result<Memory> {
    allow_many_files()?;
    let (jobs, grpc_jobs) = (scale.pick(10, 1000, 100_000), scale.pick(3, 100, 1000));
    let mut rows = Vec::new();
    for kind in PHASES {
        rows.push(MemoryRow {
            phase: kind.name().to_owned(),
            at_rest: at_rest(kind, jobs)?,
            machine: machine(kind, jobs)?,
            embedded: embedded(kind, jobs)?,
            grpc: grpc(kind, grpc_jobs)?,
        });
    }
    let futures = current_thread()?.block_on(async { futures() })?;
    let at_once = at_once(&current_thread()?, scale.pick(10, 1000, 100_000))?;
    Ok(Memory { rows, jobs, grpc_jobs, futures, at_once })
}
