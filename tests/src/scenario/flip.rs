//! Sectors of the write-ahead logs and of the segments of two of three nodes go bad while all are stopped.
//!
//! What is lost on one node is intact on the others. Afterwards everything is served, no node needed more than what it
//! lost, and on all disks everything is intact again.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use super::Extent;
use crate::{
    cluster::{self, Cluster, Node},
    kafka::Client,
    patience::until,
};

const TOPIC: &str = "flipped";
const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);
/// The scrubber begins a minute after a start.
const SCRUB_PATIENCE: Duration = Duration::from_secs(180);
const SECTOR_BYTES: u64 = 512;
/// A segment is repaired in such pieces.
const CHUNK_BYTES: u64 = 64 << 10;
/// The scrubber shall not need minutes to find what nobody reads, and segments shall be full.
const CONFIGURATION: &str = "scrub_bytes_per_second = 67108864\nsegment_bytes = 1048576\n";

/// One payload in the log of a node.
#[derive(Clone, Debug)]
struct Payload {
    file: PathBuf,
    offset: u64,
    bytes: u64,
}

pub(super) fn run(extent: Extent) {
    let (rounds, records, rounds_of_segments) = match extent {
        Extent::Quick => (2, 20_000, 1),
        Extent::Full => (10, 50_000, 4),
    };
    let mut cluster = Cluster::start_with(3, CONFIGURATION);
    Client::new(&cluster.bootstrap(), PATIENCE).create_topic(TOPIC, PARTITIONS, 3);
    let mut written = Vec::new();
    let mut seen = BTreeMap::from([(2, 0), (3, 0)]);
    for round in 0..rounds {
        let values: Vec<String> =
            (0..records).map(|record: usize| format!("{round}-{record}-{}", "x".repeat(200))).collect();
        // A command is a batch, and so an entry, for each partition at least.
        for part in values.chunks(records / 5) {
            let mut lines = part.join("\n");
            lines.push('\n');
            kauri(&cluster, TOPIC, &["produce"], lines.into_bytes());
        }
        written.extend(values);
        cluster.nodes.iter_mut().for_each(Node::kill);

        let mut flipped = Vec::new();
        for (id, remainder) in [(2, 0), (3, 1)] {
            let (payloads, last) = payloads(cluster.node(id), seen[&id]);
            seen.insert(id, last);
            let hit: Vec<&Payload> =
                payloads.iter().filter(|((_, index), _)| index % 3 == remainder).map(|(_, payload)| payload).collect();
            hit.iter().for_each(|payload| flip(payload));
            assert!(!verify(cluster.node(id)).status.success(), "node {id} has damage that is not found");
            flipped.push(hit.len());
        }
        let said = [2, 3].map(|id| told(cluster.node(id), IS_WHOLE));
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.wait_until_ready();
        check_records(&cluster, &written);
        for (id, said) in [2, 3].into_iter().zip(said) {
            let node = cluster.node(id);
            let damaged = told(node, IS_DAMAGED);
            until("repaired logs", PATIENCE, || (told(node, IS_WHOLE) == damaged).then_some(()));
            assert!(told(node, IS_WHOLE) > said, "node {id} lost something and repaired nothing");
            assert_eq!(told(node, SWITCHED), 0, "node {id} needed a state");
        }
        let [first, second] = flipped[..] else { panic!("two nodes were damaged") };
        println!("round {round}: {first} and {second} payloads flipped on two nodes, {} records read", written.len());
    }
    for round in 0..rounds_of_segments {
        flip_segments(&mut cluster, round, &written);
    }
    cluster.assert_all_running();
    for node in &mut cluster.nodes {
        node.kill();
        let verified = verify(node);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
        print!("node {}: {}", node.id, String::from_utf8_lossy(&verified.stdout));
    }
}

/// Stops all nodes in order, so that checkpoints vouch for everything in the segments, and damages those of two nodes.
/// Readers find what the leaders lost, the scrubber the rest.
fn flip_segments(cluster: &mut Cluster, round: u64, written: &[String]) {
    for node in &mut cluster.nodes {
        assert!(node.terminate().success(), "node {} ends in order", node.id);
    }
    let nodes = [(2, round), (3, round + 1)];
    let repaired = nodes.map(|(id, _)| chunks_repaired(cluster.node(id)));
    nodes.iter().for_each(|(id, chunk)| flip_chunks(cluster.node(*id), *chunk));
    // What no checkpoint names is no damage: a start writes it again from the log.
    let flipped = nodes.map(|(id, _)| damaged_chunks(&verify(cluster.node(id))));
    assert!(flipped.iter().all(|chunks| *chunks > 0), "nothing in segments is damaged: {flipped:?}");
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.wait_until_ready();
    check_records(cluster, written);
    for (place, (id, _)) in nodes.into_iter().enumerate() {
        let node = cluster.node(id);
        until("repaired segments", SCRUB_PATIENCE, || {
            (chunks_repaired(node) >= repaired[place] + flipped[place]).then_some(())
        });
        assert_eq!(told(node, SWITCHED), 0, "node {id} needed a state");
    }
    let [first, second] = flipped;
    println!(
        "segments, round {round}: {first} and {second} chunks flipped on two nodes, {} records read",
        written.len()
    );
}

/// Everything is read, once.
fn check_records(cluster: &Cluster, written: &[String]) {
    let read = kauri(cluster, TOPIC, &["consume", "--exit"], Vec::new());
    let mut read: Vec<String> =
        String::from_utf8(read.stdout).expect("text was written").lines().map(str::to_owned).collect();
    let mut expected = written.to_vec();
    read.sort_unstable();
    expected.sort_unstable();
    assert!(read == expected, "{} records were written and {} read", expected.len(), read.len());
}

const IS_DAMAGED: &str = "payloads of the write-ahead log are damaged";
const IS_WHOLE: &str = "the log of a replica is whole again";
const SWITCHED: &str = "a replica switched to a transferred state";

/// How often a node's log says so.
fn told(node: &Node, what: &str) -> usize {
    let log = fs::read_to_string(&node.log).expect("a node that was started has a log");
    log.lines().filter(|line| line.contains(what)).count()
}

/// Chunks of segments that a node wrote again, as its log says.
fn chunks_repaired(node: &Node) -> u64 {
    let log = fs::read_to_string(&node.log).expect("a node that was started has a log");
    let said = log.lines().filter(|line| line.contains("damage of a segment is repaired"));
    said.map(|line| {
        let chunks = line.split(' ').find_map(|field| field.strip_prefix("chunks="));
        chunks.and_then(|number| number.parse::<u64>().ok()).unwrap_or_else(|| panic!("{line}: there is no number"))
    })
    .sum()
}

fn damaged_chunks(verified: &Output) -> u64 {
    let text = String::from_utf8_lossy(&verified.stdout);
    text.lines().filter(|line| line.contains(".log is damaged at byte")).count() as u64
}

/// Turns a sector in one chunk of each segment that goes on behind it.
fn flip_chunks(node: &Node, chunk: u64) {
    let entries = |directory: &Path| {
        let entries = fs::read_dir(directory).expect("a stopped node has its directories");
        entries.map(|entry| entry.expect("it was listed").path()).collect::<Vec<_>>()
    };
    let groups = entries(&node.data_directory.join("groups"));
    let files = groups.iter().flat_map(|group| entries(group));
    let logs = files.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
    let long = logs.filter(|log| fs::metadata(log).expect("it was listed").len() > (chunk + 2) * CHUNK_BYTES);
    let offset = chunk * CHUNK_BYTES + 7 * SECTOR_BYTES;
    long.for_each(|file| flip(&Payload { file, offset, bytes: SECTOR_BYTES }));
}

/// Runs a command of a client on a topic.
pub(super) fn kauri(cluster: &Cluster, topic: &str, arguments: &[&str], input: Vec<u8>) -> Output {
    let mut process = Command::new(cluster::binary())
        .args(arguments)
        .args(["--bootstrap", &cluster.bootstrap(), topic])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary was run before");
    let mut stdin = process.stdin.take().expect("it is piped");
    stdin.write_all(&input).expect("the command reads its input");
    drop(stdin);
    let output = process.wait_with_output().expect("a child can be waited for");
    assert!(output.status.success(), "kauri {arguments:?} failed");
    output
}

fn verify(node: &Node) -> Output {
    let output =
        Command::new(cluster::binary()).args(["log", "verify", "--data-dir"]).arg(&node.data_directory).output();
    output.expect("the binary was run before")
}

/// Where the payloads of entries of the topic lie, by group and index; the newest place of each. Only those behind a
/// write, and with the last write: earlier ones may be part of a checkpoint. Not those of the last write: as long as
/// nothing follows it, damage there cannot be told from a write that was cut short.
fn payloads(node: &Node, after: u64) -> (BTreeMap<(u64, u64), Payload>, u64) {
    let dump = Command::new(cluster::binary()).args(["log", "dump", "--data-dir"]).arg(&node.data_directory).output();
    let dump = dump.expect("the binary was run before");
    assert!(dump.status.success(), "the log of node {} cannot be printed", node.id);
    let mut payloads = BTreeMap::new();
    let mut last = 0;
    for line in String::from_utf8(dump.stdout).expect("the dump is text").lines() {
        let fields: Vec<&str> = line.split("  ").collect();
        let [file, place, write, "entry", group, index, _, bytes] = fields[..] else { continue };
        let number = |field: &str, name: &str| {
            let text = field.strip_prefix(name).unwrap_or_else(|| panic!("{line}: there is no {name}"));
            text.trim().parse::<u64>().unwrap_or_else(|_| panic!("{line}: {name} is no number"))
        };
        let bytes = number(bytes.strip_suffix("bytes").unwrap_or_else(|| panic!("{line}: there is no size")), "");
        let payload = Payload { file: file.into(), offset: number(place, "byte "), bytes };
        // The metadata group is left out: nothing here knows how much of it is applied.
        if bytes > 0 && number(group, "group ") > 0 {
            let write = number(write, "write ");
            last = last.max(write);
            payloads.insert((number(group, "group "), number(index, "index ")), (write, payload));
        }
    }
    payloads.retain(|_, (write, _)| after < *write && *write < last);
    (payloads.into_iter().map(|(entry, (_, payload))| (entry, payload)).collect(), last)
}

/// Turns all bits of one sector, or of what of it belongs to the payload.
fn flip(payload: &Payload) {
    let end = payload.offset + payload.bytes;
    let sector = payload.offset.next_multiple_of(SECTOR_BYTES);
    let (from, to) = if sector + SECTOR_BYTES <= end { (sector, sector + SECTOR_BYTES) } else { (payload.offset, end) };
    let file = OpenOptions::new().read(true).write(true).open(&payload.file);
    let mut file = file.expect("a file of a stopped node can be opened");
    let mut bytes = vec![0; usize::try_from(to - from).expect("at most a payload")];
    file.seek(SeekFrom::Start(from)).expect("a file can be sought in");
    file.read_exact(&mut bytes).expect("the dump names places in the file");
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    file.seek(SeekFrom::Start(from)).expect("a file can be sought in");
    file.write_all(&bytes).expect("a file of a stopped node can be written");
}
