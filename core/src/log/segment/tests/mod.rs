//! A partition's log on a simulated disk, against the plain list of its batches.

mod ahead;
mod crash;
mod damage;
mod disk;
mod format;
mod image;
mod memory;
mod reading;
mod repair;
mod restoring;
mod writing;

use bytes::Bytes;
use kauri_protocol::records::{self, Attributes, Compression, HEADER_BYTES, NO_PRODUCER};

use self::disk::Disk;
use super::*;
use crate::{
    ids::NodeId,
    io::{DiskAction, SegmentFile},
    rng::Stream,
};

const GROUP: GroupId = GroupId(7);
const KIB: usize = 1 << 10;
const CHUNK: u64 = file::CHUNK;
const CHUNK_BYTES: usize = CHUNK as usize;

fn settings(segment_bytes: u64) -> LogSettings {
    LogSettings { group: GROUP, start: Offset(0), segment_bytes, prove_chunks: 1 }
}

fn log_file(base: i64) -> FileName {
    FileName::Segment { group: GROUP, base: Offset(base), kind: SegmentFile::Log }
}

fn checksum_file(base: i64) -> FileName {
    FileName::Segment { group: GROUP, base: Offset(base), kind: SegmentFile::Checksums }
}

fn rng(seed: u64) -> Stream {
    Stream::new(seed, NodeId(0), "segment test", 0)
}

/// A batch of exactly `bytes` bytes. The body is noise, declared as compressed.
fn batch(base_offset: Offset, records: u32, bytes: usize, max_timestamp: i64, rng: &mut Stream) -> AppliedBatch {
    let header = records::BatchHeader {
        base_offset: base_offset.0,
        batch_bytes: bytes,
        partition_leader_epoch: 3,
        checksum: 0,
        attributes: Attributes(0).with_compression(Compression::Zstd),
        last_offset_delta: records as i32 - 1,
        base_timestamp: max_timestamp,
        max_timestamp,
        producer: NO_PRODUCER,
        record_count: records as i32,
    };
    let mut body = vec![0u8; bytes - HEADER_BYTES];
    body.chunks_mut(8).for_each(|part| part.copy_from_slice(&rng.next_u64().to_le_bytes()[..part.len()]));
    AppliedBatch {
        header: Bytes::copy_from_slice(&header.encode()),
        body: Bytes::from(body),
        base_offset,
        records,
        max_timestamp,
        leader_epoch: LeaderEpoch(3),
        allocation_bytes: bytes,
    }
}

/// Batches of these sizes, one behind the other, with one to five records each.
fn batches_of(sizes: &[usize], seed: u64) -> Vec<AppliedBatch> {
    let mut rng = rng(seed);
    let mut next = Offset(0);
    let mut batches = Vec::new();
    for &size in sizes {
        let records = 1 + rng.below(5) as u32;
        let timestamp = 1_000 + rng.below(500) as i64;
        batches.push(batch(next, records, size, timestamp, &mut rng));
        next = next.plus(records);
    }
    batches
}

fn whole(batch: &AppliedBatch) -> Vec<u8> {
    [&batch.header[..], &batch.body[..]].concat()
}

fn concatenated(batches: &[AppliedBatch]) -> Vec<u8> {
    batches.iter().flat_map(whole).collect()
}

fn bytes_of(batches: &Batches) -> Vec<u8> {
    batches.slices.concat()
}

/// A log, its disk, and the operations between them.
struct World {
    disk: Disk,
    rng: Stream,
    ids: OperationIds,
    effects: Effects,
    log: PartitionLog,
}

impl World {
    fn new(segment_bytes: u64, seed: u64) -> Self {
        Self::start(Disk::default(), segment_bytes, seed).expect("an empty disk has no damage")
    }

    /// A start of the process on this disk.
    fn start(mut disk: Disk, segment_bytes: u64, seed: u64) -> Result<Self, Exit> {
        let log = recover(&mut disk, segment_bytes, seed)?;
        let (ids, effects) = Default::default();
        Ok(Self { disk, rng: rng(seed), ids, effects, log })
    }

    /// A start of the process on this disk, from an image.
    fn restore(mut disk: Disk, segment_bytes: u64, image: LogImage, seed: u64) -> Result<Self, Exit> {
        let log = restore(&mut disk, segment_bytes, image, seed)?;
        let (ids, effects) = Default::default();
        Ok(Self { disk, rng: rng(seed), ids, effects, log })
    }

    fn append(&mut self, batch: &AppliedBatch) {
        self.log.append(Monotonic(self.log.next_offset().0 as u64), batch.clone()).expect("no damage");
    }

    fn append_all(&mut self, batches: &[AppliedBatch]) {
        batches.iter().for_each(|batch| self.append(batch));
    }

    fn poll(&mut self, budget: usize) {
        self.log.poll(budget, &mut self.effects, &mut self.ids);
        assert!(self.effects.wal.is_empty());
        self.disk.issue(self.effects.disk.drain(..));
    }

    /// Lets one operation complete, if one is in flight.
    fn step(&mut self) -> Result<bool, Exit> {
        if self.disk.pending() == 0 {
            return Ok(false);
        }
        let (id, result) = self.disk.step(&mut self.rng);
        assert!(self.log.handle(id, result)?, "all operations are the log's");
        self.poll(0);
        Ok(true)
    }

    /// Writes everything, and waits for it and its proof.
    fn flush(&mut self) {
        loop {
            self.poll(usize::MAX);
            if !self.step().expect("the disk works") {
                break;
            }
        }
        assert_eq!(self.log.unsynced_bytes(), 0);
    }

    /// Reads, from memory or disk, waiting for the disk.
    fn read(&mut self, read: Read) -> Result<Batches, ReadError> {
        let result = self.log.read(read);
        Ok(self.finish(result)?.expect("something is below the upper bound"))
    }

    fn finish(&mut self, mut result: ReadResult) -> Result<Option<Batches>, ReadError> {
        for _ in 0..100 {
            match result {
                ReadResult::Ready(batches) => return Ok(Some(batches)),
                ReadResult::Empty => return Ok(None),
                ReadResult::OutOfRange => panic!("the offset is in range"),
                ReadResult::Damaged => panic!("it is known to be damaged"),
                ReadResult::NeedsDisk(plan) => {
                    let outcome = self.disk.read(plan.action());
                    result = self.log.complete_read(plan, outcome)?;
                }
            }
        }
        panic!("a read ends");
    }

    fn read_from(&mut self, from: Offset) -> Read {
        Read { from, upper: self.log.next_offset(), max_bytes: 1 << 30, at_least_one: true }
    }

    /// The whole log, as a reader from its start sees it.
    fn read_all(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut all = Vec::new();
        let mut from = self.log.log_start();
        while from < self.log.next_offset() {
            let read = self.read_from(from);
            let batches = self.read(read)?;
            all.extend(bytes_of(&batches));
            from = batches.next_offset.expect("a read returns at least one batch");
        }
        Ok(all)
    }
}

fn recover(disk: &mut Disk, segment_bytes: u64, seed: u64) -> Result<PartitionLog, Exit> {
    restore(disk, segment_bytes, LogImage::empty(Offset(0)), seed)
}

fn restore(disk: &mut Disk, segment_bytes: u64, image: LogImage, seed: u64) -> Result<PartitionLog, Exit> {
    let mut rng = rng(seed);
    let mut ids = OperationIds::default();
    let mut effects = Effects::default();
    let mut recovery = PartitionLog::restore(settings(segment_bytes), image);
    loop {
        recovery.poll(&mut effects, &mut ids);
        disk.issue(effects.disk.drain(..));
        if let Some(log) = recovery.finish(Monotonic(0))? {
            assert_eq!(disk.pending(), 0);
            return Ok(log);
        }
        let (id, result) = disk.step(&mut rng);
        assert!(recovery.handle(id, result)?);
    }
}

impl PartitionLog {
    /// From now on, so many entries are worth a write.
    fn prove_chunks(&mut self, chunks: usize) {
        self.settings.prove_chunks = chunks;
        self.writeback.prove_chunks = chunks;
    }
}
