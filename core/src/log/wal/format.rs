//! The bytes of the WAL, version 1. The same in words: docs/wal-format.md; the same in bytes: the golden test below.
//!
//! A write is: header, directory, the previous write's directory once more, payloads, zeros up to the next block. All
//! numbers are little-endian. The header's CRC covers the header, which holds the CRCs of both directories, which hold
//! the CRC of every payload: one chain of checksums from header to payload, and from each header to the one before.
//!
//! Invariant: a length is believed only after the checksum that covers it. Does not read, write or decide anything.

use bytes::{BufMut, Bytes};

use crate::{
    ids::{FileSequence, GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    limits::WAL_BLOCK_BYTES,
    log::record::{EntryFile, EntryKind, EntryLocation, EntryRecord, WalRecord},
};

/// Bytes of a header.
pub(in crate::log) const HEADER_BYTES: usize = 128;
/// The version this build writes, and the only one it reads.
pub(in crate::log) const VERSION: u16 = 1;
/// The flag of the first write of a start.
const FLAG_OPENS: u16 = 1;
const MAGIC: [u8; 8] = *b"KauriWAL";
/// Where the header's own CRC stands.
const CRC_AT: usize = 12;

/// A random number minted with the data directory. It stands in every header, so that payload bytes sent by a client,
/// or files of another directory, are never taken for a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalKey(pub u64);

/// The fixed part at the start of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Header {
    pub(in crate::log) key: WalKey,
    /// The first write of a start. It may hold what an earlier start had in files that the log passes over from now on.
    pub(in crate::log) opens: bool,
    pub(in crate::log) file: FileSequence,
    /// Where the write starts in its file.
    pub(in crate::log) offset: u64,
    pub(in crate::log) number: WriteNumber,
    /// Every write up to this one was synced before this one was issued.
    pub(in crate::log) synced: WriteNumber,
    /// Where the previous write ended, and the CRC of its header. All zero in the very first write.
    pub(in crate::log) previous: PreviousWrite,
    pub(in crate::log) items: u32,
    pub(in crate::log) directory: Extent,
    pub(in crate::log) previous_directory: Extent,
    pub(in crate::log) payload_length: u64,
    /// The size the file had before its first write, so that a file that was cut is noticed.
    pub(in crate::log) file_bytes: u64,
}

/// How a write names the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::log) struct PreviousWrite {
    pub(in crate::log) file: FileSequence,
    /// The exact end of the write, blocks included: in the same file the offset of this write.
    pub(in crate::log) end: u64,
    pub(in crate::log) header_crc: u32,
}

/// Length and checksum of some bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::log) struct Extent {
    pub(in crate::log) length: u32,
    pub(in crate::log) crc: u32,
}

/// Why bytes are not a header this build can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum HeaderError {
    /// Zeros, other bytes, or a header that is not intact.
    Absent,
    /// An intact header of another data directory.
    Foreign,
    /// An intact header of this data directory, of a version this build does not know.
    Version(u16),
}

impl Extent {
    pub(in crate::log) fn of(bytes: &[u8]) -> Self {
        Self { length: length32(bytes.len()), crc: crc32c::crc32c(bytes) }
    }

    pub(in crate::log) fn matches(self, bytes: &[u8]) -> bool {
        self.length as usize == bytes.len() && self.crc == crc32c::crc32c(bytes)
    }
}

impl Header {
    /// The bytes and the CRC that the next header names.
    pub(in crate::log) fn encode(&self) -> ([u8; HEADER_BYTES], u32) {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(if self.opens { FLAG_OPENS } else { 0 });
        out.put_u32_le(0); // CRC, below
        out.put_u64_le(self.key.0);
        out.put_u64_le(self.file.0);
        out.put_u64_le(self.offset);
        out.put_u64_le(self.number.0);
        out.put_u64_le(self.synced.0);
        out.put_u64_le(self.previous.file.0);
        out.put_u64_le(self.previous.end);
        out.put_u32_le(self.previous.header_crc);
        out.put_u32_le(self.items);
        out.put_u32_le(self.directory.length);
        out.put_u32_le(self.directory.crc);
        out.put_u32_le(self.previous_directory.length);
        out.put_u32_le(self.previous_directory.crc);
        out.put_u64_le(self.payload_length);
        out.put_u64_le(self.file_bytes);
        let crc = header_crc(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Parses the first [`HEADER_BYTES`] of `bytes`; also returns the header's CRC. In every version magic, CRC and key
    /// stand where they stand in this one.
    pub(in crate::log) fn decode(bytes: &[u8], key: WalKey) -> Result<(Self, u32), HeaderError> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else { return Err(HeaderError::Absent) };
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes[..8] != MAGIC || u32_at(CRC_AT) != header_crc(bytes) {
            return Err(HeaderError::Absent);
        }
        if u64_at(16) != key.0 {
            return Err(HeaderError::Foreign);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        // Other flags and the reserved tail are zero in version 1: a later build that uses them raises the version.
        let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let header = Self {
            key,
            opens: flags & FLAG_OPENS != 0,
            file: FileSequence(u64_at(24)),
            offset: u64_at(32),
            number: WriteNumber(u64_at(40)),
            synced: WriteNumber(u64_at(48)),
            previous: PreviousWrite { file: FileSequence(u64_at(56)), end: u64_at(64), header_crc: u32_at(72) },
            items: u32_at(76),
            directory: Extent { length: u32_at(80), crc: u32_at(84) },
            previous_directory: Extent { length: u32_at(88), crc: u32_at(92) },
            payload_length: u64_at(96),
            file_bytes: u64_at(104),
        };
        Ok((header, u32_at(CRC_AT)))
    }

    /// Whether this header was written for this place in this life of the file.
    pub(in crate::log) fn belongs(&self, file: FileSequence, offset: u64) -> bool {
        self.file == file && self.offset == offset
    }

    /// Offset in the file of the directory.
    pub(in crate::log) fn directory_start(&self) -> u64 {
        self.offset.saturating_add(HEADER_BYTES as u64)
    }

    /// Length of the directory and the previous one together.
    pub(in crate::log) fn directories_length(&self) -> u64 {
        u64::from(self.directory.length) + u64::from(self.previous_directory.length)
    }

    /// Offset in the file of the first payload.
    pub(in crate::log) fn payload_start(&self) -> u64 {
        self.directory_start().saturating_add(self.directories_length())
    }

    /// Offset in the file where the next write starts.
    pub(in crate::log) fn end(&self) -> u64 {
        block_end(self.payload_start().saturating_add(self.payload_length))
    }

    /// How the next write names this one.
    pub(in crate::log) fn as_previous(&self, crc: u32) -> PreviousWrite {
        PreviousWrite { file: self.file, end: self.end(), header_crc: crc }
    }
}

/// The next multiple of the block size.
pub(in crate::log) fn block_end(offset: u64) -> u64 {
    offset.checked_next_multiple_of(WAL_BLOCK_BYTES as u64).unwrap_or(u64::MAX)
}

fn header_crc(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&bytes[..CRC_AT]);
    crc32c::crc32c_append(crc, &bytes[CRC_AT + 4..HEADER_BYTES])
}

fn length32(length: usize) -> u32 {
    u32::try_from(length).expect("a write holds less than 4 GiB")
}

/// One item of a directory: a record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) enum Item {
    Entry(EntryItem),
    HardState { group: GroupId, replica: ReplicaId, term: Term, vote: ReplicaId, commit: LogIndex },
    Fill(EntryItem),
    Create { group: GroupId, replica: ReplicaId, blob: Blob },
    Destroy { group: GroupId, replica: ReplicaId },
    Switch { group: GroupId, replica: ReplicaId, blob: Blob },
    Quarantine { group: GroupId, replica: ReplicaId, index: LogIndex, blob: Blob },
    CheckpointDone { blob: Blob },
}

/// An entry whose payload, context ++ data, lies `place` bytes behind the start of the write's payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct EntryItem {
    pub(in crate::log) group: GroupId,
    pub(in crate::log) index: LogIndex,
    pub(in crate::log) term: Term,
    pub(in crate::log) kind: EntryKind,
    pub(in crate::log) place: u32,
    pub(in crate::log) context_length: u32,
    pub(in crate::log) data_length: u32,
    pub(in crate::log) crc: u32,
}

/// Opaque bytes that lie `place` bytes behind the start of the write's payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Blob {
    pub(in crate::log) place: u32,
    pub(in crate::log) length: u32,
    pub(in crate::log) crc: u32,
}

/// Why a directory whose checksum holds cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::log) enum DirectoryError {
    #[error("record kind {0} is unknown to this build")]
    UnknownKind(u8),
    #[error("entry type {0} is unknown to this build")]
    UnknownEntryKind(u8),
    #[error("the directory ends within an item or holds more or fewer items than its header says")]
    Length,
    #[error("payloads do not lie one after the other")]
    Place,
}

const KIND_ENTRY: u8 = 1;
const KIND_HARD_STATE: u8 = 2;
const KIND_FILL: u8 = 3;
const KIND_CREATE: u8 = 4;
const KIND_DESTROY: u8 = 5;
const KIND_SWITCH: u8 = 6;
const KIND_QUARANTINE: u8 = 7;
const KIND_CHECKPOINT_DONE: u8 = 8;

/// CRC-32C of an entry's payload and of what it is the payload of: the same on every replica.
pub fn entry_crc(group: GroupId, index: LogIndex, term: Term, context: &[u8], data: &[u8]) -> u32 {
    let identity = entry_identity(group, index, term, length32(context.len()));
    let crc = crc32c::crc32c_append(crc32c::crc32c(&identity), context);
    crc32c::crc32c_append(crc, data)
}

/// Like [`entry_crc`], of context and data in one piece.
pub(in crate::log) fn entry_payload_crc(
    group: GroupId,
    index: LogIndex,
    term: Term,
    context_length: u32,
    payload: &[u8],
) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&entry_identity(group, index, term, context_length)), payload)
}

fn entry_identity(group: GroupId, index: LogIndex, term: Term, context_length: u32) -> [u8; 28] {
    let mut identity = [0; 28];
    let mut out = &mut identity[..];
    out.put_u64_le(group.0);
    out.put_u64_le(index.0);
    out.put_u64_le(term.0);
    out.put_u32_le(context_length);
    identity
}

impl Item {
    /// The item of a record whose payload comes at `place`. Hashes the payload.
    pub(in crate::log) fn of(record: &WalRecord, place: u32) -> Self {
        let blob = |bytes: &Bytes| Blob { place, length: length32(bytes.len()), crc: crc32c::crc32c(bytes) };
        match *record {
            WalRecord::Entry(ref entry) => Self::Entry(EntryItem::of(entry, place)),
            WalRecord::Fill(ref entry) => Self::Fill(EntryItem::of(entry, place)),
            WalRecord::HardState { group, replica, term, vote, commit } => {
                Self::HardState { group, replica, term, vote, commit }
            }
            WalRecord::Create { group, replica, ref creation } => Self::Create { group, replica, blob: blob(creation) },
            WalRecord::Destroy { group, replica } => Self::Destroy { group, replica },
            WalRecord::Switch { group, replica, ref state } => Self::Switch { group, replica, blob: blob(state) },
            WalRecord::Quarantine { group, replica, index, ref build } => {
                Self::Quarantine { group, replica, index, blob: blob(build) }
            }
            WalRecord::CheckpointDone { ref checkpoint } => Self::CheckpointDone { blob: blob(checkpoint) },
        }
    }

    pub(in crate::log) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Entry(entry) => entry.encode(KIND_ENTRY, out),
            Self::Fill(entry) => entry.encode(KIND_FILL, out),
            Self::HardState { group, replica, term, vote, commit } => {
                out.put_u8(KIND_HARD_STATE);
                out.put_u64_le(group.0);
                out.put_u64_le(replica.0);
                out.put_u64_le(term.0);
                out.put_u64_le(vote.0);
                out.put_u64_le(commit.0);
            }
            Self::Create { group, replica, blob } => {
                encode_replica(KIND_CREATE, group, replica, out);
                blob.encode(out);
            }
            Self::Destroy { group, replica } => encode_replica(KIND_DESTROY, group, replica, out),
            Self::Switch { group, replica, blob } => {
                encode_replica(KIND_SWITCH, group, replica, out);
                blob.encode(out);
            }
            Self::Quarantine { group, replica, index, blob } => {
                encode_replica(KIND_QUARANTINE, group, replica, out);
                out.put_u64_le(index.0);
                blob.encode(out);
            }
            Self::CheckpointDone { blob } => {
                out.put_u8(KIND_CHECKPOINT_DONE);
                blob.encode(out);
            }
        }
    }

    fn decode(input: &mut Fields<'_>) -> Result<Self, DirectoryError> {
        let [kind] = input.take()?;
        match kind {
            KIND_ENTRY => Ok(Self::Entry(EntryItem::decode(input)?)),
            KIND_FILL => Ok(Self::Fill(EntryItem::decode(input)?)),
            KIND_HARD_STATE => Ok(Self::HardState {
                group: GroupId(input.u64()?),
                replica: ReplicaId(input.u64()?),
                term: Term(input.u64()?),
                vote: ReplicaId(input.u64()?),
                commit: LogIndex(input.u64()?),
            }),
            KIND_CREATE => Ok(Self::Create {
                group: GroupId(input.u64()?),
                replica: ReplicaId(input.u64()?),
                blob: Blob::decode(input)?,
            }),
            KIND_DESTROY => Ok(Self::Destroy { group: GroupId(input.u64()?), replica: ReplicaId(input.u64()?) }),
            KIND_SWITCH => Ok(Self::Switch {
                group: GroupId(input.u64()?),
                replica: ReplicaId(input.u64()?),
                blob: Blob::decode(input)?,
            }),
            KIND_QUARANTINE => Ok(Self::Quarantine {
                group: GroupId(input.u64()?),
                replica: ReplicaId(input.u64()?),
                index: LogIndex(input.u64()?),
                blob: Blob::decode(input)?,
            }),
            KIND_CHECKPOINT_DONE => Ok(Self::CheckpointDone { blob: Blob::decode(input)? }),
            unknown => Err(DirectoryError::UnknownKind(unknown)),
        }
    }

    /// Place and length of the payload; length 0 if the record has none.
    pub(in crate::log) fn payload(&self) -> Option<(u32, u64)> {
        match *self {
            Self::Entry(entry) | Self::Fill(entry) => {
                Some((entry.place, u64::from(entry.context_length) + u64::from(entry.data_length)))
            }
            Self::Create { blob, .. }
            | Self::Switch { blob, .. }
            | Self::Quarantine { blob, .. }
            | Self::CheckpointDone { blob } => Some((blob.place, u64::from(blob.length))),
            Self::HardState { .. } | Self::Destroy { .. } => None,
        }
    }

    /// The CRC its payload must have, and the CRC to start from when computing it.
    pub(in crate::log) fn checksum(&self) -> (u32, u32) {
        match *self {
            Self::Entry(entry) | Self::Fill(entry) => {
                let identity = entry_identity(entry.group, entry.index, entry.term, entry.context_length);
                (entry.crc, crc32c::crc32c(&identity))
            }
            Self::Create { blob, .. }
            | Self::Switch { blob, .. }
            | Self::Quarantine { blob, .. }
            | Self::CheckpointDone { blob } => (blob.crc, 0),
            Self::HardState { .. } | Self::Destroy { .. } => (0, 0),
        }
    }

    /// Where the payload of an entry or fill lies, in a file whose payloads for this write start at `payload_start`.
    pub(in crate::log) fn location(&self, file: FileSequence, payload_start: u64) -> Option<EntryLocation> {
        match *self {
            Self::Entry(entry) | Self::Fill(entry) => Some(EntryLocation {
                file: EntryFile::Wal(file),
                offset: payload_start + u64::from(entry.place),
                context_length: entry.context_length,
                data_length: entry.data_length,
                crc: entry.crc,
            }),
            Self::HardState { .. }
            | Self::Create { .. }
            | Self::Destroy { .. }
            | Self::Switch { .. }
            | Self::Quarantine { .. }
            | Self::CheckpointDone { .. } => None,
        }
    }

    /// The record of an entry or fill whose payload cannot be read; `None` for others.
    pub(in crate::log) fn without_payload(self) -> Option<WalRecord> {
        let empty = |entry: EntryItem| EntryRecord {
            group: entry.group,
            index: entry.index,
            term: entry.term,
            kind: entry.kind,
            context: Bytes::new(),
            data: Bytes::new(),
        };
        match self {
            Self::Entry(entry) => Some(WalRecord::Entry(empty(entry))),
            Self::Fill(entry) => Some(WalRecord::Fill(empty(entry))),
            Self::HardState { .. }
            | Self::Create { .. }
            | Self::Destroy { .. }
            | Self::Switch { .. }
            | Self::Quarantine { .. }
            | Self::CheckpointDone { .. } => None,
        }
    }

    /// The record again; `payload` has the length that [`Item::payload`] says and was checked.
    pub(in crate::log) fn into_record(self, payload: Bytes) -> WalRecord {
        match self {
            Self::Entry(entry) => WalRecord::Entry(entry.into_record(payload)),
            Self::Fill(entry) => WalRecord::Fill(entry.into_record(payload)),
            Self::HardState { group, replica, term, vote, commit } => {
                WalRecord::HardState { group, replica, term, vote, commit }
            }
            Self::Create { group, replica, .. } => WalRecord::Create { group, replica, creation: payload },
            Self::Destroy { group, replica } => WalRecord::Destroy { group, replica },
            Self::Switch { group, replica, .. } => WalRecord::Switch { group, replica, state: payload },
            Self::Quarantine { group, replica, index, .. } => {
                WalRecord::Quarantine { group, replica, index, build: payload }
            }
            Self::CheckpointDone { .. } => WalRecord::CheckpointDone { checkpoint: payload },
        }
    }
}

fn encode_replica(kind: u8, group: GroupId, replica: ReplicaId, out: &mut Vec<u8>) {
    out.put_u8(kind);
    out.put_u64_le(group.0);
    out.put_u64_le(replica.0);
}

impl EntryItem {
    fn of(entry: &EntryRecord, place: u32) -> Self {
        Self {
            group: entry.group,
            index: entry.index,
            term: entry.term,
            kind: entry.kind,
            place,
            context_length: length32(entry.context.len()),
            data_length: length32(entry.data.len()),
            crc: entry_crc(entry.group, entry.index, entry.term, &entry.context, &entry.data),
        }
    }

    fn encode(&self, kind: u8, out: &mut Vec<u8>) {
        out.put_u8(kind);
        out.put_u8(match self.kind {
            EntryKind::Normal => 0,
            EntryKind::ConfChange => 1,
            EntryKind::ConfChangeV2 => 2,
        });
        out.put_u64_le(self.group.0);
        out.put_u64_le(self.index.0);
        out.put_u64_le(self.term.0);
        out.put_u32_le(self.place);
        out.put_u32_le(self.context_length);
        out.put_u32_le(self.data_length);
        out.put_u32_le(self.crc);
    }

    fn decode(input: &mut Fields<'_>) -> Result<Self, DirectoryError> {
        let [kind] = input.take()?;
        let kind = match kind {
            0 => EntryKind::Normal,
            1 => EntryKind::ConfChange,
            2 => EntryKind::ConfChangeV2,
            unknown => return Err(DirectoryError::UnknownEntryKind(unknown)),
        };
        Ok(Self {
            group: GroupId(input.u64()?),
            index: LogIndex(input.u64()?),
            term: Term(input.u64()?),
            kind,
            place: input.u32()?,
            context_length: input.u32()?,
            data_length: input.u32()?,
            crc: input.u32()?,
        })
    }

    fn into_record(self, mut payload: Bytes) -> EntryRecord {
        let context = payload.split_to(self.context_length as usize);
        EntryRecord { group: self.group, index: self.index, term: self.term, kind: self.kind, context, data: payload }
    }
}

impl Blob {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32_le(self.place);
        out.put_u32_le(self.length);
        out.put_u32_le(self.crc);
    }

    fn decode(input: &mut Fields<'_>) -> Result<Self, DirectoryError> {
        Ok(Self { place: input.u32()?, length: input.u32()?, crc: input.u32()? })
    }
}

/// The items of a directory whose checksum was checked, as an iterator that holds the bytes and parses one at a time.
#[derive(Debug)]
pub(in crate::log) struct Directory {
    bytes: Bytes,
    items_left: u32,
    /// Where the next payload must start.
    place: u64,
    payload_length: u64,
}

impl Directory {
    pub(in crate::log) fn new(bytes: Bytes, header: &Header) -> Self {
        Self { bytes, items_left: header.items, place: 0, payload_length: header.payload_length }
    }

    /// How many items whole directory bytes hold, and how long their payloads are together.
    pub(in crate::log) fn measure(bytes: &[u8]) -> Result<(u32, u64), DirectoryError> {
        let mut fields = Fields(bytes);
        let (mut items, mut payload_length) = (0, 0);
        while !fields.0.is_empty() {
            let item = Item::decode(&mut fields)?;
            items += 1;
            payload_length += item.payload().map_or(0, |(_, length)| length);
        }
        Ok((items, payload_length))
    }

    /// The next item, or `None` when all were read and account for every byte of directory and payloads.
    pub(in crate::log) fn next_item(&mut self) -> Result<Option<Item>, DirectoryError> {
        if self.items_left == 0 {
            if !self.bytes.is_empty() {
                return Err(DirectoryError::Length);
            }
            return if self.place == self.payload_length { Ok(None) } else { Err(DirectoryError::Place) };
        }
        let mut fields = Fields(&self.bytes);
        let item = Item::decode(&mut fields)?;
        let used = self.bytes.len() - fields.0.len();
        self.bytes = self.bytes.slice(used..);
        self.items_left -= 1;
        if let Some((place, length)) = item.payload() {
            if u64::from(place) != self.place {
                return Err(DirectoryError::Place);
            }
            self.place += length;
            if self.place > self.payload_length {
                return Err(DirectoryError::Place);
            }
        }
        Ok(Some(item))
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DirectoryError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DirectoryError::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, DirectoryError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DirectoryError> {
        self.take().map(u64::from_le_bytes)
    }
}
