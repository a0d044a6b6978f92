//! Crashes: whatever was lost, the log is the same after the write-ahead log led to its batches again.

use proptest::prelude::*;

use super::{
    disk::{CRASHES, Crash},
    *,
};

const SEGMENT_BYTES: u64 = 300 * KIB as u64;

/// Small, middle and large batches over several segments; one that ends exactly with a chunk, and one larger than a
/// segment.
pub(super) fn workload() -> Vec<AppliedBatch> {
    let mut sizes = vec![100, 40 * KIB, CHUNK_BYTES - 40 * KIB - 100, 70 * KIB, 200, 5 * KIB];
    sizes.extend([900; 80]);
    sizes.extend([31 * KIB, 33 * KIB, 61 + 1, 400 * KIB, 3 * KIB, 128 * KIB, 90 * KIB]);
    sizes.extend([2_500; 60]);
    batches_of(&sizes, 1)
}

/// Appends `batches`, writing now and then, and stops after `operations` disk operations; false if there were fewer.
pub(super) fn run_until(
    world: &mut World,
    batches: &[AppliedBatch],
    operations: usize,
    mut each_turn: impl FnMut(&mut World),
) -> bool {
    let mut left = operations;
    let mut appended = 0;
    loop {
        for batch in batches[appended..].iter().take(9) {
            world.append(batch);
            appended += 1;
        }
        let budget = if world.rng.below(3) == 0 { 100 * KIB } else { usize::MAX };
        world.poll(budget);
        let mut steps = if appended < batches.len() { world.rng.below(4) } else { 1 };
        while steps > 0 && left > 0 && world.step().expect("the disk works") {
            left -= 1;
            steps -= 1;
        }
        each_turn(world);
        if left == 0 {
            return true;
        }
        if appended == batches.len() && world.log.unsynced_bytes() == 0 && world.disk.pending() == 0 {
            return false;
        }
        world.log.release(64 * KIB);
    }
}

/// What every life of the process ends with: all batches are there, in memory and on disk.
pub(super) fn check_whole(world: &mut World, batches: &[AppliedBatch]) {
    let reference = concatenated(batches);
    assert_eq!(world.read_all().expect("no damage"), reference, "before it is written");
    world.flush();
    world.log.release(0);
    assert_eq!(world.log.memory_bytes(), 0);
    assert_eq!(world.read_all().expect("no damage"), reference, "from disk");
    let on_disk: Vec<u8> =
        world.log.files().flat_map(|(file, _)| world.disk.content(file).expect("it exists").to_vec()).collect();
    assert_eq!(on_disk, reference, "the files are the log");
    assert_eq!(world.log.content().crc, crc32c::crc32c(&reference));
    assert_eq!(world.disk.files().len(), world.log.files().count() * 2, "nothing else lies around");
}

#[test]
fn a_crash_at_any_operation_loses_nothing() {
    let batches = workload();
    for crash in CRASHES {
        for operations in 0.. {
            let mut world = World::new(SEGMENT_BYTES, operations as u64);
            let crashed = run_until(&mut world, &batches, operations, |_| {});
            let mut random = rng(operations as u64);
            world.disk.crash(crash, &mut random);
            let mut world = World::start(world.disk, SEGMENT_BYTES, operations as u64)
                .unwrap_or_else(|exit| panic!("{crash:?} after {operations} operations: {exit}"));
            world.append_all(&batches);
            check_whole(&mut world, &batches);
            if !crashed {
                break;
            }
        }
    }
}

/// What a killed process leaves in the page cache looks durable to the next one, and is not.
#[test]
fn a_kill_followed_by_a_power_loss_loses_nothing() {
    let batches = workload();
    for operations in 0.. {
        let mut world = World::new(SEGMENT_BYTES, operations as u64);
        let killed = run_until(&mut world, &batches, operations, |_| {});
        world.disk.crash(Crash::Process, &mut rng(operations as u64));
        let mut world = World::start(world.disk, SEGMENT_BYTES, 1).expect("no damage");
        world.append_all(&batches);
        world.flush();
        world.disk.crash(Crash::Nothing, &mut rng(1));
        let mut world = World::start(world.disk, SEGMENT_BYTES, 2).expect("no damage");
        world.append_all(&batches);
        check_whole(&mut world, &batches);
        if !killed {
            break;
        }
    }
}

#[test]
fn entries_behind_a_torn_one_never_prove_anything() {
    let batches = batches_of(&[60 * KIB; 40], 1);
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches);
    world.flush();
    // As if the only write of entries was torn.
    let lost = checksums::entry_offset(20) as usize;
    world.disk.corrupt(checksum_file(0), |bytes| bytes[lost..lost + 32].fill(0));
    let mut world = World::start(world.disk, 1 << 30, 2).expect("a torn write is not damage");
    assert_eq!(world.disk.content(checksum_file(0)).map(<[u8]>::len), Some(lost));
    assert_eq!(world.disk.content(log_file(0)).map(<[u8]>::len), Some(20 * CHUNK_BYTES));
    // The next life proves the chunk of the lost entry and no other one.
    world.append_all(&batches);
    world.poll(CHUNK_BYTES);
    while world.step().expect("the disk works") {}
    world.disk.crash(Crash::Nothing, &mut rng(1));
    let mut world = World::start(world.disk, 1 << 30, 3).expect("no damage");
    world.append_all(&batches);
    check_whole(&mut world, &batches);
}

#[test]
fn what_is_proven_is_not_written_again() {
    let batches = workload();
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches);
    world.flush();
    let proven: u64 = world.log.files().map(|(_, bytes)| bytes).sum();
    assert!(world.log.bytes() - proven < CHUNK, "all but the last unfinished chunk is proven");
    world.disk.crash(Crash::Nothing, &mut rng(1));
    let mut world = World::start(world.disk, SEGMENT_BYTES, 2).expect("no damage");
    world.disk.trace.clear();
    world.append_all(&batches);
    world.flush();
    let written: usize = world.disk.trace.iter().map(written_bytes).sum();
    assert_eq!(written as u64, world.log.bytes() - proven);
}

fn written_bytes(action: &DiskAction) -> usize {
    match action {
        DiskAction::Write { slices, .. } => slices.iter().map(Bytes::len).sum(),
        DiskAction::Create { .. }
        | DiskAction::Sync { .. }
        | DiskAction::SyncDirectory { .. }
        | DiskAction::Read { .. }
        | DiskAction::Truncate { .. }
        | DiskAction::Rename { .. }
        | DiskAction::Remove { .. }
        | DiskAction::List { .. } => 0,
    }
}

#[test]
fn a_log_that_is_ahead_of_its_write_ahead_log_can_be_read_before_it_catches_up() {
    let batches = workload();
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches);
    world.flush();
    let mut world = World::start(world.disk, SEGMENT_BYTES, 2).expect("no damage");
    for (count, batch) in batches.iter().enumerate() {
        world.append(batch);
        assert_eq!(world.read_all().expect("no damage"), concatenated(&batches[..=count]));
        world.poll(usize::MAX);
    }
    check_whole(&mut world, &batches);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Several lives in a row, each with its own segment size, crash and end.
    #[test]
    fn many_crashes_lose_nothing(
        seed in any::<u64>(),
        lives in prop::collection::vec((0..5usize, 0..60usize, 1..12u64, 1..100usize), 1..6),
    ) {
        let batches = workload();
        let mut disk = Disk::default();
        let mut random = rng(seed);
        for (crash, operations, segment, percent) in lives {
            let mut world = World::start(disk, segment * 60 * KIB as u64, random.next_u64()).expect("no damage");
            run_until(&mut world, &batches[..batches.len() * percent / 100], operations, |_| {});
            world.disk.crash(CRASHES[crash], &mut random);
            disk = world.disk;
        }
        let mut world = World::start(disk, SEGMENT_BYTES, seed).expect("no damage");
        world.append_all(&batches);
        check_whole(&mut world, &batches);
    }
}
