//! The log as a ring: files are used again, recovery begins at a checkpoint's base, and neither crashes nor what an
//! earlier life of a file left change what is recovered.

use bytes::Bytes;

use super::{
    disk::MODES,
    machine::{CONFIG, End, FILE_BYTES, Machine, Process},
};
use crate::{
    ids::{FileSequence, GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    io::{DiskAction, Exit, FileName},
    limits::WAL_BLOCK_BYTES,
    log::{
        record::{EntryKind, EntryRecord, WalRecord},
        recovery::{Base, Recovery},
        wal::{Fill, format::Header},
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

fn entry(index: u64, length: u64) -> WalRecord {
    WalRecord::Entry(EntryRecord {
        group: GroupId(1),
        index: LogIndex(index),
        term: Term(1),
        kind: EntryKind::Normal,
        context: Bytes::new(),
        data: vec![index as u8; length as usize].into(),
    })
}

/// Writes until so many further files were begun, with a checkpoint at the beginning of each.
fn go_round(machine: &mut Machine, process: &mut Process, files: u64) {
    let mut index = 1;
    for _ in 0..files {
        machine.begin_checkpoint(process);
        let file = process.wal.current_file();
        while process.wal.current_file() == file {
            index += 1;
            machine.append(process, vec![entry(index, 9000)]);
            machine.settle(process).unwrap();
        }
        machine.finish_checkpoint(process);
    }
}

/// The writes in each file.
fn describe(machine: &Machine) -> Vec<String> {
    let writes = |file: FileName| {
        let FileName::Wal(sequence) = file else { panic!("a WAL file") };
        let bytes = machine.disk.file(file);
        let mut text = format!("{sequence} ({} bytes):", bytes.len());
        let mut at = 0;
        while let Some(Ok((header, _))) = bytes.get(at..).map(|bytes| Header::decode(bytes, CONFIG.key))
            && header.belongs(sequence, at as u64)
        {
            text += &format!(" {}{}<-{}", header.number, if header.opens { "!" } else { "" }, header.previous.file);
            at = header.end() as usize;
        }
        text
    };
    machine.wal_files().into_iter().map(writes).collect()
}

/// A ring that went round several times, and a process that runs on it.
fn ring(seed: u64) -> (Machine, Process) {
    let mut machine = Machine::new(seed);
    let mut process = machine.start_and_check().unwrap();
    go_round(&mut machine, &mut process, 30);
    (machine, process)
}

#[test]
fn a_ring_needs_no_new_file_and_stays_small() {
    let (mut machine, mut process) = ring(1);
    let files = machine.wal_files().len();
    let created = machine.disk.created();
    go_round(&mut machine, &mut process, 40);
    assert_eq!(machine.disk.created(), created, "released files are used again");
    assert_eq!(machine.wal_files().len(), files);
    assert!(files <= 6, "two checkpoints a file apart, one file made ahead: {files} files");
    assert!(process.wal.current_file() > FileSequence(60), "each life has a name of its own");
    assert_eq!(process.wal.disk_bytes(), machine.wal_bytes());
    machine.start_and_check().unwrap();
}

#[test]
fn without_checkpoints_a_log_grows_and_its_fill_says_so() {
    let mut machine = Machine::new(2);
    let mut process = machine.start_and_check().unwrap();
    let mut fill = process.wal.fill();
    assert!(fill < Fill(20), "{fill:?}");
    for index in 1..150 {
        machine.append(&mut process, vec![entry(index, 9000)]);
        machine.settle(&mut process).unwrap();
        assert!(process.wal.fill() >= fill);
        fill = process.wal.fill();
    }
    // Beyond the budget: what is needed is kept whatever it takes.
    assert!(fill > Fill(1000) && machine.wal_bytes() > CONFIG.budget_bytes, "{fill:?}");
    machine.begin_checkpoint(&mut process);
    machine.settle(&mut process).unwrap();
    machine.finish_checkpoint(&mut process);
    machine.settle(&mut process).unwrap();
    assert!(process.wal.fill() < Fill(100), "{:?}", process.wal.fill());
    assert!(machine.wal_bytes() <= CONFIG.budget_bytes, "surplus files are removed");
    assert_eq!(process.wal.disk_bytes(), machine.wal_bytes());
    machine.start_and_check().unwrap();
}

#[test]
fn a_write_larger_than_a_file_leaves_none_of_that_size_behind() {
    let (mut machine, mut process) = ring(3);
    machine.append(&mut process, vec![entry(1, FILE_BYTES * 2)]);
    machine.settle(&mut process).unwrap();
    go_round(&mut machine, &mut process, 10);
    for file in machine.wal_files() {
        assert_eq!(machine.disk.file(file).len() as u64, FILE_BYTES);
    }
    machine.start_and_check().unwrap();
}

#[test]
fn a_crash_at_every_operation_of_a_ring_loses_nothing_durable() {
    for mode in MODES {
        for seed in 0..5 {
            let (first, _) = ring(10 + seed);
            for operations in 0.. {
                let mut machine = first.clone();
                machine.operations_left = Some(operations);
                let mut run = || {
                    let mut process = machine.start_and_check()?;
                    machine.work_with_checkpoints(&mut process, 25)?;
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
fn many_lives_of_a_ring_lose_nothing_durable_from_either_checkpoint() {
    for seed in 0..150 {
        let mut machine = Machine::new(2000 + seed);
        for life in 0..14 {
            machine.operations_left = Some(machine.random.below(120));
            let turns = machine.random.below(150);
            let mut run = || {
                // The newest checkpoint may be damaged: then the older one and its log serve.
                let newest = machine.random.below(3) > 0;
                let base = if newest { machine.kept.last() } else { machine.kept.first() }.copied();
                let (mut process, records) = machine.start_from(base)?;
                machine.check_from(base, &records);
                machine.durable = process.wal.durable();
                machine.work_with_checkpoints(&mut process, turns)?;
                if life % 2 == 0 { machine.settle(&mut process) } else { Ok(()) }
            };
            ended(run());
            if machine.random.below(3) > 0 {
                let mode = MODES[machine.random.below(4) as usize];
                machine.cut_power(mode);
            }
        }
        machine.operations_left = None;
        machine.start_and_check().unwrap();
        assert!(machine.wal_bytes() <= CONFIG.budget_bytes + 4 * FILE_BYTES, "{} bytes", machine.wal_bytes());
    }
}

#[test]
fn starts_that_come_to_nothing_take_a_bounded_number_of_files() {
    for mode in MODES {
        for seed in 0..20 {
            let (mut machine, mut process) = ring(40 + seed);
            machine.work(&mut process, 5).unwrap();
            let before = machine.wal_files().len();
            for start in 0..60 {
                machine.operations_left = Some(machine.random.below(40));
                let mut run = || {
                    let mut process = machine.start_and_check()?;
                    // Some die at once, some after a mark or a few hard states, none writes a checkpoint.
                    for _ in 0..machine.random.below(3) {
                        let vote = WalRecord::Destroy { group: GroupId(start), replica: ReplicaId(1) };
                        machine.append(&mut process, vec![vote]);
                        machine.settle(&mut process)?;
                    }
                    Ok(())
                };
                ended(run());
                if machine.random.below(2) == 0 {
                    machine.cut_power(mode);
                }
                let files = machine.wal_files().len();
                assert!(
                    files <= before + 4,
                    "{files} files after {start} starts, {before} before: {:#?} {:?}",
                    describe(&machine),
                    machine.kept
                );
            }
        }
    }
}

#[test]
fn what_a_start_wrote_is_carried_into_the_next_one_until_it_is_much() {
    let (mut machine, process) = ring(60);
    drop(process);
    let mut process = machine.start_and_check().unwrap();
    let mut numbers = vec![process.wal.durable()];
    machine.append(&mut process, vec![entry(1, 100)]);
    machine.settle(&mut process).unwrap();
    let first = process.wal.current_file();
    for start in 2..40 {
        let (mut next, records) = machine.start().unwrap();
        machine.check(&records);
        let kept = records.iter().filter(|found| matches!(found.record, WalRecord::Entry(_))).count();
        assert!(kept >= start - 1, "every entry is there");
        numbers.push(next.wal.durable());
        machine.durable = next.wal.durable();
        machine.append(&mut next, vec![entry(start as u64, 100)]);
        machine.settle(&mut next).unwrap();
    }
    assert!(numbers.is_sorted_by(|before, after| before < after), "numbers of writes only grow");
    assert!(!machine.wal_files().contains(&FileName::Wal(first)), "its file was used again");
    // More than a part of a file is not written once more by each start.
    let mut process = machine.start_and_check().unwrap();
    machine.append(&mut process, vec![entry(100, FILE_BYTES / 4)]);
    machine.settle(&mut process).unwrap();
    let large = process.wal.current_file();
    for _ in 0..3 {
        machine.start_and_check().unwrap();
    }
    assert!(machine.wal_files().contains(&FileName::Wal(large)));
}

#[test]
fn a_file_with_a_checkpoint_is_not_carried() {
    let (mut machine, process) = ring(61);
    drop(process);
    let mut process = machine.start_and_check().unwrap();
    let file = process.wal.current_file();
    machine.begin_checkpoint(&mut process);
    machine.settle(&mut process).unwrap();
    machine.finish_checkpoint(&mut process);
    assert_eq!(machine.kept[1].file, file);
    for start in [machine.kept[1], machine.kept[0]] {
        let mut machine = machine.clone();
        let (_, records) = machine.start_from(Some(start)).unwrap();
        machine.check_from(Some(start), &records);
        assert!(machine.wal_files().contains(&FileName::Wal(file)));
    }
}

#[test]
fn recovery_begins_at_its_base() {
    let (mut machine, mut process) = ring(62);
    machine.work(&mut process, 30).unwrap();
    machine.settle(&mut process).unwrap();
    let base = machine.kept[1];
    let (_, records) = machine.clone().start_from(Some(base)).unwrap();
    assert!(records.iter().all(|found| found.write >= base.write));
    assert!(records.iter().any(|found| found.write == base.write));

    // A checkpoint whose log was lost does not fit, and says which file it misses.
    let later = Base { file: FileSequence(base.file.0 + 50), write: WriteNumber(base.write.0 + 1000) };
    match machine.clone().start_from(Some(later)) {
        Err(End::Exit(Exit::Damaged { file, .. })) => assert_eq!(file, FileName::Wal(later.file).path()),
        _ => panic!("the log does not reach this base"),
    }
    let earlier = Base { write: WriteNumber(1), ..base };
    assert!(matches!(machine.clone().start_from(Some(earlier)), Err(End::Exit(Exit::Damaged { .. }))));
}

#[test]
fn only_files_from_the_base_on_are_missed() {
    let (mut machine, mut process) = ring(63);
    // Several files behind the newest base.
    for index in 1..30 {
        machine.append(&mut process, vec![entry(index, 9000)]);
        machine.settle(&mut process).unwrap();
    }
    let base = machine.kept[1];
    let last = process.wal.current_file();
    let mut missed = 0;
    for file in machine.wal_files() {
        let FileName::Wal(sequence) = file else { panic!("a WAL file") };
        if sequence == last {
            // With the very end of the log its only trace is gone; peers remember how far it was durable.
            continue;
        }
        let mut machine = machine.clone();
        machine.disk.run(DiskAction::Remove { file }).unwrap();
        match machine.start() {
            Ok((_, records)) => {
                assert!(sequence < base.file || sequence > last, "{sequence} is needed from {} on", base.file);
                machine.check(&records);
            }
            Err(End::Exit(Exit::Damaged { .. })) => {
                assert!((base.file..=last).contains(&sequence), "{sequence} is not needed");
                missed += 1;
            }
            Err(end) => panic!("{end:?}"),
        }
    }
    assert!(missed > 2, "{missed} files are needed");
}

#[test]
fn nothing_changes_before_the_caller_goes_on() {
    let (mut machine, mut process) = ring(64);
    machine.work(&mut process, 20).unwrap();
    drop(process);
    let before = machine.disk.clone();
    machine.read_only(Recovery::new(CONFIG, true, machine.kept.last().copied())).unwrap();
    assert_eq!(machine.disk.changes(), before.changes());
    machine.start_and_check().unwrap();
}

#[test]
fn a_full_disk_does_not_keep_a_ring_from_starting_or_going_on() {
    let (mut machine, process) = ring(65);
    drop(process);
    machine.disk.capacity = Some(machine.wal_bytes() as usize);
    let mut process = machine.start_and_check().unwrap();
    go_round(&mut machine, &mut process, 20);
    assert!(!process.wal.is_full());
}

#[test]
fn what_an_earlier_life_left_is_taken_for_new_by_a_planted_bug_only() {
    let mut caught = 0;
    for seed in 0..20 {
        let (mut machine, mut process) = ring(100 + seed);
        machine.operations_left = Some(3 * seed);
        ended(machine.work_with_checkpoints(&mut process, 1000));
        machine.operations_left = None;
        let base = machine.kept.last().copied();
        let mut intact = machine.clone();
        let (_, records) = intact.start_from(base).unwrap();
        intact.check_from(base, &records);
        caught += match machine.clone().start_with(Recovery::with_stale_records(CONFIG, base)) {
            Ok((_, with_stale)) => i32::from(with_stale != records),
            Err(_) => 1,
        };
    }
    assert!(caught >= 15, "{caught} of 20 rings are read wrongly with it");
}

#[test]
fn a_damaged_header_or_directory_is_restored_from_the_next_write() {
    let (mut machine, mut process) = ring(66);
    for index in 1..20 {
        machine.append(&mut process, vec![entry(index, 300), entry(index + 1, 9000)]);
        machine.settle(&mut process).unwrap();
    }
    let base = machine.kept[1];
    let (_, expected) = machine.clone().start().unwrap();
    let mut restored = 0;
    for file in machine.wal_files() {
        let FileName::Wal(sequence) = file else { panic!("a WAL file") };
        if sequence < base.file || sequence > process.wal.current_file() {
            continue;
        }
        let bytes = machine.disk.file(file).to_vec();
        // Not the first of a file, which alone knows what it follows, and not the last of all, which nothing follows.
        for at in (WAL_BLOCK_BYTES..bytes.len()).step_by(WAL_BLOCK_BYTES) {
            let Ok((header, _)) = Header::decode(&bytes[at..], CONFIG.key) else { continue };
            if !header.belongs(sequence, at as u64) || header.number == process.wal.durable() {
                continue;
            }
            let mut places = vec![at + 20, at + 110];
            if header.directory.length > 0 {
                places.push(header.directory_start() as usize + 5);
            }
            for byte in places {
                let mut damaged = machine.clone();
                damaged.disk.flip(file, byte, 3);
                let (_, mut records) =
                    damaged.start().unwrap_or_else(|end| panic!("{} at {byte}: {end:?}", file.path()));
                // The location of what the first write took over depends on nothing that was damaged.
                records.retain(|found| expected.contains(found));
                assert_eq!(records, expected, "{} at {byte}", file.path());
                restored += 1;
            }
        }
    }
    assert!(restored > 60, "{restored} restored");
}

#[test]
fn a_large_write_is_taken_over_by_one_start_after_the_other() {
    let mut machine = Machine::new(67);
    let mut process = machine.start_and_check().unwrap();
    machine.settle(&mut process).unwrap();
    // Whole, but proven by nothing, and larger than what recovery reads at once.
    let number = machine.append(&mut process, vec![entry(1, 3 << 20)]);
    while process.wal.durable() < number {
        machine.turn(&mut process).unwrap();
        machine.complete_one(&mut process).unwrap();
    }
    for _ in 0..5 {
        // Each start ends with its first write.
        machine.start_and_check().unwrap();
        assert!(machine.wal_files().len() <= 5, "{:#?}", describe(&machine));
    }
    let mut process = machine.start_and_check().unwrap();
    machine.settle(&mut process).unwrap();
    machine.start_and_check().unwrap();
}

#[test]
fn a_first_write_that_fills_its_file_does_not_wait_for_its_own_proof() {
    let mut machine = Machine::new(68);
    let mut process = machine.start_and_check().unwrap();
    machine.settle(&mut process).unwrap();
    let number = machine.append(&mut process, vec![entry(1, FILE_BYTES - 2500)]);
    while process.wal.durable() < number {
        machine.turn(&mut process).unwrap();
        machine.complete_one(&mut process).unwrap();
    }
    assert_eq!(process.wal.current_file(), FileSequence(2), "it takes a whole file");
    let mut process = machine.start_and_check().unwrap();
    let number = machine.append(&mut process, vec![entry(2, 10)]);
    machine.settle(&mut process).unwrap();
    assert!(process.wal.durable() >= number);
    machine.start_and_check().unwrap();
}
