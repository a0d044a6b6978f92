//! Payloads of the write-ahead log that go bad while nodes are stopped.

use std::{collections::BTreeMap, time::Duration};

use kauri_protocol::error::ErrorCode;

use super::{client::*, world::World};
use crate::{
    ids::{GroupId, LogIndex, NodeId},
    io::FileName,
    log::{
        identity::Identity,
        offline::{
            Finding,
            wal::{WalItemKind, damage, scan},
        },
        wal::WalKey,
    },
};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

impl World {
    /// A topic on three nodes with so many batches, all nodes stopped after it came to rest.
    fn stopped_with(batches: usize) -> (Self, Vec<String>) {
        let mut world = Self::formed(3);
        let leader = world.create_topic(3);
        let connection = world.connect(leader);
        let values: Vec<String> = (0..batches).map(|batch| format!("{batch}").repeat(300)).collect();
        for value in &values {
            assert_eq!(world.produce(connection, batch(&[value])).error_code, ErrorCode::None);
        }
        world.run_until_equal(GROUP);
        world.run_for(Duration::from_secs(1));
        world.stop_all();
        (world, values)
    }

    fn stop_all(&mut self) {
        NODES.into_iter().for_each(|node| self.kill(node));
    }

    fn start_all(&mut self) {
        NODES.into_iter().for_each(|node| self.start(node));
    }

    /// Where the payloads of a group's entries lie on a stopped node, by their indexes.
    pub(super) fn payloads(&self, node: NodeId, group: GroupId) -> BTreeMap<LogIndex, (FileName, usize)> {
        let disk = &self.nodes[&node].disk;
        let mut found = BTreeMap::new();
        for file in disk.files() {
            let FileName::Wal(sequence) = file else { continue };
            scan(self.wal_key(node), sequence, &disk.bytes(file), |item| {
                if let WalItemKind::Entry { group: of, index, .. } = item.kind
                    && of == group
                    && item.length > 0
                {
                    found.insert(index, (file, usize::try_from(item.offset + item.length / 2).unwrap()));
                }
            });
        }
        found
    }

    fn wal_key(&self, node: NodeId) -> WalKey {
        Identity::decode(&self.nodes[&node].disk.bytes(FileName::Identity)).unwrap().wal_key
    }

    pub(super) fn damage_payload(&mut self, node: NodeId, (file, byte): (FileName, usize)) {
        self.nodes.get_mut(&node).unwrap().disk.flip(file, byte);
    }

    /// What an operator is told of a stopped node's log, if it begins with no checkpoint.
    fn verified(&self, node: NodeId) -> Vec<Finding> {
        let disk = &self.nodes[&node].disk;
        let mut files = Vec::new();
        for file in disk.files() {
            if let FileName::Wal(sequence) = file {
                files.push(scan(self.wal_key(node), sequence, &disk.bytes(file), |_| ()));
            }
        }
        damage(&files, None, None)
    }

    fn faulty(&self, node: NodeId) -> Option<LogIndex> {
        self.groups(node)[&GROUP].faulty
    }
}

#[test]
fn different_payloads_lost_on_two_of_three_nodes_come_from_the_others() {
    let (mut world, values) = World::stopped_with(12);
    for (number, (index, place)) in world.payloads(NodeId(2), GROUP).into_iter().enumerate() {
        let (node, place) =
            if number % 2 == 0 { (NodeId(2), place) } else { (NodeId(3), world.payloads(NodeId(3), GROUP)[&index]) };
        world.damage_payload(node, place);
    }
    let metadata = world.payloads(NodeId(3), GroupId::METADATA);
    let (_, place) = metadata.into_iter().nth(1).unwrap();
    world.damage_payload(NodeId(3), place);
    assert!(!world.verified(NodeId(2)).is_empty() && !world.verified(NodeId(3)).is_empty());

    world.start_all();
    world.run_until_led(GROUP);
    world.run_until_equal(GROUP);
    world.run_until_equal(GroupId::METADATA);
    assert_eq!(world.read_all(), values);
    for node in NODES {
        let inspection = world.inspect(node);
        assert_eq!((inspection.received, inspection.lost.len()), (0, 0), "nobody needed a state, and nothing is lost");
        assert_eq!(inspection.repaired > 5, node != NodeId(1), "{}", inspection.repaired);
    }
    world.assert_nothing_waits();

    world.stop_all();
    for node in NODES {
        assert_eq!(world.verified(node), []);
    }
    world.start_all();
    world.run_until_led(GROUP);
    world.run_until_equal(GROUP);
    assert_eq!(world.read_all(), values);
    assert!(NODES.into_iter().all(|node| world.inspect(node).repaired == 0), "what was repaired stays so");
}

#[test]
fn a_replica_takes_a_checkpoint_while_it_waits_for_what_it_lost() {
    let (mut world, values) = World::stopped_with(6);
    let places: Vec<_> = world.payloads(NodeId(3), GROUP).into_iter().collect();
    let (lost, place) = places[3];
    world.damage_payload(NodeId(3), place);
    // Alone, it cannot repair anything; its checkpoint must not forget that.
    world.start(NodeId(3));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.faulty(NodeId(3)), Some(lost));
    let first = world.inspect(NodeId(3)).checkpoint.unwrap();
    world.kill(NodeId(3));
    world.start(NodeId(3));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.faulty(NodeId(3)), Some(lost));
    assert!(world.inspect(NodeId(3)).checkpoint.unwrap() > first);

    world.start(NodeId(1));
    world.start(NodeId(2));
    world.run_until_led(GROUP);
    world.run_until_equal(GROUP);
    assert_eq!((world.faulty(NodeId(3)), world.inspect(NodeId(3)).repaired), (None, 1));
    assert_eq!(world.read_all(), values);
    world.assert_nothing_waits();
}

#[test]
fn what_the_others_have_compacted_comes_as_a_state() {
    let (mut world, values) = World::stopped_with(6);
    let (_, place) = world.payloads(NodeId(3), GROUP).into_iter().nth(2).unwrap();
    world.damage_payload(NodeId(3), place);
    world.start(NodeId(1));
    world.start(NodeId(2));
    world.run_until_led(GROUP);
    world.run_for(Duration::from_secs(1));
    for node in [NodeId(1), NodeId(2)] {
        world.nodes.get_mut(&node).unwrap().shard.as_mut().unwrap().broker_mut().unwrap().compact_group(GROUP);
    }
    world.start(NodeId(3));
    world.run_until_equal(GROUP);
    assert_eq!((world.inspect(NodeId(3)).received, world.faulty(NodeId(3))), (1, None));
    assert_eq!(world.read_all(), values);

    // It takes part as before, also after another start.
    world.kill(NodeId(3));
    world.start(NodeId(3));
    let leader = world.run_until_led(GROUP);
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["more"])).error_code, ErrorCode::None);
    world.run_until_equal(GROUP);
    world.assert_nothing_waits();
}

/// Its log is the longest, so that nobody else is elected; and it does not lead without the entry that it lost, which the
/// other one has in its state only.
#[test]
fn the_only_replica_that_may_lead_gets_the_state_of_one_that_may_not() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let others: Vec<NodeId> = NODES.into_iter().filter(|node| *node != leader).collect();
    let (other, away) = (others[0], others[1]);
    let connection = world.connect(leader);
    for value in ["a", "b", "c", "d"] {
        assert_eq!(world.produce(connection, batch(&[value])).error_code, ErrorCode::None);
    }
    world.run_until_equal(GROUP);
    world.run_for(Duration::from_secs(1));
    world.kill(away);
    let before = world.groups(other)[&GROUP].last;
    world.cut(leader, other);
    world.send(connection, &produce_request(-1, batch(&["e"])), 9);
    world.run_for(Duration::from_millis(100));
    world.kill(leader);
    world.cuts.clear();
    let (lost, place) = world.payloads(leader, GROUP).into_iter().nth(1).unwrap();
    world.damage_payload(leader, place);
    world.compact_on(other, GROUP);

    world.start(leader);
    world.run_until("it is known what is lost", |world| world.groups(leader).contains_key(&GROUP));
    assert_eq!(world.faulty(leader), Some(lost));
    assert!(world.groups(leader)[&GROUP].last > before, "nobody else has the last one");
    assert_eq!(world.run_until_led(GROUP), leader);
    assert_eq!(world.inspect(leader).received, 1);
    world.start(away);
    world.run_until_equal(GROUP);
    assert_eq!(world.read_all(), ["a", "b", "c", "d", "e"]);
    world.assert_nothing_waits();
}

#[test]
fn a_partition_without_another_replica_stops_alone_and_says_so() {
    let mut world = World::formed(3);
    let leader = world.create_topic(1);
    let connection = world.connect(leader);
    for value in ["a", "b", "c"] {
        assert_eq!(world.produce(connection, batch(&[value])).error_code, ErrorCode::None);
    }
    world.run_for(Duration::from_secs(1));
    world.stop_all();
    let (lost, place) = world.payloads(leader, GROUP).into_iter().nth(2).unwrap();
    world.damage_payload(leader, place);
    world.start_all();
    world.run_until("the node says what is lost", |world| {
        world.nodes[&leader].shard.as_ref().and_then(|shard| shard.broker()).is_some()
            && world.inspect(leader).lost == [GROUP]
    });
    assert_eq!(world.faulty(leader), Some(lost));
    world.run_until_led(GroupId::METADATA);
    world.run_for(Duration::from_secs(10));
    assert!(world.leader(GROUP).is_none() && world.nodes[&leader].exit.is_none());
    let created = world.create_topics(leader, &["others"], 1, 3);
    assert_eq!(created.topics[0].error_code, ErrorCode::None, "everything else goes on");
}
