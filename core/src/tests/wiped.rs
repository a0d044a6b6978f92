//! Nodes that lose their disks.

use std::{collections::BTreeSet, time::Duration};

use kauri_protocol::error::ErrorCode;

use super::{client::*, disk::Disk, world::World};
use crate::{
    ids::{GroupId, NodeId, ReplicaId, Term},
    io::Exit,
};

impl World {
    /// The process ends, and starts again on an empty disk. What was on the other one.
    pub(super) fn wipe(&mut self, node: NodeId) -> Disk {
        self.kill(node);
        let disk = std::mem::take(&mut self.nodes.get_mut(&node).unwrap().disk);
        self.start(node);
        disk
    }

    fn replica(&self, node: NodeId, group: GroupId) -> Option<ReplicaId> {
        self.groups(node).get(&group).map(|group| group.replica)
    }

    /// Every node that shall have a replica of the group has one that votes, and nobody else belongs to it.
    pub(super) fn run_until_refilled(&mut self, group: GroupId, nodes: usize) {
        self.run_until("the group has as many voters as it shall have", |world| {
            let replicas: Vec<_> = world.nodes.keys().filter_map(|node| world.groups(*node).remove(&group)).collect();
            let ids: BTreeSet<ReplicaId> = replicas.iter().map(|replica| replica.replica).collect();
            replicas.len() == nodes
                && replicas.iter().all(|replica| {
                    let membership = replica.membership.as_ref().unwrap();
                    !membership.is_joint() && membership.voters == ids && membership.learners.is_empty()
                })
        });
        self.run_until_equal(group);
    }

    fn terms(&self, group: GroupId) -> Vec<Term> {
        self.nodes.keys().filter_map(|node| Some(self.groups(*node).get(&group)?.term)).collect()
    }
}

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

#[test]
fn a_wiped_follower_is_refilled_under_a_new_replica_id_and_nobody_is_elected() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["a"])).error_code, ErrorCode::None);
    world.run_for(Duration::from_secs(5));
    // Two nodes lead something at most; another one leads nothing.
    let controller = world.run_until_led(GroupId::METADATA);
    let leader = world.run_until_led(GROUP);
    let connection = world.connect(leader);
    let victim = NODES.into_iter().find(|node| *node != leader && *node != controller).unwrap();
    let before = (world.terms(GROUP), world.terms(GroupId::METADATA));
    let ids = [GROUP, GroupId::METADATA].map(|group| world.replica(victim, group).unwrap());
    world.wipe(victim);
    assert_eq!(world.produce(connection, batch(&["b"])).error_code, ErrorCode::None, "two of three go on");
    world.run_until_refilled(GroupId::METADATA, 3);
    world.run_until_refilled(GROUP, 3);
    let after = [GROUP, GroupId::METADATA].map(|group| world.replica(victim, group).unwrap());
    assert!(after[0] > ids[0] && after[1] > ids[1], "{after:?} after {ids:?}");
    assert_eq!((world.terms(GROUP), world.terms(GroupId::METADATA)), before, "nobody had to be elected");
    assert_eq!(world.produce(connection, batch(&["c"])).error_code, ErrorCode::None);
    world.run_until_equal(GROUP);

    // It counts: with it, one of the others may go.
    world.kill(leader);
    world.run_until_led(GROUP);
    assert_eq!(world.read_all(), ["a", "b", "c"]);
    world.start(leader);
    world.run_until_equal(GROUP);
    world.assert_nothing_waits();
}

#[test]
fn each_node_in_turn_loses_its_disk() {
    let mut world = World::formed(3);
    world.create_topic(3);
    for (round, victim) in NODES.into_iter().chain(NODES).enumerate() {
        let leader = world.run_until_led(GROUP);
        let connection = world.connect(leader);
        assert_eq!(world.produce(connection, batch(&[&round.to_string()])).error_code, ErrorCode::None);
        world.wipe(victim);
        world.run_until_refilled(GroupId::METADATA, 3);
        world.run_until_refilled(GROUP, 3);
    }
    assert_eq!(world.read_all(), ["0", "1", "2", "3", "4", "5"]);
    for node in NODES {
        world.kill(node);
    }
    for node in NODES {
        world.start(node);
    }
    world.run_until_led(GROUP);
    world.run_until_refilled(GROUP, 3);
    assert_eq!(world.read_all(), ["0", "1", "2", "3", "4", "5"], "no disk of the beginning is left");
    world.assert_nothing_waits();
}

#[test]
fn a_directory_that_was_replaced_never_comes_back() {
    let mut world = World::formed(3);
    world.create_topic(3);
    let victim = NodeId(2);
    world.run_for(A_WHILE);
    let old = world.wipe(victim);
    world.run_until_refilled(GroupId::METADATA, 3);
    world.run_until_refilled(GROUP, 3);
    world.kill(victim);
    let new = std::mem::replace(&mut world.nodes.get_mut(&victim).unwrap().disk, old);
    world.start(victim);
    world.run_until("it ends", |world| world.nodes[&victim].exit.is_some());
    let Some(Exit::Refused(sentence)) = &world.nodes[&victim].exit else { panic!("it is refused") };
    assert!(sentence.contains("was replaced by another one"), "{sentence}");
    world.nodes.get_mut(&victim).unwrap().disk = new;
    world.start(victim);
    world.run_until_refilled(GROUP, 3);
    world.assert_nothing_waits();
}

/// Wherever the process ends while its disk is refilled, the next start goes on from there.
#[test]
fn every_moment_of_refilling_may_be_the_last_of_a_process() {
    for moment in (0..160).step_by(5) {
        let mut world = World::formed(3);
        let leader = world.create_topic(3);
        let connection = world.connect(leader);
        assert_eq!(world.produce(connection, batch(&["a"])).error_code, ErrorCode::None);
        let victim = *NODES.iter().find(|node| **node != leader).unwrap();
        world.run_for(Duration::from_secs(1));
        world.wipe(victim);
        for _ in 0..moment {
            world.step(victim);
        }
        world.kill(victim);
        world.start(victim);
        world.run_until_refilled(GroupId::METADATA, 3);
        world.run_until_refilled(GROUP, 3);
        assert_eq!(world.read_all(), ["a"]);
    }
}

/// The members still name the replica that was lost with the disk: there is nobody to be asked on the own node.
#[test]
fn what_a_replaced_disk_loses_at_once_comes_from_the_others() {
    let mut lost = 0;
    for rounds in 6..24 {
        let mut world = World::formed(3);
        let leader = world.create_topic(3);
        let connection = world.connect(leader);
        let victim = *NODES.iter().find(|node| **node != leader).unwrap();
        world.run_for(Duration::from_secs(1));
        world.wipe(victim);
        let values: Vec<String> = (0..rounds).map(|round| round.to_string()).collect();
        for value in &values {
            for _ in 0..50 {
                world.step(victim);
            }
            assert_eq!(world.produce(connection, batch(&[value])).error_code, ErrorCode::None);
        }
        world.kill(victim);
        // Not of the last write, which may have been cut short.
        let payloads = world.payloads(victim, GROUP);
        if payloads.len() >= 3 {
            world.damage_payload(victim, payloads[payloads.keys().nth(payloads.len() - 2).unwrap()]);
            lost += 1;
        }
        world.start(victim);
        world.run_until_refilled(GroupId::METADATA, 3);
        world.run_until_refilled(GROUP, 3);
        assert_eq!(world.read_all(), values);
    }
    assert!(lost > 3, "{lost}");
}

/// The node was down when another one lost its disk, and hears of it from the one that it could not know.
#[test]
fn a_node_that_was_away_finds_a_leader_with_a_new_replica() {
    let mut world = World::formed(3);
    world.create_topic(3);
    let (away, wiped, other) = (NodeId(3), NodeId(1), NodeId(2));
    world.run_for(A_WHILE);
    world.wipe(wiped);
    world.run_until_refilled(GroupId::METADATA, 3);
    world.run_until_refilled(GROUP, 3);
    world.kill(away);
    world.wipe(wiped);
    // Two of three disks are left, and the one that is down is needed to add the new replica.
    world.run_for(Duration::from_secs(5));
    world.start(away);
    world.run_until_refilled(GroupId::METADATA, 3);
    world.run_until_refilled(GROUP, 3);
    world.kill(other);
    world.run_until_led(GroupId::METADATA);
    world.start(other);
    world.run_until_refilled(GROUP, 3);
    world.assert_nothing_waits();
}

/// Replicas of a topic that was created while a node was away start as the creation says, whatever was replaced since.
#[test]
fn a_topic_created_and_moved_while_a_node_was_away() {
    let mut world = World::with_config(5, |_| {});
    world.run_until_formed();
    let away = NodeId(5);
    world.run_for(A_WHILE);
    let leader = world.create_topic(5);
    world.run_for(A_WHILE);
    world.kill(away);
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["a"])).error_code, ErrorCode::None);
    let victim = *NODES.iter().find(|node| **node != leader).unwrap();
    world.wipe(victim);
    world.run_until("the others have a group without the lost replica", |world| {
        let groups = world.groups(leader);
        let membership = groups[&GROUP].membership.as_ref().unwrap();
        let new = world.replica(victim, GROUP);
        new.is_some_and(|new| membership.voters.contains(&new)) && !membership.is_joint()
    });
    world.start(away);
    world.run_until_refilled(GROUP, 5);
    assert_eq!(world.read_all(), ["a"]);
    world.assert_nothing_waits();
}
