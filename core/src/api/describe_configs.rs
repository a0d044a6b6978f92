//! DescribeConfigs: topics from the metadata, brokers from this node's own configuration.

use std::collections::BTreeSet;

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        DescribeConfigsRequest, DescribeConfigsResponse,
        describe_configs::{
            DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
        },
    },
    wire::Str,
};

use super::{Exchange, Progress, done};
use crate::{
    broker::{Broker, broker_config},
    metadata::topic_config::DescribedConfig,
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

pub(super) fn start(broker: &Broker, exchange: Exchange, request: DescribeConfigsRequest) -> Progress {
    // Once each: a name costs a few bytes, and the answer to it is long.
    let mut seen = BTreeSet::new();
    let resources = request.resources.iter();
    let once = resources.filter(|resource| seen.insert((resource.resource_type, resource.resource_name.clone())));
    let results = once.map(|resource| {
        let mut result = DescribeConfigsResult {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        };
        match describe(broker, exchange, &request, resource) {
            Ok(configs) => result.configs = configs,
            Err((code, message)) => {
                result.error_code = code;
                result.error_message = Some(Str::from(message));
            }
        }
        result
    });
    done(exchange, &DescribeConfigsResponse { results: results.collect(), ..Default::default() })
}

fn describe(
    broker: &Broker,
    exchange: Exchange,
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
) -> Result<Vec<DescribeConfigsResourceResult>, (ErrorCode, &'static str)> {
    let configs: Vec<DescribedConfig> = match resource.resource_type {
        TOPIC => {
            let topic = broker
                .image()
                .topic_by_name(&resource.resource_name)
                .ok_or((ErrorCode::UnknownTopicOrPartition, "there is no topic of this name"))?;
            topic.configs.describe().collect()
        }
        BROKER => {
            let name: &str = &resource.resource_name;
            if !name.is_empty() && name != broker.config.node.to_string() {
                return Err((ErrorCode::InvalidRequest, "ask the broker whose configuration is meant"));
            }
            broker_config::describe(&broker.config)
        }
        _ => return Err((ErrorCode::InvalidRequest, "only topics and brokers have configurations")),
    };
    let wanted = |name: &str| match &resource.configuration_keys {
        Some(keys) if !keys.is_empty() => keys.iter().any(|key| &**key == name),
        Some(_) | None => true,
    };
    let configs = configs.into_iter().filter(|config| wanted(config.name)).map(|config| {
        let value = Str::from(config.value);
        DescribeConfigsResourceResult {
            name: Str::from(config.name),
            synonyms: if request.include_synonyms {
                vec![DescribeConfigsSynonym {
                    name: Str::from(config.name),
                    value: Some(value.clone()),
                    source: config.source,
                }]
            } else {
                Vec::new()
            },
            value: Some(value),
            read_only: config.read_only,
            config_source: config.source,
            is_sensitive: false,
            config_type: if exchange.version >= 3 { config.kind as i8 } else { 0 },
            documentation: request.include_documentation.then(|| Str::from(config.documentation)),
        }
    });
    Ok(configs.collect())
}
