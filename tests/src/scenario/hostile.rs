//! Bytes that no client sends, and clients that misbehave, beside one that does not.
//!
//! Through all of it the well-behaved client writes and reads, no record is lost, and the nodes' memory stays bounded.
//! The limit of memory is that of normal work.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kauri_protocol::{
    header::request_frame,
    messages::{
        FetchRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest,
        fetch::{FetchPartition, FetchTopic},
        list_offsets::{ListOffsetsPartition, ListOffsetsTopic},
        produce::{PartitionProduceData, TopicProduceData},
    },
    records::{BatchBuilder, Compression, NO_PRODUCER},
};

use super::{Extent, memory::assert_memory};
use crate::{
    cluster::Cluster,
    kafka::{Client, Connection},
    patience::until,
};

const TOPIC: &str = "hostile";
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest that the well-behaved client may wait for one write and one read.
const LATENCY_MAX: Duration = Duration::from_secs(5);

pub(super) fn run(extent: Extent) {
    let scale = match extent {
        Extent::Quick => 1,
        Extent::Full => 10,
    };
    let mut cluster = Cluster::start(3);
    let bootstrap = cluster.bootstrap();
    Client::new(&bootstrap, PATIENCE).create_topic(TOPIC, 3, 3);
    let attacks: [(&str, Attack); 9] = [
        ("arrays of 2^31-1 elements", arrays),
        ("lengths that no frame has", lengths),
        ("truncated frames", truncated),
        ("random frames", random),
        ("damaged batches", damaged_batches),
        ("decompression bombs", bombs),
        ("connections that trickle", slow_loris),
        ("large frames that never end", unfinished),
        ("clients that never read", deaf),
    ];
    let over = AtomicBool::new(false);
    let slowest = AtomicU64::new(0);
    thread::scope(|scope| {
        let client = scope.spawn(|| behave(&bootstrap, &over, &slowest));
        for (name, attack) in attacks {
            let start = Instant::now();
            for node in &cluster.nodes {
                attack(&Target { address: node.address.clone(), bootstrap: bootstrap.clone() }, scale);
            }
            let memory: Vec<String> =
                cluster.nodes.iter().map(|node| format!("{}", node.memory_bytes() >> 20)).collect();
            println!(
                "{name}: {} ms; the well-behaved client waited {} ms at most; memory now {} MiB",
                start.elapsed().as_millis(),
                slowest.swap(0, Ordering::Relaxed),
                memory.join(", ")
            );
            for node in &mut cluster.nodes {
                assert!(node.is_running(), "node {} ended", node.id);
            }
        }
        over.store(true, Ordering::Relaxed);
        let served = client.join().expect("the well-behaved client was served");
        println!(
            "the well-behaved client wrote and read {} batches, the slowest took {} ms",
            served.batches,
            served.slowest.as_millis()
        );
        assert!(served.slowest <= LATENCY_MAX, "it had to wait too long");
    });
    cluster.assert_all_running();
    assert_memory(&cluster);
}

/// Does it to one node, so many times as long as the quick form.
type Attack = fn(&Target, usize);

struct Target {
    address: String,
    bootstrap: String,
}

impl Target {
    fn connect(&self) -> Connection {
        // A listener's queue may be full for a moment.
        until("a connection", PATIENCE, || Connection::open(&self.address).ok())
    }

    fn open(&self) -> TcpStream {
        self.connect().stream
    }

    /// Sends bytes and waits for the end of the connection, reading whatever is answered.
    fn send_until_closed(&self, bytes: &[u8]) {
        let mut stream = self.open();
        // A node may close before it has everything.
        drop(stream.write_all(bytes));
        assert!(drain(&mut stream), "a connection with nonsense on it stays open");
    }
}

struct Served {
    batches: usize,
    slowest: Duration,
}

/// Writes and reads a batch, over and over.
fn behave(bootstrap: &str, over: &AtomicBool, slowest_ms: &AtomicU64) -> Served {
    let mut client = Client::new(bootstrap, PATIENCE);
    let mut served = Served { batches: 0, slowest: Duration::ZERO };
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let partition = (served.batches % 3) as i32;
        let value = format!("batch {}", served.batches).repeat(500);
        let mut builder = BatchBuilder::new(Compression::Lz4);
        builder.append(served.batches as i64, None, Some(value.as_bytes()), &[]).expect("a small record fits");
        let batch = builder.build(NO_PRODUCER).expect("a small batch fits");
        let offset = client.produce(TOPIC, partition, &batch);
        let found = client.fetch(TOPIC, partition, offset, 1 << 20);
        // The log has the batch with other base offset and epoch, which stand in the first 16 bytes.
        assert_eq!(found.get(16..batch.len()), batch.get(16..), "what was written is read");
        let elapsed = start.elapsed();
        slowest_ms.fetch_max(elapsed.as_millis() as u64, Ordering::Relaxed);
        served.slowest = served.slowest.max(elapsed);
        served.batches += 1;
    }
    served
}

/// Whether the other side closed, as opposed to staying silent until the patience of the socket ended.
fn drain(stream: &mut TcpStream) -> bool {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::TimedOut,
        }
    }
}

/// A frame with its length in front.
fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut frame = u32::try_from(body.len()).expect("a small frame").to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

/// Header of a request: key, version, correlation 7, no client id.
fn header(key: i16, version: i16) -> Vec<u8> {
    [&key.to_be_bytes()[..], &version.to_be_bytes(), &7i32.to_be_bytes(), &(-1i16).to_be_bytes()].concat()
}

/// Numbers for attacks: the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Four bytes of body that promise two billion topics, in both encodings, and the same for other requests.
fn arrays(target: &Target, scale: usize) {
    const PLAIN: [u8; 4] = i32::MAX.to_be_bytes();
    // The unsigned varint of 2^31, which stands for 2^31-1 elements.
    const COMPACT: [u8; 5] = [0x80, 0x80, 0x80, 0x80, 0x08];
    for _ in 0..20 * scale {
        for version in 0..=8 {
            target.send_until_closed(&frame(&[&header(3, version), &PLAIN]));
        }
        for version in 9..=12 {
            target.send_until_closed(&frame(&[&header(3, version), &[0], &COMPACT]));
        }
        // CreateTopics, DeleteTopics and ListOffsets, behind the fields that come first.
        target.send_until_closed(&frame(&[&header(19, 2), &PLAIN]));
        target.send_until_closed(&frame(&[&header(20, 1), &PLAIN]));
        target.send_until_closed(&frame(&[&header(2, 1), &[0xff; 4], &PLAIN]));
    }
}

fn lengths(target: &Target, scale: usize) {
    for _ in 0..10 * scale {
        for length in [-1, i32::MIN, i32::MAX, (100 << 20) + 1, 0, 1, 7] {
            let mut bytes = length.to_be_bytes().to_vec();
            // Metadata, which may be far smaller than Produce.
            bytes.extend_from_slice(&header(3, 9));
            let mut stream = target.open();
            drop(stream.write_all(&bytes));
            drop(stream.shutdown(Shutdown::Write));
            assert!(drain(&mut stream), "length {length} stays open");
        }
        // Metadata of 64 MiB is refused from its header on: the node does not wait for the rest.
        let mut bytes = (64i32 << 20).to_be_bytes().to_vec();
        bytes.extend_from_slice(&header(3, 9));
        target.send_until_closed(&bytes);
    }
}

/// A valid request that ends too early, at every place.
fn truncated(target: &Target, scale: usize) {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(0, Some(b"key"), Some(&[7; 100]), &[(b"header", Some(b"value"))]).expect("a small record fits");
    let produce = produce_frame(builder.build(NO_PRODUCER).expect("a small batch fits"));
    let metadata =
        request_frame(&MetadataRequest::default(), 12, 1, Some("truncated".into())).expect("it fits").concat();
    for _ in 0..scale {
        for whole in [&produce[..], &metadata] {
            for length in 0..whole.len() {
                // Bytes are missing, then the connection ends.
                let mut stream = target.open();
                stream.write_all(&whole[..length]).expect("a node reads what may become a frame");
                drop(stream.shutdown(Shutdown::Write));
                assert!(drain(&mut stream), "half a frame keeps a connection open");
            }
            for length in 8..whole.len() - 4 {
                // The frame is complete, but its content is not. A shorter content may still be a request.
                let mut stream = target.open();
                stream.write_all(&frame(&[&whole[4..length]])).expect("a node reads a frame");
                drop(stream.shutdown(Shutdown::Write));
                assert!(drain(&mut stream), "half a request keeps a connection open");
            }
        }
    }
}

fn random(target: &Target, scale: usize) {
    let mut dice = Dice(0x6b61_7572_6921);
    for _ in 0..1_000 * scale {
        let length = dice.below(300);
        let noise = dice.bytes(length);
        let bytes = match dice.below(3) {
            0 => noise,
            1 => frame(&[&noise]),
            _ => {
                let key = [0, 1, 2, 3, 10, 18, 19, 20, 22, 32, 60][dice.below(11)];
                frame(&[&header(key, dice.below(14) as i16), &noise])
            }
        };
        let mut stream = target.open();
        drop(stream.write_all(&bytes));
        drop(stream.shutdown(Shutdown::Write));
        assert!(drain(&mut stream), "noise keeps a connection open");
    }
}

fn produce_frame(batch: Bytes) -> Vec<u8> {
    let data = PartitionProduceData { index: 0, records: Some(batch) };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 1_000,
        topic_data: vec![TopicProduceData { name: TOPIC.into(), partition_data: vec![data] }],
        ..ProduceRequest::default()
    };
    request_frame(&request, 9, 1, None).expect("a small request fits").concat()
}

/// Batches with one byte changed, anywhere. Each gets an error or, where the byte does not matter, an answer.
fn damaged_batches(target: &Target, scale: usize) {
    let mut builder = BatchBuilder::new(Compression::None);
    for number in 0..3 {
        builder.append(number, None, Some(b"value"), &[]).expect("a small record fits");
    }
    let batch = builder.build(NO_PRODUCER).expect("a small batch fits");
    let mut dice = Dice(0x6b61_7572_6922);
    for _ in 0..scale {
        for position in 0..batch.len() {
            let mut bytes = batch.to_vec();
            bytes[position] ^= 1 + dice.below(255) as u8;
            let mut connection = target.connect();
            connection.stream.write_all(&produce_frame(Bytes::from(bytes))).expect("a node reads a frame");
            connection.read_frame().expect("a damaged batch is answered");
        }
    }
}

/// Batches of up to 1 MiB that become 256 MiB, in which a search by time has to look.
fn bombs(target: &Target, scale: usize) {
    const TOPIC: &str = "bombs";
    let mut client = Client::new(&target.bootstrap, PATIENCE);
    client.create_topic(TOPIC, 1, 3);
    for (time, (compression, bytes)) in (1i64..).zip([
        (Compression::Gzip, 256),
        (Compression::Zstd, 256),
        (Compression::Lz4, 128),
        (Compression::Snappy, 16),
    ]) {
        let zeros = vec![0; bytes << 20];
        let mut builder = BatchBuilder::new(compression);
        builder.append(time * 10, None, Some(&zeros), &[]).expect("less than 2 GiB");
        builder.append(time * 10 + 5, None, Some(b"behind it"), &[]).expect("less than 2 GiB");
        drop(zeros);
        let batch = builder.build(NO_PRODUCER).expect("it is compressed");
        assert!(batch.len() < 1 << 20, "{compression:?} makes {} bytes of it", batch.len());
        client.produce(TOPIC, 0, &batch);
        thread::scope(|scope| {
            for _ in 0..4 * scale.min(4) {
                scope.spawn(|| {
                    let asked = ListOffsetsPartition { timestamp: time * 10 + 3, ..Default::default() };
                    let request = ListOffsetsRequest {
                        topics: vec![ListOffsetsTopic { name: TOPIC.into(), partitions: vec![asked] }],
                        ..ListOffsetsRequest::default()
                    };
                    // An offset, an error, "I do not lead": anything but silence.
                    target.connect().call(&request, 6).expect("a search is answered");
                });
            }
        });
    }
}

/// Holds connections that are misused in some way for a while.
fn hold(connections: Vec<TcpStream>, scale: usize, mut meanwhile: impl FnMut(&mut TcpStream)) {
    let mut connections = connections;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) * scale as u32 {
        connections.iter_mut().for_each(&mut meanwhile);
        thread::sleep(Duration::from_millis(100));
    }
}

/// Many connections on each of which a byte arrives now and then, or none at all.
fn slow_loris(target: &Target, scale: usize) {
    let connections: Vec<TcpStream> = (0..300).map(|_| target.open()).collect();
    let bytes = frame(&[&header(3, 9), &[0; 500]]);
    let mut turn = 0;
    hold(connections, scale, |connection| {
        turn += 1;
        if turn % 3 != 0 {
            drop(connection.write(&bytes[turn / 300 % bytes.len()..][..1]));
        }
    });
}

/// Large produce requests of which only a part comes.
fn unfinished(target: &Target, scale: usize) {
    let part = vec![0; 8 << 20];
    let connections = (0..24).map(|_| {
        let mut stream = target.open();
        let length = (90u32 << 20).to_be_bytes();
        stream.write_all(&[&length, &header(0, 9)[..]].concat()).expect("a node reads the beginning of a frame");
        // The node stops reading when it has enough.
        stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a time is accepted");
        drop(stream.write_all(&part));
        stream
    });
    hold(connections.collect(), scale, |_| {});
}

/// Connections that ask for much and read nothing of it.
fn deaf(target: &Target, scale: usize) {
    const TOPIC: &str = "deaf";
    let mut client = Client::new(&target.bootstrap, PATIENCE);
    client.create_topic(TOPIC, 1, 3);
    while client.end_offset(TOPIC, 0) < 32 {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append(0, None, Some(&[7; 1_000_000]), &[]).expect("1 MB fits");
        client.produce(TOPIC, 0, &builder.build(NO_PRODUCER).expect("1 MB fits"));
    }
    // What each of them may hold is bounded, and so is their number (4096 per node); what all of them hold together is
    // not yet.
    let connections = (0..64usize).map(|number| {
        let mut stream = target.open();
        stream.set_write_timeout(Some(Duration::from_millis(50))).expect("a time is accepted");
        for turn in 0..16 {
            let request = FetchRequest {
                topics: vec![FetchTopic {
                    topic: TOPIC.into(),
                    partitions: vec![FetchPartition {
                        fetch_offset: ((number + turn) % 32) as i64,
                        partition_max_bytes: 1 << 20,
                        ..Default::default()
                    }],
                }],
                ..FetchRequest::default()
            };
            drop(stream.write_all(&request_frame(&request, 11, 1, None).expect("a small request fits").concat()));
        }
        stream
    });
    hold(connections.collect(), scale, |_| {});
}
