//! What a Kafka client says to a world, and hears.

use std::time::Duration;

use bytes::Bytes;
use kauri_protocol::{
    error::ErrorCode,
    header::{ResponseHeader, request_frame},
    messages::{
        CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, FetchRequest, FetchResponse,
        ListOffsetsRequest, Message, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
        RequestMessage,
        create_topics::CreatableTopic,
        delete_topics::DeleteTopicState,
        fetch::{FetchPartition, FetchPartitionData, FetchTopic},
        list_offsets::{ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsTopic},
        metadata::MetadataRequestTopic,
        produce::{PartitionProduceData, PartitionProduceResponse, TopicProduceData},
    },
    records::{BatchBuilder, Batches, Compression, Producer},
    wire::{Reader, Str},
};

use super::world::World;
use crate::{
    ids::{ConnectionId, GroupId, NodeId},
    io::Input,
};

pub(super) const TOPIC: &str = "story";
/// A group id is the number of partitions created before, plus one.
pub(super) const GROUP: GroupId = GroupId(1);

impl World {
    /// Sends a request; the answers of a connection come in the order of its requests.
    pub(super) fn send<R: RequestMessage>(&mut self, connection: ConnectionId, request: &R, version: i16) {
        let client = self.clients.get_mut(&connection).unwrap();
        client.next_correlation += 1;
        let correlation = client.next_correlation;
        let frame = request_frame(request, version, correlation, Some(Str::from("story"))).unwrap().concat();
        client.asked.push_back((correlation, version));
        self.send_frame(connection, Bytes::from(frame).slice(4..));
    }

    pub(super) fn send_frame(&mut self, connection: ConnectionId, frame: Bytes) {
        let client = self.clients.get_mut(&connection).unwrap();
        client.credit = client.credit.saturating_sub(frame.len());
        let node = client.node;
        self.input(node, Input::ClientFrame { connection, frame });
    }

    pub(super) fn close(&mut self, connection: ConnectionId) {
        let node = self.clients.remove(&connection).unwrap().node;
        self.input(node, Input::ClientClosed { connection });
    }

    pub(super) fn has_answer(&self, connection: ConnectionId) -> bool {
        !self.clients[&connection].received.is_empty()
    }

    /// The next answer, if it is there.
    pub(super) fn answer<R: RequestMessage>(&mut self, connection: ConnectionId) -> Option<R::Response> {
        let client = self.clients.get_mut(&connection).unwrap();
        if client.received.is_empty() {
            return None;
        }
        let length = u32::from_be_bytes(client.received[..4].try_into().unwrap()) as usize;
        let rest = client.received.split_off(4 + length);
        let frame = std::mem::replace(&mut client.received, rest);
        let (correlation, version) = client.asked.pop_front().expect("an answer to a request");
        let mut reader = Reader::new(Bytes::from(frame).slice(4..));
        let header = ResponseHeader::decode(&mut reader, R::API.key, version).unwrap();
        assert_eq!(header.correlation_id, correlation, "answers come in the order of requests");
        let response = R::Response::decode(&mut reader, version).unwrap();
        reader.finish().unwrap();
        Some(response)
    }

    /// Runs until the next answer is there.
    pub(super) fn wait<R: RequestMessage>(&mut self, connection: ConnectionId) -> R::Response {
        self.run_until("there is an answer", |world| {
            let client = &world.clients[&connection];
            assert!(!client.closed, "the connection is open");
            !client.received.is_empty()
        });
        self.answer::<R>(connection).unwrap()
    }

    pub(super) fn call<R: RequestMessage>(
        &mut self,
        connection: ConnectionId,
        request: &R,
        version: i16,
    ) -> R::Response {
        self.send(connection, request, version);
        self.wait::<R>(connection)
    }

    pub(super) fn create_topics(
        &mut self,
        node: NodeId,
        names: &[&str],
        partitions: i32,
        factor: i16,
    ) -> CreateTopicsResponse {
        let connection = self.connect(node);
        let response = self.call(connection, &create_request(names, partitions, factor), 7);
        self.close(connection);
        response
    }

    /// Creates [`TOPIC`] with one partition and waits for its leader.
    pub(super) fn create_topic(&mut self, factor: i16) -> NodeId {
        let node = *self.nodes.keys().find(|node| self.nodes[node].shard.is_some()).unwrap();
        let response = self.create_topics(node, &[TOPIC], 1, factor);
        assert_eq!(response.topics[0].error_code, ErrorCode::None, "{response:?}");
        self.run_until_led(GROUP)
    }

    /// What a node says of these topics, or of all if none is named.
    pub(super) fn metadata(&mut self, node: NodeId, topics: &[&str]) -> MetadataResponse {
        let connection = self.connect(node);
        let asked = |name: &&str| MetadataRequestTopic { name: Some(Str::from(*name)), ..Default::default() };
        let topics = (!topics.is_empty()).then(|| topics.iter().map(asked).collect());
        let request = MetadataRequest { topics, ..Default::default() };
        let response = self.call(connection, &request, 12);
        self.close(connection);
        response
    }

    /// The preferred leader of [`TOPIC`].
    pub(super) fn preferred(&mut self) -> NodeId {
        let node = self.run_until_led(GroupId::METADATA);
        let metadata = self.metadata(node, &[TOPIC]);
        NodeId(metadata.topics[0].partitions[0].replica_nodes[0])
    }

    /// Produces to [`TOPIC`] with acks=all and returns the answer of its partition.
    pub(super) fn produce(&mut self, connection: ConnectionId, batch: Bytes) -> PartitionProduceResponse {
        self.send(connection, &produce_request(-1, batch), 9);
        only_part(self.wait::<ProduceRequest>(connection))
    }

    pub(super) fn fetch(&mut self, connection: ConnectionId, offset: i64) -> FetchPartitionData {
        self.send(connection, &fetch_request(offset, 0, 0), 12);
        only_data(self.wait::<FetchRequest>(connection))
    }

    /// Every value in [`TOPIC`], read through its leader.
    pub(super) fn read_all(&mut self) -> Vec<String> {
        let leader = self.run_until_led(GROUP);
        let connection = self.connect(leader);
        let mut values = Vec::new();
        loop {
            let data = self.fetch(connection, values.len() as i64);
            assert_eq!(data.error_code, ErrorCode::None);
            let new = values_of(&data);
            if new.is_empty() {
                assert_eq!(data.high_watermark, values.len() as i64);
                self.close(connection);
                return values;
            }
            values.extend(new);
        }
    }

    pub(super) fn list_offset(&mut self, node: NodeId, timestamp: i64) -> ListOffsetsPartitionResponse {
        let connection = self.connect(node);
        let response = self.call(connection, &list_offsets_request(timestamp), 8);
        self.close(connection);
        response.topics.into_iter().next().unwrap().partitions.into_iter().next().unwrap()
    }
}

pub(super) fn batch(values: &[&str]) -> Bytes {
    batch_of(values, 1_700_000_000_000, Producer::default())
}

pub(super) fn batch_of(values: &[&str], timestamp: i64, producer: Producer) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.append(timestamp, None, Some(&Bytes::copy_from_slice(value.as_bytes())), &[]).unwrap();
    }
    builder.build(producer).unwrap()
}

pub(super) fn batch_of_bytes(bytes: usize, fill: u8) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(1_700_000_000_000, None, Some(&Bytes::from(vec![fill; bytes])), &[]).unwrap();
    builder.build(Producer::default()).unwrap()
}

pub(super) fn produce_request(acks: i16, batch: Bytes) -> ProduceRequest {
    produce_parts(acks, vec![(0, batch)])
}

pub(super) fn produce_parts(acks: i16, parts: Vec<(i32, Bytes)>) -> ProduceRequest {
    let partition_data =
        parts.into_iter().map(|(index, batch)| PartitionProduceData { index, records: Some(batch) }).collect();
    ProduceRequest {
        acks,
        timeout_ms: 10_000,
        topic_data: vec![TopicProduceData { name: Str::from(TOPIC), partition_data }],
        ..Default::default()
    }
}

pub(super) fn fetch_request(offset: i64, wait_ms: i32, bytes_min: i32) -> FetchRequest {
    let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: 1 << 20, ..Default::default() };
    FetchRequest {
        max_wait_ms: wait_ms,
        min_bytes: bytes_min,
        max_bytes: 50 << 20,
        topics: vec![FetchTopic { topic: Str::from(TOPIC), partitions: vec![partition] }],
        ..Default::default()
    }
}

pub(super) fn create_request(names: &[&str], partitions: i32, factor: i16) -> CreateTopicsRequest {
    let topic = |name: &&str| CreatableTopic {
        name: Str::from(*name),
        num_partitions: partitions,
        replication_factor: factor,
        ..Default::default()
    };
    CreateTopicsRequest { topics: names.iter().map(topic).collect(), timeout_ms: 30_000, validate_only: false }
}

pub(super) fn delete_request() -> DeleteTopicsRequest {
    let topics = vec![DeleteTopicState { name: Some(Str::from(TOPIC)), ..Default::default() }];
    DeleteTopicsRequest { topics, timeout_ms: 30_000, ..Default::default() }
}

pub(super) fn list_offsets_request(timestamp: i64) -> ListOffsetsRequest {
    let partition = ListOffsetsPartition { timestamp, ..Default::default() };
    let topic = ListOffsetsTopic { name: Str::from(TOPIC), partitions: vec![partition] };
    ListOffsetsRequest { topics: vec![topic], ..Default::default() }
}

pub(super) fn only_part(response: ProduceResponse) -> PartitionProduceResponse {
    response.responses.into_iter().next().unwrap().partition_responses.into_iter().next().unwrap()
}

pub(super) fn only_data(response: FetchResponse) -> FetchPartitionData {
    assert_eq!(response.error_code, ErrorCode::None);
    response.responses.into_iter().next().unwrap().partitions.into_iter().next().unwrap()
}

pub(super) fn values_of(data: &FetchPartitionData) -> Vec<String> {
    let bytes = data.records.as_ref().unwrap().to_bytes();
    let mut values = Vec::new();
    for batch in Batches::new(bytes) {
        let batch = batch.unwrap();
        batch.validate_crc().unwrap();
        for record in batch.records(1 << 30).unwrap() {
            values.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
        }
    }
    values
}

/// Time in which every timer of a cluster comes round.
pub(super) const A_WHILE: Duration = Duration::from_secs(12);
