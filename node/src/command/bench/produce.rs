//! `kauri bench produce`: writes records as fast as they are taken, or at a given rate.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use clap::Args;
use kauri_client::{
    admin::{AdminError, NewTopic},
    producer::ProducerRecord,
    tokio::producer::{Delivery, Handle},
};
use kauri_protocol::error::ErrorCode;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Run, lock, report::Meter};
use crate::command::{cluster::Cluster, failure::Failure, produce::Sending};

/// Where values are cut from, so that no two in a row are equal and compression has a hard time.
const RANDOM_BYTES: usize = 1 << 20;

/// Measures how fast records are written
#[derive(Debug, Args)]
#[command(
    after_help = "Every record is acknowledged before it counts. Its latency reaches from handing it to the client to its\n\
                        acknowledgement, waiting for its batch included.\n\n\
                        Examples:\n  \
                        kauri bench produce\n  \
                        kauri bench produce --size 100 --partitions 6 --seconds 30 --json\n  \
                        kauri bench produce --rate 1000 --linger-ms 0"
)]
pub(super) struct Produce {
    /// The topic; it is created if it does not exist
    #[arg(long, value_name = "NAME", default_value = "kauri-bench")]
    topic: String,
    /// Partitions of the topic if it is created
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// Replicas of the topic if it is created [default: what the cluster is configured for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// How long to write
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Write so many records instead
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    records: Option<u64>,
    /// How large each record's value is
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    size: u32,
    /// Write so many records per second, not as many as possible
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    cluster: Cluster,
}

impl Produce {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let partitions = self.create_topic().await?;
        let producer = Handle::start(self.cluster.config(), self.sending.config(self.cluster.timeout()));
        let random = random_bytes();
        let size = self.size as usize;
        // Whole batches go to one partition after the other.
        let turn = (self.sending.batch_bytes() / size.max(1)).max(1) as u64;
        let run = Run::start();
        let collectors: Vec<Collector> = (0..partitions).map(|_| Collector::start(&run, self.size)).collect();
        let deadline = run.start + Duration::from_secs(self.seconds);
        let mut number = 0;
        loop {
            let due = self.rate.map(|rate| run.start + Duration::from_secs_f64(number as f64 / f64::from(rate)));
            let over = match self.records {
                Some(records) => number >= records,
                None => due.unwrap_or_else(Instant::now) >= deadline,
            };
            if over {
                break;
            }
            if let Some(due) = due {
                sleep_until(due).await;
            }
            let partition = (number / turn % partitions as u64) as usize;
            let at = number as usize * 7919 % (random.len() - size);
            let record = ProducerRecord {
                topic: &self.topic,
                partition: Some(i32::try_from(partition).expect("there are at most 2^31 partitions")),
                value: Some(&random[at..at + size]),
                ..ProducerRecord::default()
            };
            let sent = due.unwrap_or_else(Instant::now);
            let delivery =
                producer.send(record).await.map_err(|error| Failure::NotSent { number: number + 1, error })?;
            collectors[partition].collect(sent, delivery);
            number += 1;
        }
        producer.flush().await;
        for collector in collectors {
            collector.end().await;
        }
        run.finish(self.json)
    }

    /// How many partitions the topic has in the end.
    async fn create_topic(&self) -> Result<usize, Failure> {
        let failure = |error| Failure::Topic { action: "created", topic: self.topic.clone(), error };
        let topic = NewTopic {
            name: self.topic.clone(),
            partitions: Some(self.partitions),
            replication_factor: self.replication_factor,
            assignments: BTreeMap::new(),
            configs: BTreeMap::new(),
        };
        let created = self.cluster.admin().create_topics([topic], false).await.map_err(failure)?;
        for result in created.into_values() {
            match result {
                Ok(_) | Err(AdminError::Refused { error: ErrorCode::TopicAlreadyExists, .. }) => {}
                Err(error) => return Err(failure(error)),
            }
        }
        Ok(self.cluster.topic(&self.topic).await?.partitions.len())
    }
}

/// Waits for the records of one partition, whose results come in their order.
struct Collector {
    sent: mpsc::UnboundedSender<(Instant, Delivery)>,
    task: tokio::task::JoinHandle<()>,
}

impl Collector {
    fn start(run: &Run, size: u32) -> Self {
        let (sent, mut deliveries) = mpsc::unbounded_channel::<(Instant, Delivery)>();
        let meter: Arc<std::sync::Mutex<Meter>> = Arc::clone(&run.meter);
        let task = tokio::spawn(async move {
            while let Some((sent, delivery)) = deliveries.recv().await {
                let result = delivery.await;
                let mut meter = lock(&meter);
                match result {
                    Ok(_) => meter.done(1, size.into(), sent.elapsed()),
                    Err(_) => meter.failed(),
                }
            }
        });
        Self { sent, task }
    }

    /// The producer's memory bounds how many can wait here.
    fn collect(&self, sent: Instant, delivery: Delivery) {
        // The task ends after the last sender only.
        drop(self.sent.send((sent, delivery)));
    }

    async fn end(self) {
        drop(self.sent);
        drop(self.task.await);
    }
}

/// The same at each run: xorshift needs no source of randomness.
fn random_bytes() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(RANDOM_BYTES).collect()
}
