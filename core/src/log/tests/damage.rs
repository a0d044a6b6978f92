//! Single flipped bits: reported where they are, or without any effect. Never a lost record.

use bytes::Bytes;

use super::machine::{CONFIG, End, Machine};
use crate::{
    ids::{FileSequence, GroupId, ReplicaId},
    io::{DiskAction, Exit, FileName},
    limits::{SECTOR_BYTES, WAL_BLOCK_BYTES},
    log::{
        record::{EntryRecord, PayloadState, WalRecord},
        recovery::Recovery,
        wal::{
            entry_crc,
            format::{HEADER_BYTES, Header},
        },
    },
};

/// A machine that lived a while, with crashes, and whose last write is proven by a mark.
pub(super) fn settled(seed: u64) -> Machine {
    let mut machine = Machine::new(seed);
    for life in 0..3 {
        let mut process = machine.start_and_check().unwrap();
        machine.work(&mut process, 15 + 10 * life).unwrap();
    }
    let mut process = machine.start_and_check().unwrap();
    machine.work(&mut process, 40).unwrap();
    machine.settle(&mut process).unwrap();
    machine
}

fn sequence(file: FileName) -> FileSequence {
    let FileName::Wal(sequence) = file else { panic!("a WAL file") };
    sequence
}

/// The write that a byte belongs to, found without recovery's help.
fn write_around(machine: &Machine, file: FileName, byte: usize) -> Option<(u64, u64)> {
    let sequence = sequence(file);
    let bytes = machine.disk.file(file);
    (0..=byte / WAL_BLOCK_BYTES).rev().find_map(|block| {
        let at = block * WAL_BLOCK_BYTES;
        let (header, _) = Header::decode(&bytes[at..], CONFIG.key).ok()?;
        header.belongs(sequence, at as u64).then(|| (header.offset, header.end()))
    })
}

enum Outcome {
    Reported,
    /// The payload of one entry was handed out as damaged.
    EntryReported,
    ReportedElsewhere(String),
    Harmless,
    /// Records are missing and nobody was told.
    Silent,
}

fn flip(machine: &Machine, file: FileName, byte: usize, bit: u8, recovery: Recovery) -> Outcome {
    let around = write_around(machine, file, byte);
    let mut damaged = machine.clone();
    damaged.disk.flip(file, byte, bit);
    match damaged.start_with(recovery) {
        Ok((_, records)) => {
            let expected = damaged.history.values().flatten();
            if records.len() != expected.clone().count() {
                return Outcome::Silent;
            }
            let mut differing = records.iter().zip(expected).filter(|(found, expected)| found.record != **expected);
            match differing.next() {
                None => Outcome::Harmless,
                // One payload is damaged, and everything that is known of it is what it was.
                Some((found, expected)) if differing.next().is_none() => match (expected, &found.record) {
                    (WalRecord::Entry(was), WalRecord::Entry(is)) | (WalRecord::Fill(was), WalRecord::Fill(is)) => {
                        let empty = EntryRecord { context: Bytes::new(), data: Bytes::new(), ..was.clone() };
                        assert_eq!((is, found.payload), (&empty, PayloadState::Damaged));
                        let location = found.location.unwrap();
                        assert_eq!(location.crc, entry_crc(was.group, was.index, was.term, &was.context, &was.data));
                        let length = u64::from(location.context_length) + u64::from(location.data_length);
                        let place = location.offset..location.offset + length;
                        assert!(location.file.name() == file && place.contains(&(byte as u64)));
                        Outcome::EntryReported
                    }
                    _ => Outcome::Silent,
                },
                Some(_) => Outcome::Silent,
            }
        }
        Err(End::Exit(Exit::Damaged { file: named, offset, what })) => {
            let here = around.is_some_and(|(start, end)| named == file.path() && (start..end).contains(&offset));
            if here { Outcome::Reported } else { Outcome::ReportedElsewhere(format!("{named} at {offset}: {what}")) }
        }
        Err(End::Exit(exit)) => panic!("{exit}"),
        Err(End::Crashed) => panic!("nothing crashes here"),
    }
}

/// Every byte of the first blocks of writes, and a sample of the rest.
pub(super) fn for_some_bits(machine: &Machine, mut check: impl FnMut(FileName, usize, u8)) {
    let mut random = machine.random.clone();
    for file in machine.wal_files() {
        let bytes = machine.disk.file(file).len();
        for block in (0..bytes).step_by(WAL_BLOCK_BYTES) {
            for byte in (block..block + HEADER_BYTES + 100).step_by(7) {
                check(file, byte, (random.next_u64() % 8) as u8);
            }
            for _ in 0..8 {
                check(file, block + random.below(WAL_BLOCK_BYTES as u64) as usize, (random.next_u64() % 8) as u8);
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_reported_where_it_is_or_has_no_effect() {
    for seed in 0..2 {
        let machine = settled(seed);
        let (mut reported, mut entries, mut harmless) = (0, 0, 0);
        for_some_bits(&machine, |file, byte, bit| {
            match flip(&machine, file, byte, bit, Recovery::new(CONFIG, true, None)) {
                Outcome::Reported => reported += 1,
                Outcome::EntryReported => entries += 1,
                Outcome::Harmless => harmless += 1,
                Outcome::ReportedElsewhere(other) => {
                    panic!("bit {bit} of byte {byte} of {} is damaged, not {other}", file.path())
                }
                Outcome::Silent => panic!("bit {bit} of byte {byte} of {} cost records silently", file.path()),
            }
        });
        assert!(reported > 100 && entries > 20, "{reported} reported, {entries} entries among others");
        assert!(harmless > 100, "{harmless} harmless");
    }
}

/// A header that is lost with its sector is put together again, as long as a later write proves that there was one.
#[test]
fn a_sector_that_cannot_be_read_costs_payloads_or_ends_the_start() {
    let machine = settled(1);
    let expected: Vec<WalRecord> = machine.history.values().flatten().cloned().collect();
    let (mut whole, mut entries, mut ended) = (0, 0, 0);
    for file in machine.wal_files() {
        for byte in (0..machine.disk.file(file).len()).step_by(SECTOR_BYTES) {
            let mut damaged = machine.clone();
            damaged.disk.unreadable = Some((file, byte));
            match damaged.start() {
                Ok((_, records)) => {
                    assert_eq!(records.len(), expected.len(), "byte {byte} of {} costs records", file.path());
                    let differing =
                        records.iter().zip(&expected).filter(|(found, expected)| found.record != **expected);
                    let lost = differing.inspect(|(found, _)| assert_eq!(found.payload, PayloadState::Damaged)).count();
                    if lost == 0 { whole += 1 } else { entries += 1 }
                }
                Err(End::Exit(Exit::Damaged { file: named, .. })) => {
                    assert_eq!(named, file.path());
                    ended += 1;
                }
                Err(End::Exit(Exit::DiskFailed { operation: "read", file: named, .. })) => {
                    assert_eq!(named, file.path());
                    ended += 1;
                }
                Err(End::Exit(exit)) => panic!("{exit}"),
                Err(End::Crashed) => panic!("nothing crashes here"),
            }
        }
    }
    assert!(whole > 20 && entries > 20, "{whole} whole, {entries} with lost payloads");
    assert!(0 < ended && ended < whole, "{ended} ended");
}

#[test]
fn a_table_that_takes_damage_for_a_torn_write_is_caught() {
    let machine = settled(1);
    let mut silent = 0;
    for_some_bits(&machine, |file, byte, bit| {
        let recovery = Recovery::with_damage_taken_for_torn(CONFIG);
        if matches!(flip(&machine, file, byte, bit, recovery), Outcome::Silent) {
            silent += 1;
        }
    });
    assert!(silent > 10, "only {silent} flips cost records silently");
}

#[test]
fn a_cut_file_is_damage_unless_what_is_cut_was_not_used() {
    let machine = settled(2);
    let (mut reported, mut harmless) = (0, 0);
    for file in machine.wal_files() {
        // Without even its first block a file looks as if the crash had interrupted its creation.
        for length in (0..machine.disk.file(file).len() as u64).step_by(WAL_BLOCK_BYTES).skip(1) {
            let mut cut = machine.clone();
            cut.disk.run(DiskAction::Truncate { file, length }).unwrap();
            match cut.start() {
                Ok((_, records)) => {
                    cut.check(&records);
                    harmless += 1;
                }
                Err(End::Exit(Exit::Damaged { file: named, .. })) => {
                    assert_eq!(named, file.path());
                    reported += 1;
                }
                Err(_) => panic!("damage is reported as damage"),
            }
        }
    }
    assert!(reported > 10 && harmless > 10, "{reported} reported, {harmless} harmless");
}

#[test]
fn a_torn_first_write_still_proves_the_file_before() {
    let mut machine = Machine::new(3);
    let mut process = machine.start_and_check().unwrap();
    // Until a write with a payload opened the second file, which leaves one more that was made ahead.
    let mut index = 0;
    while machine.wal_files().len() < 3 {
        index += 1;
        let record = WalRecord::Create {
            group: GroupId(index),
            replica: ReplicaId(1),
            creation: vec![index as u8; 6000].into(),
        };
        machine.append(&mut process, vec![record]);
        machine.turn(&mut process).unwrap();
        while machine.complete_one(&mut process).unwrap() {
            machine.turn(&mut process).unwrap();
        }
    }
    let files = machine.wal_files();
    let payload_of = |machine: &Machine, file: FileName, number: u64| {
        let bytes = machine.disk.file(file);
        let headers = bytes.chunks(WAL_BLOCK_BYTES).filter_map(|block| Header::decode(block, CONFIG.key).ok());
        let (header, _) = headers.into_iter().find(|(header, _)| header.number.0 == number).unwrap();
        (header.payload_start() + 10) as usize
    };
    let last = machine.durable.0;
    let torn = payload_of(&machine, files[1], last);
    machine.disk.flip(files[1], torn, 0);
    machine.durable.0 -= 1;
    let damaged = payload_of(&machine, files[0], last - 1);

    let mut undamaged = machine.clone();
    undamaged.start_and_check().unwrap();
    machine.disk.flip(files[0], damaged, 0);
    match machine.start() {
        Err(End::Exit(Exit::Damaged { file, offset, .. })) => {
            assert_eq!((file, offset), (files[0].path(), damaged as u64 - 10));
        }
        _ => panic!("the write before the torn one was dropped with it"),
    }
}
