//! What is copied, what is shared, and what is charged for it.

use super::*;
use crate::limits::{BATCH_SHARED_BYTES_MIN, SEGMENT_CHUNK_BYTES, TAIL_CHUNK_BYTES_MIN};

#[test]
fn a_large_batch_is_never_copied() {
    for bytes in [BATCH_SHARED_BYTES_MIN, 1 << 20] {
        let batches = batches_of(&[bytes], 1);
        let mut world = World::new(1 << 30, 1);
        world.append_all(&batches);
        let read = world.read_from(Offset(0));
        let found = world.read(read).expect("no damage");
        assert_eq!(found.slices.len(), 2);
        assert_eq!(found.slices[0].as_ptr(), batches[0].header.as_ptr());
        assert_eq!(found.slices[1].as_ptr(), batches[0].body.as_ptr());
        world.log.poll(usize::MAX, &mut world.effects, &mut world.ids);
        let DiskAction::Write { slices, .. } = &world.effects.disk[0].action else {
            panic!("the data is written first")
        };
        assert_eq!(slices[1].as_ptr(), batches[0].body.as_ptr());
    }
}

#[test]
fn a_small_batch_is_copied_once_whoever_looks_at_it() {
    let batches = batches_of(&[100; 30], 1);
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches);
    let read = world.read_from(Offset(0));
    let first = world.read(read).expect("no damage");
    assert_eq!(first.slices.len(), 1, "one run of batches in one allocation");
    let again = world.read(read).expect("no damage");
    assert_eq!(again.slices[0].as_ptr(), first.slices[0].as_ptr());
    world.log.poll(usize::MAX, &mut world.effects, &mut world.ids);
    let DiskAction::Write { slices, .. } = &world.effects.disk[0].action else { panic!("the data is written first") };
    assert_eq!(slices[0].as_ptr(), first.slices[0].as_ptr());
    // The chunk goes on behind what was read and written.
    let more = batch(world.log.next_offset(), 1, 100, 1, &mut rng(2));
    world.append(&more);
    let read = world.read_from(more.base_offset);
    let third = world.read(read).expect("no damage");
    assert_eq!(third.slices[0].as_ptr(), first.slices[0].as_ptr_range().end);
}

#[test]
fn a_slow_reader_keeps_its_slices_after_the_log_let_go() {
    let batches = batches_of(&[100, 40 * KIB, 100], 1);
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches);
    let read = world.read_from(Offset(0));
    let found = world.read(read).expect("no damage");
    world.flush();
    world.log.release(0);
    assert_eq!(world.log.memory_bytes(), 0);
    assert_eq!(bytes_of(&found), concatenated(&batches));
}

#[test]
fn an_idle_partition_costs_little_and_a_busy_one_gets_larger_chunks() {
    let mut world = World::new(1 << 30, 1);
    assert_eq!(world.log.memory_bytes(), 0);
    let batches = batches_of(&[1_000; 300], 1);
    world.append(&batches[0]);
    assert_eq!(world.log.memory_bytes(), TAIL_CHUNK_BYTES_MIN);
    world.append_all(&batches[1..]);
    let chunks = [4, 8, 16, 32, 64, 64, 64, 64].iter().sum::<usize>() * KIB;
    // The bookkeeping of a full chunk is charged too.
    assert!((chunks..chunks + 1_000).contains(&world.log.memory_bytes()));
    world.flush();
    world.log.release(0);
    assert_eq!(world.log.memory_bytes(), 0, "freed when written");
}

#[test]
fn the_whole_allocation_behind_a_slice_is_charged() {
    let mut world = World::new(1 << 30, 1);
    let mut batch = batches_of(&[40 * KIB], 1).remove(0);
    batch.allocation_bytes = 1 << 20;
    world.append(&batch);
    assert_eq!(world.log.memory_bytes(), 1 << 20);
    // A small one is copied, so its frame is not kept.
    let mut small = self::batch(world.log.next_offset(), 1, 100, 1, &mut rng(1));
    small.allocation_bytes = 1 << 20;
    world.append(&small);
    assert_eq!(world.log.memory_bytes(), (1 << 20) + TAIL_CHUNK_BYTES_MIN);
}

#[test]
fn what_is_not_on_disk_stays_in_memory() {
    let batches = batches_of(&[10 * KIB; 20], 1);
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches);
    world.poll(usize::MAX);
    world.log.release(0);
    assert!(world.log.memory_bytes() >= 200 * KIB, "a write that did not complete frees nothing");
    let read = world.read_from(Offset(0));
    assert!(matches!(world.log.read(read), ReadResult::Ready(_)));
}

#[test]
fn replay_of_what_is_proven_takes_no_memory() {
    let sizes: Vec<usize> = [40 * KIB, 700, 20 * KIB, 90 * KIB].into_iter().cycle().take(400).collect();
    let batches = batches_of(&sizes, 1);
    let mut world = World::new(4 << 20, 1);
    for batch in &batches {
        world.append(batch);
        if world.log.wants_flush() {
            world.flush();
            world.log.release(0);
        }
    }
    world.flush();
    let bytes = world.log.bytes();
    let mut world = World::start(world.disk, 4 << 20, 2).expect("no damage");
    for batch in &batches {
        world.append(batch);
        let rest = CHUNK_BYTES + batch.body.len() + HEADER_BYTES;
        let behind_proof = world.log.bytes() + CHUNK > bytes;
        assert!(world.log.memory_bytes() <= if behind_proof { 2 * rest } else { 0 });
    }
    assert_eq!(world.log.bytes(), bytes);
    assert!(world.log.unwritten_bytes() < SEGMENT_CHUNK_BYTES as u64);
}
