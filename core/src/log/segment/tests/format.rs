//! The side file, byte for byte.

use proptest::prelude::*;

use super::*;
use crate::log::segment::{
    checksums::{ChunkEntry, Proof, decode, encode_entries, encode_header},
    index::Stretch,
};

const BASE: Offset = Offset(1_234_567);

fn entry(bytes: usize, crc: u32) -> ChunkEntry {
    ChunkEntry { bytes: bytes as u32, crc, stretch: None }
}

fn full(crcs: &[u32]) -> Vec<ChunkEntry> {
    crcs.iter().map(|&crc| entry(CHUNK_BYTES, crc)).collect()
}

fn file(entries: &[ChunkEntry]) -> Vec<u8> {
    [encode_header(GROUP, BASE), encode_entries(GROUP, BASE, 0, entries)].concat()
}

#[test]
fn the_bytes_of_version_two() {
    let begins = |offset_delta, place, max_timestamp| Some(Stretch { offset_delta, place, max_timestamp });
    let bytes = file(&[
        ChunkEntry { stretch: begins(0, 0, 1_700_000_000_000), ..entry(CHUNK_BYTES, 0x0102_0304) },
        entry(CHUNK_BYTES, 0xffee_ddcc),
        ChunkEntry { stretch: begins(77, 2 * 65_536 + 700, 1_600_000_000_000), ..entry(1_000, 0xa0b0_c0d0) },
    ]);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = concat!(
        "4b4352430200000000000100070000000000000087d6120000000000df00392d",
        "00000000000001000403020100000000000000000068e5cf8b010000d12cecb3",
        "0000000000000100ccddeeffffffffff00000000000000000000000019046e8f",
        "00000000e8030000d0c0b0a0bc0200004d00000000806e87740100001e4884d1",
    );
    assert_eq!(hex, golden);
}

#[test]
fn another_version_is_not_guessed_at() {
    let mut header = encode_header(GROUP, BASE).to_vec();
    header[4] = 3;
    let check = crc32c::crc32c(&header[..28]).to_le_bytes();
    header[28..].copy_from_slice(&check);
    assert_eq!(decode(GROUP, BASE, &header), Err((None, DamageKind::ChecksumVersion { version: 3 })));
}

#[test]
fn nothing_follows_the_closing_entry() {
    let mut bytes = file(&[entry(CHUNK_BYTES, 1), entry(CHUNK_BYTES, 2), entry(5, 3)]);
    bytes.extend(encode_entries(GROUP, BASE, 3, &full(&[4])));
    assert_eq!(decode(GROUP, BASE, &bytes), Err((Some(3), DamageKind::ChecksumBehindClosing)));
}

#[test]
fn a_file_that_was_never_synced_proves_nothing() {
    for bytes in [Vec::new(), vec![0; 10], vec![0; 32], vec![0xab; 500], encode_header(GROUP, BASE)[..20].to_vec()] {
        assert_eq!(decode(GROUP, BASE, &bytes), Ok(Proof::default()));
    }
}

proptest! {
    /// Writes of several entries each; the last one is torn in any way.
    #[test]
    fn a_torn_last_write_is_cut_and_never_believed(
        writes in prop::collection::vec(prop::collection::vec(any::<u32>(), 1..40), 1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode_header(GROUP, BASE).to_vec();
        let mut chunks = Vec::new();
        let mut synced = bytes.len();
        for write in &writes {
            synced = bytes.len();
            bytes.extend(encode_entries(GROUP, BASE, chunks.len(), &full(write)));
            chunks.extend(full(write));
        }
        let torn = &mut bytes[synced..];
        for (place, byte) in &damage {
            torn[place.index(torn.len())] = *byte;
        }
        bytes.truncate(synced + length.index(bytes.len() - synced + 1));
        let proof = decode(GROUP, BASE, &bytes).expect("a torn write is not damage");
        prop_assert!(chunks.starts_with(&proof.chunks));
        prop_assert!(proof.file_bytes() >= synced as u64);
        prop_assert_eq!(proof.closing, None);
    }

    #[test]
    fn any_bytes_are_looked_at_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), sound_header in any::<bool>()) {
        let file = if sound_header { [&encode_header(GROUP, BASE)[..], &bytes[..]].concat() } else { bytes };
        prop_assert_eq!(decode(GROUP, BASE, &file).map(|proof| proof.entries()), Ok(0));
    }
}
