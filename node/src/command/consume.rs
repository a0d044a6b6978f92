//! `kauri consume`: prints records as lines.

use std::{collections::BTreeMap, io::Write, time::Duration};

use clap::Args;
use kauri_client::{
    consumer::{ConsumedBatch, ConsumedRecord, ConsumerConfig, Start},
    offsets::OffsetAt,
    tokio::consumer::Handle,
};
use tokio::time::{Instant, sleep_until};

use super::{
    cluster::{Cluster, block_on},
    failure::Failure,
    lines::{Line, Place},
    say_bytes,
};

/// How often a consumer that shall stop at the end looks whether it is there: empty partitions bring no records.
const END_CHECK: Duration = Duration::from_millis(20);

/// Prints the records of a topic
#[derive(Debug, Args)]
#[command(
    after_help = "A record is printed as its value; where there is a key it stands before, behind the value the headers, separated\n\
                        by tabs. With --json each line is an object that `kauri produce --json` can read.\n\n\
                        Examples:\n  \
                        kauri consume greetings --exit\n  \
                        kauri consume orders --partition 0 --offset 42 --count 10 --json\n  \
                        kauri consume orders --offset @1700000000000"
)]
pub(super) struct Consume {
    topic: String,
    /// Read only this partition; may be repeated
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Vec<i32>,
    /// Where to start: earliest, latest, an offset, or @ and a time in milliseconds since 1970
    #[arg(long, value_name = "OFFSET", default_value = "earliest", value_parser = start)]
    offset: Start,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop at what is the end of the topic when this starts
    #[arg(long)]
    exit: bool,
    /// Print JSON objects
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

impl Consume {
    pub(super) fn run(self) -> Result<(), Failure> {
        block_on(self.consume())
    }

    async fn consume(self) -> Result<(), Failure> {
        let assigned = partitions(&self.cluster, &self.topic, &self.partition).await?;
        let mut ends = match self.exit {
            true => Some(Ends::find(&self.cluster, &self.topic, &assigned).await?),
            false => None,
        };
        let consumer = Handle::start(self.cluster.config(), ConsumerConfig::default());
        assigned.iter().for_each(|partition| consumer.assign(&self.topic, *partition, self.offset));

        let mut left = self.count.unwrap_or(u64::MAX);
        let mut text = Vec::new();
        while left > 0 {
            let batch = match &mut ends {
                None => next_batch(&consumer).await?,
                Some(ends) => match ends.next_batch(&consumer, &self.topic).await? {
                    Some(batch) => batch,
                    None => break,
                },
            };
            let end = ends.as_ref().and_then(|ends| ends.of(batch.partition));
            for record in batch {
                let record = record.map_err(Failure::DamagedBatch)?;
                if left == 0 || end.is_some_and(|end| record.offset >= end) {
                    break;
                }
                left -= 1;
                self.print(record, &mut text);
            }
            say_bytes(&text)?;
            text.clear();
        }
        Ok(())
    }

    fn print(&self, record: ConsumedRecord, text: &mut Vec<u8>) {
        let place = Place { partition: record.partition, offset: record.offset, timestamp: record.timestamp };
        let headers = record.headers.iter();
        let line = Line {
            key: record.key,
            value: record.value,
            // Header names are texts by custom; those that are not are shown as well as can be.
            headers: headers.map(|header| (String::from_utf8_lossy(&header.key).into_owned(), header.value)).collect(),
            partition: None,
            timestamp: None,
        };
        if self.json { line.print_json(&record.topic, place, text) } else { line.print(text) }
    }
}

/// The partitions to read: those that were named, or all.
pub(super) async fn partitions(cluster: &Cluster, topic: &str, named: &[i32]) -> Result<Vec<i32>, Failure> {
    let known = cluster.topic(topic).await?.partitions;
    if named.is_empty() {
        return Ok(known.into_keys().collect());
    }
    match named.iter().find(|partition| !known.contains_key(partition)) {
        Some(&partition) => Err(Failure::NoPartition { topic: topic.to_owned(), partition, partitions: known.len() }),
        None => Ok(named.to_vec()),
    }
}

/// The next batch. What may pass is said and waited for.
pub(super) async fn next_batch(consumer: &Handle) -> Result<ConsumedBatch, Failure> {
    loop {
        match consumer.next_batch().await {
            Ok(batch) => return Ok(batch),
            Err(error) if error.error.is_final() => return Err(Failure::NotRead(error)),
            // Standard error may be gone; the records are what matters.
            Err(error) => drop(writeln!(std::io::stderr(), "kauri: {error}")),
        }
    }
}

/// Where a consumer stops.
pub(super) struct Ends(BTreeMap<i32, i64>);

impl Ends {
    /// The present ends of partitions.
    pub(super) async fn find(cluster: &Cluster, topic: &str, partitions: &[i32]) -> Result<Self, Failure> {
        let wanted = partitions.iter().map(|partition| (topic, *partition, OffsetAt::Latest));
        let found = cluster.admin().list_offsets(wanted).await.map_err(Failure::Cluster)?;
        let mut ends = BTreeMap::new();
        for ((_, partition), result) in found {
            let end = result.map_err(|error| Failure::NoEnd { topic: topic.to_owned(), partition, error })?;
            ends.insert(partition, end.map_or(0, |found| found.offset));
        }
        Ok(Self(ends))
    }

    fn of(&self, partition: i32) -> Option<i64> {
        self.0.get(&partition).copied()
    }

    /// The next batch, or nothing once all partitions are read to their ends.
    pub(super) async fn next_batch(
        &mut self,
        consumer: &Handle,
        topic: &str,
    ) -> Result<Option<ConsumedBatch>, Failure> {
        let next = next_batch(consumer);
        let mut next = std::pin::pin!(next);
        loop {
            if self.0.iter().all(|(partition, end)| {
                // A partition without records has nothing that could be waited for.
                *end == 0 || consumer.position(topic, *partition).is_some_and(|position| position >= *end)
            }) {
                return Ok(None);
            }
            tokio::select! {
                batch = &mut next => return batch.map(Some),
                () = sleep_until(Instant::now() + END_CHECK) => {}
            }
        }
    }
}

fn start(text: &str) -> Result<Start, &'static str> {
    const EXPECTED: &str = "must be earliest, latest, an offset, or @ and milliseconds since 1970";
    let number = |text: &str| text.parse().ok().filter(|&number: &i64| number >= 0).ok_or(EXPECTED);
    match (text, text.strip_prefix('@')) {
        ("earliest", _) => Ok(Start::Earliest),
        ("latest", _) => Ok(Start::Latest),
        (_, Some(timestamp)) => number(timestamp).map(Start::Timestamp),
        (_, None) => number(text).map(Start::Offset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_or_a_time() {
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("latest"), Ok(Start::Latest));
        assert_eq!(start("0"), Ok(Start::Offset(0)));
        assert_eq!(start("@1700000000000"), Ok(Start::Timestamp(1_700_000_000_000)));
        for text in ["", "-1", "@", "@-1", "end", "1.5"] {
            assert!(start(text).is_err(), "{text}");
        }
    }
}
