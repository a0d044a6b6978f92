//! Damaged segments: served by whoever is intact, and repaired from the others under the same identity.

use std::time::Duration;

use kauri_protocol::error::ErrorCode;

use super::{client::*, world::World};
use crate::{
    config::NodeConfig,
    ids::{NodeId, ReplicaId},
    io::{DiskAction, FileName, SegmentFile},
    log::segment::SegmentCheck,
};

const BATCH: usize = 40_000;
const BATCHES: usize = 40;

fn small(config: &mut NodeConfig) {
    config.segment_bytes = 512 << 10;
    config.checkpoint_interval = Duration::from_secs(5);
    config.scrub_interval = Duration::from_secs(5);
}

/// Nobody looks for damage.
fn unwatched(config: &mut NodeConfig) {
    small(config);
    config.scrub_bytes_per_second = 0;
}

/// A cluster whose partition is in segments on all nodes, and no longer in memory.
fn written(config: fn(&mut NodeConfig)) -> World {
    let mut world = World::formed_with(3, config);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    for round in 0..BATCHES {
        let produced = world.produce(connection, batch_of_bytes(BATCH, round as u8));
        assert_eq!(produced.error_code, ErrorCode::None);
    }
    world.close(connection);
    world.run_for(Duration::from_secs(50));
    for node in [1, 2, 3] {
        assert!(logs(&world, NodeId(node)).len() >= 3, "several segments");
    }
    world
}

/// The segments of the partition on a node, with their lengths.
fn logs(world: &World, node: NodeId) -> Vec<(FileName, u64)> {
    let files = world.nodes[&node].disk.sizes();
    files.filter(|(file, _)| matches!(file, FileName::Segment { group: GROUP, kind: SegmentFile::Log, .. })).collect()
}

impl World {
    fn flip_side_file(&mut self, node: NodeId, segment: usize, byte: usize) {
        let FileName::Segment { group, base, .. } = logs(self, node)[segment].0 else { unreachable!("a segment") };
        let file = FileName::Segment { group, base, kind: SegmentFile::Checksums };
        self.nodes.get_mut(&node).unwrap().disk.flip(file, byte);
    }

    fn flip(&mut self, node: NodeId, segment: usize, byte: usize) {
        let file = logs(self, node)[segment].0;
        self.nodes.get_mut(&node).unwrap().disk.flip(file, byte);
    }

    /// Reads everything as a client does that tries again when it is told to; how often it was.
    fn read_patiently(&mut self) -> usize {
        let leader = self.run_until_led(GROUP);
        let connection = self.connect(leader);
        let (mut offset, mut told) = (0, 0);
        while offset < BATCHES {
            let data = self.fetch(connection, offset as i64);
            match data.error_code {
                ErrorCode::None => {
                    for value in values_of(&data) {
                        assert_eq!(value.into_bytes(), vec![offset as u8; BATCH], "no wrong byte is served");
                        offset += 1;
                    }
                }
                error => {
                    assert_eq!(error, ErrorCode::KafkaStorageError);
                    told += 1;
                    assert!(told < 100, "it is repaired");
                    self.run_for(Duration::from_millis(50));
                }
            }
        }
        self.close(connection);
        told
    }

    fn replicas(&self) -> Vec<ReplicaId> {
        self.nodes.keys().map(|node| self.groups(*node)[&GROUP].replica).collect()
    }

    /// The files of the partition are the same on all nodes.
    fn assert_equal_files(&self) {
        let files = |node: &NodeId| {
            let disk = &self.nodes[node].disk;
            logs(self, *node).into_iter().map(|(file, _)| (file, disk.content(file).to_vec())).collect::<Vec<_>>()
        };
        let first = files(&NodeId(1));
        assert!(self.nodes.keys().all(|node| files(node) == first), "segments differ");
    }
}

/// Every segment of the node is what its side file says.
fn verify(world: &World, node: NodeId) {
    let disk = &world.nodes[&node].disk;
    for (file, length) in logs(world, node) {
        let FileName::Segment { group, base, .. } = file else { unreachable!("a segment") };
        let side = disk.content(FileName::Segment { group, base, kind: SegmentFile::Checksums });
        let mut check = SegmentCheck::new(group, base, Some(side), Some(length), None);
        while let Some((at, bytes)) = check.wanted() {
            check.chunk(&disk.content(file)[at as usize..at as usize + bytes]);
        }
        assert_eq!(check.finish(), [], "on node {node}");
    }
}

#[test]
fn a_reader_waits_until_what_it_reads_is_repaired() {
    let mut world = written(unwatched);
    let leader = world.run_until_led(GROUP);
    let replicas = world.replicas();
    // Of the first segment the first chunk, of the second the end of one and the beginning of the next.
    for (segment, byte) in [(0, 10), (1, 131_071), (1, 131_072)] {
        world.flip(leader, segment, byte);
    }
    assert!(world.read_patiently() > 0);
    world.run_until("everything is repaired", |world| world.inspect(leader).damaged == 0);
    let repairs = world.inspect(leader).repairs;
    assert!(repairs.repaired >= 3 && repairs.found >= 2, "{repairs:?}");
    world.assert_equal_files();
    assert_eq!((world.replicas(), world.leader(GROUP)), (replicas, Some(leader)), "nobody left");
    assert_eq!(world.read_patiently(), 0);
    world.assert_nothing_waits();
}

/// No replica has the chunk as it was, and yet everything of it is sound somewhere.
#[test]
fn a_chunk_that_is_damaged_everywhere_is_put_together_of_what_is_sound() {
    let mut world = written(small);
    for (node, bytes) in [(1, [173, 3_133]), (2, [1_876, 65_535]), (3, [173, 30_000])] {
        bytes.into_iter().for_each(|byte| world.flip(NodeId(node), 0, byte));
    }
    world.run_until("everything is found and repaired", |world| {
        world.nodes.keys().all(|node| {
            let inspection = world.inspect(*node);
            inspection.damaged == 0 && inspection.repairs.repaired > 0
        })
    });
    world.assert_equal_files();
    world.nodes.keys().for_each(|node| verify(&world, *node));
    assert_eq!(world.read_patiently(), 0);
    world.assert_nothing_waits();
}

/// What is sound nowhere stays marked, and nothing is made up.
#[test]
fn what_is_sound_nowhere_is_not_made_up() {
    let mut world = written(small);
    for (node, bytes) in [(1, [173, 3_133]), (2, [174, 65_535]), (3, [175, 30_000])] {
        bytes.into_iter().for_each(|byte| world.flip(NodeId(node), 0, byte));
    }
    world.run_for(Duration::from_secs(30));
    for node in world.nodes.keys() {
        let inspection = world.inspect(*node);
        assert_eq!((inspection.damaged, inspection.repairs.repaired), (1, 0));
    }
}

/// Different sectors on two of three nodes, segments and side files, found by nobody but those who look for it.
#[test]
fn damage_on_two_of_three_nodes_is_found_and_repaired() {
    let mut world = written(small);
    let replicas = world.replicas();
    for (node, segment, byte) in [(1, 0, 70_000), (1, 2, 5), (2, 0, 140_000), (2, 1, 1), (2, 2, 70_001)] {
        world.flip(NodeId(node), segment, byte);
    }
    for (node, segment, byte) in [(1, 0, 3), (1, 1, 32 + 40), (2, 0, 32 + 64 + 9)] {
        world.flip_side_file(NodeId(node), segment, byte);
    }
    world.run_for(Duration::from_secs(20));
    for node in [1, 2, 3].map(NodeId) {
        let inspection = world.inspect(node);
        assert_eq!(inspection.damaged, 0, "on node {node}");
        assert!(inspection.scrub.rounds >= 2, "{:?}", inspection.scrub);
        verify(&world, node);
    }
    assert_eq!(world.inspect(NodeId(2)).repairs.repaired, 3);
    world.assert_equal_files();
    assert_eq!(world.replicas(), replicas, "nobody left");
    assert_eq!(world.read_patiently(), 0, "nothing was left for readers to find");
    world.assert_nothing_waits();
}

#[test]
fn the_first_round_of_a_start_goes_through_all_partitions() {
    let mut world = written(small);
    let leader = world.run_until_led(GROUP);
    world.create_topics(leader, &["a", "b", "c", "d", "e", "f", "g", "h"], 2, 3);
    for start in 0..3 {
        let victim = NodeId(2);
        world.kill(victim);
        world.start(victim);
        world.flip(victim, 0, 100_000 * (start + 1));
        world.run_until("the first round is over", |world| world.inspect(victim).scrub.rounds == 1);
        world.run_until("everything is repaired", |world| world.inspect(victim).repairs.repaired == 1);
        assert_eq!(world.inspect(victim).scrub.rounds, 1, "start {start}");
    }
}

#[test]
fn a_start_on_damaged_files_repairs_them() {
    let mut world = written(small);
    let victim = NodeId(2);
    world.kill(victim);
    world.flip(victim, 0, 5);
    world.flip_side_file(victim, 0, 32 + 1);
    world.flip_side_file(victim, 1, 7);
    let last = logs(&world, victim).len() - 1;
    world.flip_side_file(victim, last, 7);
    let missing = logs(&world, victim)[1].0;
    world.nodes.get_mut(&victim).unwrap().disk.run(DiskAction::Remove { file: missing }).unwrap();
    world.start(victim);
    world.run_until_equal(GROUP);
    // What was not in segments when the checkpoint was taken is written again, without haste.
    world.run_for(Duration::from_secs(60));
    let inspection = world.inspect(victim);
    assert_eq!(inspection.damaged, 0);
    assert!(inspection.repairs.rebuilt > 0 && inspection.repairs.repaired > 1, "{:?}", inspection.repairs);
    world.assert_equal_files();
    verify(&world, victim);
    assert_eq!(world.read_patiently(), 0);
}

/// Alone, what batches prove themselves is repaired, and the rest is served around it.
#[test]
fn without_another_replica_nothing_is_made_up() {
    let mut world = World::formed_with(1, small);
    let node = world.create_topic(1);
    let connection = world.connect(node);
    for round in 0..BATCHES {
        assert_eq!(world.produce(connection, batch_of_bytes(BATCH, round as u8)).error_code, ErrorCode::None);
    }
    world.run_for(Duration::from_secs(50));
    world.flip(node, 0, 70_000);
    world.flip_side_file(node, 1, 32 + 1);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.inspect(node).damaged, 1, "it is known and not repaired");
    assert_eq!(world.inspect(node).repairs.repaired, 0);
    assert_eq!(world.fetch(connection, 1).error_code, ErrorCode::KafkaStorageError);
    assert_eq!(values_of(&world.fetch(connection, 5))[0].as_bytes()[0], 5);
    assert_eq!(world.nodes[&node].exit, None);
}

#[test]
fn a_damaged_checkpoint_is_replaced_before_it_is_needed() {
    let mut world = written(small);
    let node = NodeId(1);
    let newest = |world: &World| world.inspect(node).checkpoint.expect("there is one");
    let damaged = newest(&world);
    world.nodes.get_mut(&node).unwrap().disk.flip(FileName::Checkpoint(damaged), 90);
    world.run_until("it is noticed", |world| world.inspect(node).scrub.damaged_checkpoints == 1);
    world.run_until("there is another one", |world| newest(world) > damaged);
}

/// A replica whose bytes and checksums agree with each other and not with those of the others.
#[test]
fn replicas_that_differ_are_reported_and_left_as_they_are() {
    let mut world = written(small);
    let victim = NodeId(3);
    world.kill(victim);
    let file = logs(&world, victim)[0].0;
    let FileName::Segment { group, base, .. } = file else { unreachable!("a segment") };
    world.flip(victim, 0, 100);
    let disk = &mut world.nodes.get_mut(&victim).unwrap().disk;
    let chunk = disk.content(file)[..65_536].to_vec();
    disk.forge_first_entry(group, base, crc32c::crc32c(&chunk));
    let before = disk.content(file).to_vec();
    world.start(victim);
    world.run_until("it is noticed", |world| world.inspect(victim).scrub.differences > 0);
    world.run_for(Duration::from_secs(10));
    assert!(world.inspect(NodeId(1)).scrub.differences > 0, "by the others, too");
    assert!(world.inspect(NodeId(1)).scrub.confirmed > 0, "and that other segments are equal");
    assert_eq!(world.nodes[&victim].disk.content(file), before);
}
