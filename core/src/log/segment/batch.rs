//! The few fields of a record batch header that storage needs, read in place.
//!
//! Batches were validated before they were proposed; here a header either comes from our own memory, where a wrong
//! field is a broken invariant, or from a disk read whose checksum matched, where it is damage.

use crate::ids::{LeaderEpoch, Offset};

/// Length of the header of a record batch (magic 2).
pub const BATCH_HEADER_BYTES: usize = 61;

/// Bytes before the batch length field's own count begins.
const LENGTH_PREFIX_BYTES: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) base_offset: Offset,
    /// The offset behind the last one of the batch.
    pub(super) next_offset: Offset,
    pub(super) leader_epoch: LeaderEpoch,
    /// Milliseconds since 1970.
    pub(super) max_timestamp: i64,
    /// Length of the whole batch, header included.
    pub(super) bytes: usize,
}

/// No batch begins like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoBatch;

impl BatchHeader {
    /// The header at the beginning of `bytes`; `None` if they are too few to tell.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, NoBatch> {
        let Some(header) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else { return Ok(None) };
        let i32_at = |at: usize| i32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let i64_at = |at: usize| i64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let base_offset = i64_at(0);
        let length = usize::try_from(i32_at(8)).map_err(|_| NoBatch)?;
        let last_offset_delta = i32_at(23);
        if base_offset < 0 || last_offset_delta < 0 || length < BATCH_HEADER_BYTES - LENGTH_PREFIX_BYTES {
            return Err(NoBatch);
        }
        let next_offset = base_offset.checked_add(i64::from(last_offset_delta) + 1).ok_or(NoBatch)?;
        Ok(Some(Self {
            base_offset: Offset(base_offset),
            next_offset: Offset(next_offset),
            leader_epoch: LeaderEpoch(i32_at(12)),
            max_timestamp: i64_at(35),
            bytes: LENGTH_PREFIX_BYTES + length,
        }))
    }
}

/// The batches in `bytes`, with the place of each; ends before the first that is not complete.
pub(super) fn batches(bytes: &[u8]) -> impl Iterator<Item = Result<(usize, BatchHeader), (usize, NoBatch)>> {
    let mut at = 0;
    std::iter::from_fn(move || match BatchHeader::read(&bytes[at..]) {
        Ok(Some(header)) if header.bytes <= bytes.len() - at => {
            let place = at;
            at += header.bytes;
            Some(Ok((place, header)))
        }
        Ok(_) => None,
        Err(no_batch) => {
            let place = at;
            at = bytes.len();
            Some(Err((place, no_batch)))
        }
    })
}
