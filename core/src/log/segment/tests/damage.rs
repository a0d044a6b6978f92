//! Whatever contradicts a proof is reported with its place, and nothing is changed because of it.

use super::*;

const SEGMENT_BYTES: u64 = 300 * KIB as u64;

/// Nine batches of 50 KiB in two segments, all proven but the rest of the second.
fn written() -> (World, Vec<AppliedBatch>) {
    let batches = batches_of(&[50 * KIB; 9], 1);
    let mut world = World::new(SEGMENT_BYTES, 1);
    for batch in &batches {
        // One write of entries for each full chunk.
        world.append(batch);
        world.flush();
    }
    (world, batches)
}

fn second_base(batches: &[AppliedBatch]) -> i64 {
    batches[6].base_offset.0
}

#[test]
fn a_sound_disk_starts() {
    let (world, batches) = written();
    let mut world = World::start(world.disk, SEGMENT_BYTES, 1).expect("no damage");
    world.append_all(&batches);
    assert_eq!(world.read_all().expect("no damage"), concatenated(&batches));
}

#[test]
fn a_changed_byte_is_noticed_by_whoever_reads_its_chunk() {
    let (mut world, batches) = written();
    world.log.release(0);
    let at = CHUNK_BYTES + 77;
    world.disk.corrupt(log_file(0), |bytes| bytes[at] ^= 1);
    let read = Read { max_bytes: 1, ..world.read_from(Offset(0)) };
    assert_eq!(bytes_of(&world.read(read).expect("its chunk is sound")), whole(&batches[0]));
    let read = world.read_from(batches[1].base_offset);
    let damage = Damage { file: log_file(0), offset: CHUNK, bytes: CHUNK, kind: DamageKind::ChunkChecksum };
    assert_eq!(damage.lost_chunks(), Some(1..2));
    assert_eq!(world.read(read), Err(ReadError::Damaged(damage)));
    let text = damage.to_string();
    assert!(text.starts_with("groups/7/00000000000000000000.log is damaged at byte 65536: "), "{text}");
}

#[test]
fn the_unfinished_chunk_is_verified_too() {
    let (mut world, batches) = written();
    world.log.release(0);
    let base = second_base(&batches);
    world.disk.corrupt(log_file(base), |bytes| *bytes.last_mut().expect("not empty") ^= 1);
    let damage = Damage { file: log_file(base), offset: 2 * CHUNK, bytes: CHUNK, kind: DamageKind::ChunkChecksum };
    let read = world.read_from(batches[8].base_offset);
    assert_eq!(world.read(read), Err(ReadError::Damaged(damage)));
}

#[test]
fn a_read_that_ends_early_or_fails_is_reported() {
    let (mut world, _) = written();
    world.log.release(0);
    let read = world.read_from(Offset(0));
    let ReadResult::NeedsDisk(plan) = world.log.read(read) else { panic!("it is on disk") };
    let short = Ok(DiskOutput::Read(Bytes::from_static(b"short")));
    let ReadResult::NeedsDisk(whole) = world.log.read(read) else { panic!("it is on disk") };
    let bytes = whole.bytes() as u64 - 5;
    world.log.cancel_read(whole);
    let damage = Damage { file: log_file(0), offset: 5, bytes, kind: DamageKind::ReadShort };
    assert_eq!(world.log.complete_read(plan, short).err(), Some(ReadError::Damaged(damage)));
    assert!(matches!(world.log.read(read), ReadResult::Damaged), "it is not tried again and again");
    let (mut world, _) = written();
    world.log.release(0);
    let ReadResult::NeedsDisk(plan) = world.log.read(read) else { panic!("it is on disk") };
    let error = DiskError::Io { errno: 5 };
    let failed = world.log.complete_read(plan, Err(error)).err();
    assert_eq!(failed, Some(ReadError::Disk { file: log_file(0), error }));
}

#[test]
fn a_write_ahead_log_that_leads_elsewhere_is_damage() {
    let (world, mut batches) = written();
    let mut world = World::start(world.disk, SEGMENT_BYTES, 1).expect("no damage");
    let mut body = batches[2].body.to_vec();
    body[40 * KIB] ^= 1;
    batches[2].body = body.into();
    let damage = batches.iter().find_map(|batch| world.log.append(Monotonic(0), batch.clone()).err());
    assert_eq!(damage, Some(Damage::chunk(log_file(0), 2, DamageKind::ChunkRegenerated)));
}

#[test]
fn a_closed_segment_ends_where_it_was_closed() {
    let (world, batches) = written();
    let mut world = World::start(world.disk, SEGMENT_BYTES, 1).expect("no damage");
    world.append_all(&batches[..5]);
    let longer = batch(world.log.next_offset(), 1, 60 * KIB, 1, &mut rng(1));
    let damage = world.log.append(Monotonic(0), longer).expect_err("it was shorter");
    assert_eq!(damage.file, log_file(0));
    // A sixth batch of the same length, other bytes: the rest behind the last full chunk differs.
    let (world, batches) = written();
    let mut world = World::start(world.disk, SEGMENT_BYTES, 1).expect("no damage");
    world.append_all(&batches[..5]);
    let mut other = batches[5].clone();
    let mut body = other.body.to_vec();
    *body.last_mut().expect("not empty") ^= 1;
    other.body = body.into();
    let damage = world.log.append(Monotonic(0), other).expect_err("it was another one");
    assert_eq!(damage, Damage::chunk(log_file(0), 4, DamageKind::ChunkRegenerated));
}

#[test]
fn the_segments_on_disk_follow_one_another() {
    let (mut world, batches) = written();
    for file in [log_file(0), checksum_file(0)] {
        world.disk.delete(file);
    }
    let mut world = World::start(world.disk, SEGMENT_BYTES, 1).expect("a log may start anywhere");
    let damage = world.log.append(Monotonic(0), batches[0].clone()).expect_err("the first segment is gone");
    assert_eq!(damage.kind, DamageKind::SegmentOrder { expected: 0 });
    assert_eq!(damage.file, log_file(second_base(&batches)));
}

#[test]
fn a_side_file_of_another_version_is_not_touched() {
    let (mut world, _) = written();
    world.disk.corrupt(checksum_file(0), |bytes| {
        bytes[4] = 9;
        let check = crc32c::crc32c(&bytes[..28]).to_le_bytes();
        bytes[28..32].copy_from_slice(&check);
    });
    let before = world.disk.content(checksum_file(0)).map(<[u8]>::to_vec);
    let exit = recover(&mut world.disk, SEGMENT_BYTES, 1).expect_err("it may hold what this build does not know");
    assert_eq!(exit, Damage::whole(checksum_file(0), DamageKind::ChecksumVersion { version: 9 }).into());
    assert_eq!(world.disk.content(checksum_file(0)).map(<[u8]>::to_vec), before);
}
