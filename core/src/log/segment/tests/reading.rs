//! Reads return what was appended, wherever it is at the moment.

use proptest::prelude::*;

use super::*;
use crate::limits::{BATCH_BYTES_MAX, FETCH_READ_BYTES};

const SEGMENT_BYTES: u64 = 300 * KIB as u64;

/// The batches a read may return, all of them.
fn expected<'a>(batches: &'a [AppliedBatch], read: &Read) -> &'a [AppliedBatch] {
    let end_of = |batch: &AppliedBatch| batch.base_offset.plus(batch.records);
    let first = batches.partition_point(|batch| end_of(batch) <= read.from);
    let below = batches.partition_point(|batch| end_of(batch) <= read.upper);
    let mut bytes = 0;
    let fits = |batch: &&AppliedBatch| {
        let progress = bytes == 0 && read.at_least_one;
        bytes += batch.header.len() + batch.body.len();
        progress || bytes <= read.max_bytes
    };
    let count = batches[first..below.max(first)].iter().take_while(fits).count();
    &batches[first..first + count]
}

/// Reads, and checks the result: all of it from memory; from disk any number of batches, but one at least.
fn check_read(world: &mut World, batches: &[AppliedBatch], read: Read) {
    let expected = expected(batches, &read);
    let result = world.log.read(read);
    let from_memory = matches!(result, ReadResult::Ready(_));
    let Some(found) = world.finish(result).expect("no damage") else {
        assert!(read.from >= read.upper, "{read:?} finds nothing");
        return;
    };
    let whole_reference = concatenated(expected);
    let bytes = bytes_of(&found);
    assert_eq!(found.bytes, bytes.len());
    assert!(whole_reference.starts_with(&bytes), "{read:?}");
    assert!(!bytes.is_empty() || whole_reference.is_empty(), "{read:?} makes progress");
    assert!(!from_memory || bytes == whole_reference, "{read:?} returns all that is in memory");
    let mut end = 0;
    let ends = expected.iter().map(|batch| {
        end += batch.header.len() + batch.body.len();
        (end, batch.base_offset.plus(batch.records))
    });
    let last = ends.take_while(|(end, _)| *end <= bytes.len()).last();
    assert_eq!(last, found.next_offset.map(|next| (bytes.len(), next)), "{read:?} returns whole batches");
}

fn check_every_offset(world: &mut World, batches: &[AppliedBatch]) {
    for from in world.log.log_start().0..=world.log.next_offset().0 {
        let read = Read { max_bytes: 20 * KIB, ..world.read_from(Offset(from)) };
        check_read(world, batches, read);
    }
}

fn mixed_sizes() -> Vec<usize> {
    let mut sizes = vec![100, 40 * KIB, 70 * KIB, 200, 5 * KIB];
    sizes.extend([3_000; 20]);
    sizes.extend([31 * KIB, 33 * KIB, 62, 400 * KIB, 3 * KIB, 128 * KIB]);
    sizes
}

#[test]
fn every_offset_can_be_read_at_every_state() {
    for seed in 0..10 {
        let batches = batches_of(&mixed_sizes(), seed);
        let mut world = World::new(SEGMENT_BYTES, seed);
        for (count, batch) in batches.iter().enumerate() {
            world.append(batch);
            let budget = [0, 70 * KIB, usize::MAX][world.rng.below(3) as usize];
            world.poll(budget);
            if world.rng.below(2) == 0 {
                world.step().expect("the disk works");
            }
            if world.rng.below(3) == 0 {
                world.log.release(10 * KIB);
            }
            check_every_offset(&mut world, &batches[..=count]);
        }
        while world.step().expect("the disk works") {
            world.log.release(0);
            check_every_offset(&mut world, &batches);
        }
    }
}

#[test]
fn outside_of_the_log_there_is_nothing_to_read() {
    let batches = batches_of(&[100; 10], 1);
    let mut world = World::new(SEGMENT_BYTES, 1);
    let nothing = world.read_from(Offset(0));
    assert!(matches!(world.log.read(nothing), ReadResult::Empty));
    world.append_all(&batches);
    let next = world.log.next_offset();
    let read = world.read_from(next);
    assert!(matches!(world.log.read(read), ReadResult::Empty));
    let read = world.read_from(next.plus(1));
    assert!(matches!(world.log.read(read), ReadResult::OutOfRange));
    world.log.advance_log_start(batches[4].base_offset);
    let read = world.read_from(batches[3].base_offset);
    assert!(matches!(world.log.read(read), ReadResult::OutOfRange));
    check_every_offset(&mut world, &batches);
}

#[test]
fn a_cold_read_is_bounded_unless_one_batch_is_larger() {
    let mut sizes = vec![10 * KIB; 300];
    sizes.extend([3 << 20, 10 * KIB, BATCH_BYTES_MAX, 100]);
    let batches = batches_of(&sizes, 1);
    let mut world = World::new(1 << 30, 1);
    world.append_all(&batches);
    world.flush();
    world.log.release(0);
    for batch in &batches {
        let read = world.read_from(batch.base_offset);
        let mut result = world.log.read(read);
        while let ReadResult::NeedsDisk(plan) = result {
            assert!(plan.bytes() <= FETCH_READ_BYTES.max(batch.body.len() + HEADER_BYTES) + 2 * CHUNK_BYTES);
            let outcome = world.disk.read(plan.action());
            result = world.log.complete_read(plan, outcome).expect("no damage");
        }
        let ReadResult::Ready(found) = result else { panic!("there is a batch") };
        assert!(bytes_of(&found).starts_with(&whole(batch)));
    }
}

#[test]
fn a_log_may_change_while_it_is_read() {
    let batches = batches_of(&[10 * KIB; 60], 1);
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches[..9]);
    world.flush();
    world.log.release(0);
    // The plan ends in the middle of a chunk; before it is carried out, that chunk fills and a new segment begins.
    let read = world.read_from(Offset(0));
    let ReadResult::NeedsDisk(plan) = world.log.read(read) else { panic!("nothing is in memory") };
    world.append_all(&batches[9..]);
    world.flush();
    world.log.release(0);
    let outcome = world.disk.read(plan.action());
    let result = world.log.complete_read(plan, outcome).expect("no damage");
    let found = world.finish(result).expect("no damage").expect("there are batches");
    assert_eq!(bytes_of(&found), concatenated(&batches[..9]));
}

/// What a search by timestamp must find.
fn first_at_or_after(batches: &[AppliedBatch], from: Offset, upper: Offset, timestamp: i64) -> Option<&AppliedBatch> {
    let end_of = |batch: &AppliedBatch| batch.base_offset.plus(batch.records);
    batches.iter().find(|batch| end_of(batch) > from && end_of(batch) <= upper && batch.max_timestamp >= timestamp)
}

fn check_timestamp(world: &mut World, batches: &[AppliedBatch], from: Offset, upper: Offset, timestamp: i64) {
    let result = world.log.find_timestamp(from, upper, timestamp);
    let found = world.finish(result).expect("no damage").map(|batches| bytes_of(&batches));
    assert_eq!(
        found,
        first_at_or_after(batches, from, upper, timestamp).map(whole),
        "{timestamp} from {from} to {upper}"
    );
}

#[test]
fn a_timestamp_is_found_in_memory_and_on_disk() {
    let batches = batches_of(&mixed_sizes(), 3);
    let mut world = World::new(SEGMENT_BYTES, 1);
    world.append_all(&batches);
    for keep in [usize::MAX, 200 * KIB, 0] {
        let end = world.log.next_offset();
        for timestamp in (990..1_510).step_by(7) {
            for (from, upper) in
                [(Offset(0), end), (Offset(0), Offset(40)), (Offset(33), end), (Offset(33), Offset(35))]
            {
                check_timestamp(&mut world, &batches, from, upper, timestamp);
            }
        }
        world.flush();
        world.log.release(keep);
    }
    let largest = batches.iter().map(|batch| batch.max_timestamp).max().expect("there are batches");
    let first = batches.iter().find(|batch| batch.max_timestamp == largest).expect("one has it");
    assert_eq!(world.log.max_timestamp(), Some((largest, first.base_offset)));
}

#[test]
fn no_file_is_removed_before_its_last_read_ended() {
    let batches = batches_of(&[10 * KIB; 60], 1);
    let World { mut disk, mut rng, mut ids, mut effects, mut log } = {
        let mut world = World::new(SEGMENT_BYTES, 1);
        world.append_all(&batches[..50]);
        world.flush();
        world.log.release(0);
        world.append_all(&batches[50..]);
        world.poll(usize::MAX);
        world
    };
    let read = Read { from: Offset(0), upper: log.next_offset(), max_bytes: 1 << 20, at_least_one: true };
    let ReadResult::NeedsDisk(plan) = log.read(read) else { panic!("it is on disk") };
    let mut removal = log.remove();
    removal.poll(&mut effects, &mut ids);
    assert!(effects.is_empty(), "the write in flight and the read are waited for");
    while disk.pending() > 0 {
        let (id, result) = disk.step(&mut rng);
        assert!(removal.handle(id, result).expect("the disk works"));
        removal.poll(&mut effects, &mut ids);
    }
    assert!(effects.is_empty(), "the read is waited for");
    removal.read_ended(plan);
    while !removal.is_done() {
        removal.poll(&mut effects, &mut ids);
        disk.issue(effects.disk.drain(..));
        if disk.pending() > 0 {
            let (id, result) = disk.step(&mut rng);
            assert!(removal.handle(id, result).expect("the disk works"));
        }
    }
    assert_eq!(disk.files(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_read_returns_what_was_appended(
        seed in any::<u64>(),
        sizes in prop::collection::vec(prop_oneof![61..300usize, 300..20_000usize, 20_000..200_000usize], 1..60),
        segment in 1..800usize,
        keep in 0..200_000usize,
        flushed in 0..60usize,
        reads in prop::collection::vec((0..200i64, 0..200i64, 0..300_000usize, any::<bool>(), 990..1_510i64), 1..40),
    ) {
        let batches = batches_of(&sizes, seed);
        let mut world = World::new((segment * KIB) as u64, seed);
        let flushed = flushed.min(batches.len());
        world.append_all(&batches[..flushed]);
        world.flush();
        world.log.release(keep);
        world.append_all(&batches[flushed..]);
        world.poll(100 * KIB);
        let next = world.log.next_offset();
        for (from, upper, max_bytes, at_least_one, timestamp) in reads {
            let (from, upper) = (Offset(from % (next.0 + 1)), Offset(upper).min(next));
            check_read(&mut world, &batches, Read { from, upper, max_bytes, at_least_one });
            check_timestamp(&mut world, &batches, from, upper, timestamp);
            world.step().expect("the disk works");
        }
    }
}
