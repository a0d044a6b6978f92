//! More than fits into memory: followers that lag, readers of old records, clients that do not read.

use std::time::Duration;

use kauri_protocol::{error::ErrorCode, messages::FetchRequest, records::Batches};

use super::{client::*, world::World};
use crate::{
    ids::NodeId,
    limits::{ANSWER_BYTES_MAX, ENTRY_CACHE_BYTES, FETCH_BYTES_MAX, SHARD_TAIL_BYTES_MAX},
};

const BATCH: usize = 900_000;

/// Produces so many batches of 900 kB, each followed by a small one; the number of records.
fn fill(world: &mut World, node: NodeId, batches: usize) -> i64 {
    let connection = world.connect(node);
    for round in 0..batches {
        let large = world.produce(connection, batch_of_bytes(BATCH, round as u8));
        assert_eq!((large.error_code, large.base_offset), (ErrorCode::None, 2 * round as i64));
        assert_eq!(world.produce(connection, batch(&["small"])).error_code, ErrorCode::None);
        world.run_for(Duration::from_millis(20));
    }
    world.close(connection);
    2 * batches as i64
}

#[test]
fn a_follower_that_lags_is_fed_from_the_disk_and_old_records_are_read_from_it() {
    let mut world = World::formed(3);
    let leader = world.create_topic(3);
    let follower = *world.nodes.keys().find(|node| **node != leader).unwrap();
    world.run_for(Duration::from_secs(1));
    world.kill(follower);
    let batches = ENTRY_CACHE_BYTES / BATCH + 20;
    let records = fill(&mut world, leader, batches);
    world.run_for(Duration::from_secs(40));
    let inspection = world.inspect(leader);
    assert!(inspection.entry_bytes <= ENTRY_CACHE_BYTES && inspection.tail_bytes <= SHARD_TAIL_BYTES_MAX);

    world.start(follower);
    world.run_until("the follower is up", |world| world.groups(follower).contains_key(&GROUP));
    world.run_until_equal(GROUP);

    let connection = world.connect(leader);
    let mut next = 0;
    while next < records {
        let data = world.fetch(connection, next);
        assert_eq!(data.error_code, ErrorCode::None);
        for batch in Batches::new(data.records.unwrap().to_bytes()) {
            let batch = batch.unwrap();
            batch.validate_crc().unwrap();
            assert_eq!(batch.header().base_offset, next);
            next = batch.header().next_offset();
        }
    }
    world.assert_nothing_waits();
}

#[test]
fn a_restart_replays_more_than_fits_into_memory() {
    let mut world = World::formed(1);
    let node = world.create_topic(1);
    let records = fill(&mut world, node, SHARD_TAIL_BYTES_MAX / BATCH + 20);
    let before = world.groups(node)[&GROUP].clone();
    world.kill(node);
    world.start(node);
    world.run_until_led(GROUP);
    let after = world.groups(node)[&GROUP].clone();
    assert_eq!((after.state_hash, after.content, after.next_offset.0), (before.state_hash, before.content, records));
    assert!(world.inspect(node).tail_bytes <= SHARD_TAIL_BYTES_MAX);
}

#[test]
fn clients_that_do_not_read_hold_a_bounded_amount() {
    let mut world = World::formed(1);
    let node = world.create_topic(1);
    fill(&mut world, node, 30);
    let mut request = fetch_request(0, 0, 0);
    request.topics[0].partitions[0].partition_max_bytes = i32::MAX;
    let stuck: Vec<_> = (0..40).map(|_| world.connect(node)).collect();
    for connection in &stuck {
        world.clients.get_mut(connection).unwrap().stuck = true;
        for _ in 0..10 {
            world.send(*connection, &request, 12);
        }
    }
    world.run_for(Duration::from_secs(1));
    let held: Vec<usize> = stuck.iter().map(|connection| world.clients[connection].received.len()).collect();
    assert!(held.iter().all(|held| *held > BATCH), "everybody gets something");
    assert!(held.iter().all(|held| *held < FETCH_BYTES_MAX + BATCH));
    let sum: usize = held.iter().sum();
    assert!(sum < ANSWER_BYTES_MAX + FETCH_BYTES_MAX + stuck.len() * 2 * BATCH, "{sum} bytes");

    let connection = world.connect(node);
    assert_eq!(world.fetch(connection, 0).error_code, ErrorCode::None, "who reads is served");
    for connection in &stuck {
        assert!(world.answer::<FetchRequest>(*connection).is_some());
        world.close(*connection);
    }
    world.assert_nothing_waits();
}

#[test]
fn the_next_in_rank_does_not_wait_for_one_who_dropped_out() {
    let mut world = World::formed(5);
    let leader = world.create_topic(3);
    let metadata = world.metadata(leader, &[TOPIC]);
    let rank: Vec<NodeId> = metadata.topics[0].partitions[0].replica_nodes.iter().map(|node| NodeId(*node)).collect();
    assert_eq!(rank[0], leader);
    // Two of three are cut off for a while: nobody can be elected. Then the last comes back, and the second does not.
    world.isolate(rank[0]);
    world.isolate(rank[1]);
    world.run_for(Duration::from_secs(5));
    world.cuts.retain(|(a, b)| ![*a, *b].contains(&rank[0]));
    world.kill(rank[0]);
    world.start(rank[0]);
    let took = world.run_until("the group is led", |world| world.leader(GROUP).is_some_and(|now| now != rank[1]));
    assert!(took < Duration::from_millis(1500), "{took:?}");
}
