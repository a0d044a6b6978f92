//! The SDK's consumer by assignment: reads all partitions from the beginning, and goes on reading.

use std::collections::BTreeMap;

use kauri_client::consumer::{Consumer, ConsumerConfig, Start};
use kauri_core::ids::Offset;

use super::{super::partitions::Partitions, Sockets, cluster_config, duration, instant, now};
use crate::{
    client::{Client, ClientEffects, ClientInput},
    dice::Dice,
    history::{History, Partition, Read, Source, Value},
    plan::{ConsumerPlan, Plan},
    time::{Instant, Span},
};

pub(in crate::workload) struct Reader {
    name: String,
    number: u32,
    partitions: Partitions,
    sockets: Sockets,
    consumer: Consumer,
    next: Vec<Offset>,
    last_error: Option<String>,
}

impl Reader {
    pub(in crate::workload) fn new(plan: &Plan, number: usize, consumer: &ConsumerPlan) -> Self {
        let mut dice = Dice::new(plan.seed, "sdk consumer", number, 0);
        let name = format!("consumer-{number}");
        let bytes = usize::try_from(consumer.fetch_bytes_max).expect("small");
        let config = ConsumerConfig {
            wait_max: duration(*dice.pick(&[Span::ZERO, Span::milliseconds(100), Span::milliseconds(500)])),
            fetch_bytes: bytes * 4,
            partition_bytes: bytes,
            ..ConsumerConfig::default()
        };
        let mut consumer = Consumer::new(cluster_config(&mut dice, plan.nodes.len(), &name), config);
        let partitions = Partitions::of(&plan.workload);
        let start = if dice.coin() { Start::Earliest } else { Start::Offset(0) };
        for partition in partitions.all() {
            let (topic, index) = partitions.name(partition);
            consumer.assign(topic, index, start);
        }
        Self {
            name,
            number: u32::try_from(number).expect("few consumers"),
            next: vec![Offset(0); partitions.count() as usize],
            partitions,
            sockets: Sockets::default(),
            consumer,
            last_error: None,
        }
    }

    fn take(&mut self, at: Instant, history: &mut History) {
        let mut taken: BTreeMap<Partition, Vec<(Offset, Value)>> = BTreeMap::new();
        while let Some(record) = self.consumer.next_record() {
            let partition = self.partitions.find(&record.topic, record.partition).expect("it was assigned");
            match record.value.as_deref().and_then(Value::decode) {
                Some(value) => taken.entry(partition).or_default().push((Offset(record.offset), value)),
                None => history.refuse(format!("{}: a record of {partition} holds no value", self.name)),
            }
        }
        for (partition, records) in taken {
            let (topic, index) = self.partitions.name(partition);
            let high_watermark = self.consumer.high_watermark(topic, index).map(Offset);
            if let Some((last, _)) = records.last() {
                self.next[partition.0 as usize] = last.plus(1);
            }
            history.read(Read {
                consumer: self.number,
                partition,
                at,
                records,
                high_watermark,
                source: Source::Followed,
            });
        }
        while let Some(error) = self.consumer.next_error() {
            let is_final = error.error.is_final();
            let error = format!("{}: {error:?}", self.name);
            self.last_error = Some(error.clone());
            // What passes is no wrong: topics are created while the consumer already waits for them.
            if is_final {
                history.refuse(error);
            }
        }
    }

    fn behind<'a>(&'a self, history: &'a History) -> impl Iterator<Item = Partition> + 'a {
        let end = |partition: &Partition| history.acknowledged_end(*partition);
        self.partitions.all().filter(move |partition| self.next[partition.0 as usize] < end(partition))
    }
}

impl Client for Reader {
    fn handle(&mut self, at: Instant, input: ClientInput, _history: &mut History) {
        if let Some(input) = self.sockets.input(input) {
            self.consumer.handle(now(at), input);
        }
    }

    fn poll(&mut self, at: Instant, effects: &mut ClientEffects, history: &mut History) {
        let consumer = &mut self.consumer;
        self.sockets.poll(effects, |effects| consumer.poll(now(at), effects));
        self.take(at, history);
        // What was taken makes room for the next fetch.
        let consumer = &mut self.consumer;
        self.sockets.poll(effects, |effects| consumer.poll(now(at), effects));
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.consumer.next_deadline().map(instant)
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
                self.name,
                self.next[partition.0 as usize],
                history.acknowledged_end(partition),
                self.last_error
            ),
            None => format!("{} read everything", self.name),
        }
    }
}
