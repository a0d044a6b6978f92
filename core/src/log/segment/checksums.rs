//! The side file of a segment: a CRC-32C for each finished chunk of its raw bytes.
//!
//! Invariant: an entry is written after a sync of its chunk, and the next ones after a sync of these. So a valid entry
//! proves its chunk; an invalid one with one of a later write behind it is damage, else a torn last write, and is cut.
//!
//! Layout, little endian. Header of 32 bytes: magic `KCRC`, version u16, zero u16, chunk bytes u32, group u64, base
//! offset i64, CRC of these. Then entries of 16 bytes, which never straddle a sector: number of the first entry of the
//! same write u32, bytes of the chunk u32, its CRC u32, CRC of (group, base offset, entry number, these). The last
//! entry of a closed segment, and no other, is for less than a full chunk, possibly none.

use bytes::{BufMut, Bytes, BytesMut};

use super::damage::DamageKind;
use crate::{
    ids::{GroupId, Offset},
    limits::{SEGMENT_BYTES_MAX, SEGMENT_CHUNK_BYTES},
};

pub(super) const HEADER_BYTES: usize = 32;
pub(super) const ENTRY_BYTES: usize = 16;
/// No segment needs a longer side file: a segment passes [`SEGMENT_BYTES_MAX`] by less than its last batch.
pub(super) const FILE_BYTES_MAX: u64 =
    (HEADER_BYTES as u64) + (SEGMENT_BYTES_MAX * 2 / SEGMENT_CHUNK_BYTES as u64 + 1) * ENTRY_BYTES as u64;

const MAGIC: [u8; 4] = *b"KCRC";
const VERSION: u16 = 1;

/// The rest of a closed segment behind its last full chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    /// Less than a chunk.
    pub(super) bytes: u32,
    pub(super) crc: u32,
}

/// What a side file proves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Proof {
    /// CRCs of the full chunks, from the first on.
    pub(super) chunks: Vec<u32>,
    /// Present if the segment was closed.
    pub(super) closing: Option<Closing>,
}

impl Proof {
    pub(super) fn entries(&self) -> usize {
        self.chunks.len() + usize::from(self.closing.is_some())
    }

    /// Bytes of the segment that are proven.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.chunks.len() * SEGMENT_CHUNK_BYTES) as u64 + self.closing.map_or(0, |closing| u64::from(closing.bytes))
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

/// The entries of one write: full chunks from number `first` on, and the closing one if the segment ends with them.
pub(super) fn encode_entries(
    group: GroupId,
    base: Offset,
    first: usize,
    chunks: &[u32],
    closing: Option<Closing>,
) -> Bytes {
    let full = chunks.iter().map(|&crc| (SEGMENT_CHUNK_BYTES as u32, crc));
    let entries = full.chain(closing.map(|closing| (closing.bytes, closing.crc)));
    let mut out = BytesMut::with_capacity((chunks.len() + 1) * ENTRY_BYTES);
    for (number, (bytes, crc)) in (first..).zip(entries) {
        let start = out.len();
        out.put_u32_le(number_u32(first));
        out.put_u32_le(bytes);
        out.put_u32_le(crc);
        let check = entry_check(group, base, number, &out[start..]);
        out.put_u32_le(check);
    }
    out.freeze()
}

/// Reads a whole side file. An error names the byte of the side file and what is wrong there.
pub(super) fn decode(group: GroupId, base: Offset, bytes: &[u8]) -> Result<Proof, (u64, DamageKind)> {
    let entries = bytes.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(ENTRY_BYTES);
    let mut valid =
        entries.enumerate().filter_map(|(number, entry)| Entry::decode(group, base, number, entry)).peekable();
    if let Err(kind) = check_header(group, base, bytes) {
        // The header is synced before the first entry is written: without any entry it is merely torn.
        let torn = kind == DamageKind::ChecksumHeader && valid.peek().is_none();
        return if torn { Ok(Proof::default()) } else { Err((0, kind)) };
    }
    let mut proof = Proof::default();
    while let Some(entry) = valid.next_if(|entry| entry.number == proof.entries()) {
        if proof.closing.is_some() {
            return Err((entry_offset(entry.number), DamageKind::ChecksumBehindClosing));
        }
        if entry.bytes as usize == SEGMENT_CHUNK_BYTES {
            proof.chunks.push(entry.crc);
        } else {
            proof.closing = Some(Closing { bytes: entry.bytes, crc: entry.crc });
        }
    }
    let missing = proof.entries();
    match valid.find(|entry| entry.first_of_write > missing) {
        Some(_) => Err((entry_offset(missing), DamageKind::ChecksumEntry)),
        None => Ok(proof),
    }
}

struct Entry {
    number: usize,
    first_of_write: usize,
    bytes: u32,
    crc: u32,
}

impl Entry {
    fn decode(group: GroupId, base: Offset, number: usize, entry: &[u8]) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().expect("four bytes"));
        let sound = u32_at(12) == entry_check(group, base, number, &entry[..12]);
        let entry = Self { number, first_of_write: u32_at(0) as usize, bytes: u32_at(4), crc: u32_at(8) };
        (sound && entry.first_of_write <= number && entry.bytes as usize <= SEGMENT_CHUNK_BYTES).then_some(entry)
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
