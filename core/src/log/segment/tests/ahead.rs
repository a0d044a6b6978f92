//! A state transfer brings batches before the state machine comes to them.

use kauri_protocol::records::{BatchError, BatchHeader};
use proptest::prelude::*;

use super::{crash::check_whole, disk::Crash, image::encoded, restoring::image, *};

const SEGMENT_BYTES: u64 = 300 * KIB as u64;

/// The same batches with the checksum that a transfer verifies.
fn sealed(batches: Vec<AppliedBatch>) -> Vec<AppliedBatch> {
    batches
        .into_iter()
        .map(|batch| {
            let mut header = BatchHeader::parse(&batch.header).expect("it is a header");
            let covered = [&batch.header[21..], &batch.body[..]].concat();
            header.checksum = crc32c::crc32c(&covered);
            AppliedBatch { header: Bytes::copy_from_slice(&header.encode()), ..batch }
        })
        .collect()
}

fn transferred() -> Vec<AppliedBatch> {
    let mut sizes = vec![100, 40 * KIB, CHUNK_BYTES - 40 * KIB - 100, 70 * KIB, 200];
    sizes.extend([900; 80]);
    sizes.extend([33 * KIB, 200 * KIB, 3 * KIB, 128 * KIB]);
    sealed(batches_of(&sizes, 1))
}

#[test]
fn what_a_transfer_brought_is_compared_and_not_written_again() {
    let batches = transferred();
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches[..3]);
    let next = world.log.append_ahead(Monotonic(0), &concatenated(&batches[3..]).into()).expect("they are sound");
    assert_eq!(next, world.log.next_offset());
    assert_eq!(world.log.applied_offset(), batches[3].base_offset);
    world.flush();
    world.disk.trace.clear();
    for batch in &batches[3..] {
        assert_eq!(world.log.applied_offset(), batch.base_offset);
        world.append(batch);
    }
    assert_eq!(world.log.applied_offset(), next);
    world.flush();
    assert!(world.disk.trace.is_empty(), "nothing was left to be written");
    check_whole(&mut world, &batches);
}

#[test]
fn transfer_and_state_machine_take_turns() {
    let batches = transferred();
    let mut world = World::new(SEGMENT_BYTES, 1);
    let mut applied = 0;
    for part in batches.chunks(7) {
        let bytes = concatenated(part).into();
        if part[0].base_offset == world.log.next_offset() {
            world.log.append_ahead(Monotonic(0), &bytes).expect("they are sound");
        }
        let count = world.rng.below(12) as usize;
        for batch in batches[applied..].iter().take(count) {
            world.append(batch);
            applied += 1;
        }
        world.poll(usize::MAX);
        world.step().expect("the disk works");
    }
    for batch in &batches[applied..] {
        world.append(batch);
    }
    check_whole(&mut world, &batches);
}

/// What a transfer of `bytes` behind the first three batches says.
fn refused(change: impl FnOnce(&mut Vec<u8>)) -> AheadError {
    let batches = transferred();
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches[..3]);
    let mut bytes = concatenated(&batches[3..9]);
    change(&mut bytes);
    let error = world.log.append_ahead(Monotonic(0), &bytes.into()).expect_err("they are not sound");
    assert_eq!(world.log.next_offset(), batches[3].base_offset, "nothing was appended");
    world.append_all(&batches[3..]);
    check_whole(&mut world, &batches);
    error
}

#[test]
fn nothing_of_a_transfer_that_is_not_sound_is_appended() {
    let first = 70 * KIB;
    assert_eq!(refused(|bytes| bytes.truncate(first + 90)), AheadError::Incomplete { at: first });
    assert_eq!(refused(|bytes| bytes.truncate(first + 5)), AheadError::Incomplete { at: first });
    let flipped = refused(|bytes| bytes[first + 150] ^= 1);
    let at_second = |error: &AheadError, kind: fn(&BatchError) -> bool| matches!(error, AheadError::Batch { at, error } if *at == first && kind(error));
    assert!(at_second(&flipped, |error| matches!(error, BatchError::ChecksumMismatch { .. })), "{flipped}");
    let old = refused(|bytes| bytes[first + 16] = 1);
    assert!(at_second(&old, |error| matches!(error, BatchError::UnsupportedMagic { .. })), "{old}");
    let gap = refused(|bytes| drop(bytes.drain(..first)));
    assert!(matches!(gap, AheadError::Gap { expected, found } if found > expected), "{gap}");
    let huge = refused(|bytes| bytes[first + 8..first + 12].copy_from_slice(&i32::MAX.to_be_bytes()));
    assert!(matches!(huge, AheadError::TooLarge { .. }), "{huge}");
}

#[test]
fn a_state_machine_that_leads_elsewhere_than_a_transfer_is_damage() {
    let batches = transferred();
    for different in [3, 5, 60, batches.len() - 1] {
        let mut world = World::new(SEGMENT_BYTES, 1);
        world.append_all(&batches[..3]);
        world.log.append_ahead(Monotonic(0), &concatenated(&batches[3..]).into()).expect("they are sound");
        let mut own = batches.clone();
        let mut body = own[different].body.to_vec();
        body[20] ^= 1;
        own[different].body = body.into();
        let damage = own[3..].iter().find_map(|batch| world.log.append(Monotonic(0), batch.clone()).err());
        let damage = damage.expect("it is noticed when the chunk is complete");
        assert_eq!(damage.kind, DamageKind::ChunkRegenerated);
    }
}

#[test]
fn a_state_machine_that_is_replaced_has_nothing_left_to_compare() {
    let batches = transferred();
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.log.append_ahead(Monotonic(0), &concatenated(&batches[..50]).into()).expect("they are sound");
    world.flush();
    let image = image(&mut world.log);
    assert_eq!(image.applied_offset(), Offset(0));
    let mut world = World::restore(world.disk, SEGMENT_BYTES, image.applied_to_end(), 1).expect("no damage");
    assert_eq!(world.log.applied_offset(), batches[50].base_offset);
    world.append_all(&batches[50..]);
    check_whole(&mut world, &batches);
}

/// Wherever the state stands that replaces the state machine, what follows is compared and nothing is written again, also
/// after a restart.
#[test]
fn a_log_may_be_ahead_of_the_state_that_replaces_its_state_machine() {
    let batches = transferred();
    let mut position = 0;
    for count in 0..batches.len() {
        let mut world = World::new(SEGMENT_BYTES, 1);
        world.log.append_ahead(Monotonic(0), &concatenated(&batches).into()).expect("they are sound");
        world.flush();
        assert!(world.log.applied_to(batches[count].base_offset, position));
        assert_eq!((world.log.applied_offset(), world.log.applied_bytes()), (batches[count].base_offset, position));
        let image = LogImage::decode(encoded(&image(&mut world.log)).into()).expect("it was just encoded");
        let mut again = World::restore(world.disk.clone(), SEGMENT_BYTES, image, 1).expect("no damage");
        for world in [&mut world, &mut again] {
            world.disk.trace.clear();
            for batch in &batches[count..] {
                assert_eq!(world.log.applied_offset(), batch.base_offset);
                world.append(batch);
            }
            world.flush();
            assert!(world.disk.trace.is_empty(), "nothing was left to be written");
            check_whole(world, &batches);
        }
        position += (batches[count].header.len() + batches[count].body.len()) as u64;
    }
}

#[test]
fn a_state_that_the_log_cannot_go_on_from_is_refused() {
    let batches = transferred();
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.log.append_ahead(Monotonic(0), &concatenated(&batches[..9]).into()).expect("they are sound");
    let bytes = world.log.bytes();
    assert!(!world.log.applied_to(batches[10].base_offset, bytes), "it has more than the log");
    assert!(!world.log.applied_to(batches[8].base_offset, bytes), "it stands at the end of the bytes");
    assert_eq!(world.log.applied_offset(), Offset(0), "nothing changed");
    assert!(world.log.applied_to(batches[9].base_offset, bytes));
    world.append_all(&batches[9..]);
    check_whole(&mut world, &batches);
}

/// The checksum of the chunk in which the state stands is the only one that is not compared.
#[test]
fn what_follows_such_a_state_is_compared() {
    let batches = transferred();
    let position = concatenated(&batches[..3]).len() as u64;
    for different in [5, 60, batches.len() - 1] {
        let mut world = World::new(SEGMENT_BYTES, 1);
        world.log.append_ahead(Monotonic(0), &concatenated(&batches).into()).expect("they are sound");
        assert!(world.log.applied_to(batches[3].base_offset, position));
        let mut own = batches.clone();
        let mut body = own[different].body.to_vec();
        body[20] ^= 1;
        own[different].body = body.into();
        let damage = own[3..].iter().find_map(|batch| world.log.append(Monotonic(0), batch.clone()).err());
        assert_eq!(damage.expect("it is noticed when the chunk is complete").kind, DamageKind::ChunkRegenerated);
    }
}

#[test]
fn raw_reads_return_everything_that_is_there() {
    let batches = transferred();
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches[..40]);
    world.log.append_ahead(Monotonic(0), &concatenated(&batches[40..]).into()).expect("they are sound");
    world.log.advance_log_start(batches[20].base_offset);
    for written in [false, true] {
        let mut all = Vec::new();
        let mut from = Offset(0);
        while from < world.log.next_offset() {
            let result = world.log.read_raw(from, 50 * KIB);
            let found = world.finish(result).expect("no damage").expect("there is more");
            from = found.next_offset.expect("a batch at least");
            all.extend(bytes_of(&found));
        }
        assert_eq!(all, concatenated(&batches));
        let end = world.log.next_offset();
        assert!(matches!(world.log.read_raw(end, 1), ReadResult::Empty));
        assert!(matches!(world.log.read_raw(end.plus(1), 1), ReadResult::OutOfRange));
        if !written {
            world.flush();
            world.log.release(0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The image remembers where the state machine is, wherever that is: in a closed segment, in the files, in memory.
    #[test]
    fn an_image_remembers_how_far_the_state_machine_is(
        applied in 0..89usize,
        compared in 0..89usize,
        written in any::<bool>(),
        budget in prop::sample::select(vec![0, 100 * KIB, 400 * KIB]),
        segment_bytes in prop::sample::select(vec![SEGMENT_BYTES, 100 * KIB as u64, 1 << 30]),
    ) {
        let batches = transferred();
        let mut world = World::new(SEGMENT_BYTES, 1);
        world.append_all(&batches[..applied]);
        world.log.append_ahead(Monotonic(0), &concatenated(&batches[applied..]).into()).expect("they are sound");
        if written {
            world.flush();
        }
        world.poll(budget);
        while world.step().expect("the disk works") {}
        let compared = (applied + compared).min(batches.len());
        world.append_all(&batches[applied..compared]);
        let image = image(&mut world.log);
        world.disk.crash(Crash::Nothing, &mut rng(1));
        let mut world = World::restore(world.disk, segment_bytes, image, 1).expect("no damage");
        let next = batches.get(compared).map_or(world.log.next_offset(), |batch| batch.base_offset);
        prop_assert_eq!(world.log.applied_offset(), next);
        let mut other = world.log.image();
        prop_assert_eq!(other.applied_offset(), next);
        other = other.applied_to_end();
        prop_assert_eq!(other.applied_offset(), world.log.next_offset());
        world.append_all(&batches[compared..]);
        check_whole(&mut world, &batches);
    }
}
