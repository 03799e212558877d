//! Connections: too many, silent, slow, deaf.

use std::time::Duration;

use tokio::time::sleep;
use winddown::{
    contracts::StopRequest,
    drive::{Policy, drive},
    grpc::{Admission, ControllerOptions},
    machine::{AnyStopped, Running},
};

use crate::{
    attacks::Attack,
    measure::{Descriptors, alone, descriptors, ticks},
    support::*,
};

fn strict() -> ControllerOptions {
    let admission = Admission { handshake: ms(500), idle: ms(900), ..Admission::default() };
    ControllerOptions { admission, ..port_options() }
}

/// A job of two healthy workers behind a port with these options.
async fn job(options: ControllerOptions) -> (Bench, Job, Running) {
    let (bench, job, running) = Bench::behind(Port::open_with(options).await, topology(2), limits());
    for number in 1..=2 {
        bench.healthy(number).await;
    }
    for number in 1..=2 {
        let transport = &bench.transport;
        eventually("the workers to register", || transport.address(worker(number)).is_some()).await;
    }
    (bench, job, running)
}

async fn stop(mut job: Job, running: Running, request: StopRequest) -> AnyStopped {
    job.sender().request(request).unwrap();
    let receipt = tokio::time::timeout(Duration::from_secs(30), drive(running, &mut job, &Policy::give_back())).await;
    receipt.unwrap().unwrap().into_stopped()
}

/// They take what the process has, up to what a stop needs; and nobody spins for what is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_b3_silent_connections_take_neither_the_cpu_nor_the_descriptors_of_a_stop() {
    let _alone = alone();
    let (bench, job, running) = job(port_options()).await;
    let limit = descriptors() + 200;
    let limited = Descriptors::limit(limit as u64);
    let attack = Attack::start("idle 400", bench.port.address);
    sleep(ms(300)).await;
    let (held, before) = (descriptors(), ticks());
    assert!(held + 60 < limit, "{held} descriptors of {limit} are taken");
    assert!(held + 120 > limit, "{held} descriptors of {limit}: it was not put to the test");
    // What a scheduler and a journal need.
    let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    sleep(ms(2000)).await;
    let used = ticks() - before;
    assert!(used < 100, "{used} of 200 ticks went into it");
    let stopped = stop(job, running, StopRequest::Force).await;
    assert!(matches!(stopped, AnyStopped::Killed(_)), "{stopped:?}");
    drop((attack, files, limited));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_who_does_not_say_that_it_speaks_http2_is_gone_by_its_deadline() {
    let _alone = alone();
    let (bench, job, running) = job(strict()).await;
    let before = descriptors();
    for attack in ["trickle 50", "deaf 50"] {
        let mut attack = Attack::start(attack, bench.port.address);
        attack.hear("closed");
        eventually("the descriptors to come back", || descriptors() <= before + 8).await;
    }
    let stopped = stop(job, running, StopRequest::Checkpoint).await;
    assert!(matches!(stopped, AnyStopped::Checkpointed(_)), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_who_answers_every_ping_and_wants_nothing_is_gone_when_it_is_idle_for_too_long() {
    let _alone = alone();
    let (bench, job, running) = job(strict()).await;
    let mut attack = Attack::start("polite 50", bench.port.address);
    assert_eq!(attack.hear("let in"), "50");
    attack.hear("closed");
    // The workers' own connections are in use.
    let stopped = stop(job, running, StopRequest::Checkpoint).await;
    assert!(matches!(stopped, AnyStopped::Checkpointed(_)), "{stopped:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b3_one_peer_has_so_many_connections_and_all_have_so_many() {
    let _alone = alone();
    let admission = Admission { per_peer: 8, ..Admission::default() };
    let (bench, job, running) = job(ControllerOptions { admission, ..port_options() }).await;
    let mut attack = Attack::start("polite 30", bench.port.address);
    assert_eq!(attack.hear("let in"), "8");
    let stopped = stop(job, running, StopRequest::Checkpoint).await;
    assert!(matches!(stopped, AnyStopped::Checkpointed(_)), "{stopped:?}");
}
