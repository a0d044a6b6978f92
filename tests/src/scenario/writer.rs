//! A third-party producer that writes all the time, as a process of its own (clients/python/writer.py).

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use kauri_protocol::records::{BatchHeader, BatchView};

use crate::{cluster::Cluster, kafka::Client, patience::until};

#[derive(Debug)]
pub(super) struct Writer {
    process: Child,
    commands: ChildStdin,
    reports: BufReader<ChildStdout>,
    acknowledgements: PathBuf,
}

/// What a writer says about one partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) acknowledged: u64,
    /// Longest time without an acknowledgement since the last report.
    pub(super) longest_gap: Duration,
}

/// What a log was found to hold.
#[derive(Debug, Default)]
pub(super) struct Verified {
    pub(super) records: u64,
    pub(super) acknowledged: u64,
}

/// What a writer was told.
#[derive(Debug)]
pub(super) struct Acknowledged {
    /// Number and offset, by partition.
    records: BTreeMap<i32, Vec<(u64, i64)>>,
}

/// What became of acknowledged records.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) acknowledged: u64,
    pub(super) lost: u64,
}

impl Writer {
    pub(super) fn start(cluster: &Cluster, topic: &str, partitions: i32) -> Self {
        let acknowledgements = cluster.directory().join("acknowledged");
        let mut process = Command::new(python())
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/writer.py"))
            .args([topic, &partitions.to_string()])
            .arg(&acknowledgements)
            .env("KAURI_BOOTSTRAP", cluster.bootstrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{} cannot be run: {error}", python().display()));
        let commands = process.stdin.take().expect("it is piped");
        let reports = BufReader::new(process.stdout.take().expect("it is piped"));
        Self { process, commands, reports, acknowledgements }
    }

    /// By partition.
    pub(super) fn report(&mut self) -> Vec<Progress> {
        writeln!(self.commands, "report").expect("the writer runs");
        self.read_report()
    }

    /// Waits for everything outstanding, ends the writer, and compares what it was told with what the log holds.
    pub(super) fn verify(mut self, cluster: &Cluster, topic: &str, partitions: i32) -> Verified {
        writeln!(self.commands, "stop").expect("the writer runs");
        self.read_report();
        let status = self.process.wait().expect("a child can be waited for");
        assert!(status.success(), "the writer failed with {status}");

        let mut acknowledged = self.acknowledged().records;
        let mut verified = Verified::default();
        let mut client = Client::new(&cluster.bootstrap(), Duration::from_secs(60));
        for partition in 0..partitions {
            let log = numbers(&mut client, topic, partition);
            // Everything was acknowledged in the end, so the log must hold each number once and in order.
            for (offset, number) in (0..).zip(&log) {
                assert_eq!(*number, offset, "{topic}-{partition} holds number {number} at offset {offset}");
            }
            let acknowledged = acknowledged.remove(&partition).unwrap_or_default();
            for (number, offset) in &acknowledged {
                let found = usize::try_from(*offset).ok().and_then(|offset| log.get(offset));
                assert_eq!(found, Some(number), "{topic}-{partition}: number {number} was acknowledged at {offset}");
            }
            assert_eq!(log.len(), acknowledged.len(), "{topic}-{partition}: what the log holds was acknowledged");
            verified.records += log.len() as u64;
            verified.acknowledged += acknowledged.len() as u64;
        }
        verified
    }

    /// Ends the writer at once; what it was told until now.
    pub(super) fn end(mut self) -> Acknowledged {
        // With a report, what arrived by now is in the file.
        self.report();
        self.acknowledged()
    }

    fn acknowledged(&self) -> Acknowledged {
        let text = fs::read_to_string(&self.acknowledgements).expect("the writer wrote it");
        let mut records: BTreeMap<i32, Vec<(u64, i64)>> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<i64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
            let [partition, number, offset] = words[..] else { panic!("an acknowledgement is three numbers: {line}") };
            let partition = i32::try_from(partition).expect("a partition");
            records.entry(partition).or_default().push((u64::try_from(number).expect("a number"), offset));
        }
        Acknowledged { records }
    }

    /// Waits until so many more records of each partition are acknowledged. The longest time without acknowledgement
    /// meanwhile, or since the last report, by partition.
    pub(super) fn wait_for(&mut self, records: u64, patience: Duration) -> Vec<Duration> {
        let first = self.report();
        let mut gaps: Vec<Duration> = first.iter().map(|partition| partition.longest_gap).collect();
        until("acknowledgements", patience, || {
            let now = self.report();
            gaps.iter_mut().zip(&now).for_each(|(gap, partition)| *gap = partition.longest_gap.max(*gap));
            let done = first.iter().zip(&now).all(|(first, now)| now.acknowledged >= first.acknowledged + records);
            done.then_some(())
        });
        gaps
    }

    fn read_report(&mut self) -> Vec<Progress> {
        let mut line = String::new();
        self.reports.read_line(&mut line).expect("the writer answers");
        let report = line.trim_end().strip_prefix("report ").unwrap_or_else(|| panic!("the writer ended: {line}"));
        let number = |text: &str| text.parse().expect("reports are numbers");
        let partition = |text: &str| {
            let (acknowledged, gap) = text.split_once(':').expect("a partition is two numbers");
            Progress { acknowledged: number(acknowledged), longest_gap: Duration::from_millis(number(gap)) }
        };
        report.split(' ').map(partition).collect()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It has ended, unless a test failed.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Acknowledged {
    /// Looks for every record where it was acknowledged.
    pub(super) fn compare(&self, cluster: &Cluster, topic: &str, partitions: i32) -> Kept {
        let mut kept = Kept::default();
        let mut client = Client::new(&cluster.bootstrap(), Duration::from_secs(60));
        for partition in 0..partitions {
            let log = numbers(&mut client, topic, partition);
            for (number, offset) in self.records.get(&partition).into_iter().flatten() {
                kept.acknowledged += 1;
                let found = usize::try_from(*offset).ok().and_then(|offset| log.get(offset));
                kept.lost += u64::from(found != Some(number));
            }
        }
        kept
    }
}

/// The numbers in all records of a partition, in the order of the log.
fn numbers(client: &mut Client, topic: &str, partition: i32) -> Vec<u64> {
    let end = client.end_offset(topic, partition);
    let mut numbers = Vec::new();
    let mut next = 0;
    while next < end {
        let mut bytes = client.fetch(topic, partition, next, 1 << 20);
        while let Ok(length) = BatchHeader::batch_bytes(&bytes)
            && length <= bytes.len()
        {
            let batch = BatchView::new(bytes.split_to(length)).expect("a broker sends whole batches");
            batch.validate_crc().expect("what was sent arrives");
            for record in batch.records(64 << 20).expect("a producer compresses well") {
                let record = record.expect("a producer writes records well");
                assert_eq!(record.offset, next, "offsets are dense");
                let value = record.value.expect("every record has a value");
                let text = String::from_utf8(value.to_vec()).expect("values are text");
                let mut words = text.split(' ');
                assert_eq!(words.next(), Some(partition.to_string().as_str()), "a record is where it was sent to");
                numbers.push(words.next().expect("values have two numbers").parse().expect("a number"));
                next += 1;
            }
        }
    }
    numbers
}

/// The Python that has the packages of clients/python/requirements.txt: named by KAURI_PYTHON, or the one in the path.
pub(super) fn python() -> PathBuf {
    std::env::var_os("KAURI_PYTHON").map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}
