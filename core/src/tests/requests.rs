//! What clients rely on, request by request.

use std::time::Duration;

use bytes::Bytes;
use kauri_protocol::{
    error::ErrorCode,
    messages::{
        ApiVersionsRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest,
        list_offsets::LATEST_TIMESTAMP,
    },
    records::Producer,
    wire::Str,
};

use super::{client::*, world::World};
use crate::{ids::NodeId, replication::group::Role};

#[test]
fn three_nodes_form_a_cluster_and_keep_what_is_produced() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    let first = world.produce(connection, batch(&["a", "b"]));
    assert_eq!((first.error_code, first.base_offset), (ErrorCode::None, 0));
    let second = world.produce(connection, batch(&["c"]));
    assert_eq!((second.error_code, second.base_offset), (ErrorCode::None, 2));
    assert_eq!(world.read_all(), ["a", "b", "c"]);
    world.run_until_equal(GROUP);
    world.assert_nothing_waits();
}

#[test]
fn a_fetch_that_waits_is_answered_as_soon_as_there_are_records() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let (reader, writer) = (world.connect(leader), world.connect(leader));
    world.send(reader, &fetch_request(0, 30_000, 1), 12);
    world.run_for(Duration::from_secs(2));
    assert!(!world.has_answer(reader));
    assert_eq!(world.produce(writer, batch(&["news"])).error_code, ErrorCode::None);
    assert!(world.has_answer(reader), "in the very moment");
    assert_eq!(values_of(&only_data(world.answer::<FetchRequest>(reader).unwrap())), ["news"]);

    world.send(reader, &fetch_request(1, 500, 1), 12);
    let waited = world.run_until("it is answered", |world| world.has_answer(reader));
    assert_eq!(waited, Duration::from_millis(500), "its own time and no more");
    assert!(values_of(&only_data(world.answer::<FetchRequest>(reader).unwrap())).is_empty());
    world.assert_nothing_waits();
}

/// Clients throw their position away on OFFSET_OUT_OF_RANGE. A leader that was deposed and has not heard of it does not
/// know the records that they have read since.
#[test]
fn a_deposed_leader_calls_no_offset_wrong() {
    let mut world = World::formed(3);
    let old = world.create_topic(3);
    let connection = world.connect(old);
    assert_eq!(world.produce(connection, batch(&["a"])).error_code, ErrorCode::None);
    world.isolate(old);
    world.run_until("another leads", |world| world.leader(GROUP).is_some_and(|leader| leader != old));
    let writer = world.connect(world.leader(GROUP).unwrap());
    assert_eq!(world.produce(writer, batch(&["b", "c"])).base_offset, 1);
    assert_eq!(world.groups(old)[&GROUP].role, Role::Leader, "it has not heard of it");
    world.send(connection, &fetch_request(3, 0, 0), 12);
    world.run_for(Duration::from_millis(1));
    assert!(!world.has_answer(connection), "only a majority makes an offset wrong");
    world.cuts.clear();
    let data = only_data(world.wait::<FetchRequest>(connection));
    assert_eq!(data.error_code, ErrorCode::NotLeaderOrFollower);
}

#[test]
fn what_was_sent_without_acknowledgement_is_written_although_the_client_leaves_at_once() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    for value in 0..3 {
        world.send(connection, &produce_request(0, batch(&[&value.to_string()])), 9);
    }
    world.close(connection);
    world.run_until_equal(GROUP);
    assert_eq!(world.read_all(), ["0", "1", "2"]);
    world.assert_nothing_waits();
}

#[test]
fn answers_come_in_the_order_of_pipelined_requests() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    for value in 0..20 {
        world.send(connection, &produce_request(-1, batch(&[&value.to_string()])), 9);
        world.send(connection, &MetadataRequest::default(), 12);
    }
    for value in 0..20 {
        assert_eq!(only_part(world.wait::<ProduceRequest>(connection)).base_offset, value);
        world.wait::<MetadataRequest>(connection);
    }
    world.assert_nothing_waits();
}

#[test]
fn offsets_by_time_and_the_end() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    for at in 0..10 {
        let batch = batch_of(&["x", "y"], 1_700_000_000_000 + at, Producer::default());
        assert_eq!(world.produce(connection, batch).error_code, ErrorCode::None);
    }
    let end = world.list_offset(leader, LATEST_TIMESTAMP);
    assert_eq!((end.error_code, end.offset), (ErrorCode::None, 20));
    let found = world.list_offset(leader, 1_700_000_000_004);
    assert_eq!((found.error_code, found.offset, found.timestamp), (ErrorCode::None, 8, 1_700_000_000_004));
    let beyond = world.list_offset(leader, 1_800_000_000_000);
    assert_eq!((beyond.error_code, beyond.offset), (ErrorCode::None, -1));
    let follower = *world.nodes.keys().find(|node| **node != leader).unwrap();
    assert_eq!(world.list_offset(follower, LATEST_TIMESTAMP).error_code, ErrorCode::NotLeaderOrFollower);
    world.assert_nothing_waits();
}

#[test]
fn a_failed_produce_without_acknowledgement_closes_the_connection_and_a_good_one_does_not() {
    let mut world = World::formed(1);
    let leader = world.create_topic(1);
    let connection = world.connect(leader);
    world.send(connection, &produce_request(0, batch(&["a"])), 9);
    world.clients.get_mut(&connection).unwrap().asked.clear();
    world.run_for(Duration::from_secs(1));
    assert!(!world.clients[&connection].closed && !world.has_answer(connection));
    assert_eq!(world.read_all(), ["a"]);
    let mut damaged = batch(&["b"]).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    world.send(connection, &produce_request(0, Bytes::from(damaged)), 9);
    world.run_for(Duration::from_secs(1));
    assert!(world.clients[&connection].closed);
    world.assert_nothing_waits();
}

#[test]
fn requests_without_answers_do_not_stop_the_ones_behind_them() {
    let mut world = World::formed(1);
    let leader = world.create_topic(1);
    let connection = world.connect(leader);
    let values: Vec<String> = (0..2500).map(|value| value.to_string()).collect();
    for value in &values {
        world.send(connection, &produce_request(0, batch(&[value])), 9);
    }
    world.clients.get_mut(&connection).unwrap().asked.clear();
    world.settle();
    assert_eq!(world.read_all(), values);
    assert_eq!(world.clients[&connection].credit, crate::limits::CLIENT_WINDOW_BYTES, "everything was paid back");
    world.assert_nothing_waits();
}

#[test]
fn what_follows_a_connection_that_closes_is_forgotten() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let connection = world.connect(leader);
    world.send(connection, &produce_request(0, Bytes::from_static(b"no batch")), 9);
    world.send(connection, &fetch_request(0, 60_000, 1), 12);
    world.settle();
    assert!(world.clients[&connection].closed);
    world.assert_nothing_waits();
}

#[test]
fn a_client_that_leaves_leaves_nothing_behind() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    for other in world.nodes.keys().copied().collect::<Vec<_>>() {
        if other != leader {
            world.cut(leader, other);
        }
    }
    let connection = world.connect(leader);
    world.send(connection, &produce_request(-1, batch(&["a"])), 9);
    world.send(connection, &list_offsets_request(LATEST_TIMESTAMP), 8);
    world.send(connection, &InitProducerIdRequest::default(), 4);
    world.send(connection, &fetch_request(0, 60_000, 1), 12);
    world.settle();
    assert!(world.inspect(leader).outstanding.requests >= 3);
    world.close(connection);
    world.settle();
    let left = world.inspect(leader).outstanding;
    assert_eq!((left.requests, left.watched, left.deadlines), (0, 0, 0));
    world.cuts.clear();
    world.run_for(A_WHILE);
    world.assert_nothing_waits();
}

#[test]
fn only_api_versions_answers_an_unknown_version() {
    let mut world = World::formed(1);
    let connection = world.connect(NodeId(1));
    world.call(
        connection,
        &ApiVersionsRequest { client_software_name: Str::from("story"), client_software_version: Str::from("1") },
        3,
    );
    // Key 18, version 99: answered in version 0 with error 35.
    world.send_frame(connection, Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff]));
    world.settle();
    let answer = std::mem::take(&mut world.clients.get_mut(&connection).unwrap().received);
    assert_eq!(answer[4..10], [0, 0, 0, 7, 0, 35]);
    world.send_frame(connection, Bytes::from_static(&[0, 3, 0, 99, 0, 0, 0, 8, 0xff, 0xff]));
    world.settle();
    assert!(world.clients[&connection].closed);
    world.assert_nothing_waits();
}

#[test]
fn a_topic_deleted_under_waiting_requests_answers_them() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let reader = world.connect(leader);
    world.send(reader, &fetch_request(0, 60_000, 1), 12);
    world.settle();
    let admin = world.connect(leader);
    assert_eq!(world.call(admin, &delete_request(), 6).responses[0].error_code, ErrorCode::None);
    world.settle();
    assert!(world.has_answer(reader), "who waits hears of it at once");
    let data = only_data(world.answer::<FetchRequest>(reader).unwrap());
    assert_eq!(data.error_code, ErrorCode::UnknownTopicOrPartition);

    // Again under the same name: another topic.
    let response = world.create_topics(leader, &[TOPIC], 1, 3);
    assert_eq!(response.topics[0].error_code, ErrorCode::None);
    let leader = world.leader(crate::ids::GroupId(2)).expect("whoever was told of the topic finds its leader");
    let connection = world.connect(leader);
    assert_eq!(world.produce(connection, batch(&["new"])).base_offset, 0);
    world.run_for(A_WHILE);
    for node in world.nodes.values() {
        assert!(!node.disk.files().any(|file| file.directory() == crate::io::Directory::Group(GROUP)));
    }
    world.assert_nothing_waits();
}

#[test]
fn requests_under_way_end_when_leadership_moves() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let (writer, reader, asker) = (world.connect(leader), world.connect(leader), world.connect(leader));
    world.isolate(leader);
    world.send(writer, &produce_request(-1, batch(&["lost"])), 9);
    world.send(reader, &fetch_request(0, 60_000, 1), 12);
    world.send(asker, &list_offsets_request(LATEST_TIMESTAMP), 8);
    world.settle();
    assert!(!world.has_answer(writer) && !world.has_answer(reader) && !world.has_answer(asker));
    let took = world.run_until("others elect a leader", |world| world.leader(GROUP).is_some_and(|now| now != leader));
    assert!(took < Duration::from_secs(1), "{took:?}");
    let other = world.leader(GROUP).unwrap();
    let connection = world.connect(other);
    assert_eq!(world.produce(connection, batch(&["kept"])).base_offset, 0);
    world.run_for(A_WHILE);
    let produced = only_part(world.answer::<ProduceRequest>(writer).expect("it is told"));
    assert!(matches!(produced.error_code, ErrorCode::NotLeaderOrFollower | ErrorCode::RequestTimedOut));
    let fetched = only_data(world.answer::<FetchRequest>(reader).expect("it is told"));
    assert_eq!(fetched.error_code, ErrorCode::NotLeaderOrFollower);
    let listed = world.answer::<ListOffsetsRequest>(asker).expect("it is told");
    assert_ne!(listed.topics[0].partitions[0].error_code, ErrorCode::None);
    world.cuts.clear();
    world.run_for(A_WHILE);
    assert_eq!(world.read_all(), ["kept"]);
    world.run_until_equal(GROUP);
    world.assert_nothing_waits();
}

#[test]
fn producer_ids_are_handed_out_once() {
    let mut world = World::formed(3);
    let mut ids = std::collections::BTreeSet::new();
    for node in world.nodes.keys().copied().collect::<Vec<_>>() {
        let connection = world.connect(node);
        for _ in 0..5 {
            let response = world.call(connection, &InitProducerIdRequest::default(), 4);
            assert_eq!(response.error_code, ErrorCode::None);
            assert!(ids.insert(response.producer_id));
        }
    }
}
