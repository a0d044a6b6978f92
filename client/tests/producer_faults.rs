//! Whatever breaks and whenever: every record has one result, an acknowledged one is in the log once and at the offset
//! that was told, acknowledged ones are in order, and what is said not to be written is not.

mod support;

use std::{collections::BTreeMap, time::Duration};

use kauri_client::producer::{Outcome, Producer, ProducerConfig, ProducerRecord, SendId};
use kauri_protocol::error::ErrorCode;
use proptest::prelude::*;
use support::{broker::Lie, cluster_config, world::World};

const PARTITIONS: i32 = 2;

#[derive(Clone, Debug)]
enum Step {
    Send { partition: i32, count: u32 },
    Wait { millis: u64 },
    Cut { node: i32 },
    Down { node: i32 },
    Mute { node: i32 },
    Up { node: i32 },
    Move { partition: i32, node: i32 },
    Lie { partition: i32, lie: Lie },
    Stale { node: i32 },
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 1..=3i32;
    let partition = || 0..PARTITIONS;
    // Errors that a broker may answer with after it has written the batch, and such that it answers instead.
    let lie = prop_oneof![
        prop::sample::select(vec![
            ErrorCode::RequestTimedOut,
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::NotEnoughReplicasAfterAppend,
            ErrorCode::UnknownServerError,
        ])
        .prop_map(Lie::AfterAppend),
        prop::sample::select(vec![
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::LeaderNotAvailable,
            ErrorCode::NotEnoughReplicas,
            ErrorCode::MessageTooLarge,
            ErrorCode::UnknownTopicOrPartition,
            ErrorCode::OutOfOrderSequenceNumber,
            ErrorCode::InvalidProducerEpoch,
            ErrorCode::UnknownServerError,
        ])
        .prop_map(Lie::Instead),
    ];
    prop_oneof![
        6 => (partition(), 1..20u32).prop_map(|(partition, count)| Step::Send { partition, count }),
        6 => (0..40u64).prop_map(|millis| Step::Wait { millis }),
        1 => (100..4000u64).prop_map(|millis| Step::Wait { millis }),
        3 => node().prop_map(|node| Step::Cut { node }),
        1 => node().prop_map(|node| Step::Down { node }),
        1 => node().prop_map(|node| Step::Mute { node }),
        2 => node().prop_map(|node| Step::Up { node }),
        3 => (partition(), node()).prop_map(|(partition, node)| Step::Move { partition, node }),
        3 => (partition(), lie).prop_map(|(partition, lie)| Step::Lie { partition, lie }),
        1 => node().prop_map(|node| Step::Stale { node }),
    ]
}

#[derive(Debug, Default)]
struct Sent {
    /// Partition of each record; its value is its number.
    partitions: BTreeMap<SendId, i32>,
    results: BTreeMap<SendId, Result<i64, Outcome>>,
}

fn take(producer: &mut Producer, sent: &mut Sent) {
    while let Some((id, result)) = producer.next_result() {
        let result = match result {
            Ok(delivered) => Ok(delivered.offset.expect("the fake broker always tells")),
            Err(failure) => Err(failure.outcome),
        };
        assert!(sent.results.insert(id, result).is_none(), "a record has one result");
    }
}

fn run(steps: Vec<Step>, seed: u64, delivery_timeout: Duration, batch_bytes: usize) {
    let mut world = World::new(&[1, 2, 3]);
    world.seed(seed);
    world.delay_max = Duration::from_millis(1 + seed % 15);
    world.brokers.hints = seed.is_multiple_of(2);
    world.brokers.create("t", PARTITIONS);
    let mut cluster = cluster_config();
    cluster.bootstrap = (1..=3).map(support::world::address).collect();
    cluster.request_timeout = Duration::from_millis(800);
    cluster.connect_timeout = Duration::from_millis(300);
    let config = ProducerConfig {
        delivery_timeout,
        batch_bytes,
        linger: Duration::from_millis(seed % 4),
        ..ProducerConfig::default()
    };
    let mut producer = Producer::new(cluster, config);
    let mut sent = Sent::default();
    for step in steps {
        match step {
            Step::Send { partition, count } => {
                for _ in 0..count {
                    let value = producer.next_id().0.to_be_bytes();
                    let record = ProducerRecord {
                        topic: "t",
                        partition: Some(partition),
                        value: Some(&value),
                        ..ProducerRecord::default()
                    };
                    let id = producer.send(world.now, record).unwrap();
                    sent.partitions.insert(id, partition);
                }
            }
            Step::Wait { millis } => world.run(&mut producer, Duration::from_millis(millis)),
            Step::Cut { node } => world.cut(node),
            Step::Down { node } => world.down(node),
            Step::Mute { node } => world.mute(node),
            Step::Up { node } => {
                world.up(node);
                world.brokers.stale.clear();
            }
            Step::Move { partition, node } => world.brokers.partition("t", partition).move_to(node),
            Step::Lie { partition, lie } => world.brokers.lie("t", partition, lie),
            Step::Stale { node } => {
                let old = world.brokers.metadata(&["t".into()]);
                world.brokers.stale.insert(node, old);
            }
        }
        world.settle(&mut producer);
        take(&mut producer, &mut sent);
    }
    // Everything heals, and then everything must end soon.
    for node in 1..=3 {
        world.up(node);
    }
    world.brokers.stale.clear();
    world.brokers.lies.clear();
    world.run_until(&mut producer, Duration::from_secs(6), |producer, _| {
        take(producer, &mut sent);
        producer.is_idle()
    });
    take(&mut producer, &mut sent);
    assert_eq!(producer.held_bytes(), 0);
    check(&mut world, &sent);
}

fn check(world: &mut World, sent: &Sent) {
    assert!(sent.partitions.keys().eq(sent.results.keys()), "every record has a result");
    for partition in 0..PARTITIONS {
        let mut found: BTreeMap<SendId, Vec<i64>> = BTreeMap::new();
        for record in world.brokers.partition("t", partition).records() {
            let id = SendId(u64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap()));
            found.entry(id).or_default().push(record.offset);
        }
        let mut last = -1;
        for (id, _) in sent.partitions.iter().filter(|(_, at)| **at == partition) {
            let offsets = found.remove(id).unwrap_or_default();
            match sent.results[id] {
                Ok(offset) => {
                    assert_eq!(offsets, [offset], "{id:?} is acknowledged");
                    assert!(offset > last, "{id:?} is behind a later record");
                    last = offset;
                }
                Err(Outcome::NotWritten) => assert!(offsets.is_empty(), "{id:?} is said not to be written"),
                Err(Outcome::Unknown) => assert!(offsets.len() <= 1, "{id:?} is written twice"),
            }
        }
        assert!(found.is_empty(), "records of another partition: {found:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_records_are_in_the_log_once_and_in_order(
        steps in prop::collection::vec(step(), 1..60),
        seed: u64,
        delivery_millis in prop_oneof![Just(60_000u64), 500..5000u64],
        batch_bytes in prop_oneof![Just(1usize), Just(300), Just(100_000)],
    ) {
        run(steps, seed, Duration::from_millis(delivery_millis), batch_bytes);
    }
}
