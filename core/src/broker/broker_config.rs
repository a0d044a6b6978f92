//! The configuration of a broker in Kafka's names, for DescribeConfigs: what this node really does.

use crate::{
    config::NodeConfig,
    limits,
    metadata::topic_config::{DescribedConfig, DescribedType},
};

const STATIC_BROKER: i8 = 4;
const DEFAULT: i8 = 5;

/// Everything read-only: these values come from the node's configuration file.
pub fn describe(config: &NodeConfig) -> Vec<DescribedConfig> {
    let line = |name, value: String, source, kind, documentation| DescribedConfig {
        name,
        value,
        source,
        read_only: true,
        kind,
        documentation,
    };
    use DescribedType::{Boolean, Int, List, Long, String as Text};
    vec![
        line(
            "advertised.listeners",
            format!("PLAINTEXT://{}", config.advertised),
            STATIC_BROKER,
            List,
            "Where clients connect to.",
        ),
        line(
            "auto.create.topics.enable",
            config.auto_create_topics.to_string(),
            STATIC_BROKER,
            Boolean,
            "Whether a topic that a client asks about is created.",
        ),
        line("broker.id", config.node.to_string(), STATIC_BROKER, Int, "This node."),
        line(
            "broker.rack",
            config.rack.clone().unwrap_or_default(),
            STATIC_BROKER,
            Text,
            "Replicas are spread over racks.",
        ),
        line(
            "default.replication.factor",
            config.default_replication_factor.to_string(),
            STATIC_BROKER,
            Int,
            "Replicas of a topic whose creator names no number.",
        ),
        line("fetch.max.bytes", limits::FETCH_BYTES_MAX.to_string(), DEFAULT, Int, "Largest answer to a fetch."),
        line(
            "log.segment.bytes",
            config.segment_bytes.to_string(),
            STATIC_BROKER,
            Int,
            "Size of a segment file of a topic that sets none.",
        ),
        line(
            "message.max.bytes",
            limits::BATCH_BYTES_DEFAULT.to_string(),
            DEFAULT,
            Int,
            "Largest record batch of a topic that sets none.",
        ),
        line(
            "min.insync.replicas",
            "1".to_owned(),
            DEFAULT,
            Int,
            "Every write is on a majority before it is acknowledged.",
        ),
        line("node.id", config.node.to_string(), STATIC_BROKER, Int, "This node."),
        line(
            "num.partitions",
            config.default_partitions.to_string(),
            STATIC_BROKER,
            Int,
            "Partitions of a topic whose creator names no number.",
        ),
        line(
            "socket.request.max.bytes",
            limits::PRODUCE_FRAME_BYTES_MAX.to_string(),
            DEFAULT,
            Int,
            "Largest request; smaller for everything but Produce.",
        ),
        line(
            "max.incremental.fetch.session.cache.slots",
            limits::FETCH_SESSIONS_MAX.to_string(),
            DEFAULT,
            Int,
            "Fetch sessions kept at once.",
        ),
        line(
            "unclean.leader.election.enable",
            "false".to_owned(),
            DEFAULT,
            Boolean,
            "No election loses acknowledged records.",
        ),
        line("log.retention.bytes", "-1".to_owned(), DEFAULT, Long, "Records are kept until their topic is deleted."),
    ]
}
