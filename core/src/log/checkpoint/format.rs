//! The bytes of a checkpoint file, version 1. The same in words: docs/checkpoint-format.md.
//!
//! A file is: header, one frame for each group, a closing frame. A frame is its length, its CRC and its body. The record
//! in the WAL that makes a checkpoint count names the file's length and the CRC of all of its bytes. All numbers are
//! little-endian.
//!
//! Invariant: nothing of a frame is believed before its checksum held. Does not read, write or decide anything.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes};

use crate::{
    ids::{CheckpointNumber, FileSequence, GroupId, ReplicaId, WriteNumber},
    log::wal::WalKey,
};

/// The version this build writes, and the only one it reads.
pub(in crate::log) const VERSION: u16 = 1;
pub(in crate::log) const HEADER_BYTES: usize = 64;
/// Length, CRC and kind of a frame.
pub(in crate::log) const FRAME_HEADER_BYTES: usize = 9;
/// The header of an image file.
pub(in crate::log) const IMAGE_HEADER_BYTES: usize = 40;

const MAGIC: [u8; 8] = *b"KauriCKP";
const IMAGE_MAGIC: [u8; 8] = *b"KauriIMG";
/// Where a header's own CRC stands.
const CRC_AT: usize = 12;
const DONE_VERSION: u8 = 1;

const FRAME_GROUP: u8 = 1;
const FRAME_CLOSING: u8 = 2;

/// A place in the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalPosition {
    pub file: FileSequence,
    /// This write and those behind it lie in `file` or a later one.
    pub write: WriteNumber,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct Header {
    pub(in crate::log) key: WalKey,
    pub(in crate::log) number: CheckpointNumber,
    /// What of the WAL is needed beside this checkpoint.
    pub(in crate::log) from: WalPosition,
}

/// What the record in the WAL says about a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointDone {
    pub number: CheckpointNumber,
    /// Of the whole file.
    pub length: u64,
    pub crc: u32,
    pub from: WalPosition,
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("there is no header of a checkpoint")]
    Header,
    #[error("it was written for another data directory")]
    Foreign,
    #[error("format version {0} is unknown to this build")]
    Version(u16),
    #[error("the checksum does not hold")]
    Checksum,
    #[error("a part of it is missing, or something follows its end")]
    Length,
    #[error("a part of kind {0} is unknown to this build")]
    Kind(u8),
}

/// What a frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::log) enum Frame {
    /// An encoded [`super::GroupSection`].
    Group(Bytes),
    Closing(Closing),
}

/// The last frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::log) struct Closing {
    /// How many groups there are.
    pub(in crate::log) groups: u64,
    /// Replicas that were removed from this node and that the metadata may still show.
    pub(in crate::log) destroyed: BTreeSet<(GroupId, ReplicaId)>,
}

impl Header {
    pub(in crate::log) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0); // flags: none defined
        out.put_u32_le(0); // CRC, below
        out.put_u64_le(self.key.0);
        out.put_u64_le(self.number.0);
        out.put_u64_le(self.from.file.0);
        out.put_u64_le(self.from.write.0);
        let crc = header_crc(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(in crate::log) fn decode(bytes: &[u8], key: WalKey) -> Result<Self, FormatError> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::Length)?;
        check_header(bytes, MAGIC, key)?;
        Ok(Self {
            key,
            number: CheckpointNumber(u64_at(bytes, 24)),
            from: WalPosition { file: FileSequence(u64_at(bytes, 32)), write: WriteNumber(u64_at(bytes, 40)) },
        })
    }
}

/// The header of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct ImageHeader {
    pub(in crate::log) key: WalKey,
    pub(in crate::log) group: GroupId,
    pub(in crate::log) checkpoint: CheckpointNumber,
}

impl ImageHeader {
    pub(in crate::log) fn encode(&self) -> [u8; IMAGE_HEADER_BYTES] {
        let mut bytes = [0; IMAGE_HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(&IMAGE_MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0); // flags: none defined
        out.put_u32_le(0); // CRC, below
        out.put_u64_le(self.key.0);
        out.put_u64_le(self.group.0);
        out.put_u64_le(self.checkpoint.0);
        let crc = header_crc(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(in crate::log) fn decode(bytes: &[u8], key: WalKey) -> Result<Self, FormatError> {
        let bytes: &[u8; IMAGE_HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::Length)?;
        check_header(bytes, IMAGE_MAGIC, key)?;
        Ok(Self { key, group: GroupId(u64_at(bytes, 24)), checkpoint: CheckpointNumber(u64_at(bytes, 32)) })
    }
}

fn check_header(bytes: &[u8], magic: [u8; 8], key: WalKey) -> Result<(), FormatError> {
    if bytes[..8] != magic || u32_at(bytes, CRC_AT) != header_crc(bytes) {
        return Err(FormatError::Header);
    }
    if u64_at(bytes, 16) != key.0 {
        return Err(FormatError::Foreign);
    }
    match u16::from_le_bytes([bytes[8], bytes[9]]) {
        VERSION => Ok(()),
        version => Err(FormatError::Version(version)),
    }
}

fn header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CRC_AT]), &bytes[CRC_AT + 4..])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What stands before the body of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::log) struct FrameHeader {
    /// Of the body.
    pub(in crate::log) length: u32,
    /// Of length, kind and body.
    crc: u32,
    kind: u8,
}

impl FrameHeader {
    pub(in crate::log) fn of_group(body: &[Bytes]) -> Self {
        Self::new(FRAME_GROUP, body)
    }

    pub(in crate::log) fn of_closing(body: &[Bytes]) -> Self {
        Self::new(FRAME_CLOSING, body)
    }

    fn new(kind: u8, body: &[Bytes]) -> Self {
        let length = body.iter().map(Bytes::len).sum::<usize>();
        let length = u32::try_from(length).expect("limits keep a section below 4 GiB");
        let crc = body.iter().fold(seed(length, kind), |crc, slice| crc32c::crc32c_append(crc, slice));
        Self { length, crc, kind }
    }

    pub(in crate::log) fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_u32_le(self.length);
        out.put_u32_le(self.crc);
        out.put_u8(self.kind);
        bytes
    }

    pub(in crate::log) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes: &[u8; FRAME_HEADER_BYTES] = bytes.first_chunk().ok_or(FormatError::Length)?;
        Ok(Self { length: u32_at(bytes, 0), crc: u32_at(bytes, 4), kind: bytes[8] })
    }

    /// What the body holds.
    pub(in crate::log) fn open(&self, body: &Bytes) -> Result<Frame, FormatError> {
        if body.len() != self.length as usize || crc32c::crc32c_append(seed(self.length, self.kind), body) != self.crc {
            return Err(FormatError::Checksum);
        }
        match self.kind {
            FRAME_GROUP => Ok(Frame::Group(body.clone())),
            FRAME_CLOSING => Closing::decode(body).map(Frame::Closing),
            unknown => Err(FormatError::Kind(unknown)),
        }
    }
}

fn seed(length: u32, kind: u8) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length.to_le_bytes()), &[kind])
}

impl Closing {
    pub(in crate::log) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16 + 16 * self.destroyed.len());
        out.put_u64_le(self.groups);
        out.put_u64_le(self.destroyed.len() as u64);
        for (group, replica) in &self.destroyed {
            out.put_u64_le(group.0);
            out.put_u64_le(replica.0);
        }
        out.into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() < 16 || (bytes.len() as u64 - 16) / 16 != u64_at(bytes, 8) || !bytes.len().is_multiple_of(16) {
            return Err(FormatError::Length);
        }
        let pair = |bytes| (GroupId(u64_at(bytes, 0)), ReplicaId(u64_at(bytes, 8)));
        let destroyed = bytes[16..].chunks_exact(16).map(pair).collect();
        Ok(Self { groups: u64_at(bytes, 0), destroyed })
    }
}

impl CheckpointDone {
    const BYTES: usize = 37;

    /// The content of [`crate::log::record::WalRecord::CheckpointDone`].
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.put_u8(DONE_VERSION);
        out.put_u64_le(self.number.0);
        out.put_u64_le(self.length);
        out.put_u32_le(self.crc);
        out.put_u64_le(self.from.file.0);
        out.put_u64_le(self.from.write.0);
        out.into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        match bytes.first() {
            Some(&DONE_VERSION) if bytes.len() == Self::BYTES => {}
            Some(&version) if version != DONE_VERSION => return Err(FormatError::Version(version.into())),
            Some(_) | None => return Err(FormatError::Length),
        }
        Ok(Self {
            number: CheckpointNumber(u64_at(bytes, 1)),
            length: u64_at(bytes, 9),
            crc: u32_at(bytes, 17),
            from: WalPosition { file: FileSequence(u64_at(bytes, 21)), write: WriteNumber(u64_at(bytes, 29)) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: WalKey = WalKey(0x1112_1314_1516_1718);
    const FROM: WalPosition = WalPosition { file: FileSequence(3), write: WriteNumber(0x0405) };

    /// These bytes are on disks: a change of the format needs a new version.
    #[test]
    fn the_bytes_of_version_1_are_these_for_ever() {
        let eight = u64::to_le_bytes;
        let header = Header { key: KEY, number: CheckpointNumber(2), from: FROM };
        let golden = [
            &b"KauriCKP"[..],
            &[1, 0, 0, 0, 0x9c, 0x99, 0x01, 0x06],
            &eight(KEY.0),
            &eight(2),
            &eight(3),
            &[5, 4, 0, 0, 0, 0, 0, 0],
            &[0; 16],
        ]
        .concat();
        assert_eq!(header.encode().as_slice(), golden);
        assert_eq!(Header::decode(&golden, KEY), Ok(header));

        let image = ImageHeader { key: KEY, group: GroupId(7), checkpoint: CheckpointNumber(9) };
        let golden =
            [&b"KauriIMG"[..], &[1, 0, 0, 0, 0xeb, 0x72, 0x42, 0xaa], &eight(KEY.0), &eight(7), &eight(9)].concat();
        assert_eq!(image.encode().as_slice(), golden);
        assert_eq!(ImageHeader::decode(&golden, KEY), Ok(image));

        let closing = Closing {
            groups: 5,
            destroyed: BTreeSet::from([(GroupId(8), ReplicaId(20)), (GroupId(9), ReplicaId(21))]),
        };
        let body = closing.encode();
        assert_eq!(body, [eight(5), eight(2), eight(8), eight(20), eight(9), eight(21)].concat());
        let frame = FrameHeader::of_closing(std::slice::from_ref(&body));
        assert_eq!(frame.encode(), [48, 0, 0, 0, 0x8b, 0x5a, 0xaa, 0x47, 2]);
        assert_eq!(FrameHeader::decode(&frame.encode()).unwrap().open(&body), Ok(Frame::Closing(closing)));

        let done = CheckpointDone { number: CheckpointNumber(2), length: 300, crc: 0x0102_0304, from: FROM };
        let golden = [&[1][..], &eight(2), &eight(300), &[4, 3, 2, 1], &eight(3), &eight(0x0405)].concat();
        assert_eq!(done.encode(), golden);
        assert_eq!(CheckpointDone::decode(&golden), Ok(done));
    }

    #[test]
    fn what_is_damaged_foreign_or_newer_is_refused() {
        let header = Header { key: KEY, number: CheckpointNumber(2), from: FROM };
        let bytes = header.encode();
        for at in 0..HEADER_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 1;
            assert_eq!(Header::decode(&damaged, KEY), Err(FormatError::Header), "byte {at}");
        }
        assert_eq!(Header::decode(&bytes[..63], KEY), Err(FormatError::Length));
        assert_eq!(Header::decode(&bytes, WalKey(1)), Err(FormatError::Foreign));
        let mut newer = bytes;
        newer[8] = 2;
        let crc = header_crc(&newer);
        newer[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&newer, KEY), Err(FormatError::Version(2)));

        let body = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let frame = FrameHeader::of_group(&body);
        let whole = Bytes::from_static(b"onetwo");
        assert_eq!(frame.open(&whole), Ok(Frame::Group(whole.clone())));
        assert_eq!(frame.open(&Bytes::from_static(b"onetwO")), Err(FormatError::Checksum));
        assert_eq!(frame.open(&whole.slice(..5)), Err(FormatError::Checksum));

        assert_eq!(CheckpointDone::decode(&[2]), Err(FormatError::Version(2)));
        assert_eq!(CheckpointDone::decode(&[1, 2]), Err(FormatError::Length));
        assert_eq!(CheckpointDone::decode(&[]), Err(FormatError::Length));
    }
}
