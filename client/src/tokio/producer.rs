//! A producer for tokio.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ::tokio::sync::{Notify, oneshot};

use super::driver::{Machine, Owner, Shared};
use crate::{
    cluster::ClusterConfig,
    io::{Effects, Input, Monotonic, Now},
    producer::{
        Delivered, FailureReason, Outcome, ProduceFailure, Producer, ProducerConfig, ProducerRecord, SendError, SendId,
    },
};

/// A record's way into the log; ends when that is decided. It goes on if this is dropped.
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<Result<Delivered, ProduceFailure>>);

impl Future for Delivery {
    type Output = Result<Delivered, ProduceFailure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| {
            // The task is gone, and with it the runtime.
            let lost = ProduceFailure { outcome: Outcome::Unknown, reason: FailureReason::Closed };
            result.unwrap_or(Err(lost))
        })
    }
}

#[derive(Debug)]
struct ProducerTask {
    producer: Producer,
    /// Every record without a result, with who waits for it.
    waiting: BTreeMap<SendId, Option<oneshot::Sender<Result<Delivered, ProduceFailure>>>>,
    /// Told when results were taken, which makes room.
    results: Arc<Notify>,
    flushing: bool,
}

impl Machine for ProducerTask {
    fn handle(&mut self, now: Now, input: Input) {
        self.producer.handle(now, input);
    }

    fn poll(&mut self, now: Now, effects: &mut Effects) {
        self.producer.poll(now, effects);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.producer.next_deadline()
    }

    fn wake_waiters(&mut self) {
        let mut any = false;
        while let Some((id, result)) = self.producer.next_result() {
            any = true;
            if let Some(waiter) = self.waiting.remove(&id).expect("a record has one result") {
                // Whoever dropped the future does not want to know.
                let _ = waiter.send(result);
            }
        }
        if any {
            self.results.notify_waiters();
        }
    }

    fn end(&mut self) {
        self.producer.abort();
        self.wake_waiters();
    }

    fn may_end(&mut self, now: Now) -> bool {
        if !self.flushing {
            self.flushing = true;
            self.producer.flush(now);
        }
        self.producer.is_idle()
    }
}

/// Writes records. Clones share one producer. When the last one is dropped, what was taken is still sent, as long as
/// the runtime lives; [`Handle::flush`] waits for it.
#[derive(Clone, Debug)]
pub struct Handle {
    task: Arc<Owner<ProducerTask>>,
    results: Arc<Notify>,
}

impl Handle {
    /// Starts a producer on the current runtime; panics outside of one.
    #[must_use]
    pub fn start(cluster: ClusterConfig, config: ProducerConfig) -> Self {
        let results = Arc::new(Notify::new());
        let task = ProducerTask {
            producer: Producer::new(cluster, config),
            waiting: BTreeMap::new(),
            results: Arc::clone(&results),
            flushing: false,
        };
        Self { task: Arc::new(Shared::start(task)), results }
    }

    /// Takes a record, after there is room for it. The order of calls is the order of the records. The result is the
    /// record's way into the log, to be awaited now, later or never.
    pub async fn send(&self, record: ProducerRecord<'_>) -> Result<Delivery, SendError> {
        loop {
            let room = self.results.notified();
            let mut room = std::pin::pin!(room);
            // From here on no wake-up is missed.
            room.as_mut().enable();
            match self.try_send(record) {
                Err(SendError::QueueFull) => room.await,
                result => return result,
            }
        }
    }

    /// As [`Handle::send`], but refuses when there is no room.
    pub fn try_send(&self, record: ProducerRecord<'_>) -> Result<Delivery, SendError> {
        let (sender, receiver) = oneshot::channel();
        self.take(record, Some(sender))?;
        Ok(Delivery(receiver))
    }

    /// Takes a record whose result nobody wants to know, after there is room for it.
    pub async fn send_and_forget(&self, record: ProducerRecord<'_>) -> Result<(), SendError> {
        loop {
            let room = self.results.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            match self.take(record, None) {
                Err(SendError::QueueFull) => room.await,
                result => return result,
            }
        }
    }

    /// Sends what was taken so far without waiting for more, and waits until all of it has a result.
    pub async fn flush(&self) {
        let end = self.task.with(|task, now| {
            task.producer.flush(now);
            task.producer.next_id()
        });
        self.task.wake();
        loop {
            let results = self.results.notified();
            let mut results = std::pin::pin!(results);
            results.as_mut().enable();
            if self.task.with(|task, _| task.waiting.range(..end).next().is_none()) {
                return;
            }
            results.await;
        }
    }

    fn take(
        &self,
        record: ProducerRecord<'_>,
        waiter: Option<oneshot::Sender<Result<Delivered, ProduceFailure>>>,
    ) -> Result<(), SendError> {
        let wants_poll = self.task.with(|task, now| {
            let id = task.producer.send(now, record)?;
            task.waiting.insert(id, waiter);
            Ok::<_, SendError>(task.producer.wants_poll())
        })?;
        if wants_poll {
            self.task.wake();
        }
        Ok(())
    }
}
