//! Much more data in and out of three nodes than they may have in memory.
//!
//! Producers write as fast as they can, first with small batches and then with large ones, while one consumer follows
//! and another reads everything from the beginning afterwards. Every byte that was sent must come back.

use std::{thread, time::Duration};

use bytes::Bytes;
use kauri_protocol::records::{BatchBuilder, BatchHeader, BatchView, Compression, NO_PRODUCER};

use super::Extent;
use crate::{cluster::Cluster, kafka::Client, rate::Rate};

const TOPIC: &str = "memory";
const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(120);
/// What the nodes' processes may need at most.
pub(super) const PEAK_BYTES_MAX: u64 = 400 << 20;
/// Records of 1 KiB in batches of these sizes.
const BATCH_RECORDS: [usize; 3] = [8, 64, 700];
const VALUE_BYTES: usize = 1 << 10;

fn bytes_in(extent: Extent) -> usize {
    match extent {
        Extent::Quick => 128 << 20,
        Extent::Full => 1 << 30,
    }
}

pub(super) fn run(extent: Extent) {
    let mut cluster = Cluster::start(3);
    let bootstrap = cluster.bootstrap();
    Client::new(&bootstrap, PATIENCE).create_topic(TOPIC, PARTITIONS, 3);
    let records = bytes_in(extent) / VALUE_BYTES / PARTITIONS as usize;
    let total = (records * VALUE_BYTES * PARTITIONS as usize) as u64;

    let writing = Rate::start();
    thread::scope(|scope| {
        for partition in 0..PARTITIONS {
            let bootstrap = &bootstrap;
            scope.spawn(move || write(bootstrap, partition, records));
            scope.spawn(move || read(bootstrap, partition, records));
        }
    });
    println!("written and read meanwhile: {}", writing.stop(total));
    let reading = Rate::start();
    thread::scope(|scope| {
        for partition in 0..PARTITIONS {
            let bootstrap = &bootstrap;
            scope.spawn(move || read(bootstrap, partition, records));
        }
    });
    println!("read from the beginning: {}", reading.stop(total));

    cluster.assert_all_running();
    assert_memory(&cluster);
}

/// Prints every node's peak and asserts the limit.
pub(super) fn assert_memory(cluster: &Cluster) {
    let peaks = cluster.peak_memory_bytes();
    let text: Vec<String> = peaks.iter().map(|peak| format!("{} MiB", peak >> 20)).collect();
    println!("peak memory of the nodes: {}", text.join(", "));
    assert!(peaks.iter().all(|peak| *peak <= PEAK_BYTES_MAX), "a node needed more than {} MiB", PEAK_BYTES_MAX >> 20);
}

fn write(bootstrap: &str, partition: i32, records: usize) {
    let mut client = Client::new(bootstrap, PATIENCE);
    let mut next = 0;
    for turn in 0.. {
        if next == records {
            break;
        }
        let count = BATCH_RECORDS[turn % BATCH_RECORDS.len()].min(records - next);
        let mut builder = BatchBuilder::new(Compression::None);
        for number in next..next + count {
            builder.append(0, None, Some(&value(partition, number)), &[]).expect("a record of 1 KiB fits");
        }
        client.produce(TOPIC, partition, &builder.build(NO_PRODUCER).expect("a batch of 1 MiB fits"));
        next += count;
    }
}

/// Reads a partition as it grows, up to its last record.
fn read(bootstrap: &str, partition: i32, records: usize) {
    let mut client = Client::new(bootstrap, PATIENCE);
    let mut next = 0;
    while next < records {
        let mut bytes = client.fetch(TOPIC, partition, next as i64, 1 << 20);
        while let Ok(length) = BatchHeader::batch_bytes(&bytes)
            && length <= bytes.len()
        {
            let batch = BatchView::new(bytes.split_to(length)).expect("a broker sends whole batches");
            batch.validate_crc().expect("what was sent arrives");
            for record in batch.records(usize::MAX).expect("they are not compressed") {
                let record = record.expect("records are written well");
                assert_eq!(record.offset, next as i64, "offsets are dense");
                assert_eq!(record.value, Some(value(partition, next)), "{TOPIC}-{partition} at {next}");
                next += 1;
            }
        }
    }
}

/// Differs from record to record, and at both ends.
fn value(partition: i32, number: usize) -> Bytes {
    let word = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ partition as u64;
    Bytes::from(word.to_be_bytes().repeat(VALUE_BYTES / 8))
}
