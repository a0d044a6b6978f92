//! The side file, byte for byte.

use proptest::prelude::*;

use super::*;
use crate::log::segment::checksums::{Closing, Proof, decode, encode_entries, encode_header};

const BASE: Offset = Offset(1_234_567);

fn file(chunks: &[u32], closing: Option<Closing>) -> Vec<u8> {
    [encode_header(GROUP, BASE), encode_entries(GROUP, BASE, 0, chunks, closing)].concat()
}

#[test]
fn the_bytes_of_version_one() {
    let bytes = file(&[0x0102_0304, 0xffee_ddcc], Some(Closing { bytes: 1_000, crc: 0xa0b0_c0d0 }));
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = concat!(
        "4b4352430100000000000100070000000000000087d6120000000000bc3105e6",
        "000000000000010004030201d60158ad",
        "0000000000000100ccddeeff1d16c172",
        "00000000e8030000d0c0b0a04181677b",
    );
    assert_eq!(hex, golden);
}

#[test]
fn another_version_is_not_guessed_at() {
    let mut header = encode_header(GROUP, BASE).to_vec();
    header[4] = 2;
    let check = crc32c::crc32c(&header[..28]).to_le_bytes();
    header[28..].copy_from_slice(&check);
    assert_eq!(decode(GROUP, BASE, &header), Err((0, DamageKind::ChecksumVersion { version: 2 })));
}

#[test]
fn nothing_follows_the_closing_entry() {
    let mut bytes = file(&[1, 2], Some(Closing { bytes: 5, crc: 3 }));
    bytes.extend(encode_entries(GROUP, BASE, 3, &[4], None));
    assert_eq!(decode(GROUP, BASE, &bytes), Err((checksums::entry_offset(3), DamageKind::ChecksumBehindClosing)));
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
            bytes.extend(encode_entries(GROUP, BASE, chunks.len(), write, None));
            chunks.extend(write);
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
