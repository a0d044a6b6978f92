//! Creates topics. Each topic is asked for again until it is created, refused, or the time is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kauri_protocol::{
    error::ErrorCode,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse,
        create_topics::{CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig},
    },
    wire::{Str, Uuid},
};

use super::{AdminError, milliseconds};

/// A topic to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// The broker's default if not given.
    pub partitions: Option<i32>,
    /// The broker's default if not given.
    pub replication_factor: Option<i16>,
    /// The brokers of each partition, instead of the two numbers; the broker chooses if empty.
    pub assignments: BTreeMap<i32, Vec<i32>>,
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    pub name: Str,
    /// Zero if the broker does not say.
    pub id: Uuid,
    pub partitions: Option<i32>,
    pub replication_factor: Option<i16>,
}

#[derive(Debug)]
pub(super) struct CreateTopics {
    pub(super) validate_only: bool,
    pub(super) open: BTreeMap<Str, NewTopic>,
    pub(super) done: BTreeMap<Str, Result<CreatedTopic, AdminError>>,
    /// Topics that an attempt without an answer may have created.
    pub(super) uncertain: BTreeSet<Str>,
}

impl CreateTopics {
    pub(super) fn request(&self, timeout: Duration) -> CreateTopicsRequest {
        let topic = |(name, topic): (&Str, &NewTopic)| CreatableTopic {
            name: name.clone(),
            num_partitions: topic.partitions.unwrap_or(-1),
            replication_factor: topic.replication_factor.unwrap_or(-1),
            assignments: topic
                .assignments
                .iter()
                .map(|(&partition_index, broker_ids)| CreatableReplicaAssignment {
                    partition_index,
                    broker_ids: broker_ids.clone(),
                })
                .collect(),
            configs: topic
                .configs
                .iter()
                .map(|(name, value)| CreatableTopicConfig { name: name.into(), value: Some(value.into()) })
                .collect(),
        };
        CreateTopicsRequest {
            topics: self.open.iter().map(topic).collect(),
            timeout_ms: milliseconds(timeout),
            validate_only: self.validate_only,
        }
    }

    /// Returns the last error that may pass.
    pub(super) fn take(&mut self, response: CreateTopicsResponse) -> Option<ErrorCode> {
        let mut last = None;
        for topic in response.topics {
            if !self.open.contains_key(&topic.name) {
                continue;
            }
            let result = match topic.error_code {
                ErrorCode::None => Ok(CreatedTopic {
                    name: topic.name.detached(),
                    id: topic.topic_id,
                    partitions: Some(topic.num_partitions).filter(|count| *count >= 0),
                    replication_factor: Some(topic.replication_factor).filter(|count| *count >= 0),
                }),
                error if error.is_retriable() => {
                    if error == ErrorCode::RequestTimedOut {
                        self.uncertain.insert(topic.name.detached());
                    }
                    last = Some(error);
                    continue;
                }
                error => {
                    let mut message = topic.error_message.as_ref().map(Str::detached);
                    if error == ErrorCode::TopicAlreadyExists && self.uncertain.contains(&topic.name) {
                        message = Some(Str::from_static("an earlier attempt of this call may have created it"));
                    }
                    Err(AdminError::Refused { error, message })
                }
            };
            self.open.remove(&topic.name);
            self.done.insert(topic.name.detached(), result);
        }
        last
    }
}
