//! The 61 bytes in front of every batch.
//!
//! Base offset, length and leader epoch lie before the checksum and are not covered by it, so that a broker assigns
//! them without touching the records. Everything from the attributes on is covered.

use super::{BatchError, Compression};

/// Length of a batch header.
pub const HEADER_BYTES: usize = 61;

/// Bytes of a batch that its length field does not count: base offset and the length itself.
pub(super) const LENGTH_OVERHEAD: usize = 12;
/// Where the checksum's coverage begins.
pub(super) const CHECKSUM_START: usize = 21;
const MAGIC: i8 = 2;
/// Length, attributes, timestamp delta, offset delta, key length, value length and header count of an empty record.
const RECORD_BYTES_MIN: usize = 7;

const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME_BIT: i16 = 0x08;
const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;
const DELETE_HORIZON_BIT: i16 = 0x40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// Records carry the timestamps that their producer gave them.
    CreateTime,
    /// All records of the batch have the broker's time of the append, which is the batch's maximum timestamp.
    LogAppendTime,
}

/// The flags of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes(pub i16);

impl Attributes {
    pub fn compression(self) -> Result<Compression, BatchError> {
        Compression::try_from(self.0 & COMPRESSION_MASK)
    }

    #[must_use]
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & LOG_APPEND_TIME_BIT == 0 { TimestampType::CreateTime } else { TimestampType::LogAppendTime }
    }

    #[must_use]
    pub const fn is_transactional(self) -> bool {
        self.0 & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds a transaction marker instead of records of users.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.0 & CONTROL_BIT != 0
    }

    /// Whether the base timestamp is the time at which tombstones may go (KIP-534).
    #[must_use]
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & DELETE_HORIZON_BIT != 0
    }

    #[must_use]
    pub const fn with_compression(self, compression: Compression) -> Self {
        Self(self.0 & !COMPRESSION_MASK | compression as i16)
    }

    #[must_use]
    pub const fn with_log_append_time(self) -> Self {
        Self(self.0 | LOG_APPEND_TIME_BIT)
    }

    #[must_use]
    pub const fn with_transactional(self) -> Self {
        Self(self.0 | TRANSACTIONAL_BIT)
    }

    #[must_use]
    pub const fn with_control(self) -> Self {
        Self(self.0 | CONTROL_BIT)
    }
}

/// The identity that an idempotent producer stamps on its batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    pub id: i64,
    pub epoch: i16,
    /// Sequence number of the first record.
    pub base_sequence: i32,
}

/// What a producer stamps that is not idempotent.
pub const NO_PRODUCER: Producer = Producer { id: -1, epoch: -1, base_sequence: -1 };

impl Default for Producer {
    fn default() -> Self {
        NO_PRODUCER
    }
}

/// A parsed batch header.
///
/// Parsing promises: magic 2; a length of at least a header; a last offset delta that is not negative and does not
/// overflow; a record count that is not negative and, without compression, fits the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Length of the whole batch in bytes, header included. On the wire it is 12 less.
    pub batch_bytes: usize,
    pub partition_leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub checksum: u32,
    pub attributes: Attributes,
    pub last_offset_delta: i32,
    /// Milliseconds since 1970, as all timestamps.
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer: Producer,
    pub record_count: i32,
}

impl BatchHeader {
    /// Length of the batch that begins with `bytes`, which may hold less than all of it. Needs 12 bytes.
    pub fn batch_bytes(bytes: &[u8]) -> Result<usize, BatchError> {
        let prefix: &[u8; LENGTH_OVERHEAD] =
            bytes.first_chunk().ok_or(BatchError::Truncated { needed: LENGTH_OVERHEAD, available: bytes.len() })?;
        let length = i32::from_be_bytes(field(prefix, 8));
        match usize::try_from(length) {
            Ok(length) if length >= HEADER_BYTES - LENGTH_OVERHEAD => Ok(LENGTH_OVERHEAD + length),
            _ => Err(BatchError::InvalidLength { length }),
        }
    }

    /// Parses the header at the start of `bytes`, which may hold less than the whole batch.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        // The magic byte has the same place in all formats, so that an old format is called by its name.
        if let Some(&magic) = bytes.get(16)
            && magic as i8 != MAGIC
        {
            return Err(BatchError::UnsupportedMagic { magic: magic as i8 });
        }
        let batch_bytes = Self::batch_bytes(bytes)?;
        let bytes: &[u8; HEADER_BYTES] =
            bytes.first_chunk().ok_or(BatchError::Truncated { needed: HEADER_BYTES, available: bytes.len() })?;
        let header = Self {
            base_offset: i64::from_be_bytes(field(bytes, 0)),
            batch_bytes,
            partition_leader_epoch: i32::from_be_bytes(field(bytes, 12)),
            checksum: u32::from_be_bytes(field(bytes, 17)),
            attributes: Attributes(i16::from_be_bytes(field(bytes, 21))),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp: i64::from_be_bytes(field(bytes, 27)),
            max_timestamp: i64::from_be_bytes(field(bytes, 35)),
            producer: Producer {
                id: i64::from_be_bytes(field(bytes, 43)),
                epoch: i16::from_be_bytes(field(bytes, 51)),
                base_sequence: i32::from_be_bytes(field(bytes, 53)),
            },
            record_count: i32::from_be_bytes(field(bytes, 57)),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        let delta = self.last_offset_delta;
        if delta < 0 || self.base_offset.checked_add(i64::from(delta)).is_none() {
            return Err(BatchError::InvalidOffsets { base_offset: self.base_offset, delta });
        }
        let body_bytes = self.batch_bytes - HEADER_BYTES;
        let compressed = self.attributes.compression()? != Compression::None;
        let fits =
            usize::try_from(self.record_count).is_ok_and(|count| compressed || count <= body_bytes / RECORD_BYTES_MIN);
        if !fits {
            return Err(BatchError::InvalidRecordCount { count: self.record_count, body_bytes });
        }
        Ok(())
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let length =
            i32::try_from(self.batch_bytes - LENGTH_OVERHEAD).expect("parsed from 32 bits, or checked by the builder");
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, self.base_offset.to_be_bytes());
        put(&mut bytes, 8, length.to_be_bytes());
        put(&mut bytes, 12, self.partition_leader_epoch.to_be_bytes());
        put(&mut bytes, 16, MAGIC.to_be_bytes());
        put(&mut bytes, 17, self.checksum.to_be_bytes());
        put(&mut bytes, 21, self.attributes.0.to_be_bytes());
        put(&mut bytes, 23, self.last_offset_delta.to_be_bytes());
        put(&mut bytes, 27, self.base_timestamp.to_be_bytes());
        put(&mut bytes, 35, self.max_timestamp.to_be_bytes());
        put(&mut bytes, 43, self.producer.id.to_be_bytes());
        put(&mut bytes, 51, self.producer.epoch.to_be_bytes());
        put(&mut bytes, 53, self.producer.base_sequence.to_be_bytes());
        put(&mut bytes, 57, self.record_count.to_be_bytes());
        bytes
    }

    /// Offset of the last record, or of the last that was there before compaction.
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// The offset after the batch.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Whether every offset of the batch has a record, as in every batch that comes from a producer.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        i64::from(self.record_count) == i64::from(self.last_offset_delta) + 1
    }

    /// Sequence number of the last record; numbers wrap from 2³¹-1 to 0.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.producer.base_sequence < 0 {
            return self.producer.base_sequence;
        }
        ((i64::from(self.producer.base_sequence) + i64::from(self.last_offset_delta)) & i64::from(i32::MAX)) as i32
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has N bytes")
}

fn put<const N: usize>(bytes: &mut [u8; HEADER_BYTES], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}
