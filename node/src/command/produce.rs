//! `kauri produce`: writes lines of standard input as records.

use std::{
    collections::VecDeque,
    io::{self, BufRead},
    thread::Builder,
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use kauri_client::{
    producer::{Acks, ProducerConfig, ProducerRecord},
    tokio::producer::{Delivery, Handle},
};
use kauri_protocol::records::Compression;
use tokio::sync::mpsc;

use super::{
    cluster::{Cluster, block_on},
    failure::Failure,
    lines::{Line, header_from_text},
};

/// Records that wait for their results.
const WAITING_MAX: usize = 50_000;
/// What is read from standard input ahead of sending: groups of lines.
const GROUPS_MAX: usize = 16;
const GROUP_LINES_MAX: usize = 512;
const GROUP_BYTES_MAX: usize = 256 << 10;

/// Writes each line of standard input as a record
#[derive(Debug, Args)]
#[command(
    after_help = "A line is a record's value; with --key-separator the key stands before it. With --json it is an object:\n  \
                        {\"key\": \"k\", \"value\": \"v\", \"headers\": {\"h\": \"1\"}, \"partition\": 0, \"timestamp\": 1700000000000}\n\
                        All members are optional; bytes that are no text are written {\"base64\": \"AP8=\"}. What `kauri consume --json`\n\
                        prints can be written again. Ends with the input, once every record is written, or at the first that is not.\n\n\
                        Examples:\n  \
                        echo hello | kauri produce greetings\n  \
                        printf 'k1:a\\nk2:b\\n' | kauri produce orders --key-separator : --header source=shell\n  \
                        kauri consume orders --json --exit | kauri produce copy --json --compression zstd"
)]
pub(super) struct Produce {
    topic: String,
    /// Write to this partition instead of the one that the key chooses
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// What separates the key from the value in each line
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// A header for every record; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = header_from_text)]
    header: Vec<(String, Bytes)>,
    /// Each line is a JSON object
    #[arg(long, conflicts_with = "key_separator")]
    json: bool,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    cluster: Cluster,
}

/// How records are sent; `kauri bench produce` has the same flags.
#[derive(Clone, Debug, Args)]
pub(super) struct Sending {
    /// When a record counts as written: all, 1 or 0. All, and to Kauri 1 as well, mean on the disks of a majority
    #[arg(long, value_name = "ACKS", default_value = "all", value_parser = acks)]
    acks: Acks,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "NAME", default_value = "none", value_parser = compression)]
    compression: Compression,
    /// How long a batch waits for more records
    #[arg(long, value_name = "MILLISECONDS", default_value_t = linger_ms())]
    linger_ms: u64,
    /// How large a batch gets, before compression
    #[arg(long, value_name = "BYTES", default_value_t = ProducerConfig::default().batch_bytes)]
    batch_bytes: usize,
}

/// The client's own default.
fn linger_ms() -> u64 {
    u64::try_from(ProducerConfig::default().linger.as_millis()).expect("a few milliseconds")
}

impl Sending {
    pub(super) fn config(&self, timeout: Duration) -> ProducerConfig {
        let default = ProducerConfig::default();
        ProducerConfig {
            acks: self.acks,
            compression: self.compression,
            linger: Duration::from_millis(self.linger_ms),
            batch_bytes: self.batch_bytes,
            request_bytes: default.request_bytes.max(self.batch_bytes),
            delivery_timeout: timeout,
            ..default
        }
    }

    pub(super) fn batch_bytes(&self) -> usize {
        self.batch_bytes
    }
}

impl Produce {
    pub(super) fn run(self) -> Result<(), Failure> {
        block_on(self.produce())
    }

    async fn produce(self) -> Result<(), Failure> {
        let mut cluster = self.cluster.config();
        // As every Kafka client: writing to a topic creates it, if the broker allows that.
        cluster.create_topics = true;
        let producer = Handle::start(cluster, self.sending.config(self.cluster.timeout()));
        let mut groups = standard_input()?;
        let mut number = 0;
        let mut waiting = VecDeque::new();
        while let Some(group) = groups.recv().await {
            for line in group.map_err(Failure::Input)? {
                number += 1;
                let delivery = self.send(&producer, number, &line).await?;
                waiting.push_back((number, delivery));
                if waiting.len() > WAITING_MAX {
                    confirm(&mut waiting).await?;
                }
            }
        }
        producer.flush().await;
        while !waiting.is_empty() {
            confirm(&mut waiting).await?;
        }
        Ok(())
    }

    async fn send(&self, producer: &Handle, number: u64, line: &[u8]) -> Result<Delivery, Failure> {
        let parsed =
            if self.json { Line::from_json(line) } else { Line::from_text(line, self.key_separator.as_deref()) };
        let record = parsed.map_err(|error| Failure::Line { number, error })?;
        let own = record.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_deref()));
        let common = self.header.iter().map(|(name, value)| (name.as_bytes(), Some(&value[..])));
        let headers: Vec<(&[u8], Option<&[u8]>)> = own.chain(common).collect();
        let record = ProducerRecord {
            topic: &self.topic,
            partition: self.partition.or(record.partition),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
            timestamp: record.timestamp,
        };
        producer.send(record).await.map_err(|error| Failure::NotSent { number, error })
    }
}

/// Waits for the oldest record.
async fn confirm(waiting: &mut VecDeque<(u64, Delivery)>) -> Result<(), Failure> {
    let Some((number, delivery)) = waiting.pop_front() else { return Ok(()) };
    delivery.await.map(drop).map_err(|error| Failure::NotWritten { number, error })
}

/// The lines of standard input, without their ends, read ahead by a thread of their own.
fn standard_input() -> Result<mpsc::Receiver<io::Result<Vec<Vec<u8>>>>, Failure> {
    let (sender, receiver) = mpsc::channel(GROUPS_MAX);
    let read = move || {
        let mut input = io::BufReader::with_capacity(GROUP_BYTES_MAX, io::stdin().lock());
        loop {
            let group = read_group(&mut input);
            let (at_end, failed) = (matches!(&group, Ok(lines) if lines.is_empty()), group.is_err());
            // Whoever received has heard enough, or there is nothing more to say.
            if at_end || sender.blocking_send(group).is_err() || failed {
                return;
            }
        }
    };
    Builder::new().name("input".to_owned()).spawn(read).map_err(Failure::System)?;
    Ok(receiver)
}

/// At least one line, and whatever else can be had without waiting, within limits. Nothing at the end.
fn read_group(input: &mut io::BufReader<impl io::Read>) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut bytes = 0;
    loop {
        let mut line = Vec::new();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(lines);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        bytes += line.len();
        lines.push(line);
        let more = input.buffer().contains(&b'\n');
        if !more || lines.len() >= GROUP_LINES_MAX || bytes >= GROUP_BYTES_MAX {
            return Ok(lines);
        }
    }
}

fn acks(text: &str) -> Result<Acks, &'static str> {
    match text {
        "all" | "-1" => Ok(Acks::All),
        "1" => Ok(Acks::Leader),
        "0" => Ok(Acks::None),
        _ => Err("must be all, 1 or 0"),
    }
}

fn compression(text: &str) -> Result<Compression, &'static str> {
    let named = Compression::ALL.into_iter().find(|compression| compression.name() == text);
    named.ok_or("must be none, gzip, snappy, lz4 or zstd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_long_and_whether_or_not_the_last_one_ends() {
        let read = |text: &[u8]| {
            let mut input = io::BufReader::with_capacity(8, text);
            let mut lines = Vec::new();
            loop {
                let group = read_group(&mut input).unwrap();
                if group.is_empty() {
                    return lines;
                }
                lines.extend(group);
            }
        };
        assert_eq!(read(b""), Vec::<Vec<u8>>::new());
        assert_eq!(read(b"a\n\nbc\r\n"), [&b"a"[..], b"", b"bc\r"]);
        assert_eq!(
            read(b"a line that is longer than the buffer\nx"),
            [&b"a line that is longer than the buffer"[..], b"x"]
        );
    }
}
