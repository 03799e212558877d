//! What a bad network does to a shutdown, in simulation. Each test prints its seeds;
//! `WINDDOWN_SEED=n` runs one of them again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::network::*;
use crate::support::{Committed, JOB, RUN, Store, exactly_once, ms, task, topology, worker};
use tokio::time::{Instant, sleep, timeout};
use winddown::{
    AnyStopped, ClusterController, Epoch, JobContext, JobController, Limits, OpenRun, Policy, Receipt, Role, Running,
    StopRequest,
    contracts::{Command, Order, Transport, WorkerStopMode},
    drive,
    grpc::{
        CallOptions, ControllerOptions, ControllerServer, Departure, GrpcTransport, GrpcWorker, GrpcWorkerOptions,
        Registration, WorkerAddresses,
        proto::arroyo_rpc::{
            CheckpointReq, CheckpointResp, CommitReq, CommitResp, JobFinishedReq, JobFinishedResp, StopExecutionReq,
            StopExecutionResp,
            worker_grpc_server::{WorkerGrpc, WorkerGrpcServer},
        },
        tonic::{Request, Response, Status, async_trait, transport::Server},
    },
    worker::{TaskSpec, WorkerSpec},
};

const PORT: u16 = 9190;
const CONTROLLER: &str = "controller";

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn name(number: u64) -> String {
    format!("worker-{number}")
}

/// What a test sees of all hosts.
#[derive(Clone, Default)]
struct World {
    hosts: Hosts,
    store: Arc<Store>,
    committed: Committed,
    departures: Arc<Mutex<BTreeMap<u64, (Departure, Duration)>>>,
}

impl World {
    fn departure(&self, number: u64) -> Option<(Departure, Duration)> {
        self.departures.lock().unwrap().get(&number).copied()
    }

    /// Adds a host with a worker that hosts the kit, with default options.
    fn add_worker(&self, sim: &mut turmoil::Sim<'_>, number: u64, of: u64) {
        let world = self.clone();
        sim.client(name(number), async move {
            let spec =
                WorkerSpec { run: RUN, worker: worker(number), tasks: vec![TaskSpec::new(task(number), Role::Source)] };
            let kit = GrpcWorker::new(JOB, spec, topology(of), format!("http://{CONTROLLER}:{PORT}"));
            let address = format!("http://{}:{PORT}", name(number));
            let committed = world.committed.clone();
            let served = kit
                .connect_with(connect())
                .serve_with_incoming(incoming(PORT).await, address, move |ctx| exactly_once(ctx, committed.clone()));
            if let Some(departure) = world.hosts.run(worker(number), served).await {
                world.departures.lock().unwrap().insert(number, (departure?, turmoil::sim_elapsed().unwrap()));
            }
            Ok(())
        });
    }

    /// The controller's side, on the host that it is called on.
    fn job(&self, of: u64) -> (JobContext<ClusterController<GrpcTransport>, Hosts>, Running, Registration) {
        let limits = Limits { checkpoint_every: None, ..Limits::default() };
        let transport =
            Arc::new(GrpcTransport::new(&OpenRun::without_store(JOB, RUN), topology(of)).connect_with(connect()));
        let controller =
            ClusterController::builder(&OpenRun::without_store(JOB, RUN), topology(of), Arc::clone(&transport))
                .limits(limits.clone())
                .store(Arc::clone(&self.store) as Arc<_>)
                .build();
        let (job, running) = JobContext::builder(&OpenRun::without_store(JOB, RUN))
            .simulated()
            .limits(limits)
            .build(controller, self.hosts.clone())
            .unwrap();
        let server = ControllerServer::new(ControllerOptions {
            addresses: WorkerAddresses::Names,
            ..ControllerOptions::default()
        });
        let registration = server.register(transport, job.sender()).unwrap();
        serve(&server, PORT);
        (job, running, registration)
    }
}

/// Stops a job of three workers with a final checkpoint, two seconds after its start; `fault`
/// happens to the network then.
fn checkpoint_stop(seed: u64, latency: Duration, fault: impl Future<Output = ()> + 'static) -> (World, Receipt) {
    let mut sim = simulation(seed, ms(5), latency);
    let world = World::default();
    for number in 1..=3 {
        world.add_worker(&mut sim, number, 3);
    }
    let receipt = Arc::new(Mutex::new(None));
    let (here, told) = (world.clone(), Arc::clone(&receipt));
    sim.client(CONTROLLER, async move {
        let (mut job, running, _registration) = here.job(3);
        sleep(secs(2)).await;
        job.sender().request(StopRequest::Checkpoint).unwrap();
        tokio::task::spawn_local(fault);
        *told.lock().unwrap() = Some(drive(running, &mut job, &Policy::escalate()).await?);
        Ok(())
    });
    sim.run().unwrap();
    let receipt = receipt.lock().unwrap().take().unwrap();
    (world, receipt)
}

/// How long it took.
fn assert_checkpointed(world: &World, receipt: &Receipt) -> Duration {
    let AnyStopped::Checkpointed(stopped) = &receipt.stopped() else { panic!("{:?}", receipt.stopped()) };
    assert_eq!(stopped.evidence().epoch(), Epoch::new(1));
    assert_eq!(world.store.last().unwrap().tasks.len(), 3);
    assert_eq!(world.committed.all().len(), 3);
    receipt.elapsed()
}

#[test]
fn a_slow_network_only_takes_longer() {
    let longest = with_seeds(4, |seed| {
        let (world, receipt) = checkpoint_stop(seed, secs(1), async {});
        for number in 1..=3 {
            assert_eq!(world.departure(number).map(|(how, _)| how), Some(Departure::Released), "worker {number}");
        }
        assert_checkpointed(&world, &receipt)
    });
    assert!(longest >= secs(2), "the network was not slow: {longest:?}");
}

/// Messages vanish both ways. What was under way is lost with its connection, found out by pings,
/// and sent again on another.
#[test]
fn a_partition_that_heals_loses_no_completion() {
    let longest = with_seeds(6, |seed| {
        let (world, receipt) = checkpoint_stop(seed, ms(50), async move {
            // From before the order to after the snapshots: each seed cuts somewhere else.
            sleep(ms((seed - 1) * 35)).await;
            turmoil::partition(CONTROLLER, name(2));
            sleep(secs(12)).await;
            turmoil::repair(CONTROLLER, name(2));
        });
        assert_checkpointed(&world, &receipt)
    });
    assert!(longest >= secs(12), "no seed cut anything off: {longest:?}");
}

/// Half-open: the orders arrive, and nothing comes back; or the other way round.
#[test]
fn a_half_open_connection_loses_no_completion() {
    for orders_arrive in [true, false] {
        let longest = with_seeds(4, |seed| {
            let (world, receipt) = checkpoint_stop(seed, ms(50), async move {
                sleep(ms((seed - 1) * 35)).await;
                let (from, to) =
                    if orders_arrive { (name(2), CONTROLLER.into()) } else { (CONTROLLER.into(), name(2)) };
                turmoil::partition_oneway(from.clone(), to.clone());
                sleep(secs(12)).await;
                turmoil::repair_oneway(from, to);
            });
            assert_checkpointed(&world, &receipt)
        });
        assert!(longest >= secs(12), "no seed cut anything off: {longest:?}");
    }
}

/// Messages are held back, and all come at once: those of given-up connections too, after those of
/// newer ones.
#[test]
fn messages_that_come_late_from_older_connections_do_no_harm() {
    let longest = with_seeds(6, |seed| {
        let (world, receipt) = checkpoint_stop(seed, ms(50), async move {
            sleep(ms((seed - 1) * 35)).await;
            turmoil::hold(CONTROLLER, name(2));
            sleep(secs(8)).await;
            turmoil::release(CONTROLLER, name(2));
        });
        assert_checkpointed(&world, &receipt)
    });
    assert!(longest >= secs(8), "no seed held anything back: {longest:?}");
}

/// A partition that never heals: the run fails as soon as the worker is lost, the scheduler kills
/// what is left, and a worker that nobody could kill would have stopped by itself.
#[test]
fn a_partition_that_never_heals_ends_within_the_bounds() {
    with_seeds(3, |seed| {
        let mut sim = simulation(seed, ms(5), ms(50));
        let world = World::default();
        for number in 1..=2 {
            world.add_worker(&mut sim, number, 3);
        }
        // The third is out of the scheduler's reach, too.
        let alone = World { committed: world.committed.clone(), ..World::default() };
        alone.add_worker(&mut sim, 3, 3);
        let (here, limits) = (world.clone(), Limits::default());
        let options = GrpcWorkerOptions::default();
        sim.client(CONTROLLER, async move {
            let (mut job, running, _registration) = here.job(3);
            sleep(secs(2)).await;
            turmoil::partition(CONTROLLER, name(3));
            let cut = Instant::now();
            job.sender().request(StopRequest::Checkpoint).unwrap();
            let receipt = drive(running, &mut job, &Policy::escalate()).await?;
            assert!(matches!(receipt.stopped(), AnyStopped::Killed(_)), "{:?}", receipt.stopped());
            let bound = limits.heartbeat + limits.health_every + limits.kill;
            assert!(cut.elapsed() <= bound, "{:?}", cut.elapsed());
            Ok(())
        });
        sim.run().unwrap();
        let (how, when) = alone.departure(3).unwrap();
        assert_eq!(how, Departure::Orphaned);
        let bound = secs(2) + ms(100) + options.worst_orphan() + options.calls.call;
        assert!(when <= bound, "it left at {when:?}");
        assert_eq!(world.store.last(), None, "no checkpoint without the third worker");
        when
    });
}

/// A worker that sends no pings of its own, as those of other families may, is found out by ours:
/// else the connection that the partition has broken would be used for ever.
#[test]
fn a_worker_that_sends_no_pings_is_reached_again_after_a_partition() {
    let mut sim = simulation(1, ms(5), ms(50));
    let arrivals = Arrivals::default();
    let arrived = Arc::clone(&arrivals);
    sim.host("plain", move || {
        let slow = Slow { number: 1, answers: true, arrivals: Arc::clone(&arrived) };
        plain(slow)
    });
    sim.client(CONTROLLER, async move {
        let transport = GrpcTransport::new(&OpenRun::without_store(JOB, RUN), topology(1)).connect_with(connect());
        transport.set_address(worker(1), &format!("plain:{PORT}"))?;
        let send = |epoch| {
            let command = Command::Checkpoint { epoch: Epoch::new(epoch), then_stop: false };
            transport.send(worker(1), Order { run: RUN, command })
        };
        let reached = |epoch| arrivals.lock().unwrap().contains_key(&epoch);
        send(1).await?;
        turmoil::partition(CONTROLLER, "plain");
        send(2).await?; // it may have arrived, so it is not repeated
        sleep(secs(12)).await;
        turmoil::repair(CONTROLLER, "plain");
        // The first may still meet the end of the old connection.
        let _ = send(3).await;
        let _ = send(4).await;
        assert!(reached(1) && !reached(2) && reached(4));
        Ok(())
    });
    sim.run().unwrap();
}

async fn plain(slow: Slow) -> turmoil::Result {
    let incoming = Box::pin(incoming(PORT).await);
    Server::builder().add_service(WorkerGrpcServer::new(slow)).serve_with_incoming(incoming).await?;
    Ok(())
}

/// When each worker was told to stop, by number; when a checkpoint arrived, by epoch.
type Arrivals = Arc<Mutex<BTreeMap<u64, Duration>>>;

/// A worker that takes 50 ms for an order, or never answers.
struct Slow {
    number: u64,
    answers: bool,
    arrivals: Arrivals,
}

#[async_trait]
impl WorkerGrpc for Slow {
    async fn checkpoint(&self, request: Request<CheckpointReq>) -> Result<Response<CheckpointResp>, Status> {
        self.arrivals.lock().unwrap().insert(request.get_ref().epoch, turmoil::sim_elapsed().unwrap());
        Ok(Response::new(CheckpointResp {}))
    }

    async fn commit(&self, _: Request<CommitReq>) -> Result<Response<CommitResp>, Status> {
        Err(Status::unimplemented("no"))
    }

    async fn stop_execution(&self, _: Request<StopExecutionReq>) -> Result<Response<StopExecutionResp>, Status> {
        self.arrivals.lock().unwrap().entry(self.number).or_insert_with(|| turmoil::sim_elapsed().unwrap());
        if !self.answers {
            std::future::pending::<()>().await;
        }
        sleep(ms(50)).await;
        Ok(Response::new(StopExecutionResp {}))
    }

    async fn job_finished(&self, _: Request<JobFinishedReq>) -> Result<Response<JobFinishedResp>, Status> {
        Err(Status::unimplemented("no"))
    }
}

/// The original tells one worker after the other: 25.8 s for 500 such workers, and no end with one
/// that never answers.
#[test]
fn i9_a_thousand_workers_are_told_at_once_whatever_the_others_do() {
    const WORKERS: u64 = 1000;
    // The first worker is on a host that is cut off, the second at a port where nobody listens, the
    // third never answers.
    let (cut_off, nobody, mute) = (1, 2, 3);
    let mut sim = simulation(1, ms(1), ms(10));
    let arrivals = Arrivals::default();
    let (port, on_hosts) = (|number: u64| u16::try_from(10_000 + number).unwrap(), Arc::clone(&arrivals));
    sim.client("dark", async {
        sleep(secs(10)).await;
        Ok(())
    });
    sim.host("workers", move || {
        let arrivals = Arc::clone(&on_hosts);
        async move {
            for number in mute..=WORKERS {
                let slow = Slow { number, answers: number != mute, arrivals: Arc::clone(&arrivals) };
                let incoming = Box::pin(incoming(port(number)).await);
                let server = Server::builder().add_service(WorkerGrpcServer::new(slow));
                tokio::spawn(server.serve_with_incoming(incoming));
            }
            std::future::pending().await
        }
    });
    sim.client(CONTROLLER, async move {
        let transport =
            GrpcTransport::new(&OpenRun::without_store(JOB, RUN), topology(WORKERS)).connect_with(connect());
        let transport = transport.options(CallOptions::default());
        turmoil::partition(CONTROLLER, "dark");
        for number in 1..=WORKERS {
            let host = if number == cut_off { "dark" } else { "workers" };
            let address = format!("http://{host}:{}", if number == nobody { 9 } else { port(number) });
            transport.set_address(worker(number), &address)?;
        }
        let mut controller =
            ClusterController::builder(&OpenRun::without_store(JOB, RUN), topology(WORKERS), Arc::new(transport))
                .build();
        sleep(secs(1)).await;
        controller.begin_stop(WorkerStopMode::Graceful);
        let begun = turmoil::sim_elapsed().unwrap();
        let _ = timeout(secs(2), async {
            while controller.status().orders_outstanding > 3 {
                controller.progress().await.unwrap();
            }
        })
        .await;
        assert_eq!(controller.status().orders_outstanding, 3, "all but the sick ones have answered");
        assert!(turmoil::sim_elapsed().unwrap() <= begun + ms(500));
        let arrivals = arrivals.lock().unwrap();
        assert_eq!(arrivals.len(), 998, "all but the two that can't be reached");
        let last = arrivals.values().max().copied().unwrap();
        // Three round trips (TCP, HTTP/2 settings, the call) at 10 ms each way, with room.
        assert!(last <= begun + ms(100), "ordered at {begun:?}, the last worker was told at {last:?}");
        Ok(())
    });
    sim.run().unwrap();
}
