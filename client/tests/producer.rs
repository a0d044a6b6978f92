//! Stories of a producer and brokers that fail in the ways that matter.

mod support;

use std::{collections::BTreeMap, time::Duration};

use kauri_client::producer::{
    Acks, Delivered, FailureReason, Outcome, ProduceFailure, Producer, ProducerConfig, ProducerRecord, SendError,
    SendId, partition_of_key,
};
use kauri_protocol::{
    error::ErrorCode,
    messages::Request,
    records::{BatchView, Compression},
};
use support::{broker::Lie, cluster_config, world::World};

type Results = BTreeMap<SendId, Result<Delivered, ProduceFailure>>;

const MINUTE: Duration = Duration::from_secs(60);

/// Every record is a batch of its own, unless a test says otherwise.
fn config() -> ProducerConfig {
    ProducerConfig { linger: Duration::ZERO, batch_bytes: 1, ..ProducerConfig::default() }
}

fn world() -> World {
    let mut world = World::new(&[1, 2, 3]);
    world.brokers.create("t", 3);
    world
}

fn send(world: &World, producer: &mut Producer, partition: i32, value: u64) -> SendId {
    let value = value.to_be_bytes();
    let record =
        ProducerRecord { topic: "t", partition: Some(partition), value: Some(&value), ..ProducerRecord::default() };
    producer.send(world.now, record).unwrap()
}

fn take(producer: &mut Producer, results: &mut Results) {
    while let Some((id, result)) = producer.next_result() {
        assert!(results.insert(id, result).is_none(), "a record has one result");
    }
}

fn finish(world: &mut World, producer: &mut Producer) -> Results {
    let mut results = Results::new();
    world.run_until(producer, 10 * MINUTE, |producer, _| {
        take(producer, &mut results);
        producer.is_idle()
    });
    take(producer, &mut results);
    assert_eq!(producer.held_bytes(), 0, "all memory is free again");
    results
}

fn values(world: &mut World, partition: i32) -> Vec<u64> {
    let records = world.brokers.partition("t", partition).records();
    records.iter().map(|record| u64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap())).collect()
}

fn outcome(result: &Result<Delivered, ProduceFailure>) -> Option<Outcome> {
    result.as_ref().err().map(|failure| failure.outcome)
}

#[test]
fn records_arrive_in_order_with_their_offsets() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    let ids: Vec<SendId> = (0..50).map(|value| send(&world, &mut producer, 1, value)).collect();
    let results = finish(&mut world, &mut producer);
    assert_eq!(values(&mut world, 1), (0..50).collect::<Vec<u64>>());
    for (offset, id) in (0..).zip(ids) {
        let delivered = results[&id].as_ref().unwrap();
        assert_eq!((delivered.partition, delivered.offset), (1, Some(offset)));
        assert_eq!(delivered.timestamp, 1_000_000);
    }
}

#[test]
fn a_linger_gathers_records_into_one_batch() {
    let mut world = world();
    let config = ProducerConfig { linger: Duration::from_millis(20), ..ProducerConfig::default() };
    let mut producer = Producer::new(cluster_config(), config);
    for value in 0..100 {
        send(&world, &mut producer, 0, value);
    }
    finish(&mut world, &mut producer);
    assert_eq!(world.brokers.partition("t", 0).log.len(), 1);
    assert_eq!(values(&mut world, 0).len(), 100);

    send(&world, &mut producer, 0, 100);
    producer.flush(world.now);
    let before = world.now.monotonic;
    finish(&mut world, &mut producer);
    assert!(world.now.monotonic.since(before) < Duration::from_millis(20), "a flush does not wait for the linger");
}

#[test]
fn a_flush_reaches_records_whose_topic_is_not_known_yet() {
    let mut world = world();
    let config = ProducerConfig { linger: MINUTE, ..ProducerConfig::default() };
    let mut producer = Producer::new(cluster_config(), config);
    producer.send(world.now, ProducerRecord { topic: "t", ..ProducerRecord::default() }).unwrap();
    producer.flush(world.now);
    let start = world.now.monotonic;
    finish(&mut world, &mut producer);
    assert!(world.now.monotonic.since(start) < Duration::from_secs(1));
}

#[test]
fn all_compressions_arrive() {
    for compression in Compression::ALL {
        let mut world = world();
        let config = ProducerConfig { compression, ..ProducerConfig::default() };
        let mut producer = Producer::new(cluster_config(), config);
        for value in 0..10 {
            send(&world, &mut producer, 0, value);
        }
        finish(&mut world, &mut producer);
        assert_eq!(values(&mut world, 0), (0..10).collect::<Vec<u64>>(), "{compression}");
    }
}

#[test]
fn keys_choose_the_partition_even_before_the_topic_is_known() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    let keys = ["a", "b", "c", "d", "e", "f"];
    let ids: Vec<SendId> = keys
        .iter()
        .map(|key| {
            let record = ProducerRecord { topic: "t", key: Some(key.as_bytes()), ..ProducerRecord::default() };
            producer.send(world.now, record).unwrap()
        })
        .collect();
    let results = finish(&mut world, &mut producer);
    for (key, id) in keys.iter().zip(ids) {
        assert_eq!(results[&id].as_ref().unwrap().partition, partition_of_key(key.as_bytes(), 3));
    }
}

#[test]
fn headers_keys_and_nulls_survive() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    let headers: [(&[u8], Option<&[u8]>); 2] = [(b"h", Some(b"1")), (b"h", None)];
    let record =
        ProducerRecord { partition: Some(0), headers: &headers, timestamp: Some(77), topic: "t", ..Default::default() };
    producer.send(world.now, record).unwrap();
    finish(&mut world, &mut producer);
    let record = &world.brokers.partition("t", 0).records()[0];
    assert_eq!((record.timestamp, &record.key, &record.value), (77, &None, &None));
    let headers: Vec<_> = record.headers.iter().map(|header| (header.key, header.value)).collect();
    assert_eq!(headers, [("h".into(), Some("1".into())), ("h".into(), None)]);
}

#[test]
fn a_lost_answer_does_not_write_twice() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    let warm = send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    for value in 1..20 {
        send(&world, &mut producer, 0, value);
        // The request arrives; its answer is lost.
        let end = world.brokers.partition("t", 0).end();
        world.run_until(&mut producer, MINUTE, |_, world| world.brokers.partition("t", 0).end() > end);
        world.cut(1);
    }
    let results = finish(&mut world, &mut producer);
    assert_eq!(values(&mut world, 0), (0..20).collect::<Vec<u64>>());
    assert!(results.values().all(Result::is_ok));
    assert!(!results.contains_key(&warm));
}

#[test]
fn a_moved_leader_is_found_by_its_hint_or_by_metadata() {
    for hints in [true, false] {
        let mut world = world();
        world.brokers.hints = hints;
        let mut producer = Producer::new(cluster_config(), config());
        for value in 0..30 {
            world.brokers.partition("t", 0).move_to(1 + (value as i32) % 3);
            send(&world, &mut producer, 0, value);
            world.run(&mut producer, Duration::from_millis(3));
        }
        let results = finish(&mut world, &mut producer);
        assert!(results.values().all(Result::is_ok));
        assert_eq!(values(&mut world, 0), (0..30).collect::<Vec<u64>>());
    }
}

#[test]
fn a_leader_on_a_broker_that_was_not_known_is_found_by_its_hint() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    world.brokers.nodes.push(4);
    world.nodes.insert(4, Default::default());
    world.brokers.partition("t", 0).move_to(4);
    send(&world, &mut producer, 0, 1);
    finish(&mut world, &mut producer);
    assert_eq!(values(&mut world, 0), [0, 1]);
}

#[test]
fn a_dead_broker_holds_up_only_what_it_leads() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    for partition in 0..3 {
        send(&world, &mut producer, partition, 0);
    }
    finish(&mut world, &mut producer);
    world.down(2);
    for partition in 0..3 {
        send(&world, &mut producer, partition, 1);
    }
    world.run(&mut producer, Duration::from_millis(100));
    assert_eq!(values(&mut world, 0), [0, 1]);
    assert_eq!(values(&mut world, 1), [0]);
    assert_eq!(values(&mut world, 2), [0, 1]);
    world.brokers.partition("t", 1).move_to(3);
    let moved = world.now.monotonic;
    let results = finish(&mut world, &mut producer);
    assert!(results.values().all(Result::is_ok));
    let took = world.now.monotonic.since(moved);
    assert!(took < Duration::from_secs(2), "a new leader is noticed soon, not after {took:?}");
    assert_eq!(values(&mut world, 1), [0, 1]);
}

#[test]
fn a_broker_with_old_metadata_does_not_hold_up_the_client() {
    let mut world = world();
    world.brokers.hints = false;
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    // Broker 1 is cut off from its peers: it believes that nothing changed, and answers no produce.
    let names = ["t".into()];
    let old = world.brokers.metadata(&names);
    world.brokers.stale.insert(1, old);
    world.brokers.partition("t", 0).move_to(2);
    send(&world, &mut producer, 0, 1);
    world.run_until(&mut producer, Duration::from_secs(5), |producer, _| producer.next_result().is_some());
    assert_eq!(values(&mut world, 0), [0, 1]);
}

#[test]
fn a_silent_broker_is_given_up_after_the_request_timeout() {
    let mut world = world();
    let mut cluster = cluster_config();
    cluster.request_timeout = Duration::from_secs(2);
    let mut producer = Producer::new(cluster, config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    world.mute(1);
    send(&world, &mut producer, 0, 1);
    world.run(&mut producer, Duration::from_secs(1));
    world.brokers.partition("t", 0).move_to(3);
    world.run_until(&mut producer, Duration::from_secs(8), |producer, _| producer.next_result().is_some());
    assert_eq!(values(&mut world, 0), [0, 1]);
}

#[test]
fn errors_that_may_pass_are_tried_again_in_order() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    let errors = [
        Lie::Instead(ErrorCode::NotEnoughReplicas),
        Lie::AfterAppend(ErrorCode::NotEnoughReplicasAfterAppend),
        Lie::AfterAppend(ErrorCode::RequestTimedOut),
        Lie::AfterAppend(ErrorCode::NotLeaderOrFollower),
        Lie::Instead(ErrorCode::LeaderNotAvailable),
    ];
    for error in errors {
        world.brokers.lie("t", 0, error);
    }
    for value in 1..30 {
        send(&world, &mut producer, 0, value);
    }
    let results = finish(&mut world, &mut producer);
    assert!(results.values().all(Result::is_ok), "{results:?}");
    assert_eq!(values(&mut world, 0), (0..30).collect::<Vec<u64>>());
}

#[test]
fn a_refused_batch_takes_no_other_with_it() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    world.brokers.lie("t", 0, Lie::Instead(ErrorCode::MessageTooLarge));
    let refused = send(&world, &mut producer, 0, 1);
    for value in 2..12 {
        send(&world, &mut producer, 0, value);
    }
    let results = finish(&mut world, &mut producer);
    let failure = results[&refused].as_ref().unwrap_err();
    assert_eq!(failure.outcome, Outcome::NotWritten);
    assert!(matches!(failure.reason, FailureReason::Refused { error: ErrorCode::MessageTooLarge, .. }));
    assert_eq!(results.values().filter(|result| result.is_ok()).count(), 10);
    let expected: Vec<u64> = std::iter::once(0).chain(2..12).collect();
    assert_eq!(values(&mut world, 0), expected);
}

#[test]
fn a_refused_batch_with_none_behind_it_leaves_no_gap() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    let asked = world.brokers.next_producer_id;
    world.brokers.lie("t", 0, Lie::Instead(ErrorCode::InvalidRecord));
    send(&world, &mut producer, 0, 1);
    finish(&mut world, &mut producer);
    send(&world, &mut producer, 0, 2);
    finish(&mut world, &mut producer);
    assert_eq!(values(&mut world, 0), [0, 2]);
    assert_eq!(world.brokers.next_producer_id, asked, "the identity is as good as before");
}

#[test]
fn a_lost_sequence_fails_what_may_be_written_and_goes_on_in_a_new_epoch() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    let asked = world.brokers.next_producer_id;
    // The first attempt is written but not acknowledged; then the broker claims to know nothing of it.
    world.brokers.lie("t", 0, Lie::AfterAppend(ErrorCode::RequestTimedOut));
    world.brokers.lie("t", 0, Lie::Instead(ErrorCode::UnknownProducerId));
    let uncertain = send(&world, &mut producer, 0, 1);
    world.run_until(&mut producer, MINUTE, |_, world| world.brokers.lies.values().all(|lies| lies.is_empty()));
    let certain = send(&world, &mut producer, 0, 2);
    let results = finish(&mut world, &mut producer);
    assert_eq!(outcome(&results[&uncertain]), Some(Outcome::Unknown));
    assert!(results[&certain].is_ok());
    send(&world, &mut producer, 0, 3);
    finish(&mut world, &mut producer);
    assert_eq!(values(&mut world, 0), [0, 1, 2, 3]);
    assert_eq!(world.brokers.next_producer_id, asked, "the same id");
    let log = &world.brokers.partition("t", 0).log;
    let producers: Vec<_> =
        log.iter().map(|stored| BatchView::new(stored.bytes.clone()).unwrap().header().producer).collect();
    assert!(producers.iter().all(|producer| producer.id == producers[0].id));
    assert!(producers[3].epoch > producers[1].epoch, "{producers:?}");
    // A copy of the one that was given up, on its way all the time, comes too late.
    let late = log[1].bytes.clone();
    assert_eq!(world.brokers.partition("t", 0).append(late), Err(ErrorCode::InvalidProducerEpoch));
}

#[test]
fn a_lost_sequence_loses_nothing_that_is_certainly_not_written() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    for error in [ErrorCode::InvalidProducerEpoch, ErrorCode::OutOfOrderSequenceNumber, ErrorCode::UnknownProducerId] {
        let first = world.brokers.partition("t", 0).end() as u64;
        world.brokers.lie("t", 0, Lie::Instead(error));
        for value in first..first + 8 {
            send(&world, &mut producer, 0, value);
        }
        let results = finish(&mut world, &mut producer);
        assert!(results.values().all(Result::is_ok), "{error}: {results:?}");
    }
    assert_eq!(values(&mut world, 0), (0..25).collect::<Vec<u64>>());
}

#[test]
fn a_record_that_is_too_late_fails_and_says_whether_it_may_be_written() {
    let mut world = world();
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(3), ..config() };
    let mut cluster = cluster_config();
    cluster.request_timeout = Duration::from_secs(1);
    let mut producer = Producer::new(cluster, config);
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    world.brokers.lie("t", 0, Lie::AfterAppend(ErrorCode::RequestTimedOut));
    let sent = send(&world, &mut producer, 0, 1);
    world.run_until(&mut producer, MINUTE, |_, world| world.brokers.partition("t", 0).end() == 2);
    world.down(1);
    world.run(&mut producer, Duration::from_millis(5));
    let unsent = send(&world, &mut producer, 0, 2);
    let results = finish(&mut world, &mut producer);
    assert_eq!(outcome(&results[&sent]), Some(Outcome::Unknown));
    assert_eq!(outcome(&results[&unsent]), Some(Outcome::NotWritten));
    world.up(1);
    send(&world, &mut producer, 0, 3);
    assert!(finish(&mut world, &mut producer).values().all(Result::is_ok), "the gap was closed");
    assert_eq!(values(&mut world, 0), [0, 1, 3]);
}

#[test]
fn records_for_a_topic_that_never_comes_fail_in_time() {
    let mut world = world();
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(3), ..config() };
    let mut producer = Producer::new(cluster_config(), config);
    let start = world.now.monotonic;
    let record = ProducerRecord { topic: "nowhere", value: Some(b"v"), ..ProducerRecord::default() };
    let id = producer.send(world.now, record).unwrap();
    let results = finish(&mut world, &mut producer);
    let failure = results[&id].as_ref().unwrap_err();
    assert_eq!(failure.outcome, Outcome::NotWritten);
    assert!(failure.to_string().contains("UNKNOWN_TOPIC_OR_PARTITION"), "{failure}");
    assert_eq!(world.now.monotonic.since(start).as_secs(), 3);
}

#[test]
fn a_topic_is_created_on_the_way_if_that_is_wanted() {
    let mut world = world();
    world.brokers.auto_create = Some(2);
    let mut cluster = cluster_config();
    cluster.create_topics = true;
    let mut producer = Producer::new(cluster, config());
    let record = ProducerRecord { topic: "new", value: Some(b"v"), ..ProducerRecord::default() };
    let id = producer.send(world.now, record).unwrap();
    assert!(finish(&mut world, &mut producer)[&id].is_ok());
}

#[test]
fn memory_is_bounded_and_comes_back_with_the_results() {
    let mut world = world();
    let config = ProducerConfig { buffer_bytes: 10_000, ..ProducerConfig::default() };
    let mut producer = Producer::new(cluster_config(), config);
    let value = [7; 1000];
    let record = ProducerRecord { topic: "t", partition: Some(0), value: Some(&value), ..ProducerRecord::default() };
    let mut taken = 0;
    while producer.send(world.now, record).is_ok() {
        taken += 1;
    }
    assert!((8..=10).contains(&taken), "{taken}");
    assert_eq!(producer.send(world.now, record), Err(SendError::QueueFull));
    world.run(&mut producer, Duration::from_secs(1));
    assert_eq!(producer.send(world.now, record), Err(SendError::QueueFull), "results take memory too");
    finish(&mut world, &mut producer);
    assert!(producer.send(world.now, record).is_ok());
    let huge = vec![0; 2 << 20];
    let record = ProducerRecord { value: Some(&huge), ..record };
    assert!(matches!(producer.send(world.now, record), Err(SendError::RecordTooLarge { .. })));
}

#[test]
fn sequence_numbers_follow_each_other() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    world.keep_requests = true;
    for value in 1..10 {
        send(&world, &mut producer, 0, value);
    }
    finish(&mut world, &mut producer);
    assert_eq!(sequences(&world), (1..10).collect::<Vec<i32>>());
}

fn sequences(world: &World) -> Vec<i32> {
    let produced = world.requests.iter().filter_map(|(_, request)| match request {
        Request::Produce(produce) => Some(produce),
        _ => None,
    });
    let batches = produced.flat_map(|produce| &produce.topic_data).flat_map(|topic| &topic.partition_data);
    batches
        .map(|data| {
            let records = data.records.clone().unwrap();
            BatchView::new(records).unwrap().header().producer.base_sequence
        })
        .collect()
}

#[test]
fn without_acknowledgement_records_are_over_when_sent() {
    let mut world = world();
    let config = ProducerConfig { acks: Acks::None, ..config() };
    let mut producer = Producer::new(cluster_config(), config);
    for value in 0..20 {
        send(&world, &mut producer, 0, value);
    }
    let results = finish(&mut world, &mut producer);
    assert!(results.values().all(|result| result.as_ref().unwrap().offset.is_none()));
    world.run(&mut producer, Duration::from_secs(1));
    assert_eq!(values(&mut world, 0), (0..20).collect::<Vec<u64>>());
    assert_eq!(world.brokers.next_producer_id, 100, "no identity is needed");
}

#[test]
fn without_idempotence_retries_may_write_twice_but_lose_nothing() {
    let mut world = world();
    let config = ProducerConfig { acks: Acks::Leader, idempotent: false, ..config() };
    let mut producer = Producer::new(cluster_config(), config);
    world.brokers.lie("t", 0, Lie::AfterAppend(ErrorCode::RequestTimedOut));
    send(&world, &mut producer, 0, 5);
    assert!(finish(&mut world, &mut producer).values().all(Result::is_ok));
    assert_eq!(values(&mut world, 0), [5, 5]);
}

#[test]
fn a_producer_id_that_is_refused_for_good_fails_what_waits_for_it() {
    let mut world = world();
    world.brokers.producer_id_errors.push_back(ErrorCode::CoordinatorNotAvailable);
    world.brokers.producer_id_errors.push_back(ErrorCode::ClusterAuthorizationFailed);
    let mut producer = Producer::new(cluster_config(), config());
    let id = send(&world, &mut producer, 0, 0);
    let results = finish(&mut world, &mut producer);
    assert_eq!(outcome(&results[&id]), Some(Outcome::NotWritten));
    let id = send(&world, &mut producer, 0, 1);
    assert!(finish(&mut world, &mut producer)[&id].is_ok(), "the next record asks again");
}

#[test]
fn an_abort_gives_every_record_a_result() {
    let mut world = world();
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    let in_flight = send(&world, &mut producer, 0, 1);
    world.settle(&mut producer);
    let record = ProducerRecord { topic: "unknown", value: Some(b"v"), ..ProducerRecord::default() };
    let waiting = producer.send(world.now, record).unwrap();
    producer.abort();
    let results = finish(&mut world, &mut producer);
    assert_eq!(outcome(&results[&in_flight]), Some(Outcome::Unknown));
    assert_eq!(outcome(&results[&waiting]), Some(Outcome::NotWritten));
    world.run(&mut producer, Duration::from_secs(1));
}

#[test]
fn never_more_than_five_requests_are_in_flight() {
    let mut world = world();
    world.delay_max = Duration::from_millis(200);
    let mut producer = Producer::new(cluster_config(), config());
    send(&world, &mut producer, 0, 0);
    finish(&mut world, &mut producer);
    for value in 1..40 {
        send(&world, &mut producer, 0, value);
    }
    world.mute(1);
    world.keep_requests = true;
    world.run(&mut producer, Duration::from_secs(3));
    assert_eq!(sequences(&world).len(), 5);
    world.up(1);
    world.cut(1);
    finish(&mut world, &mut producer);
    assert_eq!(values(&mut world, 0), (0..40).collect::<Vec<u64>>());
}
