//! Named streams of random numbers.
//!
//! Every consumer of randomness owns a stream derived from (seed, node, purpose, number), so that drawing more from
//! one, or removing one altogether, never shifts another. That is what makes a simulated run shrinkable.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::ids::NodeId;

/// One named stream.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `purpose` (a short constant name) and `number` (for example a group id) on `node`.
    pub fn new(seed: u64, node: NodeId, purpose: &str, number: u64) -> Self {
        // The four parts go into the key as they are; the purpose through FNV-1a, whose collisions would only make
        // two streams equal, never unsafe.
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..12].copy_from_slice(&node.0.to_le_bytes());
        key[12..20].copy_from_slice(&fnv1a(purpose).to_le_bytes());
        key[20..28].copy_from_slice(&number.to_le_bytes());
        Self(ChaCha8Rng::from_seed(key))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`. The bias of the modulo is below 2^-32 for the bounds used here (all below 2^32).
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a range of numbers holds at least one");
        self.0.next_u64() % bound
    }

    pub fn bytes16(&mut self) -> [u8; 16] {
        let mut bytes = [0u8; 16];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

const fn fnv1a(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_other_names_are_other_streams() {
        let mut a = Stream::new(1, NodeId(1), "election", 7);
        let mut b = Stream::new(1, NodeId(1), "election", 8);
        let mut c = Stream::new(1, NodeId(1), "dial", 7);
        let mut again = Stream::new(1, NodeId(1), "election", 7);
        let first = a.next_u64();
        assert_ne!(first, b.next_u64());
        assert_ne!(first, c.next_u64());
        assert_eq!(first, again.next_u64());
    }
}
