//! A cursor over one frame that never reads, and never lets its caller allocate, more than the frame pays for.
//!
//! Two guards: a count of elements is checked against the bytes that remain, each element costing at least its smallest
//! wire size; and all memory that decoded arrays take is drawn from a budget proportional to the frame's length,
//! because small elements (two bytes on the wire, a hundred in memory) would otherwise amplify a well-formed frame by
//! two orders of magnitude.

use bytes::Bytes;

use super::{DecodeError, Str};

/// Reads primitive values from a frame. Byte strings and strings are slices of the frame, not copies.
#[derive(Debug)]
pub struct Reader {
    frame: Bytes,
    position: usize,
    /// Exclusive; lower than the frame's length only inside a tagged field.
    end: usize,
    budget: usize,
    budget_bytes: usize,
}

impl Reader {
    /// Memory that arrays may take for each byte of the frame.
    pub const BUDGET_PER_BYTE: usize = 16;
    /// Memory that arrays may take in addition, so that short messages of short strings always decode.
    pub const BUDGET_BASE_BYTES: usize = 16 * 1024;

    #[must_use]
    pub fn new(frame: Bytes) -> Self {
        let budget_bytes = frame.len().saturating_mul(Self::BUDGET_PER_BYTE).saturating_add(Self::BUDGET_BASE_BYTES);
        let end = frame.len();
        Self { frame, position: 0, end, budget: budget_bytes, budget_bytes }
    }

    #[must_use]
    #[inline]
    pub fn remaining(&self) -> usize {
        self.end - self.position
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// The rest of the frame, as a slice of it; the reader is left at its end.
    #[must_use]
    pub fn take_remaining(&mut self) -> Bytes {
        let rest = self.frame.slice(self.position..self.end);
        self.position = self.end;
        rest
    }

    /// Succeeds if every byte has been read.
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            count => Err(DecodeError::TrailingBytes { count }),
        }
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&[u8], DecodeError> {
        let remaining = self.remaining();
        if count > remaining {
            return Err(DecodeError::Truncated { needed: count, remaining });
        }
        let start = self.position;
        self.position += count;
        Ok(&self.frame[start..start + count])
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("take returns exactly as many bytes as asked"))
    }

    #[inline]
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    #[inline]
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    /// Any value but zero is true, as in every Kafka implementation.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.i8()? != 0)
    }

    #[inline]
    pub fn uuid_bytes(&mut self) -> Result<[u8; 16], DecodeError> {
        self.array()
    }

    /// An unsigned varint of at most 32 bits.
    #[inline]
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::InvalidVarint);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::InvalidVarint)
    }

    /// The next `count` bytes as a slice of the frame, without a copy.
    pub fn bytes(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        let start = self.position;
        self.take(count)?;
        Ok(self.frame.slice(start..start + count))
    }

    /// The next `count` bytes as a string that is a slice of the frame.
    pub fn str(&mut self, count: usize) -> Result<Str, DecodeError> {
        Str::from_utf8(self.bytes(count)?).map_err(|_| DecodeError::InvalidUtf8)
    }

    /// Length of a string: 16 bits, or compact. `None` is null.
    #[inline]
    pub fn string_length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        if flexible { self.compact_length() } else { length(i64::from(self.i16()?)) }
    }

    /// Length of a byte string or count of an array: 32 bits, or compact. `None` is null.
    #[inline]
    pub fn length(&mut self, flexible: bool) -> Result<Option<usize>, DecodeError> {
        if flexible { self.compact_length() } else { length(i64::from(self.i32()?)) }
    }

    #[inline]
    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        let plus_one = self.unsigned_varint()? as usize;
        Ok(plus_one.checked_sub(1))
    }

    /// Checks that `count` elements of at least `size_min` wire bytes can follow and draws `count * memory` bytes from
    /// the budget. After this, and only after this, may a vector of `count` elements be allocated.
    #[inline]
    pub fn pay_for(&mut self, count: usize, size_min: usize, memory: usize) -> Result<(), DecodeError> {
        let remaining = self.remaining();
        // An element of no bytes at all would make any count plausible.
        if count.checked_mul(size_min.max(1)).is_none_or(|bytes| bytes > remaining) {
            return Err(DecodeError::CountExceedsBytes { count, remaining });
        }
        self.draw(count.saturating_mul(memory))
    }

    /// Draws memory from the frame's budget, for an allocation that does not depend on a count.
    #[inline]
    pub fn draw(&mut self, memory: usize) -> Result<(), DecodeError> {
        match self.budget.checked_sub(memory) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(DecodeError::OverBudget { budget_bytes: self.budget_bytes }),
        }
    }

    /// Reads a section of tagged fields (KIP-482). `known` decodes the field of a tag and answers true, or answers
    /// false for a tag it does not know, which is then skipped: unknown tags are how newer peers extend a version.
    #[inline]
    pub fn tagged_fields(
        &mut self,
        mut known: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        // No check of the count itself: each round reads at least two bytes, so the frame ends a lie.
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let length = self.unsigned_varint()? as usize;
            let remaining = self.remaining();
            if length > remaining {
                return Err(DecodeError::Truncated { needed: length, remaining });
            }
            let outer_end = self.end;
            self.end = self.position + length;
            if known(self, tag)? {
                if self.remaining() != 0 {
                    return Err(DecodeError::TaggedFieldLength { tag, length });
                }
            } else {
                self.position = self.end;
            }
            self.end = outer_end;
        }
        Ok(())
    }
}

fn length(length: i64) -> Result<Option<usize>, DecodeError> {
    match length {
        -1 => Ok(None),
        _ => usize::try_from(length).map(Some).map_err(|_| DecodeError::InvalidLength { length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader {
        Reader::new(Bytes::from_static(bytes))
    }

    #[test]
    fn varints_longer_than_32_bits_are_refused() {
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x0f]).unsigned_varint(), Ok(u32::MAX));
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x10]).unsigned_varint(), Err(DecodeError::InvalidVarint));
        assert_eq!(reader(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]).unsigned_varint(), Err(DecodeError::InvalidVarint));
        assert_eq!(reader(&[0x80]).unsigned_varint(), Err(DecodeError::Truncated { needed: 1, remaining: 0 }));
    }

    #[test]
    fn lengths_below_minus_one_are_refused() {
        assert_eq!(reader(&[0xff, 0xff]).string_length(false), Ok(None));
        assert_eq!(reader(&[0xff, 0xfe]).string_length(false), Err(DecodeError::InvalidLength { length: -2 }));
        assert_eq!(
            reader(&[0x80, 0, 0, 0]).length(false),
            Err(DecodeError::InvalidLength { length: i64::from(i32::MIN) })
        );
        assert_eq!(reader(&[0]).length(true), Ok(None));
    }

    #[test]
    fn byte_strings_are_slices_of_the_frame() {
        let frame = Bytes::from(vec![1, 2, 3, 4, 5]);
        let mut reader = Reader::new(frame.clone());
        reader.i8().unwrap();
        let slice = reader.bytes(3).unwrap();
        assert_eq!(slice.as_ptr(), frame[1..].as_ptr());
    }

    #[test]
    fn the_budget_is_spent_across_arrays() {
        let mut reader = Reader::new(Bytes::from(vec![0; 1000]));
        let budget = 1000 * Reader::BUDGET_PER_BYTE + Reader::BUDGET_BASE_BYTES;
        reader.pay_for(1000, 1, 16).unwrap();
        reader.pay_for(16, 1, 1024).unwrap();
        assert_eq!(reader.pay_for(1, 1, 1), Err(DecodeError::OverBudget { budget_bytes: budget }));
    }

    #[test]
    fn a_tagged_field_must_fill_its_length() {
        // One field with tag 0 and two bytes, of which the decoder reads one.
        let result = reader(&[1, 0, 2, 7, 7]).tagged_fields(|reader, _| reader.i8().map(|_| true));
        assert_eq!(result, Err(DecodeError::TaggedFieldLength { tag: 0, length: 2 }));
        // A tagged field cannot read into what follows it.
        let result = reader(&[1, 0, 1, 7, 7]).tagged_fields(|reader, _| reader.i16().map(|_| true));
        assert_eq!(result, Err(DecodeError::Truncated { needed: 2, remaining: 1 }));
        // An unknown one is skipped.
        let mut skipping = reader(&[1, 9, 2, 7, 7, 42]);
        skipping.tagged_fields(|_, _| Ok(false)).unwrap();
        assert_eq!(skipping.i8(), Ok(42));
    }
}
