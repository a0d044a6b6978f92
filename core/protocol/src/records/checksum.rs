//! CRC-32C arithmetic: how a checksum changes when bytes far in front of it change.
//!
//! A CRC is the remainder of a polynomial over GF(2). Bytes in front of `n` others count `x^(8n)` times as much, so
//! their share of the whole checksum is found by one multiplication, without looking at the others.

/// The Castagnoli polynomial, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;

/// `x^(8 * 2^k)` for every `k`.
const POWERS: [u32; 64] = {
    let mut powers = [ONE >> 8; 64];
    let mut index = 1;
    while index < powers.len() {
        powers[index] = multiply(powers[index - 1], powers[index - 1]);
        index += 1;
    }
    powers
};

/// The share in a checksum of bytes whose own is `checksum` and that `bytes` others follow. Shares combine by exclusive
/// or.
pub(super) fn shift(checksum: u32, bytes: usize) -> u32 {
    let set_bits = (0..usize::BITS).filter(|bit| bytes >> bit & 1 == 1);
    set_bits.fold(checksum, |checksum, bit| multiply(checksum, POWERS[bit as usize]))
}

/// The CRC-32C of two pieces, the second of `back_bytes` bytes, out of their own.
#[must_use]
pub fn combine(front: u32, back: u32, back_bytes: usize) -> u32 {
    shift(front, back_bytes) ^ back
}

/// The product of two polynomials modulo the one of the checksum.
const fn multiply(left: u32, mut right: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if left & bit != 0 {
            product ^= right;
        }
        right = if right & 1 == 1 { right >> 1 ^ POLYNOMIAL } else { right >> 1 };
        bit >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn checksums_of_parts_make_that_of_the_whole(
            front in prop::collection::vec(any::<u8>(), 0..300),
            back in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let whole = crc32c::crc32c(&[&front[..], &back].concat());
            prop_assert_eq!(combine(crc32c::crc32c(&front), crc32c::crc32c(&back), back.len()), whole);
        }
    }
}
