//! Brokers whose answers are damaged: the client may fail, never panic, and its memory stays its own.

mod support;

use std::time::Duration;

use kauri_client::{
    consumer::{Consumer, ConsumerConfig, OffsetReset, Start},
    offsets::OffsetAt,
    producer::{Producer, ProducerConfig, ProducerRecord},
};
use proptest::prelude::*;
use support::{cluster_config, world::World};

fn world(seed: u64) -> World {
    let mut world = World::new(&[1, 2, 3]);
    world.brokers.create("t", 3);
    world.seed(seed);
    world.corrupt = true;
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_producer_survives_damaged_answers(seed: u64) {
        let mut world = world(seed);
        let config = ProducerConfig {
            linger: Duration::ZERO,
            delivery_timeout: Duration::from_secs(3),
            ..ProducerConfig::default()
        };
        let mut cluster = cluster_config();
        cluster.request_timeout = Duration::from_secs(1);
        let mut producer = Producer::new(cluster, config);
        for round in 0..30 {
            let key = [round];
            let keyed = ProducerRecord { topic: "t", key: Some(&key), value: Some(b"v"), ..ProducerRecord::default() };
            producer.send(world.now, keyed).unwrap();
            producer.send(world.now, ProducerRecord { partition: Some(1), ..keyed }).unwrap();
            world.corrupt = round % 4 != 0;
            world.run(&mut producer, Duration::from_millis(100));
            while producer.next_result().is_some() {}
        }
        world.corrupt = false;
        world.run_until(&mut producer, Duration::from_secs(60), |producer, _| producer.is_idle());
    }

    #[test]
    fn a_consumer_survives_damaged_answers(seed: u64) {
        let mut world = world(seed);
        let config = ConsumerConfig {
            reset: OffsetReset::Earliest,
            check_crc: seed.is_multiple_of(2),
            wait_max: Duration::from_millis(100),
            ..ConsumerConfig::default()
        };
        let mut cluster = cluster_config();
        cluster.request_timeout = Duration::from_secs(1);
        let mut consumer = Consumer::new(cluster, config);
        let view = {
            use kauri_protocol::records::{BatchBuilder, BatchView, Compression, NO_PRODUCER};
            let mut builder = BatchBuilder::new(Compression::None);
            builder.append(0, Some(b"k"), Some(b"v"), &[(b"h", None)]).unwrap();
            BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap()
        };
        for round in 0..30 {
            for partition in 0..3 {
                world.brokers.partition("t", partition).append_unchecked(&view);
                if round % 7 == 0 {
                    consumer.assign("t", partition, Start::Earliest);
                }
            }
            consumer.find_offset(world.now, "t", 0, OffsetAt::Latest, Duration::from_secs(1));
            world.corrupt = round % 4 != 0;
            world.run(&mut consumer, Duration::from_millis(100));
            while consumer.next_record().is_some() || consumer.next_error().is_some() {}
            while consumer.next_found().is_some() {}
        }
    }
}
