//! A small blocking Kafka client, for tests that need one without anybody's retries in between.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use bytes::Bytes;
use kauri_protocol::{
    ErrorCode, Message, Reader, RequestMessage, ResponseHeader,
    header::request_frame,
    messages::{
        CreateTopicsRequest, FetchRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, ProduceRequest,
        create_topics::CreatableTopic,
        fetch::{FetchPartition, FetchTopic},
        list_offsets::{LATEST_TIMESTAMP, ListOffsetsPartition, ListOffsetsTopic},
        metadata::MetadataRequestTopic,
        produce::{PartitionProduceData, TopicProduceData},
    },
};

use crate::patience::until;

/// No answer may take longer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
const DIAL_PATIENCE: Duration = Duration::from_secs(5);
const CLIENT_ID: &str = "kauri-tests";

/// One connection; requests are answered one by one.
#[derive(Debug)]
pub struct Connection {
    pub stream: TcpStream,
    correlation: i32,
}

impl Connection {
    pub fn open(address: &str) -> io::Result<Self> {
        let address = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let stream = TcpStream::connect_timeout(&address, DIAL_PATIENCE)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Sends a request and reads its answer to the last byte.
    pub fn call<M: RequestMessage>(&mut self, request: &M, version: i16) -> io::Result<M::Response> {
        self.correlation += 1;
        let frame =
            request_frame(request, version, self.correlation, Some(CLIENT_ID.into())).map_err(io::Error::other)?;
        self.stream.write_all(&frame.concat())?;
        let mut reader = Reader::new(self.read_frame()?);
        let header = ResponseHeader::decode(&mut reader, M::API.key, version).map_err(io::Error::other)?;
        assert_eq!(header.correlation_id, self.correlation, "answers come in the order of requests");
        let answer = M::Response::decode(&mut reader, version).map_err(io::Error::other)?;
        reader.finish().map_err(io::Error::other)?;
        Ok(answer)
    }

    /// The next frame, without its length.
    pub fn read_frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }
}

/// Asks for brokers and these topics, creating none.
pub fn metadata(connection: &mut Connection, topics: &[&str]) -> io::Result<MetadataResponse> {
    let topics = topics.iter().map(|name| MetadataRequestTopic { name: Some((*name).into()), ..Default::default() });
    let request = MetadataRequest {
        topics: Some(topics.collect()),
        allow_auto_topic_creation: false,
        ..MetadataRequest::default()
    };
    connection.call(&request, 12)
}

/// Finds leaders and asks again when they move. Every call succeeds within the patience it was made with, or panics.
#[derive(Debug)]
pub struct Client {
    bootstrap: Vec<String>,
    patience: Duration,
    connections: BTreeMap<String, Connection>,
    leaders: BTreeMap<(String, i32), String>,
}

impl Client {
    pub fn new(bootstrap: &str, patience: Duration) -> Self {
        let bootstrap = bootstrap.split(',').map(str::to_owned).collect();
        Self { bootstrap, patience, connections: BTreeMap::new(), leaders: BTreeMap::new() }
    }

    /// Creates a topic and waits until every partition has a leader.
    pub fn create_topic(&mut self, topic: &str, partitions: i32, replicas: i16) {
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.into(),
                num_partitions: partitions,
                replication_factor: replicas,
                ..Default::default()
            }],
            ..CreateTopicsRequest::default()
        };
        until(&format!("topic {topic} created"), self.patience, || {
            let controller = self.any(|connection| metadata(connection, &[]))?;
            let address = controller.brokers.iter().find(|broker| broker.node_id == controller.controller_id)?;
            let address = format!("{}:{}", address.host, address.port);
            let answer = self.at(&address, |connection| connection.call(&request, 7))?;
            let code = answer.topics.first()?.error_code;
            (code == ErrorCode::None || code == ErrorCode::TopicAlreadyExists).then_some(())
        });
        for partition in 0..partitions {
            self.leader(topic, partition);
        }
    }

    /// The id of the node that leads a partition now, asked anew.
    pub fn leader_id(&mut self, topic: &str, partition: i32) -> i32 {
        until(&format!("a leader of {topic}-{partition}"), self.patience, || {
            let metadata = self.any(|connection| metadata(connection, &[topic]))?;
            let found = metadata.topics.first()?.partitions.iter().find(|found| found.partition_index == partition)?;
            (found.leader_id >= 0).then_some(found.leader_id)
        })
    }

    /// Appends one batch; the offset of its first record.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &Bytes) -> i64 {
        let data = PartitionProduceData { index: partition, records: Some(batch.clone()) };
        let request = ProduceRequest {
            acks: -1,
            timeout_ms: 10_000,
            topic_data: vec![TopicProduceData { name: topic.into(), partition_data: vec![data] }],
            ..ProduceRequest::default()
        };
        until(&format!("a batch in {topic}-{partition}"), self.patience, || {
            let answer = self.at_leader(topic, partition, |connection| connection.call(&request, 9))?;
            let answer = &answer.responses.first()?.partition_responses.first()?;
            match answer.error_code {
                ErrorCode::None => Some(answer.base_offset),
                code if code.is_retriable() => {
                    self.leaders.remove(&(topic.to_owned(), partition));
                    None
                }
                code => panic!("a batch for {topic}-{partition} is refused: {}", code.name()),
            }
        })
    }

    /// Batches from this offset on, as bytes; none if there are none yet.
    pub fn fetch(&mut self, topic: &str, partition: i32, fetch_offset: i64, partition_max_bytes: i32) -> Bytes {
        let request = FetchRequest {
            max_wait_ms: 500,
            min_bytes: 1,
            topics: vec![FetchTopic {
                topic: topic.into(),
                partitions: vec![FetchPartition { partition, fetch_offset, partition_max_bytes, ..Default::default() }],
            }],
            ..FetchRequest::default()
        };
        until(&format!("an answer about {topic}-{partition}"), self.patience, || {
            let answer = self.at_leader(topic, partition, |connection| connection.call(&request, 12))?;
            let answer = &answer.responses.first()?.partitions.first()?;
            match answer.error_code {
                ErrorCode::None => Some(answer.records.as_ref().map_or_else(Bytes::new, |records| records.to_bytes())),
                code if code.is_retriable() => {
                    self.leaders.remove(&(topic.to_owned(), partition));
                    None
                }
                code => panic!("{topic}-{partition} is not read at {fetch_offset}: {}", code.name()),
            }
        })
    }

    /// The offset that the next record will get.
    pub fn end_offset(&mut self, topic: &str, partition: i32) -> i64 {
        let asked =
            ListOffsetsPartition { partition_index: partition, timestamp: LATEST_TIMESTAMP, ..Default::default() };
        let request = ListOffsetsRequest {
            topics: vec![ListOffsetsTopic { name: topic.into(), partitions: vec![asked] }],
            ..ListOffsetsRequest::default()
        };
        until(&format!("the end of {topic}-{partition}"), self.patience, || {
            let answer = self.at_leader(topic, partition, |connection| connection.call(&request, 6))?;
            let answer = &answer.topics.first()?.partitions.first()?;
            if answer.error_code != ErrorCode::None {
                assert!(
                    answer.error_code.is_retriable(),
                    "no end of {topic}-{partition}: {}",
                    answer.error_code.name()
                );
                self.leaders.remove(&(topic.to_owned(), partition));
                return None;
            }
            Some(answer.offset)
        })
    }

    fn leader(&mut self, topic: &str, partition: i32) -> String {
        let known = (topic.to_owned(), partition);
        if let Some(address) = self.leaders.get(&known) {
            return address.clone();
        }
        until(&format!("a leader of {topic}-{partition}"), self.patience, || {
            let metadata = self.any(|connection| metadata(connection, &[topic]))?;
            // The answer is about all partitions; what is known already is asked for again only when it turns out wrong.
            for found in &metadata.topics.first()?.partitions {
                if let Some(broker) = metadata.brokers.iter().find(|broker| broker.node_id == found.leader_id) {
                    let address = format!("{}:{}", broker.host, broker.port);
                    self.leaders.entry((topic.to_owned(), found.partition_index)).or_insert(address);
                }
            }
            self.leaders.get(&known).cloned()
        })
    }

    fn at_leader<T>(
        &mut self,
        topic: &str,
        partition: i32,
        call: impl FnOnce(&mut Connection) -> io::Result<T>,
    ) -> Option<T> {
        let address = self.leader(topic, partition);
        let answer = self.at(&address, call);
        if answer.is_none() {
            self.leaders.remove(&(topic.to_owned(), partition));
        }
        answer
    }

    /// A call at the first node that answers it.
    fn any<T>(&mut self, call: impl Fn(&mut Connection) -> io::Result<T>) -> Option<T> {
        self.bootstrap.clone().iter().find_map(|address| self.at(address, &call))
    }

    /// A call at one node; a connection on which it fails is given up.
    fn at<T>(&mut self, address: &str, call: impl FnOnce(&mut Connection) -> io::Result<T>) -> Option<T> {
        let mut connection = match self.connections.remove(address) {
            Some(connection) => connection,
            None => Connection::open(address).ok()?,
        };
        let answer = call(&mut connection).ok()?;
        self.connections.insert(address.to_owned(), connection);
        Some(answer)
    }
}
