//! A consumer by assignment: reads all partitions from the beginning, and goes on reading.

use std::collections::BTreeMap;

use kauri_core::ids::Offset;
use kauri_protocol::{
    ErrorCode, Message as _, Str,
    messages::{
        FetchRequest, FetchResponse,
        fetch::{FetchPartition, FetchPartitionData, FetchTopic},
    },
    records::Batches,
};

use super::{
    super::partitions::Partitions,
    kafka::{Kafka, Told, version},
    wire,
};
use crate::{
    client::{Client, ClientEffects, ClientInput},
    dice::Dice,
    history::{History, Partition, Read, Source, Value},
    plan::{ConsumerPlan, Plan},
    time::{Instant, Span},
};

const RETRY: Span = Span::milliseconds(100);
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The partitions that one request asked for.
#[derive(Debug)]
struct Asked {
    node: usize,
    /// The leader epochs that the request named.
    epochs: BTreeMap<Partition, i32>,
}

pub(in crate::workload) struct Reader {
    kafka: Kafka<Asked>,
    number: u32,
    bytes_max: u32,
    version: i16,
    checks_epochs: bool,
    next: Vec<Offset>,
    /// Nodes with a fetch under way, or with when the next may go.
    nodes: BTreeMap<usize, Option<Instant>>,
    last_error: Option<(Partition, ErrorCode)>,
}

impl Reader {
    pub(in crate::workload) fn new(plan: &Plan, number: usize, consumer: &ConsumerPlan) -> Self {
        let mut dice = Dice::new(plan.seed, "consumer", number, 0);
        let version = version(&mut dice, FetchRequest::API);
        let checks_epochs = dice.coin();
        let partitions = Partitions::of(&plan.workload);
        Self {
            next: vec![Offset(0); partitions.count() as usize],
            kafka: Kafka::new(format!("consumer-{number}"), plan.nodes.len(), partitions, dice),
            number: u32::try_from(number).expect("few consumers"),
            bytes_max: consumer.fetch_bytes_max,
            version,
            checks_epochs,
            nodes: BTreeMap::new(),
            last_error: None,
        }
    }

    fn fetch(&mut self, now: Instant) {
        let mut by_node: BTreeMap<usize, BTreeMap<Str, Vec<FetchPartition>>> = BTreeMap::new();
        let mut epochs: BTreeMap<usize, BTreeMap<Partition, i32>> = BTreeMap::new();
        for partition in self.kafka.partitions.all() {
            let Some(leader) = self.kafka.leader(partition) else { continue };
            match self.nodes.get(&leader.node) {
                Some(None) => continue,
                Some(Some(at)) if now < *at => continue,
                Some(Some(_)) | None => {}
            }
            let (topic, index) = self.kafka.partitions.name(partition);
            let current_leader_epoch = if self.checks_epochs && self.version >= 9 { leader.epoch } else { -1 };
            if current_leader_epoch >= 0 {
                epochs.entry(leader.node).or_default().insert(partition, current_leader_epoch);
            }
            let asked = FetchPartition {
                partition: index,
                current_leader_epoch,
                fetch_offset: self.next[partition.0 as usize].0,
                partition_max_bytes: i32::try_from(self.bytes_max).expect("small"),
                ..Default::default()
            };
            by_node.entry(leader.node).or_default().entry(topic.clone()).or_default().push(asked);
        }
        // A node that leads nothing any more is not waited for.
        self.nodes.retain(|_, next| next.is_none_or(|at| now < at));
        for (node, topics) in by_node {
            let topics = topics.into_iter().map(|(topic, partitions)| FetchTopic { topic, partitions });
            let request = FetchRequest {
                max_wait_ms: 500,
                min_bytes: 1,
                max_bytes: i32::try_from(self.bytes_max.saturating_mul(4)).expect("small"),
                topics: topics.collect(),
                ..Default::default()
            };
            self.nodes.insert(node, None);
            let epochs = epochs.remove(&node).unwrap_or_default();
            self.kafka.request(now, node, &request, self.version, Asked { node, epochs });
        }
    }

    fn answered(&mut self, now: Instant, asked: &Asked, answer: &FetchResponse, history: &mut History) {
        if answer.error_code != ErrorCode::None {
            history.refuse(format!("{}: a fetch without session was refused: {}", self.kafka.name, answer.error_code));
        }
        for topic in &answer.responses {
            for told in &topic.partitions {
                match self.kafka.partitions.find(&topic.topic, told.partition_index) {
                    Some(partition) => {
                        let source = match asked.epochs.get(&partition) {
                            Some(epoch) => Source::Leader { epoch: *epoch },
                            None => Source::Node(asked.node),
                        };
                        self.partition(now, source, partition, told, history);
                    }
                    None => {
                        history.refuse(format!("{}: an answer names a partition nobody asked for", self.kafka.name));
                    }
                }
            }
        }
    }

    fn partition(
        &mut self,
        now: Instant,
        source: Source,
        partition: Partition,
        told: &FetchPartitionData,
        history: &mut History,
    ) {
        if told.error_code != ErrorCode::None {
            self.last_error = Some((partition, told.error_code));
            history.note(|| {
                let (name, next) = (&self.kafka.name, self.next[partition.0 as usize]);
                format!("{name}: {partition} from {next} got {}", told.error_code)
            });
            self.kafka.doubt(now);
            if !told.error_code.is_retriable() {
                let (name, next) = (&self.kafka.name, self.next[partition.0 as usize]);
                history.refuse(format!("{name}: a fetch of {partition} from {next} got {}", told.error_code));
            }
            return;
        }
        let next = &mut self.next[partition.0 as usize];
        let bytes = told.records.as_ref().map(kauri_protocol::wire::Records::to_bytes).unwrap_or_default();
        let mut records = Vec::new();
        let mut batches = Batches::new(bytes);
        for batch in batches.by_ref() {
            let decoded = batch.and_then(|batch| {
                batch.validate_crc()?;
                batch.records(BATCH_BYTES_MAX)?.collect::<Result<Vec<_>, _>>()
            });
            let decoded = match decoded {
                Ok(decoded) => decoded,
                Err(error) => {
                    history.refuse(format!("{}: a batch of {partition} cannot be read: {error}", self.kafka.name));
                    return;
                }
            };
            for record in decoded {
                // A batch is given out whole, also if the position lies in its middle.
                if record.offset < next.0 {
                    continue;
                }
                let Some(value) = record.value.as_deref().and_then(Value::decode) else {
                    history.refuse(format!("{}: a record of {partition} holds no value", self.kafka.name));
                    return;
                };
                records.push((Offset(record.offset), value));
                *next = Offset(record.offset + 1);
            }
        }
        let high_watermark = Some(Offset(told.high_watermark));
        if !records.is_empty() {
            history.read(Read { consumer: self.number, partition, at: now, records, high_watermark, source });
        }
    }

    fn behind<'a>(&'a self, history: &'a History) -> impl Iterator<Item = Partition> + 'a {
        let end = |partition: &Partition| history.acknowledged_end(*partition);
        self.kafka.partitions.all().filter(move |partition| self.next[partition.0 as usize] < end(partition))
    }
}

impl Client for Reader {
    fn handle(&mut self, _now: Instant, input: ClientInput, history: &mut History) {
        self.kafka.handle(input, history);
    }

    fn poll(&mut self, now: Instant, effects: &mut ClientEffects, history: &mut History) {
        while let Some(told) = self.kafka.next(now, history) {
            match told {
                Told::Answer { what: asked, version, mut body } => {
                    let node = asked.node;
                    // An answer without records and before its time is no reason to ask as fast as the network allows.
                    self.nodes.insert(node, Some(now + Span::milliseconds(1)));
                    match wire::read::<FetchResponse>(&mut body, version) {
                        Ok(answer) => {
                            let errors = answer.responses.iter().flat_map(|topic| &topic.partitions);
                            if errors.into_iter().any(|told| told.error_code != ErrorCode::None) {
                                self.nodes.insert(node, Some(now + RETRY));
                            }
                            self.answered(now, &asked, &answer, history);
                        }
                        Err(error) => history.refuse(format!("{}: {error}", self.kafka.name)),
                    }
                }
                Told::Lost { what: Asked { node, .. } } => {
                    self.nodes.insert(node, Some(now + RETRY));
                }
            }
        }
        self.fetch(now);
        self.kafka.poll(now, effects);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let fetch = self.nodes.values().copied().flatten().min();
        [fetch, self.kafka.next_deadline()].into_iter().flatten().min()
    }

    fn has_healed(&self, history: &History) -> bool {
        self.behind(history).next().is_none()
    }

    fn stuck(&self, history: &History) -> Vec<Partition> {
        self.behind(history).collect()
    }

    fn waits_for(&self, history: &History) -> String {
        match self.behind(history).next() {
            Some(partition) => format!(
                "{} is at offset {} of {partition}, which is acknowledged up to {}; the last error was {:?}",
                self.kafka.name,
                self.next[partition.0 as usize],
                history.acknowledged_end(partition),
                self.last_error
            ),
            None => format!("{} read everything", self.kafka.name),
        }
    }
}
