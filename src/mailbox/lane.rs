//! The lane of worker messages: a bounded queue that takes no memory while it is empty. Tokio's
//! bounded channel allocates room for 32 messages, three kilobytes, for each job from its start.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Semaphore, TryAcquireError};

use super::{JobGone, TryEventError};
use crate::contracts::WorkerEvent;

/// Room for more than this is given back once the queue is empty.
const KEPT: usize = 32;

/// Two semaphores count the free places and the waiting messages; both are fair.
#[derive(Debug)]
pub(super) struct Lane {
    queue: Mutex<VecDeque<WorkerEvent>>,
    /// A permit for each free place. Closed when the reader is gone.
    room: Semaphore,
    /// A permit for each waiting message.
    waiting: Semaphore,
}

impl Lane {
    /// A lane that holds up to `capacity` messages.
    pub(super) fn new(capacity: usize) -> Self {
        Self { queue: Mutex::default(), room: Semaphore::new(capacity), waiting: Semaphore::new(0) }
    }

    /// Waits for room. If dropped before its end, it has sent nothing.
    pub(super) async fn send(&self, event: WorkerEvent) -> Result<(), JobGone> {
        self.room.acquire().await.map_err(|_| JobGone)?.forget();
        self.push(event)
    }

    pub(super) fn try_send(&self, event: WorkerEvent) -> Result<(), TryEventError> {
        match self.room.try_acquire() {
            Ok(room) => room.forget(),
            Err(TryAcquireError::NoPermits) => return Err(TryEventError::Full(event)),
            Err(TryAcquireError::Closed) => return Err(JobGone.into()),
        }
        Ok(self.push(event)?)
    }

    /// Waits for a message. If dropped before its end, it has taken nothing out: there is no await
    /// between the permit and the message.
    ///
    /// Pending forever once the lane is closed.
    pub(super) async fn recv(&self) -> WorkerEvent {
        loop {
            match self.waiting.acquire().await {
                Ok(there) => there.forget(),
                Err(_) => std::future::pending().await,
            }
            if let Some(event) = self.pop() {
                return event;
            }
        }
    }

    pub(super) fn try_recv(&self) -> Option<WorkerEvent> {
        self.waiting.try_acquire().ok()?.forget();
        self.pop()
    }

    /// The number of waiting messages.
    pub(super) fn len(&self) -> usize {
        self.queue().len()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.room.is_closed()
    }

    /// The reader is gone: senders get an error, and waiting messages are dropped.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        self.room.close();
        *queue = VecDeque::new();
    }

    fn push(&self, event: WorkerEvent) -> Result<(), JobGone> {
        let mut queue = self.queue();
        // Checked under the lock that `close` takes, so that nothing is left in a lane without a
        // reader.
        if self.is_closed() {
            return Err(JobGone);
        }
        queue.push_back(event);
        drop(queue);
        self.waiting.add_permits(1);
        Ok(())
    }

    fn pop(&self) -> Option<WorkerEvent> {
        let mut queue = self.queue();
        let event = queue.pop_front()?;
        if queue.is_empty() && queue.capacity() > KEPT {
            *queue = VecDeque::new();
        }
        drop(queue);
        self.room.add_permits(1);
        Some(event)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<WorkerEvent>> {
        // No code of others runs while it is held.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashMap,
        sync::Arc,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use super::*;
    use crate::contracts::{Event, RunId, WorkerId};

    /// Message `number` of sender `from`.
    fn message(from: u64, number: u64) -> WorkerEvent {
        WorkerEvent::new(RunId::new(number), WorkerId::new(from), Event::Heartbeat)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn every_message_comes_once_and_in_the_order_of_its_sender_and_the_bound_holds() {
        const SENDERS: u64 = 8;
        const EACH: u64 = 2_000;
        let lane = Arc::new(Lane::new(5));
        for from in 0..SENDERS {
            let lane = Arc::clone(&lane);
            tokio::spawn(async move {
                for number in 0..EACH {
                    // Sent in each of the two ways, in turn as far as there is room.
                    if number % 2 == 0 || lane.try_send(message(from, number)).is_err() {
                        lane.send(message(from, number)).await.unwrap();
                    }
                }
            });
        }
        let mut next: HashMap<u64, u64> = HashMap::new();
        for received in 0..SENDERS * EACH {
            assert!(lane.len() <= 5, "{}", lane.len());
            let event = if received % 3 == 0 { lane.try_recv() } else { None };
            let event = match event {
                Some(event) => event,
                None => tokio::time::timeout(Duration::from_secs(60), lane.recv()).await.unwrap(),
            };
            let expected = next.entry(event.worker.get()).or_default();
            assert_eq!(event.run.get(), *expected);
            *expected += 1;
        }
        assert_eq!((lane.try_recv(), lane.len()), (None, 0));
    }

    #[tokio::test]
    async fn i10_a_wait_that_is_dropped_takes_nothing_and_sends_nothing() {
        let lane = Lane::new(1);
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut receiving = std::pin::pin!(lane.recv());
            assert!(receiving.as_mut().poll(&mut context).is_pending());
            lane.send(message(0, 0)).await.unwrap();
        }
        {
            let mut sending = std::pin::pin!(lane.send(message(0, 1)));
            assert!(sending.as_mut().poll(&mut context).is_pending(), "it is full");
            assert_eq!(lane.try_recv(), Some(message(0, 0)), "what was not received is still there");
            // The room was promised to the sender that waits, and is free again when that one is
            // dropped.
        }
        assert_eq!(lane.len(), 0);
        lane.try_send(message(0, 2)).unwrap();
        assert_eq!(lane.recv().await, message(0, 2));
    }

    #[tokio::test]
    async fn i6_a_closed_lane_is_an_error_to_those_who_send_and_to_those_who_wait() {
        let lane = Lane::new(1);
        lane.try_send(message(0, 0)).unwrap();
        assert_eq!(lane.try_send(message(0, 1)), Err(TryEventError::Full(message(0, 1))));
        let mut waiting = std::pin::pin!(lane.send(message(0, 1)));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        lane.close();
        assert_eq!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(JobGone)));
        assert_eq!(lane.send(message(0, 2)).await, Err(JobGone));
        assert_eq!(lane.try_send(message(0, 2)), Err(TryEventError::Gone(JobGone)));
        assert_eq!(lane.len(), 0);
    }

    #[test]
    fn an_empty_lane_holds_no_memory_after_a_flood() {
        let lane = Lane::new(1_000);
        for number in 0..1_000 {
            lane.try_send(message(0, number)).unwrap();
        }
        while lane.try_recv().is_some() {}
        assert_eq!(lane.queue().capacity(), 0);
    }
}
