//! Topics that come and go.

use kauri_protocol::{
    error::ErrorCode,
    messages::{CreateTopicsRequest, MetadataRequest, metadata::MetadataRequestTopic},
    wire::Str,
};

use super::{client::*, world::World};
use crate::ids::{GroupId, NodeId};

#[test]
fn whoever_is_told_of_a_new_topic_can_produce() {
    let mut world = World::formed(3);
    for (round, node) in [1, 2, 3].into_iter().map(NodeId).enumerate() {
        let name = format!("{TOPIC}{round}");
        let answer = world.create_topics(node, &[&name], 3, 3);
        assert_eq!(answer.topics[0].error_code, ErrorCode::None);
        let metadata = world.metadata(node, &[&name]);
        for partition in &metadata.topics[0].partitions {
            assert_eq!(partition.error_code, ErrorCode::None);
            assert_eq!(partition.leader_id, partition.replica_nodes[0], "the preferred leader, from the first moment");
        }
    }
    world.assert_nothing_waits();
}

#[test]
fn topics_that_are_created_together_are_spread() {
    let mut world = World::formed(3);
    let names: Vec<String> = (0..30).map(|number| format!("t{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let answer = world.create_topics(NodeId(2), &names, 1, 1);
    assert!(answer.topics.iter().all(|topic| topic.error_code == ErrorCode::None), "{answer:?}");
    let metadata = world.metadata(NodeId(1), &names);
    for node in 1..=3 {
        let led = metadata.topics.iter().filter(|topic| topic.partitions[0].leader_id == node).count();
        assert_eq!(led, 10, "on node {node}");
    }
    world.assert_nothing_waits();
}

#[test]
fn a_request_cannot_ask_for_more_partitions_than_a_cluster_digests() {
    let mut world = World::formed(1);
    let answer = world.create_topics(NodeId(1), &["a", "b"], 6000, 1);
    let errors: Vec<ErrorCode> = answer.topics.iter().map(|topic| topic.error_code).collect();
    assert_eq!(errors, [ErrorCode::None, ErrorCode::InvalidPartitions]);
    world.assert_nothing_waits();
}

#[test]
fn a_topic_that_is_asked_for_a_thousand_times_is_described_once() {
    let mut world = World::formed(1);
    world.create_topic(1);
    let connection = world.connect(NodeId(1));
    let topic = MetadataRequestTopic { name: Some(Str::from(TOPIC)), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic; 1000]), ..Default::default() };
    assert_eq!(world.call(connection, &request, 12).topics.len(), 1);
}

#[test]
fn a_topic_is_created_by_asking_for_it() {
    let mut world = World::formed(3);
    let metadata = world.metadata(NodeId(3), &["asked", "b d"]);
    let error =
        |name: &str| metadata.topics.iter().find(|topic| topic.name.as_deref() == Some(name)).unwrap().error_code;
    assert_eq!((error("asked"), error("b d")), (ErrorCode::None, ErrorCode::InvalidTopicException));
    world.run_until_led(GroupId(1));
}

#[test]
fn calls_of_a_node_that_is_cut_off_end_and_say_what_is_known() {
    let mut world = World::formed(3);
    let leader = world.run_until_led(GroupId::METADATA);
    world.isolate(leader);
    let connection = world.connect(leader);
    world.send(connection, &create_request(&["lonely"], 1, 3), 7);
    world.settle();
    let other = NodeId(if leader == NodeId(1) { 2 } else { 1 });
    world.run_until("others elect a leader", |world| world.leader(GroupId::METADATA) != Some(leader));
    let answer = world.create_topics(other, &["together"], 1, 1);
    assert_eq!(answer.topics[0].error_code, ErrorCode::None);
    world.cuts.clear();
    world.run_for(A_WHILE * 3);
    let answer = world.wait::<CreateTopicsRequest>(connection);
    let there = world.metadata(other, &[]).topics.len();
    assert_eq!(there, 1 + usize::from(answer.topics[0].error_code == ErrorCode::None));
    world.assert_nothing_waits();
}
