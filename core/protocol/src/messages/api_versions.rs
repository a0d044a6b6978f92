//! ApiVersions (18): what this broker understands. The first request on most connections.
//!
//! The response header is version 0 for every version. A request of an unknown version is answered with
//! UNSUPPORTED_VERSION in the body of version 0 (KIP-511).

use crate::api::API_TABLE;
use crate::error::ErrorCode;
use crate::wire::Str;

message! {
    ApiVersions request -> ApiVersionsResponse
    pub struct ApiVersionsRequest {
        client_software_name: Str [3.., ignorable],
        client_software_version: Str [3.., ignorable],
    }
}

message! {
    ApiVersions response
    pub struct ApiVersionsResponse {
        error_code: ErrorCode [0..],
        api_keys: Vec<ApiVersion> [0..],
        throttle_time_ms: i32 [1.., ignorable],
        /// Features with a lowest version of 0 must be left out below version 4, where clients mishandle them.
        supported_features: Vec<SupportedFeatureKey> [3.., tag 0, ignorable],
        /// -1 if not known; clients then ignore `finalized_features`.
        finalized_features_epoch: i64 [3.., tag 1, ignorable] = -1,
        finalized_features: Vec<FinalizedFeatureKey> [3.., tag 2, ignorable],
        zk_migration_ready: bool [3.., tag 3, ignorable],
    }
}

structure! {
    pub struct ApiVersion {
        api_key: i16 [0..],
        min_version: i16 [0..],
        max_version: i16 [0..],
    }
}

structure! {
    pub struct SupportedFeatureKey {
        name: Str [3..],
        min_version: i16 [3..],
        max_version: i16 [3..],
    }
}

structure! {
    pub struct FinalizedFeatureKey {
        name: Str [3..],
        max_version_level: i16 [3..],
        min_version_level: i16 [3..],
    }
}

impl ApiVersionsResponse {
    /// The answer of a broker that serves the whole table and has no features to tell of.
    #[must_use]
    pub fn from_table() -> Self {
        let api_keys = API_TABLE.iter().map(|api| ApiVersion {
            api_key: api.key.into(),
            min_version: api.advertised.min,
            max_version: api.advertised.max,
        });
        Self { api_keys: api_keys.collect(), ..Self::default() }
    }
}
