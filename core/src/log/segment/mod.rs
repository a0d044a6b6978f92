//! The applied batches of one partition: appended, written behind to segments, read from memory or disk.
//!
//! Invariant: the bytes of a partition are the concatenation of its segments, append-only, and equal on every replica.
//! What is not synced is in memory; what a side file or an image proves is on disk and never written again. After a
//! start a log is restored from its image, and the write-ahead log leads to the same further appends in the same order:
//! where a side file proves the bytes they are compared, neither written nor kept.
//!
//! Every disk operation is an effect; the caller says by a budget when to begin a write. Does not know which offsets
//! are committed (reads name an upper bound), decodes no records, and removes no segment before the whole partition.

mod ahead;
mod batch;
mod checksums;
mod chunks;
mod content;
mod damage;
mod file;
mod image;
mod index;
mod marks;
mod mending;
mod merge;
mod operations;
mod position;
mod pressure;
mod read;
mod rebuild;
mod recovery;
mod removal;
mod repair;
mod scrub;
mod selection;
mod tail;
mod verify;
mod writeback;

use std::collections::VecDeque;

use bytes::Bytes;
use kauri_protocol::records::HEADER_BYTES;

pub use self::{
    ahead::AheadError,
    chunks::{Care, ChunkPlan, ChunkRead, ServePlan, Serving},
    content::Content,
    damage::{Damage, DamageKind, ReadError, RecoveryError},
    image::{LogImage, LogImageError},
    pressure::{SyncPace, Unwritten, Writes, fewest_to_write, writes_due},
    read::ReadPlan,
    recovery::LogRecovery,
    removal::Removal,
    repair::{Look, Mended, Want},
    scrub::{ScrubCursor, ScrubPlan, Scrubbed, SegmentDigest},
    selection::Batches,
    verify::SegmentCheck,
};
use self::{
    ahead::Behind,
    batch::BatchHeader,
    content::ContentCrc,
    file::{Segment, chunks_in},
    mending::Mending,
    position::Position,
    read::{Goal, Scan},
    rebuild::Rebuild,
    recovery::ProvenSegment,
    selection::{Allowance, Selection},
    tail::{Arrival, Tail},
    writeback::Writeback,
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
    /// Entries are written to a side file when so many wait, or when they close it.
    pub prove_chunks: usize,
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
    /// On disk, and known to be damaged: to be tried again when it is repaired.
    Damaged,
}

/// Why the batch in which a write ended is in memory.
const UNSYNCED: &str = "what is not on disk is in memory";

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
    mending: Mending,
    /// Of lost entries of a side file.
    rebuild: Option<Rebuild>,
    /// Plans that were not given back.
    reads: usize,
    log_start: Offset,
    next_offset: Offset,
    /// Of all bytes up to the last full chunk of the last segment.
    content_crc: ContentCrc,
    /// The same up to where the last image was taken.
    imaged: Imaged,
    /// The state machine, if it is behind the last batch.
    behind: Option<Behind>,
}

/// The checksum of everything up to a place between two chunks of a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Imaged {
    segment: usize,
    chunks: usize,
    crc: ContentCrc,
}

impl PartitionLog {
    /// A new partition, without files.
    pub fn new(settings: LogSettings) -> Self {
        Self::with_segments(settings, &LogImage::empty(settings.start), Vec::new(), VecDeque::new())
    }

    /// A partition that may have files, of which no image is known. The log that it yields is empty, whatever is on
    /// disk: the write-ahead log fills it again.
    pub fn recover(settings: LogSettings) -> LogRecovery {
        Self::restore(settings, LogImage::empty(settings.start))
    }

    /// A partition of which an image is known. The log that it yields holds what the image does; the write-ahead log
    /// continues it. Whoever restores an image first makes sure that none that was taken later will ever be restored,
    /// because files are cut to what this one and the side files prove.
    pub fn restore(settings: LogSettings, image: LogImage) -> LogRecovery {
        LogRecovery::new(settings, image)
    }

    fn with_segments(
        settings: LogSettings,
        image: &LogImage,
        segments: Vec<Segment>,
        proven: VecDeque<ProvenSegment>,
    ) -> Self {
        let synced = segments.last().map_or(Position(0), Segment::disk_end);
        let has_files = !segments.is_empty() || !proven.is_empty();
        let imaged = Imaged {
            segment: segments.len().saturating_sub(1),
            chunks: segments.last().map_or(0, |last| chunks_in(last.bytes)),
            crc: image.content_crc,
        };
        Self {
            settings: LogSettings { segment_bytes: settings.segment_bytes.min(SEGMENT_BYTES_MAX), ..settings },
            behind: image.applied.map(|applied| Behind::restored(applied, &segments)),
            segments,
            tail: Tail::default(),
            writeback: Writeback::new(&settings, synced, has_files),
            proven,
            mending: Mending::default(),
            rebuild: None,
            reads: 0,
            log_start: image.log_start,
            next_offset: image.next_offset,
            content_crc: image.content_crc,
            imaged,
        }
    }

    /// Appends the batches that an image carries.
    fn append_tail(&mut self, at: Monotonic, image: &LogImage) -> Result<(), Damage> {
        let last = self.segments.last().map(Segment::checksum_file);
        let mut on_disk = image.overlap as usize;
        for (header, bytes) in image.tail_batches() {
            self.append_from(at, ahead::applied(header, &bytes), std::mem::take(&mut on_disk))?;
            // Segments may begin elsewhere now, so only here it is known where the state machine is in them.
            if image.applied.is_some_and(|applied| applied.next_offset == self.next_offset) {
                self.behind = Some(Behind::at_end(&self.segments, self.next_offset));
            }
        }
        match last {
            // The one part of an image's content that was read from a side file is the end of a closed segment.
            Some(file) if self.content() != image.content => {
                Err(Damage::whole(file, DamageKind::ChecksumContradiction))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What a checkpoint keeps of this log. No I/O, no copy of a batch.
    pub fn image(&mut self) -> LogImage {
        let end = self.end();
        let synced = self.writeback.synced().min(end);
        let (begin, next_offset) =
            if synced == end { (end, self.next_offset) } else { self.tail.batch_at(synced).expect(UNSYNCED) };
        let held = if synced == Position(0) {
            &[][..]
        } else {
            &self.segments[..=self.segments.partition_point(|segment| segment.end() < synced)]
        };
        let segments = held.iter().map(|segment| segment.image(segment.bytes.min(synced - segment.start))).collect();
        if let Some(last) = held.last() {
            self.imaged.advance(held, chunks_in(last.bytes.min(synced - last.start)));
        }
        LogImage {
            log_start: self.log_start,
            next_offset,
            content_crc: self.imaged.crc,
            content: self.content(),
            segments,
            overlap: u32::try_from(synced - begin).expect("less than a batch"),
            applied: self.behind.map(|behind| behind.image(&self.segments)),
            tail: self.tail.slices(begin..end),
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

    /// What waits to be written.
    pub fn unwritten(&self) -> Unwritten {
        Unwritten { group: self.group(), bytes: self.unwritten_bytes(), since: self.dirty_since() }
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

    /// Adds the next batch that the state machine accepted, or compares it with what was appended ahead. Damage means
    /// that what is here differs from what the write-ahead log leads to; the log must not be used any more then.
    pub fn append(&mut self, at: Monotonic, batch: AppliedBatch) -> Result<(), Damage> {
        check(&batch);
        assert_eq!(batch.base_offset, self.applied_offset(), "offsets are dense");
        match self.behind {
            Some(behind) => self.compare(behind, &batch),
            None => self.append_from(at, batch, 0),
        }
    }

    /// Adds a batch behind the last one. Its first `present` bytes are in the last segment already.
    fn append_from(&mut self, at: Monotonic, batch: AppliedBatch, present: usize) -> Result<(), Damage> {
        assert_eq!(batch.base_offset, self.next_offset, "offsets are dense");
        let bytes = batch.header.len() + batch.body.len();
        let last_offset = Offset(batch.base_offset.0 + i64::from(batch.records) - 1);
        let rolls = |last: &Segment| last.ends_before(bytes as u64, last_offset, self.settings.segment_bytes);
        if present == 0 && self.segments.last().is_none_or(rolls) {
            self.roll()?;
        }
        let position = self.end() - present as u64;
        let next_offset = batch.base_offset.plus(batch.records);
        let segment = self.segments.last_mut().expect("there is one after a roll");
        let slices = [&batch.header[..], &batch.body[..]];
        segment.append(slices, present, batch.base_offset, next_offset, batch.max_timestamp, &mut self.content_crc)?;
        self.next_offset = next_offset;
        // What is proven is read from disk if anybody wants it.
        if self.end() > self.writeback.synced() || self.tail.first_offset().is_some() {
            let AppliedBatch { header, body, base_offset, allocation_bytes, .. } = batch;
            self.tail.append(Arrival { header, body, allocation_bytes, position, base_offset, at });
        }
        Ok(())
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
                    return Err(Damage::whole(segment.log_file(), kind));
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
        let bytes = self.writeback.poll(&self.segments, &mut self.tail, budget, effects, ids);
        self.mending.poll(self.settings.group, &self.segments, effects, ids);
        bytes
    }

    /// Returns false if the operation is not this log's.
    pub fn handle(&mut self, id: OperationId, result: Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        if self.mending.owns(id) {
            self.mending.handle(&mut self.segments, id, result)?;
            return Ok(true);
        }
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

    /// Whole batches from the one that holds `from` on, whether readers may see them or not: for a state transfer or a
    /// repair. At least one, and no more than `max_bytes` beyond that. Ends with [`PartitionLog::next_offset`].
    pub fn read_raw(&mut self, from: Offset, max_bytes: usize) -> ReadResult {
        let first = self.segments.first().map_or(self.settings.start, |segment| segment.base);
        if from < first || from > self.next_offset {
            return ReadResult::OutOfRange;
        }
        let allowance = Allowance { upper: self.next_offset, max_bytes, at_least_one: true };
        self.look_for(from, Goal::Batches(allowance))
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
        let number = self.segment_of(from);
        let segment = &self.segments[number];
        let goal = Goal::Batches(allowance);
        if !segment.known {
            return self.plan_side_file(number, from, goal);
        }
        let entry = segment.index.at_or_before(segment.base, from);
        self.plan(number, entry.place, 0, from, goal)
    }

    fn plan_side_file(&mut self, segment: usize, from: Offset, goal: Goal) -> ReadResult {
        self.reads += 1;
        ReadResult::NeedsDisk(ReadPlan::of_side_file(&self.segments[segment], from, goal))
    }

    fn plan(&mut self, segment: usize, place: u64, needed: usize, from: Offset, goal: Goal) -> ReadResult {
        match ReadPlan::new(&self.segments[segment], place, needed, from, goal) {
            Some(plan) => {
                self.reads += 1;
                ReadResult::NeedsDisk(plan)
            }
            None => ReadResult::Damaged,
        }
    }

    fn look_for_timestamp(&mut self, from: Offset, timestamp: i64, upper: Offset) -> ReadResult {
        if from >= upper {
            return ReadResult::Empty;
        }
        let goal = Goal::Timestamp { timestamp, upper };
        let later = self.segments.iter().enumerate().skip(self.segment_of(from));
        let later = later.take_while(|(_, segment)| segment.base < upper);
        let mut candidates =
            later.filter(|(_, segment)| segment.max_timestamp.is_some_and(|(most, _)| most >= timestamp));
        let candidate = candidates.find_map(|(number, segment)| {
            let entry = segment.known.then(|| segment.index.timestamp(segment.base, from, timestamp));
            // Of a segment that is not known it takes a read to say.
            let is_certain = segment.marks.first_unknown().is_none();
            (!is_certain || entry.is_none_or(|entry| entry.is_some())).then(|| (number, entry.flatten(), is_certain))
        });
        let Some((number, entry, is_certain)) = candidate else { return ReadResult::Empty };
        if !is_certain {
            // The timestamps of some of its batches are lost.
            return ReadResult::Damaged;
        }
        let Some(entry) = entry else { return self.plan_side_file(number, from, goal) };
        let from = from.max(entry.offset);
        if from >= upper {
            return ReadResult::Empty;
        }
        if self.tail.first_offset().is_none_or(|first| from < first) {
            return self.plan(number, entry.place, 0, from, goal);
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
        self.given_back(plan.file);
        let scanned = plan.scan(result).inspect_err(|error| self.mark_unread(&plan, error))?;
        match scanned {
            Scan::Found(batches) => Ok(ReadResult::Ready(batches)),
            Scan::Learnt(found) => {
                let segment = self.segment_of(plan.base);
                self.segments[segment].learn(&found);
                Ok(self.look_for(plan.from, plan.goal))
            }
            Scan::Passed { next } => Ok(self.look_for(next, plan.goal)),
            Scan::Short { next, .. } if self.tail.first_offset().is_some_and(|first| next >= first) => {
                Ok(self.look_for(next, plan.goal))
            }
            Scan::Short { place, needed, next } => {
                let number = self.segment_of(plan.base);
                let segment = &self.segments[number];
                assert_eq!(segment.base, plan.base, "a segment stays while it is read");
                if place + needed as u64 > segment.disk_bytes {
                    return Err(plan.no_batch(place).into());
                }
                Ok(self.plan(number, place, needed, next, plan.goal))
            }
        }
    }

    /// Gives back a plan whose read was not carried out, or whose result nobody wants.
    pub fn cancel_read(&mut self, plan: ReadPlan) {
        self.given_back(plan.file);
    }

    fn given_back(&mut self, file: FileName) {
        assert_eq!(file.directory(), Directory::Group(self.settings.group), "a plan returns to its log");
        self.reads = self.reads.checked_sub(1).expect("every plan is given back once");
    }

    /// Ends the partition: removes its files once everything that uses them is over.
    pub fn remove(self) -> Removal {
        Removal::after(self.settings.group, self.writeback, self.mending, self.reads)
    }
}

impl Imaged {
    /// Goes on to a chunk of the last of `segments`.
    fn advance(&mut self, segments: &[Segment], chunks: usize) {
        let last = segments.len() - 1;
        while self.segment < last {
            let segment = &segments[self.segment];
            self.append(segment, chunks_in(segment.bytes));
            *self = Self { segment: self.segment + 1, chunks: 0, crc: self.crc.with_rest(segment.rest()) };
        }
        self.append(&segments[last], chunks);
    }

    fn append(&mut self, segment: &Segment, chunks: usize) {
        (self.chunks..chunks).for_each(|chunk| self.crc.append_chunk(segment.chunk_crc(chunk)));
        self.chunks = self.chunks.max(chunks);
    }
}

fn check(batch: &AppliedBatch) {
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
    assert!(header.bytes <= BATCH_BYTES_MAX, "larger batches are refused before they are proposed");
}

#[cfg(test)]
mod tests;
