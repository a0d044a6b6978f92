//! The few fields of a record batch header that storage needs, read in place.
//!
//! Batches were validated before they were proposed; here a header either comes from our own memory, where a wrong
//! field is a broken invariant, or from a disk read whose checksum matched, where it is damage.

use kauri_protocol::records::{self, BatchError, HEADER_BYTES};

use crate::ids::{LeaderEpoch, Offset};

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
        let header = match records::BatchHeader::parse(bytes) {
            Ok(header) => header,
            Err(BatchError::Truncated { .. }) if bytes.len() < HEADER_BYTES => return Ok(None),
            Err(_) => return Err(NoBatch),
        };
        Self::of(&header).map(Some)
    }

    /// What storage needs of a header.
    pub(super) fn of(header: &records::BatchHeader) -> Result<Self, NoBatch> {
        if header.base_offset < 0 || header.last_offset() == i64::MAX {
            return Err(NoBatch);
        }
        Ok(Self {
            base_offset: Offset(header.base_offset),
            next_offset: Offset(header.next_offset()),
            leader_epoch: LeaderEpoch(header.partition_leader_epoch),
            max_timestamp: header.max_timestamp,
            bytes: header.batch_bytes,
        })
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
