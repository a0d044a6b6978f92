//! Zigzag varints, which only records use.

use super::BatchError;

/// Reads from the front of `bytes` and moves it forward.
pub(super) fn read_i64(bytes: &mut &[u8]) -> Result<i64, BatchError> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().enumerate().take(10) {
        // The tenth byte has room for one bit only.
        if index == 9 && byte > 1 {
            return Err(BatchError::InvalidVarint);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    match bytes.len() {
        0..10 => Err(BatchError::Truncated { needed: bytes.len() + 1, available: bytes.len() }),
        _ => Err(BatchError::InvalidVarint),
    }
}

pub(super) fn read_i32(bytes: &mut &[u8]) -> Result<i32, BatchError> {
    let mut rest = *bytes;
    let value = i32::try_from(read_i64(&mut rest)?).map_err(|_| BatchError::InvalidVarint)?;
    *bytes = rest;
    Ok(value)
}

pub(super) fn put(bytes: &mut Vec<u8>, value: i64) {
    let mut value = zigzag(value);
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// How many bytes [`put`] writes.
pub(super) fn length(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_number_survives(value in prop_oneof![any::<i64>(), -300i64..300, Just(i64::MIN), Just(i64::MAX)]) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            prop_assert_eq!(bytes.len(), length(value));
            let mut rest = &bytes[..];
            prop_assert_eq!(read_i64(&mut rest), Ok(value));
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn overlong_and_cut_numbers_are_refused() {
        assert_eq!(read_i64(&mut &[0xff; 10][..]), Err(BatchError::InvalidVarint));
        assert_eq!(read_i64(&mut &[0x80][..]), Err(BatchError::Truncated { needed: 2, available: 1 }));
        let mut bytes = Vec::new();
        put(&mut bytes, i64::from(i32::MAX) + 1);
        assert_eq!(read_i32(&mut &bytes[..]), Err(BatchError::InvalidVarint));
    }
}
