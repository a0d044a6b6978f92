//! Power losses beyond loss, order and tearing: garbage, sizes and names.

use bytes::Bytes;
use kauri_core::{
    ids::FileSequence,
    io::{Directory, DiskAction, FileName},
};

use super::*;

const FILE: FileName = FileName::Wal(FileSequence(1));
const OTHER: FileName = FileName::Wal(FileSequence(2));

fn perform(disk: &mut Disk, action: DiskAction) {
    let through = disk.sequence();
    disk.perform(action, through).expect("nothing fails here");
}

fn write(disk: &mut Disk, file: FileName, offset: u64, bytes: &[u8]) {
    perform(disk, DiskAction::Write { file, offset, slices: vec![Bytes::copy_from_slice(bytes)] });
}

fn sync(disk: &mut Disk, file: FileName) {
    perform(disk, DiskAction::Sync { file });
    perform(disk, DiskAction::SyncDirectory { directory: Directory::Wal });
}

fn lose_power(disk: &mut Disk, mode: PowerMode, sector_bytes: u64, seed: u64) -> Bites {
    let mut bites = Bites::default();
    disk.lose_power(&mut Dice::new(seed, "test", 0, 0), mode, sector_bytes, &mut bites);
    bites
}

#[test]
fn mode_e_leaves_garbage_in_sectors_that_were_being_written_and_nowhere_else() {
    for sector_bytes in [512, 4_096] {
        let (mut zeros, mut random, mut spoilt_neighbours) = (0, 0, 0);
        for seed in 0..200 {
            let mut disk = Disk::default();
            write(&mut disk, FILE, 0, &[1; 32_768]);
            sync(&mut disk, FILE);
            write(&mut disk, FILE, 8_300, &[2; 9_000]);
            let bites = lose_power(&mut disk, PowerMode::Garbage, sector_bytes, seed);
            let content = disk.content(FILE).unwrap();
            assert_eq!(content.len(), 32_768);
            let (first, end) = (8_300 / sector_bytes, 17_300u64.div_ceil(sector_bytes));
            for (number, sector) in content.chunks(sector_bytes as usize).enumerate() {
                let was_written = (first..end).contains(&(number as u64));
                assert!(was_written || sector.iter().all(|byte| *byte == 1), "seed {seed}: sector {number}");
                let is_strange = sector.iter().any(|byte| !matches!(byte, 0..=2));
                random += usize::from(is_strange);
                zeros += usize::from(was_written && sector.iter().all(|byte| *byte == 0));
                // What was synced shares its sector with what was not.
                spoilt_neighbours += usize::from(number as u64 == first && sector[0] != 1);
            }
            let is_garbage = content.iter().any(|byte| !matches!(byte, 1 | 2));
            assert!(bites.of(Bite::SectorGarbage) > 0 || !is_garbage);
        }
        assert!(zeros > 5 && random > 20 && spoilt_neighbours > 5, "{zeros} {random} {spoilt_neighbours}");
    }
}

#[test]
fn mode_f_keeps_the_size_and_shows_zeros_or_what_another_file_held() {
    let (mut zeros, mut stale, mut whole) = (0, 0, 0);
    for seed in 0..100 {
        let mut disk = Disk::default();
        write(&mut disk, OTHER, 0, &[9; 65_536]);
        sync(&mut disk, OTHER);
        perform(&mut disk, DiskAction::Remove { file: OTHER });
        write(&mut disk, FILE, 0, &[1; 4_096]);
        sync(&mut disk, FILE);
        write(&mut disk, FILE, 4_096, &[2; 30_000]);
        let bites = lose_power(&mut disk, PowerMode::SizeWithoutData, 512, seed);
        let content = disk.content(FILE).unwrap();
        assert_eq!(content.len(), 34_096, "its size survives in any case");
        assert_eq!(&content[..4_096], &[1; 4_096][..]);
        let tail = &content[4_096..];
        assert!(tail.iter().all(|byte| matches!(byte, 0 | 1 | 2 | 9)));
        zeros += usize::from(tail.iter().all(|byte| *byte == 0));
        stale += usize::from(tail.contains(&9));
        whole += usize::from(tail.iter().all(|byte| *byte == 2));
        assert_eq!(bites.of(Bite::SizeWithoutData) > 0, !tail.iter().all(|byte| *byte == 2));
    }
    assert!(zeros > 5 && stale > 5 && whole > 5, "{zeros} {stale} {whole}");
}

#[test]
fn mode_g_keeps_what_was_written_within_the_old_size_and_hides_the_tail() {
    let (mut hidden, mut overwritten) = (0, 0);
    for seed in 0..100 {
        let mut disk = Disk::default();
        write(&mut disk, FILE, 0, &[1; 4_096]);
        sync(&mut disk, FILE);
        write(&mut disk, FILE, 4_096, &[2; 5_000]);
        write(&mut disk, FILE, 0, &[3; 512]);
        let bites = lose_power(&mut disk, PowerMode::DataWithoutSize, 512, seed);
        let content = disk.content(FILE).unwrap();
        assert!(content.len() >= 4_096, "what was synced has its size");
        hidden += usize::from(bites.of(Bite::DataWithoutSize) > 0);
        overwritten += usize::from(content.len() == 4_096 && content[0] == 3);
    }
    assert!(hidden > 10 && overwritten > 10, "{hidden} {overwritten}");
}

#[test]
fn mode_h_keeps_any_subset_of_the_changes_of_a_directory() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let mut disk = Disk::default();
        for file in 1..=3 {
            write(&mut disk, FileName::Wal(FileSequence(file)), 0, b"x");
        }
        sync(&mut disk, FILE);
        perform(&mut disk, DiskAction::Remove { file: FILE });
        write(&mut disk, FileName::Wal(FileSequence(4)), 0, b"x");
        perform(&mut disk, DiskAction::Remove { file: OTHER });
        lose_power(&mut disk, PowerMode::NamesReordered, 512, seed);
        let names: Vec<FileName> = disk.names().collect();
        assert!(names.contains(&FileName::Wal(FileSequence(3))), "nobody touched it");
        outcomes.insert(names);
    }
    assert_eq!(outcomes.len(), 8, "each of the three changes survives or not");
}

#[test]
fn in_no_mode_a_synced_sector_that_nobody_wrote_again_is_hurt() {
    for mode in PowerMode::ALL {
        for seed in 0..60 {
            let mut disk = Disk::default();
            write(&mut disk, FILE, 0, &[7; 8_192]);
            sync(&mut disk, FILE);
            write(&mut disk, FILE, 8_192, &[8; 20_000]);
            write(&mut disk, OTHER, 0, &[8; 20_000]);
            lose_power(&mut disk, mode, 4_096, seed);
            assert_eq!(&disk.content(FILE).expect("its entry was synced")[..8_192], &[7; 8_192][..]);
        }
    }
}
