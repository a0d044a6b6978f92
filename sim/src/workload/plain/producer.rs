//! An idempotent producer with acks=all.
//!
//! It numbers its records, keeps one batch in flight for each partition and repeats what was not answered, in order and
//! with the same sequence numbers, for as long as it lives. Now and then its process ends: what was not
//! answered stays unknown, bytes of its old connections may still arrive, and another process with another producer id
//! goes on. Invariant: a send becomes acknowledged or failed only by an answer that says so.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kauri_core::ids::Offset;
use kauri_protocol::{
    ErrorCode, Message as _,
    messages::{
        InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
        produce::{PartitionProduceData, TopicProduceData},
    },
    records::{BatchBuilder, Compression, Producer as Identity},
};

use super::{
    super::partitions::Partitions,
    kafka::{Kafka, Told, version},
    wire,
};
use crate::{
    client::{Client, ClientEffects, ClientInput},
    dice::{Chance, Dice},
    history::{History, Partition, SendNumber, Value},
    plan::{Plan, ProducerPlan},
    time::{Instant, Span},
};

/// Beyond this nothing new is sent to a partition until something is answered.
const QUEUED_MAX: usize = 20;
/// Numbers of the processes of one producer: each is a producer of its own.
const PROCESSES_MAX: u32 = 1_000;

/// What a request was for; the process that sent it is the only one to hear of it.
enum What {
    Identity,
    Batch { partition: Partition, base_sequence: i32 },
}

struct Batch {
    base_sequence: i32,
    sends: Vec<SendNumber>,
    bytes: Bytes,
    in_flight: bool,
    /// Not before this, after an error.
    send_at: Instant,
}

#[derive(Default)]
struct Queue {
    batches: VecDeque<Batch>,
    next_sequence: i32,
    /// A record sent after the chaos was acknowledged.
    healed: bool,
}

pub(in crate::workload) struct Writer {
    kafka: Kafka<What>,
    number: u32,
    process: u32,
    next_number: u32,
    pause: Span,
    value_bytes: usize,
    crash: Chance,
    produce_version: i16,
    identity_version: i16,
    compression: Compression,
    identity: Option<Identity>,
    identity_asked: bool,
    identity_at: Instant,
    queues: BTreeMap<Partition, Queue>,
    next_record_at: Instant,
    healing: bool,
    last_error: Option<(Partition, ErrorCode)>,
}

impl Writer {
    pub(in crate::workload) fn new(plan: &Plan, number: usize, producer: &ProducerPlan) -> Self {
        let mut dice = Dice::new(plan.seed, "producer", number, 0);
        let ProducerPlan { pause, value_bytes, .. } = *producer;
        let compressions = [
            Compression::None,
            Compression::None,
            Compression::Lz4,
            Compression::Zstd,
            Compression::Snappy,
            Compression::Gzip,
        ];
        let compression = *dice.pick(&compressions);
        // Zstandard came with version 7 (KIP-110).
        let oldest = if compression == Compression::Zstd { 7 } else { 0 };
        let partitions = Partitions::of(&plan.workload);
        Self {
            number: u32::try_from(number).expect("few producers"),
            process: 0,
            next_number: 0,
            pause,
            value_bytes: value_bytes.max(Value::BYTES),
            crash: *dice.pick(&[Chance::NEVER, Chance::NEVER, Chance(2_000)]),
            produce_version: version(&mut dice, ProduceRequest::API).max(oldest),
            identity_version: version(&mut dice, InitProducerIdRequest::API),
            compression,
            identity: None,
            identity_asked: false,
            identity_at: Instant::default(),
            queues: partitions.all().map(|partition| (partition, Queue::default())).collect(),
            next_record_at: Instant::default() + Span::seconds(1),
            healing: false,
            last_error: None,
            kafka: Kafka::new(format!("producer-{number}"), plan.nodes.len(), partitions, dice),
        }
    }

    /// The producer of the history that this process is.
    fn id(&self) -> u32 {
        self.number * PROCESSES_MAX + self.process
    }

    /// A batch for a partition, if there is room.
    fn write(&mut self, now: Instant, partition: Partition, history: &mut History) {
        let Some(identity) = self.identity else { return };
        let queue = self.queues.get_mut(&partition).expect("every partition has one");
        if queue.batches.len() >= QUEUED_MAX {
            return;
        }
        let records = if self.kafka.dice.below(3) == 0 { self.kafka.dice.range(2, 6) } else { 1 };
        let mut builder = BatchBuilder::new(self.compression);
        let mut sends = Vec::new();
        let mut bytes = vec![0; self.value_bytes];
        let id = self.number * PROCESSES_MAX + self.process;
        for _ in 0..records {
            let value = Value { producer: id, number: self.next_number };
            self.next_number += 1;
            bytes[..Value::BYTES].copy_from_slice(&value.encode());
            // Brokers refuse records from their own future, and their clocks may be wrong by decades: these records are
            // older than any of them.
            let timestamp = i64::try_from(now.0 / 1_000_000).expect("runs are short");
            builder.append(timestamp, None, Some(&bytes), &[]).expect("small records fit");
            sends.push(history.send(partition, value, now));
        }
        let base_sequence = queue.next_sequence;
        queue.next_sequence += i32::try_from(records).expect("few records");
        let bytes = builder.build(Identity { base_sequence, ..identity }).expect("a small batch can be built");
        queue.batches.push_back(Batch { base_sequence, sends, bytes, in_flight: false, send_at: now });
    }

    /// Sends the next batch of a partition, if it is time.
    fn send(&mut self, now: Instant, partition: Partition, history: &mut History) {
        let queue = self.queues.get_mut(&partition).expect("every partition has one");
        let Some(batch) = queue.batches.front_mut() else { return };
        let Some(leader) = self.kafka.leader(partition) else { return };
        if batch.in_flight || now < batch.send_at {
            return;
        }
        batch.in_flight = true;
        history.note(|| {
            let (name, sequence) = (&self.kafka.name, batch.base_sequence);
            format!("{name}: sequence {sequence} of {partition} to node {}", leader.node)
        });
        let (topic, index) = self.kafka.partitions.name(partition);
        let data = PartitionProduceData { index, records: Some(batch.bytes.clone()) };
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 10_000,
            topic_data: vec![TopicProduceData { name: topic.clone(), partition_data: vec![data] }],
        };
        let what = What::Batch { partition, base_sequence: batch.base_sequence };
        self.kafka.request(now, leader.node, &request, self.produce_version, what);
    }

    fn batch_answered(
        &mut self,
        now: Instant,
        (partition, base_sequence): (Partition, i32),
        answer: Option<(ErrorCode, i64)>,
        history: &mut History,
    ) {
        history.note(|| {
            let name = &self.kafka.name;
            format!("{name}: sequence {base_sequence} of {partition} got {answer:?}")
        });
        let queue = self.queues.get_mut(&partition).expect("every partition has one");
        let place = queue.batches.iter().position(|batch| batch.base_sequence == base_sequence);
        let place = place.expect("a batch stays until it is answered");
        match answer {
            Some((ErrorCode::None, base_offset)) => {
                let batch = queue.batches.remove(place).expect("found");
                for (send, offset) in batch.sends.into_iter().zip(base_offset..) {
                    history.acknowledge(send, Offset(offset), now);
                }
                queue.healed |= self.healing;
                return;
            }
            // It was written by an earlier attempt; where, the broker has forgotten.
            Some((ErrorCode::DuplicateSequenceNumber, _)) => {
                queue.batches.remove(place).expect("found");
                return;
            }
            Some((error, _)) => {
                self.last_error = Some((partition, error));
                let expected = error.is_retriable() || error == ErrorCode::OutOfOrderSequenceNumber;
                if !expected {
                    history.refuse(format!("{}: a batch for {partition} got {error}", self.kafka.name));
                }
            }
            None => {}
        }
        let batch = &mut queue.batches[place];
        batch.in_flight = false;
        batch.send_at = now + self.kafka.dice.span(Span::milliseconds(20), Span::milliseconds(200));
        self.kafka.doubt(now);
    }

    fn told(&mut self, now: Instant, told: Told<What>, history: &mut History) {
        match told {
            Told::Lost { what: What::Identity } => self.identity_asked = false,
            Told::Lost { what: What::Batch { partition, base_sequence } } => {
                self.batch_answered(now, (partition, base_sequence), None, history);
            }
            Told::Answer { what: What::Identity, version, mut body } => {
                self.identity_asked = false;
                match wire::read::<InitProducerIdResponse>(&mut body, version) {
                    Ok(answer) if answer.error_code == ErrorCode::None => {
                        let (id, epoch) = (answer.producer_id, answer.producer_epoch);
                        self.identity = Some(Identity { id, epoch, base_sequence: 0 });
                    }
                    Ok(answer) => {
                        if !answer.error_code.is_retriable() {
                            history.refuse(format!("{}: no producer id: {}", self.kafka.name, answer.error_code));
                        }
                    }
                    Err(error) => history.refuse(format!("{}: {error}", self.kafka.name)),
                }
            }
            Told::Answer { what: What::Batch { partition, base_sequence }, version, mut body } => {
                let answer = wire::read::<ProduceResponse>(&mut body, version).and_then(|answer| {
                    let told = answer.responses.first().and_then(|topic| topic.partition_responses.first());
                    told.map(|told| (told.error_code, told.base_offset))
                        .ok_or_else(|| "an answer to Produce names no partition".to_owned())
                });
                if let Err(error) = &answer {
                    history.refuse(format!("{}: {error}", self.kafka.name));
                }
                self.batch_answered(now, (partition, base_sequence), answer.ok(), history);
            }
        }
    }

    /// The process ends and another one takes its place.
    fn restart(&mut self, now: Instant, history: &mut History) {
        self.kafka.crash();
        while self.kafka.next(now, history).is_some() {}
        for queue in self.queues.values_mut() {
            *queue = Queue::default();
        }
        self.process += 1;
        self.next_number = 0;
        self.identity = None;
        self.identity_asked = false;
        assert!(self.process < PROCESSES_MAX, "a producer ends now and then only");
    }

    fn waiting(&self) -> Option<Partition> {
        let waits = |queue: &Queue| !queue.healed || !queue.batches.is_empty();
        self.queues.iter().find(|(_, queue)| waits(queue)).map(|(partition, _)| *partition)
    }
}

impl Client for Writer {
    fn handle(&mut self, now: Instant, input: ClientInput, history: &mut History) {
        if matches!(input, ClientInput::Heal) {
            self.healing = true;
            // One more record for each partition, behind whatever waits; then no more.
            self.next_record_at = now;
        }
        self.kafka.handle(input, history);
    }

    fn poll(&mut self, now: Instant, effects: &mut ClientEffects, history: &mut History) {
        while let Some(told) = self.kafka.next(now, history) {
            self.told(now, told, history);
        }
        if self.identity.is_none() && !self.identity_asked && now >= self.identity_at {
            self.identity_asked = true;
            self.identity_at = now + Span::milliseconds(200);
            let node = self.kafka.any_node();
            let request =
                InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: 0, ..Default::default() };
            self.kafka.request(now, node, &request, self.identity_version, What::Identity);
        }
        if self.identity.is_some() && now >= self.next_record_at {
            if self.healing {
                let waiting: Vec<Partition> = self
                    .queues
                    .iter()
                    .filter(|(_, queue)| !queue.healed && queue.batches.is_empty())
                    .map(|(partition, _)| *partition)
                    .collect();
                waiting.into_iter().for_each(|partition| self.write(now, partition, history));
                self.next_record_at = now + Span::milliseconds(100);
            } else if self.kafka.dice.chance(self.crash) {
                self.restart(now, history);
            } else {
                let partition = Partition(self.kafka.dice.below(u64::from(self.kafka.partitions.count())) as u32);
                if self.kafka.leader(partition).is_some() {
                    self.write(now, partition, history);
                }
                self.next_record_at = now + self.kafka.dice.exponential(self.pause);
            }
        }
        self.kafka.partitions.all().for_each(|partition| self.send(now, partition, history));
        self.kafka.poll(now, effects);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let identity = (self.identity.is_none() && !self.identity_asked).then_some(self.identity_at);
        let record =
            (self.identity.is_some() && !(self.healing && self.waiting().is_none())).then_some(self.next_record_at);
        let repeat = self
            .queues
            .iter()
            // Without a leader, the answer to a question is what comes next.
            .filter(|(partition, _)| self.kafka.leader(**partition).is_some())
            .filter_map(|(_, queue)| queue.batches.front().filter(|batch| !batch.in_flight))
            .map(|batch| batch.send_at)
            .min();
        [identity, record, repeat, self.kafka.next_deadline()].into_iter().flatten().min()
    }

    fn has_healed(&self, _history: &History) -> bool {
        self.waiting().is_none()
    }

    fn stuck(&self, _history: &History) -> Vec<Partition> {
        let waits = |queue: &Queue| !queue.healed || !queue.batches.is_empty();
        self.queues.iter().filter(|(_, queue)| waits(queue)).map(|(partition, _)| *partition).collect()
    }

    fn waits_for(&self, _history: &History) -> String {
        let leader = self.waiting().map(|partition| (partition, self.kafka.leader(partition)));
        match leader {
            Some((partition, leader)) => format!(
                "{} (process {}) waits for {partition}, whose leader is {leader:?}; the last error was {:?}",
                self.kafka.name,
                self.id(),
                self.last_error
            ),
            None => format!("{} has written everything", self.kafka.name),
        }
    }
}
