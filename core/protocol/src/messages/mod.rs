//! Every request and response, one file per API.
//!
//! Structures and fields carry the names of Kafka's own schemas, so that Kafka's documentation explains them. A field
//! that is not on the wire in a version has its default after decoding. Nothing here has behaviour: a message is data.

use crate::api::{Api, ApiKey, with_api_table};
use crate::schema::Struct;
use crate::wire::{Context, DecodeError, EncodeError, Reader, Writer};

pub mod api_versions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod fetch;
pub mod find_coordinator;
pub mod init_producer_id;
pub mod leader;
pub mod list_offsets;
pub mod metadata;
pub mod produce;

/// The request or response of an API.
pub trait Message: Sized {
    const API: &'static Api;
    const STRUCT: &'static Struct;

    /// Reads the body, header excluded. Bytes behind it are left to the caller, see [`Reader::finish`].
    fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError>;

    /// Writes the body, header excluded.
    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

/// A request, which knows the type of its response.
pub trait RequestMessage: Message {
    type Response: Message;
}

pub(crate) fn decode_context(api: &'static Api, version: i16) -> Result<Context, DecodeError> {
    if api.supported.contains(version) {
        Ok(Context { version, flexible: api.is_flexible(version) })
    } else {
        Err(DecodeError::UnsupportedVersion { api: api.name, version })
    }
}

pub(crate) fn encode_context(api: &'static Api, version: i16) -> Result<Context, EncodeError> {
    if api.supported.contains(version) {
        Ok(Context { version, flexible: api.is_flexible(version) })
    } else {
        Err(EncodeError::UnsupportedVersion { api: api.name, version })
    }
}

macro_rules! declare_message_enums {
    ($($name:ident = $key:literal, supported $min:literal ..= $max:literal, advertised from $advertised:literal,
        flexible from $flexible:literal, $module:ident::{$request:ident, $response:ident};)*) => {
        $(pub use $module::{$request, $response};)*

        declare_message_enums! { @ "The body of any request." Request $($name $request)* }
        declare_message_enums! { @ "The body of any response." Response $($name $response)* }
    };
    (@ $about:literal $enum:ident $($name:ident $message:ident)*) => {
        #[doc = $about]
        #[derive(Debug, Clone, PartialEq)]
        pub enum $enum {
            $($name($message),)*
        }

        impl $enum {
            pub fn decode(api_key: ApiKey, reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
                match api_key {
                    $(ApiKey::$name => $message::decode(reader, version).map(Self::$name),)*
                }
            }

            pub fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
                match self {
                    $(Self::$name(message) => message.encode(writer, version),)*
                }
            }

            #[must_use]
            pub const fn api_key(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$name,)*
                }
            }

            /// The fields of the API's message.
            #[must_use]
            pub const fn schema(api_key: ApiKey) -> &'static Struct {
                match api_key {
                    $(ApiKey::$name => <$message as Message>::STRUCT,)*
                }
            }
        }

        $(impl From<$message> for $enum {
            fn from(message: $message) -> Self {
                Self::$name(message)
            }
        })*
    };
}
with_api_table!(declare_message_enums);

#[cfg(test)]
mod tests {
    use super::fetch::FetchPartitionData;
    use super::produce::PartitionProduceResponse;
    use super::*;
    use crate::error::ErrorCode;
    use crate::messages::leader::LeaderIdAndEpoch;

    fn encode<M: Message>(message: &M, version: i16) -> Result<Vec<u8>, EncodeError> {
        let mut writer = Writer::new();
        message.encode(&mut writer, version).map(|()| writer.into_bytes().to_vec())
    }

    #[test]
    fn a_wish_that_a_version_cannot_carry_is_an_error() {
        let request = MetadataRequest { allow_auto_topic_creation: false, ..MetadataRequest::default() };
        let error = EncodeError::FieldNotInVersion { field: "allow_auto_topic_creation", version: 3 };
        assert_eq!(encode(&request, 3), Err(error), "the broker would create the topic");
        assert!(encode(&request, 4).is_ok());
        let error = EncodeError::UnexpectedNull { field: "topics", version: 0 };
        assert_eq!(encode(&MetadataRequest::default(), 0), Err(error));
    }

    #[test]
    fn hints_are_left_out_of_versions_that_cannot_carry_them() {
        let hint = LeaderIdAndEpoch { leader_id: 1, leader_epoch: 2 };
        let answer = |current_leader| ProduceResponse {
            responses: vec![produce::TopicProduceResponse {
                partition_responses: vec![PartitionProduceResponse {
                    error_code: ErrorCode::NotLeaderOrFollower,
                    current_leader,
                    ..PartitionProduceResponse::default()
                }],
                ..produce::TopicProduceResponse::default()
            }],
            ..ProduceResponse::default()
        };
        assert_eq!(encode(&answer(hint.clone()), 9), encode(&answer(LeaderIdAndEpoch::default()), 9));
        assert_ne!(encode(&answer(hint), 10), encode(&answer(LeaderIdAndEpoch::default()), 10));
    }

    #[test]
    fn versions_outside_of_the_table_are_not_written() {
        let error = EncodeError::UnsupportedVersion { api: "Produce", version: 2 };
        assert_eq!(encode(&ProduceRequest::default(), 2), Err(error));
    }

    #[test]
    fn strings_longer_than_kafka_reads_are_not_written() {
        let name = |length| ApiVersionsRequest {
            client_software_name: "n".repeat(length).into(),
            ..ApiVersionsRequest::default()
        };
        assert!(encode(&name(32_767), 3).is_ok());
        assert_eq!(encode(&name(32_768), 3), Err(EncodeError::TooLong { length: 32_768 }));
    }

    #[test]
    fn a_null_where_none_may_be_is_named() {
        // Version 9 of Metadata: one topic without a name, which version 10 allows.
        let frame = bytes::Bytes::from_static(&[2, 0, 0, 1, 0, 0, 0]);
        let error = DecodeError::UnexpectedNull { field: "name" };
        assert_eq!(MetadataRequest::decode(&mut Reader::new(frame), 9), Err(error));
    }

    #[test]
    fn fetched_records_are_empty_rather_than_null() {
        assert_eq!(FetchPartitionData::default().records, Some(crate::wire::Records::new()));
    }
}
