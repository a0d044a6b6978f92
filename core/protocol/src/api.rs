//! The one table of APIs: keys, names, versions, headers.
//!
//! To add an API: a line here, a file in [`crate::messages`], and the list of versions is complete everywhere:
//! decoding, the ApiVersions answer, headers, tests and fuzzers. Kafka's rules for versions: KIP-35, KIP-482
//! (flexible), KIP-511 (ApiVersions), KIP-896 (minima).

use std::fmt;

use crate::schema::Versions;

/// Calls `$callback!` with the table. `supported` versions can be decoded and encoded; `advertised` ones are told to
/// clients. They differ where clients in use switch features off when a range starts too high, and the request itself
/// is then refused.
macro_rules! with_api_table {
    ($callback:ident) => {
        $callback! {
            // librdkafka silently turns compression off when 0 is missing (KAFKA-18659).
            Produce = 0, supported 3..=11, advertised from 0, flexible from 9,
                produce::{ProduceRequest, ProduceResponse};
            Fetch = 1, supported 4..=12, advertised from 4, flexible from 12,
                fetch::{FetchRequest, FetchResponse};
            ListOffsets = 2, supported 1..=8, advertised from 1, flexible from 6,
                list_offsets::{ListOffsetsRequest, ListOffsetsResponse};
            Metadata = 3, supported 0..=12, advertised from 0, flexible from 9,
                metadata::{MetadataRequest, MetadataResponse};
            FindCoordinator = 10, supported 0..=4, advertised from 0, flexible from 3,
                find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
            ApiVersions = 18, supported 0..=4, advertised from 0, flexible from 3,
                api_versions::{ApiVersionsRequest, ApiVersionsResponse};
            CreateTopics = 19, supported 2..=7, advertised from 2, flexible from 5,
                create_topics::{CreateTopicsRequest, CreateTopicsResponse};
            DeleteTopics = 20, supported 1..=6, advertised from 1, flexible from 4,
                delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
            InitProducerId = 22, supported 0..=4, advertised from 0, flexible from 2,
                init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
            DescribeConfigs = 32, supported 1..=4, advertised from 1, flexible from 4,
                describe_configs::{DescribeConfigsRequest, DescribeConfigsResponse};
            DescribeCluster = 60, supported 0..=1, advertised from 0, flexible from 0,
                describe_cluster::{DescribeClusterRequest, DescribeClusterResponse};
        }
    };
}
pub(crate) use with_api_table;

macro_rules! declare_api_keys {
    ($($name:ident = $key:literal, supported $min:literal ..= $max:literal, advertised from $advertised:literal,
        flexible from $flexible:literal, $module:ident::{$request:ident, $response:ident};)*) => {
        /// The APIs that Kauri speaks.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $($name = $key,)*
        }

        /// Every API, by ascending key.
        pub static API_TABLE: &[Api] = &[$(*ApiKey::$name.api(),)*];

        impl ApiKey {
            /// The API's line of the table.
            #[must_use]
            pub const fn api(self) -> &'static Api {
                match self {
                    $(Self::$name => const { &Api {
                        key: Self::$name,
                        name: stringify!($name),
                        supported: Versions { min: $min, max: $max },
                        advertised: Versions { min: $advertised, max: $max },
                        flexible_from: $flexible,
                    } },)*
                }
            }
        }

        impl TryFrom<i16> for ApiKey {
            type Error = UnknownApiKey;

            fn try_from(key: i16) -> Result<Self, UnknownApiKey> {
                match key {
                    $($key => Ok(Self::$name),)*
                    _ => Err(UnknownApiKey { key }),
                }
            }
        }
    };
}
with_api_table!(declare_api_keys);

impl From<ApiKey> for i16 {
    fn from(key: ApiKey) -> Self {
        key as Self
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.api().name)
    }
}

/// The number is no API that Kauri speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("API key {key} is not known")]
pub struct UnknownApiKey {
    pub key: i16,
}

/// One line of [`API_TABLE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Api {
    pub key: ApiKey,
    pub name: &'static str,
    /// Versions that are understood.
    pub supported: Versions,
    /// Versions told in the ApiVersions answer.
    pub advertised: Versions,
    /// The first version with compact lengths and tagged fields.
    pub flexible_from: i16,
}

impl Api {
    #[inline]
    #[must_use]
    pub const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }

    /// Version of the header in front of a request of `version`.
    #[must_use]
    pub const fn request_header_version(&self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the header in front of a response of `version`. ApiVersions always answers with the oldest one,
    /// because the client does not know yet what this broker understands (KIP-511).
    #[must_use]
    pub const fn response_header_version(&self, version: i16) -> i16 {
        if self.is_flexible(version) && !matches!(self.key, ApiKey::ApiVersions) { 1 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_convert_both_ways_and_ascend() {
        for api in API_TABLE {
            assert_eq!(ApiKey::try_from(i16::from(api.key)), Ok(api.key));
            assert_eq!(api.key.api(), api);
            assert_eq!(api.key.to_string(), api.name);
        }
        assert!(API_TABLE.windows(2).all(|pair| pair[0].key < pair[1].key));
        assert_eq!(ApiKey::try_from(-1), Err(UnknownApiKey { key: -1 }));
    }

    #[test]
    fn the_answer_to_api_versions_never_has_a_flexible_header() {
        assert_eq!(ApiKey::ApiVersions.api().request_header_version(3), 2);
        assert_eq!(ApiKey::ApiVersions.api().response_header_version(4), 0);
        assert_eq!(ApiKey::Metadata.api().response_header_version(8), 0);
        assert_eq!(ApiKey::Metadata.api().response_header_version(9), 1);
    }
}
