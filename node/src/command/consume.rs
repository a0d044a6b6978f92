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
/// How often one that follows a topic looks whether there is still hope.
const HOPE_CHECK: Duration = Duration::from_millis(250);

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
        let ends = match self.exit {
            true => Some(Ends::find(&self.cluster, &self.topic, &assigned).await?),
            false => None,
        };
        let consumer = Handle::start(self.cluster.config(), ConsumerConfig::default());
        assigned.iter().for_each(|partition| consumer.assign(&self.topic, *partition, self.offset));

        let timeout = self.cluster.timeout();
        let reading = Reading { consumer: &consumer, topic: &self.topic, partitions: &assigned, ends, timeout };
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut text = Vec::new();
        while left > 0 {
            let Some(batch) = reading.next_batch().await? else { break };
            let end = reading.ends.as_ref().and_then(|ends| ends.of(batch.partition));
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
async fn next_batch(consumer: &Handle) -> Result<ConsumedBatch, Failure> {
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
}

/// Partitions of a topic as they are read, perhaps up to where they end.
pub(super) struct Reading<'a> {
    pub(super) consumer: &'a Handle,
    pub(super) topic: &'a str,
    pub(super) partitions: &'a [i32],
    pub(super) ends: Option<Ends>,
    /// How long errors are borne that may pass.
    pub(super) timeout: Duration,
}

impl Reading<'_> {
    /// The next batch, or nothing once all partitions are read to their ends. Waiting for records has no limit, but
    /// there must be one partition at least that answers.
    pub(super) async fn next_batch(&self) -> Result<Option<ConsumedBatch>, Failure> {
        let check = if self.ends.is_some() { END_CHECK } else { HOPE_CHECK };
        let mut next = std::pin::pin!(next_batch(self.consumer));
        loop {
            let unfinished: Vec<i32> = self.unfinished().collect();
            if unfinished.is_empty() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                batch = &mut next => return batch.map(Some),
                () = sleep_until(Instant::now() + check) => {}
            }
            let state = unfinished.into_iter().map(|at| (at, self.consumer.failing(self.topic, at)));
            if let Some((partition, last)) = without_hope(state, self.timeout) {
                let (topic, seconds) = (self.topic.to_owned(), self.timeout.as_secs());
                return Err(Failure::NotReadInTime { topic, partition, seconds, last });
            }
        }
    }

    /// Partitions from which something is still to come.
    fn unfinished(&self) -> impl Iterator<Item = i32> {
        self.partitions.iter().copied().filter(|partition| {
            let Some(ends) = &self.ends else { return true };
            let end = ends.of(*partition).unwrap_or(0);
            // A partition without records has nothing that could be waited for.
            end > 0 && self.consumer.position(self.topic, *partition).is_none_or(|position| position < end)
        })
    }
}

/// The first of the partitions and what happened to it last, if for `timeout` there were only errors, in all of them.
fn without_hope(
    partitions: impl IntoIterator<Item = (i32, Option<(Duration, String)>)>,
    timeout: Duration,
) -> Option<(i32, String)> {
    let mut first = None;
    for (partition, failing) in partitions {
        let (_, last) = failing.filter(|(failing_for, _)| *failing_for >= timeout)?;
        first.get_or_insert((partition, last));
    }
    first
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
    fn reading_is_given_up_when_there_were_only_errors_everywhere_for_long() {
        let timeout = Duration::from_secs(20);
        let failing = |seconds, last: &str| Some((Duration::from_secs(seconds), last.to_owned()));
        let without_hope = |states: &[Option<(Duration, String)>]| without_hope((0..).zip(states.to_vec()), timeout);
        assert_eq!(without_hope(&[failing(20, "a"), failing(30, "b")]), Some((0, "a".to_owned())));
        assert_eq!(without_hope(&[failing(20, "a"), failing(19, "b")]), None, "one of them may still come back");
        assert_eq!(without_hope(&[None, failing(30, "b")]), None, "one of them answers");
    }

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
