//! The hash over every event of a run: two runs of one plan must end with the same.
//!
//! Invariant: everything that crosses the border of a core goes in, payloads by their CRC-32C. Nothing else does: no
//! address, no log line, no real time.

use std::hash::Hasher;

use bytes::Bytes;

/// A running 64-bit hash. Not cryptographic: it detects accidents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Digest {
    pub fn number(&mut self, number: u64) {
        // The finalizer of splitmix64 over the running value: each bit of both reaches all others.
        let mut mixed = self.0.rotate_left(23) ^ number;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = mixed ^ (mixed >> 31);
    }

    pub fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        for number in numbers {
            self.number(number);
        }
    }

    pub fn slices(&mut self, slices: &[Bytes]) {
        let mut crc = 0;
        let mut length = 0;
        for slice in slices {
            crc = crc32c::crc32c_append(crc, slice);
            length += slice.len();
        }
        self.number(u64::from(crc) << 32 ^ length as u64);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(u64::from(crc32c::crc32c(bytes)) << 32 ^ bytes.len() as u64);
    }

    pub fn value(self) -> u64 {
        self.0
    }
}

/// For names that are made of numbers, so that none of them has to be written out.
impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.bytes(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.number(number);
    }

    fn write_isize(&mut self, number: isize) {
        self.number(number as u64);
    }

    fn finish(&self) -> u64 {
        self.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_count() {
        let of = |numbers: &[u64]| {
            let mut digest = Digest::default();
            numbers.iter().for_each(|number| digest.number(*number));
            digest.value()
        };
        assert_eq!(of(&[1, 2]), of(&[1, 2]));
        assert_ne!(of(&[1, 2]), of(&[2, 1]));
        assert_ne!(of(&[0]), of(&[]));
        assert_ne!(of(&[0]), of(&[0, 0]));
    }

    #[test]
    fn how_bytes_are_cut_into_slices_does_not_count() {
        let mut whole = Digest::default();
        whole.bytes(b"abcdef");
        let mut cut = Digest::default();
        cut.slices(&[Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"cdef")]);
        assert_eq!(whole, cut);
    }
}
