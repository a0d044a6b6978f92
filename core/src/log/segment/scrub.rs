//! A walk over everything that is finished on disk, to find damage before a reader does.
//!
//! For each segment its side file, then its chunks, a few at a time, then what is on disk of a chunk that still grows.
//! Invariant: walking teaches the log nothing but damage: what it needs of a segment that nobody reads is kept only
//! until the walk leaves it. A segment that was found whole has a digest, which other replicas are asked to confirm.

use super::{
    PartitionLog,
    checksums::{self, Salvaged},
    chunks::ChunkPlan,
    content::ContentCrc,
    damage::{Damage, DamageKind, ReadError},
    file::{CHUNK, Segment, chunks_in},
    position::Position,
};
use crate::{
    ids::{GroupId, Offset},
    io::{DiskAction, DiskError, DiskOutput, FileName},
    limits::SEGMENT_REPAIR_CHUNKS_MAX,
};

/// Where a walk over a partition stands.
#[derive(Debug, Default)]
pub struct ScrubCursor {
    /// Base offset of the segment that is walked; segments before it are done.
    base: Option<Offset>,
    /// The checksums of its chunks, once its side file was read.
    checksums: Option<Vec<u32>>,
    chunk: usize,
    /// The unfinished chunk was read.
    has_rest: bool,
    crc: ContentCrc,
    is_whole: bool,
}

/// A read of the walk.
#[derive(Debug)]
#[must_use]
pub enum ScrubPlan {
    Side { file: FileName, group: GroupId, base: Offset, entries: usize },
    Chunks(ChunkPlan),
}

/// A closed segment that was found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentDigest {
    /// Where it begins in the bytes of the partition.
    pub position: u64,
    pub bytes: u64,
    /// CRC-32C of all of them.
    pub crc: u32,
}

/// What a step of the walk found.
#[derive(Debug, Default)]
pub struct Scrubbed {
    pub damage: Option<ReadError>,
    pub digest: Option<SegmentDigest>,
}

impl ScrubPlan {
    pub fn action(&self) -> DiskAction {
        match self {
            Self::Side { file, .. } => DiskAction::Read { file: *file, offset: 0, length: self.bytes() },
            Self::Chunks(plan) => plan.action(),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Side { entries, .. } => {
                usize::try_from(checksums::entry_offset(*entries)).expect("a side file has a largest length")
            }
            Self::Chunks(plan) => plan.bytes(),
        }
    }

    pub(super) fn file(&self) -> FileName {
        match self {
            Self::Side { file, .. } => *file,
            Self::Chunks(plan) => plan.file(),
        }
    }
}

impl Segment {
    /// Chunks that are finished: full ones, and the last of a segment that is closed.
    fn finished_chunks(&self) -> usize {
        let on_disk = if self.proven_closing.is_some() { self.disk_chunks() } else { chunks_in(self.disk_bytes) };
        #[cfg(feature = "mutants")]
        if crate::mutants::Mutant::ScrubSkipsLastChunk.is_planted() {
            return on_disk.saturating_sub(1);
        }
        on_disk
    }

    /// Marks entries of the side file that are not what is known.
    fn compare_side_file(&mut self, found: &Salvaged, entries: usize) -> Option<usize> {
        let is_other = |number: &usize| {
            let known = self.side_entry(*number);
            let found = found.entries.get(*number).copied().flatten();
            found.is_none_or(|found| (found.bytes, found.crc) != (known.bytes, known.crc))
        };
        let known = (0..entries).filter(|entry| self.marks.knows_checksum(*entry));
        let lost: Vec<usize> = known.filter(is_other).collect();
        lost.iter().for_each(|entry| self.marks.lose_entry(*entry));
        if !found.has_header {
            self.marks.lose_header();
        }
        lost.first().copied().or((!found.has_header).then_some(0))
    }
}

impl PartitionLog {
    /// The next read of a walk; `None` when everything was walked over.
    pub fn scrub(&mut self, cursor: &mut ScrubCursor) -> Option<ScrubPlan> {
        loop {
            let number = match cursor.base {
                None => 0,
                Some(base) => self.segments.partition_point(|segment| segment.base < base),
            };
            let segment = self.segments.get(number).filter(|segment| segment.created)?;
            let finished = segment.finished_chunks();
            if cursor.base == Some(segment.base)
                && let Some(known) = &cursor.checksums
            {
                let end = finished.min(known.len()).min(cursor.chunk + SEGMENT_REPAIR_CHUNKS_MAX);
                if cursor.chunk >= end {
                    let chunks = segment.disk_chunks();
                    let grows = segment.proven_closing.is_none() && !segment.disk_bytes.is_multiple_of(CHUNK);
                    if !cursor.has_rest && grows && segment.marks.is_empty() {
                        // Its checksum is that of now: it may have grown since the side file was read.
                        cursor.has_rest = true;
                        return Some(ScrubPlan::Chunks(self.plan_chunks(number, chunks - 1..chunks)));
                    }
                    *cursor = ScrubCursor { base: Some(Offset(segment.base.0 + 1)), ..ScrubCursor::default() };
                    continue;
                }
                let chunks = cursor.chunk..end;
                let plan = ChunkPlan::with(segment, chunks.clone(), &known[chunks]);
                self.reads += 1;
                return Some(ScrubPlan::Chunks(plan));
            }
            let (file, group, base) = (segment.checksum_file(), segment.group, segment.base);
            *cursor = ScrubCursor { base: Some(base), is_whole: true, ..ScrubCursor::default() };
            if segment.known && !segment.marks.is_empty() {
                // It is being repaired, and looked at with every step of that.
                *cursor = ScrubCursor { base: Some(Offset(base.0 + 1)), ..ScrubCursor::default() };
                continue;
            }
            let entries = if segment.known { segment.recorded_entries() } else { chunks_in(segment.bytes) + 1 };
            self.reads += 1;
            return Some(ScrubPlan::Side { file, group, base, entries });
        }
    }

    /// Goes on with a walk.
    pub fn complete_scrub(
        &mut self,
        cursor: &mut ScrubCursor,
        plan: ScrubPlan,
        result: Result<DiskOutput, DiskError>,
    ) -> Scrubbed {
        match plan {
            ScrubPlan::Side { file, group, base, entries } => {
                self.given_back(file);
                self.scrub_side_file(cursor, (file, group, base), entries, result)
            }
            ScrubPlan::Chunks(plan) => self.scrub_chunks(cursor, plan, result),
        }
    }

    fn scrub_side_file(
        &mut self,
        cursor: &mut ScrubCursor,
        (file, group, base): (FileName, GroupId, Offset),
        entries: usize,
        result: Result<DiskOutput, DiskError>,
    ) -> Scrubbed {
        let (bytes, error) = match result {
            Ok(DiskOutput::Read(bytes)) => (bytes, None),
            Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
            Err(error) => (bytes::Bytes::new(), Some(ReadError::Disk { file, error })),
        };
        let found = match checksums::salvage(group, base, &bytes) {
            Ok(found) => found,
            Err(kind) => {
                *cursor = ScrubCursor { base: Some(Offset(base.0 + 1)), ..ScrubCursor::default() };
                return Scrubbed { damage: Some(Damage::whole(file, kind).into()), digest: None };
            }
        };
        let number = self.segment_of(base);
        let segment = &mut self.segments[number];
        assert_eq!(segment.base, base, "a segment stays while it is read");
        let lost = if segment.known {
            segment.compare_side_file(&found, entries)
        } else {
            let rest = u32::try_from(segment.bytes % CHUNK).expect("less than a chunk");
            let (proof, lost) = found.fill(chunks_in(segment.bytes) + 1, Some(rest));
            if lost.is_empty() && found.has_header {
                cursor.checksums = Some(proof.chunks.iter().chain(&proof.closing).map(|entry| entry.crc).collect());
                None
            } else {
                segment.learn(&found);
                Some(lost.first().copied().unwrap_or(0))
            }
        };
        if segment.known && segment.marks.first_unknown().is_none() {
            let all = 0..segment.finished_chunks();
            cursor.checksums = Some(all.filter_map(|chunk| segment.checksum_of(chunk)).collect());
        } else if cursor.checksums.is_none() {
            *cursor = ScrubCursor { base: Some(Offset(base.0 + 1)), ..ScrubCursor::default() };
        }
        let damage = lost.map(|entry| Damage::entry(file, entry, DamageKind::ChecksumEntry).into());
        Scrubbed { damage: error.or(damage), digest: None }
    }

    fn scrub_chunks(
        &mut self,
        cursor: &mut ScrubCursor,
        plan: ChunkPlan,
        result: Result<DiskOutput, DiskError>,
    ) -> Scrubbed {
        let read = self.complete_chunks(plan, result);
        let segment = &mut self.segments.iter_mut().find(|segment| segment.base == read.base);
        let segment = segment.as_mut().expect("a segment stays while it is read");
        let known = cursor.checksums.as_ref().expect("chunks are read when their checksums are known");
        if cursor.has_rest {
            return Scrubbed { damage: read.damage, digest: None };
        }
        for chunk in read.chunks.clone() {
            if (chunk as u64 + 1) * CHUNK <= segment.disk_bytes {
                cursor.crc.append_chunk(known[chunk]);
            }
        }
        cursor.chunk = read.chunks.end;
        cursor.is_whole &= read.damage.is_none();
        let is_closed = segment.proven_closing.is_some() && cursor.chunk == segment.disk_chunks();
        if !is_closed || !cursor.is_whole {
            return Scrubbed { damage: read.damage, digest: None };
        }
        let rest = usize::try_from(segment.disk_bytes % CHUNK).expect("less than a chunk");
        let last = if rest > 0 { known[cursor.chunk - 1] } else { 0 };
        let crc = kauri_protocol::records::combine(cursor.crc.value(), last, rest);
        segment.digest = Some(crc);
        let digest = SegmentDigest { position: segment.start.0, bytes: segment.disk_bytes, crc };
        Scrubbed { damage: None, digest: Some(digest) }
    }

    /// Gives back a plan whose read was not carried out.
    pub fn cancel_scrub(&mut self, plan: ScrubPlan) {
        self.given_back(plan.file());
    }

    /// The checksum of the segment that begins at a position and has so many bytes, if the last walk found it whole.
    pub fn digest(&self, position: u64, bytes: u64) -> Option<u32> {
        let number = self.segments.partition_point(|segment| segment.start < Position(position));
        let segment = self.segments.get(number).filter(|segment| segment.start == Position(position))?;
        segment.digest.filter(|_| segment.disk_bytes == bytes && segment.marks.is_empty())
    }
}
