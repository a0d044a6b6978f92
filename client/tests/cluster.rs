//! Stories of connections and calls.

mod support;

use std::time::Duration;

use kauri_client::{
    cluster::{CallError, CallId, Cluster, Target},
    io::{Effects, Input, Now},
};
use kauri_protocol::messages::{DescribeClusterRequest, Response};
use support::{
    cluster_config,
    world::{World, address},
};

const MINUTE: Duration = Duration::from_secs(60);

fn call(world: &World, cluster: &mut Cluster, target: Target) -> CallId {
    cluster.call(world.now, target, DescribeClusterRequest::default())
}

fn finish(world: &mut World, cluster: &mut Cluster, id: CallId) -> Result<Response, CallError> {
    let mut answer = None;
    world.run_until(cluster, MINUTE, |cluster, _| {
        answer = cluster.next_answer();
        answer.is_some()
    });
    let (of, answer) = answer.unwrap();
    assert_eq!(of, id);
    answer
}

#[test]
fn a_call_finds_a_broker_among_the_dead() {
    let mut world = World::new(&[1, 2, 3]);
    let mut config = cluster_config();
    config.bootstrap = (1..=3).map(address).collect();
    world.down(1);
    world.down(2);
    let mut cluster = Cluster::new(config);
    let id = call(&world, &mut cluster, Target::Any);
    assert!(finish(&mut world, &mut cluster, id).is_ok());
    assert!(world.now.monotonic.0 < 1_000_000_000);
}

#[test]
fn a_dead_broker_is_dialled_again_with_growing_pauses() {
    let mut world = World::new(&[1]);
    world.down(1);
    let mut cluster = Cluster::new(cluster_config());
    let id = call(&world, &mut cluster, Target::Any);
    let error = finish(&mut world, &mut cluster, id).unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error}");
    // 30 seconds at 20 ms, 40 ms, up to a second each.
    assert!((25..45).contains(&world.dials[&1]), "{:?}", world.dials);
    world.up(1);
    let id = call(&world, &mut cluster, Target::Node(1));
    assert!(finish(&mut world, &mut cluster, id).is_ok());
}

#[test]
fn a_failure_says_where_it_was_and_why() {
    let mut config = cluster_config();
    config.bootstrap = vec![("nowhere.invalid".to_owned(), 9092)];
    let mut cluster = Cluster::new(config);
    let now = Now::default();
    let id = cluster.call(now, Target::Any, DescribeClusterRequest::default());
    let mut effects = Effects::default();
    cluster.poll(now, &mut effects);
    let dialled = effects.dials.pop().unwrap().connection;
    cluster.handle(now, Input::Unreachable(dialled, "Name or service not known".to_owned()));
    cluster.poll(Now { monotonic: now.monotonic + MINUTE, ..now }, &mut effects);
    let reason = "nowhere.invalid:9092: Name or service not known".to_owned();
    let answers: Vec<_> = std::iter::from_fn(|| cluster.next_answer()).collect();
    assert_eq!(answers, [(id, Err(CallError::Unreachable(reason)))]);
}

#[test]
fn a_broken_connection_ends_its_calls_and_the_next_works() {
    let mut world = World::new(&[1]);
    let mut cluster = Cluster::new(cluster_config());
    let id = call(&world, &mut cluster, Target::Node(1));
    assert!(finish(&mut world, &mut cluster, id).is_ok());
    world.mute(1);
    let id = call(&world, &mut cluster, Target::Node(1));
    world.run(&mut cluster, Duration::from_secs(1));
    world.up(1);
    world.cut(1);
    assert_eq!(finish(&mut world, &mut cluster, id), Err(CallError::Disconnected));
    let id = call(&world, &mut cluster, Target::Node(1));
    assert!(finish(&mut world, &mut cluster, id).is_ok());
}

#[test]
fn a_silent_broker_times_out_and_its_connection_is_not_used_again() {
    let mut world = World::new(&[1]);
    let mut cluster = Cluster::new(cluster_config());
    let id = call(&world, &mut cluster, Target::Node(1));
    assert!(finish(&mut world, &mut cluster, id).is_ok());
    let dials = world.dials[&1];
    world.mute(1);
    let id = call(&world, &mut cluster, Target::Node(1));
    let start = world.now.monotonic;
    assert_eq!(finish(&mut world, &mut cluster, id), Err(CallError::TimedOut));
    assert_eq!(world.now.monotonic.since(start), Duration::from_secs(30));
    world.up(1);
    let id = call(&world, &mut cluster, Target::Node(1));
    assert!(finish(&mut world, &mut cluster, id).is_ok());
    assert!(world.dials[&1] > dials);
}

#[test]
fn a_broker_that_left_is_not_dialled_any_more() {
    let mut world = World::new(&[1, 2]);
    let mut cluster = Cluster::new(cluster_config());
    let id = call(&world, &mut cluster, Target::Node(2));
    assert!(finish(&mut world, &mut cluster, id).is_ok());
    // Broker 2 is gone for good, and metadata says so.
    world.brokers.nodes = vec![1];
    world.down(2);
    cluster.refresh_metadata();
    world.run(&mut cluster, Duration::from_secs(5));
    let dials = world.dials[&2];
    world.run(&mut cluster, MINUTE);
    assert_eq!(world.dials[&2], dials);
    assert!(!cluster.metadata().nodes.contains_key(&2));
}

#[test]
fn an_idle_client_does_nothing_but_refresh_its_metadata() {
    let mut world = World::new(&[1, 2, 3]);
    let mut cluster = Cluster::new(cluster_config());
    world.run(&mut cluster, MINUTE);
    world.keep_requests = true;
    world.run(&mut cluster, 10 * MINUTE);
    assert!(world.requests.len() <= 6, "{:?}", world.requests);
}
