//! The driver for tokio over real sockets on loopback, against the brokers in memory.
#![cfg(feature = "tokio")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use kauri_client::{
    admin::NewTopic,
    cluster::ClusterConfig,
    consumer::{ConsumerConfig, Start},
    producer::{Acks, ProducerConfig, ProducerRecord},
    tokio::{admin, consumer, producer},
};
use kauri_protocol::{
    frame::{FrameLimits, FrameSplitter},
    header::RequestHeader,
    messages::{Request, Response},
    wire::Reader,
};
use support::{broker::Brokers, world::encode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// One broker on a port of its own.
struct Server {
    shared: Arc<Shared>,
    config: ClusterConfig,
}

struct Shared {
    brokers: Mutex<Brokers>,
    /// Told after every produce.
    written: Notify,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut brokers = Brokers::new(&[1]);
        brokers.create("t", 2);
        let shared = Arc::new(Shared { brokers: Mutex::new(brokers), written: Notify::new() });
        let served = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served), port));
            }
        });
        Self { shared, config: ClusterConfig::new(vec![("127.0.0.1".to_owned(), port)], "test") }
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>, port: u16) {
    let mut splitter = FrameSplitter::new(FrameLimits::Fixed { bytes_max: 100 << 20 });
    loop {
        match stream.read(splitter.spare()).await {
            Ok(0) | Err(_) => return,
            Ok(count) => splitter.commit(count),
        }
        while let Some(frame) = splitter.next_frame().unwrap() {
            if let Some(answer) = answer(&shared, frame, port).await {
                let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
                if stream.write_all(&[&length[..], &answer].concat()).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn answer(shared: &Shared, frame: Bytes, port: u16) -> Option<Bytes> {
    let Shared { brokers, written } = shared;
    let mut reader = Reader::new(frame);
    let header = RequestHeader::decode(&mut reader).unwrap();
    let request = Request::decode(header.api_key, &mut reader, header.api_version).unwrap();
    let is_produce = matches!(request, Request::Produce(_));
    let mut patient = matches!(request, Request::Fetch(_));
    loop {
        let written = written.notified();
        let mut written = std::pin::pin!(written);
        written.as_mut().enable();
        let answer = brokers.lock().unwrap().answer(1, request.clone(), patient);
        if is_produce {
            shared.written.notify_waiters();
        }
        if let Some(mut answer) = answer {
            if let Response::Metadata(metadata) = &mut answer {
                for broker in &mut metadata.brokers {
                    broker.host = "127.0.0.1".into();
                    broker.port = port.into();
                }
            }
            return Some(encode(&header, &answer));
        }
        if !patient {
            return None;
        }
        patient = tokio::time::timeout(Duration::from_millis(200), written).await.is_ok();
    }
}

fn record(partition: i32, value: &[u8]) -> ProducerRecord<'_> {
    ProducerRecord { topic: "t", partition: Some(partition), value: Some(value), ..ProducerRecord::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_read() {
    let server = Server::start().await;
    let producer = producer::Handle::start(server.config.clone(), ProducerConfig::default());
    let consumer = consumer::Handle::start(server.config.clone(), ConsumerConfig::default());
    consumer.assign("t", 0, Start::Earliest);
    consumer.assign("t", 1, Start::Latest);
    let mut deliveries = Vec::new();
    for value in 0..1000u32 {
        deliveries.push(producer.send(record(0, &value.to_be_bytes())).await.unwrap());
    }
    for (offset, delivery) in (0..).zip(deliveries) {
        assert_eq!(delivery.await.unwrap().offset, Some(offset));
    }
    for value in 0..1000u32 {
        let record = consumer.next().await.unwrap();
        assert_eq!((record.offset, record.value), (i64::from(value), Some(value.to_be_bytes().to_vec().into())));
    }
    assert!(consumer.try_next().is_none());
    assert_eq!(consumer.position("t", 0), Some(1000));
    assert_eq!(consumer.end_offset("t", 0, Duration::from_secs(10)).await, Ok(1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_a_producer_and_a_small_buffer() {
    let server = Server::start().await;
    let config = ProducerConfig { buffer_bytes: 20_000, linger: Duration::from_millis(1), ..ProducerConfig::default() };
    let producer = producer::Handle::start(server.config.clone(), config);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let producer = producer.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    producer.send_and_forget(record(1, &[7; 500])).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    producer.flush().await;
    assert_eq!(server.shared.brokers.lock().unwrap().partition("t", 1).records().len(), 800);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_last_handle_still_sends_what_was_taken() {
    for acks in [Acks::All, Acks::None] {
        let server = Server::start().await;
        let config = ProducerConfig { acks, linger: Duration::from_secs(60), ..ProducerConfig::default() };
        let producer = producer::Handle::start(server.config.clone(), config);
        let delivery = producer.send(record(0, b"last")).await.unwrap();
        drop(producer);
        delivery.await.unwrap();
        let consumer = consumer::Handle::start(server.config.clone(), ConsumerConfig::default());
        consumer.assign("t", 0, Start::Earliest);
        assert_eq!(consumer.next().await.unwrap().value, Some(Bytes::from("last")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_administered() {
    let server = Server::start().await;
    let admin = admin::Handle::start(server.config.clone(), Duration::from_secs(10));
    let created = admin.create_topics([NewTopic::new("new")], false).await.unwrap();
    assert!(created["new"].is_ok());
    assert_eq!(admin.list_topics().await.unwrap().len(), 2);
    assert!(admin.delete_topics(["new"]).await.unwrap()["new"].is_ok());
    assert_eq!(admin.list_topics().await.unwrap().len(), 1);
    assert_eq!(admin.describe_cluster().await.unwrap().controller, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_an_error_and_not_a_wait_without_end() {
    // A port that was just free; whoever takes it meanwhile does not speak Kafka.
    let port = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let config = ClusterConfig::new(vec![("127.0.0.1".to_owned(), port)], "test");
    let admin = admin::Handle::start(config, Duration::from_millis(200));
    assert!(admin.list_topics().await.is_err());
}
