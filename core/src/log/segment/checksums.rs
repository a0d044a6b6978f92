//! The side file of a segment: a CRC-32C and an index entry for each finished chunk of its raw bytes.
//!
//! Invariant: an entry is written after a sync of its chunk, and the next ones after a sync of these. So a valid entry
//! proves its chunk; an invalid one with one of a later write behind it is damage, else a torn last write, and is cut.
//!
//! The layout (version 2) is in docs/segment-format.md. Entries take 32 bytes and never straddle a sector. The last
//! entry of a closed segment, and no other, is for less than a full chunk, possibly none.

use bytes::{BufMut, Bytes, BytesMut};

use super::{damage::DamageKind, index::Stretch};
use crate::{
    ids::{GroupId, Offset},
    limits::{SEGMENT_BYTES_MAX, SEGMENT_CHUNK_BYTES},
};

pub(super) const HEADER_BYTES: usize = 32;
pub(super) const ENTRY_BYTES: usize = 32;
/// What of an entry says something about its chunk.
pub(super) const ENTRY_FIELDS_BYTES: usize = 24;
/// No segment needs a longer side file: a segment passes [`SEGMENT_BYTES_MAX`] by less than its last batch.
pub(super) const FILE_BYTES_MAX: u64 =
    (HEADER_BYTES as u64) + (SEGMENT_BYTES_MAX * 2 / SEGMENT_CHUNK_BYTES as u64 + 1) * ENTRY_BYTES as u64;

const MAGIC: [u8; 4] = *b"KCRC";
const VERSION: u16 = 2;
/// In place of a position: no batch begins in the chunk.
const NO_BATCH: u32 = u32::MAX;

/// The rest of a closed segment behind its last full chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    /// Less than a chunk.
    pub(super) bytes: u32,
    pub(super) crc: u32,
}

/// What is recorded of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChunkEntry {
    pub(super) bytes: u32,
    pub(super) crc: u32,
    /// The batches that begin in it, if any do.
    pub(super) stretch: Option<Stretch>,
}

/// What a side file proves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Proof {
    /// The full chunks, from the first on.
    pub(super) chunks: Vec<ChunkEntry>,
    /// Present if the segment was closed.
    pub(super) closing: Option<ChunkEntry>,
}

impl ChunkEntry {
    pub(super) fn closing(&self) -> Closing {
        Closing { bytes: self.bytes, crc: self.crc }
    }

    /// The fields that entries of side files and of images share: 24 bytes.
    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.bytes);
        out.put_u32_le(self.crc);
        match self.stretch {
            Some(stretch) => {
                out.put_u32_le(stretch.place % SEGMENT_CHUNK_BYTES as u32);
                out.put_u32_le(stretch.offset_delta);
                out.put_i64_le(stretch.max_timestamp);
            }
            None => {
                out.put_u32_le(NO_BATCH);
                out.put_u32_le(0);
                out.put_i64_le(0);
            }
        }
    }

    /// The entry of chunk `number` from its [`ENTRY_FIELDS_BYTES`]; `None` if they make no sense.
    pub(super) fn decode(number: usize, fields: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes(fields[at..at + 4].try_into().expect("four bytes"));
        let (bytes, crc, place, offset_delta) = (u32_at(0), u32_at(4), u32_at(8), u32_at(12));
        let max_timestamp = i64::from_le_bytes(fields[16..24].try_into().expect("eight bytes"));
        let stretch = match place {
            NO_BATCH => None,
            place if place < bytes => {
                let place = u32::try_from(number * SEGMENT_CHUNK_BYTES + place as usize).ok()?;
                Some(Stretch { offset_delta, place, max_timestamp })
            }
            _ => return None,
        };
        (bytes as usize <= SEGMENT_CHUNK_BYTES).then_some(Self { bytes, crc, stretch })
    }
}

impl Proof {
    pub(super) fn entries(&self) -> usize {
        self.chunks.len() + usize::from(self.closing.is_some())
    }

    /// Bytes of the segment that are proven.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.chunks.len() * SEGMENT_CHUNK_BYTES) as u64 + self.closing.map_or(0, |closing| u64::from(closing.bytes))
    }

    /// Forgets what is behind so many full chunks, unless `closed` says that the closing entry is to be kept.
    pub(super) fn shorten(&mut self, chunks: usize, closed: bool) {
        self.chunks.truncate(chunks);
        if !closed {
            self.closing = None;
        }
    }

    /// Bytes of the side file that hold it.
    pub(super) fn file_bytes(&self) -> u64 {
        entry_offset(self.entries())
    }
}

/// Where an entry stands in the side file.
pub(super) fn entry_offset(number: usize) -> u64 {
    (HEADER_BYTES + number * ENTRY_BYTES) as u64
}

pub(super) fn encode_header(group: GroupId, base: Offset) -> Bytes {
    let mut header = BytesMut::with_capacity(HEADER_BYTES);
    header.put_slice(&MAGIC);
    header.put_u16_le(VERSION);
    header.put_u16_le(0);
    header.put_u32_le(u32::try_from(SEGMENT_CHUNK_BYTES).expect("a chunk is small"));
    header.put_u64_le(group.0);
    header.put_i64_le(base.0);
    header.put_u32_le(crc32c::crc32c(&header));
    header.freeze()
}

/// The entries of one write, for the chunks from number `first` on.
pub(super) fn encode_entries(group: GroupId, base: Offset, first: usize, entries: &[ChunkEntry]) -> Bytes {
    let mut out = BytesMut::with_capacity(entries.len() * ENTRY_BYTES);
    for (number, entry) in (first..).zip(entries) {
        let start = out.len();
        out.put_u32_le(number_u32(first));
        entry.encode(&mut out);
        let check = entry_check(group, base, number, &out[start..]);
        out.put_u32_le(check);
    }
    out.freeze()
}

/// What of a side file can be believed, whatever is wrong with the rest: every entry proves itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Salvaged {
    pub(super) has_header: bool,
    /// By number.
    pub(super) entries: Vec<Option<ChunkEntry>>,
}

impl Salvaged {
    /// The entries of a side file of which so many are known to have been synced, with gaps filled by entries that say
    /// nothing; `rest`: the bytes that a closing entry among them is for. Also the numbers of those gaps.
    pub(super) fn fill(&self, recorded: usize, rest: Option<u32>) -> (Proof, Vec<usize>) {
        let (mut proof, mut lost) = (Proof::default(), Vec::new());
        let closing = rest.map(|_| recorded - 1);
        for number in 0..recorded.max(self.entries.len()) {
            let bytes = rest.filter(|_| closing == Some(number)).unwrap_or(SEGMENT_CHUNK_BYTES as u32);
            let found = self.entries.get(number).copied().flatten();
            let entry = match found {
                Some(entry) if number >= recorded || entry.bytes == bytes => entry,
                _ if number >= recorded => break,
                _ => {
                    lost.push(number);
                    ChunkEntry { bytes, crc: 0, stretch: None }
                }
            };
            if entry.bytes as usize == SEGMENT_CHUNK_BYTES {
                proof.chunks.push(entry);
            } else {
                proof.closing = Some(entry);
                break;
            }
        }
        (proof, lost)
    }
}

/// Reads a side file that may be damaged. An error says that it is one of a version that is not known.
pub(super) fn salvage(group: GroupId, base: Offset, bytes: &[u8]) -> Result<Salvaged, DamageKind> {
    let header = check_header(group, base, bytes);
    if let Err(kind @ DamageKind::ChecksumVersion { .. }) = header {
        return Err(kind);
    }
    let entries = bytes.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES).enumerate();
    let entries = entries.map(|(number, entry)| Some(Entry::decode(group, base, number, entry)?.chunk)).collect();
    Ok(Salvaged { has_header: header.is_ok(), entries })
}

/// Reads a whole side file. An error says what is wrong, and with which entry if it is one.
pub(super) fn decode(group: GroupId, base: Offset, bytes: &[u8]) -> Result<Proof, (Option<usize>, DamageKind)> {
    let entries = bytes.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES);
    let mut valid =
        entries.enumerate().filter_map(|(number, entry)| Entry::decode(group, base, number, entry)).peekable();
    if let Err(kind) = check_header(group, base, bytes) {
        // The header is synced before the first entry is written: without any entry it is merely torn.
        let torn = kind == DamageKind::ChecksumHeader && valid.peek().is_none();
        return if torn { Ok(Proof::default()) } else { Err((None, kind)) };
    }
    let mut proof = Proof::default();
    while let Some(entry) = valid.next_if(|entry| entry.number == proof.entries()) {
        if proof.closing.is_some() {
            return Err((Some(entry.number), DamageKind::ChecksumBehindClosing));
        }
        if entry.chunk.bytes as usize == SEGMENT_CHUNK_BYTES {
            proof.chunks.push(entry.chunk);
        } else {
            proof.closing = Some(entry.chunk);
        }
    }
    let missing = proof.entries();
    match valid.find(|entry| entry.first_of_write > missing) {
        Some(_) => Err((Some(missing), DamageKind::ChecksumEntry)),
        None => Ok(proof),
    }
}

struct Entry {
    number: usize,
    first_of_write: usize,
    chunk: ChunkEntry,
}

impl Entry {
    fn decode(group: GroupId, base: Offset, number: usize, entry: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"));
        let checked = ENTRY_BYTES - 4;
        if u32_at(checked) != entry_check(group, base, number, &entry[..checked]) {
            return None;
        }
        let chunk = ChunkEntry::decode(number, &entry[4..checked])?;
        let first_of_write = u32_at(0) as usize;
        (first_of_write <= number).then_some(Self { number, first_of_write, chunk })
    }
}

fn check_header(group: GroupId, base: Offset, bytes: &[u8]) -> Result<(), DamageKind> {
    let header = bytes.get(..HEADER_BYTES).ok_or(DamageKind::ChecksumHeader)?;
    let (fields, check) = header.split_at(HEADER_BYTES - 4);
    if fields[..4] != MAGIC || crc32c::crc32c(fields).to_le_bytes() != check {
        return Err(DamageKind::ChecksumHeader);
    }
    let version = u16::from_le_bytes([fields[4], fields[5]]);
    if version != VERSION {
        return Err(DamageKind::ChecksumVersion { version });
    }
    // A sound header that names another group, segment or chunk size is a misplaced file, not a torn one.
    if header != encode_header(group, base) { Err(DamageKind::ChecksumOwner) } else { Ok(()) }
}

fn entry_check(group: GroupId, base: Offset, number: usize, fields: &[u8]) -> u32 {
    let check = crc32c::crc32c(&group.0.to_le_bytes());
    let check = crc32c::crc32c_append(check, &base.0.to_le_bytes());
    let check = crc32c::crc32c_append(check, &number_u32(number).to_le_bytes());
    crc32c::crc32c_append(check, fields)
}

fn number_u32(number: usize) -> u32 {
    u32::try_from(number).expect("a segment has fewer than 2^32 chunks")
}
