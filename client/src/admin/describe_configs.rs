//! Describes the configurations of topics and brokers.

use std::collections::BTreeMap;

use kauri_protocol::{
    messages::{DescribeConfigsRequest, DescribeConfigsResponse, describe_configs::DescribeConfigsResource},
    wire::Str,
};

use super::AdminError;

/// What has a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigResource {
    Topic(String),
    Broker(i32),
}

impl ConfigResource {
    const fn code(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) => 4,
        }
    }

    fn name(&self) -> Str {
        match self {
            Self::Topic(name) => name.into(),
            Self::Broker(id) => id.to_string().into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Not told if it is sensitive.
    pub value: Option<Str>,
    pub is_default: bool,
    pub is_read_only: bool,
    pub is_sensitive: bool,
}

/// Kafka's code for a default.
const SOURCE_DEFAULT: i8 = 5;

#[derive(Debug)]
pub(super) struct DescribeConfigs {
    pub(super) resource: ConfigResource,
}

impl DescribeConfigs {
    pub(super) fn request(&self) -> DescribeConfigsRequest {
        let resource = DescribeConfigsResource {
            resource_type: self.resource.code(),
            resource_name: self.resource.name(),
            configuration_keys: None,
        };
        DescribeConfigsRequest { resources: vec![resource], ..Default::default() }
    }

    /// The entries by name; `None` if the answer is about something else.
    pub(super) fn take(
        &self,
        response: DescribeConfigsResponse,
    ) -> Option<Result<BTreeMap<Str, ConfigEntry>, AdminError>> {
        let result = response.results.into_iter().next()?;
        if result.error_code.is_error() {
            let message = result.error_message.as_ref().map(Str::detached);
            return Some(Err(AdminError::Refused { error: result.error_code, message }));
        }
        let entries = result.configs.into_iter().map(|config| {
            let entry = ConfigEntry {
                value: config.value.as_ref().map(Str::detached),
                is_default: config.config_source == SOURCE_DEFAULT,
                is_read_only: config.read_only,
                is_sensitive: config.is_sensitive,
            };
            (config.name.detached(), entry)
        });
        Some(Ok(entries.collect()))
    }
}
