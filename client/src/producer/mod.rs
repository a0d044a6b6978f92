//! Writes records: batches them by partition, sends each batch to the partition's leader until it is written or its
//! time is over, and tells what became of every record.
//!
//! Owns the topics' partitions, the memory that records may take, the producer identity and the requests in flight.
//! Invariant: every record that was taken has exactly one result. With idempotence (the default) an acknowledged
//! record is in the log once, and acknowledged records of a partition are in the order of `send`; a failure says
//! whether the record may be in the log. Without idempotence a retry may write a record again, or behind later ones.

mod config;
mod identity;
mod partition;
mod partitioner;
mod record;
mod results;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use kauri_protocol::{
    error::ErrorCode,
    messages::{
        ProduceRequest, ProduceResponse, Response,
        produce::{PartitionProduceData, TopicProduceData},
    },
    records::{BatchBuilder, HEADER_BYTES},
    wire::Str,
};

pub use self::{
    config::{Acks, IN_FLIGHT_LIMIT, ProducerConfig},
    partitioner::{murmur2, partition_of_key},
    record::{Delivered, FailureReason, Outcome, ProduceFailure, ProducerRecord, RecordHeader, SendError, SendId},
};
use self::{
    identity::IdentityState,
    partition::{Attempt, Partition},
    partitioner::Sticky,
    record::Unplaced,
    results::{Accepted, Finished, Results, Written},
};
use crate::{
    cluster::{CallError, CallId, Cluster, ClusterConfig, Target},
    io::{Effects, Input, Monotonic, Now},
};

/// What a record takes that waits for its partition, beside its bytes.
const UNPLACED_OVERHEAD_BYTES: usize = size_of::<Unplaced>();
/// How often a topic is asked for that is not known.
const PAUSE_FOR_TOPIC: Duration = Duration::from_millis(100);

/// A partition's place in [`Producer::partitions`].
type Slot = usize;

#[derive(Debug, Default)]
struct Topic {
    slots: BTreeMap<i32, Slot>,
    /// 0 as long as it is not known.
    partition_count: i32,
    sticky: Sticky,
    /// Records without a partition, which wait for the count.
    unplaced: VecDeque<(Monotonic, Unplaced)>,
    /// When to ask again for a topic that is not known.
    ask_at: Monotonic,
}

#[derive(Debug)]
struct InFlight {
    node: i32,
    slots: Vec<Slot>,
}

/// See the module head.
#[derive(Debug)]
pub struct Producer {
    config: ProducerConfig,
    cluster: Cluster,
    identity: IdentityState,
    topics: BTreeMap<Str, Topic>,
    partitions: Vec<Partition>,
    /// When partitions have something to do.
    timers: BTreeSet<(Monotonic, Slot)>,
    /// Partitions that may have something to send.
    due: BTreeSet<Slot>,
    /// Where the next search for something to send begins, so that all partitions get their turn.
    turn: Slot,
    calls: BTreeMap<CallId, InFlight>,
    in_flight: BTreeMap<i32, usize>,
    held_bytes: usize,
    results: Results,
    next_id: u64,
    /// Records before this one do not wait for others.
    flushed: SendId,
    metadata_generation: u64,
    polled: Monotonic,
    /// See [`Producer::wants_poll`].
    changed: bool,
}

impl Producer {
    pub fn new(cluster: ClusterConfig, config: ProducerConfig) -> Self {
        assert!(
            (1..=IN_FLIGHT_LIMIT).contains(&config.in_flight_max),
            "between one and five requests are in flight for a broker"
        );
        Self {
            identity: IdentityState::new(&config),
            config,
            cluster: Cluster::new(cluster),
            topics: BTreeMap::new(),
            partitions: Vec::new(),
            timers: BTreeSet::new(),
            due: BTreeSet::new(),
            turn: 0,
            calls: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            held_bytes: 0,
            results: Results::default(),
            next_id: 0,
            flushed: SendId(0),
            metadata_generation: 0,
            polled: Monotonic::default(),
            changed: true,
        }
    }

    pub fn config(&self) -> &ProducerConfig {
        &self.config
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Takes a record; `poll` sends it. The record's topic is learned if it is new.
    pub fn send(&mut self, now: Now, record: ProducerRecord<'_>) -> Result<SendId, SendError> {
        let bytes = BatchBuilder::record_bytes_max(record.key, record.value, record.headers);
        let bytes_max = self.config.request_bytes;
        if HEADER_BYTES + bytes > bytes_max {
            return Err(SendError::RecordTooLarge { bytes, bytes_max });
        }
        if self.held_bytes > 0 && self.held_bytes + bytes > self.config.buffer_bytes {
            return Err(SendError::QueueFull);
        }
        if let Some(partition) = record.partition.filter(|partition| *partition < 0) {
            return Err(SendError::InvalidPartition(partition));
        }
        if !self.topics.contains_key(record.topic) {
            self.learn_topic(record.topic);
        }
        let topic = self.topics.get_mut(record.topic).expect("it was just learned");
        let id = SendId(self.next_id);
        let timestamp = record.timestamp.unwrap_or(now.wall_ms);
        let partition = match (record.partition, record.key) {
            (Some(partition), _) => partition,
            (None, _) if topic.partition_count == 0 || !topic.unplaced.is_empty() => {
                let charge = bytes + UNPLACED_OVERHEAD_BYTES;
                topic.unplaced.push_back((now.monotonic, Unplaced::new(id, &record, timestamp, charge)));
                self.held_bytes += charge;
                self.next_id += 1;
                self.changed = true;
                return Ok(id);
            }
            (None, Some(key)) => partition_of_key(key, topic.partition_count),
            (None, None) => {
                let metadata = self.cluster.metadata();
                let has_leader = |partition| metadata.leader(record.topic, partition).is_some();
                topic.sticky.choose(topic.partition_count, bytes, self.config.batch_bytes, has_leader)
            }
        };
        let slot = self.slot(record.topic, partition);
        let charge = self.partitions[slot].append(
            now,
            &self.config,
            id,
            timestamp,
            record.key,
            record.value,
            record.headers,
            bytes,
        )?;
        self.held_bytes += charge;
        self.next_id += 1;
        self.note(now, slot);
        Ok(id)
    }

    /// What became of a record, in the order in which that was learned.
    pub fn next_result(&mut self) -> Option<(SendId, Result<Delivered, ProduceFailure>)> {
        let (id, result, freed) = self.results.take()?;
        self.held_bytes -= freed;
        Some((id, result))
    }

    /// Records that wait for more of their kind are sent without waiting.
    pub fn flush(&mut self, now: Now) {
        self.flushed = self.next_id();
        for slot in 0..self.partitions.len() {
            self.partitions[slot].flush();
            self.note(now, slot);
        }
    }

    /// The number of the next record.
    pub fn next_id(&self) -> SendId {
        SendId(self.next_id)
    }

    /// Whether every record taken has its result, be it taken out or not.
    pub fn is_idle(&self) -> bool {
        self.partitions.iter().all(Partition::is_empty) && self.topics.values().all(|topic| topic.unplaced.is_empty())
    }

    /// Bytes of memory that records and results take, out of [`ProducerConfig::buffer_bytes`].
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Gives up all records. What is in flight has an unknown outcome.
    pub fn abort(&mut self) {
        self.calls.clear();
        self.in_flight.clear();
        self.due.clear();
        for partition in &mut self.partitions {
            partition.abort(&mut self.results);
        }
        let closed = ProduceFailure { outcome: Outcome::NotWritten, reason: FailureReason::Closed };
        for (name, topic) in &mut self.topics {
            for (_, record) in topic.unplaced.drain(..) {
                self.results.push(never_placed(name, &record, closed.clone()));
            }
        }
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        self.cluster.handle(now, input);
    }

    /// To be called after every other call that changes something, and at [`Producer::next_deadline`].
    pub fn poll(&mut self, now: Now, effects: &mut Effects) {
        self.polled = now.monotonic;
        self.cluster.poll(now, effects);
        self.take_answers(now);
        while let Some(&(at, slot)) = self.timers.first()
            && at <= now.monotonic
        {
            let gone = self.partitions[slot].wake(now, &self.config, &mut self.results);
            gone.into_iter().for_each(|identity| self.identity.give_up(identity));
            self.note(now, slot);
        }
        self.place(now);
        if self.identity.is_missing() && !self.due.is_empty() {
            self.identity.poll(now, &mut self.cluster);
        }
        loop {
            let mut any = false;
            while self.send_due(now) {
                any = true;
            }
            self.cluster.poll(now, effects);
            self.take_answers(now);
            if self.config.acks == Acks::None {
                self.settle_silent(now);
            }
            // What ended at once may have made room for more.
            if !any {
                break;
            }
        }
        self.changed = false;
    }

    /// Whether something was done since the last `poll` that makes another one worth while before
    /// [`Producer::next_deadline`]. Most records only join a batch that is waiting anyway.
    pub fn wants_poll(&self) -> bool {
        self.changed
    }

    /// When `poll` has something to do although nothing happened.
    pub fn next_deadline(&self) -> Option<Monotonic> {
        let cluster = self.cluster.next_deadline();
        let partitions = self.timers.first().map(|&(at, _)| at);
        let unplaced = self.topics.values().filter_map(|topic| {
            let &(oldest, _) = topic.unplaced.front()?;
            Some((oldest + self.config.delivery_timeout).min(topic.ask_at))
        });
        let identity = if self.due.is_empty() { None } else { self.identity.next_deadline(self.polled) };
        [cluster, partitions, unplaced.min(), identity].into_iter().flatten().min()
    }

    fn learn_topic(&mut self, name: &str) {
        let name = Str::from(name);
        self.cluster.want_topic(&name);
        let topic = Topic { partition_count: known_partitions(&self.cluster, &name), ..Topic::default() };
        self.topics.insert(name, topic);
    }

    fn slot(&mut self, topic: &str, index: i32) -> Slot {
        let (name, known) = {
            let topic = self.topics.get_mut(topic).expect("topics are learned first");
            (topic.slots.get(&index).copied(), &mut topic.slots)
        };
        if let Some(slot) = name {
            return slot;
        }
        let slot = self.partitions.len();
        known.insert(index, slot);
        let (name, _) = self.topics.get_key_value(topic).expect("it was just found");
        self.partitions.push(Partition::new(name.clone(), index));
        slot
    }

    /// Keeps the timer of a partition and its place among those that are due.
    fn note(&mut self, now: Now, slot: Slot) {
        let partition = &mut self.partitions[slot];
        if partition.is_due() {
            self.changed |= self.due.insert(slot);
        }
        let next = partition.next_wake(now, &self.config);
        if next != partition.timer {
            self.changed = true;
            partition.timer.take().into_iter().for_each(|at| {
                self.timers.remove(&(at, slot));
            });
            next.into_iter().for_each(|at| {
                self.timers.insert((at, slot));
            });
            partition.timer = next;
        }
    }

    /// Finds partitions for records once the number of partitions is known.
    fn place(&mut self, now: Now) {
        if self.metadata_generation != self.cluster.metadata_generation() {
            self.metadata_generation = self.cluster.metadata_generation();
            for (name, topic) in &mut self.topics {
                topic.partition_count = known_partitions(&self.cluster, name);
            }
        }
        let waiting = self.topics.iter().filter(|(_, topic)| !topic.unplaced.is_empty());
        let waiting: Vec<Str> = waiting.map(|(name, _)| name.clone()).collect();
        for name in waiting {
            let topic = self.topics.get_mut(&name).expect("it was just found");
            let error = self.cluster.metadata().topics.get(&name).map_or(ErrorCode::None, |topic| topic.error);
            if topic.partition_count > 0 {
                let records = std::mem::take(&mut topic.unplaced);
                records.into_iter().for_each(|(_, record)| self.place_one(now, &name, record));
                continue;
            }
            let refused = error.is_error() && !error.is_retriable();
            let timeout = self.config.delivery_timeout;
            while let Some(&(since, _)) = topic.unplaced.front()
                && (refused || since + timeout <= now.monotonic)
            {
                let (_, record) = topic.unplaced.pop_front().expect("there is a first one");
                let reason = if refused {
                    FailureReason::Refused { error, message: None }
                } else if error.is_error() {
                    FailureReason::TimedOut { last: error.to_string() }
                } else {
                    FailureReason::TimedOut { last: self.cluster.last_failure().to_owned() }
                };
                let failure = ProduceFailure { outcome: Outcome::NotWritten, reason };
                self.results.push(never_placed(&name, &record, failure));
            }
            if topic.ask_at <= now.monotonic {
                topic.ask_at = now.monotonic + PAUSE_FOR_TOPIC;
                self.cluster.refresh_metadata();
            }
        }
    }

    fn place_one(&mut self, now: Now, name: &Str, record: Unplaced) {
        let topic = self.topics.get_mut(name).expect("topics stay");
        let headers: Vec<RecordHeader<'_>> =
            record.headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
        let bytes = BatchBuilder::record_bytes_max(record.key.as_deref(), record.value.as_deref(), &headers);
        let partition = match &record.key {
            Some(key) => partition_of_key(key, topic.partition_count),
            None => {
                let metadata = self.cluster.metadata();
                let has_leader = |partition| metadata.leader(name, partition).is_some();
                topic.sticky.choose(topic.partition_count, bytes, self.config.batch_bytes, has_leader)
            }
        };
        let slot = self.slot(name, partition);
        let appended = self.partitions[slot].append(
            now,
            &self.config,
            record.id,
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
            bytes,
        );
        match appended {
            Ok(charge) => {
                self.held_bytes = self.held_bytes + charge - record.charge;
                if record.id < self.flushed {
                    self.partitions[slot].flush();
                }
            }
            Err(error) => {
                let failure = ProduceFailure { outcome: Outcome::NotWritten, reason: error.into() };
                self.results.push(never_placed(name, &record, failure));
            }
        }
        self.note(now, slot);
    }

    /// Plans one request per broker. Returns whether there was one, in which case there may be more.
    fn send_due(&mut self, now: Now) -> bool {
        let mut plans: BTreeMap<i32, Plan> = BTreeMap::new();
        let slots: Vec<Slot> = self.due.range(self.turn..).chain(self.due.range(..self.turn)).copied().collect();
        for slot in slots {
            let partition = &mut self.partitions[slot];
            if !partition.may_send(now, &self.config) {
                self.due.remove(&slot);
                continue;
            }
            if self.identity.is_missing() && partition.needs_identity() {
                continue;
            }
            let Some(leader) = self.cluster.metadata().leader(&partition.topic, partition.index) else {
                self.cluster.refresh_metadata();
                continue;
            };
            if partition.bound_to().is_some_and(|node| node != leader) {
                self.due.remove(&slot);
                continue;
            }
            let in_flight = self.in_flight.get(&leader).copied().unwrap_or(0);
            if in_flight >= self.config.in_flight_max || !self.cluster.prepare(leader) {
                continue;
            }
            let plan = plans.entry(leader).or_default();
            if plan.bytes >= self.config.request_bytes {
                continue;
            }
            if let Some(bytes) = partition.encode(self.identity.current(), &mut self.results) {
                plan.bytes += bytes.len();
                plan.batches.push((slot, bytes));
            }
            self.note(now, slot);
            self.turn = slot + 1;
        }
        let mut any = false;
        for (node, plan) in plans {
            if plan.batches.is_empty() {
                continue;
            }
            any = true;
            let slots: Vec<Slot> = plan.batches.iter().map(|(slot, _)| *slot).collect();
            let request = self.request(plan.batches);
            let call = self.cluster.call(now, Target::Node(node), request);
            for &slot in &slots {
                self.partitions[slot].sent(call, node);
                self.note(now, slot);
            }
            self.calls.insert(call, InFlight { node, slots });
            *self.in_flight.entry(node).or_insert(0) += 1;
        }
        any
    }

    fn request(&self, batches: Vec<(Slot, Bytes)>) -> ProduceRequest {
        let mut topics: BTreeMap<Str, Vec<PartitionProduceData>> = BTreeMap::new();
        for (slot, records) in batches {
            let partition = &self.partitions[slot];
            let data = PartitionProduceData { index: partition.index, records: Some(records) };
            topics.entry(partition.topic.clone()).or_default().push(data);
        }
        // The broker's own answer that it took too long comes before this client gives up on the connection.
        let timeout = self.cluster.config().request_timeout * 3 / 4;
        ProduceRequest {
            acks: self.config.acks.code(),
            timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
            topic_data: topics
                .into_iter()
                .map(|(name, partition_data)| TopicProduceData { name, partition_data })
                .collect(),
            ..Default::default()
        }
    }

    fn take_answers(&mut self, now: Now) {
        while let Some((call, answer)) = self.cluster.next_answer() {
            if self.identity.is_answered_by(call) {
                if let Some(reason) = self.identity.answer(now, &self.config, answer) {
                    self.fail_unsent(now, &reason);
                }
                continue;
            }
            // Not there if the records were given up.
            let Some(in_flight) = self.calls.remove(&call) else { continue };
            self.forget_in_flight(in_flight.node);
            match answer {
                Ok(Response::Produce(response)) => self.take_response(now, call, in_flight.slots, &response),
                Ok(_) => unreachable!("a response is decoded as its request's API"),
                Err(error) => {
                    for slot in in_flight.slots {
                        let attempt = match &error {
                            CallError::Disconnected | CallError::TimedOut => Attempt::Unanswered(error.to_string()),
                            CallError::Unreachable(_) => Attempt::NotSent(error.to_string()),
                            CallError::Send(error) => Attempt::Unsendable(error.clone()),
                        };
                        self.settle(now, slot, call, attempt);
                    }
                }
            }
        }
    }

    fn take_response(&mut self, now: Now, call: CallId, slots: Vec<Slot>, response: &ProduceResponse) {
        let mut open: BTreeSet<Slot> = slots.into_iter().collect();
        for topic in &response.responses {
            for answer in &topic.partition_responses {
                let slot = self.topics.get(&topic.name).and_then(|topic| topic.slots.get(&answer.index)).copied();
                // An answer to what was not asked, or a second one, says nothing.
                let Some(slot) = slot.filter(|slot| open.remove(slot)) else { continue };
                let written = Written {
                    base_offset: Some(answer.base_offset).filter(|offset| *offset >= 0),
                    append_time: Some(answer.log_append_time_ms).filter(|time| *time >= 0),
                };
                let attempt = match answer.error_code {
                    ErrorCode::None | ErrorCode::DuplicateSequenceNumber => Attempt::Written(written),
                    error => {
                        let hint = &answer.current_leader;
                        let leader_news =
                            self.cluster.learn_leader(&topic.name, answer.index, hint, &response.node_endpoints);
                        if error.is_retriable() {
                            self.cluster.refresh_metadata();
                        }
                        let message = answer.error_message.as_ref().map(Str::detached);
                        Attempt::Refused { error, message, leader_news }
                    }
                };
                self.settle(now, slot, call, attempt);
            }
        }
        for slot in open {
            self.settle(now, slot, call, Attempt::Unanswered("the broker left the partition out".to_owned()));
        }
    }

    /// Requests without acknowledgement are over when they were sent, which the last `poll` of the cluster did.
    fn settle_silent(&mut self, now: Now) {
        for (call, in_flight) in std::mem::take(&mut self.calls) {
            self.forget_in_flight(in_flight.node);
            for slot in in_flight.slots {
                self.settle(now, slot, call, Attempt::Written(Written { base_offset: None, append_time: None }));
            }
        }
    }

    fn settle(&mut self, now: Now, slot: Slot, call: CallId, attempt: Attempt) {
        let gone = self.partitions[slot].settle(now, &self.config, call, attempt, &mut self.results);
        gone.into_iter().for_each(|identity| self.identity.give_up(identity));
        self.note(now, slot);
    }

    fn forget_in_flight(&mut self, node: i32) {
        let count = self.in_flight.get_mut(&node).expect("a request is counted until it is answered");
        *count -= 1;
        if *count == 0 {
            self.in_flight.remove(&node);
        }
    }

    fn fail_unsent(&mut self, now: Now, reason: &FailureReason) {
        for slot in 0..self.partitions.len() {
            self.partitions[slot].fail_unsent(reason, &mut self.results);
            self.note(now, slot);
        }
    }
}

/// What goes into one request.
#[derive(Debug, Default)]
struct Plan {
    batches: Vec<(Slot, Bytes)>,
    bytes: usize,
}

fn known_partitions(cluster: &Cluster, topic: &str) -> i32 {
    let partitions = cluster.metadata().topics.get(topic).map_or(0, |topic| topic.partitions.len());
    i32::try_from(partitions).unwrap_or(i32::MAX)
}

fn never_placed(topic: &Str, record: &Unplaced, failure: ProduceFailure) -> Finished {
    Finished {
        topic: topic.clone(),
        partition: -1,
        records: vec![Accepted { id: record.id, timestamp: record.timestamp }],
        outcome: Err(failure),
        charge: record.charge,
    }
}
