//! One assigned partition: where it is read, what was fetched, what is wrong with it.
//!
//! Invariant: `position` is the offset after the last record handed out; everything fetched lies between it and
//! `fetch_offset`. Whatever was asked for before the position was set anew belongs to an older generation and is
//! ignored.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use kauri_protocol::{
    messages::fetch::AbortedTransaction,
    records::{BatchError, BatchView, Batches},
};

use super::{
    config::{ConsumerConfig, Start},
    record::{ConsumeError, ConsumedBatch, Failing},
    session::Place,
};
use crate::{
    io::{Monotonic, Now},
    offsets::SearchId,
};

#[derive(Debug)]
pub(super) enum State {
    /// The start position must be found first.
    Searching {
        start: Start,
        search: Option<SearchId>,
    },
    Reading,
    /// An error was reported; somebody must decide.
    Stopped,
}

/// Bytes as fetched: whole batches.
#[derive(Debug)]
struct Chunk {
    batches: Batches,
    bytes: usize,
    aborted: VecDeque<AbortedTransaction>,
    /// Producers whose transaction at this place is known to be aborted.
    aborted_producers: BTreeSet<i64>,
    /// What is wrong behind the batches.
    end: Option<BatchError>,
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) state: State,
    pub(super) generation: u64,
    pub(super) paused: bool,
    /// `None` until the start was found.
    pub(super) position: Option<i64>,
    pub(super) fetch_offset: i64,
    pub(super) not_before: Monotonic,
    pause: Duration,
    /// Whether it was reported that the partition does not exist.
    pub(super) missing_told: bool,
    /// What may pass and has not yet.
    pub(super) failing: Option<Failing>,
    pub(super) high_watermark: Option<i64>,
    chunks: VecDeque<Chunk>,
    pub(super) buffered_bytes: usize,
}

/// What the next bytes of a partition turned out to be.
pub(super) enum Next {
    Batch(ConsumedBatch),
    /// The first chunk is used up.
    ChunkEnd,
    Failed(ConsumeError),
}

impl Partition {
    pub(super) fn new(generation: u64, start: Start) -> Self {
        let mut partition = Self {
            state: State::Stopped,
            generation,
            paused: false,
            position: None,
            fetch_offset: 0,
            not_before: Monotonic::default(),
            pause: Duration::ZERO,
            missing_told: false,
            failing: None,
            high_watermark: None,
            chunks: VecDeque::new(),
            buffered_bytes: 0,
        };
        partition.begin(start);
        partition
    }

    fn begin(&mut self, start: Start) {
        self.failing = None;
        match start {
            Start::Offset(offset) => self.read_from(offset),
            Start::Earliest | Start::Latest | Start::Timestamp(_) => {
                self.position = None;
                self.state = State::Searching { start, search: None };
            }
        }
    }

    /// Starts over; returns the search that is of no use any more.
    pub(super) fn restart(&mut self, generation: u64, start: Start) -> Option<SearchId> {
        self.forget_fetched(generation);
        let search = self.search();
        self.begin(start);
        search
    }

    pub(super) fn search(&self) -> Option<SearchId> {
        match self.state {
            State::Searching { search, .. } => search,
            State::Reading | State::Stopped => None,
        }
    }

    pub(super) fn read_from(&mut self, offset: i64) {
        self.position = Some(offset);
        self.fetch_offset = offset;
        self.state = State::Reading;
        self.failing = None;
    }

    /// Drops what was fetched and not handed out; it is fetched again.
    pub(super) fn forget_fetched(&mut self, generation: u64) {
        self.generation = generation;
        self.chunks.clear();
        self.buffered_bytes = 0;
        if let Some(position) = self.position {
            self.fetch_offset = position;
        }
    }

    pub(super) fn is_fetchable(&self, now: Now, buffer_bytes: usize) -> bool {
        matches!(self.state, State::Reading)
            && !self.paused
            && self.not_before <= now.monotonic
            && self.buffered_bytes < buffer_bytes
    }

    pub(super) fn back_off(&mut self, now: Now, config: &ConsumerConfig) {
        self.pause =
            if self.pause.is_zero() { config.retry_pause } else { (self.pause * 2).min(config.retry_pause_max) };
        self.not_before = now.monotonic + self.pause;
    }

    /// Something went wrong that may pass.
    pub(super) fn failed(&mut self, now: Now, last: String) {
        let since = self.failing.take().map_or(now.monotonic, |failing| failing.since);
        self.failing = Some(Failing { since, last });
    }

    pub(super) fn succeeded(&mut self) {
        self.failing = None;
        self.pause = Duration::ZERO;
        self.missing_told = false;
    }

    /// Takes fetched bytes. Returns whether there is a new chunk.
    pub(super) fn push(&mut self, bytes: Bytes, mut aborted: Vec<AbortedTransaction>) -> Result<bool, ConsumeError> {
        if bytes.is_empty() {
            return Ok(false);
        }
        let before = self.fetch_offset;
        let mut walk = Batches::new(bytes.clone());
        let mut end = None;
        let mut any = false;
        for batch in walk.by_ref() {
            match batch {
                Ok(batch) => {
                    self.fetch_offset = self.fetch_offset.max(batch.header().next_offset());
                    any = true;
                }
                Err(error) => end = Some(error),
            }
        }
        if let (false, Some(error)) = (any, &end) {
            return Err(ConsumeError::Damaged { offset: before, error: error.clone() });
        }
        if self.fetch_offset == before {
            // Not one whole batch at or after the position: the same request would get the same answer.
            return Err(ConsumeError::Incomplete { offset: before });
        }
        aborted.sort_by_key(|aborted| aborted.first_offset);
        let length = bytes.len() - walk.remaining();
        self.buffered_bytes += length;
        self.chunks.push_back(Chunk {
            batches: Batches::new(bytes.slice(..length)),
            bytes: length,
            aborted: aborted.into(),
            aborted_producers: BTreeSet::new(),
            end,
        });
        Ok(true)
    }

    /// The next batch for the user out of the first chunk.
    pub(super) fn next(&mut self, place: &Place, config: &ConsumerConfig) -> Next {
        loop {
            let position = self.position.expect("what was fetched was fetched from a position");
            let chunk = self.chunks.front_mut().expect("the caller counts chunks");
            let Some(batch) = chunk.batches.next() else {
                let chunk = self.chunks.pop_front().expect("it was just there");
                self.buffered_bytes -= chunk.bytes;
                return match chunk.end {
                    None => Next::ChunkEnd,
                    Some(error) => Next::Failed(ConsumeError::Damaged { offset: position, error }),
                };
            };
            let batch = batch.expect("the chunk was walked through when it came");
            if batch.header().last_offset() < position {
                continue;
            }
            match chunk.open(&batch, position, place, config) {
                Ok(Some(consumed)) => return Next::Batch(consumed),
                Ok(None) => self.position = Some(batch.header().next_offset()),
                Err(error) => {
                    return Next::Failed(ConsumeError::Damaged { offset: batch.header().base_offset, error });
                }
            }
        }
    }
}

impl Chunk {
    /// The batch's records, or `None` if none of them is for the user.
    fn open(
        &mut self,
        batch: &BatchView,
        position: i64,
        place: &Place,
        config: &ConsumerConfig,
    ) -> Result<Option<ConsumedBatch>, BatchError> {
        let header = batch.header();
        if config.check_crc {
            batch.validate_crc()?;
        }
        if config.read_committed && self.is_aborted(batch, config)? {
            return Ok(None);
        }
        if header.attributes.is_control() {
            return Ok(None);
        }
        Ok(Some(ConsumedBatch {
            topic: place.0.clone(),
            partition: place.1,
            leader_epoch: header.partition_leader_epoch,
            next_offset: header.next_offset(),
            records: batch.records(config.batch_bytes_max)?,
            from: position,
        }))
    }

    /// Follows the transactions of the log (KIP-98): the broker names the aborted ones by their first offset, and the
    /// marker in the log ends each.
    fn is_aborted(&mut self, batch: &BatchView, config: &ConsumerConfig) -> Result<bool, BatchError> {
        let header = batch.header();
        while self.aborted.front().is_some_and(|aborted| aborted.first_offset <= header.last_offset()) {
            let aborted = self.aborted.pop_front().expect("there is a first one");
            self.aborted_producers.insert(aborted.producer_id);
        }
        if header.attributes.is_control() {
            if let Some(record) = batch.records(config.batch_bytes_max)?.next()
                && record?.key.as_deref().is_some_and(is_abort_marker)
            {
                self.aborted_producers.remove(&header.producer.id);
            }
            return Ok(true);
        }
        Ok(header.attributes.is_transactional() && self.aborted_producers.contains(&header.producer.id))
    }
}

/// The key of a marker: version, then 0 for an abort or 1 for a commit, 16 bits each.
fn is_abort_marker(key: &[u8]) -> bool {
    matches!(key, [_, _, 0, 0, ..])
}
