//! Reads of what is no longer in memory.
//!
//! Invariant: a read of batches covers whole chunks of one segment (or ends with what is on disk), so that the recorded CRCs
//! verify every byte of it before one is looked at. Its size is bounded by [`FETCH_READ_BYTES`] or by the one batch it
//! is for. Nothing here touches the partition: a plan carries all it needs, and the log may change meanwhile.

use std::ops::Range;

use bytes::Bytes;
use kauri_protocol::records::HEADER_BYTES;

use super::{
    batch::BatchHeader,
    checksums::{self, Salvaged},
    damage::{Damage, DamageKind, ReadError},
    file::{CHUNK, Segment, chunks_in},
    selection::{Allowance, Batches, Selection},
};
use crate::{
    ids::{GroupId, Offset},
    io::{DiskAction, DiskError, DiskOutput, FileName},
    limits::{FETCH_READ_BYTES, SEGMENT_CHUNK_BYTES},
};

/// A read to be carried out, and how to make batches of what it returns. Every plan must be given back to the log that
/// made it, with the outcome or without one: its files are not removed before.
#[derive(Debug)]
#[must_use]
pub struct ReadPlan {
    pub(super) file: FileName,
    group: GroupId,
    pub(super) base: Offset,
    offset: u64,
    length: usize,
    content: Content,
    pub(super) from: Offset,
    pub(super) goal: Goal,
}

/// What a read returns.
#[derive(Debug)]
enum Content {
    Batches {
        checksums: Vec<u32>,
        /// Place of a batch in the file, at or before the one that is looked for.
        scan_from: u64,
    },
    /// The side file of the segment, without which its batches cannot be read.
    SideFile,
}

/// What a read looks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// Batches from the one that holds the offset on.
    Batches(Allowance),
    /// The first batch from there on with a timestamp of at least this that ends before `upper` begins.
    Timestamp { timestamp: i64, upper: Offset },
}

/// What was found in the bytes of a read.
pub(super) enum Scan {
    Found(Batches),
    /// What the side file says.
    Learnt(Salvaged),
    /// No batch in these bytes; `next` is the offset behind them.
    Passed {
        next: Offset,
    },
    /// The batch at `place` of the file, which begins with offset `next` or holds it, is not wholly in these bytes: so
    /// many are needed from its place on (a header's worth if its length is not known).
    Short {
        place: u64,
        needed: usize,
        next: Offset,
    },
}

impl ReadPlan {
    /// A read of `segment` from the batch at `place` on; at least `needed` bytes of it. `None` if these are damaged.
    pub(super) fn new(segment: &Segment, place: u64, needed: usize, from: Offset, goal: Goal) -> Option<Self> {
        let wanted = match goal {
            Goal::Batches(allowance) => allowance.max_bytes.min(FETCH_READ_BYTES).max(needed),
            Goal::Timestamp { .. } => needed,
        };
        let offset = place / CHUNK * CHUNK;
        let end = (place + wanted.max(1) as u64).next_multiple_of(CHUNK).min(segment.disk_bytes);
        let sound = segment.sound_until(offset);
        if sound < place + needed.max(1) as u64 {
            return None;
        }
        let end = end.min(sound);
        Some(Self {
            file: segment.log_file(),
            group: segment.group,
            base: segment.base,
            offset,
            length: usize::try_from(end - offset).expect("a read is bounded"),
            content: Content::Batches { checksums: segment.checksums(offset, end), scan_from: place },
            from,
            goal,
        })
    }

    /// A read of the side file of a segment of which nothing is known yet.
    pub(super) fn of_side_file(segment: &Segment, from: Offset, goal: Goal) -> Self {
        Self {
            file: segment.checksum_file(),
            group: segment.group,
            base: segment.base,
            offset: 0,
            length: usize::try_from(segment.side_file_bytes()).expect("a side file has a largest length"),
            content: Content::SideFile,
            from,
            goal,
        }
    }

    /// A read of the side file of a segment, for what it says and nothing else.
    pub(super) fn to_learn(segment: &Segment) -> Self {
        Self::of_side_file(segment, segment.base, Goal::Batches(Allowance::one_batch(segment.base)))
    }

    /// The operation to carry out.
    pub fn action(&self) -> DiskAction {
        DiskAction::Read { file: self.file, offset: self.offset, length: self.length }
    }

    /// Bytes the read returns, all of which its batches keep alive.
    pub fn bytes(&self) -> usize {
        self.length
    }

    /// Chunks of the segment that are read.
    pub(super) fn chunks(&self) -> Range<usize> {
        chunks_in(self.offset)..chunks_in(self.offset + self.length as u64 + CHUNK - 1)
    }

    /// Whether it is a read of a side file.
    pub(super) fn is_of_side_file(&self) -> bool {
        matches!(self.content, Content::SideFile)
    }

    pub(super) fn scan(&self, result: Result<DiskOutput, DiskError>) -> Result<Scan, ReadError> {
        if self.is_of_side_file() {
            // What cannot be read, or is not there, is as lost as what is damaged.
            let bytes = match result {
                Ok(DiskOutput::Read(bytes)) => bytes,
                Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
                Err(_) => Bytes::new(),
            };
            let salvaged = checksums::salvage(self.group, self.base, &bytes);
            return Ok(Scan::Learnt(salvaged.map_err(|kind| Damage::whole(self.file, kind))?));
        }
        let bytes = match result {
            Ok(DiskOutput::Read(bytes)) => bytes,
            Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
            Err(error) => return Err(ReadError::Disk { file: self.file, error }),
        };
        if bytes.len() != self.length {
            let missing = (self.length - bytes.len()) as u64;
            return Err(Damage { bytes: missing, ..self.damage(bytes.len(), DamageKind::ReadShort) }.into());
        }
        let (checksums, scan_from) = match &self.content {
            Content::Batches { checksums, scan_from } => (checksums, scan_from),
            Content::SideFile => unreachable!("told apart above"),
        };
        self.verify(&bytes, checksums)?;
        let first = usize::try_from(scan_from - self.offset).expect("inside the first chunk");
        let scan = match self.goal {
            Goal::Batches(allowance) => self.scan_batches(&bytes, first, allowance),
            Goal::Timestamp { timestamp, upper } => self.scan_timestamps(&bytes, first, timestamp, upper),
        };
        Ok(scan?)
    }

    fn verify(&self, bytes: &[u8], checksums: &[u32]) -> Result<(), Damage> {
        let chunks = bytes.chunks(SEGMENT_CHUNK_BYTES);
        assert_eq!(chunks.len(), checksums.len(), "a plan has a checksum for each chunk");
        let mut sound = chunks.zip(checksums).map(|(chunk, &crc)| crc32c::crc32c(chunk) == crc);
        let Some(first) = sound.position(|sound| !sound) else { return Ok(()) };
        let more = sound.take_while(|sound| !sound).count();
        let first = chunks_in(self.offset) + first;
        Err(Damage::chunks(self.file, first..first + 1 + more, DamageKind::ChunkChecksum))
    }

    fn scan_batches(&self, bytes: &Bytes, mut at: usize, allowance: Allowance) -> Result<Scan, Damage> {
        let mut selection = Selection::new(allowance);
        let mut taken_from = None;
        loop {
            let header = match self.header(bytes, at)? {
                Some(header) => header,
                None if taken_from.is_some() => break,
                None => return Ok(self.short(at, HEADER_BYTES, self.from)),
            };
            if header.next_offset <= self.from {
                at += header.bytes;
                continue;
            }
            let whole = header.bytes <= bytes.len() - at;
            if !whole && taken_from.is_some() {
                break;
            }
            if !selection.wants(&header) {
                break;
            }
            if !whole {
                return Ok(self.short(at, header.bytes, self.from));
            }
            taken_from.get_or_insert(at);
            at += header.bytes;
        }
        if let Some(start) = taken_from {
            selection.take(bytes.slice(start..at));
            selection.hold(bytes.len());
        }
        Ok(Scan::Found(selection.finish()))
    }

    fn scan_timestamps(&self, bytes: &Bytes, mut at: usize, timestamp: i64, upper: Offset) -> Result<Scan, Damage> {
        let mut next = self.from;
        while at < bytes.len() {
            let Some(header) = self.header(bytes, at)? else { return Ok(self.short(at, HEADER_BYTES, next)) };
            if header.next_offset > upper {
                return Ok(Scan::Passed { next: upper });
            }
            if header.next_offset > self.from && header.max_timestamp >= timestamp {
                if header.bytes > bytes.len() - at {
                    return Ok(self.short(at, header.bytes, next));
                }
                let mut selection = Selection::new(Allowance::one_batch(upper));
                assert!(selection.wants(&header), "one batch below the upper bound is always wanted");
                selection.take(bytes.slice(at..at + header.bytes));
                selection.hold(bytes.len());
                return Ok(Scan::Found(selection.finish()));
            }
            next = next.max(header.next_offset);
            at += header.bytes;
        }
        Ok(Scan::Passed { next })
    }

    /// The header at `at`; `None` if the bytes end before it does.
    fn header(&self, bytes: &[u8], at: usize) -> Result<Option<BatchHeader>, Damage> {
        let rest = bytes.get(at..).unwrap_or_default();
        BatchHeader::read(rest).map_err(|_| self.damage(at, DamageKind::NoBatch))
    }

    fn short(&self, at: usize, needed: usize, next: Offset) -> Scan {
        Scan::Short { place: self.offset + at as u64, needed, next }
    }

    fn damage(&self, at: usize, kind: DamageKind) -> Damage {
        Damage { file: self.file, offset: self.offset + at as u64, bytes: HEADER_BYTES as u64, kind }
    }

    /// For a batch that was looked for at a place and is not there.
    pub(super) fn no_batch(&self, place: u64) -> Damage {
        Damage { file: self.file, offset: place, bytes: HEADER_BYTES as u64, kind: DamageKind::NoBatch }
    }
}
