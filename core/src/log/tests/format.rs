//! The bytes on disk: what they were when the format was fixed, and what is not of this format.

use bytes::Bytes;

use super::machine::{CONFIG, End, Machine};
use crate::{
    ids::{FileSequence, GroupId, LogIndex, ReplicaId, Term},
    io::{Exit, FileName},
    log::{
        record::{EntryKind, EntryRecord, WalRecord},
        wal::{
            WalKey, entry_crc,
            format::{HEADER_BYTES, Header, HeaderError},
        },
    },
};

/// One record of each kind.
fn records() -> Vec<WalRecord> {
    let (group, replica) = (GroupId(0x11), ReplicaId(0x22));
    let entry = EntryRecord {
        group,
        index: LogIndex(0x33),
        term: Term(0x44),
        kind: EntryKind::ConfChangeV2,
        context: Bytes::from_static(b"context"),
        data: Bytes::from_static(b"data"),
    };
    vec![
        WalRecord::Create { group, replica, creation: Bytes::from_static(b"creation") },
        WalRecord::Entry(entry.clone()),
        WalRecord::HardState { group, replica, term: Term(0x44), vote: ReplicaId(0x55), commit: LogIndex(0x66) },
        WalRecord::Fill(EntryRecord { kind: EntryKind::ConfChange, context: Bytes::new(), ..entry.clone() }),
        WalRecord::Entry(EntryRecord { kind: EntryKind::Normal, data: Bytes::new(), ..entry }),
        WalRecord::Switch { group, replica, state: Bytes::from_static(b"state") },
        WalRecord::Quarantine { group, replica, index: LogIndex(0x77), build: Bytes::from_static(b"build") },
        WalRecord::CheckpointDone { checkpoint: Bytes::from_static(b"checkpoint") },
        WalRecord::Destroy { group, replica },
    ]
}

#[test]
fn the_format_is_what_it_was() {
    let mut machine = Machine::new(1);
    let mut process = machine.start_and_check().unwrap();
    machine.append(&mut process, records());
    machine.settle(&mut process).unwrap();
    // The opening write, the write with the records, the mark.
    let file = machine.disk.file(FileName::Wal(FileSequence(1)));
    let (blocks, rest) = file.split_at(3 * 4096);
    assert!(rest.iter().all(|byte| *byte == 0));
    let mut written = String::new();
    for (block, bytes) in blocks.chunks(4096).enumerate() {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        written += &format!("block {block}\n");
        for line in bytes[..used].chunks(16) {
            written += &line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            written += "\n";
        }
    }
    assert_eq!(written, include_str!("wal-v1.hex"), "the format of version 1 never changes:\n{written}");
    machine.start_and_check().unwrap();
}

#[test]
fn an_unknown_kind_stops_recovery() {
    let mut machine = Machine::new(2);
    let mut process = machine.start_and_check().unwrap();
    machine.append(&mut process, vec![WalRecord::Destroy { group: GroupId(1), replica: ReplicaId(2) }]);
    machine.settle(&mut process).unwrap();
    // The same record under a kind of the future, all checksums right.
    let name = FileName::Wal(FileSequence(1));
    let mut bytes = machine.disk.file(name).to_vec();
    bytes.truncate(8192);
    let (mut header, _) = Header::decode(&bytes[4096..], CONFIG.key).unwrap();
    let directory = 4096 + HEADER_BYTES..4096 + HEADER_BYTES + header.directory.length as usize;
    bytes[directory.start] = 200;
    header.directory.crc = crc32c::crc32c(&bytes[directory]);
    bytes[4096..4096 + HEADER_BYTES].copy_from_slice(&header.encode().0);
    bytes.resize(machine.disk.file(name).len(), 0);
    machine.disk.put(name, bytes);
    match machine.start() {
        Err(End::Exit(Exit::Refused(sentence))) => {
            assert!(sentence.contains("record kind 200") && sentence.contains("byte 4224"), "{sentence}");
        }
        _ => panic!("an unknown record was passed over"),
    }
}

#[test]
fn an_unknown_version_stops_recovery() {
    let mut machine = Machine::new(3);
    let mut process = machine.start_and_check().unwrap();
    machine.work(&mut process, 5).unwrap();
    machine.settle(&mut process).unwrap();
    let name = FileName::Wal(FileSequence(1));
    let mut bytes = machine.disk.file(name).to_vec();
    bytes[8] = 2;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..HEADER_BYTES]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Header::decode(&bytes, CONFIG.key), Err(HeaderError::Version(2)));
    assert_eq!(Header::decode(&bytes, WalKey(1)), Err(HeaderError::Foreign));
    machine.disk.put(name, bytes);
    match machine.start() {
        Err(End::Exit(Exit::Refused(sentence))) => assert!(sentence.contains("version 2"), "{sentence}"),
        _ => panic!("an unknown version was passed over"),
    }
}

#[test]
fn an_entry_crc_names_its_entry() {
    let crc = entry_crc(GroupId(1), LogIndex(2), Term(3), b"ab", b"c");
    assert_eq!(crc, entry_crc(GroupId(1), LogIndex(2), Term(3), b"ab", b"c"));
    for other in [
        entry_crc(GroupId(2), LogIndex(2), Term(3), b"ab", b"c"),
        entry_crc(GroupId(1), LogIndex(3), Term(3), b"ab", b"c"),
        entry_crc(GroupId(1), LogIndex(2), Term(4), b"ab", b"c"),
        entry_crc(GroupId(1), LogIndex(2), Term(3), b"a", b"bc"),
    ] {
        assert_ne!(crc, other);
    }
}
