//! Every API in every version and both directions against an independent implementation, the crate kafka-protocol.
//!
//! Random messages are written by hand from the schema, decoded and encoded again by both, and must come out with the
//! same bytes. Since bytes alone do not show two fields of the same type with their names exchanged, names and numbers
//! are compared as well.

mod support;

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as oracle;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};
use kauri_protocol::messages::*;
use kauri_protocol::{API_TABLE, ApiKey, ErrorCode, Message, Reader, RequestHeader, ResponseHeader, Str, Writer};
use support::{Random, write_struct};

const ROUNDS: u64 = 60;

fn encode_oracle<O: Encodable>(message: &O, version: i16) -> Bytes {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes, version).unwrap();
    bytes.freeze()
}

fn decode<M: Message>(bytes: &Bytes, version: i16) -> M {
    let mut reader = Reader::new(bytes.clone());
    let message = M::decode(&mut reader, version).unwrap();
    reader.finish().unwrap();
    message
}

fn encode<M: Message>(message: &M, version: i16) -> Bytes {
    let mut writer = Writer::new();
    message.encode(&mut writer, version).unwrap();
    let length = writer.len();
    let segments = writer.into_segments();
    assert_eq!(segments.iter().map(Bytes::len).sum::<usize>(), length);
    segments.concat().into()
}

/// Pairs of field names and whole numbers in the order of their appearance. The oracle wraps some numbers in types of
/// their own.
fn numbers(message: &impl Debug) -> Vec<(String, i64)> {
    let text = format!("{message:?}");
    let mut pairs = Vec::new();
    for (colon, _) in text.match_indices(": ") {
        let name = text[..colon].rsplit(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap();
        let value = text[colon + 2..].split([',', '}', ' ']).next().unwrap();
        let value = match value.split_once('(') {
            Some((_, wrapped)) => wrapped.trim_end_matches(')'),
            None => value,
        };
        if let Ok(number) = value.parse::<i64>()
            && !name.ends_with("error_code")
        {
            pairs.push((name.to_owned(), number));
        }
    }
    pairs
}

fn compare<M, O>(version: i16)
where
    M: Message + Debug + PartialEq,
    O: Encodable + Decodable + Debug + PartialEq,
{
    for seed in 0..ROUNDS {
        let case = format!("{} version {version} seed {seed}", M::STRUCT.name);
        let mut random = Random(seed);
        let mut wire = Vec::new();
        write_struct(&mut wire, M::STRUCT, version, M::API.is_flexible(version), &mut random);
        let wire = Bytes::from(wire);

        let ours: M = decode(&wire, version);
        // Canonical: without unknown tags, and without tagged fields that have their default.
        let canonical = encode(&ours, version);
        assert_eq!(decode::<M>(&canonical, version), ours, "{case}");

        let mut rest = canonical.clone();
        let theirs = O::decode(&mut rest, version).unwrap_or_else(|error| panic!("{case}: {error}\n{ours:?}"));
        assert!(rest.is_empty(), "{case}: {} bytes are left", rest.len());
        assert_eq!(encode_oracle(&theirs, version), canonical, "{case}");
        // A tag that we number differently would be preserved as an unknown one.
        let unknown = format!("{theirs:?}").matches("unknown_tagged_fields: {").count();
        let none = format!("{theirs:?}").matches("unknown_tagged_fields: {}").count();
        assert_eq!(unknown, none, "{case}: {theirs:?}");

        let mut their_numbers = numbers(&theirs).into_iter();
        for pair in numbers(&ours) {
            assert!(their_numbers.any(|theirs| theirs == pair), "{case}: {pair:?}\n{ours:?}\n{theirs:?}");
        }
    }
}

/// Calls `$check!` with the name of an API's request, which is the same here and there.
macro_rules! each_request {
    ($api:expr, $check:ident) => {
        match $api {
            ApiKey::Produce => $check!(ProduceRequest),
            ApiKey::Fetch => $check!(FetchRequest),
            ApiKey::ListOffsets => $check!(ListOffsetsRequest),
            ApiKey::Metadata => $check!(MetadataRequest),
            ApiKey::FindCoordinator => $check!(FindCoordinatorRequest),
            ApiKey::ApiVersions => $check!(ApiVersionsRequest),
            ApiKey::CreateTopics => $check!(CreateTopicsRequest),
            ApiKey::DeleteTopics => $check!(DeleteTopicsRequest),
            ApiKey::InitProducerId => $check!(InitProducerIdRequest),
            ApiKey::DescribeConfigs => $check!(DescribeConfigsRequest),
            ApiKey::DescribeCluster => $check!(DescribeClusterRequest),
        }
    };
}

macro_rules! each_response {
    ($api:expr, $check:ident) => {
        match $api {
            ApiKey::Produce => $check!(ProduceResponse),
            ApiKey::Fetch => $check!(FetchResponse),
            ApiKey::ListOffsets => $check!(ListOffsetsResponse),
            ApiKey::Metadata => $check!(MetadataResponse),
            ApiKey::FindCoordinator => $check!(FindCoordinatorResponse),
            ApiKey::ApiVersions => $check!(ApiVersionsResponse),
            ApiKey::CreateTopics => $check!(CreateTopicsResponse),
            ApiKey::DeleteTopics => $check!(DeleteTopicsResponse),
            ApiKey::InitProducerId => $check!(InitProducerIdResponse),
            ApiKey::DescribeConfigs => $check!(DescribeConfigsResponse),
            ApiKey::DescribeCluster => $check!(DescribeClusterResponse),
        }
    };
}

#[test]
fn every_request_of_every_version_agrees() {
    for api in API_TABLE {
        for version in api.supported.min..=api.supported.max {
            macro_rules! check {
                ($message:ident) => {
                    compare::<$message, oracle::$message>(version)
                };
            }
            each_request!(api.key, check);
        }
    }
}

#[test]
fn every_response_of_every_version_agrees() {
    for api in API_TABLE {
        for version in api.supported.min..=api.supported.max {
            macro_rules! check {
                ($message:ident) => {
                    compare::<$message, oracle::$message>(version)
                };
            }
            each_response!(api.key, check);
        }
    }
}

#[test]
fn what_the_oracle_sends_by_default_is_understood() {
    for api in API_TABLE {
        for version in api.supported.min..=api.supported.max {
            macro_rules! check {
                ($message:ident) => {{
                    let wire = encode_oracle(&oracle::$message::default(), version);
                    assert_eq!(encode(&decode::<$message>(&wire, version), version), wire, "{} {version}", api.name);
                }};
            }
            each_request!(api.key, check);
            each_response!(api.key, check);
        }
    }
}

#[test]
fn our_defaults_can_be_sent_in_every_version() {
    for api in API_TABLE {
        for version in api.supported.min..=api.supported.max {
            macro_rules! check {
                ($message:ident) => {
                    assert_eq!(decode::<$message>(&encode(&$message::default(), version), version), $message::default())
                };
            }
            // Version 0 of Metadata has no null, which is our default: all topics.
            if (api.key, version) != (ApiKey::Metadata, 0) {
                each_request!(api.key, check);
            }
            each_response!(api.key, check);
        }
    }
}

#[test]
fn header_versions_and_headers_agree() {
    for api in API_TABLE {
        for version in api.supported.min..=api.supported.max {
            macro_rules! check_request {
                ($message:ident) => {
                    assert_eq!(api.request_header_version(version), oracle::$message::header_version(version))
                };
            }
            macro_rules! check_response {
                ($message:ident) => {
                    assert_eq!(api.response_header_version(version), oracle::$message::header_version(version))
                };
            }
            each_request!(api.key, check_request);
            each_response!(api.key, check_response);

            let mut writer = Writer::new();
            let client_id = Some(Str::from("größe"));
            let header = RequestHeader { api_key: api.key, api_version: version, correlation_id: 77, client_id };
            header.encode(&mut writer).unwrap();
            let mut bytes = writer.into_bytes();
            let theirs = oracle::RequestHeader::decode(&mut bytes, api.request_header_version(version)).unwrap();
            assert!(bytes.is_empty());
            assert_eq!((theirs.request_api_key, theirs.request_api_version), (api.key.into(), version));
            assert_eq!((theirs.correlation_id, theirs.client_id.as_deref()), (77, Some("größe")));

            let mut writer = Writer::new();
            ResponseHeader { correlation_id: -1 }.encode(&mut writer, api.key, version);
            let mut bytes = writer.into_bytes();
            let theirs = oracle::ResponseHeader::decode(&mut bytes, api.response_header_version(version)).unwrap();
            assert!(bytes.is_empty());
            assert_eq!(theirs.correlation_id, -1);
        }
    }
}

#[test]
fn error_codes_agree() {
    for code in -1..=133 {
        let Some(theirs) = kafka_protocol::error::ResponseError::try_from_code(code) else {
            assert_eq!(ErrorCode::from(code), ErrorCode::None);
            continue;
        };
        let ours = ErrorCode::from(code);
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}").split('(').next().unwrap(), "{code}");
        // Kafka made it retriable after the oracle's list was written: clients wait for the previous transaction.
        if ours != ErrorCode::ConcurrentTransactions {
            assert_eq!(ours.is_retriable(), theirs.is_retriable(), "{ours}");
        }
    }
}

mod records {
    use indexmap::IndexMap;
    use kafka_protocol::records::{
        Compression as OracleCompression, Record as OracleRecord, RecordBatchDecoder, RecordBatchEncoder,
        RecordEncodeOptions, TimestampType,
    };
    use kauri_protocol::records::{BatchBuilder, BatchView, Compression, Producer};

    use super::*;

    #[test]
    fn batches_agree_in_both_directions() {
        for seed in 0..200 {
            let mut random = Random(seed);
            let producer = Producer { id: 5, epoch: 2, base_sequence: random.below(1000) as i32 };
            let mut builder = BatchBuilder::new(Compression::None);
            let mut theirs = Vec::new();
            for index in 0..1 + random.below(20) {
                let optional = |random: &mut Random| {
                    let count = random.below(300);
                    (!random.once_in(4)).then(|| Bytes::from(random.bytes(count)))
                };
                let (key, value) = (optional(&mut random), optional(&mut random));
                // The oracle drops duplicate header keys, so these differ.
                let names: Vec<String> = (0..random.below(3)).map(|number| format!("header-{number}")).collect();
                let values: Vec<Option<Bytes>> = names.iter().map(|_| optional(&mut random)).collect();
                let headers: Vec<_> =
                    std::iter::zip(&names, &values).map(|(name, value)| (name.as_bytes(), value.as_deref())).collect();
                let timestamp = 1_700_000_000_000 + random.below(100_000) as i64;
                builder.append(timestamp, key.as_deref(), value.as_deref(), &headers).unwrap();
                theirs.push(OracleRecord {
                    transactional: false,
                    control: false,
                    delete_horizon: false,
                    partition_leader_epoch: -1,
                    producer_id: producer.id,
                    producer_epoch: producer.epoch,
                    timestamp_type: TimestampType::Creation,
                    offset: index as i64,
                    sequence: producer.base_sequence + index as i32,
                    timestamp,
                    key,
                    value,
                    headers: std::iter::zip(names, values)
                        .map(|(name, value)| (name.into(), value))
                        .collect::<IndexMap<_, _>>(),
                });
            }
            let ours = builder.build(producer).unwrap();

            let decoded = RecordBatchDecoder::decode(&mut ours.clone()).unwrap();
            assert_eq!(decoded.records, theirs, "seed {seed}");

            let mut encoded = BytesMut::new();
            let options = RecordEncodeOptions { version: 2, compression: OracleCompression::None };
            RecordBatchEncoder::encode(&mut encoded, &theirs, &options).unwrap();
            let encoded = BatchView::new(encoded.freeze()).unwrap();
            encoded.validate_crc().unwrap();
            let ours = BatchView::new(ours).unwrap();
            let records = |batch: &BatchView| batch.records(1 << 20).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
            assert_eq!(records(&encoded), records(&ours), "seed {seed}");
            assert_eq!(encoded.header().producer, producer);
        }
    }
}
