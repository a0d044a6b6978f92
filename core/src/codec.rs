//! Bytes of Kauri's own records: commands, images, identities, messages between nodes.
//!
//! Owns two things only: fixed-width big-endian numbers with counted strings and lists ([`Encode`]), and a bounded
//! reader over them ([`Decoder`]). Invariant: a decoder never panics, and never lets its caller reserve more memory
//! than the bytes that are really there can fill. What a format means, and its version, belongs to the type that is
//! encoded. Kafka's own formats are not here but in kauri-protocol.

use std::fmt;

use crate::{command::ImageError, ids::Uuid};

/// Why bytes are not what their reader expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("{needed} bytes are needed where {remaining} remain")]
    Truncated { needed: usize, remaining: usize },
    #[error("a count of {count} does not fit into the {remaining} bytes that remain")]
    Count { count: usize, remaining: usize },
    #[error("a text is not UTF-8")]
    Utf8,
    #[error("version {found} of {what} is not known; the newest known is {newest}")]
    Version { what: &'static str, found: u8, newest: u8 },
    #[error("{0} has a value it cannot have")]
    Value(&'static str),
    #[error("{0} bytes follow the end")]
    Trailing(usize),
}

impl CodecError {
    /// The same for an image of a state machine, with the place that `from`, which reads `image`, came to.
    pub fn into_image_error(self, from: &Decoder<'_>, image: &[u8]) -> ImageError {
        let offset = image.len() - from.remaining();
        match self {
            Self::Version { found, .. } => ImageError::Version(u16::from(found)),
            Self::Value(what) => ImageError::Damaged { offset, what },
            Self::Truncated { .. } => ImageError::Damaged { offset, what: "it is too short" },
            Self::Count { .. } => ImageError::Damaged { offset, what: "a count is too large" },
            Self::Utf8 => ImageError::Damaged { offset, what: "a text is not UTF-8" },
            Self::Trailing(_) => ImageError::Damaged { offset, what: "bytes follow its end" },
        }
    }
}

/// 64 bits of FNV-1a: compares states and configurations, protects nothing.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Appends values to a growing buffer.
pub trait Encode {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_bool(&mut self, value: bool) {
        self.put(&[u8::from(value)]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    fn put_i16(&mut self, value: i16) {
        self.put(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    fn put_i32(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    fn put_uuid(&mut self, value: Uuid) {
        self.put(&value.0);
    }

    /// 32 bits of count; the elements follow.
    fn put_count(&mut self, count: usize) {
        self.put_u32(u32::try_from(count).expect("limits keep every list far below 2^32 elements"));
    }

    /// 16 bits of length, then the text.
    fn put_text(&mut self, text: &str) {
        self.put_u16(u16::try_from(text.len()).expect("texts are checked against far smaller limits when they arrive"));
        self.put(text.as_bytes());
    }

    /// 32 bits of length, then the bytes.
    fn put_counted(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.put(bytes);
    }
}

impl Encode for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Reads what [`Encode`] wrote.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decoder({} bytes left)", self.rest.len())
    }
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Reads a version byte; anything above `newest`, and zero, is an error.
    pub fn version(&mut self, what: &'static str, newest: u8) -> Result<u8, CodecError> {
        let found = self.u8()?;
        if found == 0 || found > newest {
            return Err(CodecError::Version { what, found, newest });
        }
        Ok(found)
    }

    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(CodecError::Truncated { needed: count, remaining: self.rest.len() });
        };
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        Ok(self.take(N)?.try_into().expect("take returns exactly as many bytes as asked for"))
    }

    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    /// Exactly 0 or 1: one value has one encoding.
    pub fn bool(&mut self) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Value("a flag")),
        }
    }

    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn i16(&mut self) -> Result<i16, CodecError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Result<i32, CodecError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64, CodecError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub fn uuid(&mut self) -> Result<Uuid, CodecError> {
        Ok(Uuid(self.array()?))
    }

    /// A count of elements of at least `bytes_min` bytes each: what remains must be able to hold them, so that a
    /// vector of that capacity is paid for.
    pub fn count(&mut self, bytes_min: usize) -> Result<usize, CodecError> {
        let count = self.u32()? as usize;
        let remaining = self.rest.len();
        if count.checked_mul(bytes_min.max(1)).is_none_or(|bytes| bytes > remaining) {
            return Err(CodecError::Count { count, remaining });
        }
        Ok(count)
    }

    pub fn text(&mut self) -> Result<&'a str, CodecError> {
        let length = usize::from(self.u16()?);
        std::str::from_utf8(self.take(length)?).map_err(|_| CodecError::Utf8)
    }

    pub fn counted(&mut self) -> Result<&'a [u8], CodecError> {
        let length = self.count(1)?;
        self.take(length)
    }

    /// A list: a count, then that many elements of at least `bytes_min` bytes.
    pub fn list<T>(
        &mut self,
        bytes_min: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.count(bytes_min)?;
        (0..count).map(|_| element(self)).collect()
    }

    /// Nothing may follow.
    pub fn finish(self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_read_again() {
        let mut bytes = Vec::new();
        bytes.put_u8(7);
        bytes.put_bool(true);
        bytes.put_i16(-2);
        bytes.put_u32(3);
        bytes.put_i64(i64::MIN);
        bytes.put_uuid(Uuid([9; 16]));
        bytes.put_text("größe");
        bytes.put_counted(b"abc");
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.u8(), Ok(7));
        assert_eq!(decoder.bool(), Ok(true));
        assert_eq!(decoder.i16(), Ok(-2));
        assert_eq!(decoder.u32(), Ok(3));
        assert_eq!(decoder.i64(), Ok(i64::MIN));
        assert_eq!(decoder.uuid(), Ok(Uuid([9; 16])));
        assert_eq!(decoder.text(), Ok("größe"));
        assert_eq!(decoder.counted(), Ok(&b"abc"[..]));
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn a_count_that_nothing_pays_for_is_refused() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 1, 2, 3];
        let refused = CodecError::Count { count: u32::MAX as usize, remaining: 3 };
        assert_eq!(Decoder::new(&bytes).count(1), Err(refused));
        assert_eq!(Decoder::new(&bytes).count(0), Err(refused), "an element costs at least one byte");
        assert_eq!(Decoder::new(&bytes).counted(), Err(refused));
    }

    #[test]
    fn what_is_short_long_or_of_another_version_is_refused() {
        assert_eq!(Decoder::new(&[0; 3]).u32(), Err(CodecError::Truncated { needed: 4, remaining: 3 }));
        assert_eq!(Decoder::new(&[0; 3]).finish(), Err(CodecError::Trailing(3)));
        assert_eq!(Decoder::new(&[2]).bool(), Err(CodecError::Value("a flag")));
        assert_eq!(Decoder::new(&[0, 1, 0xff]).text(), Err(CodecError::Utf8));
        let version = |byte| Decoder::new(&[byte]).version("a thing", 2);
        assert_eq!(version(2), Ok(2));
        assert_eq!(version(0), Err(CodecError::Version { what: "a thing", found: 0, newest: 2 }));
        assert_eq!(version(3), Err(CodecError::Version { what: "a thing", found: 3, newest: 2 }));
    }
}
