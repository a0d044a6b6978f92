//! What is damaged is marked, found out or fetched, and written again; nothing else of the log is affected.

use super::{crash::check_whole, restoring::image, *};

const SEGMENT_BYTES: u64 = 300 * KIB as u64;

/// Batches whose checksums are right.
fn sound(batches: Vec<AppliedBatch>) -> Vec<AppliedBatch> {
    let with_checksum = |batch: AppliedBatch| {
        let mut header = batch.header.to_vec();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[21..]), &batch.body);
        header[17..21].copy_from_slice(&crc.to_be_bytes());
        AppliedBatch { header: header.into(), ..batch }
    };
    batches.into_iter().map(with_checksum).collect()
}

/// Three segments on disk, the first two of them closed, and an image that names all but the last batch.
fn written() -> (World, Vec<AppliedBatch>, LogImage) {
    let mut sizes = vec![50 * KIB; 6];
    sizes.extend([3_000; 60]);
    sizes.extend([200 * KIB, 50 * KIB, 50 * KIB]);
    let batches = sound(batches_of(&sizes, 1));
    let mut world = World::new(SEGMENT_BYTES, 1);
    let last = batches.len() - 1;
    world.append_all(&batches[..last]);
    world.flush();
    world.append_all(&batches[last..]);
    let image = image(&mut world.log);
    assert_eq!(image.segments.len(), 3);
    world.flush();
    world.log.release(0);
    (world, batches, image)
}

fn contents(world: &World) -> Vec<(FileName, Vec<u8>)> {
    let files = world.disk.files().into_iter();
    files.map(|file| (file, world.disk.content(file).expect("it exists").to_vec())).collect()
}

impl World {
    /// Repairs everything, asking `other` for a part of the bytes of the partition; how many bytes that were.
    fn repair(&mut self, mut other: impl FnMut(&Want) -> Vec<u8>) -> usize {
        let mut fetched = 0;
        for _ in 0..1_000 {
            self.poll(0);
            while self.step().expect("the disk works") {}
            if !self.log.is_damaged() {
                return fetched;
            }
            match self.log.look_again(0) {
                Look::Learn(plan) => {
                    let result = self.disk.read(plan.action());
                    let _ = self.log.complete_read(plan, result).expect("what it says is marked");
                }
                Look::Rebuild(plan) => {
                    let result = self.disk.read(plan.action());
                    self.log.complete_rebuild(plan, result);
                }
                Look::Chunks { plan, .. } => {
                    let result = self.disk.read(plan.action());
                    let read = self.log.complete_chunks(plan, result);
                    let Some(mut want) = self.log.want(&read) else { continue };
                    for _ in 0..3 {
                        let bytes = Bytes::from(other(&want));
                        fetched += bytes.len();
                        match self.log.mend(&want, &bytes, false) {
                            Mended::NeedsWitness => want.witnesses.push(bytes),
                            Mended::Accepted => break,
                            Mended::Mismatch | Mended::Moot => {}
                        }
                    }
                }
                Look::Nothing => {}
            }
        }
        let marks: Vec<_> = self.log.segments.iter().map(|segment| &segment.marks).collect();
        panic!("a repair ends: {marks:?}");
    }

    fn is_damaged_at(&mut self, from: Offset) -> bool {
        let read = self.read_from(from);
        let mut result = self.log.read(Read { max_bytes: 1, ..read });
        loop {
            match result {
                ReadResult::NeedsDisk(plan) => {
                    let outcome = self.disk.read(plan.action());
                    match self.log.complete_read(plan, outcome) {
                        Ok(next) => result = next,
                        Err(_) => return true,
                    }
                }
                ReadResult::Damaged => return true,
                ReadResult::Ready(_) | ReadResult::Empty | ReadResult::OutOfRange => return false,
            }
        }
    }
}

fn part(reference: &[u8], want: &Want) -> Vec<u8> {
    let at = usize::try_from(want.position).unwrap();
    reference[at..at + want.bytes].to_vec()
}

/// Damages the disk, restores the log from its image and repairs it; how many bytes had to be fetched.
#[track_caller]
fn repair_after(damage: impl FnOnce(&mut Disk, [i64; 3])) -> usize {
    let (mut world, batches, image) = written();
    let before = contents(&world);
    let reference = concatenated(&batches);
    let bases: Vec<i64> = image.segments.iter().map(|segment| segment.base.0).collect();
    damage(&mut world.disk, bases.try_into().unwrap());
    let mut world = World::restore(world.disk, SEGMENT_BYTES, image, 1).expect("it starts all the same");
    // Whoever reads gets the right bytes, or is told to come again.
    for batch in &batches[..batches.len() - 1] {
        if !world.is_damaged_at(batch.base_offset) {
            let read = world.read_from(batch.base_offset);
            let found = world.read(Read { max_bytes: 1, ..read }).expect("it is sound");
            assert!(bytes_of(&found) == whole(batch), "at {}", batch.base_offset);
        }
    }
    let fetched = world.repair(|want| part(&reference, want));
    check_whole(&mut world, &batches);
    let after = contents(&world);
    for ((file, before), (_, after)) in before.iter().zip(&after) {
        let FileName::Segment { base, kind, .. } = *file else { panic!("a segment's file") };
        match kind {
            SegmentFile::Log => assert!(before == after, "{} is as it was", file.path()),
            // Entries say in addition which of them were written together.
            SegmentFile::Checksums => assert_eq!(
                checksums::decode(GROUP, base, after),
                checksums::decode(GROUP, base, before),
                "{}",
                file.path()
            ),
        }
    }
    fetched
}

#[test]
fn chunks_are_fetched_and_nothing_else() {
    let chunk = CHUNK_BYTES;
    let fetched = repair_after(|disk, [first, second, third]| {
        disk.corrupt(log_file(first), |bytes| bytes[chunk + 5] ^= 1);
        disk.corrupt(log_file(second), |bytes| *bytes.last_mut().unwrap() ^= 1);
        disk.corrupt(log_file(third), |bytes| bytes[0] ^= 0x80);
    });
    assert!(fetched > 2 * chunk && fetched <= 3 * chunk, "{fetched}");
}

#[test]
fn files_that_are_short_or_gone_are_written_again() {
    let fetched = repair_after(|disk, [first, second, _]| {
        disk.corrupt(log_file(first), |bytes| bytes.truncate(2 * CHUNK_BYTES + 1));
        disk.delete(log_file(second));
    });
    assert!(fetched > 3 * CHUNK_BYTES);
    let everything = repair_after(|disk, [first, ..]| {
        disk.delete(log_file(first));
        disk.delete(checksum_file(first));
    });
    assert!(everything >= 300 * KIB);
}

/// Batches prove themselves, so nobody has to be asked.
#[test]
fn lost_checksums_are_found_out_from_the_batches() {
    let damage: [fn(&mut Vec<u8>); 7] = [
        |bytes| bytes[3] ^= 1,
        |bytes| bytes[32 + 8] ^= 1,
        |bytes| bytes[32 + 2 * 32 + 30] ^= 1,
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |bytes| bytes.fill(0),
        |bytes| bytes.truncate(32 + 32 + 7),
        |bytes| bytes.resize(4 << 20, 7),
    ];
    for change in damage {
        for place in 0..3 {
            assert_eq!(repair_after(|disk, bases| disk.corrupt(checksum_file(bases[place]), change)), 0);
        }
    }
    assert_eq!(repair_after(|disk, bases| bases.iter().for_each(|base| disk.delete(checksum_file(*base)))), 0);
}

/// A power loss may destroy a whole sector of which only the end was being written.
#[test]
fn the_last_sector_of_a_side_file_may_be_lost() {
    for base in 0..3 {
        let fetched = repair_after(|disk, bases| {
            disk.corrupt(checksum_file(bases[base]), |bytes| {
                let last = (bytes.len() - 1) / 512 * 512;
                bytes[last..].fill(0xee);
            });
        });
        assert_eq!(fetched, 0);
    }
}

#[test]
fn what_nobody_here_knows_is_taken_from_two_copies_that_agree() {
    let both = |world: &mut World| {
        world.disk.corrupt(log_file(0), |bytes| bytes[CHUNK_BYTES + 900] ^= 1);
        world.disk.corrupt(checksum_file(0), |bytes| bytes[32 + 32 + 8] ^= 1);
    };
    let (mut world, batches, image) = written();
    both(&mut world);
    let reference = concatenated(&batches);
    let mut world = World::restore(world.disk, SEGMENT_BYTES, image, 1).expect("it starts");
    assert!(world.is_damaged_at(batches[1].base_offset));
    let mut asked = 0;
    world.repair(|want| {
        asked += 1;
        let mut bytes = part(&reference, want);
        // The first one that is asked is wrong.
        bytes[77] ^= u8::from(asked == 1);
        bytes
    });
    assert_eq!(asked, 3, "two that agree");
    check_whole(&mut world, &batches);
}

#[test]
fn bytes_that_were_not_lost_are_not_installed() {
    let (mut world, batches, image) = written();
    let reference = concatenated(&batches);
    world.disk.corrupt(log_file(0), |bytes| bytes[9] ^= 1);
    let mut world = World::restore(world.disk, SEGMENT_BYTES, image, 1).expect("it starts");
    assert!(world.is_damaged_at(Offset(0)));
    let mut asked = 0;
    let fetched = world.repair(|want| {
        asked += 1;
        let mut bytes = part(&reference, want);
        bytes[60_000] ^= u8::from(asked <= 2);
        bytes
    });
    assert_eq!((asked, fetched), (3, 3 * CHUNK_BYTES));
    check_whole(&mut world, &batches);
}

#[test]
fn a_read_that_went_wrong_once_costs_a_second_look() {
    let (mut world, batches, _) = written();
    let read = world.read_from(Offset(0));
    let ReadResult::NeedsDisk(plan) = world.log.read(read) else { panic!("it is on disk") };
    let wrong = Ok(DiskOutput::Read(Bytes::from(vec![1; plan.bytes()])));
    assert!(world.log.complete_read(plan, wrong).is_err());
    assert!(matches!(world.log.read(read), ReadResult::Damaged));
    assert_eq!(world.repair(|_| panic!("nothing is lost")), 0);
    assert_eq!(world.read_all().expect("no damage"), concatenated(&batches));
}

/// What only side files know of is written again, because the write-ahead log leads to it.
#[test]
fn without_an_image_whatever_is_damaged_is_written_again() {
    let damage: [fn(&mut Disk, i64, i64); 7] = [
        |disk, first, _| disk.delete(log_file(first)),
        |disk, first, _| disk.corrupt(log_file(first), |bytes| bytes.truncate(1_000)),
        |disk, first, _| disk.corrupt(checksum_file(first), |bytes| bytes[32 + 32 + 9] ^= 1),
        |disk, first, _| disk.corrupt(checksum_file(first), |bytes| bytes[10] ^= 1),
        |disk, first, _| disk.corrupt(checksum_file(first), |bytes| bytes.truncate(32 + 3 * 32)),
        |disk, first, _| disk.corrupt(checksum_file(first), |bytes| bytes.resize(4 << 20, 0)),
        |disk, first, second| {
            let other = disk.content(checksum_file(second)).expect("it exists").to_vec();
            disk.corrupt(checksum_file(first), |bytes| *bytes = other);
        },
    ];
    for change in damage {
        let (mut world, batches, image) = written();
        change(&mut world.disk, 0, image.segments[1].base.0);
        let mut world = World::start(world.disk, SEGMENT_BYTES, 1).expect("it starts");
        assert!(!world.log.is_damaged());
        world.append_all(&batches);
        check_whole(&mut world, &batches);
    }
}

/// What others are given is verified, wherever it lies.
#[test]
fn other_replicas_get_what_is_sound() {
    let (mut world, batches, _) = written();
    let more = sound(vec![batch(world.log.next_offset(), 1, 5_000, 1, &mut rng(3))]);
    world.append_all(&more);
    let reference = [concatenated(&batches), concatenated(&more)].concat();
    world.disk.corrupt(log_file(0), |bytes| bytes[3 * CHUNK_BYTES] ^= 1);
    let mut get = |position: usize, length: usize| {
        let mut serving = world.log.serve(position as u64, length, Care::Verified);
        loop {
            match serving {
                Serving::Ready(slices) => return Some(slices.concat()),
                Serving::Unavailable => return None,
                Serving::NeedsDisk(plan) => {
                    let result = world.disk.read(plan.action());
                    serving = world.log.complete_serve(plan, result);
                }
            }
        }
    };
    let mut at = 0;
    while at < reference.len() {
        match get(at, 50_000) {
            Some(bytes) => {
                assert_eq!(bytes, reference[at..at + bytes.len()]);
                at += bytes.len();
            }
            None => {
                let touched = (at, at + 50_000);
                assert!(touched.0 < 4 * CHUNK_BYTES && touched.1 > 3 * CHUNK_BYTES, "{touched:?} is sound");
                at = 4 * CHUNK_BYTES;
            }
        }
    }
    assert_eq!(get(reference.len(), 10), None);
}
