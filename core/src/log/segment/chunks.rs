//! Whole chunks, each verified by itself: for repair, for other replicas, and for whoever looks for damage.
//!
//! Invariant: a chunk is marked when its bytes do not have the checksum that was recorded for them, or cannot be read,
//! and the mark is taken away when they do; bytes that leave here were verified. What replicas ask each other for is
//! named by its position in the bytes of the partition, which are the same on all of them wherever segments begin.

use std::ops::Range;

use bytes::Bytes;

use super::{
    PartitionLog, ReadPlan, ReadResult,
    damage::{Damage, DamageKind, ReadError},
    file::{CHUNK, Segment, chunks_in},
    position::Position,
    repair,
};
use crate::{
    ids::Offset,
    io::{DiskAction, DiskError, DiskOutput, FileName},
    limits::SEGMENT_CHUNK_BYTES,
};

/// A read of whole chunks of one segment. Must be given back to its log, as a [`ReadPlan`].
#[derive(Debug)]
#[must_use]
pub struct ChunkPlan {
    file: FileName,
    base: Offset,
    chunks: Range<usize>,
    length: usize,
    /// `None`: not known.
    checksums: Vec<Option<u32>>,
}

/// What a [`ChunkPlan`] found.
#[derive(Debug)]
pub struct ChunkRead {
    pub base: Offset,
    pub chunks: Range<usize>,
    pub bytes: Bytes,
    /// The first chunk that is damaged, if one is; chunks of which no checksum is known count as neither.
    pub damage: Option<ReadError>,
}

/// A read for another replica.
#[derive(Debug)]
#[must_use]
pub enum ServePlan {
    /// Of the side file, without which nothing can be verified.
    Learn {
        plan: ReadPlan,
        position: u64,
        length: usize,
        care: Care,
    },
    Chunks {
        plan: ChunkPlan,
        position: u64,
        length: usize,
        care: Care,
    },
}

/// What another replica gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    Verified,
    /// Whatever can be read: who asks finds out what of it is sound.
    AsItIs,
}

/// Bytes for another replica.
#[derive(Debug)]
pub enum Serving {
    /// At least one, and fewer than were asked for where a segment ends.
    Ready(Vec<Bytes>),
    NeedsDisk(ServePlan),
    /// They are not here, or damaged here, too.
    Unavailable,
}

impl ChunkPlan {
    fn new(segment: &Segment, chunks: Range<usize>) -> Self {
        assert!(segment.known, "the side file is read first");
        let end = (chunks.end as u64 * CHUNK).min(segment.disk_bytes);
        let start = chunks.start as u64 * CHUNK;
        assert!(start < end, "the chunks are on disk");
        Self {
            file: segment.log_file(),
            base: segment.base,
            length: usize::try_from(end - start).expect("a read is bounded"),
            checksums: chunks.clone().map(|chunk| segment.checksum_of(chunk)).collect(),
            chunks,
        }
    }

    /// With checksums that were read just now, of a segment that may not be known.
    pub(super) fn with(segment: &Segment, chunks: Range<usize>, checksums: &[u32]) -> Self {
        let end = (chunks.end as u64 * CHUNK).min(segment.disk_bytes);
        Self {
            file: segment.log_file(),
            base: segment.base,
            length: usize::try_from(end - chunks.start as u64 * CHUNK).expect("a read is bounded"),
            checksums: checksums.iter().copied().map(Some).collect(),
            chunks,
        }
    }

    pub fn action(&self) -> DiskAction {
        let offset = self.chunks.start as u64 * CHUNK;
        DiskAction::Read { file: self.file, offset, length: self.length }
    }

    pub fn bytes(&self) -> usize {
        self.length
    }

    pub(super) fn file(&self) -> FileName {
        self.file
    }
}

impl ServePlan {
    pub fn action(&self) -> DiskAction {
        match self {
            Self::Learn { plan, .. } => plan.action(),
            Self::Chunks { plan, .. } => plan.action(),
        }
    }

    pub(super) fn file(&self) -> FileName {
        match self {
            Self::Learn { plan, .. } => plan.file,
            Self::Chunks { plan, .. } => plan.file,
        }
    }
}

impl Segment {
    /// Chunks on disk, the unfinished one included.
    pub(super) fn disk_chunks(&self) -> usize {
        chunks_in(self.disk_bytes + CHUNK - 1)
    }

    /// Bytes of a chunk that are on disk.
    pub(super) fn chunk_bytes(&self, chunk: usize) -> u64 {
        (self.disk_bytes - chunk as u64 * CHUNK).min(CHUNK)
    }

    /// The checksum of what is on disk of a chunk; `None` if it is lost.
    pub(super) fn checksum_of(&self, chunk: usize) -> Option<u32> {
        assert!(self.known, "the side file is read first");
        self.marks
            .knows_checksum(chunk)
            .then(|| if chunk < chunks_in(self.disk_bytes) { self.chunk_crc(chunk) } else { self.disk_rest_crc() })
    }
}

impl PartitionLog {
    /// Chunks of a segment that is known.
    pub(super) fn plan_chunks(&mut self, segment: usize, chunks: Range<usize>) -> ChunkPlan {
        self.reads += 1;
        ChunkPlan::new(&self.segments[segment], chunks)
    }

    /// Verifies what was read, and marks what is damaged.
    pub fn complete_chunks(&mut self, plan: ChunkPlan, result: Result<DiskOutput, DiskError>) -> ChunkRead {
        self.given_back(plan.file);
        let ChunkPlan { file, base, chunks, length, checksums } = plan;
        let number = self.segment_of(base);
        let segment = &mut self.segments[number];
        assert_eq!(segment.base, base, "a segment stays while it is read");
        let bytes = match result {
            Ok(DiskOutput::Read(bytes)) => bytes,
            Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
            Err(error) => {
                chunks.clone().for_each(|chunk| segment.marks.damage(chunk));
                let damage = Some(ReadError::Disk { file, error });
                return ChunkRead { base, chunks, bytes: Bytes::new(), damage };
            }
        };
        let mut damage = None;
        for (place, (chunk, checksum)) in chunks.clone().zip(checksums).enumerate() {
            let whole = place * SEGMENT_CHUNK_BYTES..((place + 1) * SEGMENT_CHUNK_BYTES).min(length);
            let found = bytes.get(whole);
            // Whoever repairs a chunk says when it is sound.
            if self.mending.is_mending(number, chunk) {
                continue;
            }
            match (found, checksum) {
                (Some(found), Some(checksum)) if crc32c::crc32c(found) == checksum => segment.marks.is_sound(chunk),
                (Some(_), None) => {}
                (found, _) => {
                    segment.marks.damage(chunk);
                    let kind = if found.is_some() { DamageKind::ChunkChecksum } else { DamageKind::ReadShort };
                    damage.get_or_insert(Damage::chunk(file, chunk, kind).into());
                }
            }
        }
        ChunkRead { base, chunks, bytes, damage }
    }

    /// Gives back a plan whose read was not carried out.
    pub fn cancel_chunks(&mut self, plan: ChunkPlan) {
        self.given_back(plan.file);
    }

    /// Bytes of the partition from a position on for another replica.
    pub fn serve(&mut self, position: u64, length: usize, care: Care) -> Serving {
        let at = Position(position);
        let number = self.segments.partition_point(|segment| segment.end() <= at);
        let Some(segment) = self.segments.get(number).filter(|_| length > 0) else { return Serving::Unavailable };
        let place = at - segment.start;
        if place >= segment.disk_bytes {
            let end = (at + length as u64).min(segment.end());
            return Serving::Ready(self.tail.slices(at..end));
        }
        if !segment.known {
            self.reads += 1;
            let segment = &self.segments[number];
            let plan = ReadPlan::to_learn(segment);
            return Serving::NeedsDisk(ServePlan::Learn { plan, position, length, care });
        }
        let first = chunks_in(place);
        let end = (place + length as u64).min(segment.disk_bytes);
        let chunks = first..chunks_in(end + CHUNK - 1);
        let marked = segment.marks.next_marked(first).filter(|_| care == Care::Verified);
        let sound = marked.unwrap_or(usize::MAX).min(chunks.end);
        if sound <= first {
            return Serving::Unavailable;
        }
        let plan = self.plan_chunks(number, first..sound);
        Serving::NeedsDisk(ServePlan::Chunks { plan, position, length, care })
    }

    /// Goes on with a read for another replica.
    pub fn complete_serve(&mut self, plan: ServePlan, result: Result<DiskOutput, DiskError>) -> Serving {
        match plan {
            ServePlan::Learn { plan, position, length, care } => match self.complete_read(plan, result) {
                Ok(ReadResult::Empty) => self.serve(position, length, care),
                Ok(ReadResult::Ready(_) | ReadResult::NeedsDisk(_) | ReadResult::OutOfRange | ReadResult::Damaged) => {
                    unreachable!("nothing was looked for")
                }
                Err(_) => Serving::Unavailable,
            },
            ServePlan::Chunks { plan, position, length, care } => {
                let read = self.complete_chunks(plan, result);
                let segment = &self.segments[self.segment_of(read.base)];
                let start = segment.start + read.chunks.start as u64 * CHUNK;
                let skip = usize::try_from(Position(position) - start).expect("inside the first chunk");
                let is_refused = read.damage.is_some() && care == Care::Verified && repair::is_verified();
                if is_refused || read.bytes.len() <= skip {
                    return Serving::Unavailable;
                }
                let bytes = read.bytes.slice(skip..read.bytes.len().min(skip + length));
                let at = Position(position) + bytes.len() as u64;
                let missing = (length - bytes.len()) as u64;
                let end = (at + missing).min(segment.end());
                let mut slices = vec![bytes];
                // What lies behind may be in memory.
                if at < end && at >= segment.disk_end() {
                    slices.extend(self.tail.slices(at..end));
                }
                Serving::Ready(slices)
            }
        }
    }

    /// Gives back a plan whose read was not carried out.
    pub fn cancel_serve(&mut self, plan: ServePlan) {
        self.given_back(plan.file());
    }
}
