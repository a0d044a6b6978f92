//! Processes that end and start again.

use std::time::Duration;

use kauri_protocol::{
    error::ErrorCode,
    messages::{MetadataRequest, metadata::MetadataRequestTopic},
    records::Producer,
    wire::Str,
};

use super::{client::*, world::World};
use crate::{
    ids::{GroupId, NodeId},
    io::{Exit, Input},
};

#[test]
fn a_killed_leader_is_replaced_within_a_second_and_comes_back_equal() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["a"])).error_code, ErrorCode::None);
    world.kill(leader);
    let took = world.run_until("another leads", |world| world.leader(GROUP).is_some());
    assert!(took < Duration::from_secs(1), "{took:?}");
    let other = world.leader(GROUP).unwrap();
    let connection = world.connect(other);
    assert_eq!(world.produce(connection, batch(&["b"])).base_offset, 1);
    world.start(leader);
    world.run_until_equal(GROUP);
    assert_eq!(world.preferred(), leader, "the first one to lead was the preferred one");
    world.run_until("the preferred leader leads again", |world| world.leader(GROUP) == Some(leader));
    assert_eq!(world.read_all(), ["a", "b"]);
    world.assert_nothing_waits();
}

#[test]
fn what_was_acknowledged_survives_the_end_of_all_processes() {
    let mut world = World::formed(3);
    for round in 0..3 {
        let leader = if round == 0 { world.create_topic(3) } else { world.run_until_led(GROUP) };
        let connection = world.connect(leader);
        let producer = Producer { id: 5, epoch: 0, base_sequence: round };
        let values = [&*round.to_string()];
        let batch = batch_of(&values, 1_700_000_000_000, producer);
        assert_eq!(world.produce(connection, batch.clone()).base_offset, i64::from(round));
        for node in 1..=3 {
            world.kill(NodeId(node));
        }
        for node in 1..=3 {
            world.start(NodeId(node));
        }
        let leader = world.run_until_led(GROUP);
        let connection = world.connect(leader);
        let again = world.produce(connection, batch);
        assert_eq!((again.error_code, again.base_offset), (ErrorCode::None, i64::from(round)), "known to be a repeat");
    }
    assert_eq!(world.read_all(), ["0", "1", "2"]);
    world.run_until_equal(GROUP);
    world.run_until_equal(GroupId::METADATA);
    world.assert_nothing_waits();
}

/// Wherever the processes end while a cluster forms and a topic is created, the next start goes on from there.
#[test]
fn every_moment_of_forming_may_be_the_last_of_a_process() {
    for victim in 1..=3 {
        for moment in (victim..60).step_by(3) {
            let mut world = World::new(3);
            for _ in 0..moment {
                world.step(NodeId(victim));
            }
            world.kill(NodeId(victim));
            world.start(NodeId(victim));
            world.run_until_formed();
        }
    }
}

#[test]
fn a_shutdown_hands_leadership_over_first() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["a"])).error_code, ErrorCode::None);
    world.input(leader, Input::Shutdown);
    let took = world.run_until("it stops", |world| world.nodes[&leader].exit.is_some());
    assert_eq!(world.nodes[&leader].exit, Some(Exit::Stopped));
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert!(world.leader(GROUP).is_some(), "somebody leads already");
    assert_eq!(world.read_all(), ["a"]);
}

/// A leader that is asked to stop before it got to serve hands over all the same.
#[test]
fn a_new_leader_may_be_stopped_before_it_serves() {
    for moment in (0..40).step_by(2) {
        let mut world = World::formed(3);
        let leader = world.create_topic(3);
        let others: Vec<NodeId> = world.nodes.keys().copied().filter(|node| *node != leader).collect();
        world.kill(leader);
        for _ in 0..moment {
            world.step(others[0]);
        }
        others.iter().for_each(|node| world.input(*node, Input::Shutdown));
        let stopped = |world: &World| others.iter().all(|node| world.nodes[node].exit == Some(Exit::Stopped));
        let took = world.run_until("both stop", stopped);
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
}

/// An image that is read again after a start is older than what was done by it.
#[test]
fn a_replica_that_was_removed_does_not_come_back_empty() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["a"])).error_code, ErrorCode::None);
    world.run_for(A_WHILE);
    let connection = world.connect(leader);
    world.send(connection, &delete_request(), 6);
    world.settle();
    for node in 1..=3 {
        let node = NodeId(node);
        assert!(!world.groups(node).contains_key(&GROUP), "it is gone at once");
        world.isolate(node);
        world.kill(node);
        world.start(node);
        world.run_for(Duration::from_secs(1));
        assert!(!world.groups(node).contains_key(&GROUP), "and stays away");
    }
    world.cuts.clear();
    world.run_for(A_WHILE);
    world.run_until_equal(GroupId::METADATA);
    assert_eq!(world.metadata(leader, &[]).topics.len(), 0);
    world.assert_nothing_waits();
}

#[test]
fn a_single_node_restarts_with_its_topics() {
    let mut world = World::formed(1);
    world.create_topic(1);
    let node = NodeId(1);
    for round in 0..3 {
        let connection = world.connect(node);
        world.run_until_led(GROUP);
        assert_eq!(world.produce(connection, batch(&["x"])).base_offset, round);
        world.kill(node);
        world.start(node);
    }
    assert_eq!(world.read_all(), ["x", "x", "x"]);
}

#[test]
fn a_restarted_cluster_knows_its_topics_when_it_answers() {
    let mut world = World::formed(3);
    let response = world.create_topics(NodeId(1), &["fresh"], 1, 3);
    assert_eq!(response.topics[0].error_code, ErrorCode::None);
    let [first, second, third] = [1, 2, 3].map(NodeId);
    [first, second, third].into_iter().for_each(|node| world.kill(node));
    // The entry of the topic is in its log, but alone it cannot know that it was committed.
    world.start(first);
    let connection = world.connect(first);
    let asked = MetadataRequestTopic { name: Some(Str::from("fresh")), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![asked]), allow_auto_topic_creation: false, ..Default::default() };
    world.send(connection, &request, 12);
    world.run_for(Duration::from_secs(1));
    world.start(second);
    world.start(third);
    let metadata = world.wait::<MetadataRequest>(connection);
    assert_eq!(metadata.topics[0].error_code, ErrorCode::None);
}
