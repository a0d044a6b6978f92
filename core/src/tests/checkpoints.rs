//! Checkpoints of whole nodes, and starts from them.

use std::collections::BTreeMap;

use kauri_protocol::records::Producer;

use super::{client::*, disk::Disk, world::World};
use crate::{
    broker::Inspection,
    config::NodeConfig,
    ids::{CheckpointNumber, GroupId, LogIndex, NodeId},
    io::{Exit, FileName, Input},
    log::segment::Content,
};

const FILE_BYTES: u64 = 256 << 10;

fn small(config: &mut NodeConfig) {
    config.wal_file_bytes = FILE_BYTES;
    config.wal_budget_bytes = 8 * FILE_BYTES;
}

/// One checkpoint after the other, as long as anything changes.
fn every_turn(config: &mut NodeConfig) {
    small(config);
    config.checkpoint_bytes = Some(0);
}

/// What each group was when it had applied so much.
#[derive(Default)]
struct States(BTreeMap<(GroupId, LogIndex), (Option<u64>, Option<Content>)>);

impl States {
    fn note(&mut self, inspection: &Inspection) {
        for group in &inspection.groups {
            let state = (group.state_hash, group.content);
            let known = self.0.insert((group.group, group.applied), state);
            assert!(known.is_none_or(|known| known == state), "states are functions of the log");
        }
    }

    /// How many states could be compared: one between two turns was never seen.
    fn check(&self, inspection: &Inspection) -> usize {
        let known = inspection.groups.iter().filter_map(|group| {
            let expected = self.0.get(&(group.group, group.applied))?;
            assert_eq!(&(group.state_hash, group.content), expected, "group {} at {}", group.group, group.applied);
            Some(())
        });
        known.count()
    }
}

fn checkpoints(disk: &Disk) -> Vec<CheckpointNumber> {
    let numbers = disk.files().filter_map(|file| match file {
        FileName::Checkpoint(number) => Some(number),
        _ => None,
    });
    numbers.collect()
}

fn produce(world: &mut World, node: NodeId, round: i32) {
    let connection = world.connect(node);
    let producer = Producer { id: 5, epoch: 0, base_sequence: round };
    let value = "v".repeat(100 + (round as usize * 977) % 3000);
    world.send(connection, &produce_request(-1, batch_of(&[&value], 1_700_000_000_000, producer)), 9);
}

/// Wherever a process is killed, each checkpoint that it leaves leads to the state that was: the newest, and the older
/// one if the newest is damaged.
#[test]
fn every_turn_leaves_checkpoints_that_lead_to_the_same_state() {
    for nodes in [1, 3] {
        let mut world = World::formed_with(nodes, every_turn);
        let leader = world.create_topic(nodes as i16);
        let victim = if nodes == 1 { leader } else { NodeId(leader.0 % 3 + 1) };
        let mut states = States::default();
        let mut generations = [0, 0];
        for round in 0..12 {
            produce(&mut world, leader, round);
            for step in 0..40 {
                world.step(victim);
                states.note(&world.inspect(victim));
                if step % 3 > 0 {
                    continue;
                }
                let disk = &world.nodes[&victim].disk;
                generations[0] += states.check(&world.recovered(victim, disk.clone()).expect("it starts"));
                let kept = checkpoints(disk);
                if let [_, .., newest] = kept.as_slice() {
                    let mut damaged = disk.clone();
                    damaged.flip(FileName::Checkpoint(*newest), 100);
                    generations[1] += states.check(&world.recovered(victim, damaged).expect("the older one is there"));
                }
            }
        }
        assert!(generations[0] > 100 && generations[1] > 50, "{generations:?}");
        let kept = checkpoints(&world.nodes[&victim].disk);
        assert!(kept.len() <= 3 && kept.last() > Some(&CheckpointNumber(10)), "{kept:?}");
    }
}

/// Nothing of what clients wrote is lost, and the WAL stays within its budget, however much is written.
#[test]
fn the_wal_is_used_again_and_again() {
    let mut world = World::formed_with(3, small);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    let mut written = Vec::new();
    for round in 0..150 {
        let value = format!("{round:06}").repeat(8_000);
        let producer = Producer { id: 5, epoch: 0, base_sequence: round };
        let answer = world.produce(connection, batch_of(&[&value], 1_700_000_000_000, producer));
        assert_eq!(answer.base_offset, i64::from(round));
        written.push(value);
        for node in world.nodes.values() {
            let wal = node.disk.sizes().filter(|(file, _)| matches!(file, FileName::Wal(_)));
            assert!(wal.map(|(_, bytes)| bytes).sum::<u64>() <= 8 * FILE_BYTES);
        }
    }
    let oldest = |world: &World, node: NodeId| {
        let files = world.nodes[&node].disk.files();
        files.filter_map(|file| if let FileName::Wal(sequence) = file { Some(sequence.0) } else { None }).min()
    };
    for node in 1..=3 {
        let node = NodeId(node);
        assert!(oldest(&world, node) > Some(10), "files were used several times");
        world.kill(node);
        world.start(node);
    }
    let leader = world.run_until_led(GROUP);
    let connection = world.connect(leader);
    let producer = Producer { id: 5, epoch: 0, base_sequence: 149 };
    let again = world.produce(connection, batch_of(&[&written[149]], 1_700_000_000_000, producer));
    assert_eq!(again.base_offset, 149, "known to be a repeat");
    world.run_until_equal(GROUP);
    world.run_until_equal(GroupId::METADATA);
    assert_eq!(world.read_all(), written);
    world.assert_nothing_waits();
}

/// A replica that was away finds in the leader's log what it misses, even if the leader was started anew meanwhile.
#[test]
fn a_member_that_is_behind_is_served_from_the_log_after_a_restart_of_the_leader() {
    let mut world = World::formed_with(3, every_turn);
    let leader = world.create_topic(3);
    let away = NodeId(leader.0 % 3 + 1);
    world.kill(away);
    let connection = world.connect(leader);
    for round in 0..20 {
        let producer = Producer { id: 5, epoch: 0, base_sequence: round };
        world.produce(connection, batch_of(&["x"], 1_700_000_000_000, producer));
    }
    world.kill(leader);
    world.start(leader);
    world.run_until_led(GROUP);
    world.start(away);
    world.run_until_equal(GROUP);
    assert_eq!(world.read_all().len(), 20);
}

#[test]
fn a_group_that_was_removed_stays_removed_after_checkpoints() {
    let mut world = World::formed_with(1, every_turn);
    let node = world.create_topic(1);
    let connection = world.connect(node);
    world.produce(connection, batch(&["a"]));
    world.send(connection, &delete_request(), 6);
    for _ in 0..60 {
        world.step(node);
        let disk = world.nodes[&node].disk.clone();
        let running = world.groups(node).contains_key(&GROUP);
        let recovered = world.recovered(node, disk).expect("it starts");
        assert!(running || !recovered.groups.iter().any(|group| group.group == GROUP) || world.pending(node) > 0);
    }
    world.kill(node);
    world.start(node);
    world.run_for(A_WHILE);
    assert!(!world.groups(node).contains_key(&GROUP));
}

#[test]
fn a_shutdown_leaves_nothing_to_replay() {
    let mut world = World::formed_with(1, small);
    let node = world.create_topic(1);
    let connection = world.connect(node);
    world.produce(connection, batch(&["a"]));
    let before = world.inspect(node);
    world.input(node, Input::Shutdown);
    world.run_until("it stops", |world| world.nodes[&node].exit.is_some());
    assert_eq!(world.nodes[&node].exit, Some(Exit::Stopped));
    let after = world.recovered(node, world.nodes[&node].disk.clone()).expect("it starts");
    assert!(after.checkpoint > before.checkpoint, "{:?} follows {:?}", after.checkpoint, before.checkpoint);
    let applied = |inspection: &Inspection| inspection.groups.iter().map(|group| group.applied).collect::<Vec<_>>();
    assert!(applied(&after) >= applied(&before), "what was applied is applied");
}

/// Damage of both generations is damage of the node: it stops instead of forgetting.
#[test]
fn without_an_intact_checkpoint_nothing_is_forgotten() {
    let mut world = World::formed_with(1, small);
    let node = world.create_topic(1);
    let connection = world.connect(node);
    for round in 0..60 {
        let producer = Producer { id: 5, epoch: 0, base_sequence: round };
        world.produce(connection, batch_of(&[&"x".repeat(40_000)], 1_700_000_000_000, producer));
    }
    let mut disk = world.nodes[&node].disk.clone();
    assert!(!disk.files().any(|file| file == FileName::Wal(crate::ids::FileSequence(1))), "it was used again");
    for number in checkpoints(&disk) {
        disk.flip(FileName::Checkpoint(number), 100);
    }
    let exit = world.recovered(node, disk).expect_err("nothing leads to the state");
    assert!(matches!(exit, Exit::Damaged { .. }), "{exit}");
}
