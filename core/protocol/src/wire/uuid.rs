//! 128-bit identifiers as Kafka writes them: 16 bytes on the wire, 22 characters of url-safe base64 without padding in
//! text.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A topic, directory or cluster id. Zero means that there is none.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// 128 bits in six-bit characters; the last one carries two bits.
const TEXT_LENGTH: usize = 22;

impl Uuid {
    pub const ZERO: Self = Self([0; 16]);

    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four zero bits behind the 128 make 22 whole characters.
        let value = u128::from_be_bytes(self.0);
        for index in 0..TEXT_LENGTH {
            let bits = match 122usize.checked_sub(6 * index) {
                Some(shift) => (value >> shift) & 0x3f,
                None => (value << 4) & 0x3f,
            };
            f.write_str(char::from(ALPHABET[bits as usize]).encode_utf8(&mut [0; 4]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uuid({self})")
    }
}

/// The text is not 22 characters of url-safe base64 that make 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an id of 22 characters of url-safe base64")]
pub struct ParseUuidError;

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, ParseUuidError> {
        if text.len() != TEXT_LENGTH {
            return Err(ParseUuidError);
        }
        let mut value = 0u128;
        for (index, byte) in text.bytes().enumerate() {
            let bits = ALPHABET.iter().position(|&letter| letter == byte).ok_or(ParseUuidError)? as u128;
            if index + 1 < TEXT_LENGTH {
                value = value << 6 | bits;
            } else if bits & 0xf == 0 {
                value = value << 2 | bits >> 4;
            } else {
                return Err(ParseUuidError);
            }
        }
        Ok(Self(value.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_url_safe_base64() {
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid([0xff; 16]).to_string(), "_____________________w");
        let bytes: [u8; 16] = std::array::from_fn(|index| index as u8);
        assert_eq!(Uuid(bytes).to_string(), "AAECAwQFBgcICQoLDA0ODw");
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAA+", "AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAAAA=="] {
            assert_eq!(text.parse::<Uuid>(), Err(ParseUuidError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_id_survives_its_text(bytes: [u8; 16]) {
            prop_assert_eq!(Uuid(bytes).to_string().parse(), Ok(Uuid(bytes)));
        }
    }
}
