//! Gathers an encoded message as a list of slices.
//!
//! Small fields go into one growing buffer; byte strings of [`SEGMENT_BYTES_MIN`] and more are remembered with their
//! place and become segments of their own, and so do records of any length, so that a fetched batch reaches the socket
//! without a copy. All small pieces share one allocation.

use bytes::Bytes;

use super::EncodeError;

/// Byte strings of at least this length are not copied.
pub const SEGMENT_BYTES_MIN: usize = 4096;

/// Collects what is written and hands it out as segments in order.
#[derive(Debug, Default)]
pub struct Writer {
    small: Vec<u8>,
    /// Segments that are not copied, each with the length `small` had when it was written.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
}

impl Writer {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { small: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// A writer whose output will begin with the four-byte length of what follows; see [`Writer::into_frame`].
    #[must_use]
    pub fn for_frame() -> Self {
        let mut writer = Self::with_capacity(256);
        writer.put_i32(0);
        writer
    }

    /// Fills in the length that [`Writer::for_frame`] left room for.
    pub fn into_frame(mut self) -> Result<Vec<Bytes>, EncodeError> {
        let length = self.len().checked_sub(4).expect("the writer was made by for_frame, which writes four bytes");
        let prefix = i32::try_from(length).map_err(|_| EncodeError::TooLong { length })?;
        self.small[..4].copy_from_slice(&prefix.to_be_bytes());
        Ok(self.into_segments())
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.small.len() + self.large_bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything written, in order. No segment is empty.
    #[must_use]
    pub fn into_segments(self) -> Vec<Bytes> {
        let small = Bytes::from(self.small);
        if self.large.is_empty() {
            return if small.is_empty() { Vec::new() } else { vec![small] };
        }
        let mut segments = Vec::with_capacity(2 * self.large.len() + 1);
        let mut start = 0;
        for (end, bytes) in self.large {
            if start < end {
                segments.push(small.slice(start..end));
            }
            segments.push(bytes);
            start = end;
        }
        if start < small.len() {
            segments.push(small.slice(start..));
        }
        segments
    }

    /// Everything written as one slice; copies if there is more than one segment.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        if self.large.is_empty() {
            return Bytes::from(self.small);
        }
        let mut all = Vec::with_capacity(self.len());
        for segment in self.into_segments() {
            all.extend_from_slice(&segment);
        }
        Bytes::from(all)
    }

    #[inline]
    pub fn put_i8(&mut self, value: i8) {
        self.put_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn put_i16(&mut self, value: i16) {
        self.put_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn put_u16(&mut self, value: u16) {
        self.put_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn put_i32(&mut self, value: i32) {
        self.put_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn put_u32(&mut self, value: u32) {
        self.put_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn put_i64(&mut self, value: i64) {
        self.put_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn put_f64(&mut self, value: f64) {
        self.put_slice(&value.to_be_bytes());
    }

    #[inline]
    pub fn put_bool(&mut self, value: bool) {
        self.small.push(u8::from(value));
    }

    #[inline]
    pub fn put_unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.small.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.small.push(value as u8);
    }

    /// Copies `bytes` into the buffer of small fields.
    #[inline]
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
    }

    /// Appends `bytes`, as a segment of its own if they are large enough to be worth it.
    pub fn put_bytes(&mut self, bytes: &Bytes) {
        if bytes.len() >= SEGMENT_BYTES_MIN {
            self.put_segment(bytes);
        } else {
            self.put_slice(bytes);
        }
    }

    /// Appends `bytes` as a segment of their own, however small they are. They are never copied.
    pub fn put_segment(&mut self, bytes: &Bytes) {
        if !bytes.is_empty() {
            self.large_bytes += bytes.len();
            self.large.push((self.small.len(), bytes.clone()));
        }
    }

    /// Appends everything that `other` gathered.
    pub fn append(&mut self, other: Self) {
        let offset = self.small.len();
        self.small.extend_from_slice(&other.small);
        self.large.extend(other.large.into_iter().map(|(position, bytes)| (offset + position, bytes)));
        self.large_bytes += other.large_bytes;
    }

    /// Length of a string, `None` for null. Kafka's own decoder refuses compact strings that would not fit the old
    /// 16-bit length.
    #[inline]
    pub fn put_string_length(&mut self, length: Option<usize>, flexible: bool) -> Result<(), EncodeError> {
        let length = match length {
            None => -1,
            Some(length) => i16::try_from(length).map_err(|_| EncodeError::TooLong { length })?,
        };
        if flexible {
            self.put_unsigned_varint((i32::from(length) + 1).unsigned_abs());
        } else {
            self.put_i16(length);
        }
        Ok(())
    }

    /// Length of a byte string or count of an array, `None` for null.
    #[inline]
    pub fn put_length(&mut self, length: Option<usize>, flexible: bool) -> Result<(), EncodeError> {
        let length = match length {
            None => -1,
            Some(length) => i32::try_from(length).map_err(|_| EncodeError::TooLong { length })?,
        };
        if flexible {
            self.put_unsigned_varint((i64::from(length) + 1).unsigned_abs() as u32);
        } else {
            self.put_i32(length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_byte_strings_become_segments_without_a_copy() {
        let body = Bytes::from(vec![7u8; SEGMENT_BYTES_MIN]);
        let mut writer = Writer::for_frame();
        writer.put_bytes(&body);
        writer.put_i16(1);
        writer.put_bytes(&Bytes::from_static(b"small"));
        writer.put_bytes(&body);
        assert_eq!(writer.len(), 4 + 2 * SEGMENT_BYTES_MIN + 7);
        let segments = writer.into_frame().unwrap();
        let lengths: Vec<usize> = segments.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [4, SEGMENT_BYTES_MIN, 7, SEGMENT_BYTES_MIN]);
        assert_eq!(segments[1].as_ptr(), body.as_ptr());
        assert_eq!(segments[3].as_ptr(), body.as_ptr());
        assert_eq!(segments[0][..], (2 * SEGMENT_BYTES_MIN as i32 + 7).to_be_bytes());
    }

    #[test]
    fn what_must_not_be_copied_is_a_segment_however_small() {
        let record = Bytes::from_static(b"record");
        let mut writer = Writer::new();
        writer.put_i8(1);
        writer.put_segment(&record);
        writer.put_segment(&Bytes::new());
        writer.put_segment(&record);
        assert_eq!(writer.len(), 1 + 2 * record.len());
        let segments = writer.into_segments();
        assert_eq!(segments.len(), 3);
        assert!(segments[1..].iter().all(|segment| segment.as_ptr() == record.as_ptr()));
    }

    #[test]
    fn appending_a_writer_keeps_the_order() {
        let body = Bytes::from(vec![7u8; SEGMENT_BYTES_MIN]);
        let mut inner = Writer::new();
        inner.put_i8(2);
        inner.put_bytes(&body);
        inner.put_i8(3);
        let mut outer = Writer::new();
        outer.put_i8(1);
        outer.append(inner);
        outer.put_i8(4);
        let segments = outer.into_segments();
        assert_eq!(segments.len(), 3);
        assert_eq!((&segments[0][..], &segments[2][..]), (&[1, 2][..], &[3, 4][..]));
    }

    #[test]
    fn nothing_written_gives_no_segments() {
        assert!(Writer::new().into_segments().is_empty());
    }
}
