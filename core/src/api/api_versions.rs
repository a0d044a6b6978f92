//! ApiVersions: what this broker speaks.

use kauri_protocol::{
    api::ApiKey,
    error::ErrorCode,
    messages::{ApiVersionsRequest, ApiVersionsResponse, api_versions::ApiVersion},
};

use super::{Exchange, Progress, done, respond_in_version};
use crate::session::Reply;

pub(super) fn start(exchange: Exchange, request: ApiVersionsRequest) -> Progress {
    let named = exchange.version < 3
        || (is_software_name(&request.client_software_name) && is_software_name(&request.client_software_version));
    if !named {
        return done(exchange, &ApiVersionsResponse { error_code: ErrorCode::InvalidRequest, ..Default::default() });
    }
    // No features are finalized: clients then use the first version of transactions and classic groups.
    done(exchange, &ApiVersionsResponse::from_table())
}

/// The answer to a version that is not supported: version 0, naming the versions of this API (KIP-511).
pub(super) fn unsupported(exchange: Exchange) -> Reply {
    let advertised = ApiKey::ApiVersions.api().advertised;
    let range =
        ApiVersion { api_key: ApiKey::ApiVersions.into(), min_version: advertised.min, max_version: advertised.max };
    let body =
        ApiVersionsResponse { error_code: ErrorCode::UnsupportedVersion, api_keys: vec![range], ..Default::default() };
    respond_in_version(exchange, &body, 0)
}

/// KIP-511: `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`
fn is_software_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names_follow_kip_511() {
        for good in ["a", "apache-kafka-java", "2.15.0", "librdkafka"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".", "a b", "a_b", "é"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
