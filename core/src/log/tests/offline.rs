//! The offline reader finds at least what stops recovery, at the same place.

use bytes::Bytes;

use super::{
    damage::{for_some_bits, settled},
    machine::{CONFIG, End, Machine},
};
use crate::{
    io::{Exit, FileName},
    log::{
        offline::{Finding, wal},
        record::{EntryRecord, PayloadState, WalRecord},
    },
};

fn findings(machine: &Machine) -> Vec<Finding> {
    let files: Vec<wal::WalFile> = machine
        .wal_files()
        .into_iter()
        .map(|name| {
            let FileName::Wal(sequence) = name else { panic!("a WAL file") };
            wal::scan(CONFIG.key, sequence, &Bytes::copy_from_slice(machine.disk.file(name)), |_| ())
        })
        .collect();
    wal::damage(&files, None, None)
}

#[test]
fn an_intact_log_has_no_findings_and_every_record_is_told() {
    for seed in 0..4 {
        let machine = settled(seed);
        assert_eq!(findings(&machine), []);
        let mut told = 0;
        for name in machine.wal_files() {
            let FileName::Wal(sequence) = name else { panic!("a WAL file") };
            let bytes = Bytes::copy_from_slice(machine.disk.file(name));
            wal::scan(CONFIG.key, sequence, &bytes, |item| {
                assert!(item.intact);
                told += 1;
            });
        }
        let written: usize = machine.history.values().map(Vec::len).sum();
        // Writes that were copied forward by a later start stand in two files.
        assert!(told >= written && written > 50, "{told} records told, {written} written");
    }
}

#[test]
fn it_finds_what_stops_recovery_and_what_recovery_has_to_put_together_again() {
    let machine = settled(1);
    let (mut found, mut repaired, mut clean) = (0, 0, 0);
    for_some_bits(&machine, |file, byte, bit| {
        let mut damaged = machine.clone();
        damaged.disk.flip(file, byte, bit);
        let findings = findings(&damaged);
        match damaged.start() {
            Ok((_, records)) => {
                // Payloads of entries are told as damaged; directories stand twice in the log, and a header can be told
                // from its neighbours.
                let is_told = |finding: &Finding| match finding.entry {
                    Some((group, index)) => records.iter().any(|found| {
                        let is_it = |entry: &EntryRecord| (entry.group, entry.index) == (group, index);
                        found.payload == PayloadState::Damaged
                            && matches!(&found.record, WalRecord::Entry(entry) | WalRecord::Fill(entry) if is_it(entry))
                    }),
                    None => finding.file == file,
                };
                assert!(findings.iter().all(is_told), "recovery overlooks {findings:?}");
                if findings.is_empty() { clean += 1 } else { repaired += 1 }
            }
            Err(End::Exit(Exit::Damaged { file: named, offset, what })) => {
                let same = findings.iter().any(|finding| finding.file.path() == named && finding.offset == offset);
                assert!(same, "recovery says {named} at {offset}: {what}; found {findings:?}");
                found += 1;
            }
            Err(end) => panic!("{end:?}"),
        }
    });
    assert!(found > 50 && repaired > 50 && clean > 100, "{found} found, {repaired} repaired, {clean} clean");
}

#[test]
fn a_missing_file_is_a_finding() {
    let machine = settled(3);
    let files = machine.wal_files();
    assert!(files.len() > 2);
    let rest: Vec<wal::WalFile> = files
        .iter()
        .enumerate()
        .filter(|(number, _)| *number != 1)
        .map(|(_, name)| {
            let FileName::Wal(sequence) = *name else { panic!("a WAL file") };
            wal::scan(CONFIG.key, sequence, &Bytes::copy_from_slice(machine.disk.file(*name)), |_| ())
        })
        .collect();
    let findings = wal::damage(&rest, None, None);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].file, files[1]);
}
