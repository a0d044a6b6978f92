//! Single records, decoded one by one from an uncompressed body.

use bytes::Bytes;

use super::{BatchError, BatchHeader, TimestampType, varint};

/// One record. Keys, values and headers are slices of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Headers,
}

/// The headers of a record, in their order, duplicates included. Decoded while iterating, so that they cost no memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// Checked when the record was decoded.
    encoded: Bytes,
    count: usize,
}

/// One header. The key is text by custom only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

impl Headers {
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Header> + use<> {
        let encoded = self.encoded.clone();
        let mut position = 0;
        (0..self.count).map(move |_| {
            let mut rest = &encoded[position..];
            let (key, value) = header(&mut rest).expect("the headers were checked when their record was decoded");
            position = encoded.len() - rest.len();
            Header { key: encoded.slice_ref(key), value: value.map(|value| encoded.slice_ref(value)) }
        })
    }
}

/// Iterates over the records of one batch and ends after an error.
#[derive(Debug, Clone)]
pub struct RecordIter {
    body: Bytes,
    position: usize,
    left: i32,
    base_offset: i64,
    last_offset_delta: i32,
    /// Lowest offset delta that the next record may have.
    next_offset_delta: i64,
    timestamps: Timestamps,
}

#[derive(Debug, Clone, Copy)]
enum Timestamps {
    Base(i64),
    All(i64),
}

impl RecordIter {
    pub(super) fn new(header: &BatchHeader, body: Bytes) -> Self {
        let timestamps = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => Timestamps::Base(header.base_timestamp),
            TimestampType::LogAppendTime => Timestamps::All(header.max_timestamp),
        };
        Self {
            body,
            position: 0,
            left: header.record_count,
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            next_offset_delta: 0,
            timestamps,
        }
    }

    fn record(&mut self) -> Result<Record, BatchError> {
        let body = &self.body;
        let mut rest = &body[self.position..];
        let parts = Parts::read(&mut rest)?;
        self.position = body.len() - rest.len();
        let delta = parts.offset_delta;
        if i64::from(delta) < self.next_offset_delta || delta > self.last_offset_delta {
            return Err(BatchError::InvalidOffsetDelta { delta });
        }
        self.next_offset_delta = i64::from(delta) + 1;
        let timestamp = match self.timestamps {
            Timestamps::All(timestamp) => timestamp,
            Timestamps::Base(base) => base
                .checked_add(parts.timestamp_delta)
                .ok_or(BatchError::InvalidTimestamp { base, delta: parts.timestamp_delta })?,
        };
        Ok(Record {
            offset: self.base_offset + i64::from(delta),
            timestamp,
            key: parts.key.map(|key| body.slice_ref(key)),
            value: parts.value.map(|value| body.slice_ref(value)),
            headers: Headers { encoded: body.slice_ref(parts.headers), count: parts.header_count },
        })
    }
}

/// What a record consists of, every length of it checked.
struct Parts<'a> {
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [u8],
    header_count: usize,
}

impl<'a> Parts<'a> {
    /// Reads a record from the front of `body` and moves it forward.
    fn read(body: &mut &'a [u8]) -> Result<Self, BatchError> {
        let length = varint::read_i32(body)?;
        let mut record = take(body, i64::from(length))?;
        let rest = &mut record;
        // The attributes of a record have no meaning yet.
        take(rest, 1)?;
        let timestamp_delta = varint::read_i64(rest)?;
        let offset_delta = varint::read_i32(rest)?;
        let key = nullable(rest)?;
        let value = nullable(rest)?;
        let count = varint::read_i32(rest)?;
        let headers = *rest;
        let header_count =
            usize::try_from(count).map_err(|_| BatchError::InvalidRecordLength { length: i64::from(count) })?;
        for _ in 0..header_count {
            // Each header takes two bytes at least, so the record's length ends a lie about their count.
            header(rest)?;
        }
        if !rest.is_empty() {
            return Err(BatchError::TrailingBytes { count: rest.len() });
        }
        Ok(Self { timestamp_delta, offset_delta, key, value, headers, header_count })
    }
}

/// Whether an uncompressed body holds the records that the header says, with the offsets 0, 1, 2 and so on. Allocates
/// nothing.
pub(super) fn check_dense(header: &BatchHeader, mut body: &[u8]) -> Result<(), BatchError> {
    for expected in 0..header.record_count {
        let parts = Parts::read(&mut body)?;
        if parts.offset_delta != expected {
            return Err(BatchError::InvalidOffsetDelta { delta: parts.offset_delta });
        }
        if header.base_timestamp.checked_add(parts.timestamp_delta).is_none() {
            let (base, delta) = (header.base_timestamp, parts.timestamp_delta);
            return Err(BatchError::InvalidTimestamp { base, delta });
        }
    }
    match body.len() {
        0 => Ok(()),
        count => Err(BatchError::TrailingBytes { count }),
    }
}

impl Iterator for RecordIter {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = if self.left > 0 {
            self.left -= 1;
            self.record()
        } else if self.position < self.body.len() {
            Err(BatchError::TrailingBytes { count: self.body.len() - self.position })
        } else {
            return None;
        };
        if result.is_err() {
            self.left = 0;
            self.position = self.body.len();
        }
        Some(result)
    }
}

fn header<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], Option<&'a [u8]>), BatchError> {
    let length = varint::read_i32(rest)?;
    let key = take(rest, i64::from(length))?;
    Ok((key, nullable(rest)?))
}

fn nullable<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BatchError> {
    match varint::read_i32(rest)? {
        -1 => Ok(None),
        length => take(rest, i64::from(length)).map(Some),
    }
}

fn take<'a>(rest: &mut &'a [u8], length: i64) -> Result<&'a [u8], BatchError> {
    let length = usize::try_from(length).map_err(|_| BatchError::InvalidRecordLength { length })?;
    let (taken, after) =
        rest.split_at_checked(length).ok_or(BatchError::Truncated { needed: length, available: rest.len() })?;
    *rest = after;
    Ok(taken)
}
