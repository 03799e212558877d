//! What a worker makes of answers, and the controller of what workers say: who is believed, what is
//! told, and what of it is shown.

use std::{
    convert::Infallible,
    fmt::Write as _,
    sync::{Arc, Mutex},
};

use prost::Message as _;
use tokio::{net::TcpListener, sync::oneshot};
use tracing::{Subscriber, field::Visit};
use tracing_subscriber::{Layer, layer::SubscriberExt as _};
use winddown::{
    contracts::StopRequest,
    drive::{Policy, drive},
    grpc::{
        proto::arroyo_rpc::{RegisterWorkerReq, TaskFailedReq, WorkerContext},
        tonic::{
            Code, Status,
            body::Body,
            codegen::http::{Request, Response},
            transport::{Endpoint, Server, server::TcpIncoming},
        },
    },
    machine::AnyStopped,
};

use crate::{raw::call, support::*};

/// Another server at the controller's address, which knows none of its services.
struct Stranger {
    asked: Arc<Mutex<Vec<String>>>,
    leaves: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

impl Stranger {
    async fn at(address: std::net::SocketAddr, code: Code) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (asked, (leaves, left)) = (Arc::<Mutex<Vec<String>>>::default(), oneshot::channel());
        let heard = Arc::clone(&asked);
        let answer = tower::service_fn(move |request: Request<Body>| {
            heard.lock().unwrap().push(request.uri().path().to_owned());
            std::future::ready(Ok::<Response<Body>, Infallible>(Status::new(code, "who are you?").into_http()))
        });
        let served = tokio::spawn(async move {
            let until = async { drop(left.await) };
            let incoming = TcpIncoming::from(listener);
            Server::builder().serve_with_incoming_shutdown(answer, incoming, until).await.unwrap();
        });
        Self { asked, leaves, served }
    }

    async fn leave(self) {
        drop(self.leaves);
        self.served.await.unwrap();
    }
}

/// "Unimplemented" is the usual answer of whoever else listens there. It says nothing about the
/// report.
#[tokio::test]
async fn i6_b5_what_another_server_answers_for_a_moment_loses_no_report() {
    for code in [Code::Unimplemented, Code::InvalidArgument, Code::OutOfRange] {
        let (mut bench, mut job, running) = Bench::new(2).await;
        for number in 1..=2 {
            bench.healthy(number).await;
            let transport = &bench.transport;
            eventually("the worker to register", || transport.address(worker(number)).is_some()).await;
        }
        bench.port.close().await;
        let stranger = Stranger::at(bench.port.address, code).await;
        job.sender().request(StopRequest::Checkpoint).unwrap();
        let policy = Policy::give_back();
        let stop = drive(running, &mut job, &policy);
        let turns = async {
            eventually("both workers to have asked the stranger", || {
                let asked = stranger.asked.lock().unwrap();
                asked.iter().filter(|path| !path.ends_with("/Heartbeat")).count() >= 4
            })
            .await;
            stranger.leave().await;
            bench.port.open_again().await;
        };
        let (receipt, ()) = tokio::join!(stop, turns);
        let receipt = receipt.unwrap();
        assert!(matches!(receipt.stopped(), AnyStopped::Checkpointed(_)), "{code:?}: {receipt}");
    }
}

/// Everything that winddown logs on this thread, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Text<'a>(&'a mut String);
        impl Visit for Text<'_> {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                let _ = write!(self.0, " {field}={value:?}");
            }

            fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
                let _ = write!(self.0, " {field}={value}");
            }
        }
        if !event.metadata().target().starts_with("winddown") {
            return;
        }
        let mut log = self.0.lock().unwrap();
        event.record(&mut Text(&mut log));
        log.push('\n');
    }
}

#[tokio::test]
async fn b6_a_state_that_is_too_large_fails_its_task_and_is_in_no_log() {
    let log = Log::default();
    let _logged = tracing::subscriber::set_default(tracing_subscriber::registry().with(log.clone()));
    let (bench, mut job, running) = Bench::new(1).await;
    let ended = Arc::new(());
    let lives = Arc::clone(&ended);
    bench
        .kit(1, move |mut ctx| {
            let lives = Arc::clone(&lives);
            async move {
                while let winddown::worker::TaskOrder::Checkpoint(barrier) = ctx.order().await {
                    let secret = "password=hunter2;".repeat((5 << 20) / 17);
                    ctx.events().checkpointed(barrier.epoch, secret.into(), None).await?;
                }
                drop(lives);
                Ok(())
            }
        })
        .await;
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let failure = stopping.next(&mut job).await.unwrap_err();
    let said = failure.error().to_string();
    assert!(said.contains("task 0/0 on worker 1 failed: the controller will never accept its report"), "{said}");
    assert!(said.contains("the limit is: 4194304 bytes"), "{said}");
    assert!(!said.contains("hunter2"));
    eventually("the task to be gone", || Arc::strong_count(&ended) == 1).await;
    let log = log.0.lock().unwrap();
    assert!(log.contains("will never accept this report") && log.contains("bytes"), "{log}");
    assert!(!log.contains("hunter2") && log.len() < 64 << 10, "{} bytes are logged", log.len());
}

fn register(address: &str) -> Vec<u8> {
    let context = WorkerContext { worker_id: 1, job_id: JOB.into(), generation: RUN.get(), ..Default::default() };
    RegisterWorkerReq { worker_context: Some(context), rpc_address: address.into(), ..Default::default() }
        .encode_to_vec()
}

const REGISTER: &str = "arroyo_rpc.ControllerGrpc/RegisterWorker";

#[tokio::test]
async fn b7_a_refused_address_changes_nothing_and_a_new_one_is_honoured() {
    let (bench, _job, _running) = Bench::new(1).await;
    let channel = Endpoint::from_shared(format!("http://{}", bench.port.address)).unwrap().connect_lazy();
    // Whoever connects to one of them is seen.
    let [first, second] =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let [here, there] = [first.local_addr().unwrap(), second.local_addr().unwrap()];
    call(channel.clone(), REGISTER, register(&here.to_string())).await.unwrap();
    let known = bench.transport.address(worker(1));
    for address in
        ["unix:///var/run/docker.sock", "http://metadata.google.internal:80", "http://169.254.169.254:80", ""]
    {
        let status = call(channel.clone(), REGISTER, register(address)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{address}");
        assert_eq!(bench.transport.address(worker(1)), known, "{address}");
    }
    call(channel.clone(), REGISTER, register(&there.to_string())).await.unwrap();
    let order = winddown::contracts::Order { run: RUN, command: winddown::contracts::Command::Release };
    let sent = winddown::contracts::Transport::send(&*bench.transport, worker(1), order);
    tokio::select! {
        accepted = second.accept() => drop(accepted.unwrap()),
        accepted = first.accept() => panic!("the order went to the old address: {accepted:?}"),
        sent = sent => panic!("nobody has answered: {sent:?}"),
    }
}

/// What a worker says is shown in one line, and moves no cursor.
#[tokio::test]
async fn b11_a_workers_words_are_shown_as_words() {
    let (bench, mut job, running) = Bench::new(1).await;
    let channel = Endpoint::from_shared(format!("http://{}", bench.port.address)).unwrap().connect_lazy();
    let context = WorkerContext { worker_id: 1, job_id: JOB.into(), generation: RUN.get(), ..Default::default() };
    let words = format!("\u{1b}[2J\u{1b}]0;owned\u{7}all is well\nINFO stopped cleanly\u{202e}{}", "x".repeat(1 << 20));
    let error = winddown::grpc::proto::arroyo_rpc::TaskError { error: words, ..Default::default() };
    let failed = TaskFailedReq { worker_context: Some(context), error: Some(error), time: 1 };
    call(channel, "arroyo_rpc.JobControllerGrpc/TaskFailed", failed.encode_to_vec()).await.unwrap();
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let failure = stopping.next(&mut job).await.unwrap_err();
    let shown = failure.error().to_string();
    assert!(shown.contains("\\u{1b}[2J\\u{1b}]0;owned\\u{7}all is well\\nINFO stopped cleanly\\u{202e}xxx"), "{shown}");
    assert!(!shown.chars().any(char::is_control) && shown.len() < 20 << 10, "{} bytes", shown.len());
}
