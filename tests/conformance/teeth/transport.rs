//! A transport to the suite's workers, and what can be wrong with one.

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;
use winddown::{
    RunId, WorkerId,
    contracts::{Command, Order, OrderError, OrderErrorKind, Transport},
    testing::conformance::{self, Contract, Hook, Report, Rule, TransportRun, TransportSubject, Workers},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// `Ok` is said for a release that nobody has heard.
    LosesRelease,
    /// An order that was taken is not sent again.
    SwallowsRepeated,
    /// The run of an order is not looked at.
    IgnoresRun,
    /// A worker that does not exist has nothing against an order.
    UnknownIsOk,
    /// A worker that has stopped takes no stop.
    RefusesStopAgain,
    /// An order waits for the answer of the one before it.
    OneByOne,
    /// A lock is left behind by a sending that is dropped while it connects.
    LeavesLockBehind,
}

const ROWS: &[(Mistake, Rule)] = &[
    (Mistake::LosesRelease, Rule::TransportTakesIn),
    (Mistake::SwallowsRepeated, Rule::TransportAnswersAgain),
    (Mistake::IgnoresRun, Rule::TransportForeignRun),
    (Mistake::UnknownIsOk, Rule::TransportUnknownWorker),
    (Mistake::RefusesStopAgain, Rule::TransportEnded),
    (Mistake::OneByOne, Rule::TransportIndependence),
    (Mistake::LeavesLockBehind, Rule::TransportCancelSafe),
];

async fn check(mistake: Mistake) -> Report {
    conformance::transport(async move || Maker { mistake, workers: Mutex::default() }).await
}

#[tokio::test]
async fn every_mistake_in_a_transport_is_found_by_its_rule() {
    super::assert_found(Contract::Transport, ROWS, Mistake::None, check).await;
}

struct Maker {
    mistake: Mistake,
    workers: Mutex<Option<Workers>>,
}

impl TransportSubject for Maker {
    type Transport = Wire;
    const LIMIT: Duration = super::LIMIT;

    async fn start(&self, run: TransportRun) -> Wire {
        let workers = self.workers.lock().unwrap().insert(run.workers).clone();
        let (turn, is_locked) = (tokio::sync::Mutex::default(), AtomicBool::new(false));
        Wire { mistake: self.mistake, run: run.open.run(), workers, turn, is_locked, taken: Mutex::default() }
    }

    async fn freeze(&self, worker: WorkerId) -> Hook {
        self.workers.lock().unwrap().as_ref().unwrap().freeze(worker);
        Hook::Done
    }
}

struct Wire {
    mistake: Mistake,
    run: RunId,
    workers: Workers,
    turn: tokio::sync::Mutex<()>,
    is_locked: AtomicBool,
    taken: Mutex<HashSet<(WorkerId, String)>>,
}

impl Wire {
    async fn lock(&self) -> Result<(), OrderError> {
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.is_locked.swap(true, Ordering::AcqRel) {
            if Instant::now() > deadline {
                return Err(OrderError::new(OrderErrorKind::Refused, "it is locked"));
            }
            sleep(Duration::from_millis(2)).await;
        }
        sleep(Duration::from_millis(2)).await;
        self.is_locked.store(false, Ordering::Release);
        Ok(())
    }
}

impl Transport for Wire {
    async fn send(&self, worker: WorkerId, mut order: Order) -> Result<(), OrderError> {
        let key = (worker, format!("{order:?}"));
        let is_taken = self.taken.lock().unwrap().contains(&key);
        let is_stop = matches!(order.command, Command::Stop(_));
        match self.mistake {
            Mistake::LosesRelease if order.command == Command::Release => return Ok(()),
            Mistake::SwallowsRepeated if is_taken && !is_stop => return Ok(()),
            Mistake::RefusesStopAgain if is_taken && is_stop => {
                return Err(OrderError::new(OrderErrorKind::Refused, "there is nothing to stop"));
            }
            Mistake::UnknownIsOk if worker == WorkerId::new(99) => return Ok(()),
            Mistake::IgnoresRun => order.run = self.run,
            Mistake::LeavesLockBehind => self.lock().await?,
            _ => {}
        }
        let _turn = if self.mistake == Mistake::OneByOne { Some(self.turn.lock().await) } else { None };
        let sent = self.workers.send(worker, order).await;
        if sent.is_ok() {
            self.taken.lock().unwrap().insert(key);
        }
        sent
    }
}
