//! Reads assigned partitions: finds where to start, keeps one fetch in flight per broker, and hands out records.
//!
//! Owns positions, fetch sessions and what was fetched ahead, which is bounded. Invariant: the records of a partition
//! are handed out in the order of their offsets, each once, from the position on. Who reads which partition is decided
//! by the caller: there are no groups here, and nothing is committed anywhere.

mod config;
mod partition;
mod record;
mod session;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kauri_protocol::{
    error::ErrorCode,
    messages::{FetchRequest, FetchResponse, Response, fetch::FetchPartitionData},
    wire::Str,
};

pub use self::{
    config::{ConsumerConfig, OffsetReset, Start},
    record::{ConsumeError, ConsumedBatch, ConsumedRecord, Failing, PartitionError},
};
use self::{
    partition::{Next, Partition, State},
    session::{FetchSession, Place, Want},
};
use crate::{
    cluster::{CallError, CallId, Cluster, ClusterConfig, Target},
    io::{Effects, Input, Monotonic, Now},
    offsets::{OffsetAt, Offsets, SearchId, SearchResult},
};

#[derive(Debug, Default)]
struct Broker {
    session: FetchSession,
    fetch: Option<Fetch>,
    not_before: Monotonic,
    pause: Duration,
}

impl Broker {
    /// Whether it may be asked now.
    fn is_free(&self, now: Now) -> bool {
        self.fetch.is_none() && self.not_before <= now.monotonic
    }
}

/// A request in flight.
#[derive(Debug)]
struct Fetch {
    call: CallId,
    /// What was asked of whom, to recognise answers that nobody wants any more: generation and offset.
    asked: BTreeMap<Place, (u64, i64)>,
    /// What the answer may add to the buffer.
    bytes: usize,
}

/// See the module head.
#[derive(Debug)]
pub struct Consumer {
    config: ConsumerConfig,
    cluster: Cluster,
    offsets: Offsets,
    /// Searches for start positions; all others are the caller's.
    starts: BTreeMap<SearchId, Place>,
    searched: VecDeque<(SearchId, SearchResult)>,
    partitions: BTreeMap<Place, Partition>,
    brokers: BTreeMap<i32, Broker>,
    /// Chunks in the order in which they came, by partition and its generation.
    arrivals: VecDeque<(Place, u64)>,
    /// The batch that records are being taken from, and its partition's generation.
    current: Option<(ConsumedBatch, u64)>,
    errors: VecDeque<PartitionError>,
    next_generation: u64,
    polled: Monotonic,
    /// See [`Consumer::wants_poll`].
    changed: bool,
}

impl Consumer {
    pub fn new(cluster: ClusterConfig, config: ConsumerConfig) -> Self {
        assert!(config.wait_max < cluster.request_timeout, "a fetch that finds nothing is no timeout");
        Self {
            offsets: Offsets::new(config.read_committed),
            config,
            cluster: Cluster::new(cluster),
            starts: BTreeMap::new(),
            searched: VecDeque::new(),
            partitions: BTreeMap::new(),
            brokers: BTreeMap::new(),
            arrivals: VecDeque::new(),
            current: None,
            errors: VecDeque::new(),
            next_generation: 0,
            polled: Monotonic::default(),
            changed: true,
        }
    }

    pub fn config(&self) -> &ConsumerConfig {
        &self.config
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Has metadata of a topic fetched without reading it, for [`Consumer::cluster`].
    pub fn want_topic(&mut self, topic: &str) {
        self.cluster.want_topic(&Str::from(topic));
        self.changed = true;
    }

    /// Reads a partition from `start` on. One that is read already starts over.
    pub fn assign(&mut self, topic: &str, partition: i32, start: Start) {
        let place = (Str::from(topic), partition);
        self.cluster.want_topic(&place.0);
        let generation = self.new_generation();
        match self.partitions.get_mut(&place) {
            None => {
                self.partitions.insert(place, Partition::new(generation, start));
            }
            Some(known) => {
                let search = known.restart(generation, start);
                self.cancel(search);
                self.forget(&place);
            }
        }
    }

    /// Stops reading a partition. Returns whether it was assigned.
    pub fn unassign(&mut self, topic: &str, partition: i32) -> bool {
        let place = (Str::from(topic), partition);
        let Some(known) = self.partitions.remove(&place) else { return false };
        self.cancel(known.search());
        self.forget(&place);
        true
    }

    /// Sets the position of an assigned partition. Returns whether it is assigned.
    pub fn seek(&mut self, topic: &str, partition: i32, start: Start) -> bool {
        let assigned = self.partitions.contains_key(&(Str::from(topic), partition));
        if assigned {
            self.assign(topic, partition, start);
        }
        assigned
    }

    /// Hands out no more records of the partition; what was fetched ahead is fetched again after `resume`. Returns
    /// whether it is assigned.
    pub fn pause(&mut self, topic: &str, partition: i32) -> bool {
        let place = (Str::from(topic), partition);
        let generation = self.new_generation();
        let Some(known) = self.partitions.get_mut(&place) else { return false };
        known.paused = true;
        known.forget_fetched(generation);
        self.forget(&place);
        true
    }

    /// Undoes `pause`. Returns whether the partition is assigned.
    pub fn resume(&mut self, topic: &str, partition: i32) -> bool {
        let Some(known) = self.partitions.get_mut(&(Str::from(topic), partition)) else { return false };
        known.paused = false;
        self.changed = true;
        true
    }

    /// What is assigned.
    pub fn assignment(&self) -> impl Iterator<Item = (&Str, i32)> {
        self.partitions.keys().map(|(topic, partition)| (topic, *partition))
    }

    /// The offset after the last record that was handed out. `None` if the partition is not assigned or its start is
    /// not found yet.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        self.partitions.get(&(Str::from(topic), partition))?.position
    }

    /// The end of the partition as the last answer told it; old as soon as it is known.
    pub fn high_watermark(&self, topic: &str, partition: i32) -> Option<i64> {
        self.partitions.get(&(Str::from(topic), partition))?.high_watermark
    }

    /// Why an assigned partition is not read at present although nothing is wrong for good, and since when.
    pub fn failing(&self, topic: &str, partition: i32) -> Option<Failing> {
        let known = self.partitions.get(&(Str::from(topic), partition))?;
        let failing = known.failing.clone()?;
        match known.search().and_then(|search| self.offsets.last_failure(search)) {
            Some(last) => Some(Failing { last: last.to_owned(), ..failing }),
            None => Some(failing),
        }
    }

    /// The next record, over all partitions. An error ends its partition, see [`Consumer::next_error`].
    pub fn next_record(&mut self) -> Option<ConsumedRecord> {
        loop {
            let (mut batch, generation) = self.take_current()?;
            let place = (batch.topic.clone(), batch.partition);
            let record = batch.next();
            let partition = self.partitions.get_mut(&place).expect("its batch would be dropped with it");
            match record {
                None => partition.position = Some(batch.next_offset),
                Some(Ok(record)) => {
                    partition.position = Some(record.offset.saturating_add(1));
                    self.current = Some((batch, generation));
                    return Some(record);
                }
                Some(Err(error)) => {
                    let offset = partition.position.expect("records were taken from a position");
                    self.stop(&place, ConsumeError::Damaged { offset, error });
                }
            }
        }
    }

    /// The next batch as a whole, over all partitions; the position is after it at once. A damaged record in it is told
    /// by the batch only.
    pub fn next_batch(&mut self) -> Option<ConsumedBatch> {
        let (batch, _) = self.take_current()?;
        let place = (batch.topic.clone(), batch.partition);
        let partition = self.partitions.get_mut(&place).expect("its batch would be dropped with it");
        partition.position = Some(batch.next_offset);
        Some(batch)
    }

    /// What is wrong with a partition; told once.
    pub fn next_error(&mut self) -> Option<PartitionError> {
        self.errors.pop_front()
    }

    /// Starts to find an offset; see [`Consumer::next_found`].
    pub fn find_offset(&mut self, now: Now, topic: &str, partition: i32, at: OffsetAt, timeout: Duration) -> SearchId {
        self.changed = true;
        self.offsets.search(now, &Str::from(topic), partition, at, Some(timeout))
    }

    /// The result of a `find_offset`.
    pub fn next_found(&mut self) -> Option<(SearchId, SearchResult)> {
        self.searched.pop_front()
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        self.cluster.handle(now, input);
    }

    /// To be called after every other call that changes something, after records were taken, and at
    /// [`Consumer::next_deadline`].
    pub fn poll(&mut self, now: Now, effects: &mut Effects) {
        self.polled = now.monotonic;
        self.cluster.poll(now, effects);
        self.take_answers(now);
        self.search_starts(now);
        self.offsets.poll(now, &mut self.cluster);
        self.fetch(now);
        self.cluster.poll(now, effects);
        self.take_answers(now);
        self.changed = false;
    }

    /// Whether something was done since the last `poll` that makes another one worth while before
    /// [`Consumer::next_deadline`].
    pub fn wants_poll(&self) -> bool {
        self.changed
    }

    pub fn next_deadline(&self) -> Option<Monotonic> {
        let pauses = self.partitions.values().map(|partition| partition.not_before);
        let pauses = pauses.chain(self.brokers.values().map(|broker| broker.not_before));
        let pauses = pauses.filter(|at| *at > self.polled).min();
        [self.cluster.next_deadline(), self.offsets.next_deadline(), pauses].into_iter().flatten().min()
    }

    fn new_generation(&mut self) -> u64 {
        self.changed = true;
        self.next_generation += 1;
        self.next_generation
    }

    fn cancel(&mut self, search: Option<SearchId>) {
        if let Some(search) = search {
            self.offsets.cancel(search);
            self.starts.remove(&search);
        }
    }

    /// Drops what waits to be handed out.
    fn forget(&mut self, place: &Place) {
        self.arrivals.retain(|(arrived, _)| arrived != place);
        self.errors.retain(|error| (&error.topic, error.partition) != (&place.0, place.1));
    }

    fn stop(&mut self, place: &Place, error: ConsumeError) {
        let generation = self.new_generation();
        let partition = self.partitions.get_mut(place).expect("only assigned partitions are stopped");
        partition.state = State::Stopped;
        partition.forget_fetched(generation);
        self.forget(place);
        self.errors.push_back(PartitionError { topic: place.0.clone(), partition: place.1, error });
    }

    /// The batch to take records from.
    fn take_current(&mut self) -> Option<(ConsumedBatch, u64)> {
        if let Some((batch, generation)) = self.current.take()
            && let Some(partition) = self.partitions.get(&(batch.topic.clone(), batch.partition))
            && partition.generation == generation
        {
            return Some((batch, generation));
        }
        loop {
            let (place, generation) = self.arrivals.front()?.clone();
            let known = self.partitions.get_mut(&place).filter(|partition| partition.generation == generation);
            let Some(partition) = known else {
                self.arrivals.pop_front();
                continue;
            };
            match partition.next(&place, &self.config) {
                Next::Batch(batch) => return Some((batch, generation)),
                Next::ChunkEnd => {
                    self.arrivals.pop_front();
                    self.changed = true;
                }
                Next::Failed(error) => self.stop(&place, error),
            }
        }
    }

    fn search_starts(&mut self, now: Now) {
        for (place, partition) in &mut self.partitions {
            if let State::Searching { start, search: search @ None } = &mut partition.state {
                let at = start.search().expect("an offset that is given is not searched for");
                let id = self.offsets.search(now, &place.0, place.1, at, None);
                *search = Some(id);
                self.starts.insert(id, place.clone());
                // Until it is found; why it is not is known by the search.
                partition.failed(now, String::new());
            }
        }
    }

    fn take_found(&mut self) {
        while let Some((id, result)) = self.offsets.next_result() {
            let Some(place) = self.starts.remove(&id) else {
                self.searched.push_back((id, result));
                continue;
            };
            let partition = self.partitions.get_mut(&place).expect("the search would be cancelled with it");
            match result {
                Ok(Some(found)) => partition.read_from(found.offset),
                // No record is as young as the time that was given: only what comes will be.
                Ok(None) => partition.state = State::Searching { start: Start::Latest, search: None },
                Err(error) => self.stop(&place, error.into()),
            }
        }
    }

    fn fetch(&mut self, now: Now) {
        let buffered: usize = self.partitions.values().map(|partition| partition.buffered_bytes).sum();
        let coming: usize = self.brokers.values().flat_map(|broker| &broker.fetch).map(|fetch| fetch.bytes).sum();
        let mut free = self.config.prefetch_bytes.saturating_sub(buffered + coming);
        // No partition takes all of the buffer while others have nothing.
        let share = (self.config.prefetch_bytes / self.partitions.len().max(1)).max(1);
        let mut plans: BTreeMap<i32, BTreeMap<Place, Want>> = BTreeMap::new();
        for (place, partition) in &mut self.partitions {
            if !partition.is_fetchable(now, share) {
                continue;
            }
            let Some((leader, leader_epoch)) = self.cluster.metadata().leader_of(&place.0, place.1) else {
                let error = self.cluster.metadata().topics.get(&place.0).map(|topic| topic.error);
                if error == Some(ErrorCode::UnknownTopicOrPartition) && !partition.missing_told {
                    partition.missing_told = true;
                    let (topic, partition) = place.clone();
                    self.errors.push_back(PartitionError { topic, partition, error: ConsumeError::Missing });
                }
                let last = match error.filter(|error| error.is_error()) {
                    Some(error) => error.to_string(),
                    None => "its leader is not known".to_owned(),
                };
                partition.failed(now, last);
                partition.back_off(now, &self.config);
                self.cluster.refresh_metadata();
                continue;
            };
            // One request at a time: what comes meanwhile goes into the next one.
            if self.brokers.get(&leader).is_some_and(|broker| !broker.is_free(now)) {
                continue;
            }
            let want =
                Want { offset: partition.fetch_offset, leader_epoch, bytes_max: to_i32(self.config.partition_bytes) };
            plans.entry(leader).or_default().insert(place.clone(), want);
        }
        for (node, wants) in plans {
            let broker = self.brokers.entry(node).or_default();
            let enough = free >= self.config.fetch_bytes.min(self.config.prefetch_bytes);
            if !broker.is_free(now) || !enough {
                continue;
            }
            if !self.cluster.prepare(node) {
                let last = format!("its leader, node {node}, is not reached: {}", self.cluster.last_failure());
                for place in wants.keys() {
                    let partition = self.partitions.get_mut(place).expect("what is wanted is assigned");
                    partition.failed(now, last.clone());
                }
                continue;
            }
            let bytes = self.config.fetch_bytes.min(free);
            free -= bytes;
            let mut request = FetchRequest {
                max_wait_ms: i32::try_from(self.config.wait_max.as_millis()).unwrap_or(i32::MAX),
                min_bytes: self.config.bytes_min,
                max_bytes: to_i32(bytes),
                isolation_level: i8::from(self.config.read_committed),
                ..Default::default()
            };
            broker.session.fill(&mut request, &wants);
            let generation = |place: &Place| self.partitions[place].generation;
            let asked = wants.into_iter().map(|(place, want)| (place.clone(), (generation(&place), want.offset)));
            let asked = asked.collect();
            let call = self.cluster.call(now, Target::Node(node), request);
            broker.fetch = Some(Fetch { call, asked, bytes });
        }
    }

    fn take_answers(&mut self, now: Now) {
        while let Some((call, answer)) = self.cluster.next_answer() {
            let Some(answer) = self.offsets.take_answer(now, &mut self.cluster, call, answer) else { continue };
            let mut brokers = self.brokers.values_mut();
            let broker = brokers
                .find(|broker| broker.fetch.as_ref().is_some_and(|fetch| fetch.call == call))
                .expect("every call is a search or a fetch");
            let fetch = broker.fetch.take().expect("it was just found");
            let last = match &answer {
                Ok(Response::Fetch(response)) => response.error_code.to_string(),
                Ok(_) => unreachable!("a response is decoded as its request's API"),
                Err(error) => error.to_string(),
            };
            let error = match answer {
                Ok(Response::Fetch(response)) if response.error_code.is_ok() => {
                    broker.session.advance(response.session_id);
                    broker.pause = Duration::ZERO;
                    self.take_response(now, fetch, response);
                    continue;
                }
                Ok(Response::Fetch(response)) => Some(ConsumeError::Refused(response.error_code)),
                Ok(_) => unreachable!("a response is decoded as its request's API"),
                Err(CallError::Send(error)) => Some(error.into()),
                Err(CallError::Disconnected | CallError::TimedOut | CallError::Unreachable(_)) => None,
            };
            broker.session.end();
            for (place, (generation, _)) in &fetch.asked {
                let partition = self.partitions.get_mut(place);
                if let Some(partition) = partition.filter(|partition| partition.generation == *generation) {
                    partition.failed(now, last.clone());
                }
            }
            match error {
                // The next request starts another session.
                Some(ConsumeError::Refused(
                    ErrorCode::FetchSessionIdNotFound | ErrorCode::InvalidFetchSessionEpoch,
                )) => {}
                Some(_) | None => {
                    let first = broker.pause.is_zero();
                    let doubled = (broker.pause * 2).min(self.config.retry_pause_max);
                    broker.pause = if first { self.config.retry_pause } else { doubled };
                    broker.not_before = now.monotonic + broker.pause;
                    self.cluster.refresh_metadata();
                }
            }
            let may_pass = |error: &ConsumeError| matches!(error, ConsumeError::Refused(code) if code.is_retriable());
            if let Some(error) = error.filter(|error| !may_pass(error)) {
                for (place, (generation, _)) in fetch.asked {
                    if self.partitions.get(&place).is_some_and(|partition| partition.generation == generation) {
                        self.stop(&place, error.clone());
                    }
                }
            }
        }
        self.take_found();
    }

    fn take_response(&mut self, now: Now, fetch: Fetch, response: FetchResponse) {
        // A session's answer leaves out partitions about which there is nothing to say. Those with errors are not.
        let said: BTreeSet<Place> = response
            .responses
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|answer| (topic.topic.clone(), answer.partition_index)))
            .collect();
        for (place, (generation, _)) in fetch.asked.iter().filter(|(place, _)| !said.contains(*place)) {
            let partition = self.partitions.get_mut(place);
            if let Some(partition) = partition.filter(|partition| partition.generation == *generation) {
                partition.failing = None;
            }
        }
        for topic in response.responses {
            let name = topic.topic;
            for answer in topic.partitions {
                // An answer to what was not asked, or what is not wanted any more, says nothing.
                let Some((place, &(generation, offset))) =
                    fetch.asked.get_key_value(&(name.clone(), answer.partition_index))
                else {
                    continue;
                };
                let Some(partition) = self.partitions.get_mut(place) else { continue };
                if partition.generation == generation && partition.fetch_offset == offset {
                    self.take_partition(now, place, answer);
                }
            }
        }
    }

    fn take_partition(&mut self, now: Now, place: &Place, answer: FetchPartitionData) {
        let partition = self.partitions.get_mut(place).expect("the caller looked");
        match answer.error_code {
            ErrorCode::None => {
                partition.succeeded();
                partition.high_watermark = Some(answer.high_watermark);
                let records = answer.records.unwrap_or_default().to_bytes();
                match partition.push(records, answer.aborted_transactions.unwrap_or_default()) {
                    Ok(true) => self.arrivals.push_back((place.clone(), partition.generation)),
                    Ok(false) => {}
                    Err(error) => self.stop(place, error),
                }
            }
            ErrorCode::OffsetOutOfRange => {
                let offset = partition.fetch_offset;
                let start = match self.config.reset {
                    OffsetReset::Earliest => Start::Earliest,
                    OffsetReset::Latest => Start::Latest,
                    OffsetReset::Fail => return self.stop(place, ConsumeError::OutOfRange { offset }),
                };
                if partition.position == Some(offset) {
                    partition.state = State::Searching { start, search: None };
                } else {
                    // Asked again when what was fetched before is handed out.
                    partition.back_off(now, &self.config);
                }
            }
            error if error.is_retriable() => {
                partition.failed(now, error.to_string());
                let hint = &answer.current_leader;
                if !self.cluster.learn_leader(&place.0, place.1, hint, &[]) {
                    partition.back_off(now, &self.config);
                    self.cluster.refresh_metadata();
                }
                if error == ErrorCode::UnknownTopicOrPartition && !partition.missing_told {
                    partition.missing_told = true;
                    let (topic, partition) = place.clone();
                    self.errors.push_back(PartitionError { topic, partition, error: ConsumeError::Missing });
                }
            }
            error => self.stop(place, ConsumeError::Refused(error)),
        }
    }
}

fn to_i32(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}
