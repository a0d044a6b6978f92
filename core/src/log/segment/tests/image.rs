//! The encoded image, byte for byte, and what contradicts one.

use proptest::prelude::*;

use super::{restoring::image, *};
use crate::log::segment::image::AppliedImage;

const SEGMENT_BYTES: u64 = 300 * KIB as u64;

pub(super) fn encoded(image: &LogImage) -> Vec<u8> {
    let mut out = Vec::new();
    image.encode(&mut out);
    out.concat()
}

/// Nine batches of 50 KiB in two segments, of which the last two are in memory; the image of that.
fn written() -> (World, Vec<AppliedBatch>, LogImage) {
    let batches = batches_of(&[50 * KIB; 9], 1);
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches[..7]);
    world.flush();
    world.append_all(&batches[7..]);
    let image = image(&mut world.log);
    (world, batches, image)
}

#[test]
fn the_bytes_of_version_one() {
    let mut random = rng(1);
    let batches: Vec<AppliedBatch> =
        (0..4).map(|place| batch(Offset(place * 3), 3, 40_000, 1_700_000_000_000 + place, &mut random)).collect();
    let small = batch(Offset(12), 1, 62, 1_600_000_000_000, &mut random);
    let mut world = World::new(100_000, 1);
    world.append_all(&batches[..2]);
    world.flush();
    world.append_all(&batches[2..3]);
    world.flush();
    world.append(&batches[3]);
    world.append(&small);
    let image = LogImage {
        applied: Some(AppliedImage { next_offset: Offset(6), position: 80_000, rest_crc: Some(77) }),
        ..world.log.image()
    };
    let bytes = encoded(&image);
    let tail = 40_062;
    assert_eq!(bytes[bytes.len() - tail..], concatenated(&[batches[3].clone(), small]));
    let hex: String = bytes[..bytes.len() - tail].iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = concat!(
        // Version, flags, segments; where the log begins and the tail; checksums; overlap; length of the tail.
        "0100010002000000",
        "0000000000000000",
        "0900000000000000",
        "7ffe1ffa",
        "31302358",
        "00000000",
        "00000000",
        "7e9c000000000000",
        // How far the state machine is.
        "0600000000000000",
        "8038010000000000",
        "4d000000",
        // A closed segment: nothing of it is not in its side file.
        "0000000000000000",
        "80380100",
        "03000000",
        "0168e5cf8b010000",
        "0300000000000000",
        "01000000",
        "00000000",
        // One of 40,000 bytes with the entry of its unfinished chunk.
        "0600000000000000",
        "409c0000",
        "02000000",
        "0368e5cf8b010000",
        "0900000000000000",
        "00000000",
        "01000000",
        "409c0000",
        "c2c74c73",
        "00000000",
        "00000000",
        "0368e5cf8b010000",
    );
    assert_eq!(hex, golden);
}

#[test]
fn an_image_of_another_version_is_not_guessed_at() {
    let (_, _, image) = written();
    let mut bytes = encoded(&image);
    bytes[0] = 2;
    assert_eq!(LogImage::decode(bytes.into()), Err(LogImageError::Version { version: 2 }));
}

#[test]
fn an_image_that_was_cut_or_extended_is_refused() {
    let (_, _, image) = written();
    let mut bytes = encoded(&image);
    for length in (0..bytes.len()).step_by(97) {
        assert!(LogImage::decode(Bytes::copy_from_slice(&bytes[..length])).is_err(), "{length}");
    }
    bytes.push(0);
    assert_eq!(LogImage::decode(bytes.into()), Err(LogImageError::Surplus { bytes: 1 }));
}

#[test]
fn a_segment_that_an_image_must_know_and_does_not_is_damage() {
    let (mut world, _, image) = written();
    let header = checksums::encode_header(GROUP, Offset(3));
    let entry = checksums::ChunkEntry { bytes: 100, crc: 5, stretch: None };
    let entries = checksums::encode_entries(GROUP, Offset(3), 0, &[entry]);
    let mut ids = OperationIds::default();
    let mut write = |file, slices| {
        let action = DiskAction::Write { file, offset: 0, slices };
        world.disk.issue([crate::io::DiskOperation { id: ids.next_id(), action }]);
        world.disk.step(&mut rng(1)).1.expect("the disk works");
    };
    write(checksum_file(3), vec![header, entries]);
    write(log_file(3), vec![Bytes::from_static(&[1; 100])]);
    let exit = restore(&mut world.disk, SEGMENT_BYTES, image, 1).expect_err("it proves something");
    assert_eq!(exit, Damage::whole(log_file(3), DamageKind::SegmentUnknown).into());
}

#[test]
fn a_side_file_that_contradicts_an_image_is_damage() {
    // The image was taken before the side file was written, of a log that went elsewhere.
    let batches = batches_of(&[50 * KIB; 9], 1);
    let others = batches_of(&[50 * KIB; 9], 2);
    let lazy = |batches: &[AppliedBatch]| {
        let mut world = World::new(1 << 30, 1);
        world.log.prove_chunks(100);
        world.append_all(batches);
        world.flush();
        world.log.image()
    };
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches);
    world.flush();
    let exit = restore(&mut world.disk, 1 << 30, lazy(&others), 1).expect_err("they differ");
    assert_eq!(exit, Damage::entry(checksum_file(0), 0, DamageKind::ChecksumContradiction).into());
    restore(&mut world.disk, 1 << 30, lazy(&batches), 1).expect("these are the same");
}

#[test]
fn a_closed_segment_whose_side_file_ends_otherwise_is_damage() {
    let log = |seed| {
        let batches = batches_of(&[50 * KIB; 7], seed);
        let mut world = World::new(SEGMENT_BYTES, 1);
        world.append_all(&batches[..6]);
        world.flush();
        // The next segment is begun and not written.
        world.append(&batches[6]);
        world.poll(0);
        while world.step().expect("the disk works") {}
        let image = world.log.image();
        (world, image)
    };
    let ((mut world, own), (_, other)) = (log(1), log(2));
    assert!(own.segments[0].closed);
    let (file, kind) = (checksum_file(0), DamageKind::ChecksumContradiction);
    let strange = LogImage { tail: own.tail.clone(), overlap: own.overlap, next_offset: own.next_offset, ..other };
    let exit = restore(&mut world.disk, SEGMENT_BYTES, strange, 1).expect_err("they differ");
    assert_eq!(exit, Damage::whole(file, kind).into());
    restore(&mut world.disk, SEGMENT_BYTES, own, 1).expect("these are the same");
}

proptest! {
    #[test]
    fn any_bytes_are_looked_at_without_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        head_only in any::<bool>(),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let (_, _, image) = written();
        let mut bytes = encoded(&image);
        let range = if head_only { 200 } else { bytes.len() };
        for (place, byte) in changes {
            let place = place.index(range);
            bytes[place] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        if let Ok(image) = LogImage::decode(bytes.into()) {
            prop_assert!(image.content().bytes >= image.tail_bytes() as u64 - u64::from(image.overlap));
        }
    }
}
