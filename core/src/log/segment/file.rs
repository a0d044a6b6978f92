//! One segment: its length in memory and on disk, its checksums, its index.
//!
//! Invariant: `disk_bytes` counts bytes whose sync completed (or which a side file proved at start-up), and `crcs` with
//! `disk_rest_crc` cover all of them. While the write-ahead log is replayed, `disk_bytes` may lie ahead of `bytes`: then
//! appended bytes are compared with what is proven and not written again.

use super::{
    checksums::{self, ChunkEntry, Closing, Proof, Salvaged},
    content::ContentCrc,
    damage::{Damage, DamageKind},
    image::SegmentImage,
    index::Index,
    marks::Marks,
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
    /// Checksums and index are here. If not, the segment is closed and its side file was not read yet.
    pub(super) known: bool,
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
    /// What of it is damaged.
    pub(super) marks: Marks,
    /// CRC of all its bytes, when it is closed and the last walk over it found them whole.
    pub(super) digest: Option<u32>,
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
            known: true,
            crcs: Vec::new(),
            rest_crc: 0,
            disk_bytes: 0,
            disk_rest_crc: 0,
            proven_chunks: 0,
            proven_closing: None,
            created: false,
            marks: Marks::default(),
            digest: None,
        }
    }

    /// A segment whose bytes, as far as proven, are on disk and will be appended again.
    pub(super) fn proven(group: GroupId, base: Offset, start: Position, proof: Proof) -> Self {
        Self {
            disk_bytes: proof.segment_bytes(),
            disk_rest_crc: proof.closing.map_or(0, |closing| closing.crc),
            proven_chunks: proof.chunks.len(),
            proven_closing: proof.closing.map(|closing| closing.closing()),
            crcs: proof.chunks.iter().map(|chunk| chunk.crc).collect(),
            created: true,
            ..Self::new(group, base, start)
        }
    }

    /// A segment as an image describes it; `proof` is what its side file holds today, which may prove more.
    pub(super) fn restored(
        group: GroupId,
        image: &SegmentImage,
        start: Position,
        next_offset: Offset,
        proof: Proof,
    ) -> Self {
        let bytes = u64::from(image.bytes);
        let full = chunks_in(bytes);
        let rest = image.rest().or(proof.closing.filter(|_| image.closed));
        let rest_crc = rest.map_or(0, |rest| rest.crc);
        let proven_chunks = image.proven_chunks as usize;
        let own = &image.entries[..full - proven_chunks];
        let mut index = Index::default();
        let kept = proof.chunks[..proven_chunks].iter().chain(own).chain(rest.as_ref());
        kept.filter_map(|entry| entry.stretch).for_each(|stretch| index.restore(stretch));
        let proven = proof.segment_bytes();
        let mut segment = Self::proven(group, image.base, start, proof);
        if proven < bytes {
            let known = segment.crcs.len() - proven_chunks;
            segment.crcs.extend(own[known..].iter().map(|entry| entry.crc));
            assert_eq!(segment.crcs.len(), full, "an image and a side file cover what was synced");
            segment.disk_bytes = bytes;
            segment.disk_rest_crc = rest_crc;
        }
        Self { bytes, next_offset, index, max_timestamp: image.max_timestamp, rest_crc, ..segment }
    }

    /// A closed segment of an image whose side file is read when somebody needs it.
    pub(super) fn settled(group: GroupId, image: &SegmentImage, start: Position, next_offset: Offset) -> Self {
        let bytes = u64::from(image.bytes);
        let rest = u32::try_from(bytes % CHUNK).expect("less than a chunk");
        Self {
            bytes,
            disk_bytes: bytes,
            next_offset,
            max_timestamp: image.max_timestamp,
            rolled: true,
            known: false,
            proven_chunks: chunks_in(bytes),
            proven_closing: Some(Closing { bytes: rest, crc: 0 }),
            created: true,
            ..Self::new(group, image.base, start)
        }
    }

    /// Length of the side file of a segment that is closed.
    pub(super) fn side_file_bytes(&self) -> u64 {
        checksums::entry_offset(chunks_in(self.disk_bytes) + 1)
    }

    /// Takes in the side file of a segment that was settled; what of it is lost is marked.
    pub(super) fn learn(&mut self, found: &Salvaged) {
        self.marks.looked_at();
        if self.known {
            return;
        }
        let rest = u32::try_from(self.bytes % CHUNK).expect("less than a chunk");
        let (proof, lost) = found.fill(self.full_chunks() + 1, Some(rest));
        let closing = proof.closing.expect("it is among those that are filled");
        self.crcs = proof.chunks.iter().map(|chunk| chunk.crc).collect();
        let stretches = proof.chunks.iter().chain([&closing]).filter_map(|entry| entry.stretch);
        stretches.for_each(|stretch| self.index.restore(stretch));
        self.rest_crc = closing.crc;
        self.disk_rest_crc = closing.crc;
        self.proven_closing = Some(closing.closing());
        self.known = true;
        self.lose(&lost, found.has_header);
    }

    /// These entries of the side file are not there.
    pub(super) fn lose(&mut self, entries: &[usize], has_header: bool) {
        for entry in entries {
            self.marks.lose_entry(*entry);
            // A closing entry may be for nothing, and then says nothing.
            if (*entry as u64) * CHUNK < self.disk_bytes {
                self.marks.forget_checksum(*entry);
            }
        }
        if !has_header {
            self.marks.lose_header();
        }
    }

    /// What was recorded of a chunk is known again.
    pub(super) fn find_again(&mut self, chunk: usize, entry: ChunkEntry) {
        if self.marks.knows_checksum(chunk) {
            return;
        }
        if let Some(crc) = self.crcs.get_mut(chunk) {
            *crc = entry.crc;
        } else {
            assert_eq!(chunk, chunks_in(self.disk_bytes), "the last chunk of a segment that is closed");
            (self.rest_crc, self.disk_rest_crc) = (entry.crc, entry.crc);
            self.proven_closing = Some(entry.closing());
        }
        if let Some(stretch) = entry.stretch {
            self.index.insert(stretch);
        }
        self.marks.learn_checksum(chunk);
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

    /// Adds a batch's bytes to the checksums, comparing with the proven ones; `content` is told each chunk they fill.
    /// The first `present` bytes of the batch were here before the batch was known, because a write ended within it.
    pub(super) fn append(
        &mut self,
        slices: [&[u8]; 2],
        present: usize,
        offset: Offset,
        next_offset: Offset,
        max_timestamp: i64,
        content: &mut ContentCrc,
    ) -> Result<(), Damage> {
        self.index.append(self.base, offset, self.bytes - present as u64, max_timestamp);
        if self.max_timestamp.is_none_or(|(largest, _)| max_timestamp > largest) {
            self.max_timestamp = Some((max_timestamp, offset));
        }
        self.next_offset = next_offset;
        let mut present = present;
        for slice in slices {
            let known = present.min(slice.len());
            present -= known;
            self.extend(&slice[known..], content)?;
        }
        let Some(closing) = self.proven_closing else { return Ok(()) };
        if self.bytes > self.disk_bytes {
            let bytes = self.bytes - self.disk_bytes;
            let kind = DamageKind::SegmentRegenerated;
            return Err(Damage { file: self.log_file(), offset: self.disk_bytes, bytes, kind });
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
        assert!(self.known, "a segment that is settled is behind everything that asks for its end");
        Closing { bytes: u32::try_from(self.bytes % CHUNK).expect("less than a chunk"), crc: self.rest_crc }
    }

    fn full_chunks(&self) -> usize {
        chunks_in(self.bytes)
    }

    /// The CRC of a full chunk.
    pub(super) fn chunk_crc(&self, chunk: usize) -> u32 {
        self.crcs[chunk]
    }

    /// Takes over a checksum that nothing vouches for.
    #[cfg(feature = "mutants")]
    pub(super) fn believe(&mut self, chunk: usize, crc: u32) {
        if let Some(known) = self.crcs.get_mut(chunk) {
            *known = crc;
        }
    }

    /// CRC of the bytes on disk behind the last full chunk there.
    pub(super) fn disk_rest_crc(&self) -> u32 {
        self.disk_rest_crc
    }

    /// Entries of the side file, as far as their batches were appended in this life of the process.
    pub(super) fn recorded_entries(&self) -> usize {
        let closed = self.proven_closing.is_some() && self.bytes == self.disk_bytes;
        self.proven_chunks.min(self.full_chunks()) + usize::from(closed)
    }

    /// One of them.
    pub(super) fn side_entry(&self, number: usize) -> ChunkEntry {
        if number < self.proven_chunks { self.entry(number) } else { self.rest_entry(self.bytes, self.rest_crc) }
    }

    /// What is recorded of a full chunk.
    fn entry(&self, chunk: usize) -> ChunkEntry {
        ChunkEntry { bytes: SEGMENT_CHUNK_BYTES as u32, crc: self.crcs[chunk], stretch: self.index.of_chunk(chunk) }
    }

    /// What is recorded of the bytes behind the last full chunk before `length`.
    fn rest_entry(&self, length: u64, crc: u32) -> ChunkEntry {
        let bytes = u32::try_from(length % CHUNK).expect("less than a chunk");
        let begun = self.index.of_chunk(chunks_in(length)).filter(|stretch| u64::from(stretch.place) < length);
        ChunkEntry { bytes, crc, stretch: begun }
    }

    /// The first `length` bytes, all of which are on disk: all bytes, or the end of what is on disk.
    pub(super) fn image(&self, length: u64) -> SegmentImage {
        assert!(length > 0 && length <= self.disk_bytes && length <= self.bytes, "an image names what is on disk");
        let full = chunks_in(length);
        let proven = self.proven_chunks.min(full);
        let closed = self.proven_closing.is_some() && length == self.disk_bytes;
        let mut entries: Vec<ChunkEntry> = (proven..full).map(|chunk| self.entry(chunk)).collect();
        if !closed && !length.is_multiple_of(CHUNK) {
            assert!(length == self.bytes || length == self.disk_bytes, "the CRC of the unfinished chunk is known here");
            let crc = if length == self.bytes { self.rest_crc } else { self.disk_rest_crc };
            entries.push(self.rest_entry(length, crc));
        }
        SegmentImage {
            base: self.base,
            bytes: u32::try_from(length).expect("a segment is smaller than 4 GiB"),
            max_timestamp: self.max_timestamp,
            closed,
            proven_chunks: u32::try_from(proven).expect("a segment has fewer than 2^32 chunks"),
            entries,
        }
    }

    /// The bytes up to `disk_bytes` of the file are synced; `rest_crc` covers those behind the last full chunk.
    pub(super) fn synced(&mut self, disk_bytes: u64, rest_crc: u32) {
        assert!(disk_bytes > self.disk_bytes && disk_bytes <= self.bytes, "a sync covers what was written");
        self.disk_bytes = disk_bytes;
        self.disk_rest_crc = rest_crc;
    }

    /// Entries that the side file does not hold yet, from number [`Segment::proven_chunks`] on: of full chunks on disk,
    /// and the one that closes the segment if that is due. None at all if they are fewer than `worth` and close nothing.
    pub(super) fn unproven(&self, worth: usize) -> (Vec<ChunkEntry>, Option<Closing>) {
        let full = chunks_in(self.disk_bytes);
        let closes = self.rolled && self.disk_bytes == self.bytes;
        if self.proven_closing.is_some() || !closes && full - self.proven_chunks < worth {
            return (Vec::new(), None);
        }
        let mut entries: Vec<_> = (self.proven_chunks..full).map(|chunk| self.entry(chunk)).collect();
        if closes {
            entries.push(self.rest_entry(self.bytes, self.rest_crc));
        }
        (entries, closes.then(|| self.rest()))
    }

    /// Bytes of the file that the synced side file proves.
    pub(super) fn proven_bytes(&self) -> u64 {
        self.proven_chunks as u64 * CHUNK + self.proven_closing.map_or(0, |closing| u64::from(closing.bytes))
    }

    /// Where the chunk begins that is damaged next, at or behind `from`; `u64::MAX` if none is known to be.
    pub(super) fn sound_until(&self, from: u64) -> u64 {
        self.marks.next_marked(chunks_in(from)).map_or(u64::MAX, |chunk| chunk as u64 * CHUNK)
    }

    /// The CRCs that verify a read from `from` (on a chunk boundary) to `to` (on one, or the end of what is on disk).
    pub(super) fn checksums(&self, from: u64, to: u64) -> Vec<u32> {
        assert!(self.known, "the side file is read first");
        assert!(from.is_multiple_of(CHUNK) && from < to && to <= self.disk_bytes, "a read covers what is on disk");
        assert!(self.sound_until(from) >= to, "damaged chunks are not read");
        let mut crcs = self.crcs[chunks_in(from)..chunks_in(to)].to_vec();
        if !to.is_multiple_of(CHUNK) {
            assert_eq!(to, self.disk_bytes, "a read ends with a chunk or with what is on disk");
            crcs.push(self.disk_rest_crc);
        }
        crcs
    }
}

/// Full chunks in so many bytes of a file.
pub(super) fn chunks_in(bytes: u64) -> usize {
    usize::try_from(bytes / CHUNK).expect("a segment is smaller than 4 GiB")
}
