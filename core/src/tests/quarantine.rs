//! Entries that a build cannot apply.

use std::time::Duration;

use bytes::Bytes;
use kauri_protocol::{error::ErrorCode, messages::MetadataRequest, messages::ProduceRequest};

use super::{client::*, world::World};
use crate::{
    broker::Broker,
    config::NodeConfig,
    ids::{GroupId, LogIndex, NodeId, Offset},
    io::FileName,
    replication::group::Role,
};

const POISON: &str = "poison";
const OTHER: GroupId = GroupId(2);
const WAL_FILE: u64 = 256 << 10;
const WAL_BUDGET: u64 = 8 * WAL_FILE;

/// A build that applies everything.
fn sound(config: &mut NodeConfig) {
    config.wal_file_bytes = WAL_FILE;
    config.wal_budget_bytes = WAL_BUDGET;
    config.build = "sound".to_owned();
}

fn bad(config: &mut NodeConfig) {
    sound(config);
    config.build = "bad".to_owned();
    config.poison = Some(Bytes::from_static(POISON.as_bytes()));
}

/// Only this node has the bad build.
fn bad_on<const NODE: i32>(config: &mut NodeConfig) {
    if config.node == NodeId(NODE) { bad(config) } else { sound(config) }
}

const BAD_ON: [fn(&mut NodeConfig); 3] = [bad_on::<1>, bad_on::<2>, bad_on::<3>];

impl World {
    fn held(&self, node: NodeId) -> Option<LogIndex> {
        self.groups(node).get(&GROUP)?.held
    }

    fn nodes_held(&self) -> usize {
        self.nodes.keys().filter(|node| self.held(**node).is_some()).count()
    }

    /// Sends one batch to whoever leads, and lets it be applied.
    fn produce_to_leader(&mut self, batch: Bytes) -> ErrorCode {
        let leader = self.run_until_led(GROUP);
        let connection = self.connect(leader);
        let error = self.produce(connection, batch).error_code;
        self.close(connection);
        error
    }

    fn broker(&mut self, node: NodeId) -> &mut Broker {
        self.nodes.get_mut(&node).unwrap().shard.as_mut().unwrap().broker_mut().unwrap()
    }

    fn restart(&mut self, node: NodeId) {
        self.kill(node);
        self.start(node);
    }

    fn restart_all(&mut self, config: fn(&mut NodeConfig)) {
        self.change_config = config;
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        nodes.iter().for_each(|node| self.kill(*node));
        nodes.iter().for_each(|node| self.start(*node));
        self.run_until_formed();
    }

    /// The group of another topic takes batches until the WAL was used several times.
    fn fill_the_wal(&mut self, group: GroupId, bytes: u64) {
        let leader = self.run_until_led(group);
        let connection = self.connect(leader);
        let mut written = 0;
        while written < bytes {
            let mut request = produce_request(-1, batch_of_bytes(50_000, written as u8));
            if group == OTHER {
                request.topic_data[0].name = "other".into();
            }
            self.send(connection, &request, 9);
            assert_eq!(only_part(self.wait::<ProduceRequest>(connection)).error_code, ErrorCode::None);
            self.run_for(Duration::from_millis(20));
            written += 50_000;
            for node in self.nodes.values() {
                assert!(node.disk.wal_bytes() <= WAL_BUDGET, "{}", node.disk.wal_bytes());
                assert_eq!(node.exit, None);
            }
        }
        self.close(connection);
    }

    /// A replica that is held is as the entry before left it, on its disk, too.
    fn check_held(&self, node: NodeId, before: Offset) {
        let group = &self.groups(node)[&GROUP];
        assert_eq!(group.role, Role::Follower);
        assert_eq!(group.held, Some(group.applied.next()));
        assert_eq!((group.next_offset, group.content.unwrap().next_offset), (before, before));
        assert!(group.state_hash.is_some(), "its state was made again");
        let started = self.recovered(node, self.nodes[&node].disk.clone()).expect("it starts");
        let again = started.groups.iter().find(|group| group.group == GROUP).unwrap();
        assert_eq!((again.held, again.applied), (group.held, group.applied));
        assert_eq!((again.state_hash, again.content), (group.state_hash, group.content));
    }
}

/// The two others go on; the held one learns by the log what it missed as soon as a build can apply it.
#[test]
fn one_replica_is_held_until_another_build_is_started() {
    for (place, config) in BAD_ON.into_iter().enumerate() {
        let victim = NodeId(place as i32 + 1);
        let mut world = World::formed_with(3, config);
        let leader = world.create_topic(3);
        assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
        let answer = world.produce_to_leader(batch(&[POISON]));
        // It is committed, but whoever led cannot say so any more.
        assert_eq!(answer, if leader == victim { ErrorCode::NotLeaderOrFollower } else { ErrorCode::None });
        world.run_until("it is held", |world| world.held(victim).is_some());
        world.run_until("another one leads", |world| world.leader(GROUP).is_some_and(|leader| leader != victim));
        assert_eq!(world.produce_to_leader(batch(&["c"])), ErrorCode::None);
        world.run_for(A_WHILE);
        world.check_held(victim, Offset(1));
        assert_eq!(world.read_all(), ["a", POISON, "c"]);

        // The same build stays away from it.
        let at = world.held(victim);
        world.restart(victim);
        world.run_until("it started", |world| world.groups(victim).contains_key(&GROUP));
        assert_eq!(world.held(victim), at);
        world.check_held(victim, Offset(1));
        world.run_for(A_WHILE);
        assert_ne!(world.leader(GROUP), Some(victim));
        world.run_until_equal(GroupId::METADATA);
        // Nor is leadership offered to it, although it was the preferred leader.
        let other = world.run_until_led(GROUP);
        let connection = world.connect(other);
        for _ in 0..60 {
            world.run_for(Duration::from_millis(100));
            let before = world.now;
            assert_eq!(world.produce(connection, batch(&["d"])).error_code, ErrorCode::None);
            assert!(world.now.since(before) < Duration::from_millis(200), "nothing waits for a handover");
        }

        world.change_config = sound;
        world.restart(victim);
        world.run_until_equal(GROUP);
        assert_eq!(world.held(victim), None);
        assert_eq!(world.read_all()[..3], ["a", POISON, "c"]);
        // What was transferred to is probed with the next entry.
        assert_eq!(world.produce_to_leader(batch(&["e"])), ErrorCode::None);
        world.run_until("the preferred leader leads again", |world| world.leader(GROUP) == Some(leader));
        world.assert_nothing_waits();
    }
}

#[test]
fn a_partition_that_nobody_can_apply_waits_for_another_build_and_the_rest_goes_on() {
    let mut world = World::formed_with(3, bad);
    let leader = world.create_topic(3);
    world.create_topics(leader, &["other"], 1, 3);
    assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
    assert_eq!(world.produce_to_leader(batch(&[POISON])), ErrorCode::NotLeaderOrFollower);
    world.run_until("all are held", |world| world.nodes_held() == 3);
    world.run_for(A_WHILE);
    assert_eq!(world.leader(GROUP), None);
    for node in 1..=3 {
        let connection = world.connect(NodeId(node));
        let answer = world.produce(connection, batch(&["b"]));
        assert_eq!(answer.error_code, ErrorCode::NotLeaderOrFollower, "clients ask again");
        let metadata = world.call(connection, &MetadataRequest::default(), 12);
        let story =
            metadata.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|name| *name == TOPIC)).unwrap();
        assert_eq!(story.partitions[0].error_code, ErrorCode::LeaderNotAvailable);
        world.check_held(NodeId(node), Offset(1));
    }
    world.fill_the_wal(OTHER, 3 * WAL_BUDGET);
    world.restart_all(bad);
    assert_eq!(world.nodes_held(), 3);
    world.fill_the_wal(OTHER, WAL_BUDGET);
    for node in 1..=3 {
        world.check_held(NodeId(node), Offset(1));
        let kept = world.nodes[&NodeId(node)].disk.files().filter(|file| matches!(file, FileName::Checkpoint(_)));
        assert!(kept.count() <= 3);
    }
    world.restart_all(sound);
    assert_eq!(world.nodes_held(), 0);
    assert_eq!(world.read_all(), ["a", POISON]);
    assert_eq!(world.produce_to_leader(batch(&["b"])), ErrorCode::None);
    world.run_until_equal(GROUP);
    world.run_until_equal(OTHER);
}

/// What it missed is not in the logs of the others any more: it gets the state.
#[test]
fn a_replica_that_was_held_for_long_catches_up_by_a_transfer() {
    let mut world = World::formed_with(3, bad_on::<3>);
    world.create_topic(3);
    let victim = NodeId(3);
    assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
    world.produce_to_leader(batch(&[POISON]));
    world.run_until("it is held", |world| world.held(victim).is_some());
    world.fill_the_wal(GROUP, 3 * WAL_BUDGET);
    world.check_held(victim, Offset(1));
    world.change_config = sound;
    world.restart(victim);
    world.run_until_equal(GROUP);
    assert!(world.inspect(victim).received > 0, "the log does not reach so far back");
    assert_eq!(world.held(victim), None);
}

/// A replay meets the entry as live operation does, and so does a replica whose state was transferred.
#[test]
fn an_entry_that_a_start_cannot_apply_holds_the_replica() {
    let mut world = World::formed_with(3, sound);
    let leader = world.create_topic(3);
    let victim = NodeId(leader.0 % 3 + 1);
    assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
    world.run_for(A_WHILE);
    for value in ["b", POISON, "c"] {
        assert_eq!(world.produce_to_leader(batch(&[value])), ErrorCode::None);
    }
    world.run_until_equal(GROUP);
    world.change_config = bad;
    world.restart(victim);
    world.run_until("it is held", |world| world.held(victim).is_some());
    world.run_for(A_WHILE);
    world.check_held(victim, Offset(2));
    world.change_config = sound;
    world.restart(victim);
    world.run_until_equal(GROUP);

    world.kill(victim);
    world.fill_the_wal(GROUP, 3 * WAL_BUDGET);
    world.change_config = bad;
    world.start(victim);
    world.run_until_equal(GROUP);
    assert!(world.inspect(victim).received > 0, "the log does not reach so far back");
    let before = world.groups(victim)[&GROUP].next_offset;
    assert_eq!(world.produce_to_leader(batch(&["d"])), ErrorCode::None);
    assert_eq!(world.produce_to_leader(batch(&[POISON])), ErrorCode::None);
    world.run_until("it is held", |world| world.held(victim).is_some());
    world.run_for(A_WHILE);
    world.check_held(victim, before.plus(1));
}

/// Changes of members lie between the commands, and are read from the disk with them.
#[test]
fn a_state_is_made_again_over_changes_of_members() {
    let mut world = World::formed_with(3, bad_on::<3>);
    let leader = world.create_topic(3);
    let victim = NodeId(3);
    let wiped = *world.nodes.keys().find(|node| ![leader, victim].contains(node)).unwrap();
    assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
    world.run_until_equal(GROUP);
    world.wipe(wiped);
    world.run_until_refilled(GROUP, 3);
    assert_eq!(world.produce_to_leader(batch(&["b"])), ErrorCode::None);
    world.run_until_equal(GROUP);
    world.broker(victim).evict_all(GROUP);
    world.produce_to_leader(batch(&[POISON]));
    world.run_until("it is held", |world| world.held(victim).is_some());
    world.run_for(A_WHILE);
    assert_eq!(world.nodes[&victim].exit, None);
    let group = &world.groups(victim)[&GROUP];
    assert_eq!((group.next_offset, group.held), (Offset(2), Some(group.applied.next())));
    assert!(group.state_hash.is_some(), "its state was made again");
}

/// The state is made again from what the log holds, not from what it held when the checkpoint was taken.
#[test]
fn an_entry_that_was_overwritten_since_the_checkpoint_is_not_applied_again() {
    let mut world = World::formed_with(3, bad);
    let victim = world.create_topic(3);
    assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
    world.run_for(A_WHILE);
    world.isolate(victim);
    let connection = world.connect(victim);
    world.send(connection, &produce_request(-1, batch(&["never committed"])), 9);
    world.run_for(Duration::from_millis(100));
    let before = world.inspect(victim).checkpoint;
    world.broker(victim).take_checkpoint();
    world.run_for(Duration::from_millis(200));
    assert!(world.inspect(victim).checkpoint > before);
    let group = &world.groups(victim)[&GROUP];
    assert!(group.applied < group.last, "it is in the checkpoint and not applied");
    world.run_until("another one leads", |world| world.leader(GROUP).is_some_and(|leader| leader != victim));
    assert_eq!(world.produce_to_leader(batch(&["b"])), ErrorCode::None);
    world.cuts.clear();
    world.run_until_equal(GROUP);
    assert_eq!(world.produce_to_leader(batch(&[POISON])), ErrorCode::NotLeaderOrFollower);
    world.run_until("it is held", |world| world.held(victim).is_some());
    world.run_for(Duration::from_secs(1));
    world.check_held(victim, Offset(2));
}

#[test]
fn a_command_of_a_newer_level_holds_its_replicas_as_well() {
    let mut world = World::formed_with(3, sound);
    let leader = world.create_topic(3);
    world.create_topics(leader, &["other"], 1, 3);
    assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
    let leader = world.run_until_led(GROUP);
    world.broker(leader).propose_newer(GROUP);
    world.run_until("all are held", |world| world.nodes_held() == 3);
    for config in [sound, bad, sound] {
        world.fill_the_wal(OTHER, WAL_BUDGET);
        assert_eq!(world.leader(GROUP), None);
        for node in (1..=3).map(NodeId) {
            if world.held(node).is_some() {
                world.check_held(node, Offset(1));
            }
        }
        world.restart_all(config);
        // Another build tries again. Once two are held, the third one cannot learn that the entry is committed.
        world.run_until("a majority is held", |world| world.nodes_held() >= 2);
    }
}

/// Wherever the process ends while it is about to hold a replica.
#[test]
fn no_moment_of_being_held_is_a_bad_one_to_end_at() {
    let mut held = 0;
    let mut world = World::formed_with(3, bad_on::<2>);
    world.create_topic(3);
    let victim = NodeId(2);
    assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
    let leader = world.run_until_led(GROUP);
    let connection = world.connect(leader);
    world.send(connection, &produce_request(-1, batch(&[POISON])), 9);
    for _ in 0..120 {
        world.step(victim);
        assert_eq!(world.nodes[&victim].exit, None);
        let disk = world.nodes[&victim].disk.clone();
        world.change_config = bad_on::<2>;
        let same = world.recovered(victim, disk.clone()).expect("it starts");
        let group = same.groups.iter().find(|group| group.group == GROUP).unwrap();
        assert!(group.next_offset <= Offset(1) && group.held.is_none_or(|at| at == group.applied.next()));
        held += usize::from(group.held.is_some());
        world.change_config = sound;
        let next = world.recovered(victim, disk).expect("it starts");
        assert!(next.groups.iter().all(|group| group.held.is_none()));
    }
    assert!(held > 10, "{held}");
}

#[test]
fn a_topic_is_deleted_although_its_replicas_are_held() {
    for wait in [0, 1, 2, 3, 5, 8, 100] {
        let mut world = World::formed_with(3, bad);
        let leader = world.create_topic(3);
        assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
        world.run_for(A_WHILE);
        assert_eq!(world.produce_to_leader(batch(&[POISON])), ErrorCode::NotLeaderOrFollower);
        for _ in 0..wait {
            world.step(leader);
        }
        let connection = world.connect(leader);
        world.send(connection, &delete_request(), 6);
        world.run_for(A_WHILE);
        for node in 1..=3 {
            let node = NodeId(node);
            assert!(!world.groups(node).contains_key(&GROUP));
            assert!(!world.nodes[&node].disk.files().any(|file| matches!(file, FileName::Segment { .. })));
        }
        world.restart_all(bad);
        assert_eq!(world.nodes_held(), 0);
        assert_eq!(world.metadata(leader, &[]).topics.len(), 0);
        assert!(world.nodes.values().all(|node| node.exit.is_none()));
    }
}

/// A node whose replica of the metadata group is held serves its partitions with the metadata that it has.
#[test]
fn a_node_that_cannot_follow_the_metadata_serves_what_it_has() {
    let mut world = World::formed_with(3, bad_on::<2>);
    world.create_topic(3);
    let victim = NodeId(2);
    world.create_topics(NodeId(1), &[POISON], 1, 3);
    let held = |world: &World| world.groups(victim)[&GroupId::METADATA].held;
    world.run_until("it is held", |world| held(world).is_some());
    world.run_until_led(GroupId::METADATA);
    world.run_for(A_WHILE);
    assert_eq!(world.metadata(NodeId(1), &[]).topics.len(), 2);
    assert_eq!(world.metadata(victim, &[]).topics.len(), 1);
    assert_eq!(world.produce_to_leader(batch(&["a"])), ErrorCode::None);
    world.run_until_equal(GROUP);
    world.restart(victim);
    world.run_for(A_WHILE);
    assert!(held(&world).is_some() && world.nodes[&victim].exit.is_none());
    assert_eq!(world.produce_to_leader(batch(&["b"])), ErrorCode::None);
    world.run_until_equal(GROUP);
    world.change_config = sound;
    world.restart(victim);
    world.run_until_equal(GroupId::METADATA);
    world.run_until_led(OTHER);
    assert_eq!(world.metadata(victim, &[]).topics.len(), 2);
    assert_eq!(world.read_all(), ["a", "b"]);
}
