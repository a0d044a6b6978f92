//! A batch as bytes: looked at, checked, given a new header, never copied.

use bytes::Bytes;

use super::checksum::shift;
use super::header::CHECKSUM_START;
use super::{BatchError, BatchHeader, Compression, HEADER_BYTES, Producer, RecordIter, record};
use crate::wire::Records;

/// One whole batch: its bytes and its parsed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchView {
    bytes: Bytes,
    header: BatchHeader,
}

impl BatchView {
    /// Takes `bytes` if they are exactly one batch. The checksum is not computed, see [`BatchView::validate_crc`].
    pub fn new(bytes: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(&bytes)?;
        match bytes.len().checked_sub(header.batch_bytes) {
            None => Err(BatchError::Truncated { needed: header.batch_bytes, available: bytes.len() }),
            Some(0) => Ok(Self { bytes, header }),
            Some(count) => Err(BatchError::TrailingBytes { count }),
        }
    }

    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, compressed or not, as a slice without a copy.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// Reads the whole batch once.
    pub fn validate_crc(&self) -> Result<(), BatchError> {
        let computed = crc32c::crc32c(&self.bytes[CHECKSUM_START..]);
        if computed == self.header.checksum {
            Ok(())
        } else {
            Err(BatchError::ChecksumMismatch { stored: self.header.checksum, computed })
        }
    }

    /// The header that the batch gets in the log; the body stays as it is. A `log_append_time` replaces the timestamps
    /// of all records.
    ///
    /// The checksum of the batch must be valid, because the new one is derived from it without reading the body.
    #[must_use]
    pub fn patch_header(
        &self,
        base_offset: i64,
        leader_epoch: i32,
        log_append_time: Option<i64>,
    ) -> [u8; HEADER_BYTES] {
        let mut header = BatchHeader { base_offset, partition_leader_epoch: leader_epoch, ..self.header };
        if let Some(timestamp) = log_append_time {
            header.attributes = header.attributes.with_log_append_time();
            header.max_timestamp = timestamp;
            self.derive_checksum(&mut header);
        }
        header.encode()
    }

    /// The patched header and the body, as two slices.
    #[must_use]
    pub fn patched(&self, base_offset: i64, leader_epoch: i32, log_append_time: Option<i64>) -> Records {
        let header = self.patch_header(base_offset, leader_epoch, log_append_time);
        [Bytes::copy_from_slice(&header), self.body()].into_iter().collect()
    }

    /// The header for the same records from another producer identity, as after a bump of the epoch. Needs a valid
    /// checksum, as [`BatchView::patch_header`] does.
    #[must_use]
    pub fn restamp_producer(&self, producer: Producer) -> [u8; HEADER_BYTES] {
        let mut header = BatchHeader { producer, ..self.header };
        self.derive_checksum(&mut header);
        header.encode()
    }

    /// Computes the checksum of `header` followed by this batch's body, without reading the body.
    fn derive_checksum(&self, header: &mut BatchHeader) {
        let before = crc32c::crc32c(&self.bytes[CHECKSUM_START..HEADER_BYTES]);
        let after = crc32c::crc32c(&header.encode()[CHECKSUM_START..]);
        header.checksum = self.header.checksum ^ shift(before ^ after, self.bytes.len() - HEADER_BYTES);
    }

    /// Walks over the records of an uncompressed batch and checks that they are as many as the header says, one for each
    /// offset, every length within its bounds. Allocates nothing. A compressed batch is not looked into.
    pub fn validate_records(&self) -> Result<(), BatchError> {
        match self.header.attributes.compression()? {
            Compression::None => record::check_dense(&self.header, &self.bytes[HEADER_BYTES..]),
            Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => Ok(()),
        }
    }

    /// The batch's records. Compressed ones are decompressed at once, into at most `limit_bytes`.
    pub fn records(&self, limit_bytes: usize) -> Result<RecordIter, BatchError> {
        let body = self.header.attributes.compression()?.decompress(self.body(), limit_bytes)?;
        Ok(RecordIter::new(&self.header, body))
    }
}

/// The batches that lie back to back in a range of bytes, as in a segment or in the answer to a fetch.
///
/// A fetch may end in the middle of a batch: the iteration then ends before it, and [`Batches::remaining`] says how
/// much is left. Ends after an error.
#[derive(Debug, Clone)]
pub struct Batches {
    bytes: Bytes,
    failed: bool,
}

impl Batches {
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, failed: false }
    }

    /// Bytes that no returned batch covers.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }
}

impl Iterator for Batches {
    type Item = Result<BatchView, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.bytes.len() < HEADER_BYTES {
            return None;
        }
        match BatchHeader::parse(&self.bytes) {
            Ok(header) if header.batch_bytes > self.bytes.len() => None,
            Ok(header) => Some(Ok(BatchView { bytes: self.bytes.split_to(header.batch_bytes), header })),
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}
