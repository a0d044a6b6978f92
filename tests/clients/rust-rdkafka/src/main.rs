//! The scenario with rdkafka, the Rust binding of librdkafka.

use std::time::{Duration, Instant, SystemTime};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
    types::RDKafkaErrorCode,
    util::{Timeout, get_rdkafka_version},
};

const PARTITIONS: i32 = 3;
const RECORDS: usize = 60;
const START_MS: i64 = 1_700_000_000_000;
const STEP_MS: i64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(30);

struct Way {
    name: &'static str,
    compression: &'static str,
    acks: &'static str,
    idempotent: bool,
}

const fn way(name: &'static str, compression: &'static str, acks: &'static str, idempotent: bool) -> Way {
    Way { name, compression, acks, idempotent }
}

const WAYS: [Way; 8] = [
    way("none", "none", "all", false),
    way("gzip", "gzip", "all", false),
    way("snappy", "snappy", "all", false),
    way("lz4", "lz4", "all", false),
    way("zstd", "zstd", "all", false),
    way("acks-0", "none", "0", false),
    way("acks-1", "none", "1", false),
    way("idempotent", "lz4", "all", true),
];

/// A record, apart from its partition and offset.
#[derive(Debug, PartialEq)]
struct Record {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: i64,
}

/// The records of one way of producing, in order. Timestamps grow over all ways.
fn records(number: usize, partition: i32) -> Vec<Record> {
    let way = WAYS[number].name;
    let record = |i: usize| Record {
        key: (i % 7 != 3).then(|| format!("{way}/{partition}/{i}").into_bytes()),
        value: match i % 11 {
            5 => None,
            6 => Some(Vec::new()),
            _ => Some(format!("{way} {partition} {i} ").repeat(1 + i * 5 % 97).into_bytes()),
        },
        headers: if i % 3 == 0 {
            let text = |text: &str| Some(text.as_bytes().to_vec());
            [("way", text(way)), ("number", text(&i.to_string())), ("way", text("again")), ("nothing", None)]
                .map(|(key, value)| (key.to_owned(), value))
                .to_vec()
        } else {
            Vec::new()
        },
        timestamp: START_MS + (number * RECORDS + i) as i64 * STEP_MS,
    };
    (0..RECORDS).map(record).collect()
}

#[tokio::main]
async fn main() {
    let bootstrap = std::env::var("KAURI_BOOTSTRAP").expect("KAURI_BOOTSTRAP has the addresses of a cluster");
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    let topic = format!("rdkafka-{}", started.as_nanos());
    let admin: AdminClient<DefaultClientContext> = config(&bootstrap).create().expect("an admin client");
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let new_topic = NewTopic::new(&topic, PARTITIONS, TopicReplication::Fixed(3));
    let created = admin.create_topics([&new_topic], &options).await.expect("an answer");
    assert_eq!(created, [Ok(topic.clone())]);

    for number in 0..WAYS.len() {
        produce(&bootstrap, &topic, number).await;
    }

    let total = (RECORDS * WAYS.len()) as i64;
    for partition in 0..PARTITIONS {
        let found = read(&bootstrap, &topic, partition, Offset::Beginning);
        let expected: Vec<Record> = (0..WAYS.len()).flat_map(|number| records(number, partition)).collect();
        assert_eq!(found.len(), expected.len());
        for ((offset, record), (number, expected)) in found.iter().zip((0..).zip(&expected)) {
            assert_eq!((*offset, record), (number, expected));
        }
        let middle = total / 2 + 3;
        let offsets: Vec<i64> =
            read(&bootstrap, &topic, partition, Offset::Offset(middle)).iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (middle..total).collect::<Vec<_>>());
    }

    let consumer = consumer(&bootstrap);
    for wanted in [0, 1, total / 2, total - 1] {
        let mut times = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            let time = Offset::Offset(START_MS + wanted * STEP_MS - STEP_MS / 2);
            times.add_partition_offset(&topic, partition, time).expect("a time");
        }
        for found in consumer.offsets_for_times(times, PATIENCE).expect("offsets of times").elements() {
            assert_eq!(found.offset(), Offset::Offset(wanted));
        }
    }
    assert_eq!(consumer.fetch_watermarks(&topic, 2, PATIENCE).expect("watermarks"), (0, total));

    let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).expect("metadata");
    assert_eq!(metadata.brokers().len(), 3);
    let described = &metadata.topics()[0];
    assert_eq!(described.partitions().len(), PARTITIONS as usize);
    assert!(described.partitions().iter().all(|partition| partition.replicas().len() == 3));
    let configs = admin.describe_configs([&ResourceSpecifier::Topic(&topic)], &options).await.expect("an answer");
    assert!(configs[0].as_ref().expect("configs").get("max.message.bytes").is_some());

    assert_eq!(admin.delete_topics(&[&topic], &options).await.expect("an answer"), [Ok(topic.clone())]);
    let start = Instant::now();
    while consumer.fetch_metadata(None, PATIENCE).expect("metadata").topics().iter().any(|found| found.name() == topic)
    {
        assert!(start.elapsed() < PATIENCE, "the topic is still listed");
    }
    println!("ok rdkafka, librdkafka {}", get_rdkafka_version().1);
}

fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config
}

async fn produce(bootstrap: &str, topic: &str, number: usize) {
    let way = &WAYS[number];
    let producer: FutureProducer = config(bootstrap)
        .set("compression.type", way.compression)
        .set("acks", way.acks)
        .set("enable.idempotence", way.idempotent.to_string())
        .set("linger.ms", "20")
        .set("batch.num.messages", "25")
        .create()
        .expect("a producer");
    let mut sent = Vec::new();
    for partition in 0..PARTITIONS {
        for record in records(number, partition) {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            });
            let message: FutureRecord<'_, [u8], [u8]> = FutureRecord {
                topic,
                partition: Some(partition),
                payload: record.value.as_deref(),
                key: record.key.as_deref(),
                timestamp: Some(record.timestamp),
                headers: Some(headers),
            };
            sent.push(producer.send_result(message).map_err(|(error, _)| error).expect("room in the queue"));
        }
    }
    producer.flush(Timeout::After(PATIENCE)).expect("everything is delivered");
    for delivery in sent {
        delivery.await.expect("an outcome").map_err(|(error, _)| error).expect(way.name);
    }
}

fn consumer(bootstrap: &str) -> BaseConsumer {
    // A group id is demanded by the library; nothing is committed.
    config(bootstrap)
        .set("group.id", "unused")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer")
}

fn read(bootstrap: &str, topic: &str, partition: i32, from: Offset) -> Vec<(i64, Record)> {
    let consumer = consumer(bootstrap);
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, from).expect("an offset");
    consumer.assign(&assignment).expect("an assignment");
    let mut found = Vec::new();
    loop {
        match consumer.poll(PATIENCE).expect("a message in time") {
            Ok(message) => found.push((message.offset(), record(&message))),
            Err(KafkaError::PartitionEOF(_)) => return found,
            // The library looks for the coordinator of the group, and passes on the answer once.
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::GroupAuthorizationFailed)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    Record {
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp: message.timestamp().to_millis().expect("a timestamp"),
    }
}
