//! A watchdog that was stopped keeps nobody waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tokio::time::timeout;

use crate::support::*;

const DEAF: &str = "trap '' TERM; touch up-$WINDDOWN_WORKER; while :; do sleep 0.1; done";

async fn freeze(stage: &Stage) -> i32 {
    let watchdog = stage.watchdog().unwrap();
    signal(watchdog, Signal::STOP);
    until("it is frozen", || state(watchdog) == Some('T')).await;
    watchdog
}

#[tokio::test]
async fn a_frozen_watchdog_does_not_delay_the_end() {
    let _alone = crate::ALONE.lock().await;
    let stage = Stage::new();
    let scheduler = stage.open().await;
    stage.start(&scheduler, 1, DEAF).await;
    stop(&scheduler, true).await;
    freeze(&stage).await;
    timeout(SOON, scheduler.close()).await.expect("it does not wait for what is frozen");
    assert_eq!(stage.processes(), [0; 0]);
}

#[tokio::test]
async fn a_frozen_watchdog_ends_the_workers_all_the_same() {
    let _alone = crate::ALONE.lock().await;
    let stage = Stage::new();
    let scheduler = stage.builder().orphan_grace(Duration::from_millis(200)).open().await.unwrap();
    stage.start(&scheduler, 1, DEAF).await;
    freeze(&stage).await;
    timeout(SOON, scheduler.close()).await.expect("it is told to go on");
    assert_eq!((stage.processes(), stage.records()), (vec![], 0));
}

#[tokio::test]
async fn a_frozen_watchdog_that_is_frozen_again_and_again_is_killed() {
    let _alone = crate::ALONE.lock().await;
    let stage = Stage::new();
    let scheduler = stage.open().await;
    let watchdog = freeze(&stage).await;
    let over = Arc::new(AtomicBool::new(false));
    let freezing = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            // It gets no time to leave: what lets it go on is undone at once.
            while !over.load(Ordering::Relaxed) {
                signal(watchdog, Signal::STOP);
            }
        }
    });
    let closed = timeout(SOON, scheduler.close()).await;
    over.store(true, Ordering::Relaxed);
    freezing.join().unwrap();
    closed.expect("it is killed");
    assert_eq!(stage.processes(), [0; 0]);
}
