//! Topics that come and go.

use std::time::Duration;

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        CreateTopicsRequest, DeleteTopicsRequest, FindCoordinatorRequest, MetadataRequest,
        metadata::MetadataRequestTopic,
    },
    wire::Str,
};

use super::{client::*, world::World};
use crate::{
    ids::{GroupId, NodeId},
    shard::Shard,
};

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
fn replicas_of_a_new_topic_are_in_sync_until_something_else_is_known() {
    let mut world = World::formed(3);
    world.create_topics(NodeId(1), &[TOPIC], 3, 3);
    for _ in 0..40 {
        for node in [1, 2, 3].map(NodeId) {
            let metadata = world.metadata(node, &[TOPIC]);
            let smallest = metadata.topics[0].partitions.iter().map(|partition| partition.isr_nodes.len()).min();
            assert_eq!(smallest, Some(3), "on node {node}, {:?}", world.now);
        }
        world.run_for(Duration::from_millis(250));
    }
    world.kill(NodeId(3));
    world.run_until("the one that is gone is not in sync", |world| world.leader(GROUP).is_some());
    world.run_for(A_WHILE);
    let metadata = world.metadata(NodeId(1), &[TOPIC]);
    assert!(metadata.topics[0].partitions.iter().all(|partition| partition.isr_nodes.len() == 2), "{metadata:?}");
}

#[test]
fn a_topic_that_comes_before_all_nodes_are_there_waits_for_them() {
    let mut world = World::new(3);
    // It takes part in forming the cluster, and ends before it registers.
    while !world.groups(NodeId(1)).contains_key(&GroupId::METADATA) {
        world.step(NodeId(3));
    }
    world.kill(NodeId(3));
    world.run_until_led(GroupId::METADATA);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.metadata(NodeId(1), &[]).brokers.len(), 2);
    let connection = world.connect(NodeId(1));
    let mut request = create_request(&[TOPIC], 1, 3);
    request.timeout_ms = 500;
    let refused = world.call(connection, &request, 7);
    assert_eq!(refused.topics[0].error_code, ErrorCode::InvalidReplicationFactor, "it has waited for long enough");
    world.send(connection, &create_request(&[TOPIC], 1, 3), 7);
    let hopeless = world.create_topics(NodeId(1), &["other"], 1, 4);
    assert_eq!(hopeless.topics[0].error_code, ErrorCode::InvalidReplicationFactor, "there will never be four");
    world.run_for(Duration::from_secs(1));
    assert!(!world.has_answer(connection));
    world.start(NodeId(3));
    let created = world.wait::<CreateTopicsRequest>(connection);
    assert_eq!(created.topics[0].error_code, ErrorCode::None, "{created:?}");
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

#[test]
fn a_topic_named_twice_is_not_deleted() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    let topic_names = vec![Str::from(TOPIC), Str::from("other"), Str::from(TOPIC)];
    let request = DeleteTopicsRequest { topic_names, timeout_ms: 30_000, ..Default::default() };
    let answer = world.call(connection, &request, 3);
    let told: Vec<_> = answer.responses.iter().map(|one| (one.name.as_deref(), one.error_code)).collect();
    let expected = [(Some(TOPIC), ErrorCode::InvalidRequest), (Some("other"), ErrorCode::UnknownTopicOrPartition)];
    assert_eq!(told, expected);
    assert_eq!(world.metadata(leader, &[TOPIC]).topics[0].error_code, ErrorCode::None, "it is there");
}

#[test]
fn a_topic_can_be_created_while_one_of_its_nodes_is_down() {
    let mut world = World::formed(3);
    world.kill(NodeId(3));
    world.run_until("it is called down", |world| {
        world.nodes[&NodeId(1)].shard.as_ref().and_then(Shard::broker).is_some_and(|broker| !broker.is_live(NodeId(3)))
    });
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["a"])).error_code, ErrorCode::None);
    world.start(NodeId(3));
    world.run_until_equal(GROUP);
    assert!(world.groups(NodeId(3)).contains_key(&GROUP), "it took its replica up");
}

#[test]
fn many_coordinators_asked_for_are_explained_only_so_often() {
    let mut world = World::formed(1);
    let connection = world.connect(NodeId(1));
    let coordinator_keys = (0..1000).map(|key| Str::from(key.to_string().as_str())).collect();
    let answer = world.call(connection, &FindCoordinatorRequest { coordinator_keys, ..Default::default() }, 4);
    assert_eq!(answer.coordinators.len(), 1000);
    assert!(answer.coordinators.iter().all(|one| one.error_code == ErrorCode::GroupAuthorizationFailed));
    let explained = answer.coordinators.iter().filter(|one| one.error_message.is_some()).count();
    assert_eq!(explained, 100, "a small request does not make a large answer");
}
