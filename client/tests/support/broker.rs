//! What a cluster of brokers holds and answers: topics with one shared log per partition, leaders, idempotent producers
//! judged by Kafka's rules, fetch sessions, and errors on demand.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kauri_protocol::{
    api::API_TABLE,
    error::ErrorCode,
    messages::{
        ApiVersionsResponse, CreateTopicsResponse, DeleteTopicsResponse, DescribeClusterResponse,
        DescribeConfigsResponse, FetchRequest, FetchResponse, InitProducerIdResponse, ListOffsetsResponse,
        MetadataResponse, ProduceRequest, ProduceResponse, Request, Response,
        api_versions::ApiVersion,
        create_topics::CreatableTopicResult,
        delete_topics::DeletableTopicResult,
        describe_cluster::DescribeClusterBroker,
        describe_configs::{DescribeConfigsResourceResult, DescribeConfigsResult},
        fetch::{AbortedTransaction, FetchPartitionData, FetchableTopicResponse},
        leader::{LeaderIdAndEpoch, NodeEndpoint},
        list_offsets::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
        metadata::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
        produce::{PartitionProduceResponse, TopicProduceResponse},
    },
    records::{BatchView, HEADER_BYTES, Record},
    wire::{Str, Uuid},
};

use super::world::address;

/// One batch in the log.
#[derive(Clone, Debug)]
pub struct Stored {
    pub base_offset: i64,
    pub next_offset: i64,
    pub bytes: Bytes,
}

#[derive(Clone, Debug, Default)]
struct ProducerState {
    epoch: i16,
    /// First and last sequence, base offset; the newest last.
    batches: VecDeque<(i32, i32, i64)>,
}

#[derive(Clone, Debug)]
pub struct Partition {
    pub leader: i32,
    pub epoch: i32,
    pub start: i64,
    pub log: Vec<Stored>,
    producers: BTreeMap<i64, ProducerState>,
}

impl Partition {
    fn new(leader: i32) -> Self {
        Self { leader, epoch: 1, start: 0, log: Vec::new(), producers: BTreeMap::new() }
    }

    pub fn end(&self) -> i64 {
        self.log.last().map_or(0, |batch| batch.next_offset)
    }

    pub fn move_to(&mut self, leader: i32) {
        self.leader = leader;
        self.epoch += 1;
    }

    pub fn forget_producers(&mut self) {
        self.producers.clear();
    }

    /// Every record, in the order of the log.
    pub fn records(&self) -> Vec<Record> {
        let views = self.log.iter().map(|stored| BatchView::new(stored.bytes.clone()).unwrap());
        views
            .filter(|view| !view.header().attributes.is_control())
            .flat_map(|view| view.records(1 << 30).unwrap().map(Result::unwrap))
            .collect()
    }

    /// Appends as Kafka does, or says why not.
    pub fn append(&mut self, batch: Bytes) -> Result<i64, ErrorCode> {
        let view = BatchView::new(batch).map_err(|_| ErrorCode::CorruptMessage)?;
        view.validate_crc().map_err(|_| ErrorCode::CorruptMessage)?;
        let (producer, last) = (view.header().producer, view.header().last_sequence());
        if producer.id >= 0 {
            if let Some(state) = self.producers.get(&producer.id) {
                if producer.epoch < state.epoch {
                    return Err(ErrorCode::InvalidProducerEpoch);
                }
                let is_new = producer.epoch > state.epoch;
                let same = |batch: &&(i32, i32, i64)| (batch.0, batch.1) == (producer.base_sequence, last);
                if let Some(&(_, _, offset)) = state.batches.iter().find(same).filter(|_| !is_new) {
                    return Ok(offset);
                }
                let newest = i64::from(state.batches.back().expect("a known producer wrote a batch").1);
                let expected = if is_new { 0 } else { (newest + 1) & i64::from(i32::MAX) };
                if i64::from(producer.base_sequence) != expected {
                    return Err(ErrorCode::OutOfOrderSequenceNumber);
                }
            }
            let offset = self.end();
            let state = self.producers.entry(producer.id).or_default();
            if state.epoch != producer.epoch {
                state.epoch = producer.epoch;
                state.batches.clear();
            }
            state.batches.push_back((producer.base_sequence, last, offset));
            if state.batches.len() > 5 {
                state.batches.pop_front();
            }
        }
        Ok(self.append_unchecked(&view))
    }

    pub fn append_unchecked(&mut self, view: &BatchView) -> i64 {
        let base_offset = self.end();
        let header = view.patch_header(base_offset, self.epoch, None);
        let bytes = Bytes::from([&header[..], &view.bytes()[HEADER_BYTES..]].concat());
        let next_offset = base_offset + i64::from(view.header().last_offset_delta) + 1;
        self.log.push(Stored { base_offset, next_offset, bytes });
        base_offset
    }
}

/// How a broker misbehaves towards the next batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The batch is appended, and the answer is this error nevertheless.
    AfterAppend(ErrorCode),
    /// The batch is refused.
    Instead(ErrorCode),
}

#[derive(Clone, Debug, Default)]
struct Session {
    next_epoch: i32,
    /// Offset and leader epoch of each partition.
    partitions: BTreeMap<(Str, i32), (i64, i32)>,
}

/// All brokers at once; what differs between them is whom they may answer.
#[derive(Debug, Default)]
pub struct Brokers {
    pub nodes: Vec<i32>,
    pub controller: i32,
    pub topics: BTreeMap<Str, Vec<Partition>>,
    pub auto_create: Option<i32>,
    /// Answers of the next batches, by partition.
    pub lies: BTreeMap<(Str, i32), VecDeque<Lie>>,
    /// Whether errors name the leader.
    pub hints: bool,
    /// Nodes whose metadata stays what it was.
    pub stale: BTreeMap<i32, MetadataResponse>,
    pub next_producer_id: i64,
    /// Errors for the next requests for a producer id.
    pub producer_id_errors: VecDeque<ErrorCode>,
    sessions: BTreeMap<i32, Session>,
    next_session: i32,
    pub fetch_bytes: usize,
    /// Aborted transactions of every partition: producer and first offset.
    pub aborted: Vec<(i64, i64)>,
    /// Errors for the next fetches of a partition.
    pub fetch_errors: BTreeMap<(Str, i32), VecDeque<ErrorCode>>,
}

impl Brokers {
    pub fn new(nodes: &[i32]) -> Self {
        Self { nodes: nodes.to_vec(), controller: nodes[0], hints: true, next_producer_id: 100, ..Self::default() }
    }

    pub fn create(&mut self, topic: &str, partitions: i32) {
        let count = self.nodes.len();
        let partitions = (0..partitions).map(|index| Partition::new(self.nodes[index as usize % count]));
        self.topics.insert(Str::from(topic), partitions.collect());
    }

    pub fn partition(&mut self, topic: &str, index: i32) -> &mut Partition {
        &mut self.topics.get_mut(topic).unwrap()[index as usize]
    }

    pub fn lie(&mut self, topic: &str, index: i32, lie: Lie) {
        self.lies.entry((Str::from(topic), index)).or_default().push_back(lie);
    }

    pub fn end_sessions(&mut self) {
        self.sessions.clear();
    }

    /// The answer of `node`; `None` for a fetch that found nothing, unless `patient` is over, and for a silent produce.
    pub fn answer(&mut self, node: i32, request: Request, patient: bool) -> Option<Response> {
        Some(match request {
            Request::ApiVersions(_) => {
                let api_keys = API_TABLE.iter().map(|api| ApiVersion {
                    api_key: api.key.into(),
                    min_version: api.supported.min,
                    max_version: api.supported.max,
                });
                ApiVersionsResponse { api_keys: api_keys.collect(), ..Default::default() }.into()
            }
            Request::Metadata(request) => {
                if let Some(stale) = self.stale.get(&node) {
                    return Some(stale.clone().into());
                }
                let names: Vec<Str> = match request.topics {
                    None => self.topics.keys().cloned().collect(),
                    Some(topics) => topics.into_iter().map(|topic| topic.name.unwrap()).collect(),
                };
                if let Some(partitions) = self.auto_create.filter(|_| request.allow_auto_topic_creation) {
                    for name in &names {
                        if !self.topics.contains_key(name) {
                            self.create(name, partitions);
                        }
                    }
                }
                self.metadata(&names).into()
            }
            Request::InitProducerId(_) => match self.producer_id_errors.pop_front() {
                Some(error_code) => InitProducerIdResponse { error_code, ..Default::default() }.into(),
                None => {
                    self.next_producer_id += 1;
                    InitProducerIdResponse { producer_id: self.next_producer_id, ..Default::default() }.into()
                }
            },
            Request::Produce(request) => self.produce(node, request)?.into(),
            Request::Fetch(request) => self.fetch(node, request, patient)?.into(),
            Request::ListOffsets(request) => {
                let topics = request.topics.into_iter().map(|topic| ListOffsetsTopicResponse {
                    partitions: topic
                        .partitions
                        .iter()
                        .map(|asked| self.list_offset(node, &topic.name, asked.partition_index, asked.timestamp))
                        .collect(),
                    name: topic.name,
                });
                ListOffsetsResponse { topics: topics.collect(), ..Default::default() }.into()
            }
            Request::CreateTopics(request) => {
                let mut response = CreateTopicsResponse::default();
                for topic in request.topics {
                    let error_code = if node != self.controller {
                        ErrorCode::NotController
                    } else if self.topics.contains_key(&topic.name) {
                        ErrorCode::TopicAlreadyExists
                    } else {
                        if !request.validate_only {
                            self.create(&topic.name, topic.num_partitions.max(1));
                        }
                        ErrorCode::None
                    };
                    let num_partitions = topic.num_partitions.max(1);
                    let result =
                        CreatableTopicResult { name: topic.name, error_code, num_partitions, ..Default::default() };
                    response.topics.push(result);
                }
                response.into()
            }
            Request::DeleteTopics(request) => {
                let names = request.topics.into_iter().filter_map(|topic| topic.name);
                let mut response = DeleteTopicsResponse::default();
                for name in names {
                    let error_code = if node != self.controller {
                        ErrorCode::NotController
                    } else if self.topics.remove(&name).is_some() {
                        ErrorCode::None
                    } else {
                        ErrorCode::UnknownTopicOrPartition
                    };
                    let name = Some(name);
                    response.responses.push(DeletableTopicResult { name, error_code, ..Default::default() });
                }
                response.into()
            }
            Request::DescribeConfigs(request) => {
                let results = request.resources.into_iter().map(|resource| DescribeConfigsResult {
                    error_code: match self.topics.contains_key(&resource.resource_name) {
                        true => ErrorCode::None,
                        false => ErrorCode::UnknownTopicOrPartition,
                    },
                    resource_type: resource.resource_type,
                    resource_name: resource.resource_name,
                    configs: vec![DescribeConfigsResourceResult {
                        name: Str::from("retention.ms"),
                        value: Some(Str::from("604800000")),
                        config_source: 5,
                        ..Default::default()
                    }],
                    ..Default::default()
                });
                DescribeConfigsResponse { results: results.collect(), ..Default::default() }.into()
            }
            Request::DescribeCluster(_) => {
                let brokers = self.nodes.iter().map(|&broker_id| {
                    let (host, port) = address(broker_id);
                    DescribeClusterBroker { broker_id, host: host.into(), port: port.into(), ..Default::default() }
                });
                DescribeClusterResponse {
                    cluster_id: Str::from("c"),
                    controller_id: self.controller,
                    brokers: brokers.collect(),
                    ..Default::default()
                }
                .into()
            }
            other => panic!("the client has no use for {:?}", other.api_key()),
        })
    }

    pub fn metadata(&self, names: &[Str]) -> MetadataResponse {
        let brokers = self.nodes.iter().map(|&node_id| {
            let (host, port) = address(node_id);
            MetadataResponseBroker { node_id, host: host.into(), port: port.into(), ..Default::default() }
        });
        let topics = names.iter().map(|name| match self.topics.get(name) {
            None => MetadataResponseTopic {
                name: Some(name.clone()),
                error_code: ErrorCode::UnknownTopicOrPartition,
                ..Default::default()
            },
            Some(partitions) => MetadataResponseTopic {
                name: Some(name.clone()),
                topic_id: Uuid([7; 16]),
                partitions: (0..)
                    .zip(partitions)
                    .map(|(partition_index, partition)| MetadataResponsePartition {
                        partition_index,
                        leader_id: partition.leader,
                        leader_epoch: partition.epoch,
                        replica_nodes: self.nodes.clone(),
                        isr_nodes: self.nodes.clone(),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            },
        });
        MetadataResponse {
            brokers: brokers.collect(),
            cluster_id: Some(Str::from("c")),
            controller_id: self.controller,
            topics: topics.collect(),
            ..Default::default()
        }
    }

    fn produce(&mut self, node: i32, request: ProduceRequest) -> Option<ProduceResponse> {
        let mut response = ProduceResponse::default();
        for topic in request.topic_data {
            let mut partition_responses = Vec::new();
            for data in topic.partition_data {
                let index = data.index;
                let mut answer = PartitionProduceResponse { index, base_offset: -1, ..Default::default() };
                let lie = self.lies.get_mut(&(topic.name.clone(), index)).and_then(VecDeque::pop_front);
                let partition =
                    self.topics.get_mut(&topic.name).and_then(|partitions| partitions.get_mut(index as usize));
                let result = match (partition, lie) {
                    (None, _) => Err(ErrorCode::UnknownTopicOrPartition),
                    (Some(partition), _) if partition.leader != node => {
                        if self.hints {
                            answer.current_leader =
                                LeaderIdAndEpoch { leader_id: partition.leader, leader_epoch: partition.epoch };
                            if let Some(&node_id) = self.nodes.iter().find(|node| **node == partition.leader) {
                                let (host, port) = address(node_id);
                                response.node_endpoints.push(NodeEndpoint {
                                    node_id,
                                    host: host.into(),
                                    port: port.into(),
                                    ..Default::default()
                                });
                            }
                        }
                        Err(ErrorCode::NotLeaderOrFollower)
                    }
                    (Some(_), Some(Lie::Instead(error))) => Err(error),
                    (Some(partition), Some(Lie::AfterAppend(error))) => {
                        let _ = partition.append(data.records.unwrap());
                        Err(error)
                    }
                    (Some(partition), None) => partition.append(data.records.unwrap()),
                };
                match result {
                    Ok(offset) => answer.base_offset = offset,
                    Err(error) => answer.error_code = error,
                }
                partition_responses.push(answer);
            }
            response.responses.push(TopicProduceResponse { name: topic.name, partition_responses });
        }
        (request.acks != 0).then_some(response)
    }

    fn fetch(&mut self, node: i32, request: FetchRequest, patient: bool) -> Option<FetchResponse> {
        let named: Vec<((Str, i32), (i64, i32))> = request
            .topics
            .iter()
            .flat_map(|topic| {
                topic.partitions.iter().map(|partition| {
                    let place = (topic.topic.clone(), partition.partition);
                    (place, (partition.fetch_offset, partition.current_leader_epoch))
                })
            })
            .collect();
        let incremental = request.session_epoch > 0;
        let (session_id, wanted) = if incremental {
            let Some(session) = self.sessions.get_mut(&request.session_id) else {
                return Some(FetchResponse { error_code: ErrorCode::FetchSessionIdNotFound, ..Default::default() });
            };
            if session.next_epoch != request.session_epoch {
                let error_code = ErrorCode::InvalidFetchSessionEpoch;
                return Some(FetchResponse { error_code, ..Default::default() });
            }
            session.partitions.extend(named);
            for topic in &request.forgotten_topics_data {
                for index in &topic.partitions {
                    session.partitions.remove(&(topic.topic.clone(), *index));
                }
            }
            (request.session_id, session.partitions.clone())
        } else {
            (0, named.into_iter().collect())
        };
        let mut response = FetchResponse { session_id, ..Default::default() };
        let mut news = false;
        let mut left = usize::try_from(request.max_bytes).unwrap();
        for ((topic, index), (offset, epoch)) in &wanted {
            let data = self.fetch_partition(node, topic, *index, *offset, *epoch, &mut left);
            let has_news = data.error_code.is_error() || data.records.as_ref().is_some_and(|r| !r.is_empty());
            news |= has_news;
            if has_news || !incremental {
                let partitions = vec![data];
                response.responses.push(FetchableTopicResponse { topic: topic.clone(), partitions });
            }
        }
        if !news && patient {
            return None;
        }
        if incremental {
            self.sessions.get_mut(&session_id).unwrap().next_epoch += 1;
        } else if request.session_epoch == 0 {
            self.next_session += 1;
            response.session_id = self.next_session;
            self.sessions.insert(self.next_session, Session { next_epoch: 1, partitions: wanted });
        }
        Some(response)
    }

    fn fetch_partition(
        &mut self,
        node: i32,
        topic: &Str,
        index: i32,
        offset: i64,
        epoch: i32,
        left: &mut usize,
    ) -> FetchPartitionData {
        let mut data = FetchPartitionData { partition_index: index, ..Default::default() };
        if let Some(error) = self.fetch_errors.get_mut(&(topic.clone(), index)).and_then(VecDeque::pop_front) {
            data.error_code = error;
            return data;
        }
        let Some(partition) = self.topics.get(topic).and_then(|partitions| partitions.get(index as usize)) else {
            data.error_code = ErrorCode::UnknownTopicOrPartition;
            return data;
        };
        data.error_code = if partition.leader != node {
            if self.hints {
                data.current_leader = LeaderIdAndEpoch { leader_id: partition.leader, leader_epoch: partition.epoch };
            }
            ErrorCode::NotLeaderOrFollower
        } else if epoch >= 0 && epoch < partition.epoch {
            ErrorCode::FencedLeaderEpoch
        } else if offset > partition.end() || offset < partition.start {
            ErrorCode::OffsetOutOfRange
        } else {
            ErrorCode::None
        };
        if data.error_code.is_error() {
            return data;
        }
        data.high_watermark = partition.end();
        data.last_stable_offset = partition.end();
        let mut bytes = Vec::new();
        let limit = if self.fetch_bytes == 0 { usize::MAX } else { self.fetch_bytes };
        for batch in partition.log.iter().filter(|batch| batch.next_offset > offset) {
            if !bytes.is_empty() && bytes.len() + batch.bytes.len() > limit.min(*left) {
                break;
            }
            bytes.extend_from_slice(&batch.bytes);
        }
        *left = left.saturating_sub(bytes.len());
        data.records = Some(Bytes::from(bytes).into());
        let aborted = |&(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset };
        data.aborted_transactions = Some(self.aborted.iter().map(aborted).collect());
        data
    }

    fn list_offset(
        &self,
        node: i32,
        topic: &Str,
        partition_index: i32,
        timestamp: i64,
    ) -> ListOffsetsPartitionResponse {
        let mut answer = ListOffsetsPartitionResponse { partition_index, ..Default::default() };
        let known = self.topics.get(topic).and_then(|partitions| partitions.get(partition_index as usize));
        let Some(partition) = known.filter(|partition| partition.leader == node) else {
            answer.error_code = ErrorCode::NotLeaderOrFollower;
            return answer;
        };
        answer.leader_epoch = partition.epoch;
        match timestamp {
            -1 => answer.offset = partition.end(),
            -2 => answer.offset = partition.start,
            timestamp => {
                if let Some(record) = partition.records().into_iter().find(|record| record.timestamp >= timestamp) {
                    answer.offset = record.offset;
                    answer.timestamp = record.timestamp;
                }
            }
        }
        answer
    }
}
