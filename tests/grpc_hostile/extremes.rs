//! Options of any size: nobody panics, wherever it would be seen.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use proptest::{prelude::*, test_runner::TestRunner};
use tokio::{net::TcpListener, time::timeout};
use winddown::{
    contracts::{Command, OpenRun, Order, Role, Transport as _},
    grpc::{
        Admission, CallOptions, ControllerOptions, ControllerServer, GrpcTransport, GrpcWorker, GrpcWorkerOptions,
        KeepAlive, tonic::transport::Endpoint,
    },
    mailbox::Mailbox,
    worker::{TaskSpec, WorkerSpec},
};

use crate::{
    measure::alone,
    raw::{METHODS, call_as_another},
    support::*,
};

fn duration() -> impl Strategy<Value = Duration> + Clone {
    prop_oneof![
        4 => Just(Duration::MAX),
        1 => Just(Duration::ZERO),
        1 => Just(Duration::from_nanos(1)),
        2 => Just(ms(20)),
        1 => Just(Duration::from_secs(u64::MAX >> 1)),
        1 => Just(Duration::from_secs(u64::from(u32::MAX))),
    ]
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), Just(64 << 10), Just(usize::MAX)]
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(64), Just(u32::MAX)]
}

fn keep_alive() -> impl Strategy<Value = KeepAlive> {
    (duration(), duration()).prop_map(|(every, timeout)| KeepAlive { every, timeout })
}

fn admission() -> impl Strategy<Value = Admission> {
    (number(), number(), duration(), duration(), number()).prop_map(
        |(connections, per_peer, handshake, idle, reserve)| Admission {
            connections,
            per_peer,
            handshake,
            idle,
            reserve,
        },
    )
}

fn controllers() -> impl Strategy<Value = ControllerOptions> {
    let waits = (duration(), duration(), duration(), duration());
    let counts = (number(), number(), size(), size());
    (waits, counts, admission(), keep_alive()).prop_map(|(waits, counts, admission, keep_alive)| ControllerOptions {
        mailbox_wait: waits.0,
        registration_wait: waits.1,
        body: waits.2,
        drain: waits.3,
        waiting_per_job: counts.0,
        calls_per_connection: counts.1,
        max_message: counts.2,
        arriving: counts.3,
        admission,
        keep_alive,
        ..ControllerOptions::default()
    })
}

fn call_options() -> impl Strategy<Value = CallOptions> {
    (duration(), duration(), keep_alive()).prop_map(|(connect, call, keep_alive)| CallOptions {
        connect,
        call,
        keep_alive,
    })
}

fn workers() -> impl Strategy<Value = GrpcWorkerOptions> {
    let waits = (duration(), duration(), duration(), duration(), duration());
    (waits, call_options(), size(), admission()).prop_map(|(waits, calls, max_message, admission)| GrpcWorkerOptions {
        heartbeat: waits.0,
        grace: waits.1,
        orphan: waits.2,
        backoff_min: waits.3,
        backoff_max: waits.4,
        calls,
        max_message,
        admission,
    })
}

/// Panics of any thread and task.
static PANICS: AtomicU32 = AtomicU32::new(0);

#[test]
fn b13_no_option_of_the_grpc_part_makes_anybody_panic() {
    let _alone = alone();
    let last = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&last);
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        *seen.lock().unwrap() = panic.to_string();
    }));
    let config =
        ProptestConfig { cases: 96, failure_persistence: None, max_shrink_iters: 40, ..ProptestConfig::default() };
    let outcome =
        TestRunner::new(config).run(&(controllers(), workers(), call_options()), |(controller, worker, calls)| {
            let before = PANICS.load(Ordering::Relaxed);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(converse(controller, worker, calls));
            drop(runtime);
            prop_assert_eq!(PANICS.load(Ordering::Relaxed), before, "{}", last.lock().unwrap());
            Ok(())
        });
    drop(std::panic::take_hook());
    outcome.unwrap();
}

/// Whatever comes of it: a worker registers and beats, a stranger calls, an order goes out, and each is asked to leave.
async fn converse(options: ControllerOptions, worker_options: GrpcWorkerOptions, calls: CallOptions) {
    let _ = worker_options.worst_orphan();
    let server = ControllerServer::new(options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let transport = Arc::new(GrpcTransport::new(&OpenRun::without_store(JOB, RUN), topology(1)).options(calls));
    let mailbox = Mailbox::new(8);
    let registration = server.register(Arc::clone(&transport), mailbox.sender()).unwrap();
    let serving = tokio::spawn(async move { server.serve(listener, tokio::time::sleep(ms(40))).await });
    let spec = WorkerSpec { run: RUN, worker: worker(1), tasks: vec![TaskSpec::new(task(1), Role::Source)] };
    let kit = GrpcWorker::new(JOB, spec, topology(1), address.to_string())
        .options(worker_options)
        .notice(worker_options.orphan);
    let kit = kit.leave_on(tokio::time::sleep(ms(20)));
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let working = tokio::spawn(kit.serve(at, |mut ctx| async move {
        ctx.order().await;
        Ok(())
    }));
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let stranger = tokio::spawn(call_as_another(channel, METHODS[0], vec![0; 8 << 10]));
    let order = Order { run: RUN, command: Command::Checkpoint { epoch: 1.into(), then_stop: true } };
    let _ = timeout(ms(30), transport.send(worker(1), order)).await;
    tokio::time::sleep(ms(20)).await;
    drop(registration);
    for task in [working.abort_handle(), stranger.abort_handle(), serving.abort_handle()] {
        task.abort();
    }
}
