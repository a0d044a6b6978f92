//! When and in which order bytes go to the disk.

use super::*;

/// Lengths of the log files, in order.
fn segment_lengths(world: &World) -> Vec<usize> {
    world.log.files().map(|(file, _)| world.disk.content(file).expect("it exists").len()).collect()
}

#[test]
fn a_segment_rolls_before_it_would_grow_too_large_and_never_splits_a_batch() {
    let mut world = World::new(100 * KIB as u64, 1);
    let sizes = [40 * KIB, 40 * KIB, 40 * KIB, 300 * KIB, 100 * KIB, 61 + 1, 90 * KIB];
    let batches = batches_of(&sizes, 1);
    world.append_all(&batches);
    world.flush();
    assert_eq!(segment_lengths(&world), [80 * KIB, 40 * KIB, 300 * KIB, 100 * KIB, 62 + 90 * KIB]);
    let bases: Vec<FileName> = [0, 2, 3, 4, 5].map(|number: usize| log_file(batches[number].base_offset.0)).to_vec();
    assert_eq!(world.log.files().map(|(file, _)| file).collect::<Vec<_>>(), bases);
}

#[test]
fn a_segment_rolls_before_its_offsets_leave_32_bits() {
    let mut world = World::new(1 << 30, 1);
    let records = i32::MAX as u32;
    let first = batch(Offset(0), records, 100, 1, &mut rng(1));
    let second = batch(Offset(0).plus(records), 2, 100, 1, &mut rng(1));
    world.append_all(&[first, second]);
    world.flush();
    assert_eq!(segment_lengths(&world), [100, 100]);
}

#[test]
fn replicas_with_other_segment_sizes_have_equal_contents() {
    let batches = batches_of(&[10_000; 50], 1);
    let mut contents = [64 * KIB, 100 * KIB, 1 << 30].map(|segment_bytes| {
        let mut world = World::new(segment_bytes as u64, 1);
        batches.iter().map(move |batch| {
            world.append(batch);
            world.log.content()
        })
    });
    let mut bytes = Vec::new();
    for batch in &batches {
        bytes.extend(whole(batch));
        for content in &mut contents {
            let content = content.next().expect("one for each batch");
            assert_eq!((content.bytes, content.crc), (bytes.len() as u64, crc32c::crc32c(&bytes)));
        }
    }
}

#[test]
fn an_entry_of_the_side_file_is_the_last_thing_to_be_written() {
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches_of(&[90 * KIB], 1));
    world.flush();
    let place = |wanted: fn(&DiskAction) -> bool| world.disk.trace.iter().position(wanted).expect("it happened");
    let write = place(|action| matches!(action, DiskAction::Write { file, .. } if *file == log_file(0)));
    let sync = place(|action| matches!(action, DiskAction::Sync { file } if *file == log_file(0)));
    let directory = place(|action| matches!(action, DiskAction::SyncDirectory { directory: Directory::Group(GROUP) }));
    let entry = place(|action| matches!(action, DiskAction::Write { offset: 32, .. }));
    assert!(write < sync && sync < entry && directory < entry);
    assert_eq!(entry, world.disk.trace.len() - 2, "and synced");
}

#[test]
fn nothing_is_written_without_a_budget_and_no_more_than_it_allows() {
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches_of(&[10 * KIB; 30], 1));
    world.poll(0);
    assert_eq!(world.disk.pending(), 0);
    assert_eq!(world.log.dirty_since(), Some(Monotonic(0)));
    let written = world.log.poll(200 * KIB, &mut world.effects, &mut world.ids);
    assert_eq!(written, 3 * CHUNK, "whole chunks");
    assert_eq!(world.log.unwritten_bytes(), 300 * KIB as u64 - written);
    assert_eq!(world.log.unsynced_bytes(), 300 * KIB as u64, "a write is not a sync");
    let again = world.log.poll(200 * KIB, &mut world.effects, &mut world.ids);
    assert_eq!(again, 0, "one write at a time");
    world.disk.issue(world.effects.disk.drain(..));
    while world.step().expect("the disk works") {}
    assert_eq!(world.log.unsynced_bytes(), 300 * KIB as u64 - written);
    assert!(world.log.dirty_since() > Some(Monotonic(0)));
    world.flush();
    assert_eq!(world.log.dirty_since(), None);
}

#[test]
fn a_slow_partition_is_dirty_since_its_last_flush_and_not_since_its_memory_is_old() {
    let mut world = World::new(1 << 30, 1);
    let batches = batches_of(&[100; 3], 1);
    world.log.append(Monotonic(1_000), batches[0].clone()).expect("no damage");
    world.flush();
    assert_eq!(world.log.dirty_since(), None);
    world.log.append(Monotonic(9_000), batches[1].clone()).expect("no damage");
    world.log.append(Monotonic(9_500), batches[2].clone()).expect("no damage");
    assert_eq!(world.log.dirty_since(), Some(Monotonic(9_000)));
}

#[test]
fn a_full_disk_is_tried_again_and_loses_nothing() {
    let batches = batches_of(&[30 * KIB; 20], 1);
    for room in [0, 10, 40, 100 * KIB, 600 * KIB + 40] {
        let mut world = World::new(200 * KIB as u64, 1);
        world.disk.room = Some(room as u64);
        world.append_all(&batches);
        for _ in 0..10 {
            world.poll(usize::MAX);
            while world.step().expect("a full disk is no failure") {}
            world.log.release(0);
            assert_eq!(world.read_all().expect("no damage"), concatenated(&batches));
        }
        assert!(world.log.disk_full());
        world.disk.room = None;
        world.flush();
        assert!(!world.log.disk_full());
        world.log.release(0);
        assert_eq!(world.read_all().expect("no damage"), concatenated(&batches));
    }
}

#[test]
fn a_failed_write_or_sync_ends_the_process() {
    for fails_at in 0..12 {
        let mut world = World::new(1 << 30, 1);
        world.append_all(&batches_of(&[90 * KIB], 1));
        world.poll(usize::MAX);
        let mut steps = 0;
        loop {
            let Some((id, result)) = world.disk.try_step(&mut world.rng) else {
                assert!(steps == 9, "two writes, five syncs, then a write and a sync of entries: {steps}");
                break;
            };
            if steps == fails_at {
                let exit =
                    world.log.handle(id, Err(DiskError::Io { errno: 5 })).expect_err("what is on the disk is unknown");
                assert!(matches!(exit, Exit::DiskFailed { .. }), "{exit}");
                break;
            }
            assert!(world.log.handle(id, result).expect("the disk works"));
            world.poll(0);
            steps += 1;
        }
    }
}

#[test]
fn a_full_disk_at_a_sync_is_a_failed_sync() {
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches_of(&[90 * KIB], 1));
    world.poll(usize::MAX);
    while !matches!(world.disk.trace.last(), Some(DiskAction::Sync { .. })) {
        let (id, result) = world.disk.step(&mut world.rng);
        let sync = matches!(world.disk.trace.last(), Some(DiskAction::Sync { .. }));
        let result = if sync { Err(DiskError::Full) } else { result };
        assert_eq!(world.log.handle(id, result).is_err(), sync);
        world.poll(0);
    }
}
