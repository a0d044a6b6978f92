//! A log that is restored from an image is the log that the image was taken of.

use proptest::prelude::*;

use super::{
    crash::{check_whole, run_until, workload},
    disk::{CRASHES, Crash},
    *,
};

const SEGMENT_BYTES: u64 = 300 * KIB as u64;

/// An image as a checkpoint keeps it: encoded and decoded.
pub(super) fn image(log: &mut PartitionLog) -> LogImage {
    let image = log.image();
    let mut encoded = Vec::new();
    image.encode(&mut encoded);
    let encoded = encoded.concat();
    assert_eq!(encoded.len(), image.encoded_bytes());
    let decoded = LogImage::decode(encoded.into()).expect("an image is sound");
    assert_eq!(decoded.content(), log.content());
    assert_eq!(decoded.tail.concat(), image.tail.concat());
    assert_eq!(LogImage { tail: Vec::new(), ..decoded.clone() }, LogImage { tail: Vec::new(), ..image });
    decoded
}

fn mixed_sizes() -> Vec<usize> {
    let mut sizes = vec![100, 40 * KIB, CHUNK_BYTES - 40 * KIB - 100, 70 * KIB, 200, 5 * KIB];
    sizes.extend([3_000; 20]);
    sizes.extend([31 * KIB, 33 * KIB, 62, 400 * KIB, 3 * KIB, 128 * KIB, 90 * KIB]);
    sizes.extend([2_500; 40]);
    sizes
}

/// What a log knows of its segments, however it came to know it.
fn knowledge(log: &PartitionLog) -> Vec<String> {
    let of = |segment: &Segment| {
        let chunks = 0..chunks_in(segment.bytes);
        let crcs: Vec<u32> = chunks.map(|chunk| segment.chunk_crc(chunk)).collect();
        let Segment { base, start, bytes, next_offset, index, max_timestamp, .. } = segment;
        let rest = segment.rest();
        format!("{base} {start:?} {bytes} {next_offset} {max_timestamp:?} {rest:?} {crcs:?} {index:?}")
    };
    log.segments.iter().map(of).collect()
}

/// A log that got the same batches and was never closed.
fn original(batches: &[AppliedBatch]) -> PartitionLog {
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(batches);
    world.log
}

/// Everything a user of the log can see of it.
fn check_same(world: &mut World, batches: &[AppliedBatch]) {
    let end = world.log.next_offset();
    assert_eq!(world.read_all().expect("no damage"), concatenated(batches));
    assert_eq!(world.log.content(), original(batches).content());
    for timestamp in (990..1_510).step_by(73) {
        let result = world.log.find_timestamp(Offset(0), end, timestamp);
        let found = world.finish(result).expect("no damage").map(|batches| bytes_of(&batches));
        let wanted = batches.iter().find(|batch| batch.max_timestamp >= timestamp).map(whole);
        assert_eq!(found, wanted, "{timestamp}");
    }
}

#[test]
fn an_image_of_any_moment_restores_the_log() {
    for seed in 0..4 {
        let batches = batches_of(&mixed_sizes(), seed);
        let mut world = World::new(SEGMENT_BYTES, seed);
        for (count, batch) in batches.iter().enumerate() {
            world.append(batch);
            let budget = [0, 70 * KIB, usize::MAX][world.rng.below(3) as usize];
            world.poll(budget);
            while world.rng.below(3) > 0 && world.step().expect("the disk works") {}
            if world.rng.below(3) == 0 {
                world.log.release(10 * KIB);
            }
            let image = image(&mut world.log);
            let mut disk = world.disk.clone();
            disk.crash(CRASHES[count % CRASHES.len()], &mut rng(count as u64));
            let mut restored = World::restore(disk, SEGMENT_BYTES, image, seed).expect("no damage");
            check_same(&mut restored, &batches[..=count]);
            assert_eq!(restored.log.max_timestamp(), world.log.max_timestamp());
            restored.append_all(&batches[count + 1..]);
            assert_eq!(knowledge(&restored.log), knowledge(&original(&batches)));
            check_whole(&mut restored, &batches);
        }
    }
}

/// Runs with an image after every few operations, each kept.
fn run_with_images(world: &mut World, batches: &[AppliedBatch], operations: usize) -> (Vec<LogImage>, bool) {
    let mut images = Vec::new();
    let crashed = run_until(world, batches, operations, |world| images.push(world.log.image()));
    (images, crashed)
}

/// Appends what an image's log lacks.
fn append_rest(world: &mut World, batches: &[AppliedBatch]) {
    let next = world.log.applied_offset();
    let rest = batches.iter().filter(|batch| batch.base_offset >= next);
    rest.for_each(|batch| world.append(batch));
}

#[test]
fn every_generation_of_images_restores_after_a_crash_at_any_operation() {
    let batches = workload();
    for (number, crash) in CRASHES.into_iter().enumerate() {
        // Every operation is the last one before one of the crashes.
        for operations in (number % 2..).step_by(2) {
            let mut world = World::new(SEGMENT_BYTES, operations as u64);
            let (images, crashed) = run_with_images(&mut world, &batches, operations);
            world.disk.crash(crash, &mut rng(operations as u64));
            let oldest = images.len().saturating_sub(1) * (operations % 3) / 3;
            for image in images.into_iter().skip(oldest).step_by(3) {
                let restored = World::restore(world.disk.clone(), SEGMENT_BYTES, image, 1);
                let mut restored =
                    restored.unwrap_or_else(|exit| panic!("{crash:?} after {operations} operations: {exit}"));
                append_rest(&mut restored, &batches);
                check_whole(&mut restored, &batches);
            }
            if !crashed {
                break;
            }
        }
    }
}

#[test]
fn a_crash_during_the_restoration_loses_nothing() {
    let batches = workload();
    for crash in CRASHES {
        for operations in [20, 45, 70] {
            let mut world = World::new(SEGMENT_BYTES, operations as u64);
            let (images, _) = run_with_images(&mut world, &batches, operations);
            world.disk.crash(crash, &mut rng(operations as u64));
            for image in images.iter().rev().step_by(5) {
                let mut complete = false;
                for steps in 0.. {
                    let mut disk = world.disk.clone();
                    complete |= restore_until(&mut disk, image.clone(), steps);
                    disk.crash(crash, &mut rng(steps as u64));
                    let mut restored = World::restore(disk, SEGMENT_BYTES, image.clone(), 1).expect("no damage");
                    append_rest(&mut restored, &batches);
                    check_whole(&mut restored, &batches);
                    if complete {
                        break;
                    }
                }
            }
        }
    }
}

/// Restores, but for at most so many operations; whether that was enough.
fn restore_until(disk: &mut Disk, image: LogImage, steps: usize) -> bool {
    let (mut ids, mut effects) = (OperationIds::default(), Effects::default());
    let mut rng = rng(steps as u64);
    let mut recovery = PartitionLog::restore(settings(SEGMENT_BYTES), image);
    for _ in 0..=steps {
        recovery.poll(&mut effects, &mut ids);
        disk.issue(effects.disk.drain(..));
        let Some((id, result)) = disk.try_step(&mut rng) else { return true };
        assert!(recovery.handle(id, result).expect("no damage"));
    }
    false
}

#[test]
fn a_restoration_reads_one_side_file_however_many_segments_there_are() {
    let batches = batches_of(&[50 * KIB; 300], 1);
    let mut world = World::new(60 * KIB as u64, 1);
    world.append_all(&batches);
    world.flush();
    assert_eq!(world.log.files().count(), 300);
    let image = image(&mut world.log);
    world.disk.trace.clear();
    let mut restored = World::restore(world.disk, 60 * KIB as u64, image, 1).expect("no damage");
    for (number, action) in restored.disk.trace.iter().enumerate() {
        match action {
            DiskAction::List { .. } => assert_eq!(number, 0),
            DiskAction::Read { file, .. } => {
                assert_eq!((number, *file), (1, checksum_file(batches[299].base_offset.0)));
            }
            DiskAction::Sync { .. }
            | DiskAction::Truncate { .. }
            | DiskAction::Create { .. }
            | DiskAction::Write { .. }
            | DiskAction::SyncDirectory { .. }
            | DiskAction::Rename { .. }
            | DiskAction::Remove { .. } => panic!("{action:?}"),
        }
    }
    assert_eq!(restored.log.memory_bytes(), 0, "and holds nothing in memory");
    assert_eq!(restored.log.max_timestamp(), world.log.max_timestamp());
    let known = |world: &World| world.log.segments.iter().filter(|segment| segment.known).count();
    assert_eq!(known(&restored), 1);
    let read = Read { max_bytes: 1, ..restored.read_from(batches[100].base_offset) };
    assert_eq!(bytes_of(&restored.read(read).expect("no damage")), whole(&batches[100]));
    assert_eq!(known(&restored), 2, "and a segment is known once it was read");
    check_same(&mut restored, &batches);
}

#[test]
fn two_readers_of_a_segment_that_is_not_known_do_not_disturb_each_other() {
    let batches = batches_of(&[50 * KIB; 9], 1);
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches);
    world.flush();
    let image = image(&mut world.log);
    let mut restored = World::restore(world.disk, SEGMENT_BYTES, image, 1).expect("no damage");
    let plans = [0, 3].map(|place: usize| {
        let read = Read { max_bytes: 1, ..restored.read_from(batches[place].base_offset) };
        let ReadResult::NeedsDisk(plan) = restored.log.read(read) else { panic!("nothing is in memory") };
        (plan, place)
    });
    for (plan, place) in plans {
        let outcome = restored.disk.read(plan.action());
        let result = restored.log.complete_read(plan, outcome).expect("no damage");
        let found = restored.finish(result).expect("no damage").expect("there is a batch");
        assert_eq!(bytes_of(&found), whole(&batches[place]));
    }
}

#[test]
fn what_side_files_prove_behind_an_image_is_not_written_again() {
    let batches = workload();
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches[..5]);
    let image = image(&mut world.log);
    world.append_all(&batches[5..]);
    world.flush();
    let proven: u64 = world.log.files().map(|(_, bytes)| bytes).sum();
    world.disk.crash(Crash::Nothing, &mut rng(1));
    let mut restored = World::restore(world.disk, SEGMENT_BYTES, image, 1).expect("no damage");
    append_rest(&mut restored, &batches);
    assert_eq!(restored.log.unwritten_bytes(), restored.log.bytes() - proven);
    check_whole(&mut restored, &batches);
}

#[test]
fn entries_that_only_an_image_holds_prove_as_much_as_a_side_file() {
    let batches = workload();
    let lazy = LogSettings { prove_chunks: 1_000, ..settings(1 << 30) };
    let mut world = World::new(1 << 30, 1);
    world.log = PartitionLog::new(lazy);
    world.append_all(&batches);
    world.flush();
    assert_eq!(world.log.files().map(|(_, proven)| proven).sum::<u64>(), 0, "no entry was worth a write");
    let syncs = world.disk.trace.iter().filter(|action| matches!(action, DiskAction::Sync { .. })).count();
    assert_eq!(syncs, 2, "the two new files");
    let image = image(&mut world.log);
    world.disk.crash(Crash::Nothing, &mut rng(1));
    let mut restored = World::restore(world.disk, 1 << 30, image, 1).expect("no damage");
    assert_eq!(restored.log.unsynced_bytes(), 0, "all of it is on disk");
    check_whole(&mut restored, &batches);
}

#[test]
fn a_file_that_was_removed_once_and_comes_back_is_removed_again() {
    let batches = workload();
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches[..30]);
    world.flush();
    let image = image(&mut world.log);
    let stale = batches[10].base_offset.0;
    let write = |file| DiskAction::Write { file, offset: 0, slices: vec![Bytes::from_static(b"stale")] };
    let mut ids = OperationIds::default();
    for file in [log_file(stale), checksum_file(stale)] {
        world.disk.issue([crate::io::DiskOperation { id: ids.next_id(), action: write(file) }]);
        world.disk.step(&mut rng(1)).1.expect("the disk works");
    }
    let mut restored = World::restore(world.disk, 1 << 30, image, 1).expect("it proves nothing");
    assert!(restored.disk.content(log_file(stale)).is_none());
    append_rest(&mut restored, &batches);
    check_whole(&mut restored, &batches);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Several lives, each restored from one of the newest images of those before, each with its own segment size,
    /// crash and end.
    #[test]
    fn many_lives_with_images_lose_nothing(
        seed in any::<u64>(),
        lives in prop::collection::vec((0..5usize, 0..60usize, 1..12u64, 1..100usize, 1..4usize), 1..6),
        unproven in prop::sample::select(vec![1usize, 3, 64]),
    ) {
        let batches = workload();
        let mut disk = Disk::default();
        let mut random = rng(seed);
        let mut images = vec![LogImage::empty(Offset(0))];
        for (crash, operations, segment, percent, generation) in lives {
            // An image that is newer than the one that is restored is gone for good.
            images.truncate(images.len().saturating_sub(generation - 1).max(1));
            let image = images.last().expect("there is one").clone();
            let segment_bytes = segment * 60 * KIB as u64;
            let mut world = World::restore(disk, segment_bytes, image, random.next_u64()).expect("no damage");
            world.log.prove_chunks(unproven);
            let known = batches.iter().filter(|batch| batch.base_offset < world.log.next_offset()).count();
            let end = known.max(batches.len() * percent / 100);
            run_until(&mut world, &batches[known..end], operations, |world| images.push(image_of(world)));
            world.disk.crash(CRASHES[crash], &mut random);
            disk = world.disk;
        }
        let image = images.pop().expect("there is one");
        let mut world = World::restore(disk, SEGMENT_BYTES, image, seed).expect("no damage");
        append_rest(&mut world, &batches);
        check_whole(&mut world, &batches);
    }
}

fn image_of(world: &mut World) -> LogImage {
    image(&mut world.log)
}
