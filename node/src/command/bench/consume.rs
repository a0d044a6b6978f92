//! `kauri bench consume`: reads records as fast as they come.

use std::time::Duration;

use clap::Args;
use kauri_client::{
    consumer::{ConsumerConfig, Start},
    tokio::consumer::Handle,
};
use tokio::time::Instant;

use super::Run;
use crate::command::{
    cluster::Cluster,
    consume::{Ends, Reading, partitions},
    failure::Failure,
};

/// Measures how fast records are read
#[derive(Debug, Args)]
#[command(
    after_help = "Reads all partitions from their beginnings. The latency is how long the reader waited for each batch.\n\n\
                        Examples:\n  \
                        kauri bench consume\n  \
                        kauri bench consume --topic orders --records 1000000 --json"
)]
pub(super) struct Consume {
    #[arg(long, value_name = "NAME", default_value = "kauri-bench")]
    topic: String,
    /// Stop after so many records, if the topic has as many
    #[arg(long, value_name = "N")]
    records: Option<u64>,
    /// Stop after this time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

impl Consume {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let assigned = partitions(&self.cluster, &self.topic, &[]).await?;
        let ends = Ends::find(&self.cluster, &self.topic, &assigned).await?;
        let consumer = Handle::start(self.cluster.config(), ConsumerConfig::default());
        let (ends, timeout) = (Some(ends), self.cluster.timeout());
        let reading = Reading { consumer: &consumer, topic: &self.topic, partitions: &assigned, ends, timeout };
        let run = Run::start();
        assigned.iter().for_each(|partition| consumer.assign(&self.topic, *partition, Start::Earliest));
        let deadline = self.seconds.map(|seconds| run.start + Duration::from_secs(seconds));
        loop {
            let asked = Instant::now();
            if deadline.is_some_and(|deadline| asked >= deadline)
                || self.records.is_some_and(|records| run.meter().records() >= records)
            {
                break;
            }
            let Some(mut batch) = reading.next_batch().await? else { break };
            let waited = asked.elapsed();
            let (mut records, mut bytes) = (0, 0);
            while let Some(record) = batch.next_plain() {
                let record = record.map_err(Failure::DamagedBatch)?;
                records += 1;
                bytes += record.key.map_or(0, |key| key.len()) + record.value.map_or(0, |value| value.len());
            }
            run.meter().done(records, bytes as u64, waited);
        }
        run.finish(self.json)
    }
}
