//! Syncs that fail or lie, damaged media, full and broken disks.

use bytes::Bytes;
use kauri_core::{
    ids::{FileSequence, OperationId},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, FileName},
};

use super::{
    queue::{DiskSpeed, Queue},
    *,
};
use crate::{
    plan::Place,
    time::{Instant, Span},
};

const FILE: FileName = FileName::Wal(FileSequence(1));
const OTHER: FileName = FileName::Wal(FileSequence(2));

/// A disk without latencies.
struct Fixture {
    queue: Queue,
    bites: Bites,
    next: u64,
}

impl Fixture {
    fn new() -> Self {
        let speed = DiskSpeed {
            operation: Span::ZERO,
            sync: Span::ZERO,
            bytes_per_microsecond: 1,
            depth: 1,
            sector_bytes: 512,
        };
        Self { queue: Queue::new(speed, Dice::new(1, "latency", 0, 0)), bites: Bites::default(), next: 0 }
    }

    fn run(&mut self, action: DiskAction) -> Result<DiskOutput, DiskError> {
        self.next += 1;
        self.queue.submit([DiskOperation { id: OperationId(self.next), action }], []);
        let mut slot = None;
        self.queue.start(Instant::default(), &mut self.bites, |_, started| slot = Some(started));
        self.queue.complete(Instant::default(), slot.expect("nothing else is under way"), &mut self.bites).result
    }

    fn write(&mut self, file: FileName, offset: u64, bytes: &[u8]) -> Result<DiskOutput, DiskError> {
        self.run(DiskAction::Write { file, offset, slices: vec![Bytes::copy_from_slice(bytes)] })
    }

    fn sync(&mut self, file: FileName) -> Result<DiskOutput, DiskError> {
        self.run(DiskAction::SyncDirectory { directory: Directory::Wal })?;
        self.run(DiskAction::Sync { file })
    }

    fn read(&mut self, file: FileName) -> Result<Bytes, DiskError> {
        match self.run(DiskAction::Read { file, offset: 0, length: 1 << 20 })? {
            DiskOutput::Read(bytes) => Ok(bytes),
            DiskOutput::Done | DiskOutput::List(_) => unreachable!("a read is answered by bytes"),
        }
    }

    fn synced(mut self, file: FileName, bytes: &[u8]) -> Self {
        self.write(file, 0, bytes).unwrap();
        self.sync(file).unwrap();
        self
    }

    fn arm(&mut self, trap: Trap, seed: u64) {
        self.queue.arm(trap, Instant(1), Dice::new(seed, "trap", 0, 0));
    }

    fn lose_power(&mut self) {
        self.queue.kill(&mut Dice::new(1, "kill", 0, 0), &mut self.bites);
        self.queue.lose_power(&mut Dice::new(1, "power", 0, 0), PowerMode::None, &mut self.bites);
    }
}

const DEVICE_ERROR: DiskError = DiskError::Io { errno: 5 };

#[test]
fn f1_a_failed_sync_drops_what_it_had_to_make_durable_and_the_next_one_succeeds() {
    let mut old = 0;
    for seed in 0..20 {
        let mut disk = Fixture::new().synced(FILE, b"old");
        disk.write(FILE, 0, b"new").unwrap();
        disk.arm(Trap::SyncError, seed);
        assert_eq!(disk.sync(FILE).unwrap_err(), DEVICE_ERROR);
        assert_eq!(disk.bites.of(Bite::SyncError), 1);
        assert_eq!(disk.read(FILE).unwrap(), &b"new"[..], "the cache shows it");
        disk.sync(FILE).expect("the kernel has told its error");
        disk.queue.disk_mut().forget_false_pages();
        let read = disk.read(FILE).unwrap();
        old += usize::from(read == b"old"[..]);
        disk.lose_power();
        assert_eq!(disk.read(FILE).unwrap(), read, "nothing of it was under way any more");
    }
    assert!((1..20).contains(&old), "some of it reached the disk: {old}");
}

#[test]
fn f1_waits_for_a_sync_that_has_something_to_do() {
    let mut disk = Fixture::new().synced(FILE, b"old");
    disk.arm(Trap::SyncError, 1);
    disk.sync(FILE).expect("nothing to lose");
    disk.write(FILE, 0, b"new").unwrap();
    disk.sync(FILE).unwrap_err();
}

#[test]
fn f2_the_error_is_reported_by_a_later_sync_of_any_file() {
    let mut disk = Fixture::new().synced(FILE, b"old").synced(OTHER, b"other");
    disk.write(FILE, 0, b"new").unwrap();
    disk.arm(Trap::LateSyncError, 3);
    disk.sync(FILE).expect("it is reported later");
    assert_eq!(disk.sync(OTHER).unwrap_err(), DEVICE_ERROR);
    disk.sync(OTHER).expect("reported once");
    assert_eq!(disk.bites.of(Bite::LateSyncError), 1);
}

#[test]
fn f3_nothing_changes_any_more_until_it_is_over() {
    let mut disk = Fixture::new().synced(FILE, b"old");
    disk.write(FILE, 0, b"lost").unwrap();
    disk.queue.set_broken(Some(true));
    let read_only = DiskError::Io { errno: 30 };
    assert_eq!(disk.write(FILE, 0, b"new").unwrap_err(), read_only);
    assert_eq!(disk.run(DiskAction::Sync { file: FILE }).unwrap_err(), read_only);
    assert_eq!(disk.run(DiskAction::Remove { file: FILE }).unwrap_err(), read_only);
    assert_eq!(disk.run(DiskAction::Create { file: OTHER, size: 9 }).unwrap_err(), read_only);
    assert_eq!(disk.read(FILE).unwrap(), &b"lost"[..]);
    disk.queue.set_broken(None);
    disk.lose_power();
    assert_eq!(disk.read(FILE).unwrap(), &b"old"[..]);
}

#[test]
fn a_phantom_write_is_seen_until_the_cache_is_gone() {
    let mut disk = Fixture::new().synced(FILE, b"old");
    disk.write(FILE, 0, b"new").unwrap();
    disk.arm(Trap::PhantomWrite(Place::Wal), 1);
    disk.sync(FILE).expect("the drive lies");
    assert_eq!(disk.read(FILE).unwrap(), &b"new"[..]);
    disk.lose_power();
    assert_eq!(disk.read(FILE).unwrap(), &b"old"[..]);
    assert_eq!(disk.bites.of(Bite::PhantomWrite), 1);
}

#[test]
fn a_misdirected_write_spoils_another_place_and_leaves_its_own() {
    let mut disk = Fixture::new().synced(FILE, &[1; 8_192]).synced(OTHER, &[2; 8_192]);
    disk.write(FILE, 4_096, &[3; 4_096]).unwrap();
    disk.arm(Trap::MisdirectedWrite(Place::Wal), 5);
    disk.sync(FILE).expect("nobody noticed");
    disk.lose_power();
    let (own, other) = (disk.read(FILE).unwrap(), disk.read(OTHER).unwrap());
    assert_eq!(disk.bites.of(Bite::MisdirectedWrite), 1);
    let hits = own.iter().chain(&other).filter(|byte| **byte == 3).count();
    assert_eq!(hits, 4_096, "it is somewhere");
    assert_eq!((own.len(), other.len()), (8_192, 8_192));
}

#[test]
fn a_misdirected_or_stale_read_is_wrong_once() {
    let mut disk = Fixture::new().synced(FILE, &[1; 8_192]).synced(OTHER, &[2; 8_192]);
    disk.arm(Trap::MisdirectedRead(Place::Wal), 1);
    let read = disk.read(FILE).unwrap();
    assert!(read.len() == 8_192 && read.iter().any(|byte| *byte != 1));
    assert_eq!(disk.read(FILE).unwrap(), &[1; 8_192][..]);
    assert_eq!(disk.bites.of(Bite::MisdirectedRead), 1);

    let before = Box::new(disk.queue.disk().durable_state());
    disk.arm(Trap::StaleRead(Place::Wal, before), 1);
    assert_eq!(disk.read(FILE).unwrap(), &[1; 8_192][..], "nothing is stale yet");
    disk.write(FILE, 0, &[4; 8_192]).unwrap();
    let read = disk.read(FILE).unwrap();
    assert!(read.iter().all(|byte| matches!(byte, 1 | 4)) && read.contains(&1));
    assert_eq!(disk.read(FILE).unwrap(), &[4; 8_192][..]);
    assert_eq!(disk.bites.of(Bite::StaleRead), 1);
}

#[test]
fn a_sector_that_cannot_be_read_can_be_written_again() {
    let mut disk = Fixture::new().synced(FILE, &[1; 4_096]);
    disk.queue.disk_mut().make_unreadable(FILE, 1_000);
    assert_eq!(disk.read(FILE).unwrap_err(), DEVICE_ERROR);
    assert_eq!(disk.bites.of(Bite::SectorError), 1);
    let part = disk.run(DiskAction::Read { file: FILE, offset: 1_024, length: 100 });
    assert!(part.is_ok(), "the next sector is fine");
    disk.lose_power();
    assert_eq!(disk.read(FILE).unwrap_err(), DEVICE_ERROR, "a restart heals nothing");
    disk.write(FILE, 512, &[2; 512]).unwrap();
    assert_eq!(disk.read(FILE).unwrap()[512..1_024], [2; 512]);
}

#[test]
fn damage_to_the_platter_does_not_undo_what_is_under_way() {
    let mut disk = Fixture::new().synced(FILE, &[1; 1_024]);
    disk.write(FILE, 512, &[2; 512]).unwrap();
    disk.queue.disk_mut().overwrite(FILE, 100, &[9]);
    disk.queue.disk_mut().overwrite(FILE, 600, &[9]);
    let read = disk.read(FILE).unwrap();
    assert_eq!((read[100], read[600]), (9, 2));
    disk.sync(FILE).unwrap();
    disk.lose_power();
    assert_eq!(disk.read(FILE).unwrap(), read);
}

#[test]
fn a_full_disk_refuses_growth_and_nothing_else_until_there_is_room() {
    let mut disk = Fixture::new().synced(FILE, &[1; 1_000]);
    disk.queue.set_room(Some(500));
    disk.write(FILE, 0, &[2; 1_000]).expect("it does not grow");
    assert_eq!(disk.run(DiskAction::Create { file: OTHER, size: 2_000 }).unwrap_err(), DiskError::Full);
    assert_eq!(disk.queue.disk().list(Directory::Wal), [(FILE, 1_000), (OTHER, 500)], "noticed in the middle");
    disk.run(DiskAction::Remove { file: OTHER }).unwrap();
    assert_eq!(disk.write(FILE, 900, &[3; 700]).unwrap_err(), DiskError::Full);
    disk.queue.set_room(None);
    disk.write(FILE, 900, &[3; 700]).unwrap();
    assert_eq!(disk.bites.of(Bite::FullDisk), 2);
}

#[test]
fn a_disk_is_replaced_by_a_copy_of_what_was_durable() {
    let mut disk = Fixture::new().synced(FILE, b"old");
    disk.write(FILE, 0, b"new").unwrap();
    let copy = disk.queue.disk().durable_state();
    disk.sync(FILE).unwrap();
    disk.queue.disk_mut().replace_by(Some(copy));
    assert_eq!(disk.read(FILE).unwrap(), &b"old"[..]);
    disk.queue.disk_mut().replace_by(None);
    assert_eq!(disk.read(FILE).unwrap_err(), DiskError::NotFound);
}
