//! A worker process: the tasks of one worker, served over gRPC.
//!
//! It leaves when the controller releases it, on SIGTERM, when the scheduler that started it is
//! gone, and when no controller accepts its reports any more: its tasks stop where they are, it
//! delivers its last reports, then it exits. Ctrl-C does not reach it: it is in a process group of
//! its own.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use winddown::{
    grpc::{Departure, GrpcWorker},
    process::WorkerEnv,
    worker::WorkerSpec,
};

use super::{assignment::Assignment, remote::meter_of};
use crate::{
    meter::Meter,
    tasks::{Parts, topology},
};

/// A pod's own address, by the downward API. A process that has it is in a pod.
const POD_IP: &str = "POD_IP";
/// Below a pod's 30 s from SIGTERM to SIGKILL.
const NOTICE: Duration = Duration::from_secs(20);

/// How long a thread that is busy with a file may take at the end.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Runs this process as the worker that `env` says, on the assignment that the command line names.
pub(crate) fn main(env: WorkerEnv) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        let departure = runtime.block_on(work(env));
        runtime.shutdown_timeout(LAST_WRITE);
        departure
    });
    match result {
        Ok(Departure::Released) => ExitCode::SUCCESS,
        Ok(Departure::Orphaned) => fail("no controller accepts anything from this worker any more"),
        Err(error) => fail(&error.to_string()),
    }
}

async fn work(env: WorkerEnv) -> Result<Departure, Box<dyn std::error::Error>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let path = std::env::args_os().nth(1).map(PathBuf::from).ok_or("expected the path of an assignment, got none")?;
    let mut assignment = Assignment::read(&path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    let meter = Meter::shared(&meter_of(&path), assignment.workers)?;
    let spec = WorkerSpec { run: env.run, worker: env.worker, tasks: assignment.tasks() };
    let mut parts: Parts = assignment.work.parts(assignment.from, &meter);
    let worker = GrpcWorker::new(env.job.clone(), spec, topology(assignment.workers)?, env.controller.clone());
    let leave = async move {
        tokio::select! {
            _ = terminated.recv() => eprintln!("leaving: SIGTERM"),
            // Where it can't be watched, the watchdog still ends this process with the scheduler.
            Ok(()) = env.lifeline() => eprintln!("leaving: the scheduler is gone"),
        }
    };
    let mut worker = worker.leave_on(leave);
    let mut address: IpAddr = Ipv4Addr::LOCALHOST.into();
    if let Ok(own) = std::env::var(POD_IP) {
        address = own.parse().map_err(|error| format!("{POD_IP}, `{own}`: {error}"))?;
        // SIGTERM is an eviction as often as a stop: there is time for a final checkpoint.
        worker = worker.notice(NOTICE);
    }
    let listener = TcpListener::bind((address, 0)).await?;
    Ok(worker.serve(listener, |ctx| parts.start(ctx)).await?)
}

/// Standard error is a file of the scheduler.
fn fail(reason: &str) -> ExitCode {
    eprintln!("wordcount worker: {reason}");
    ExitCode::FAILURE
}
