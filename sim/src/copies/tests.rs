//! The budget on the disks of a real cluster.

use std::collections::BTreeSet;

use kauri_core::{
    ids::{FileSequence, GroupId},
    io::FileName,
    shard::Shard,
};
use slog::{Logger, o};

use super::{
    wal::{Item, Log},
    *,
};
use crate::{
    plan::{Plan, Swarm},
    time::{Instant, Span},
    trace::Trace,
    workload,
    world::World,
};

/// The disks of three nodes with a few seconds of records, and nothing wrong with them.
fn disks() -> Vec<Disk> {
    let swarm: Swarm = "none".parse().unwrap();
    let mut plan = (0..).map(|seed| Plan::draw_with(seed, &swarm)).find(|plan| plan.nodes.len() == 3).unwrap();
    plan.faults.clear();
    plan.workload.topics.iter_mut().for_each(|topic| topic.replicas = 3);
    plan.configuration.wal_file_bytes = 256 << 10;
    // What the stories damage is in the logs alone.
    plan.configuration.checkpoint_interval = Span::seconds(60);
    let clients = workload::clients(&plan);
    let mut world = World::<Shard>::new(plan, clients, Logger::root(slog::Discard, o!()), Trace::default());
    world.run_until(Instant::default() + Span::seconds(12)).unwrap();
    (0..3).map(|node| world.disk(node).durable_state()).collect()
}

fn platters(disks: &[Disk]) -> Platters<'_> {
    Platters::read(disks.iter().collect())
}

/// An entry that all nodes have and that lies apart from records of other kinds, and where it lies on node 0.
fn common_entry(disks: &[Disk]) -> (Entry, FileName, u64) {
    let platters = platters(disks);
    let is_apart = |entry: &&Entry| {
        (0..3).all(|node| {
            let place = find_place(&platters.logs[node], entry);
            place.is_some_and(|(file, at)| matches!(platters.hit(node, file, at), Hit::Pieces(_)))
        })
    };
    let entries = platters.logs[0].writes.iter().rev().flat_map(|write| &write.items);
    let entry = entries
        .filter_map(|item| match item {
            Item::Entry(entry) if entry.payload().end - entry.payload().start > 40 => Some(entry),
            Item::Entry(_) | Item::Fill(_) | Item::Other { .. } => None,
        })
        .find(is_apart)
        .expect("records were replicated");
    let (file, at) = find_place(&platters.logs[0], entry).expect("it comes from there");
    (entry.clone(), file, at)
}

fn flip(disk: &mut Disk, file: FileName, at: u64) {
    let byte = disk.platter(file, at, 1).unwrap()[0];
    disk.overwrite(file, at, &[!byte]);
}

/// Where the same entry lies in another log.
fn find_place(log: &Log, wanted: &Entry) -> Option<(FileName, u64)> {
    log.writes.iter().flat_map(|write| &write.items).find_map(|item| match item {
        Item::Entry(entry) if (entry.group, entry.index, entry.crc) == (wanted.group, wanted.index, wanted.crc) => {
            Some((FileName::Wal(entry.file()), entry.payload().start + 20))
        }
        Item::Entry(_) | Item::Fill(_) | Item::Other { .. } => None,
    })
}

fn place_of(disks: &[Disk], node: usize, wanted: &Entry) -> (FileName, u64) {
    find_place(&Log::read(&disks[node]), wanted).expect("it has it")
}

#[test]
fn a_log_is_read_as_it_was_written() {
    let disks = disks();
    for disk in &disks {
        let log = Log::read(disk);
        let numbers: Vec<u64> = log.writes.iter().map(|write| write.number).collect();
        assert!(numbers.len() > 100 && numbers.is_sorted(), "every write is found");
        assert_eq!(numbers.len() as u64, numbers.last().unwrap() - numbers[0] + 1);
        let files: BTreeSet<FileSequence> = log.writes.iter().map(|write| write.file).collect();
        assert!(files.len() > 1, "over several files");
        let entries = log.writes.iter().flat_map(|write| &write.items).filter_map(|item| match item {
            Item::Entry(entry) => Some(entry),
            Item::Fill(_) | Item::Other { .. } => None,
        });
        assert!(entries.clone().count() > 100);
        assert!(entries.into_iter().all(|entry| entry.is_intact(disk)));
        assert!(log.groups().count() >= 12);
    }
}

#[test]
fn the_last_intact_copy_of_an_entry_is_not_damaged() {
    let mut disks = disks();
    let mut copies = Copies::new(DiskBudget { disks: 1, over: false });
    let (entry, file, at) = common_entry(&disks);
    for node in [0, 1] {
        let (file, at) = if node == 0 { (file, at) } else { place_of(&disks, node, &entry) };
        assert_eq!(copies.deal_place(&platters(&disks), node, file, at), Ok(()));
        flip(&mut disks[node], file, at);
        assert!(!platters(&disks).has(node, &Piece::Entry(entry.clone())));
    }
    let (file, at) = place_of(&disks, 2, &entry);
    let excess = copies.deal_place(&platters(&disks), 2, file, at).unwrap_err();
    assert!(excess.groups.contains(&entry.group));
    assert!(excess.reason.contains(&format!("entry {} of group {}", entry.index, entry.group)), "{excess}");
    // Nor may the node that holds it forget everything, until one of the others is repaired.
    let excess = copies.deal_node(&platters(&disks), 2, "gone").unwrap_err();
    assert!(excess.reason.contains("last intact copy"), "{excess}");
    let (file, at) = place_of(&disks, 1, &entry);
    flip(&mut disks[1], file, at);
    assert_eq!(copies.deal_node(&platters(&disks), 2, "gone"), Ok(()));
}

#[test]
fn both_copies_of_a_directory_cost_the_node() {
    let mut disks = disks();
    let mut copies = Copies::new(DiskBudget { disks: 1, over: false });
    let log = Log::read(&disks[0]);
    let pair = &log.writes[log.writes.len() - 12..][..2];
    assert_eq!(pair[0].file, pair[1].file);
    for write in pair {
        let file = FileName::Wal(write.file);
        assert_eq!(copies.deal_place(&platters(&disks), 0, file, write.offset + 50), Ok(()));
        flip(&mut disks[0], file, write.offset + 50);
    }
    let excess = copies.deal_node(&platters(&disks), 1, "gone").unwrap_err();
    assert!(excess.reason.contains("left"), "node 0 is spent: {excess}");
}

#[test]
fn one_of_three_nodes_may_forget_everything_and_over_budget_groups_are_forfeited() {
    let disks = disks();
    let mut within = Copies::new(DiskBudget { disks: 1, over: false });
    assert_eq!(within.deal_node(&platters(&disks), 1, "its disk is empty"), Ok(()));
    assert!(within.deal_node(&platters(&disks), 2, "its disk is empty").is_err());
    assert_eq!(within.deal_node(&platters(&disks), 1, "its disk is empty"), Ok(()), "it is spent already");
    assert!(within.forfeited().is_empty() && within.is_hurt(1) && !within.is_hurt(2));

    let mut over = Copies::new(DiskBudget { disks: 1, over: true });
    over.deal_node(&platters(&disks), 1, "its disk is empty").unwrap();
    assert!(over.forfeited().is_empty(), "a majority is left");
    over.deal_node(&platters(&disks), 2, "its disk is empty").unwrap();
    assert!(over.forfeited().contains_key(&GroupId::METADATA) && over.forfeited().len() >= 12);
}
