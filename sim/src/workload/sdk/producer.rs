//! The SDK's producer: idempotent, with acks=all.
//!
//! Now and then its process ends: what was not answered stays unknown, bytes of its old connections may still arrive, and
//! another process goes on as another producer. Invariant: a send becomes acknowledged or failed only by what the SDK
//! says of it.

use std::collections::BTreeMap;

use kauri_client::producer::{
    Delivered, FailureReason, Outcome, ProduceFailure, Producer, ProducerConfig, ProducerRecord, SendError, SendId,
};
use kauri_core::ids::Offset;
use kauri_protocol::records::Compression;

use super::{super::partitions::Partitions, Sockets, cluster_config, duration, instant, now};
use crate::{
    client::{Client, ClientEffects, ClientInput},
    dice::{Chance, Dice},
    history::{History, Partition, SendNumber, Value},
    plan::{Plan, ProducerPlan},
    time::{Instant, Span},
};

/// Numbers of the processes of one producer: each is a producer of its own.
const PROCESSES_MAX: u32 = 1_000;
/// After the chaos, records that failed are sent again after this.
const HEAL_RETRY: Span = Span::milliseconds(200);

pub(in crate::workload) struct Writer {
    name: String,
    nodes: usize,
    partitions: Partitions,
    dice: Dice,
    sockets: Sockets,
    config: ProducerConfig,
    producer: Producer,
    number: u32,
    next_number: u32,
    pause: Span,
    value: Vec<u8>,
    crash: Chance,
    sends: BTreeMap<SendId, (Partition, SendNumber)>,
    /// After the chaos: the partitions that still need a record, and whether one is on its way.
    healing: Option<BTreeMap<Partition, Option<SendId>>>,
    next_record_at: Instant,
    last_failure: Option<String>,
}

impl Writer {
    pub(in crate::workload) fn new(plan: &Plan, number: usize, producer: &ProducerPlan) -> Self {
        let mut dice = Dice::new(plan.seed, "sdk producer", number, 0);
        let compressions = [
            Compression::None,
            Compression::None,
            Compression::Lz4,
            Compression::Zstd,
            Compression::Snappy,
            Compression::Gzip,
        ];
        let config = ProducerConfig {
            compression: *dice.pick(&compressions),
            linger: duration(*dice.pick(&[Span::ZERO, Span::milliseconds(5), Span::milliseconds(100)])),
            in_flight_max: usize::try_from(dice.range(1, 5)).expect("few"),
            delivery_timeout: duration(*dice.pick(&[Span::seconds(5), Span::seconds(30), Span::seconds(120)])),
            ..ProducerConfig::default()
        };
        let name = format!("producer-{number}");
        let nodes = plan.nodes.len();
        let cluster = cluster_config(&mut dice, nodes, &name);
        Self {
            producer: Producer::new(cluster, config.clone()),
            name,
            nodes,
            partitions: Partitions::of(&plan.workload),
            sockets: Sockets::default(),
            config,
            number: u32::try_from(number).expect("few producers"),
            next_number: 0,
            pause: producer.pause,
            value: vec![0; producer.value_bytes.max(Value::BYTES)],
            crash: *dice.pick(&[Chance::NEVER, Chance::NEVER, Chance(2_000)]),
            sends: BTreeMap::new(),
            healing: None,
            next_record_at: Instant::default() + Span::seconds(1),
            last_failure: None,
            dice,
        }
    }

    fn write(&mut self, at: Instant, partition: Partition, history: &mut History) -> Option<SendId> {
        let value = Value { producer: self.number * PROCESSES_MAX + self.sockets.process, number: self.next_number };
        self.value[..Value::BYTES].copy_from_slice(&value.encode());
        let (topic, index) = self.partitions.name(partition);
        let record =
            ProducerRecord { topic, partition: Some(index), value: Some(&self.value), ..ProducerRecord::default() };
        match self.producer.send(now(at), record) {
            Ok(id) => {
                self.next_number += 1;
                self.sends.insert(id, (partition, history.send(partition, value, at)));
                Some(id)
            }
            Err(SendError::QueueFull) => None,
            Err(error) => {
                history.refuse(format!("{}: a record was not taken: {error}", self.name));
                None
            }
        }
    }

    fn result(&mut self, at: Instant, id: SendId, result: Result<Delivered, ProduceFailure>, history: &mut History) {
        let (partition, send) = self.sends.remove(&id).expect("each record has one result");
        let partitions = self.healing.as_mut();
        match result {
            Ok(delivered) => {
                if let Some(offset) = delivered.offset {
                    history.acknowledge(send, Offset(offset), at);
                }
                if let Some(partitions) = partitions {
                    partitions.remove(&partition);
                }
            }
            Err(failure) => {
                history.note(|| format!("{}: a record for {partition} failed: {failure}", self.name));
                match failure.outcome {
                    Outcome::NotWritten => history.fail(send, at),
                    Outcome::Unknown => {}
                }
                match &failure.reason {
                    // A partition that does not know a producer takes any first sequence number (Kafka's rule). If the
                    // leader moves while the first batches are in flight, a later one may be first, and the SDK then
                    // goes on as another producer.
                    FailureReason::TimedOut { .. } | FailureReason::SequenceLost(_) => {}
                    FailureReason::Refused { .. }
                    | FailureReason::Unsendable(_)
                    | FailureReason::Batch(_)
                    | FailureReason::Closed => {
                        history.refuse(format!("{}: a record for {partition} failed: {failure}", self.name));
                    }
                }
                if let Some(waiting) = partitions.and_then(|partitions| partitions.get_mut(&partition)) {
                    *waiting = None;
                }
                self.last_failure = Some(failure.to_string());
            }
        }
    }

    /// The process ends and another one takes its place.
    fn restart(&mut self, effects: &mut ClientEffects) {
        self.sockets.restart(effects);
        assert!(self.sockets.process < PROCESSES_MAX, "a producer ends now and then only");
        let cluster = cluster_config(&mut self.dice, self.nodes, &self.name);
        self.producer = Producer::new(cluster, self.config.clone());
        self.sends.clear();
        self.next_number = 0;
    }

    fn act(&mut self, at: Instant, effects: &mut ClientEffects, history: &mut History) {
        match &self.healing {
            Some(partitions) => {
                let missing: Vec<Partition> =
                    partitions.iter().filter(|(_, sent)| sent.is_none()).map(|(partition, _)| *partition).collect();
                for partition in missing {
                    let sent = self.write(at, partition, history);
                    self.healing.as_mut().expect("healing").insert(partition, sent);
                }
                self.next_record_at = at + HEAL_RETRY;
            }
            None if self.dice.chance(self.crash) => {
                self.restart(effects);
                self.next_record_at = at + Span::milliseconds(100);
            }
            None => {
                let partition = self.dice.below(u64::from(self.partitions.count()));
                self.write(at, Partition(u32::try_from(partition).expect("few partitions")), history);
                self.next_record_at = at + self.dice.exponential(self.pause);
            }
        }
    }
}

impl Client for Writer {
    fn handle(&mut self, at: Instant, input: ClientInput, _history: &mut History) {
        if matches!(input, ClientInput::Heal) {
            self.healing = Some(self.partitions.all().map(|partition| (partition, None)).collect());
            self.next_record_at = at;
        }
        if let Some(input) = self.sockets.input(input) {
            self.producer.handle(now(at), input);
        }
    }

    fn poll(&mut self, at: Instant, effects: &mut ClientEffects, history: &mut History) {
        if at >= self.next_record_at {
            self.act(at, effects, history);
        }
        let producer = &mut self.producer;
        self.sockets.poll(effects, |effects| producer.poll(now(at), effects));
        while let Some((id, result)) = self.producer.next_result() {
            self.result(at, id, result, history);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let is_over = self.healing.as_ref().is_some_and(BTreeMap::is_empty);
        let record = (!is_over).then_some(self.next_record_at);
        [record, self.producer.next_deadline().map(instant)].into_iter().flatten().min()
    }

    fn has_healed(&self, _history: &History) -> bool {
        self.healing.as_ref().is_some_and(BTreeMap::is_empty)
    }

    fn stuck(&self, _history: &History) -> Vec<Partition> {
        self.healing.iter().flat_map(BTreeMap::keys).copied().collect()
    }

    fn waits_for(&self, _history: &History) -> String {
        let waiting = self.healing.as_ref().and_then(|partitions| partitions.keys().next());
        format!("{} waits for {waiting:?}; the last failure was {:?}", self.name, self.last_failure)
    }
}
