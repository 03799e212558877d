//! One command to many workers: its state at each of them, and one report of all failures.

use std::{
    collections::HashMap,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::{
    StreamExt,
    future::{AbortHandle, Abortable, Aborted},
    stream::FuturesUnordered,
};

use super::courier::{Courier, Failures};
use crate::{
    contracts::{BoxFuture, Command, LateOrder, OrderError, OrderReport, Transport, WorkerId},
    model::RunModel,
};

type Delivery = Abortable<BoxFuture<'static, (usize, Result<(), OrderError>)>>;

/// Dropping it drops every order in flight.
pub(super) struct FanOut {
    name: &'static str,
    orders: Vec<Dispatch>,
    position: HashMap<WorkerId, usize>,
    deliveries: FuturesUnordered<Delivery>,
    failures: Arc<Failures>,
    sent: Instant,
    outstanding: usize,
    /// All have settled since the last sending, and the failures have been reported.
    reported: bool,
}

struct Dispatch {
    worker: WorkerId,
    command: Command,
    state: DispatchState,
}

enum DispatchState {
    UnderWay(AbortHandle),
    Taken,
    Failed(OrderError),
    /// The worker or the checkpoint no longer needs it.
    Moot,
}

impl FanOut {
    pub(super) fn new<T: Transport + ?Sized>(
        name: &'static str,
        orders: Vec<(WorkerId, Command)>,
        courier: &Courier<T>,
    ) -> Self {
        let mut fan_out = Self {
            name,
            position: orders.iter().enumerate().map(|(position, (worker, _))| (*worker, position)).collect(),
            orders: orders
                .into_iter()
                .map(|(worker, command)| Dispatch { worker, command, state: DispatchState::Moot })
                .collect(),
            deliveries: FuturesUnordered::new(),
            failures: Arc::default(),
            sent: super::now(),
            outstanding: 0,
            reported: false,
        };
        for position in 0..fan_out.orders.len() {
            fan_out.dispatch(position, courier);
        }
        fan_out
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether a checkpoint can't go on without it.
    pub(super) fn is_of_checkpoint(&self) -> bool {
        let command = self.orders.first().map(|order| &order.command);
        matches!(command, Some(Command::Checkpoint { .. } | Command::Commit { .. }))
    }

    /// Orders without an answer so far.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Orders that were not accepted so far.
    pub(super) fn late_orders(&self) -> Vec<LateOrder> {
        let is_late = |order: &&Dispatch| matches!(order.state, DispatchState::UnderWay(_) | DispatchState::Failed(_));
        let late = self.orders.iter().filter(is_late).map(|order| {
            let mut late = LateOrder::new(order.worker, self.name, self.sent);
            if let Some((failed, error)) = self.failures.of(order.worker) {
                (late.failed, late.error) = (failed, Some(error));
            }
            late
        });
        late.collect()
    }

    /// Polls every delivery that can progress; returns whether any has settled.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let mut changed = false;
        while let Poll::Ready(Some(delivery)) = self.deliveries.poll_next_unpin(cx) {
            // An aborted one was settled when it was aborted. One that became moot after it had
            // arrived is moot too.
            let Ok((position, outcome)): Result<_, Aborted> = delivery else { continue };
            let order = &mut self.orders[position];
            if let DispatchState::UnderWay(_) = order.state {
                order.state = outcome.map_or_else(DispatchState::Failed, |()| DispatchState::Taken);
                self.outstanding -= 1;
                changed = true;
            }
        }
        changed
    }

    /// The workers that did not accept the order, once all have settled; returned only once.
    pub(super) fn take_report(&mut self) -> Option<OrderReport> {
        if self.outstanding > 0 || self.reported {
            return None;
        }
        self.reported = true;
        let mut failures: Vec<_> = self
            .orders
            .iter()
            .filter_map(|order| match &order.state {
                DispatchState::Failed(error) => Some((order.worker, error.clone())),
                _ => None,
            })
            .collect();
        failures.sort_by_key(|(worker, _)| *worker);
        (!failures.is_empty()).then_some(OrderReport { order: self.name, workers: self.orders.len(), failures })
    }

    /// Resends the order to the workers where it failed, or where it was dropped but is needed
    /// after all.
    pub(super) fn send_again<T: Transport + ?Sized>(&mut self, courier: &Courier<T>, model: &RunModel) {
        for position in 0..self.orders.len() {
            let Dispatch { worker, command, state } = &self.orders[position];
            if matches!(state, DispatchState::Failed(_) | DispatchState::Moot) && model.wants(*worker, command) {
                self.dispatch(position, courier);
            }
        }
    }

    /// Drops the orders that are no longer needed.
    pub(super) fn drop_all_moot(&mut self, model: &RunModel) {
        for position in 0..self.orders.len() {
            self.drop_if_moot(position, model);
        }
    }

    /// The same for one worker.
    pub(super) fn drop_moot(&mut self, worker: WorkerId, model: &RunModel) {
        if let Some(position) = self.position.get(&worker) {
            self.drop_if_moot(*position, model);
        }
    }

    fn drop_if_moot(&mut self, position: usize, model: &RunModel) {
        let order = &mut self.orders[position];
        if model.wants(order.worker, &order.command) {
            return;
        }
        match &order.state {
            DispatchState::UnderWay(abort) => {
                abort.abort();
                self.outstanding -= 1;
            }
            DispatchState::Failed(_) => {}
            DispatchState::Taken | DispatchState::Moot => return,
        }
        order.state = DispatchState::Moot;
    }

    fn dispatch<T: Transport + ?Sized>(&mut self, position: usize, courier: &Courier<T>) {
        let order = &mut self.orders[position];
        let delivery = courier.deliver(order.worker, order.command.clone(), &self.failures);
        let (abort, registration) = AbortHandle::new_pair();
        self.deliveries.push(Abortable::new(Box::pin(async move { (position, delivery.await) }), registration));
        order.state = DispatchState::UnderWay(abort);
        self.outstanding += 1;
        self.reported = false;
    }
}
