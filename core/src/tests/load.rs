//! More than fits into memory: followers that lag, readers of old records, clients that do not read.

use std::time::Duration;

use kauri_protocol::{
    error::ErrorCode,
    messages::{FetchRequest, MetadataRequest, ProduceRequest},
    records::Batches,
};

use super::{client::*, world::World};
use crate::{
    ids::{GroupId, NodeId},
    limits::{
        ANSWER_BYTES_MAX, ANSWER_RESERVE_BYTES, CLIENT_STALL_CROWDED_MAX, CLIENT_STALL_MAX, ENTRY_CACHE_BYTES,
        FETCH_BYTES_MAX, SEGMENT_SYNCS_PER_SECOND, SHARD_PROPOSED_BYTES_MAX, SHARD_TAIL_BYTES_MAX,
    },
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
fn a_hundred_partitions_that_are_all_written_cost_a_few_syncs_per_second() {
    let mut world = World::formed(1);
    let node = *world.nodes.keys().next().unwrap();
    world.create_topics(node, &[TOPIC], 100, 1);
    world.run_until("every partition is led", |world| {
        world.groups(node).values().filter(|group| group.serving).count() > 100
    });
    let connection = world.connect(node);
    let mut syncs = Vec::new();
    for _ in 0..90 {
        let parts = (0..100).map(|partition| (partition, batch(&["a record"]))).collect();
        let answer = world.call::<ProduceRequest>(connection, &produce_parts(-1, parts), 9);
        assert!(answer.responses[0].partition_responses.iter().all(|part| part.error_code == ErrorCode::None));
        world.run_for(Duration::from_secs(1));
        syncs.push(std::mem::take(&mut world.nodes.get_mut(&node).unwrap().disk.partition_syncs));
    }
    // What is small waits for half a minute, then it trickles out.
    assert_eq!(syncs[..28].iter().sum::<u32>(), 0);
    let (begun, seconds) = (syncs[30..].iter().sum::<u32>(), syncs.len() as u32 - 30);
    assert!(begun > 0, "the oldest are written");
    assert!(begun <= (SEGMENT_SYNCS_PER_SECOND + 1) * seconds, "{begun} syncs in {seconds} seconds");
    world.assert_nothing_waits();
}

#[test]
fn clients_that_do_not_read_hold_a_bounded_amount_and_not_for_long() {
    let mut world = World::formed(1);
    let node = world.create_topic(1);
    fill(&mut world, node, 30);
    let mut request = fetch_request(0, 0, 0);
    request.topics[0].partitions[0].partition_max_bytes = i32::MAX;
    let stuck: Vec<_> = (0..60).map(|_| world.connect(node)).collect();
    for connection in &stuck {
        world.clients.get_mut(connection).unwrap().stuck = true;
        for _ in 0..10 {
            world.send(*connection, &request, 12);
        }
    }
    world.run_for(Duration::from_secs(1));
    let held: Vec<usize> = stuck.iter().map(|connection| world.clients[connection].received.len()).collect();
    assert!(held.iter().filter(|held| **held > BATCH).count() > 15, "a few do not take it all: {held:?}");
    assert!(held.iter().all(|held| *held < FETCH_BYTES_MAX + BATCH));
    let sum: usize = held.iter().sum();
    assert!(sum < ANSWER_BYTES_MAX + ANSWER_RESERVE_BYTES + BATCH, "{sum} bytes");
    assert!(sum > ANSWER_BYTES_MAX * 3 / 4, "{sum} bytes, so nothing else was in the way");

    let connection = world.connect(node);
    assert_eq!(values_of(&world.fetch(connection, 1)), ["small"], "small answers have a reserve");
    world.send(connection, &fetch_request(0, 30_000, 1), 12);
    let waited = world.run_until("who reads is served", |world| world.has_answer(connection));
    assert!(waited <= CLIENT_STALL_CROWDED_MAX, "{waited:?}");
    assert_eq!(values_of(&only_data(world.answer::<FetchRequest>(connection).unwrap()))[0].len(), BATCH);
    assert!(stuck.iter().any(|connection| !world.clients[connection].closed), "no more are closed than is needed");
    world.run_for(CLIENT_STALL_MAX);
    assert!(stuck.iter().all(|connection| world.clients[connection].closed));
    assert!(!world.clients[&connection].closed);
    world.assert_nothing_waits();
}

#[test]
fn producers_wait_while_too_much_is_proposed() {
    const BATCHES: usize = 140;
    let mut world = World::formed(3);
    let node = NodeId(1);
    assert_eq!(world.create_topics(node, &[TOPIC], 12, 3).topics[0].error_code, ErrorCode::None);
    world.run_for(Duration::from_secs(1));
    let led: Vec<i32> =
        (0..12).filter(|partition| world.leader(GroupId(*partition as u64 + 1)) == Some(node)).collect();
    assert_eq!(led.len(), 4);
    // Nothing commits while nobody answers.
    world.isolate(node);
    let writers: Vec<_> = (0..BATCHES / 7).map(|_| world.connect(node)).collect();
    for number in 0..BATCHES {
        let parts = vec![(led[number % led.len()], batch_of_bytes(1_000_000, number as u8))];
        world.send(writers[number / 7], &produce_parts(-1, parts), 9);
    }
    world.settle();
    let proposed = world.inspect(node).proposed_bytes;
    assert!((SHARD_PROPOSED_BYTES_MAX..SHARD_PROPOSED_BYTES_MAX + 1_100_000).contains(&proposed), "{proposed} bytes");
    let asker = world.connect(node);
    world.send(asker, &MetadataRequest::default(), 12);
    world.settle();
    assert!(world.has_answer(asker), "whoever brings no records is served");

    world.cuts.clear();
    for writer in writers {
        for _ in 0..7 {
            assert_eq!(only_part(world.wait::<ProduceRequest>(writer)).error_code, ErrorCode::None);
        }
    }
    let written: i64 = led.iter().map(|part| world.groups(node)[&GroupId(*part as u64 + 1)].next_offset.0).sum();
    assert_eq!(written, BATCHES as i64);
    assert_eq!(world.inspect(node).proposed_bytes, 0);
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
