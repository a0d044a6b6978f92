//! Which partition a record goes to.
//!
//! A key goes where Kafka's Java client puts it, so that clients of both kinds agree. Records without a key stay on
//! one partition until about a batch is full, then move on (KIP-794), so that batches get large.

/// Kafka's murmur2 (MurmurHash 2, 32 bits, little endian, with Kafka's seed).
pub fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const MULTIPLIER: u32 = 0x5bd1_e995;
    const SHIFT: u32 = 24;
    // Only the low bits of the length take part.
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        word ^= word >> SHIFT;
        hash = hash.wrapping_mul(MULTIPLIER) ^ word.wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0u32, |last, byte| last << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ hash >> 15
}

/// The partition of a key among `count`, which must be positive.
pub fn partition_of_key(key: &[u8], count: i32) -> i32 {
    assert!(count > 0, "a topic without partitions has no partition for a key");
    (murmur2(key) & 0x7fff_ffff) as i32 % count
}

/// Where records without a key go.
#[derive(Debug, Default)]
pub(super) struct Sticky {
    partition: Option<i32>,
    bytes: usize,
    next: i32,
}

impl Sticky {
    /// The partition for a record of `bytes`. One that `is_available` is preferred.
    pub(super) fn choose(
        &mut self,
        count: i32,
        bytes: usize,
        batch_bytes: usize,
        is_available: impl Fn(i32) -> bool,
    ) -> i32 {
        assert!(count > 0, "a topic without partitions has no partition for a record");
        if self.bytes >= batch_bytes {
            self.partition = None;
        }
        let partition = *self.partition.get_or_insert_with(|| {
            let in_turn = (0..count).map(|step| (self.next + step) % count);
            let chosen = in_turn.into_iter().find(|partition| is_available(*partition)).unwrap_or(self.next % count);
            self.next = (chosen + 1) % count;
            self.bytes = 0;
            chosen
        });
        self.bytes += bytes;
        partition
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_kafka() {
        // From the tests of Apache Kafka's Utils.murmur2.
        let known: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (bytes, hash) in known {
            assert_eq!(murmur2(bytes) as i32, hash, "{bytes:?}");
        }
    }

    #[test]
    fn records_without_a_key_stay_until_a_batch_is_full_and_avoid_the_leaderless() {
        let mut sticky = Sticky::default();
        let mut chosen: Vec<i32> = (0..6).map(|_| sticky.choose(3, 50, 100, |partition| partition != 1)).collect();
        assert_eq!(chosen, [0, 0, 2, 2, 0, 0]);
        chosen = (0..4).map(|_| sticky.choose(3, 50, 100, |_| false)).collect();
        assert_eq!(chosen, [1, 1, 2, 2], "all are as good");
    }
}
