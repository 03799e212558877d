//! A stop order on its way to many workers, and what one sick worker does to the others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use nix::sys::resource::UsageWho;
use tokio::runtime::Runtime;
use winddown::{
    ClusterController, JobController, Limits, OpenRun, Topology, WorkerId, contracts::WorkerStopMode,
    grpc::GrpcTransport,
};

use super::{
    Scale,
    fleet::{self, Client, JOB, RUN, Workers, allow_many_files, call, clients, multi_thread},
    interleave::{Contender, interleave, micros, processor_time},
};
use crate::report::{
    Result,
    data::{FanOut, FanOutRow, Samples, SickWorker, median_ratio},
};

/// One call after the other takes as long as all handlers together. What would take longer than
/// this is measured once.
const PATIENCE: Duration = Duration::from_secs(2);

/// The workers of one size of run, and both kinds of connections to them.
struct Bench {
    runtime: Runtime,
    workers: Workers,
    topology: Arc<Topology>,
    transport: Arc<GrpcTransport>,
    clients: Vec<Client>,
}

impl Bench {
    fn new(number: usize) -> Result<Self> {
        allow_many_files()?;
        let runtime = multi_thread()?;
        let workers = Workers::start(number)?;
        let topology = fleet::topology(number)?;
        let transport = fleet::transport(&OpenRun::without_store(JOB, RUN), workers.address, &topology)?;
        let clients = {
            let _entered = runtime.enter();
            clients(workers.address, number)?
        };
        Ok(Self { runtime, workers, topology, transport, clients })
    }

    fn controller(&self) -> ClusterController<GrpcTransport> {
        let limits = Limits { order: Duration::from_secs(30), ..Limits::default() };
        let transport = Arc::clone(&self.transport);
        ClusterController::builder(&OpenRun::without_store(JOB, RUN), Arc::clone(&self.topology), transport)
            .limits(limits)
            .build()
    }

    /// Our controller, until every worker has answered.
    fn ours(&self) -> Result<f64> {
        self.runtime.block_on(async {
            let mut controller = self.controller();
            let start = Instant::now();
            controller.begin_stop(WorkerStopMode::Graceful);
            while controller.status().orders_outstanding > 0 {
                controller.progress().await?;
            }
            let took = start.elapsed();
            self.all_arrived(start)?;
            Ok(micros(took))
        })
    }

    fn join_all(&self) -> Result<f64> {
        self.runtime.block_on(async {
            let start = Instant::now();
            let calls = (1..).zip(&self.clients).map(|(number, client)| call(client.clone(), number, None));
            for answer in join_all(calls).await {
                answer?;
            }
            let took = start.elapsed();
            self.all_arrived(start)?;
            Ok(micros(took))
        })
    }

    fn one_after_the_other(&self) -> Result<f64> {
        self.runtime.block_on(async {
            let start = Instant::now();
            for (number, client) in (1..).zip(&self.clients) {
                call(client.clone(), number, None).await?;
            }
            let took = start.elapsed();
            self.all_arrived(start)?;
            Ok(micros(took))
        })
    }

    fn one_call(&self) -> Result<f64> {
        let client = self.clients.first().ok_or("expected a worker")?;
        self.runtime.block_on(async {
            let start = Instant::now();
            call(client.clone(), 1, None).await?;
            Ok(micros(start.elapsed()))
        })
    }

    fn all_arrived(&self, since: Instant) -> Result<()> {
        match self.workers.arrived(since) {
            all if all == self.clients.len() => Ok(()),
            some => Err(format!("the order arrived at {some} of {} workers", self.clients.len()).into()),
        }
    }

    /// Our controller, until the order has arrived at every healthy worker. It does not wait for
    /// the sick one.
    fn ours_arrival(&self) -> Result<f64> {
        self.runtime.block_on(async {
            let mut controller = self.controller();
            let start = Instant::now();
            controller.begin_stop(WorkerStopMode::Graceful);
            loop {
                let _ = tokio::time::timeout(Duration::from_millis(20), controller.progress()).await;
                if let Some(last) = self.workers.last_arrival(start) {
                    return Ok(last);
                }
                if start.elapsed() > Duration::from_secs(20) {
                    return Err("the order did not arrive at every healthy worker within 20 s".into());
                }
            }
        })
    }

    /// One after the other with a limit for each call, until the order has arrived at every healthy
    /// worker.
    fn one_after_the_other_arrival(&self, limit: Duration) -> Result<f64> {
        self.runtime.block_on(async {
            let start = Instant::now();
            for (number, client) in (1..).zip(&self.clients) {
                // An answer that does not come is the point.
                let _ = call(client.clone(), number, Some(limit)).await;
            }
            self.workers.last_arrival(start).ok_or_else(|| "the order did not arrive".into())
        })
    }
}

/// Item 1: 1 to 1,000 workers, whose handlers take 0 to 50 ms.
pub(super) fn fan_out(scale: Scale) -> Result<FanOut> {
    let mut rows = Vec::new();
    for &workers in scale.pick(&[1, 3][..], &[1, 10, 100], &[1, 10, 100, 1000]) {
        let bench = Bench::new(workers)?;
        bench.workers.behave(0, None);
        let first = bench.ours()?;
        bench.join_all()?;
        for &handler_ms in scale.pick(&[0, 1][..], &[0, 10, 50], &[0, 10, 50]) {
            bench.workers.behave(handler_ms, None);
            rows.push(row(&bench, handler_ms, first, scale)?);
        }
    }
    Ok(FanOut { rows })
}

fn row(bench: &Bench, handler_ms: u64, first: f64, scale: Scale) -> Result<FanOutRow> {
    let workers = bench.clients.len();
    // Of ours, and of `join_all`.
    let mut processor: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let [ours_processor, join_all_processor] = &mut processor;
    let mut contenders: [Contender; 3] = [
        Box::new(|| bench.one_call()),
        Box::new(|| counted(ours_processor, || bench.ours())),
        Box::new(|| counted(join_all_processor, || bench.join_all())),
    ];
    let mut figures = interleave(scale.pick(2, 7, 15), &mut contenders)?;
    drop(contenders);
    let start = Instant::now();
    let mut sequential = vec![bench.one_after_the_other()?];
    if start.elapsed() < PATIENCE {
        for _ in 1..scale.pick(2, 3, 5) {
            sequential.push(bench.one_after_the_other()?);
        }
    }
    let (floor, ours, join_all) = (figures.remove(0), figures.remove(0), figures.remove(0));
    Ok(FanOutRow {
        workers,
        handler_ms,
        over_floor: median_ratio(&ours, &floor),
        over_join_all: median_ratio(&ours, &join_all),
        floor: Samples::of(floor),
        ours: Samples::of(ours),
        join_all: Samples::of(join_all),
        sequential: Samples::of(sequential),
        ours_processor: Samples::of(processor[0].clone()),
        join_all_processor: Samples::of(processor[1].clone()),
        first,
    })
}

/// Measures, and notes the processor time of it: ours, the workers' and the kernel's.
fn counted(processor: &mut Vec<f64>, measure: impl FnOnce() -> Result<f64>) -> Result<f64> {
    let before = processor_time(UsageWho::RUSAGE_SELF)?;
    let figure = measure()?;
    processor.push(micros(processor_time(UsageWho::RUSAGE_SELF)?.saturating_sub(before)));
    Ok(figure)
}

/// Item 2: one of 1,000 never answers.
pub(super) fn sick_worker(scale: Scale) -> Result<SickWorker> {
    let bench = Bench::new(scale.pick(5, 100, 1000))?;
    let handler_ms = scale.pick(1, 10, 10);
    // The first one: nobody is asked before it.
    let sick = Some(WorkerId::new(1));
    bench.workers.behave(0, None);
    bench.ours()?;
    bench.join_all()?;
    let arrival = |sick: Option<WorkerId>| {
        bench.workers.behave(handler_ms, sick);
        bench.ours_arrival()
    };
    let mut contenders: [Contender; 2] = [Box::new(|| arrival(None)), Box::new(|| arrival(sick))];
    let figures = interleave(scale.pick(3, 11, 41), &mut contenders)?;
    let limit = scale.pick(Duration::from_millis(50), Duration::from_secs(1), Duration::from_secs(5));
    bench.workers.behave(0, sick);
    let sequential = bench.one_after_the_other_arrival(limit)?;
    Ok(SickWorker {
        workers: bench.clients.len(),
        ratio: median_ratio(&figures[1], &figures[0]),
        healthy: Samples::of(figures[0].clone()),
        sick: Samples::of(figures[1].clone()),
        sequential_limit_ms: u64::try_from(limit.as_millis())?,
        sequential: Samples::of(vec![sequential]),
    })
}
