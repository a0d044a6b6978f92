//! Thousands of replicas on one node: how long a start takes after kill -9, and what a replica costs that nobody uses.
//!
//! Measured are the creation of the partitions, memory and processor time while nothing happens, once without a record
//! and once with batches in every partition (enough of them that nearly every partition has segment files), and starts
//! after kill -9 in both states. A start is over when every partition has told its end, which needs its own leader.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kauri_protocol::{
    ErrorCode,
    messages::{
        ListOffsetsRequest, ProduceRequest,
        list_offsets::{LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsTopic},
        produce::{PartitionProduceData, TopicProduceData},
    },
    records::{BatchBuilder, Compression, NO_PRODUCER},
};

use super::Extent;
use crate::{
    cluster::{Cluster, Node},
    kafka::{Client, Connection, metadata},
    patience::until,
};

const TOPIC: &str = "replicas";
const PATIENCE: Duration = Duration::from_secs(120);
/// From the start of the process until every partition has told its end.
const START_MAX: Duration = Duration::from_secs(5);
/// What a replica may need that nobody uses.
const REPLICA_BYTES_MAX: u64 = 50 << 10;
/// Processor time while nothing happens, of one processor.
const IDLE_PERCENT_MAX: f64 = 25.0;
const BATCH_BYTES: usize = 16 << 10;
/// Bound of the batches of all partitions that a node keeps in memory for their readers.
const HELD_BYTES_MAX: u64 = 64 << 20;
/// A node is taken to have settled when it did little for so long.
const SETTLE_WINDOW: Duration = Duration::from_secs(3);
/// Partitions of one request.
const REQUEST_PARTITIONS: i32 = 500;
/// Starts after kill -9 in each state.
const STARTS: usize = 3;

struct Size {
    partitions: i32,
    idle: Duration,
}

fn size(extent: Extent) -> Size {
    match extent {
        Extent::Quick => Size { partitions: 1_000, idle: Duration::from_secs(2) },
        Extent::Full => Size { partitions: 10_000, idle: Duration::from_secs(10) },
    }
}

pub(super) fn run(extent: Extent) {
    let Size { partitions, idle } = size(extent);
    let mut cluster = Cluster::start(1);
    let node = &mut cluster.nodes[0];
    let empty_node_bytes = node.memory_bytes();

    let created = Instant::now();
    Client::new(&node.address, PATIENCE).create_topic(TOPIC, partitions, 1);
    ends(node, partitions, 0);
    println!("{partitions} partitions created and led after {:.2} s", created.elapsed().as_secs_f64());
    measure("without records", node, partitions, empty_node_bytes, idle);
    restarts("without records", node, partitions, 0);

    let wrote = Instant::now();
    write(node, partitions);
    println!("{} KiB written to each partition in {:.2} s", BATCH_BYTES >> 10, wrote.elapsed().as_secs_f64());
    settle(node);
    // What was just written is still in memory, unless there is too much of it.
    measure("with records", node, partitions, empty_node_bytes + held(partitions), idle);
    restarts("with records", node, partitions, 1);
    settle(node);
    measure("after the last start", node, partitions, empty_node_bytes + held(partitions), idle);
    let files = files_below(&node.data_directory.join("groups"));
    println!("{files} files of segments");

    let before = Instant::now();
    write(node, partitions);
    thread::sleep(idle);
    let seconds = before.elapsed().as_secs_f64();
    ends(node, partitions, 2);
    assert!(node.terminate().success(), "a node that is asked to stop does");
    let used = disk_use(&node.log);
    println!(
        "since the last start, {seconds:.0} s: {} writes and {} syncs of the write-ahead log, {} other syncs",
        used.wal_writes, used.wal_syncs, used.other_syncs
    );
    assert!(used.wal_syncs <= used.wal_writes, "a write of the log needs more than one sync");
}

/// Waits until a node has written what it will not keep in memory, and a checkpoint.
fn settle(node: &Node) {
    let mut before = node.processor_time();
    let mut looked = Instant::now();
    until("a node with nothing to do", PATIENCE, || {
        thread::sleep(SETTLE_WINDOW);
        let used = node.processor_time().saturating_sub(before);
        let share = used.as_secs_f64() / looked.elapsed().as_secs_f64() * 100.0;
        (before, looked) = (node.processor_time(), Instant::now());
        (share <= IDLE_PERCENT_MAX / 2.0).then_some(())
    });
}

/// What a node may keep of batches that were written a moment ago.
fn held(partitions: i32) -> u64 {
    (u64::from(partitions.unsigned_abs()) * BATCH_BYTES as u64).min(HELD_BYTES_MAX)
}

/// Memory and processor time of a node that has nothing to do. `others`: bytes that are not for replicas.
fn measure(what: &str, node: &Node, partitions: i32, others: u64, time: Duration) {
    let before = node.processor_time();
    let started = Instant::now();
    thread::sleep(time);
    let used = node.processor_time().saturating_sub(before);
    let percent = used.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0;
    let bytes = node.memory_bytes();
    let each = bytes.saturating_sub(others) / u64::from(partitions.unsigned_abs());
    println!(
        "{what}: {} MiB of memory, {:.1} KiB per replica (peak {} MiB); idle: {percent:.1} % of a processor",
        bytes >> 20,
        each as f64 / 1024.0,
        node.peak_memory_bytes() >> 20
    );
    assert!(each <= REPLICA_BYTES_MAX, "a replica needs more than {} KiB", REPLICA_BYTES_MAX >> 10);
    assert!(percent <= IDLE_PERCENT_MAX, "an idle node needs more than {IDLE_PERCENT_MAX} % of a processor");
}

/// kill -9 and a start, several times.
fn restarts(what: &str, node: &mut Node, partitions: i32, end: i64) {
    for _ in 0..STARTS {
        node.kill();
        let started = Instant::now();
        node.start();
        until("a node that answers", PATIENCE, || {
            let answer = metadata(&mut Connection::open(&node.address).ok()?, &[]).ok()?;
            (answer.controller_id >= 0).then_some(())
        });
        let answered = started.elapsed();
        ends(node, partitions, end);
        let all = started.elapsed();
        println!(
            "start after kill -9, {what}: answers after {:.2} s, all partitions serve after {:.2} s",
            answered.as_secs_f64(),
            all.as_secs_f64()
        );
        assert!(all <= START_MAX, "a start takes more than {START_MAX:?}");
    }
}

/// Appends one batch to every partition.
fn write(node: &Node, partitions: i32) {
    let mut connection = node.connect();
    let mut builder = BatchBuilder::new(Compression::None);
    // A multiple of nothing: a batch that compresses or aligns well would say less.
    let value: Vec<u8> = (0..BATCH_BYTES as u32 - 100).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    builder.append(0, None, Some(&value), &[]).expect("a record of some KiB fits");
    let batch: Bytes = builder.build(NO_PRODUCER).expect("a batch of some KiB fits");
    for first in (0..partitions).step_by(REQUEST_PARTITIONS as usize) {
        let indexes = first..(first + REQUEST_PARTITIONS).min(partitions);
        let mut missing: Vec<i32> = indexes.collect();
        until("batches in every partition", PATIENCE, || {
            let data = missing.iter().map(|index| PartitionProduceData { index: *index, records: Some(batch.clone()) });
            let request = ProduceRequest {
                acks: -1,
                timeout_ms: 10_000,
                topic_data: vec![TopicProduceData { name: TOPIC.into(), partition_data: data.collect() }],
                ..ProduceRequest::default()
            };
            let answer = connection.call(&request, 9).expect("a node that runs answers");
            missing.clear();
            for partition in &answer.responses.first()?.partition_responses {
                match partition.error_code {
                    ErrorCode::None => {}
                    code if code.is_retriable() => missing.push(partition.index),
                    code => panic!("a batch for {TOPIC}-{} is refused: {}", partition.index, code.name()),
                }
            }
            missing.is_empty().then_some(())
        });
    }
}

/// Waits until every partition has told its end, which must be this.
fn ends(node: &Node, partitions: i32, end: i64) {
    let mut connection = node.connect();
    let mut missing: Vec<i32> = (0..partitions).collect();
    until("the ends of all partitions", PATIENCE, || {
        let asked = missing.iter().map(|index| ListOffsetsPartition {
            partition_index: *index,
            timestamp: LATEST_TIMESTAMP,
            ..Default::default()
        });
        let request = ListOffsetsRequest {
            topics: vec![ListOffsetsTopic { name: TOPIC.into(), partitions: asked.collect() }],
            ..ListOffsetsRequest::default()
        };
        let answer = connection.call(&request, 6).expect("a node that runs answers");
        missing.clear();
        for partition in &answer.topics.first()?.partitions {
            match partition.error_code {
                ErrorCode::None => assert_eq!(partition.offset, end, "{TOPIC}-{}", partition.partition_index),
                code if code.is_retriable() => missing.push(partition.partition_index),
                code => panic!("no end of {TOPIC}-{}: {}", partition.partition_index, code.name()),
            }
        }
        missing.is_empty().then_some(())
    });
}

/// What a process told of its disk when it ended.
struct DiskUse {
    wal_writes: u64,
    wal_syncs: u64,
    other_syncs: u64,
}

fn disk_use(log: &Path) -> DiskUse {
    let text = fs::read_to_string(log).expect("a node that ran has a log");
    let line = text.lines().rev().find(|line| line.contains("the disk was used")).expect("a clean end tells it");
    let number = |name: &str| {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {name} in: {line}"))
    };
    DiskUse { wal_writes: number("wal_writes"), wal_syncs: number("wal_syncs"), other_syncs: number("other_syncs") }
}

fn files_below(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).expect("a directory of a node can be read");
    entries
        .map(|entry| {
            let entry = entry.expect("a directory of a node can be read");
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) { files_below(&entry.path()) } else { 1 }
        })
        .sum()
}
