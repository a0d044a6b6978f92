//! A consumer for tokio.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::tokio::sync::{Notify, oneshot};

use super::driver::{Machine, Owner, Shared};
use crate::{
    cluster::ClusterConfig,
    consumer::{ConsumedBatch, ConsumedRecord, Consumer, ConsumerConfig, PartitionError, Start},
    io::{Effects, Input, Monotonic, Now},
    offsets::{OffsetAt, OffsetError, SearchId, SearchResult},
};

#[derive(Debug)]
struct ConsumerTask {
    consumer: Consumer,
    searches: BTreeMap<SearchId, oneshot::Sender<SearchResult>>,
    /// Told after every turn.
    turns: Arc<Notify>,
}

impl Machine for ConsumerTask {
    fn handle(&mut self, now: Now, input: Input) {
        self.consumer.handle(now, input);
    }

    fn poll(&mut self, now: Now, effects: &mut Effects) {
        self.consumer.poll(now, effects);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.consumer.next_deadline()
    }

    fn wake_waiters(&mut self) {
        while let Some((id, result)) = self.consumer.next_found() {
            if let Some(waiter) = self.searches.remove(&id) {
                // Whoever dropped the future does not want to know.
                let _ = waiter.send(result);
            }
        }
        self.turns.notify_waiters();
    }

    fn end(&mut self) {
        self.searches.clear();
        self.turns.notify_waiters();
    }

    fn may_end(&mut self, _: Now) -> bool {
        true
    }
}

/// Reads records of assigned partitions; see [`Consumer`] for what the methods mean.
#[derive(Debug)]
pub struct Handle {
    task: Owner<ConsumerTask>,
    turns: Arc<Notify>,
}

impl Handle {
    /// Starts a consumer on the current runtime; panics outside of one.
    #[must_use]
    pub fn start(cluster: ClusterConfig, config: ConsumerConfig) -> Self {
        let turns = Arc::new(Notify::new());
        let task = ConsumerTask {
            consumer: Consumer::new(cluster, config),
            searches: BTreeMap::new(),
            turns: Arc::clone(&turns),
        };
        Self { task: Shared::start(task), turns }
    }

    /// See [`Consumer::assign`].
    pub fn assign(&self, topic: &str, partition: i32, start: Start) {
        self.change(|consumer| consumer.assign(topic, partition, start));
    }

    /// See [`Consumer::unassign`].
    pub fn unassign(&self, topic: &str, partition: i32) -> bool {
        self.change(|consumer| consumer.unassign(topic, partition))
    }

    /// See [`Consumer::seek`].
    pub fn seek(&self, topic: &str, partition: i32, start: Start) -> bool {
        self.change(|consumer| consumer.seek(topic, partition, start))
    }

    /// See [`Consumer::pause`].
    pub fn pause(&self, topic: &str, partition: i32) -> bool {
        self.change(|consumer| consumer.pause(topic, partition))
    }

    /// See [`Consumer::resume`].
    pub fn resume(&self, topic: &str, partition: i32) -> bool {
        self.change(|consumer| consumer.resume(topic, partition))
    }

    /// See [`Consumer::position`].
    #[must_use]
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.task.with(|task, _| task.consumer.position(topic, partition))
    }

    /// See [`Consumer::failing`]: for how long already, and what happened last.
    #[must_use]
    pub fn failing(&self, topic: &str, partition: i32) -> Option<(Duration, String)> {
        self.task.with(|task, now| {
            let failing = task.consumer.failing(topic, partition)?;
            Some((now.monotonic.since(failing.since), failing.last))
        })
    }

    /// See [`Consumer::high_watermark`].
    #[must_use]
    pub fn high_watermark(&self, topic: &str, partition: i32) -> Option<i64> {
        self.task.with(|task, _| task.consumer.high_watermark(topic, partition))
    }

    /// The next record of any partition, as soon as there is one. An error is about one partition; the others go on.
    /// Nothing is lost if the future is dropped.
    pub async fn next(&self) -> Result<ConsumedRecord, PartitionError> {
        self.take(Consumer::next_record).await
    }

    /// The next batch of any partition, as soon as there is one; see [`Consumer::next_batch`].
    pub async fn next_batch(&self) -> Result<ConsumedBatch, PartitionError> {
        self.take(Consumer::next_batch).await
    }

    /// A record if one is there already.
    pub fn try_next(&self) -> Option<Result<ConsumedRecord, PartitionError>> {
        self.try_take(Consumer::next_record)
    }

    /// Finds an offset, see [`OffsetAt`].
    pub async fn find_offset(&self, topic: &str, partition: i32, at: OffsetAt, timeout: Duration) -> SearchResult {
        let (sender, receiver) = oneshot::channel();
        self.task.with(|task, now| {
            let id = task.consumer.find_offset(now, topic, partition, at, timeout);
            task.searches.insert(id, sender);
        });
        self.task.wake();
        let gone = || OffsetError::TimedOut { last: "the consumer's task is gone".to_owned() };
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    /// The offset that the next record of the partition gets.
    pub async fn end_offset(&self, topic: &str, partition: i32, timeout: Duration) -> Result<i64, OffsetError> {
        let found = self.find_offset(topic, partition, OffsetAt::Latest, timeout).await?;
        Ok(found.map_or(0, |found| found.offset))
    }

    fn change<R>(&self, act: impl FnOnce(&mut Consumer) -> R) -> R {
        let result = self.task.with(|task, _| act(&mut task.consumer));
        self.task.wake();
        result
    }

    fn try_take<T>(&self, take: impl Fn(&mut Consumer) -> Option<T>) -> Option<Result<T, PartitionError>> {
        let (taken, wants_poll) = self.task.with(|task, _| {
            let taken = match task.consumer.next_error() {
                Some(error) => Some(Err(error)),
                None => take(&mut task.consumer).map(Ok),
            };
            // A damaged batch is found when it is opened.
            let taken = taken.or_else(|| task.consumer.next_error().map(Err));
            (taken, task.consumer.wants_poll())
        });
        if wants_poll {
            self.task.wake();
        }
        taken
    }

    async fn take<T>(&self, take: impl Fn(&mut Consumer) -> Option<T>) -> Result<T, PartitionError> {
        loop {
            let turn = self.turns.notified();
            let mut turn = std::pin::pin!(turn);
            // From here on no wake-up is missed.
            turn.as_mut().enable();
            if let Some(taken) = self.try_take(&take) {
                return taken;
            }
            turn.await;
        }
    }
}
