//! What a crash leaves of a disk.

use bytes::Bytes;
use kauri_core::{
    ids::{FileSequence, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, FileName},
};

use super::{
    queue::{Boundary, DiskSpeed, Queue},
    *,
};
use crate::time::{Instant, Span};

const FILE: FileName = FileName::Wal(FileSequence(1));

fn perform(disk: &mut Disk, action: DiskAction) -> DiskOutput {
    let through = disk.sequence();
    disk.perform(action, through).expect("nothing fails here")
}

fn write(disk: &mut Disk, offset: u64, bytes: &[u8]) {
    perform(disk, DiskAction::Write { file: FILE, offset, slices: vec![Bytes::copy_from_slice(bytes)] });
}

fn sync(disk: &mut Disk) {
    perform(disk, DiskAction::Sync { file: FILE });
    perform(disk, DiskAction::SyncDirectory { directory: Directory::Wal });
}

fn lose_power(disk: &mut Disk, mode: PowerMode, seed: u64) -> Bites {
    let mut bites = Bites::default();
    disk.lose_power(&mut Dice::new(seed, "test", 0, 0), mode, 512, &mut bites);
    bites
}

#[test]
fn what_was_synced_survives_every_mode() {
    for mode in PowerMode::ALL {
        for seed in 0..50 {
            let mut disk = Disk::default();
            write(&mut disk, 0, &[7; 5_000]);
            sync(&mut disk);
            write(&mut disk, 6_000, &[8; 3_000]);
            lose_power(&mut disk, mode, seed);
            let content = disk.content(FILE).expect("its entry was synced");
            assert_eq!(&content[..5_000], &[7; 5_000][..]);
            if !matches!(mode, PowerMode::Garbage | PowerMode::SizeWithoutData) {
                assert!(content[5_000..].iter().all(|byte| matches!(byte, 0 | 8)));
            }
        }
    }
}

#[test]
fn mode_a_loses_everything_that_was_not_synced() {
    let mut disk = Disk::default();
    write(&mut disk, 0, b"old");
    sync(&mut disk);
    write(&mut disk, 0, b"new");
    let bites = lose_power(&mut disk, PowerMode::None, 1);
    assert_eq!(disk.content(FILE).unwrap(), &b"old"[..]);
    assert_eq!(bites.of(Bite::UnsyncedLost), 1);
}

#[test]
fn mode_b_keeps_a_prefix() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let mut disk = Disk::default();
        write(&mut disk, 0, b"x");
        sync(&mut disk);
        for place in 1..10u64 {
            write(&mut disk, place, b"x");
        }
        lose_power(&mut disk, PowerMode::Prefix, seed);
        let content = disk.content(FILE).unwrap();
        assert!(content.iter().all(|byte| *byte == b'x'), "a later write survived an earlier one");
        lengths.insert(content.len());
    }
    assert!(lengths.len() > 3, "{lengths:?}");
}

#[test]
fn mode_c_keeps_a_later_write_without_an_earlier_one_and_tears_none() {
    let mut reordered = 0;
    for seed in 0..50 {
        let mut disk = Disk::default();
        write(&mut disk, 0, &[0; 8_192]);
        sync(&mut disk);
        write(&mut disk, 0, &[1; 2_048]);
        write(&mut disk, 4_096, &[2; 2_048]);
        lose_power(&mut disk, PowerMode::Subset, seed);
        let content = disk.content(FILE).unwrap();
        for (range, byte) in [(0..2_048, 1), (4_096..6_144, 2)] {
            let part = &content[range];
            assert!(part.iter().all(|found| *found == byte) || part.iter().all(|found| *found == 0));
        }
        reordered += usize::from(content[0] == 0 && content[4_096] == 2);
    }
    assert!(reordered > 0);
}

#[test]
fn mode_d_tears_a_write_between_sectors_and_never_within_one() {
    let mut torn = 0;
    for seed in 0..50 {
        let mut disk = Disk::default();
        write(&mut disk, 0, &[1; 4_096]);
        sync(&mut disk);
        // Neither begins nor ends at the border of a sector.
        write(&mut disk, 100, &[2; 2_000]);
        lose_power(&mut disk, PowerMode::Torn, seed);
        let content = disk.content(FILE).unwrap();
        let sectors: Vec<bool> = (0..5)
            .map(|sector| {
                let bytes = &content[(sector * 512).max(100)..((sector + 1) * 512).min(2_100)];
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "seed {seed}: sector {sector} is torn");
                bytes[0] == 2
            })
            .collect();
        torn += usize::from(sectors.contains(&true) && sectors.contains(&false));
    }
    assert!(torn > 5, "{torn}");
}

#[test]
fn a_file_whose_directory_was_not_synced_is_gone() {
    let mut disk = Disk::default();
    write(&mut disk, 0, b"content");
    perform(&mut disk, DiskAction::Sync { file: FILE });
    lose_power(&mut disk, PowerMode::None, 1);
    assert_eq!(disk.content(FILE), None);
}

#[test]
fn a_file_that_was_not_synced_is_there_and_empty() {
    let mut disk = Disk::default();
    write(&mut disk, 0, b"content");
    perform(&mut disk, DiskAction::SyncDirectory { directory: Directory::Wal });
    lose_power(&mut disk, PowerMode::None, 1);
    assert_eq!(disk.content(FILE).unwrap(), Bytes::new());
}

#[test]
fn a_rename_leaves_the_old_or_the_new_and_never_neither() {
    for mode in PowerMode::ALL {
        for seed in 0..20 {
            let mut disk = Disk::default();
            let put = |disk: &mut Disk, file, bytes: &'static [u8]| {
                perform(disk, DiskAction::Write { file, offset: 0, slices: vec![Bytes::from_static(bytes)] });
                perform(disk, DiskAction::Sync { file });
            };
            put(&mut disk, FileName::Identity, b"old");
            perform(&mut disk, DiskAction::SyncDirectory { directory: Directory::Root });
            put(&mut disk, FileName::IdentityNew, b"new");
            perform(&mut disk, DiskAction::Rename { from: FileName::IdentityNew, to: FileName::Identity });
            lose_power(&mut disk, mode, seed);
            let content = disk.content(FileName::Identity).expect("never neither");
            assert!(content == b"old"[..] || content == b"new"[..]);
        }
    }
}

#[test]
fn a_removed_file_comes_back_unless_its_directory_was_synced() {
    let mut disk = Disk::default();
    write(&mut disk, 0, b"content");
    sync(&mut disk);
    perform(&mut disk, DiskAction::Remove { file: FILE });
    assert_eq!(disk.content(FILE), None);
    let mut synced = Disk::default();
    write(&mut synced, 0, b"content");
    sync(&mut synced);
    perform(&mut synced, DiskAction::Remove { file: FILE });
    perform(&mut synced, DiskAction::SyncDirectory { directory: Directory::Wal });
    lose_power(&mut disk, PowerMode::None, 1);
    lose_power(&mut synced, PowerMode::None, 1);
    assert_eq!(disk.content(FILE).unwrap(), &b"content"[..]);
    assert_eq!(synced.content(FILE), None);
}

#[test]
fn a_sync_covers_what_was_done_before_it_was_issued_and_not_more() {
    let mut disk = Disk::default();
    write(&mut disk, 0, b"1");
    let issued = disk.sequence();
    write(&mut disk, 1, b"2");
    disk.perform(DiskAction::Sync { file: FILE }, issued).unwrap();
    perform(&mut disk, DiskAction::SyncDirectory { directory: Directory::Wal });
    lose_power(&mut disk, PowerMode::None, 1);
    assert_eq!(disk.content(FILE).unwrap(), &b"1"[..]);
}

#[test]
fn a_created_file_has_its_size_and_zeros_and_replaces_what_was_there() {
    let mut disk = Disk::default();
    write(&mut disk, 0, &[9; 10_000]);
    perform(&mut disk, DiskAction::Create { file: FILE, size: 6_000 });
    assert_eq!(disk.content(FILE).unwrap(), vec![0; 6_000]);
    sync(&mut disk);
    perform(&mut disk, DiskAction::Truncate { file: FILE, length: 100 });
    assert_eq!(disk.list(Directory::Wal), vec![(FILE, 100)]);
    lose_power(&mut disk, PowerMode::None, 1);
    assert_eq!(disk.list(Directory::Wal), vec![(FILE, 6_000)]);
}

#[test]
fn what_does_not_exist_is_not_found() {
    let mut disk = Disk::default();
    let read = disk.perform(DiskAction::Read { file: FILE, offset: 0, length: 1 }, 0);
    assert!(matches!(read, Err(DiskError::NotFound)));
    assert!(disk.perform(DiskAction::Remove { file: FILE }, 0).is_ok());
    assert!(disk.list(Directory::Wal).is_empty());
}

fn queue() -> Queue {
    let speed = DiskSpeed {
        operation: Span::microseconds(10),
        sync: Span::microseconds(100),
        bytes_per_microsecond: 100,
        depth: 4,
        sector_bytes: 512,
    };
    Queue::new(speed, Dice::new(1, "queue", 0, 0))
}

fn wal_write(id: u64) -> [DiskOperation; 2] {
    let write = DiskAction::Write { file: FILE, offset: id * 8, slices: vec![Bytes::from_static(b"12345678")] };
    let sync = DiskAction::Sync { file: FILE };
    [DiskOperation { id: OperationId(id), action: write }, DiskOperation { id: OperationId(id + 1), action: sync }]
}

#[test]
fn operations_on_the_wal_are_done_one_after_the_other() {
    let mut queue = queue();
    let mut bites = Bites::default();
    queue.submit(wal_write(1).into_iter().chain(wal_write(3)), []);
    let mut order = Vec::new();
    let mut now = Instant::default();
    loop {
        let mut started = Vec::new();
        queue.start(now, &mut bites, |done, slot| started.push((done, slot)));
        let Some((done, slot)) = started.pop() else { break };
        assert!(started.is_empty(), "one at a time");
        now = done;
        let completion = queue.complete(now, slot, &mut bites);
        order.push((completion.operation.0, completion.boundary));
    }
    let (written, synced) = (Some(Boundary::WalWritten), Some(Boundary::WalSynced));
    assert_eq!(order, [(1, written), (2, synced), (3, written), (4, synced)]);
}

#[test]
fn a_kill_cuts_what_is_in_flight_and_forgets_what_waited() {
    let mut sizes = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let mut queue = queue();
        let mut bites = Bites::default();
        queue.submit(wal_write(1).into_iter().chain(wal_write(3)), []);
        queue.start(Instant::default(), &mut bites, |_, _| {});
        queue.kill(&mut Dice::new(seed, "kill", 0, 0), &mut bites);
        sizes.insert(queue.disk().content(FILE).map(|content| content.len()));
        let mut started = 0;
        queue.start(Instant::default(), &mut bites, |_, _| started += 1);
        assert_eq!(started, 0);
    }
    assert!(sizes.contains(&None) && sizes.contains(&Some(16)), "nothing and everything happen: {sizes:?}");
    assert!(sizes.len() > 2, "and so do parts: {sizes:?}");
}
