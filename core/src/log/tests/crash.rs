//! Crashes at every moment: whatever was reported durable is recovered, in order, whole writes only, nothing else.

use bytes::Bytes;

use super::{
    disk::MODES,
    machine::{CONFIG, End, FILE_BYTES, Machine, random_record},
};
use crate::{
    ids::{GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    io::Exit,
    limits::WAL_MARK_DELAY,
    log::{
        record::{EntryKind, EntryRecord, WalEvent, WalRecord},
        recovery::Recovery,
        wal::{WalConfig, WalKey},
    },
};

/// What became of a process that may crash.
fn ended<T>(result: Result<T, End>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(End::Crashed) => None,
        Err(End::Exit(exit)) => panic!("{exit}"),
    }
}

#[test]
fn a_fresh_wal_is_empty_and_usable() {
    let mut machine = Machine::new(1);
    let mut process = machine.start_and_check().unwrap();
    machine.work(&mut process, 20).unwrap();
    machine.settle(&mut process).unwrap();
    assert_eq!(process.wal.queued_bytes(), 0);
    assert_eq!(process.wal.oldest_waiting_since(), None);
    machine.start_and_check().unwrap();
}

#[test]
fn a_crash_at_every_operation_of_a_short_life_loses_nothing_durable() {
    for mode in MODES {
        for seed in 0..6 {
            for operations in 0.. {
                let mut machine = Machine::new(seed);
                machine.operations_left = Some(operations);
                let mut run = || {
                    let mut process = machine.start_and_check()?;
                    machine.work(&mut process, 12)?;
                    machine.settle(&mut process)
                };
                let crashed = ended(run()).is_none();
                machine.cut_power(mode);
                machine.operations_left = None;
                machine.start_and_check().unwrap();
                if !crashed {
                    break;
                }
            }
        }
    }
}

#[test]
fn a_crash_at_every_operation_of_a_recovery_changes_nothing() {
    for mode in MODES {
        for seed in 0..6 {
            // A life that ends with writes under way.
            let mut first = Machine::new(seed);
            first.operations_left = Some(20 + 7 * seed);
            let mut run = || {
                let mut process = first.start_and_check()?;
                first.work(&mut process, 1000)
            };
            assert!(ended(run()).is_none());
            for operations in 0.. {
                let mut machine = first.clone();
                machine.operations_left = Some(operations);
                let crashed = ended(machine.start_and_check()).is_none();
                machine.cut_power(mode);
                machine.operations_left = None;
                machine.start_and_check().unwrap();
                if !crashed {
                    break;
                }
            }
        }
    }
}

#[test]
fn many_lives_of_one_disk_lose_nothing_durable() {
    for seed in 0..150 {
        let mut machine = Machine::new(1000 + seed);
        for life in 0..12 {
            machine.operations_left = Some(machine.random.below(60));
            let turns = machine.random.below(80);
            let mut run = || {
                let mut process = machine.start_and_check()?;
                machine.work(&mut process, turns)?;
                if life % 2 == 0 { machine.settle(&mut process) } else { Ok(()) }
            };
            ended(run());
            // A killed process leaves its writes with the operating system, a power cut does not.
            if machine.random.below(3) > 0 {
                let mode = MODES[machine.random.below(4) as usize];
                machine.cut_power(mode);
            }
        }
        machine.operations_left = None;
        machine.start_and_check().unwrap();
    }
}

#[test]
fn a_crash_loop_does_not_fill_the_disk() {
    for mode in MODES {
        let mut machine = Machine::new(7);
        let mut process = machine.start_and_check().unwrap();
        machine.work(&mut process, 30).unwrap();
        machine.settle(&mut process).unwrap();
        let before = machine.wal_files().len();
        for life in 0..200 {
            // Often enough it crashes after the new file is in use and before the old one is removed.
            machine.operations_left = (life % 10 < 9).then(|| machine.random.below(24));
            let completed = ended(machine.start_and_check()).is_some();
            let files = machine.wal_files().len();
            assert!(!completed || files <= before + 2, "{files} files after {life} starts, {before} before");
            machine.cut_power(mode);
        }
    }
}

#[test]
fn records_of_one_append_stay_together() {
    let mut machine = Machine::new(3);
    let mut process = machine.start_and_check().unwrap();
    // Larger than a write gathers, and larger than a file: still one write.
    let large = vec![entry(1, 70_000), entry(2, 9 << 20), entry(3, 10)];
    let number = machine.append(&mut process, large);
    let next = machine.append(&mut process, vec![entry(4, 10)]);
    assert_eq!(next.0, number.0 + 1, "a write that is full takes no more");
    let shared = machine.append(&mut process, vec![entry(5, 10)]);
    assert_eq!(shared, next);
    machine.settle(&mut process).unwrap();
    assert!(process.wal.durable() >= next);
    let mut process = machine.start_and_check().unwrap();
    machine.work(&mut process, 5).unwrap();
    machine.settle(&mut process).unwrap();
    machine.start_and_check().unwrap();
}

#[test]
fn a_mark_follows_the_last_write_and_nothing_follows_a_mark() {
    let mut machine = Machine::new(4);
    let mut process = machine.start_and_check().unwrap();
    machine.settle(&mut process).unwrap();
    let number = machine.append(&mut process, vec![entry(1, 100)]);
    machine.turn(&mut process).unwrap();
    while machine.complete_one(&mut process).unwrap() {}
    assert_eq!(process.wal.durable(), number);
    let deadline = process.wal.next_deadline().expect("the mark is due");
    assert_eq!(deadline, machine.now() + WAL_MARK_DELAY);
    machine.wait_until(deadline);
    machine.settle(&mut process).unwrap();
    assert_eq!(process.wal.durable().0, number.0 + 1, "the mark is a write of its own");
    assert_eq!(process.wal.next_deadline(), None);
}

#[test]
fn an_entry_is_where_the_writer_said() {
    let mut machine = Machine::new(5);
    let mut process = machine.start_and_check().unwrap();
    let entries: Vec<EntryRecord> = (1..200).map(|index| entry_record(index, index * 31 % 900)).collect();
    for chunk in entries.chunks(7) {
        machine.append(&mut process, chunk.iter().cloned().map(WalRecord::Entry).collect());
        machine.turn(&mut process).unwrap();
        machine.complete_one(&mut process).unwrap();
    }
    machine.settle(&mut process).unwrap();
    let mut entries = entries.iter();
    for event in std::mem::take(&mut process.events) {
        if let WalEvent::Placed { group, index, term, location } = event {
            let entry = entries.next().expect("one event for each entry");
            assert_eq!((entry.group, entry.index, entry.term), (group, index, term));
            machine.read_back(entry, location);
        }
    }
    assert!(entries.next().is_none(), "an event for each entry");
}

#[test]
fn what_an_earlier_life_left_in_a_file_is_not_read() {
    for seed in 0..40 {
        let mut machine = Machine::new(seed);
        let mut process = machine.start_and_check().unwrap();
        machine.work(&mut process, 150).unwrap();
        machine.settle(&mut process).unwrap();
        // The newest file was made ahead and is empty; a recycled one holds writes of an earlier life instead.
        let files = machine.wal_files();
        let newest = *files.last().unwrap();
        let recycled = machine.disk.file(files[0]).to_vec();
        assert_eq!(recycled.len() as u64, FILE_BYTES);
        machine.disk.put(newest, recycled);
        for _ in 0..3 {
            let mut process = machine.start_and_check().unwrap();
            machine.operations_left = Some(machine.random.below(12));
            ended(machine.work(&mut process, 6));
            machine.operations_left = None;
            let mode = MODES[machine.random.below(4) as usize];
            machine.cut_power(mode);
        }
        machine.start_and_check().unwrap();
    }
}

#[test]
fn payloads_that_look_like_a_wal_are_payloads() {
    let mut machine = Machine::new(6);
    let mut process = machine.start_and_check().unwrap();
    machine.work(&mut process, 40).unwrap();
    machine.settle(&mut process).unwrap();
    let bytes = Bytes::copy_from_slice(machine.disk.file(machine.wal_files()[0]));
    for from in [0, 4096, 8192] {
        let record = EntryRecord { data: bytes.slice(from..from + 20_000), ..entry_record(1, 0) };
        machine.append(&mut process, vec![WalRecord::Entry(record)]);
        machine.settle(&mut process).unwrap();
    }
    machine.start_and_check().unwrap();
}

#[test]
fn a_full_disk_is_told_and_survived() {
    let mut machine = Machine::new(8);
    let mut process = machine.start_and_check().unwrap();
    machine.settle(&mut process).unwrap();
    machine.disk.capacity = Some(FILE_BYTES as usize * 2 + 100);
    let mut told_at = None;
    for index in 1..40 {
        machine.append(&mut process, vec![entry(index, 3000)]);
        for _ in 0..20 {
            machine.turn(&mut process).unwrap();
            machine.complete_one(&mut process).unwrap();
        }
        if process.events.contains(&WalEvent::Full) && told_at.is_none() {
            told_at = Some((index, process.wal.durable()));
        }
    }
    let (index, durable) = told_at.expect("the disk is full");
    assert!(process.wal.is_full());
    assert!(process.wal.durable().0 > durable.0 + 5, "what is queued at {index} still fits");
    assert!(process.wal.queued_bytes() > 0, "then the file made ahead is full, too");
    assert!(!process.events.contains(&WalEvent::Room));
    machine.disk.capacity = None;
    machine.settle(&mut process).unwrap();
    assert_eq!(process.wal.queued_bytes(), 0);
    assert!(process.events.contains(&WalEvent::Room) && !process.wal.is_full());
    machine.start_and_check().unwrap();
}

#[test]
fn a_write_without_room_is_repeated() {
    let mut machine = Machine::new(9);
    let mut process = machine.start_and_check().unwrap();
    machine.settle(&mut process).unwrap();
    // A write larger than a file extends it, and may find no room to do so.
    machine.disk.capacity = Some(FILE_BYTES as usize * 2 + 5000);
    let number = machine.append(&mut process, vec![entry(1, FILE_BYTES * 3)]);
    for _ in 0..20 {
        machine.turn(&mut process).unwrap();
        machine.complete_one(&mut process).unwrap();
    }
    assert!(process.wal.durable() < number && process.wal.is_full());
    machine.disk.capacity = None;
    machine.settle(&mut process).unwrap();
    assert!(process.wal.durable() >= number && !process.wal.is_full());
    machine.start_and_check().unwrap();
}

#[test]
fn a_wal_that_must_exist_is_missed() {
    let mut machine = Machine::new(10);
    let Err(End::Exit(Exit::Damaged { file, .. })) = machine.start_with(Recovery::new(CONFIG, true, None)) else {
        panic!("nothing was there")
    };
    assert_eq!(file, "wal");
}

#[test]
fn a_wal_of_another_directory_is_refused() {
    let mut machine = Machine::new(11);
    let mut process = machine.start_and_check().unwrap();
    machine.work(&mut process, 10).unwrap();
    machine.settle(&mut process).unwrap();
    let other = WalConfig { key: WalKey(1), ..CONFIG };
    let result = machine.start_with(Recovery::new(other, false, None));
    assert!(matches!(result, Err(End::Exit(Exit::Refused(_)))));
}

#[test]
fn a_missing_file_is_damage() {
    let mut machine = Machine::new(12);
    let mut process = machine.start_and_check().unwrap();
    machine.work(&mut process, 300).unwrap();
    machine.settle(&mut process).unwrap();
    let files = machine.wal_files();
    assert!(files.len() > 4);
    for (at, file) in files[..files.len() - 2].iter().enumerate() {
        let mut machine = machine.clone();
        machine.disk.run(crate::io::DiskAction::Remove { file: *file }).unwrap();
        match machine.start() {
            Err(End::Exit(Exit::Damaged { file: damaged, .. })) => assert_eq!(damaged, file.path(), "file {at}"),
            _ => panic!("file {at} is not missed"),
        }
    }
}

#[test]
fn numbers_of_writes_never_go_back() {
    let mut machine = Machine::new(13);
    let mut last = WriteNumber(0);
    for life in 0..30 {
        let mut process = machine.start_and_check().unwrap();
        assert!(process.wal.durable() >= last);
        machine.work(&mut process, life).unwrap();
        last = process.wal.durable();
        machine.cut_power(MODES[life as usize % 4]);
    }
    let record = random_record(&mut machine.random);
    let mut process = machine.start_and_check().unwrap();
    assert_eq!(process.wal.append([]), process.wal.durable(), "nothing appended, nothing to wait for");
    machine.append(&mut process, vec![record]);
}

fn entry(index: u64, length: u64) -> WalRecord {
    WalRecord::Entry(entry_record(index, length))
}

fn entry_record(index: u64, length: u64) -> EntryRecord {
    EntryRecord {
        group: GroupId(1),
        index: LogIndex(index),
        term: Term(1),
        kind: EntryKind::Normal,
        context: Bytes::from_static(b"context"),
        data: vec![index as u8; length as usize].into(),
    }
}

#[test]
fn a_failed_write_or_sync_ends_the_process() {
    for failing in ["write", "sync"] {
        let mut machine = Machine::new(14);
        let mut process = machine.start_and_check().unwrap();
        machine.settle(&mut process).unwrap();
        process.wal.append([WalRecord::Destroy { group: GroupId(1), replica: ReplicaId(1) }]);
        let exit = machine.fail(&mut process, failing);
        let Exit::DiskFailed { operation, file, .. } = exit else { panic!("{exit}") };
        assert_eq!((operation, file.as_str()), (failing, "wal/0000000000000001.wal"));
    }
}
