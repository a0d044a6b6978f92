//! Bytes that do not change: requests captured from real clients, and responses written out by hand.

use std::collections::BTreeSet;

use bytes::Bytes;
use kauri_protocol::header::{request_frame, response_frame};
use kauri_protocol::messages::api_versions::{ApiVersion, SupportedFeatureKey};
use kauri_protocol::messages::leader::LeaderIdAndEpoch;
use kauri_protocol::messages::metadata::{
    MetadataRequestTopic, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kauri_protocol::messages::produce::{
    PartitionProduceData, PartitionProduceResponse, TopicProduceData, TopicProduceResponse,
};
use kauri_protocol::messages::{
    ApiVersionsResponse, FetchResponse, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, Request,
};
use kauri_protocol::records::{BatchView, Compression};
use kauri_protocol::{ApiKey, ErrorCode, Message, Reader, RequestHeader, Str, Uuid, Writer};

/// Bytes from hexadecimal digits; blanks and everything behind a `|` are for the reader.
fn bytes(text: &str) -> Bytes {
    let digits: String =
        text.lines().flat_map(|line| line.split('|').next()).collect::<String>().split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn check_requests_of(client: &str, capture: &str, compressions: &[Compression]) {
    let mut seen = BTreeSet::new();
    for line in capture.lines().filter(|line| !line.starts_with('#')) {
        let [api, version, frame] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let frame = bytes(frame);
        let mut reader = Reader::new(frame.clone());
        let header = RequestHeader::decode(&mut reader).unwrap();
        assert_eq!((header.api_key.api().name, header.api_version.to_string().as_str()), (api, version));
        if !header.version_is_supported() {
            assert_eq!(header.api_key, ApiKey::ApiVersions, "only this one is answered in a version we do not know");
            continue;
        }
        let request = Request::decode(header.api_key, &mut reader, header.api_version).unwrap();
        reader.finish().unwrap();

        let mut writer = Writer::new();
        header.encode(&mut writer).unwrap();
        request.encode(&mut writer, header.api_version).unwrap();
        assert_eq!(writer.into_bytes(), frame, "{client}: {header:?} {request:?}");

        if let Request::Produce(produce) = request {
            assert_eq!(produce.topic_data[0].name, "golden");
            let batch = BatchView::new(produce.topic_data[0].partition_data[0].records.clone().unwrap()).unwrap();
            batch.validate_crc().unwrap();
            assert!(batch.header().is_dense());
            let records: Vec<_> = batch.records(10_000).unwrap().collect::<Result<_, _>>().unwrap();
            assert_eq!(records.len(), 1);
            assert_eq!(records[0].timestamp, batch.header().base_timestamp);
            if records[0].key.as_deref() == Some(b"key") {
                let headers: Vec<_> = records[0].headers.iter().map(|header| header.key).collect();
                assert!(headers == ["h", "h"] || headers == ["a", "a"], "{headers:?}");
            }
            seen.insert(batch.header().attributes.compression().unwrap());
        }
    }
    assert!(seen.iter().eq(compressions), "{client}: {seen:?}");
}

#[test]
fn requests_of_the_java_client() {
    check_requests_of("java", include_str!("golden/java.txt"), &Compression::ALL);
}

#[test]
fn requests_of_kcat() {
    check_requests_of("kcat", include_str!("golden/kcat.txt"), &Compression::ALL);
}

#[test]
fn requests_of_confluent_kafka() {
    let capture = include_str!("golden/confluent-kafka-python.txt");
    check_requests_of("confluent-kafka", capture, &Compression::ALL);
}

#[test]
fn requests_of_franz_go() {
    // It leaves a batch alone that gzip would not make smaller.
    let compressions = [Compression::None, Compression::Snappy, Compression::Lz4, Compression::Zstd];
    check_requests_of("franz-go", include_str!("golden/franz-go.txt"), &compressions);
}

#[test]
fn requests_of_kafka_python() {
    let compressions = [Compression::None, Compression::Gzip, Compression::Lz4];
    check_requests_of("kafka-python", include_str!("golden/kafka-python.txt"), &compressions);
}

fn check_response<M: Message + std::fmt::Debug + PartialEq>(message: &M, version: i16, golden: &str) {
    let golden = bytes(golden);
    assert_eq!(response_frame(message, version, 7).unwrap().concat(), golden);
    // Length, correlation id, and the tags of a flexible header.
    let header = if M::API.response_header_version(version) == 0 { 8 } else { 9 };
    let mut reader = Reader::new(golden.slice(header..));
    assert_eq!(&M::decode(&mut reader, version).unwrap(), message);
    reader.finish().unwrap();
}

#[test]
fn the_answer_to_an_unknown_version_of_api_versions() {
    let answer = ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion,
        api_keys: vec![ApiVersion { api_key: 18, min_version: 0, max_version: 4 }],
        ..ApiVersionsResponse::default()
    };
    let golden = "
        00000010 00000007 | length, correlation id
        0023              | UNSUPPORTED_VERSION
        00000001 0012 0000 0004";
    check_response(&answer, 0, golden);
}

#[test]
fn an_answer_with_tagged_fields() {
    let answer = ApiVersionsResponse {
        api_keys: vec![ApiVersion { api_key: 0, min_version: 0, max_version: 11 }],
        supported_features: vec![SupportedFeatureKey { name: "a".into(), min_version: 0, max_version: 1 }],
        finalized_features_epoch: 5,
        ..ApiVersionsResponse::default()
    };
    let golden = "
        00000027 00000007           | the header has no tags, whatever the version
        0000
        02 0000 0000 000b 00        | one API, without tags
        00000000                    | throttle time
        02                          | two tagged fields
        00 08 02 02 61 0000 0001 00 | tag 0, eight bytes: one feature
        01 08 0000000000000005      | tag 1, eight bytes: the epoch";
    check_response(&answer, 4, golden);
}

fn metadata_answer() -> MetadataResponse {
    MetadataResponse {
        brokers: vec![MetadataResponseBroker { node_id: 1, host: "h".into(), port: 9092, rack: None }],
        controller_id: 1,
        topics: vec![MetadataResponseTopic {
            name: Some("t".into()),
            partitions: vec![MetadataResponsePartition {
                leader_id: 1,
                replica_nodes: vec![1, 2],
                isr_nodes: vec![1],
                ..MetadataResponsePartition::default()
            }],
            ..MetadataResponseTopic::default()
        }],
        ..MetadataResponse::default()
    }
}

#[test]
fn the_same_metadata_old_and_new() {
    let old = "
        00000045 00000007
        00000001 00000001 0001 68 00002384 ffff      | broker 1 at h:9092 without a rack
        00000001                                     | controller
        00000001 0000 0001 74 00                     | topic t, not internal
        00000001 0000 00000000 00000001              | partition 0, leader 1
        00000002 00000001 00000002 00000001 00000001 | replicas, in sync";
    check_response(&metadata_answer(), 1, old);

    let mut answer = metadata_answer();
    answer.cluster_id = Some("c".into());
    answer.topics[0].topic_id = Uuid([9; 16]);
    answer.topics[0].partitions[0].leader_epoch = 4;
    let new = "
        00000057 00000007 00                  | the header has tags
        00000000                              | throttle time
        02 00000001 02 68 00002384 00 00      | broker
        02 63 00000001                        | cluster, controller
        02 0000 02 74                         | topic t
        09090909 09090909 09090909 09090909   | its id
        00                                    | not internal
        02 0000 00000000 00000001 00000004    | partition 0, leader 1, epoch 4
        03 00000001 00000002 02 00000001 01   | replicas, in sync, none offline
        00                                    | tags of the partition
        80000000 00                           | operations not asked for, tags of the topic
        00                                    | tags of the answer";
    check_response(&answer, 12, new);
}

#[test]
fn a_produce_request_and_its_refusal() {
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 1000,
        topic_data: vec![TopicProduceData {
            name: "t".into(),
            partition_data: vec![PartitionProduceData { index: 2, records: Some(Bytes::from_static(b"abc")) }],
        }],
        ..ProduceRequest::default()
    };
    let golden = bytes(
        "
        00000029 0000 0003 00000007 0001 63     | Produce 3 from client c
        ffff ffff 000003e8                      | no transaction, acks, timeout
        00000001 0001 74 00000001 00000002      | topic t, partition 2
        00000003 616263",
    );
    assert_eq!(request_frame(&request, 3, 7, Some(Str::from("c"))).unwrap().concat(), golden);

    let refusal = ProduceResponse {
        responses: vec![TopicProduceResponse {
            name: "t".into(),
            partition_responses: vec![PartitionProduceResponse {
                index: 2,
                error_code: ErrorCode::NotLeaderOrFollower,
                base_offset: -1,
                current_leader: LeaderIdAndEpoch { leader_id: 3, leader_epoch: 8 },
                ..PartitionProduceResponse::default()
            }],
        }],
        ..ProduceResponse::default()
    };
    let golden = "
        0000003b 00000007 00
        02 02 74 02 00000002 0006                            | topic t, partition 2, not its leader
        ffffffffffffffff ffffffffffffffff ffffffffffffffff   | no offset, no time, no start
        01 00                                                | no record errors, no message
        01 00 09 00000003 00000008 00                        | tag 0, nine bytes: the leader
        00 00000000 00                                       | tags of the topic, throttle time, tags";
    check_response(&refusal, 11, golden);
}

#[test]
fn asking_for_all_topics_and_for_none() {
    let encode = |topics: Option<Vec<MetadataRequestTopic>>, version| {
        let mut writer = Writer::new();
        let request = MetadataRequest { topics, ..MetadataRequest::default() };
        request.encode(&mut writer, version).map(|()| writer.into_bytes())
    };
    assert_eq!(encode(None, 1), Ok(bytes("ffffffff")));
    assert_eq!(encode(Some(Vec::new()), 1), Ok(bytes("00000000")));
    assert_eq!(encode(None, 9), Ok(bytes("00 01 00 00 00")));
    assert_eq!(encode(Some(Vec::new()), 9), Ok(bytes("01 01 00 00 00")));
}

#[test]
fn an_empty_fetch_answer() {
    check_response(&FetchResponse::default(), 4, "0000000c 00000007 00000000 00000000");
    check_response(&FetchResponse::default(), 12, "00000011 00000007 00 00000000 0000 00000000 01 00");
}
