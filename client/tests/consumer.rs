//! Stories of a consumer, and: whatever breaks, the records of a partition come in order and once each.

mod support;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kauri_client::{
    consumer::{ConsumeError, Consumer, ConsumerConfig, OffsetReset, Start},
    offsets::{OffsetAt, OffsetError},
};
use kauri_protocol::{
    error::ErrorCode,
    messages::Request,
    records::{BatchBuilder, BatchKind, BatchView, Compression, NO_PRODUCER, Producer},
};
use proptest::prelude::*;
use support::{cluster_config, world::World};

const MINUTE: Duration = Duration::from_secs(60);

fn world() -> World {
    let mut world = World::new(&[1, 2, 3]);
    world.brokers.create("t", 3);
    world
}

fn batch(first: u64, count: u64, compression: Compression) -> BatchView {
    let mut builder = BatchBuilder::new(compression);
    for value in first..first + count {
        builder.append(value as i64 * 10, None, Some(&value.to_be_bytes()), &[]).unwrap();
    }
    BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap()
}

/// Appends records whose values are their offsets and whose timestamps are ten times that.
fn fill(world: &mut World, partition: i32, batches: u64, count: u64) {
    for _ in 0..batches {
        let partition = world.brokers.partition("t", partition);
        let view = batch(partition.end() as u64, count, Compression::None);
        partition.append_unchecked(&view);
    }
}

fn consumer(config: ConsumerConfig) -> Consumer {
    Consumer::new(cluster_config(), config)
}

/// Takes records until `count` came; their offsets by partition.
fn read(world: &mut World, consumer: &mut Consumer, count: usize) -> BTreeMap<i32, Vec<i64>> {
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let mut taken = 0;
    world.run_until(consumer, MINUTE, |consumer, _| {
        while taken < count
            && let Some(record) = consumer.next_record()
        {
            let value = u64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap());
            assert_eq!(value as i64, record.offset);
            offsets.entry(record.partition).or_default().push(record.offset);
            taken += 1;
        }
        taken == count
    });
    offsets
}

fn expect_error(world: &mut World, consumer: &mut Consumer) -> ConsumeError {
    let mut error = None;
    world.run_until(consumer, MINUTE, |consumer, _| {
        assert_eq!(consumer.next_record(), None);
        error = consumer.next_error();
        error.is_some()
    });
    error.unwrap().error
}

#[test]
fn partitions_are_read_from_where_they_should() {
    let mut world = world();
    for partition in 0..3 {
        fill(&mut world, partition, 10, 3);
    }
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Earliest);
    consumer.assign("t", 1, Start::Offset(13));
    consumer.assign("t", 2, Start::Timestamp(195));
    let offsets = read(&mut world, &mut consumer, 30 + 17 + 10);
    assert_eq!(offsets[&0], (0..30).collect::<Vec<i64>>());
    assert_eq!(offsets[&1], (13..30).collect::<Vec<i64>>());
    assert_eq!(offsets[&2], (20..30).collect::<Vec<i64>>());
    assert_eq!(consumer.position("t", 1), Some(30));
    assert_eq!(consumer.high_watermark("t", 1), Some(30));
}

#[test]
fn the_end_is_where_new_records_come() {
    let mut world = world();
    fill(&mut world, 0, 2, 3);
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Latest);
    consumer.assign("t", 1, Start::Timestamp(1_000_000));
    world.run(&mut consumer, Duration::from_secs(2));
    assert_eq!(consumer.next_record(), None);
    fill(&mut world, 0, 1, 2);
    fill(&mut world, 1, 1, 1);
    let offsets = read(&mut world, &mut consumer, 3);
    assert_eq!(offsets, BTreeMap::from([(0, vec![6, 7]), (1, vec![0])]));
}

#[test]
fn records_come_whole() {
    let mut world = world();
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder.append(5, Some(b"k"), None, &[(b"h", Some(b"v")), (b"h", None)]).unwrap();
    let view = BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap();
    world.brokers.partition("t", 0).append_unchecked(&view);
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Earliest);
    let mut record = None;
    world.run_until(&mut consumer, MINUTE, |consumer, _| {
        record = consumer.next_record();
        record.is_some()
    });
    let record = record.unwrap();
    assert_eq!((&*record.topic, record.partition, record.offset), ("t", 0, 0));
    assert_eq!((record.leader_epoch, record.timestamp), (1, 5));
    assert_eq!((record.key, record.value), (Some(Bytes::from("k")), None));
    let headers: Vec<_> = record.headers.iter().map(|header| (header.key, header.value)).collect();
    assert_eq!(headers, [("h".into(), Some("v".into())), ("h".into(), None)]);
}

#[test]
fn all_compressions_are_read() {
    let mut world = world();
    for (at, compression) in (0..).zip(Compression::ALL) {
        let view = batch(at * 4, 4, compression);
        world.brokers.partition("t", 0).append_unchecked(&view);
    }
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Offset(2));
    assert_eq!(read(&mut world, &mut consumer, 18)[&0], (2..20).collect::<Vec<i64>>());
}

#[test]
fn a_session_sends_changes_only_and_survives_its_loss() {
    let mut world = world();
    let mut consumer = consumer(ConsumerConfig::default());
    for partition in 0..3 {
        world.brokers.partition("t", partition).move_to(1);
        consumer.assign("t", partition, Start::Offset(0));
    }
    world.keep_requests = true;
    let fetches = |world: &World| -> Vec<(i32, usize)> {
        let requests = world.requests.iter().filter_map(|(_, request)| match request {
            Request::Fetch(fetch) => Some(fetch),
            _ => None,
        });
        let named = |fetch: &kauri_protocol::messages::FetchRequest| {
            fetch.topics.iter().map(|topic| topic.partitions.len()).sum()
        };
        requests.map(|fetch| (fetch.session_epoch, named(fetch))).collect()
    };
    world.run(&mut consumer, Duration::from_millis(1700));
    assert_eq!(fetches(&world), [(0, 3), (1, 0), (2, 0), (3, 0)], "nothing changed");
    fill(&mut world, 1, 1, 1);
    read(&mut world, &mut consumer, 1);
    world.run(&mut consumer, Duration::from_millis(100));
    assert_eq!(fetches(&world).last(), Some(&(4, 1)), "one partition has another position");
    world.brokers.end_sessions();
    fill(&mut world, 2, 1, 1);
    read(&mut world, &mut consumer, 1);
    assert!(fetches(&world).contains(&(0, 3)), "a new session names all");
}

#[test]
fn a_moved_leader_is_followed() {
    for hints in [true, false] {
        let mut world = world();
        world.brokers.hints = hints;
        let mut consumer = consumer(ConsumerConfig::default());
        consumer.assign("t", 0, Start::Earliest);
        for step in 0..10 {
            fill(&mut world, 0, 1, 2);
            world.brokers.partition("t", 0).move_to(1 + step % 3);
            let offsets = read(&mut world, &mut consumer, 2);
            let first = i64::from(step) * 2;
            assert_eq!(offsets[&0], [first, first + 1]);
        }
    }
}

#[test]
fn fetching_ahead_is_bounded_and_goes_on_as_records_are_taken() {
    let mut world = world();
    world.brokers.fetch_bytes = 20_000;
    fill(&mut world, 0, 200, 100);
    let total = 20_000;
    let config = ConsumerConfig {
        fetch_bytes: 20_000,
        partition_bytes: 20_000,
        prefetch_bytes: 60_000,
        ..ConsumerConfig::default()
    };
    let mut consumer = consumer(config);
    consumer.assign("t", 0, Start::Earliest);
    world.keep_requests = true;
    world.run(&mut consumer, Duration::from_secs(10));
    let fetches = world.requests.iter().filter(|(_, request)| matches!(request, Request::Fetch(_))).count();
    assert!((2..=4).contains(&fetches), "{fetches}");
    assert_eq!(read(&mut world, &mut consumer, total)[&0], (0..total as i64).collect::<Vec<i64>>());
}

#[test]
fn a_paused_partition_is_silent_and_loses_nothing() {
    let mut world = world();
    fill(&mut world, 0, 5, 2);
    fill(&mut world, 1, 5, 2);
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Earliest);
    consumer.assign("t", 1, Start::Earliest);
    let first = read(&mut world, &mut consumer, 3);
    assert!(consumer.pause("t", 0));
    let before = first.get(&0).map_or(0, Vec::len);
    let other = read(&mut world, &mut consumer, 10 - first.get(&1).map_or(0, Vec::len));
    assert!(!other.contains_key(&0));
    world.run(&mut consumer, Duration::from_secs(2));
    assert_eq!(consumer.next_record(), None);
    assert!(consumer.resume("t", 0));
    let rest = read(&mut world, &mut consumer, 10 - before);
    assert_eq!(rest[&0], (before as i64..10).collect::<Vec<i64>>());
    assert!(!consumer.pause("t", 7), "not assigned");
}

#[test]
fn a_seek_goes_there_and_an_unassigned_partition_is_silent() {
    let mut world = world();
    fill(&mut world, 0, 10, 1);
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Earliest);
    assert_eq!(read(&mut world, &mut consumer, 5)[&0], [0, 1, 2, 3, 4]);
    assert!(consumer.seek("t", 0, Start::Offset(8)));
    assert_eq!(read(&mut world, &mut consumer, 2)[&0], [8, 9]);
    assert!(consumer.seek("t", 0, Start::Offset(0)));
    assert_eq!(read(&mut world, &mut consumer, 1)[&0], [0]);
    assert!(consumer.unassign("t", 0));
    assert_eq!(consumer.next_record(), None);
    assert!(!consumer.seek("t", 0, Start::Earliest));
    world.run(&mut consumer, Duration::from_secs(2));
    assert_eq!(consumer.next_record(), None);
}

#[test]
fn an_offset_outside_of_the_log_is_reported_or_reset() {
    let mut world = world();
    fill(&mut world, 0, 10, 1);
    world.brokers.partition("t", 0).start = 4;
    let mut strict = consumer(ConsumerConfig::default());
    strict.assign("t", 0, Start::Offset(2));
    assert_eq!(expect_error(&mut world, &mut strict), ConsumeError::OutOfRange { offset: 2 });
    world.run(&mut strict, Duration::from_secs(2));
    assert_eq!((strict.next_record(), strict.next_error()), (None, None), "told once");
    assert!(strict.seek("t", 0, Start::Offset(7)));
    assert_eq!(read(&mut world, &mut strict, 3)[&0], [7, 8, 9]);

    let mut world = self::world();
    fill(&mut world, 0, 10, 1);
    world.brokers.partition("t", 0).start = 4;
    let mut lenient = consumer(ConsumerConfig { reset: OffsetReset::Earliest, ..ConsumerConfig::default() });
    lenient.assign("t", 0, Start::Offset(2));
    assert_eq!(read(&mut world, &mut lenient, 6)[&0], [4, 5, 6, 7, 8, 9]);
}

#[test]
fn a_damaged_batch_stops_its_partition_only() {
    let mut world = world();
    fill(&mut world, 0, 3, 2);
    fill(&mut world, 1, 3, 2);
    let stored = &mut world.brokers.partition("t", 0).log[1];
    let mut bytes = stored.bytes.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    stored.bytes = Bytes::from(bytes);
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Earliest);
    consumer.assign("t", 1, Start::Earliest);
    let offsets = read(&mut world, &mut consumer, 8);
    assert_eq!(offsets, BTreeMap::from([(0, vec![0, 1]), (1, vec![0, 1, 2, 3, 4, 5])]));
    assert!(matches!(expect_error(&mut world, &mut consumer), ConsumeError::Damaged { offset: 2, .. }));
    assert_eq!(consumer.position("t", 0), Some(2));
    assert!(consumer.seek("t", 0, Start::Offset(4)), "the user may go past it");
    assert_eq!(read(&mut world, &mut consumer, 2)[&0], [4, 5]);
}

#[test]
fn a_batch_that_unpacks_to_too_much_is_refused() {
    let mut world = world();
    let mut builder = BatchBuilder::new(Compression::Gzip);
    builder.append(5, None, Some(&vec![0; 100_000]), &[]).unwrap();
    let view = BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap();
    world.brokers.partition("t", 0).append_unchecked(&view);
    let mut consumer = consumer(ConsumerConfig { batch_bytes_max: 50_000, ..ConsumerConfig::default() });
    consumer.assign("t", 0, Start::Earliest);
    assert!(matches!(expect_error(&mut world, &mut consumer), ConsumeError::Damaged { .. }));
}

#[test]
fn a_missing_topic_is_told_once_and_read_when_it_comes() {
    let mut world = world();
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("later", 0, Start::Offset(0));
    let error = expect_error(&mut world, &mut consumer);
    assert_eq!(error, ConsumeError::Missing);
    assert!(!error.is_final());
    world.run(&mut consumer, Duration::from_secs(2));
    assert_eq!(consumer.next_error(), None);
    world.brokers.create("later", 1);
    let view = batch(0, 1, Compression::None);
    world.brokers.partition("later", 0).append_unchecked(&view);
    assert_eq!(read(&mut world, &mut consumer, 1)[&0], [0]);
}

#[test]
fn what_does_not_pass_can_be_told_from_waiting_for_records() {
    let mut world = world();
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Offset(0));
    consumer.assign("t", 1, Start::Offset(0));
    world.run(&mut consumer, Duration::from_secs(5));
    assert_eq!(
        (consumer.failing("t", 0), consumer.failing("t", 1)),
        (None, None),
        "there are no records, and no errors"
    );

    let begun = world.now.monotonic;
    let errors = vec![ErrorCode::NotLeaderOrFollower; 10_000];
    world.brokers.fetch_errors.insert(("t".into(), 0), errors.into());
    // The broker waits for records before it looks again.
    fill(&mut world, 0, 1, 1);
    world.run(&mut consumer, MINUTE);
    let failing = consumer.failing("t", 0).unwrap();
    assert!(failing.since.since(begun) < Duration::from_secs(5), "{failing:?}");
    assert_eq!(failing.last, ErrorCode::NotLeaderOrFollower.to_string());
    assert_eq!(consumer.failing("t", 1), None);
    assert_eq!(consumer.next_error(), None);

    world.brokers.fetch_errors.clear();
    assert_eq!(read(&mut world, &mut consumer, 1)[&0], [0]);
    assert_eq!(consumer.failing("t", 0), None);

    let begun = world.now.monotonic;
    (1..=3).for_each(|node| world.down(node));
    world.run(&mut consumer, MINUTE);
    for partition in [0, 1] {
        let failing = consumer.failing("t", partition).unwrap();
        assert!(failing.since.since(begun) < Duration::from_secs(5), "{failing:?}");
        assert!(failing.last.contains("is not reached"), "{failing:?}");
    }
}

#[test]
fn a_refusal_for_good_stops_the_partition() {
    let mut world = world();
    let errors = world.brokers.fetch_errors.entry(("t".into(), 0)).or_default();
    errors.push_back(ErrorCode::KafkaStorageError);
    errors.push_back(ErrorCode::TopicAuthorizationFailed);
    let mut consumer = consumer(ConsumerConfig::default());
    consumer.assign("t", 0, Start::Offset(0));
    let error = expect_error(&mut world, &mut consumer);
    assert_eq!(error, ConsumeError::Refused(ErrorCode::TopicAuthorizationFailed));
}

#[test]
fn committed_records_are_told_from_aborted_ones() {
    let mut world = world();
    let transactional = |id: i64, value: u64| {
        let mut builder = BatchBuilder::with_kind(Compression::None, BatchKind::Transactional);
        builder.append(0, None, Some(&value.to_be_bytes()), &[]).unwrap();
        BatchView::new(builder.build(Producer { id, epoch: 0, base_sequence: 0 }).unwrap()).unwrap()
    };
    let marker = |id: i64, commit: u8| {
        let mut builder = BatchBuilder::with_kind(Compression::None, BatchKind::TransactionMarker);
        builder.append(0, Some(&[0, 0, 0, commit]), Some(&[0; 6]), &[]).unwrap();
        BatchView::new(builder.build(Producer { id, epoch: 0, base_sequence: -1 }).unwrap()).unwrap()
    };
    let partition = world.brokers.partition("t", 0);
    // Offsets 0 to 6: one producer commits, another aborts and then commits.
    for view in [
        transactional(1, 0),
        transactional(2, 1),
        marker(2, 0),
        transactional(2, 3),
        marker(1, 1),
        marker(2, 1),
        batch(6, 1, Compression::None),
    ] {
        partition.append_unchecked(&view);
    }
    world.brokers.aborted = vec![(2, 1)];
    let mut committed = consumer(ConsumerConfig { read_committed: true, ..ConsumerConfig::default() });
    committed.assign("t", 0, Start::Offset(0));
    assert_eq!(read(&mut world, &mut committed, 3)[&0], [0, 3, 6]);
    assert_eq!(committed.position("t", 0), Some(7));

    let brokers = world.brokers;
    let mut world = self::world();
    world.brokers = brokers;
    let mut all = consumer(ConsumerConfig::default());
    all.assign("t", 0, Start::Offset(0));
    assert_eq!(read(&mut world, &mut all, 4)[&0], [0, 1, 3, 6], "markers are never records");
}

#[test]
fn offsets_are_found_by_place_and_time() {
    let mut world = world();
    fill(&mut world, 0, 10, 1);
    world.brokers.partition("t", 0).start = 2;
    let mut consumer = consumer(ConsumerConfig::default());
    let mut find = |world: &mut World, partition, at| {
        let id = consumer.find_offset(world.now, "t", partition, at, Duration::from_secs(2));
        let mut found = None;
        world.run_until(&mut consumer, MINUTE, |consumer, _| {
            found = consumer.next_found();
            found.is_some()
        });
        let (of, result) = found.unwrap();
        assert_eq!(of, id);
        result.map(|found| found.map(|found| found.offset))
    };
    assert_eq!(find(&mut world, 0, OffsetAt::Earliest), Ok(Some(2)));
    assert_eq!(find(&mut world, 0, OffsetAt::Latest), Ok(Some(10)));
    assert_eq!(find(&mut world, 0, OffsetAt::Timestamp(41)), Ok(Some(5)));
    assert_eq!(find(&mut world, 0, OffsetAt::Timestamp(91)), Ok(None));
    assert!(matches!(find(&mut world, 9, OffsetAt::Latest), Err(OffsetError::TimedOut { .. })));
}

#[derive(Clone, Debug)]
enum Step {
    Fill { partition: i32, batches: u64, count: u64 },
    Wait { millis: u64 },
    Cut { node: i32 },
    Down { node: i32 },
    Mute { node: i32 },
    Up { node: i32 },
    Move { partition: i32, node: i32 },
    EndSessions,
    Error { partition: i32, error: ErrorCode },
    Read { count: usize },
    Pause { partition: i32 },
    Resume { partition: i32 },
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 1..=3i32;
    let partition = || 0..3i32;
    let errors = vec![
        ErrorCode::NotLeaderOrFollower,
        ErrorCode::UnknownLeaderEpoch,
        ErrorCode::OffsetNotAvailable,
        ErrorCode::UnknownTopicOrPartition,
    ];
    prop_oneof![
        4 => (partition(), 1..5u64, 1..10u64).prop_map(|(partition, batches, count)| Step::Fill { partition, batches, count }),
        5 => (0..60u64).prop_map(|millis| Step::Wait { millis }),
        1 => (100..3000u64).prop_map(|millis| Step::Wait { millis }),
        2 => node().prop_map(|node| Step::Cut { node }),
        1 => node().prop_map(|node| Step::Down { node }),
        1 => node().prop_map(|node| Step::Mute { node }),
        2 => node().prop_map(|node| Step::Up { node }),
        2 => (partition(), node()).prop_map(|(partition, node)| Step::Move { partition, node }),
        1 => Just(Step::EndSessions),
        1 => (partition(), prop::sample::select(errors)).prop_map(|(partition, error)| Step::Error { partition, error }),
        4 => (0..40usize).prop_map(|count| Step::Read { count }),
        1 => partition().prop_map(|partition| Step::Pause { partition }),
        1 => partition().prop_map(|partition| Step::Resume { partition }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_record_comes_once_and_in_order(steps in prop::collection::vec(step(), 1..60), seed: u64) {
        let mut world = world();
        world.seed(seed);
        world.delay_max = Duration::from_millis(1 + seed % 15);
        world.brokers.hints = seed.is_multiple_of(2);
        world.brokers.fetch_bytes = 300;
        let mut cluster = cluster_config();
        cluster.bootstrap = (1..=3).map(support::world::address).collect();
        cluster.request_timeout = Duration::from_millis(1500);
        cluster.connect_timeout = Duration::from_millis(300);
        let config = ConsumerConfig {
            fetch_bytes: 1000,
            partition_bytes: 500,
            prefetch_bytes: 3000,
            ..ConsumerConfig::default()
        };
        let mut consumer = Consumer::new(cluster, config);
        for partition in 0..3 {
            consumer.assign("t", partition, Start::Earliest);
        }
        let mut next = [0i64; 3];
        let mut take = |consumer: &mut Consumer, count: usize| {
            for _ in 0..count {
                let Some(record) = consumer.next_record() else { break };
                let next = &mut next[record.partition as usize];
                assert_eq!(record.offset, *next);
                *next += 1;
                assert_eq!(consumer.position("t", record.partition), Some(*next));
            }
            while let Some(error) = consumer.next_error() {
                assert_eq!(error.error, ConsumeError::Missing);
            }
            next
        };
        for step in steps {
            match step {
                Step::Fill { partition, batches, count } => fill(&mut world, partition, batches, count),
                Step::Wait { millis } => world.run(&mut consumer, Duration::from_millis(millis)),
                Step::Cut { node } => world.cut(node),
                Step::Down { node } => world.down(node),
                Step::Mute { node } => world.mute(node),
                Step::Up { node } => world.up(node),
                Step::Move { partition, node } => world.brokers.partition("t", partition).move_to(node),
                Step::EndSessions => world.brokers.end_sessions(),
                Step::Error { partition, error } => {
                    world.brokers.fetch_errors.entry(("t".into(), partition)).or_default().push_back(error);
                }
                Step::Read { count } => {
                    take(&mut consumer, count);
                }
                Step::Pause { partition } => {
                    consumer.pause("t", partition);
                }
                Step::Resume { partition } => {
                    consumer.resume("t", partition);
                }
            }
            world.settle(&mut consumer);
        }
        for partition in 0..3 {
            world.up(partition + 1);
            consumer.resume("t", partition);
        }
        let ends = [0, 1, 2].map(|partition| world.brokers.partition("t", partition).end());
        world.run_until(&mut consumer, MINUTE, |consumer, _| take(consumer, usize::MAX) == ends);
    }
}
