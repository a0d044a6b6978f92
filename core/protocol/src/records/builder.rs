//! Makes batches: for the client's producer, for markers, and for tests.

use bytes::Bytes;

use super::header::CHECKSUM_START;
use super::{Attributes, BatchError, BatchHeader, Compression, HEADER_BYTES, Producer, varint};

/// What a batch is part of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BatchKind {
    #[default]
    Plain,
    Transactional,
    /// The marker that ends a transaction.
    TransactionMarker,
}

/// Collects records and closes them into one batch with base offset 0 and leader epoch -1, which the broker replaces.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    compression: Compression,
    kind: BatchKind,
    /// Room for the header, then the records, so that an uncompressed batch is built in place.
    bytes: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self::with_kind(compression, BatchKind::Plain)
    }

    #[must_use]
    pub fn with_kind(compression: Compression, kind: BatchKind) -> Self {
        Self { compression, kind, bytes: vec![0; HEADER_BYTES], count: 0, base_timestamp: -1, max_timestamp: -1 }
    }

    /// Appends a record and returns its offset delta. `timestamp` is in milliseconds since 1970. On an error nothing is
    /// appended.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&[u8], Option<&[u8]>)],
    ) -> Result<i32, BatchError> {
        let base = if self.count == 0 { timestamp } else { self.base_timestamp };
        let timestamp_delta =
            timestamp.checked_sub(base).ok_or(BatchError::InvalidTimestamp { base, delta: timestamp })?;
        let offset_delta = self.count;
        let length = record_bytes(timestamp_delta, offset_delta, key, value, headers);
        // Compression may enlarge data that do not compress, by a little; the closing checks again.
        if i32::try_from(self.len() + length + 5).is_err() {
            return Err(BatchError::TooLarge);
        }

        let bytes = &mut self.bytes;
        varint::put(bytes, length as i64);
        bytes.push(0);
        varint::put(bytes, timestamp_delta);
        varint::put(bytes, i64::from(offset_delta));
        put_nullable(bytes, key);
        put_nullable(bytes, value);
        varint::put(bytes, headers.len() as i64);
        for (key, value) in headers {
            put_nullable(bytes, Some(key));
            put_nullable(bytes, *value);
        }
        self.max_timestamp = if self.count == 0 { timestamp } else { self.max_timestamp.max(timestamp) };
        self.base_timestamp = base;
        self.count += 1;
        Ok(offset_delta)
    }

    /// How much longer the uncompressed batch would be with this record, give or take the few bytes that depend on its
    /// position.
    #[must_use]
    pub fn record_bytes_max(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&[u8], Option<&[u8]>)]) -> usize {
        let length = record_bytes(i64::MAX, i32::MAX, key, value, headers);
        varint::length(length as i64) + length
    }

    /// Length of the batch so far if it were not compressed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn record_count(&self) -> i32 {
        self.count
    }

    /// Closes the batch. Panics if it has no records, because such a batch has no last offset.
    pub fn build(self, producer: Producer) -> Result<Bytes, BatchError> {
        assert!(self.count > 0, "a batch without records cannot be built");
        let mut bytes = match self.compression {
            Compression::None => self.bytes,
            compression => {
                let mut compressed = vec![0; HEADER_BYTES];
                compression.compress(&self.bytes[HEADER_BYTES..], &mut compressed)?;
                compressed
            }
        };
        if i32::try_from(bytes.len()).is_err() {
            return Err(BatchError::TooLarge);
        }
        let attributes = match self.kind {
            BatchKind::Plain => Attributes::default(),
            BatchKind::Transactional => Attributes::default().with_transactional(),
            BatchKind::TransactionMarker => Attributes::default().with_transactional().with_control(),
        };
        let header = BatchHeader {
            base_offset: 0,
            batch_bytes: bytes.len(),
            partition_leader_epoch: -1,
            checksum: 0,
            attributes: attributes.with_compression(self.compression),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer,
            record_count: self.count,
        };
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
        let checksum = crc32c::crc32c(&bytes[CHECKSUM_START..]);
        bytes[CHECKSUM_START - 4..CHECKSUM_START].copy_from_slice(&checksum.to_be_bytes());
        Ok(Bytes::from(bytes))
    }
}

/// Length of a record behind its own length field.
fn record_bytes(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[(&[u8], Option<&[u8]>)],
) -> usize {
    let mut length = 1 + varint::length(timestamp_delta) + varint::length(i64::from(offset_delta));
    length += nullable_bytes(key) + nullable_bytes(value) + varint::length(headers.len() as i64);
    for (key, value) in headers {
        length += nullable_bytes(Some(key)) + nullable_bytes(*value);
    }
    length
}

fn nullable_bytes(value: Option<&[u8]>) -> usize {
    value.map_or(1, |value| varint::length(value.len() as i64) + value.len())
}

fn put_nullable(bytes: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => varint::put(bytes, -1),
        Some(value) => {
            varint::put(bytes, value.len() as i64);
            bytes.extend_from_slice(value);
        }
    }
}
