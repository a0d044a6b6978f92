//! Lists and describes topics, from one broker's metadata.

use std::collections::{BTreeMap, BTreeSet};

use kauri_protocol::{
    error::ErrorCode,
    messages::{MetadataRequest, MetadataResponse, metadata::MetadataRequestTopic},
    wire::{Str, Uuid},
};

use super::AdminError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    pub name: Str,
    /// Zero if the broker does not say.
    pub id: Uuid,
    pub is_internal: bool,
    pub partitions: BTreeMap<i32, PartitionDescription>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    pub leader: Option<i32>,
    /// -1 if the broker does not say.
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
    pub offline: Vec<i32>,
}

#[derive(Debug)]
pub(super) struct DescribeTopics {
    /// `None` for all.
    pub(super) names: Option<BTreeSet<Str>>,
    pub(super) done: BTreeMap<Str, Result<TopicDescription, AdminError>>,
}

impl DescribeTopics {
    pub(super) fn request(&self) -> MetadataRequest {
        let topic = |name: &Str| MetadataRequestTopic { name: Some(name.clone()), ..Default::default() };
        MetadataRequest {
            topics: self.names.as_ref().map(|names| names.iter().map(topic).collect()),
            allow_auto_topic_creation: false,
            ..Default::default()
        }
    }

    /// Returns the last error that may pass, of a topic that was asked for by name.
    pub(super) fn take(&mut self, response: MetadataResponse) -> Option<ErrorCode> {
        let mut last = None;
        self.done.clear();
        for topic in response.topics {
            let Some(name) = topic.name.as_ref().map(Str::detached) else { continue };
            let error = topic.error_code;
            if error.is_error() && error.is_retriable() && error != ErrorCode::UnknownTopicOrPartition {
                last = Some(error);
            }
            let partitions = topic.partitions.into_iter().map(|partition| {
                let description = PartitionDescription {
                    leader: Some(partition.leader_id).filter(|id| *id >= 0),
                    leader_epoch: partition.leader_epoch,
                    replicas: partition.replica_nodes,
                    in_sync: partition.isr_nodes,
                    offline: partition.offline_replicas,
                };
                (partition.partition_index, description)
            });
            let description = TopicDescription {
                name: name.clone(),
                id: topic.topic_id,
                is_internal: topic.is_internal,
                partitions: partitions.collect(),
            };
            let result =
                if error.is_ok() { Ok(description) } else { Err(AdminError::Refused { error, message: None }) };
            self.done.insert(name, result);
        }
        last
    }
}
