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

    /// The CRC of so many bytes that follow, if `whole` is that of everything including them.
    pub(super) fn rest_of(self, whole: u32, bytes: usize) -> u32 {
        whole ^ records::combine(self.0, 0, bytes)
    }

    /// With the unfinished chunk of a segment behind it.
    pub(super) fn with_rest(self, rest: Closing) -> Self {
        Self(records::combine(self.0, rest.crc, rest.bytes as usize))
    }

    pub(super) fn value(self) -> u32 {
        self.0
    }
}

/// The CRC of bytes that so many others followed, if `whole` is that of both and `behind` that of the others. A CRC is
/// linear, so this is a system of 32 equations over bits.
pub(super) fn without_end(whole: u32, behind: u32, bytes: usize) -> u32 {
    // By their highest bits: what becomes of a bit, or of several, when the bytes follow.
    let mut basis = [(0u32, 0u32); 32];
    let reduce = |basis: &[(u32, u32); 32], mut value: u32, mut made_of: u32| {
        while let Some(top) = value.checked_ilog2() {
            let (known, bits) = basis[top as usize];
            if known == 0 {
                break;
            }
            (value, made_of) = (value ^ known, made_of ^ bits);
        }
        (value, made_of)
    };
    for bit in 0..32 {
        let (value, made_of) = reduce(&basis, records::combine(1 << bit, 0, bytes), 1 << bit);
        let top = value.checked_ilog2().expect("no bytes make two CRCs one");
        basis[top as usize] = (value, made_of);
    }
    let (rest, made_of) = reduce(&basis, whole ^ behind, 0);
    assert_eq!(rest, 0, "every CRC comes from another one");
    made_of
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_end_of_a_crc_can_be_taken_off(
            first in prop::collection::vec(any::<u8>(), 0..300),
            rest in prop::collection::vec(any::<u8>(), 0..300),
            end in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let crc = |parts: &[&[u8]]| crc32c::crc32c(&parts.concat());
            let before = without_end(crc(&[&first, &rest, &end]), crc(&[&end]), end.len());
            prop_assert_eq!(before, crc(&[&first, &rest]));
            prop_assert_eq!(ContentCrc::new(crc(&[&first])).rest_of(before, rest.len()), crc(&[&rest]));
        }
    }
}
