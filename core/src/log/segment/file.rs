//! One segment: its length in memory and on disk, its checksums, its index.
//!
//! Invariant: `disk_bytes` counts bytes whose sync completed (or which a side file proved at start-up), and `crcs` with
//! `disk_rest_crc` cover all of them. While the write-ahead log is replayed, `disk_bytes` may lie ahead of `bytes`: then
//! appended bytes are compared with what is proven and not written again.

use super::{
    checksums::{Closing, Proof},
    content::ContentCrc,
    damage::{Damage, DamageKind},
    index::Index,
    position::Position,
};
use crate::{
    ids::{GroupId, Offset},
    io::{FileName, SegmentFile},
    limits::SEGMENT_CHUNK_BYTES,
};

pub(super) const CHUNK: u64 = SEGMENT_CHUNK_BYTES as u64;

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) group: GroupId,
    pub(super) base: Offset,
    /// Where its file begins in the bytes of the partition.
    pub(super) start: Position,
    /// Bytes appended, in this life of the process.
    pub(super) bytes: u64,
    /// The offset behind the last appended batch.
    pub(super) next_offset: Offset,
    pub(super) index: Index,
    /// Largest timestamp and the base offset of the first batch that has it.
    pub(super) max_timestamp: Option<(i64, Offset)>,
    /// Nothing is appended any more.
    pub(super) rolled: bool,
    /// CRCs of full chunks: all that were appended in full, and all that are proven.
    crcs: Vec<u32>,
    /// CRC of the appended bytes behind the last full chunk.
    rest_crc: u32,
    pub(super) disk_bytes: u64,
    /// CRC of the bytes on disk behind the last full chunk there.
    disk_rest_crc: u32,
    /// Entries of the side file that are synced.
    pub(super) proven_chunks: usize,
    /// The side file's last entry, once that is synced.
    pub(super) proven_closing: Option<Closing>,
    /// Both files exist and their directory was synced since.
    pub(super) created: bool,
}

impl Segment {
    pub(super) fn new(group: GroupId, base: Offset, start: Position) -> Self {
        Self {
            group,
            base,
            start,
            bytes: 0,
            next_offset: base,
            index: Index::default(),
            max_timestamp: None,
            rolled: false,
            crcs: Vec::new(),
            rest_crc: 0,
            disk_bytes: 0,
            disk_rest_crc: 0,
            proven_chunks: 0,
            proven_closing: None,
            created: false,
        }
    }

    /// A segment whose bytes, as far as proven, are on disk and will be appended again.
    pub(super) fn proven(group: GroupId, base: Offset, start: Position, proof: Proof) -> Self {
        Self {
            disk_bytes: proof.segment_bytes(),
            disk_rest_crc: proof.closing.map_or(0, |closing| closing.crc),
            proven_chunks: proof.chunks.len(),
            proven_closing: proof.closing,
            crcs: proof.chunks,
            created: true,
            ..Self::new(group, base, start)
        }
    }

    pub(super) fn log_file(&self) -> FileName {
        FileName::Segment { group: self.group, base: self.base, kind: SegmentFile::Log }
    }

    pub(super) fn checksum_file(&self) -> FileName {
        FileName::Segment { group: self.group, base: self.base, kind: SegmentFile::Checksums }
    }

    /// Behind the last appended byte.
    pub(super) fn end(&self) -> Position {
        self.start + self.bytes
    }

    /// Behind the last byte on disk.
    pub(super) fn disk_end(&self) -> Position {
        self.start + self.disk_bytes
    }

    /// Whether the next batch, of `bytes` and up to `last_offset`, begins a new segment.
    pub(super) fn ends_before(&self, bytes: u64, last_offset: Offset, segment_bytes: u64) -> bool {
        if self.proven_closing.is_some() {
            // Rolled in an earlier life, whatever the limit is today. A batch that would pass the end is damage.
            return self.bytes >= self.disk_bytes;
        }
        // What is proven stays in this file, even if the limit is lower today.
        self.bytes >= self.disk_bytes
            && self.bytes > 0
            && (self.bytes + bytes > segment_bytes || last_offset.0 - self.base.0 > i64::from(i32::MAX))
    }

    /// Adds a batch's bytes to the checksums, comparing with the proven ones; `content` is told each
    /// chunk they fill.
    pub(super) fn append(
        &mut self,
        slices: [&[u8]; 2],
        offset: Offset,
        next_offset: Offset,
        max_timestamp: i64,
        content: &mut ContentCrc,
    ) -> Result<(), Damage> {
        self.index.append(self.base, offset, self.bytes, max_timestamp);
        if self.max_timestamp.is_none_or(|(largest, _)| max_timestamp > largest) {
            self.max_timestamp = Some((max_timestamp, offset));
        }
        self.next_offset = next_offset;
        for slice in slices {
            self.extend(slice, content)?;
        }
        let Some(closing) = self.proven_closing else { return Ok(()) };
        if self.bytes > self.disk_bytes {
            return Err(Damage {
                file: self.log_file(),
                offset: self.disk_bytes,
                kind: DamageKind::SegmentRegenerated,
            });
        }
        if self.bytes == self.disk_bytes && self.rest_crc != closing.crc {
            return Err(Damage::chunk(self.log_file(), self.full_chunks(), DamageKind::ChunkRegenerated));
        }
        Ok(())
    }

    fn extend(&mut self, mut slice: &[u8], content: &mut ContentCrc) -> Result<(), Damage> {
        while !slice.is_empty() {
            let room = usize::try_from(CHUNK - self.bytes % CHUNK).expect("at most a chunk");
            let (now, later) = slice.split_at(room.min(slice.len()));
            self.rest_crc = crc32c::crc32c_append(self.rest_crc, now);
            self.bytes += now.len() as u64;
            slice = later;
            if self.bytes.is_multiple_of(CHUNK) {
                let chunk = self.full_chunks() - 1;
                let crc = std::mem::take(&mut self.rest_crc);
                match self.crcs.get(chunk) {
                    Some(&proven) if proven != crc => {
                        return Err(Damage::chunk(self.log_file(), chunk, DamageKind::ChunkRegenerated));
                    }
                    Some(_) => {}
                    None => self.crcs.push(crc),
                }
                content.append_chunk(crc);
            }
        }
        Ok(())
    }

    /// The appended bytes behind the last full chunk.
    pub(super) fn rest(&self) -> Closing {
        Closing { bytes: u32::try_from(self.bytes % CHUNK).expect("less than a chunk"), crc: self.rest_crc }
    }

    fn full_chunks(&self) -> usize {
        usize::try_from(self.bytes / CHUNK).expect("a segment is smaller than 4 GiB")
    }

    /// The bytes up to `disk_bytes` of the file are synced; `rest_crc` covers those behind the last full chunk.
    pub(super) fn synced(&mut self, disk_bytes: u64, rest_crc: u32) {
        assert!(disk_bytes > self.disk_bytes && disk_bytes <= self.bytes, "a sync covers what was written");
        self.disk_bytes = disk_bytes;
        self.disk_rest_crc = rest_crc;
    }

    /// The CRCs of full chunks on disk that the side file does not hold yet, and what closes the segment if that is
    /// due.
    pub(super) fn unproven(&self) -> (&[u32], Option<Closing>) {
        if self.proven_closing.is_some() {
            return (&[], None);
        }
        let full = usize::try_from(self.disk_bytes / CHUNK).expect("a segment is smaller than 4 GiB");
        let closing = (self.rolled && self.disk_bytes == self.bytes).then(|| self.rest());
        (&self.crcs[self.proven_chunks..full], closing)
    }

    /// Bytes of the file that the synced side file proves.
    pub(super) fn proven_bytes(&self) -> u64 {
        self.proven_chunks as u64 * CHUNK + self.proven_closing.map_or(0, |closing| u64::from(closing.bytes))
    }

    /// The CRCs that verify a read from `from` (on a chunk boundary) to `to` (on one, or the end of what is on disk).
    pub(super) fn checksums(&self, from: u64, to: u64) -> Vec<u32> {
        assert!(from.is_multiple_of(CHUNK) && from < to && to <= self.disk_bytes, "a read covers what is on disk");
        let chunks = |bytes: u64| usize::try_from(bytes / CHUNK).expect("a segment is smaller than 4 GiB");
        let mut crcs = self.crcs[chunks(from)..chunks(to)].to_vec();
        if !to.is_multiple_of(CHUNK) {
            assert_eq!(to, self.disk_bytes, "a read ends with a chunk or with what is on disk");
            crcs.push(self.disk_rest_crc);
        }
        crcs
    }
}
