//! Stories of administration.

mod support;

use std::{collections::BTreeMap, time::Duration};

use kauri_client::{
    admin::{Admin, AdminAnswer, AdminError, ConfigResource, NewTopic, OperationId},
    offsets::{OffsetAt, OffsetError},
};
use kauri_protocol::error::ErrorCode;
use support::{cluster_config, world::World};

const TIMEOUT: Duration = Duration::from_secs(5);

fn world() -> World {
    let mut world = World::new(&[1, 2, 3]);
    world.brokers.create("t", 3);
    world
}

fn finish(world: &mut World, admin: &mut Admin, id: OperationId) -> Result<AdminAnswer, AdminError> {
    let mut result = None;
    world.run_until(admin, 2 * TIMEOUT, |admin, _| {
        result = admin.next_result();
        result.is_some()
    });
    let (of, result) = result.unwrap();
    assert_eq!(of, id);
    result
}

fn refusal<T>(result: &Result<T, AdminError>) -> Option<ErrorCode> {
    match result {
        Err(AdminError::Refused { error, .. }) => Some(*error),
        Ok(_) | Err(AdminError::TimedOut { .. } | AdminError::Unsendable(_)) => None,
    }
}

#[test]
fn topics_are_created_by_the_controller_whoever_is_asked_first() {
    let mut world = world();
    world.brokers.controller = 3;
    let mut admin = Admin::new(cluster_config());
    let topics = [NewTopic { partitions: Some(4), ..NewTopic::new("new") }, NewTopic::new("t")];
    let id = admin.create_topics(world.now, topics, false, TIMEOUT);
    let Ok(AdminAnswer::Created(created)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert_eq!(created["new"].as_ref().unwrap().partitions, Some(4));
    assert_eq!(refusal(&created["t"]), Some(ErrorCode::TopicAlreadyExists));
    assert_eq!(world.brokers.topics["new"].len(), 4);
}

#[test]
fn a_controller_that_moves_or_dies_is_followed() {
    let mut world = world();
    let mut admin = Admin::new(cluster_config());
    let id = admin.list_topics(world.now, TIMEOUT);
    assert!(finish(&mut world, &mut admin, id).is_ok());
    world.brokers.controller = 2;
    world.down(1);
    let id = admin.create_topics(world.now, [NewTopic::new("a")], false, TIMEOUT);
    let Ok(AdminAnswer::Created(created)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert!(created["a"].is_ok(), "{created:?}");
    world.brokers.controller = 3;
    let id = admin.delete_topics(world.now, ["a", "b"], TIMEOUT);
    let Ok(AdminAnswer::Deleted(deleted)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert!(deleted["a"].is_ok(), "{deleted:?}");
    assert_eq!(refusal(&deleted["b"]), Some(ErrorCode::UnknownTopicOrPartition));
}

#[test]
fn an_attempt_without_an_answer_is_mentioned() {
    let mut world = world();
    let mut admin = Admin::new(cluster_config());
    let id = admin.create_topics(world.now, [NewTopic::new("a")], false, TIMEOUT);
    world.run_until(&mut admin, TIMEOUT, |_, world| world.brokers.topics.contains_key("a"));
    world.cut(1);
    let Ok(AdminAnswer::Created(created)) = finish(&mut world, &mut admin, id) else { panic!() };
    let error = created["a"].as_ref().unwrap_err().to_string();
    assert!(error.contains("TOPIC_ALREADY_EXISTS") && error.contains("earlier attempt"), "{error}");
}

#[test]
fn a_check_creates_nothing() {
    let mut world = world();
    let mut admin = Admin::new(cluster_config());
    let id = admin.create_topics(world.now, [NewTopic::new("a")], true, TIMEOUT);
    let Ok(AdminAnswer::Created(created)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert!(created["a"].is_ok());
    assert!(!world.brokers.topics.contains_key("a"));
}

#[test]
fn topics_configs_and_the_cluster_are_described() {
    let mut world = world();
    world.brokers.create("u", 1);
    let mut admin = Admin::new(cluster_config());
    let id = admin.list_topics(world.now, TIMEOUT);
    let Ok(AdminAnswer::Topics(topics)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert_eq!(topics.keys().map(|name| name.to_string()).collect::<Vec<_>>(), ["t", "u"]);

    let id = admin.describe_topics(world.now, ["t", "nowhere"], TIMEOUT);
    let Ok(AdminAnswer::Topics(topics)) = finish(&mut world, &mut admin, id) else { panic!() };
    let leaders: Vec<Option<i32>> = topics["t"].as_ref().unwrap().partitions.values().map(|it| it.leader).collect();
    assert_eq!(leaders, [Some(1), Some(2), Some(3)]);
    assert_eq!(refusal(&topics["nowhere"]), Some(ErrorCode::UnknownTopicOrPartition));

    let id = admin.describe_configs(world.now, ConfigResource::Topic("t".to_owned()), TIMEOUT);
    let Ok(AdminAnswer::Configs(configs)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert_eq!(configs["retention.ms"].value.as_deref(), Some("604800000"));
    assert!(configs["retention.ms"].is_default);
    let id = admin.describe_configs(world.now, ConfigResource::Topic("nowhere".to_owned()), TIMEOUT);
    assert_eq!(refusal(&finish(&mut world, &mut admin, id)), Some(ErrorCode::UnknownTopicOrPartition));

    let id = admin.describe_cluster(world.now, TIMEOUT);
    let Ok(AdminAnswer::Cluster(cluster)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert_eq!((&*cluster.cluster_id, cluster.controller, cluster.nodes.len()), ("c", Some(1), 3));
}

#[test]
fn offsets_of_many_partitions_come_together() {
    let mut world = world();
    let mut admin = Admin::new(cluster_config());
    let wanted = [("t", 0, OffsetAt::Latest), ("t", 2, OffsetAt::Earliest), ("t", 9, OffsetAt::Latest)];
    let id = admin.list_offsets(world.now, wanted, TIMEOUT);
    let Ok(AdminAnswer::Offsets(offsets)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert_eq!(offsets.len(), 3);
    for partition in [0, 2] {
        assert_eq!(offsets[&("t".into(), partition)].as_ref().unwrap().unwrap().offset, 0);
    }
    assert!(matches!(offsets[&("t".into(), 9)], Err(OffsetError::TimedOut { .. })));
    let id = admin.list_offsets(world.now, [], TIMEOUT);
    assert_eq!(finish(&mut world, &mut admin, id), Ok(AdminAnswer::Offsets(BTreeMap::new())));
}

#[test]
fn without_a_broker_every_operation_ends_in_time_and_says_why() {
    let mut world = world();
    for node in 1..=3 {
        world.down(node);
    }
    let mut admin = Admin::new(cluster_config());
    let start = world.now.monotonic;
    let id = admin.list_topics(world.now, TIMEOUT);
    let error = finish(&mut world, &mut admin, id).unwrap_err();
    assert!(matches!(error, AdminError::TimedOut { .. }), "{error}");
    let id = admin.create_topics(world.now, [NewTopic::new("a")], false, TIMEOUT);
    let Ok(AdminAnswer::Created(created)) = finish(&mut world, &mut admin, id) else { panic!() };
    assert!(matches!(created["a"], Err(AdminError::TimedOut { .. })));
    assert_eq!(world.now.monotonic.since(start).as_secs(), 10);
}
