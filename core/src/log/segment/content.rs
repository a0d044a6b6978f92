//! A checksum of everything in a partition, so that replicas can be compared.
//!
//! Invariant: the CRC-32C of all bytes in order, wherever segments begin. It is put together from the CRCs of chunks,
//! which are computed anyway; appending a full chunk costs a few nanoseconds.

use std::sync::LazyLock;

use kauri_protocol::records;

use super::{checksums::Closing, file::CHUNK};
use crate::ids::Offset;

/// What replicas of a partition agree on: those with the same next offset have the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub next_offset: Offset,
    pub bytes: u64,
    /// CRC-32C of all bytes, wherever segments begin.
    pub crc: u32,
}

/// What a full chunk of zeros makes of each single bit of a CRC. A CRC is linear, so these make up any other one.
static CHUNK_SHIFT: LazyLock<[u32; 32]> =
    LazyLock::new(|| std::array::from_fn(|bit| records::combine(1 << bit, 0, CHUNK as usize)));

/// The CRC of everything up to a place between two chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ContentCrc(u32);

impl ContentCrc {
    pub(super) fn new(crc: u32) -> Self {
        Self(crc)
    }

    pub(super) fn append_chunk(&mut self, crc: u32) {
        let shifted = CHUNK_SHIFT.iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 == 1);
        self.0 = shifted.fold(crc, |sum, (_, shift)| sum ^ shift);
    }

    /// With the unfinished chunk of a segment behind it.
    pub(super) fn with_rest(self, rest: Closing) -> Self {
        Self(records::combine(self.0, rest.crc, rest.bytes as usize))
    }

    pub(super) fn value(self) -> u32 {
        self.0
    }
}
