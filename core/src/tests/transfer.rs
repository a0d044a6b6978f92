//! Replicas that missed more than the logs of the others still hold.

use std::time::Duration;

use kauri_protocol::error::ErrorCode;

use super::{client::*, world::World};
use crate::{
    config::NodeConfig,
    ids::{GroupId, NodeId, Offset, Term},
    replication::group::Role,
};

const BATCH: usize = 900_000;

impl World {
    /// Three batches, and a node that is down and missed them; the others have them in no log any more. The leader, and
    /// that node.
    fn with_a_laggard() -> (Self, NodeId, NodeId) {
        let mut world = Self::formed(3);
        let leader = world.create_topic(3);
        let laggard = world.follower(leader);
        world.kill(laggard);
        let connection = world.connect(leader);
        for value in ["a", "b", "c"] {
            assert_eq!(world.produce(connection, batch(&[value])).error_code, ErrorCode::None);
        }
        world.run_for(Duration::from_secs(2));
        let others: Vec<NodeId> = world.nodes.keys().copied().filter(|node| *node != laggard).collect();
        others.iter().for_each(|node| world.compact_on(*node, GROUP));
        (world, leader, laggard)
    }

    /// So many batches of 900 kB, and the groups' logs forgotten on all nodes that run.
    fn produce_and_compact(&mut self, batches: usize) {
        let leader = self.run_until_led(GROUP);
        let connection = self.connect(leader);
        for round in 0..batches {
            let produced = self.produce(connection, batch_of_bytes(BATCH, round as u8));
            assert_eq!(produced.error_code, ErrorCode::None);
            self.run_for(Duration::from_millis(20));
        }
        self.close(connection);
        self.run_for(Duration::from_secs(2));
        self.compact();
    }

    fn compact(&mut self) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            for group in self.groups(node).into_keys() {
                self.compact_on(node, group);
            }
        }
    }

    pub(super) fn compact_on(&mut self, node: NodeId, group: GroupId) {
        let shard = self.nodes.get_mut(&node).unwrap().shard.as_mut().unwrap();
        shard.broker_mut().unwrap().compact_group(group);
    }

    fn follower(&self, leader: NodeId) -> NodeId {
        *self.nodes.keys().find(|node| **node != leader).unwrap()
    }

    /// Where the files of a replica end, whatever is applied of them.
    fn stored(&self, node: NodeId) -> Offset {
        self.groups(node)
            .remove(&GROUP)
            .and_then(|group| group.content)
            .map_or(Offset(0), |content| content.next_offset)
    }

    fn term(&self, node: NodeId) -> Term {
        self.groups(node)[&GROUP].term
    }
}

#[test]
fn a_node_that_was_down_gets_what_the_log_no_longer_holds() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let laggard = world.follower(leader);
    world.produce_and_compact(2);
    world.kill(laggard);
    world.produce_and_compact(20);
    let term = world.term(leader);
    world.start(laggard);
    world.run_until_equal(GROUP);
    assert_eq!(world.stored(laggard), Offset(22));
    assert_eq!(world.groups(laggard)[&GROUP].role, Role::Follower);
    assert_eq!((world.leader(GROUP), world.term(leader)), (Some(leader), term), "nobody had to be elected");

    // It takes part as before.
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["more"])).error_code, ErrorCode::None);
    world.run_until_equal(GROUP);
    world.assert_nothing_waits();
}

const WAL_FILE: u64 = 256 << 10;
const WAL_BUDGET: u64 = 8 * WAL_FILE;

fn small(config: &mut NodeConfig) {
    config.wal_file_bytes = WAL_FILE;
    config.wal_budget_bytes = WAL_BUDGET;
}

/// Nothing is made up here: the others take checkpoints, and use their logs again.
#[test]
fn a_node_comes_back_after_three_times_what_the_logs_may_take() {
    let mut world = World::formed_with(3, small);
    let leader = world.create_topic(3);
    let laggard = world.follower(leader);
    world.run_for(Duration::from_secs(1));
    world.kill(laggard);
    let mut written = 0;
    let mut value = 0;
    let connection = world.connect(leader);
    while written < 3 * WAL_BUDGET {
        let produced = world.produce(connection, batch_of_bytes(50_000, value));
        assert_eq!(produced.error_code, ErrorCode::None);
        world.run_for(Duration::from_millis(20));
        written += 50_000;
        value = value.wrapping_add(1);
        for node in world.nodes.values() {
            assert!(node.disk.wal_bytes() <= WAL_BUDGET, "{}", node.disk.wal_bytes());
        }
    }
    let (next, term) = (world.stored(leader), world.term(leader));
    world.start(laggard);
    // What is written from now on is no reason to fall behind again.
    for _ in 0..20 {
        assert_eq!(world.produce(connection, batch_of_bytes(50_000, value)).error_code, ErrorCode::None);
        world.run_for(Duration::from_millis(50));
    }
    world.run_until_equal(GROUP);
    assert_eq!(world.stored(laggard), Offset(next.0 + 20));
    assert!(world.inspect(laggard).received >= 1);
    assert_eq!((world.leader(GROUP), world.term(leader)), (Some(leader), term), "nobody had to be elected");

    // The state that was transferred is in its own checkpoints.
    for node in 1..=3 {
        world.kill(NodeId(node));
    }
    for node in 1..=3 {
        world.start(NodeId(node));
    }
    world.run_until_led(GROUP);
    world.run_until_equal(GROUP);
    assert_eq!(world.stored(laggard), Offset(next.0 + 20));
    world.assert_nothing_waits();
}

#[test]
fn a_node_that_missed_metadata_gets_their_state() {
    let mut world = World::formed(3);
    world.create_topic(3);
    let leader = world.run_until_led(GroupId::METADATA);
    let laggard = world.follower(leader);
    world.run_for(A_WHILE);
    world.kill(laggard);
    let others = [1, 2, 3].map(NodeId).into_iter().filter(|node| *node != laggard);
    let created = world.create_topics(leader, &["others", "more"], 2, 3);
    assert!(created.topics.iter().all(|topic| topic.error_code == ErrorCode::None));
    let connection = world.connect(leader);
    world.send(connection, &delete_request(), 6);
    world.run_for(A_WHILE);
    others.for_each(|node| world.compact_on(node, GroupId::METADATA));
    world.start(laggard);
    world.run_until_equal(GroupId::METADATA);
    let its_groups = |world: &World| world.groups(laggard).into_keys().map(|group| group.0).collect::<Vec<_>>();
    world.run_until("it has the replicas that it was given", |world| its_groups(world) == [0, 2, 3, 4, 5]);
    for group in 2..=5 {
        world.run_until_equal(GroupId(group));
    }
    assert_eq!(world.metadata(laggard, &[]).topics.len(), 2);
    assert_eq!(world.inspect(laggard).received, 1);
    world.assert_nothing_waits();
}

#[test]
fn a_node_that_only_learns_the_metadata_gets_their_state_too() {
    let mut world = World::formed_with(4, |config| {
        config.peers.iter_mut().find(|peer| peer.node == NodeId(4)).unwrap().voter = false;
    });
    let learner = NodeId(4);
    world.run_for(A_WHILE);
    world.kill(learner);
    world.create_topic(3);
    world.run_for(A_WHILE);
    [1, 2, 3].map(NodeId).into_iter().for_each(|node| world.compact_on(node, GroupId::METADATA));
    world.start(learner);
    world.run_until_equal(GroupId::METADATA);
    assert_eq!(world.metadata(learner, &[]).topics.len(), 1);
    assert_eq!(world.inspect(learner).received, 1);
    world.assert_nothing_waits();
}

#[test]
fn a_transfer_goes_on_while_clients_write() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let laggard = world.follower(leader);
    world.kill(laggard);
    world.produce_and_compact(30);
    world.start(laggard);
    let connection = world.connect(leader);
    for round in 0..60 {
        let produced = world.produce(connection, batch_of_bytes(BATCH, round));
        assert_eq!(produced.error_code, ErrorCode::None);
        world.run_for(Duration::from_millis(50));
        if round % 10 == 0 {
            world.compact_on(leader, GROUP);
        }
    }
    world.run_until_equal(GROUP);
    assert_eq!(world.stored(laggard), Offset(90));
    assert_eq!(world.leader(GROUP), Some(leader));
    world.assert_nothing_waits();
}

#[test]
fn another_leader_goes_on_with_a_transfer() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let laggard = world.follower(leader);
    world.kill(laggard);
    world.produce_and_compact(30);
    world.start(laggard);
    world.run_until("the transfer is under way", |world| world.stored(laggard) >= Offset(5));
    let reached = world.stored(laggard);
    assert!(reached < Offset(30));
    world.kill(leader);
    world.run_until("the transfer goes on", |world| world.stored(laggard) > reached);
    world.start(leader);
    world.run_until_led(GROUP);
    world.run_until_equal(GROUP);
    assert_eq!(world.stored(laggard), Offset(30));
    world.assert_nothing_waits();
}

#[test]
fn a_receiver_that_ends_in_the_middle_goes_on_after_its_start() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let laggard = world.follower(leader);
    world.kill(laggard);
    world.produce_and_compact(30);
    for reached in [5, 15, 25] {
        world.start(laggard);
        world.run_until("the transfer is under way", |world| world.stored(laggard) >= Offset(reached));
        world.kill(laggard);
    }
    world.start(laggard);
    world.run_until_equal(GROUP);
    assert_eq!(world.leader(GROUP), Some(leader));
    world.assert_nothing_waits();
}

/// The record of the switch is written whole or not at all, and nothing is acknowledged before it is.
#[test]
fn a_receiver_may_end_at_any_moment_of_its_switch() {
    for moment in 0..40 {
        let (mut world, leader, laggard) = World::with_a_laggard();
        world.start(laggard);
        let is_receiving = |world: &World| {
            world.nodes[&laggard]
                .shard
                .as_ref()
                .and_then(|shard| shard.broker())
                .is_some_and(|broker| broker.receiving() > 0)
        };
        for _ in 0..10_000 {
            if is_receiving(&world) {
                break;
            }
            world.step(laggard);
        }
        assert!(is_receiving(&world));
        for _ in 0..moment {
            world.step(laggard);
        }
        world.kill(laggard);
        world.start(laggard);
        world.run_until_equal(GROUP);
        let connection = world.connect(leader);
        assert_eq!(world.produce(connection, batch(&["d"])).error_code, ErrorCode::None);
        world.run_until_equal(GROUP);
        assert_eq!(world.read_all(), ["a", "b", "c", "d"]);
    }
}

/// A start copies into one write of a new file what an earlier one wrote that came to no checkpoint. What follows the
/// record of a switch there is not reflected by it: it was acknowledged.
#[test]
fn what_a_replica_wrote_after_its_switch_is_there_after_restarts() {
    let (mut world, leader, laggard) = World::with_a_laggard();
    world.nodes.get_mut(&laggard).unwrap().disk.has_no_room_for_checkpoints = true;
    world.start(laggard);
    world.run_until("it took the state over", |world| world.inspect(laggard).received > 0);
    let connection = world.connect(leader);
    for value in ["d", "e", "f"] {
        assert_eq!(world.produce(connection, batch(&[value])).error_code, ErrorCode::None);
    }
    world.run_until_equal(GROUP);
    let before = world.groups(laggard)[&GROUP].clone();
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    nodes.iter().for_each(|node| world.kill(*node));
    for _ in 0..3 {
        world.start(laggard);
        world.run_until("it started", |world| world.groups(laggard).contains_key(&GROUP));
        let after = world.groups(laggard)[&GROUP].clone();
        assert!(after.term >= before.term && after.last >= before.last, "{after:?} after {before:?}");
        world.kill(laggard);
    }
    world.nodes.get_mut(&laggard).unwrap().disk.has_no_room_for_checkpoints = false;
    nodes.iter().for_each(|node| world.start(*node));
    world.run_until_led(GROUP);
    world.run_until_equal(GROUP);
    assert_eq!(world.read_all(), ["a", "b", "c", "d", "e", "f"]);
}

/// What was cut off in the middle is announced, asked and reported again.
#[test]
fn a_transfer_survives_that_the_pair_is_cut() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let laggard = world.follower(leader);
    world.kill(laggard);
    world.produce_and_compact(30);
    world.start(laggard);
    world.run_until("the transfer is under way", |world| world.stored(laggard) >= Offset(5));
    world.cut(leader, laggard);
    world.run_for(Duration::from_secs(50));
    world.cuts.clear();
    world.run_until_equal(GROUP);
    assert_eq!(world.stored(laggard), Offset(30));
    world.assert_nothing_waits();
}
