//! The applied batches of one partition: appended, written behind to segments, read from memory or disk.
//!
//! Invariant: the bytes of a partition are the concatenation of its segments, append-only, and equal on every replica.
//! What is not synced is in memory; what a side file proves is on disk and never written again. After a start the
//! write-ahead log leads to the same appends in the same order: where a side file proves the bytes they are compared,
//! neither written nor kept. The sparse index is derived on the way, so it is not persisted.
//!
//! Every disk operation is an effect; the caller says by a budget when to begin a write. Does not know which offsets
//! are committed (reads name an upper bound), decodes no records, and removes no segment before the whole partition.

mod batch;
mod checksums;
mod content;
mod damage;
mod file;
mod index;
mod operations;
mod position;
mod pressure;
mod read;
mod recovery;
mod removal;
mod selection;
mod tail;
mod writeback;

use std::collections::VecDeque;

use bytes::Bytes;
use kauri_protocol::records::HEADER_BYTES;

use self::{
    batch::BatchHeader,
    content::ContentCrc,
    file::Segment,
    position::Position,
    read::{Goal, Scan},
    recovery::ProvenSegment,
    selection::{Allowance, Selection},
    tail::{Arrival, Tail},
    writeback::Writeback,
};
pub use self::{
    content::Content,
    damage::{Damage, DamageKind, ReadError},
    pressure::fewest_to_write,
    read::ReadPlan,
    recovery::LogRecovery,
    removal::Removal,
    selection::Batches,
};
use crate::{
    ids::{GroupId, LeaderEpoch, Offset, OperationId},
    io::{Directory, DiskError, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::{BATCH_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_FLUSH_BYTES},
    time::Monotonic,
};

/// What is fixed while a log is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    pub group: GroupId,
    /// The offset of the first batch that will be appended.
    pub start: Offset,
    /// A segment rolls before a batch would take it past this size.
    pub segment_bytes: u64,
}

/// One applied batch. The fields repeat what the header says; a difference is a broken invariant.
#[derive(Clone, Debug)]
pub struct AppliedBatch {
    /// The header's [`HEADER_BYTES`], base offset and leader epoch already set.
    pub header: Bytes,
    /// Everything behind the header.
    pub body: Bytes,
    pub base_offset: Offset,
    /// Offsets the batch takes: last offset delta + 1.
    pub records: u32,
    /// Milliseconds since 1970.
    pub max_timestamp: i64,
    pub leader_epoch: LeaderEpoch,
    /// Bytes that `header` and `body` keep alive, for example the frame they came in; what is charged for a batch that
    /// is shared and not copied.
    pub allocation_bytes: usize,
}

/// A fetch from one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub from: Offset,
    /// High watermark or last stable offset: no batch that ends behind it is returned.
    pub upper: Offset,
    pub max_bytes: usize,
    /// The first batch is returned even if it is larger than `max_bytes`.
    pub at_least_one: bool,
}

#[derive(Debug)]
#[must_use]
pub enum ReadResult {
    /// The first batch holds the offset that was asked for.
    Ready(Batches),
    /// Carry out the plan, then call [`PartitionLog::complete_read`].
    NeedsDisk(ReadPlan),
    /// There is nothing (yet) below the upper bound.
    Empty,
    /// Below the log start offset, or above the next offset.
    OutOfRange,
}

/// The applied batches of one partition. [`PartitionLog::poll`] must be called after each `handle` that returned true,
/// and whenever the caller wants bytes written.
#[derive(Debug)]
pub struct PartitionLog {
    settings: LogSettings,
    /// In order of their offsets; the last one is appended to.
    segments: Vec<Segment>,
    /// Proven segments that the write-ahead log has not led to yet.
    proven: VecDeque<ProvenSegment>,
    tail: Tail,
    writeback: Writeback,
    /// Plans that were not given back.
    reads: usize,
    log_start: Offset,
    next_offset: Offset,
    /// Of all bytes up to the last full chunk of the last segment.
    content_crc: ContentCrc,
}

impl PartitionLog {
    /// A new partition, without files.
    pub fn new(settings: LogSettings) -> Self {
        Self::with_proven(settings, VecDeque::new())
    }

    /// A partition that may have files. The log that it yields is empty, whatever is on disk: the write-ahead log fills
    /// it again.
    pub fn recover(settings: LogSettings) -> LogRecovery {
        LogRecovery::new(settings)
    }

    fn with_proven(settings: LogSettings, proven: VecDeque<ProvenSegment>) -> Self {
        Self {
            settings: LogSettings { segment_bytes: settings.segment_bytes.min(SEGMENT_BYTES_MAX), ..settings },
            segments: Vec::new(),
            tail: Tail::default(),
            writeback: Writeback::new(settings.group, !proven.is_empty()),
            proven,
            reads: 0,
            log_start: settings.start,
            next_offset: settings.start,
            content_crc: ContentCrc::default(),
        }
    }

    pub fn group(&self) -> GroupId {
        self.settings.group
    }

    /// The first offset that may be read.
    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The offset of the next batch.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// Bytes of all batches.
    pub fn bytes(&self) -> u64 {
        self.end().0
    }

    /// Bytes of memory that batches keep alive here.
    pub fn memory_bytes(&self) -> usize {
        self.tail.bytes()
    }

    /// Bytes that are neither on disk nor on their way there.
    pub fn unwritten_bytes(&self) -> u64 {
        self.unsynced_bytes().saturating_sub(self.writeback.writing())
    }

    /// Bytes that are not known to be on disk.
    pub fn unsynced_bytes(&self) -> u64 {
        self.end().0.saturating_sub(self.writeback.synced().0)
    }

    /// When the oldest byte that is not on disk was appended (or an earlier one that was read or written with it).
    pub fn dirty_since(&self) -> Option<Monotonic> {
        if self.unsynced_bytes() == 0 { None } else { self.tail.since(self.writeback.synced()) }
    }

    /// Enough waits to be worth a sync of its own.
    pub fn wants_flush(&self) -> bool {
        self.unwritten_bytes() >= SEGMENT_FLUSH_BYTES as u64
    }

    /// The last write found no room. A budget tries again.
    pub fn disk_full(&self) -> bool {
        self.writeback.disk_full()
    }

    /// What replicas agree on at equal next offset.
    pub fn content(&self) -> Content {
        let crc = self.segments.last().map_or(self.content_crc, |last| self.content_crc.with_rest(last.rest()));
        Content { next_offset: self.next_offset, bytes: self.bytes(), crc: crc.value() }
    }

    /// The segment files with the length that is proven for each: what no crash can take away.
    pub fn files(&self) -> impl Iterator<Item = (FileName, u64)> {
        self.segments.iter().map(|segment| (segment.log_file(), segment.proven_bytes()))
    }

    /// Adds a batch behind the last one. Damage means that what was proven before a restart differs from what the
    /// write-ahead log leads to; the log must not be used any more then.
    pub fn append(&mut self, at: Monotonic, batch: AppliedBatch) -> Result<(), Damage> {
        self.check(&batch);
        let bytes = batch.header.len() + batch.body.len();
        let last_offset = Offset(batch.base_offset.0 + i64::from(batch.records) - 1);
        if self
            .segments
            .last()
            .is_none_or(|last| last.ends_before(bytes as u64, last_offset, self.settings.segment_bytes))
        {
            self.roll()?;
        }
        let position = self.end();
        let next_offset = batch.base_offset.plus(batch.records);
        let segment = self.segments.last_mut().expect("there is one after a roll");
        let slices = [&batch.header[..], &batch.body[..]];
        segment.append(slices, batch.base_offset, next_offset, batch.max_timestamp, &mut self.content_crc)?;
        self.next_offset = next_offset;
        // What is proven is read from disk if anybody wants it.
        if self.end() > self.writeback.synced() || self.tail.first_offset().is_some() {
            let AppliedBatch { header, body, base_offset, allocation_bytes, .. } = batch;
            self.tail.append(Arrival { header, body, allocation_bytes, position, base_offset, at });
        }
        Ok(())
    }

    fn check(&self, batch: &AppliedBatch) {
        let header = BatchHeader::read(&batch.header).ok().flatten().expect("an applied batch has a header");
        assert_eq!(batch.header.len(), HEADER_BYTES, "the header is a slice of its own");
        let said = BatchHeader {
            base_offset: batch.base_offset,
            next_offset: batch.base_offset.plus(batch.records),
            leader_epoch: batch.leader_epoch,
            max_timestamp: batch.max_timestamp,
            bytes: batch.header.len() + batch.body.len(),
        };
        assert_eq!(header, said, "the header says what the caller says");
        assert_eq!(batch.base_offset, self.next_offset, "offsets are dense");
        assert!(header.bytes <= BATCH_BYTES_MAX, "larger batches are refused before they are proposed");
    }

    /// Begins the next segment: the one on disk if there is one, else a new one.
    fn roll(&mut self) -> Result<(), Damage> {
        let start = self.end();
        let (group, base) = (self.settings.group, self.next_offset);
        if let Some(last) = self.segments.last_mut() {
            last.rolled = true;
            self.content_crc = self.content_crc.with_rest(last.rest());
        }
        self.tail.seal();
        let segment = match self.proven.pop_front() {
            None => Segment::new(group, base, start),
            Some(proven) => {
                let segment = Segment::proven(group, proven.base, start, proven.proof);
                if proven.base != base {
                    let kind = DamageKind::SegmentOrder { expected: base.0 };
                    return Err(Damage { file: segment.log_file(), offset: 0, kind });
                }
                self.writeback.adopt(segment.disk_end());
                segment
            }
        };
        self.segments.push(segment);
        Ok(())
    }

    fn end(&self) -> Position {
        self.segments.last().map_or(Position(0), Segment::end)
    }

    /// Moves the log start offset. Files below it stay until segments can be removed one by one.
    pub fn advance_log_start(&mut self, offset: Offset) {
        assert!(offset <= self.next_offset, "the log starts at or before its end");
        self.log_start = self.log_start.max(offset);
    }

    /// Starts a write of about `budget` bytes unless one is under way, and whatever follows earlier writes (which
    /// needs no budget). Returns the bytes of the write.
    pub fn poll(&mut self, budget: usize, effects: &mut Effects, ids: &mut OperationIds) -> u64 {
        self.writeback.poll(&self.segments, &mut self.tail, budget, effects, ids)
    }

    /// Returns false if the operation is not this log's.
    pub fn handle(&mut self, id: OperationId, result: Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        self.writeback.handle(&mut self.segments, id, result)
    }

    /// Whether a write or sync is in flight.
    pub fn is_writing(&self) -> bool {
        self.writeback.in_flight()
    }

    /// Frees the oldest batches that are on disk until at most `keep` bytes of memory are held.
    pub fn release(&mut self, keep: usize) {
        self.tail.release(self.writeback.synced(), keep);
    }

    /// Batches from the one that holds `read.from` on: from memory without copying, or by a plan.
    pub fn read(&mut self, read: Read) -> ReadResult {
        if read.from < self.log_start || read.from > self.next_offset {
            return ReadResult::OutOfRange;
        }
        let Read { from, upper, max_bytes, at_least_one } = read;
        self.look_for(from, Goal::Batches(Allowance { upper: upper.min(self.next_offset), max_bytes, at_least_one }))
    }

    /// The first batch at or behind `from`, wholly below `upper`, whose header names a timestamp of at least
    /// `timestamp`: exactly that batch, or [`ReadResult::Empty`] if there is none. If, against its header, no record
    /// of it is that young, look again from the offset behind it.
    pub fn find_timestamp(&mut self, from: Offset, upper: Offset, timestamp: i64) -> ReadResult {
        let from = from.max(self.log_start);
        self.look_for(from, Goal::Timestamp { timestamp, upper: upper.min(self.next_offset) })
    }

    /// The largest timestamp, and the base offset of the first batch that has it.
    pub fn max_timestamp(&self) -> Option<(i64, Offset)> {
        let readable = self.segments.iter().filter(|segment| segment.next_offset > self.log_start);
        readable
            .filter_map(|segment| segment.max_timestamp)
            .reduce(|best, next| if next.0 > best.0 { next } else { best })
    }

    fn look_for(&mut self, from: Offset, goal: Goal) -> ReadResult {
        match goal {
            Goal::Batches(allowance) => self.look_for_batches(from, allowance),
            Goal::Timestamp { timestamp, upper } => self.look_for_timestamp(from, timestamp, upper),
        }
    }

    fn look_for_batches(&mut self, from: Offset, allowance: Allowance) -> ReadResult {
        if from >= allowance.upper {
            return ReadResult::Empty;
        }
        if self.tail.first_offset().is_some_and(|first| from >= first) {
            let mut selection = Selection::new(allowance);
            self.tail.select(from, &mut selection);
            return ReadResult::Ready(selection.finish());
        }
        let segment = &self.segments[self.segment_of(from)];
        let entry = segment.index.at_or_before(segment.base, from);
        self.reads += 1;
        ReadResult::NeedsDisk(ReadPlan::new(segment, entry.place, 0, from, Goal::Batches(allowance)))
    }

    fn look_for_timestamp(&mut self, from: Offset, timestamp: i64, upper: Offset) -> ReadResult {
        if from >= upper {
            return ReadResult::Empty;
        }
        let later = &self.segments[self.segment_of(from)..];
        let candidate = later.iter().find_map(|segment| {
            segment.max_timestamp.filter(|(largest, _)| *largest >= timestamp)?;
            Some((segment, segment.index.timestamp(segment.base, from, timestamp)?))
        });
        let Some((segment, entry)) = candidate else { return ReadResult::Empty };
        let from = from.max(entry.offset);
        if from >= upper {
            return ReadResult::Empty;
        }
        if self.tail.first_offset().is_none_or(|first| from < first) {
            self.reads += 1;
            return ReadResult::NeedsDisk(ReadPlan::new(
                segment,
                entry.place,
                0,
                from,
                Goal::Timestamp { timestamp, upper },
            ));
        }
        let Some(offset) = self.tail.find_timestamp(from, upper, timestamp) else { return ReadResult::Empty };
        let mut selection = Selection::new(Allowance::one_batch(upper));
        self.tail.select(offset, &mut selection);
        ReadResult::Ready(selection.finish())
    }

    /// The segment that holds an offset between the log's first and its next one.
    fn segment_of(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base <= offset).saturating_sub(1)
    }

    /// Makes batches of what a planned read returned. `NeedsDisk` if the batch that is looked for is larger than the
    /// read was.
    pub fn complete_read(
        &mut self,
        plan: ReadPlan,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<ReadResult, ReadError> {
        self.cancel(&plan);
        match plan.scan(result)? {
            Scan::Found(batches) => Ok(ReadResult::Ready(batches)),
            Scan::Passed { next } => Ok(self.look_for(next, plan.goal)),
            Scan::Short { next, .. } if self.tail.first_offset().is_some_and(|first| next >= first) => {
                Ok(self.look_for(next, plan.goal))
            }
            Scan::Short { place, needed, next } => {
                let segment = &self.segments[self.segment_of(plan.base)];
                assert_eq!(segment.base, plan.base, "a segment stays while it is read");
                if place + needed as u64 > segment.disk_bytes {
                    return Err(Damage { file: plan.file, offset: place, kind: DamageKind::NoBatch }.into());
                }
                self.reads += 1;
                Ok(ReadResult::NeedsDisk(ReadPlan::new(segment, place, needed, next, plan.goal)))
            }
        }
    }

    /// Gives back a plan whose read was not carried out, or whose result nobody wants.
    pub fn cancel_read(&mut self, plan: ReadPlan) {
        self.cancel(&plan);
    }

    fn cancel(&mut self, plan: &ReadPlan) {
        assert_eq!(plan.file.directory(), Directory::Group(self.settings.group), "a plan returns to its log");
        self.reads = self.reads.checked_sub(1).expect("every plan is given back once");
    }

    /// Ends the partition: removes its files once everything that uses them is over.
    pub fn remove(self) -> Removal {
        Removal::after(self.settings.group, self.writeback, self.reads)
    }
}

#[cfg(test)]
mod tests;
