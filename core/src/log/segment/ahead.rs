//! Batches that are here before the state machine applied them.
//!
//! Invariant: the bytes of a partition are the same on all replicas, so a state transfer may append them early; what
//! the state machine leads to later is compared with them, chunk by chunk, and not written again. Every batch of a
//! transfer is checked before the first one is appended.

use bytes::Bytes;
use kauri_protocol::records::{BatchError, BatchView, HEADER_BYTES};

use super::{
    AppliedBatch, PartitionLog,
    batch::BatchHeader,
    damage::{Damage, DamageKind},
    file::{CHUNK, Segment, chunks_in},
    image::AppliedImage,
};
use crate::{
    ids::Offset,
    limits::{BATCH_BYTES_MAX, BATCH_SHARED_BYTES_MIN},
    time::Monotonic,
};

/// Bytes of a transfer that are not appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AheadError {
    #[error("byte {at} of the transferred bytes begins no batch: {error}")]
    Batch { at: usize, error: BatchError },
    #[error("the transferred bytes end within the batch at byte {at}")]
    Incomplete { at: usize },
    #[error("a transferred batch has {bytes} bytes")]
    TooLarge { bytes: usize },
    #[error("a transferred batch begins at offset {found}, but the log ends at {expected}")]
    Gap { expected: Offset, found: Offset },
    #[error("{0}")]
    Damaged(#[from] Damage),
}

/// How far the state machine is, while it is behind the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behind {
    segment: usize,
    /// Bytes of that segment.
    bytes: u64,
    /// CRC of them behind the last full chunk, if it is known.
    rest_crc: Option<u32>,
    next_offset: Offset,
}

impl Behind {
    /// A state machine that is at the end of a log.
    pub(super) fn at_end(segments: &[Segment], next_offset: Offset) -> Self {
        let Some(last) = segments.last() else { return Self { segment: 0, bytes: 0, rest_crc: Some(0), next_offset } };
        Self { segment: segments.len() - 1, bytes: last.bytes, rest_crc: Some(last.rest().crc), next_offset }
    }

    pub(super) fn restored(image: AppliedImage, segments: &[Segment]) -> Self {
        let AppliedImage { next_offset, position, rest_crc } = image;
        let segment = segments.partition_point(|segment| segment.start.0 <= position).saturating_sub(1);
        let bytes = position - segments.get(segment).map_or(0, |segment| segment.start.0);
        // At the end of one segment and at the beginning of the next one at once, if there is one.
        let rest_crc = if bytes == 0 { Some(0) } else { rest_crc };
        Self { segment, bytes, rest_crc, next_offset }
    }

    pub(super) fn next_offset(&self) -> Offset {
        self.next_offset
    }

    pub(super) fn image(&self, segments: &[Segment]) -> AppliedImage {
        let position = segments.get(self.segment).map_or(0, |segment| segment.start.0 + self.bytes);
        AppliedImage { next_offset: self.next_offset, position, rest_crc: self.rest_crc }
    }

    /// Compares a batch with what is here; returns whether the state machine is still behind.
    pub(super) fn compare(
        &mut self,
        segments: &[Segment],
        end: Offset,
        slices: [&[u8]; 2],
        next_offset: Offset,
    ) -> Result<bool, Damage> {
        if self.bytes == segments[self.segment].bytes {
            *self = Self { segment: self.segment + 1, bytes: 0, rest_crc: Some(0), ..*self };
        }
        let segment = &segments[self.segment];
        let begin = chunks_in(self.bytes);
        let differs = |chunk| Damage::chunk(segment.log_file(), chunk, DamageKind::ChunkRegenerated);
        if self.bytes + (slices[0].len() + slices[1].len()) as u64 > segment.bytes {
            return Err(differs(begin));
        }
        for mut slice in slices {
            while !slice.is_empty() {
                let room = usize::try_from(CHUNK - self.bytes % CHUNK).expect("at most a chunk");
                let (now, later) = slice.split_at(room.min(slice.len()));
                self.rest_crc = self.rest_crc.map(|crc| crc32c::crc32c_append(crc, now));
                self.bytes += now.len() as u64;
                slice = later;
                if self.bytes.is_multiple_of(CHUNK) {
                    let chunk = chunks_in(self.bytes) - 1;
                    let crc = self.rest_crc.replace(0).filter(|_| segment.marks.knows_checksum(chunk));
                    if crc.is_some_and(|crc| crc != segment.chunk_crc(chunk)) {
                        return Err(differs(chunk));
                    }
                }
            }
        }
        self.next_offset = next_offset;
        let segment_ends = self.bytes == segment.bytes;
        let last = self.segment + 1 == segments.len();
        let knows_rest = segment.marks.knows_checksum(chunks_in(segment.bytes));
        let rest_crc = self.rest_crc.filter(|_| segment_ends && knows_rest);
        if rest_crc.is_some_and(|crc| crc != segment.rest().crc) || (segment_ends && last) != (next_offset == end) {
            return Err(differs(begin));
        }
        Ok(next_offset < end)
    }
}

impl PartitionLog {
    /// The offset of the next batch that the state machine leads to: [`PartitionLog::next_offset`] unless batches were
    /// appended ahead of it.
    pub fn applied_offset(&self) -> Offset {
        self.behind.map_or(self.next_offset, |behind| behind.next_offset())
    }

    /// Where the batches end that the state machine applied, in the bytes of the partition.
    pub fn applied_bytes(&self) -> u64 {
        self.behind.map_or(self.bytes(), |behind| behind.image(&self.segments).position)
    }

    /// The state machine was replaced by one that has applied the batches up to an offset, which end after so many bytes
    /// of the partition: only what is behind is compared. False, and nothing changed, if that is not known to be a
    /// place where this log can go on.
    #[must_use]
    pub fn applied_to(&mut self, next_offset: Offset, position: u64) -> bool {
        if next_offset == self.next_offset {
            self.behind = None;
            return true;
        }
        let place = AppliedImage { next_offset, position, rest_crc: None };
        let behind = Behind::restored(place, &self.segments);
        // What is known of settled segments is on disk only.
        let is_known = self.segments.get(behind.segment..).is_some_and(|rest| rest.iter().all(|segment| segment.known));
        if next_offset > self.next_offset || position >= self.bytes() || !is_known {
            return false;
        }
        self.behind = Some(behind);
        true
    }

    /// Appends whole batches, back to back, that a state transfer brought: the bytes that every replica has from
    /// [`PartitionLog::next_offset`] on. All of them, or none if any is not sound; the offset behind the last one.
    pub fn append_ahead(&mut self, at: Monotonic, bytes: &Bytes) -> Result<Offset, AheadError> {
        let batches = self.check_ahead(bytes)?;
        for (header, bytes) in batches {
            let behind = self.behind.unwrap_or_else(|| Behind::at_end(&self.segments, self.next_offset));
            self.append_from(at, applied(header, &bytes), 0)?;
            self.behind = Some(behind);
        }
        Ok(self.next_offset)
    }

    fn check_ahead(&self, bytes: &Bytes) -> Result<Vec<(BatchHeader, Bytes)>, AheadError> {
        let mut found = Vec::new();
        let mut expected = self.next_offset;
        let mut at = 0;
        while at < bytes.len() {
            let invalid = |error| AheadError::Batch { at, error };
            let length = match kauri_protocol::records::BatchHeader::batch_bytes(&bytes[at..]) {
                Ok(length) => length,
                Err(BatchError::Truncated { .. }) => return Err(AheadError::Incomplete { at }),
                Err(error) => return Err(invalid(error)),
            };
            if length > BATCH_BYTES_MAX {
                return Err(AheadError::TooLarge { bytes: length });
            }
            if length > bytes.len() - at {
                return Err(AheadError::Incomplete { at });
            }
            let view = BatchView::new(bytes.slice(at..at + length)).map_err(invalid)?;
            view.validate_crc().map_err(invalid)?;
            let header = BatchHeader::of(view.header())
                .map_err(|_| AheadError::Gap { expected, found: Offset(view.header().base_offset) })?;
            if header.base_offset != expected {
                return Err(AheadError::Gap { expected, found: header.base_offset });
            }
            expected = header.next_offset;
            at += length;
            found.push((header, view.bytes().clone()));
        }
        Ok(found)
    }

    /// Compares a batch of the state machine with the one that is here.
    pub(super) fn compare(&mut self, mut behind: Behind, batch: &AppliedBatch) -> Result<(), Damage> {
        let slices = [&batch.header[..], &batch.body[..]];
        let next_offset = batch.base_offset.plus(batch.records);
        let still = behind.compare(&self.segments, self.next_offset, slices, next_offset)?;
        self.behind = still.then_some(behind);
        Ok(())
    }
}

/// A batch that lies in an allocation with others, as it is appended. It keeps nothing of that allocation: a small one
/// is copied by the tail anyway, and one that the tail would share is copied here.
pub(super) fn applied(header: BatchHeader, bytes: &Bytes) -> AppliedBatch {
    let own = if bytes.len() < BATCH_SHARED_BYTES_MIN { bytes.clone() } else { Bytes::copy_from_slice(bytes) };
    let records = header.next_offset.0 - header.base_offset.0;
    AppliedBatch {
        header: own.slice(..HEADER_BYTES),
        body: own.slice(HEADER_BYTES..),
        base_offset: header.base_offset,
        records: u32::try_from(records).expect("a batch has at most 2^31 offsets"),
        max_timestamp: header.max_timestamp,
        leader_epoch: header.leader_epoch,
        allocation_bytes: own.len(),
    }
}
