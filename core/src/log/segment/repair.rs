//! What of a log's files is to be repaired, and whether what another replica sent is what was lost.
//!
//! Invariant: bytes from elsewhere are installed only if they have the checksum that is recorded here. The order is:
//! look at the damaged place once more (a read may have gone wrong), fetch what is still damaged, write it where it was.

use std::ops::Range;

use bytes::Bytes;

use super::{
    PartitionLog, ReadPlan,
    chunks::{ChunkPlan, ChunkRead},
    damage::{DamageKind, ReadError},
    file::{CHUNK, chunks_in},
    merge::merge,
    rebuild::{Rebuild, Step},
};
use crate::{
    io::{DiskError, DiskOutput, FileName, SegmentFile},
    limits::{SEGMENT_CHUNK_BYTES, SEGMENT_REPAIR_CHUNKS_MAX},
};

/// What to do next about damage.
#[derive(Debug)]
#[must_use]
pub enum Look {
    /// A side file; what it says is marked by [`PartitionLog::complete_read`].
    Learn(ReadPlan),
    /// Bytes from which entries of a side file are found out: for [`PartitionLog::complete_rebuild`].
    Rebuild(ChunkPlan),
    Chunks {
        plan: ChunkPlan,
        /// Behind the chunks: where to look next.
        position: u64,
        /// There is no damage behind them.
        is_last: bool,
    },
    /// Something is being written; or there is no damage left.
    Nothing,
}

/// Damaged bytes that follow one another, all of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    pub chunks: Range<usize>,
    /// In the bytes of the partition.
    pub position: u64,
    pub bytes: usize,
    /// Copies that agree with no other one so far, if nothing here says what the bytes were.
    pub witnesses: Vec<Bytes>,
    /// What could be read, here first, of bytes whose checksums are known: each of these copies is damaged somewhere, and
    /// may end early.
    pub copies: Vec<Bytes>,
}

/// What became of bytes that another replica sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// They are on their way to the disk.
    Accepted,
    /// They are not what was lost.
    Mismatch,
    /// Nothing here says what was lost: another copy must say the same.
    NeedsWitness,
    /// What is wanted has changed meanwhile.
    Moot,
}

impl PartitionLog {
    /// Whether anything is known to be damaged.
    pub fn is_damaged(&self) -> bool {
        self.segments.iter().any(|segment| !segment.marks.is_empty())
    }

    /// Chunks that readers do not get.
    pub fn damaged_chunks(&self) -> usize {
        self.segments.iter().map(|segment| segment.marks.chunks()).sum()
    }

    /// Whether something repaired is on its way to the disk.
    pub fn is_mending(&self) -> bool {
        !self.mending.is_idle()
    }

    /// A read met damage: what it was to read is not handed out again until it is repaired.
    pub(super) fn mark_unread(&mut self, plan: &ReadPlan, error: &ReadError) {
        let number = self.segment_of(plan.base);
        let segment = &mut self.segments[number];
        assert_eq!(segment.base, plan.base, "a segment stays while it is read");
        let FileName::Segment { kind: SegmentFile::Log, .. } = plan.file else { return };
        let chunks = match error {
            ReadError::Disk { .. } => plan.chunks(),
            ReadError::Damaged(damage) => match damage.kind {
                DamageKind::ChunkChecksum => chunks_of(damage.offset, damage.bytes),
                DamageKind::ReadShort => chunks_in(damage.offset)..plan.chunks().end,
                // The bytes are what was written; what is wrong is not on the disk.
                DamageKind::ChunkRegenerated
                | DamageKind::SegmentRegenerated
                | DamageKind::SegmentOrder { .. }
                | DamageKind::Short { .. }
                | DamageKind::Missing
                | DamageKind::NoBatch
                | DamageKind::ChecksumHeader
                | DamageKind::ChecksumOwner
                | DamageKind::ChecksumVersion { .. }
                | DamageKind::ChecksumEntry
                | DamageKind::ChecksumBehindClosing
                | DamageKind::ChecksumContradiction
                | DamageKind::SegmentUnknown => return,
            },
        };
        let first = chunks.start;
        for chunk in first..chunks.end {
            if !self.mending.is_mending(number, chunk) {
                segment.marks.damage(chunk);
            }
        }
    }

    /// What to do about the first damage at or behind a position of the partition, from the start again behind the last
    /// one. What is known is repaired before what has to be found out, and that before what nobody here knows.
    pub fn look_again(&mut self, from: u64) -> Look {
        if !self.mending.is_idle() {
            return Look::Nothing;
        }
        if let Some(number) = self.segments.iter().position(|segment| segment.marks.is_suspect()) {
            self.reads += 1;
            return Look::Learn(ReadPlan::to_learn(&self.segments[number]));
        }
        if let Some(look) = self.look_at_damage(from, true) {
            return look;
        }
        self.rebuild_plan().or_else(|| self.look_at_damage(from, false)).unwrap_or(Look::Nothing)
    }

    fn look_at_damage(&mut self, from: u64, is_known: bool) -> Option<Look> {
        let run = |from: u64| {
            self.segments.iter().enumerate().find_map(|(number, segment)| {
                let first = chunks_in(from.saturating_sub(segment.start.0) + CHUNK - 1);
                Some((number, segment.marks.damaged_run(first, SEGMENT_REPAIR_CHUNKS_MAX, is_known)?))
            })
        };
        let (number, chunks) = run(from).or_else(|| run(0))?;
        let segment = &self.segments[number];
        if !segment.known {
            self.reads += 1;
            return Some(Look::Learn(ReadPlan::to_learn(segment)));
        }
        let position = (segment.start + chunks.end as u64 * CHUNK).0;
        let is_last = run(position).is_none();
        Some(Look::Chunks { plan: self.plan_chunks(number, chunks), position, is_last })
    }

    /// Goes on with finding out what a side file said.
    fn rebuild_plan(&mut self) -> Option<Look> {
        if self.rebuild.is_none() {
            let mut segments = self.segments.iter().enumerate();
            self.rebuild = segments.find_map(|(number, segment)| {
                let is_readable = segment.known && !segment.marks.has_damaged_bytes();
                if is_readable { Rebuild::new(number, segment) } else { None }
            });
        }
        let rebuild = self.rebuild.as_ref()?;
        let (number, chunk) = (rebuild.segment, rebuild.chunk);
        let end = self.segments[number].disk_chunks().min(chunk + SEGMENT_REPAIR_CHUNKS_MAX);
        if chunk >= end {
            self.rebuild = None;
            return None;
        }
        Some(Look::Rebuild(self.plan_chunks(number, chunk..end)))
    }

    /// Goes on with finding out what a side file said; the number of entries that were found out, if it is over.
    pub fn complete_rebuild(&mut self, plan: ChunkPlan, result: Result<DiskOutput, DiskError>) -> Option<usize> {
        let read = self.complete_chunks(plan, result);
        let rebuild = self.rebuild.as_mut()?;
        let segment = &mut self.segments[rebuild.segment];
        if read.damage.is_some() || segment.base != read.base || rebuild.chunk != read.chunks.start {
            // Chunks whose checksums are known are repaired first.
            self.rebuild = None;
            return Some(0);
        }
        let mut rest = read.bytes;
        while !rest.is_empty() {
            let chunk = rest.split_to(rest.len().min(SEGMENT_CHUNK_BYTES));
            match rebuild.take(segment, &chunk) {
                Step::More => {}
                Step::Done(entries) => {
                    let found = entries.iter().filter(|(chunk, _)| !segment.marks.knows_checksum(*chunk)).count();
                    entries.into_iter().for_each(|(chunk, entry)| segment.find_again(chunk, entry));
                    self.rebuild = None;
                    return Some(found);
                }
                Step::Unproven => {
                    for chunk in rebuild.lost() {
                        segment.marks.damage(chunk);
                    }
                    self.rebuild = None;
                    return Some(0);
                }
            }
        }
        None
    }

    /// What of a second look is still damaged: the first such bytes.
    pub fn want(&self, read: &ChunkRead) -> Option<Want> {
        let segment = &self.segments[self.segment_of(read.base)];
        let run = |is_known| segment.marks.damaged_run(read.chunks.start, read.chunks.len(), is_known);
        let chunks = run(true).filter(|run| run.start < read.chunks.end).or_else(|| run(false))?;
        let chunks = chunks.start..chunks.end.min(read.chunks.end);
        if chunks.is_empty() {
            return None;
        }
        let bytes: u64 = chunks.clone().map(|chunk| segment.chunk_bytes(chunk)).sum();
        let position = (segment.start + chunks.start as u64 * CHUNK).0;
        let skip = (chunks.start - read.chunks.start) * SEGMENT_CHUNK_BYTES;
        let own = read.bytes.slice(skip.min(read.bytes.len())..);
        let is_known = segment.marks.knows_checksum(chunks.start);
        let bytes = usize::try_from(bytes).expect("a few chunks");
        let own: Vec<Bytes> = if own.len() < bytes { Vec::new() } else { vec![own.slice(..bytes)] };
        let (copies, witnesses) = if is_known { (own, Vec::new()) } else { (Vec::new(), own) };
        Some(Want { chunks, position, bytes, witnesses, copies })
    }

    /// Takes what another replica sent for what was wanted. Of bytes whose checksum is lost here, too, it takes those
    /// that two copies agree on, or if `only` says that there is no third copy, those of the only other replica, which
    /// verified them.
    pub fn mend(&mut self, want: &Want, bytes: &Bytes, only: bool) -> Mended {
        let number = self.segments.partition_point(|segment| segment.end().0 <= want.position);
        let Some(segment) = self.segments.get_mut(number) else { return Mended::Moot };
        let is_one = want.chunks.end <= segment.disk_chunks() && segment.known;
        let sizes = want.chunks.clone().filter(|_| is_one).map(|chunk| segment.chunk_bytes(chunk));
        let sizes: Vec<u64> = sizes.collect();
        // An unfinished chunk may have grown since.
        let fits = sizes.iter().sum::<u64>() == bytes.len() as u64;
        if !self.mending.is_idle() || !fits {
            return Mended::Moot;
        }
        let mut rest = bytes.clone();
        for (chunk, size) in want.chunks.clone().zip(sizes) {
            let found = rest.split_to(usize::try_from(size).expect("at most a chunk"));
            #[cfg(feature = "mutants")]
            if !is_verified() {
                segment.believe(chunk, crc32c::crc32c(&found));
            }
            match segment.checksum_of(chunk) {
                Some(crc) if crc != crc32c::crc32c(&found) => return Mended::Mismatch,
                Some(_) => {}
                None if only || want.witnesses.iter().any(|witness| witness == bytes) => {}
                None => return Mended::NeedsWitness,
            }
        }
        self.mending.mend_chunks(number, segment, want.chunks.clone(), vec![bytes.clone()]);
        Mended::Accepted
    }

    /// What was wanted, put together of the copies that there are: each is damaged, but perhaps each elsewhere. `None` if
    /// they do not lead to the checksums that are recorded here.
    pub fn merge(&self, want: &Want) -> Option<Bytes> {
        let number = self.segments.partition_point(|segment| segment.end().0 <= want.position);
        let segment = self.segments.get(number).filter(|segment| segment.known)?;
        if want.chunks.end > segment.disk_chunks() || want.copies.iter().any(|copy| copy.len() > want.bytes) {
            return None;
        }
        let mut merged = Vec::with_capacity(want.bytes);
        for chunk in want.chunks.clone() {
            let crc = segment.checksum_of(chunk)?;
            let length = usize::try_from(segment.chunk_bytes(chunk)).expect("at most a chunk");
            let place = |copy: &Bytes| merged.len().min(copy.len())..(merged.len() + length).min(copy.len());
            let copies: Vec<&[u8]> = want.copies.iter().map(|copy| &copy[place(copy)]).collect();
            let chunk = merge(&copies, length, crc)?;
            merged.extend(chunk);
        }
        Some(merged.into())
    }
}

fn chunks_of(offset: u64, bytes: u64) -> Range<usize> {
    chunks_in(offset)..chunks_in(offset + bytes + CHUNK - 1)
}

/// Whether what is sent, and what comes from elsewhere, is compared with what is recorded.
pub(super) fn is_verified() -> bool {
    #[cfg(feature = "mutants")]
    if crate::mutants::Mutant::RepairUnverified.is_planted() {
        return false;
    }
    true
}
