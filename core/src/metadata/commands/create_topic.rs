//! A new topic: its groups and replicas get their ids here, at apply.

use std::{collections::BTreeSet, sync::Arc};

use super::MetadataOutcome;
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{GroupId, ImageVersion, NodeId, ReplicaId, TopicId},
    limits::{CLUSTER_PARTITIONS_MAX, REPLICAS_MAX, TOPIC_PARTITIONS_MAX},
    metadata::{
        refusal::Refusal,
        state::MetadataState,
        topic::{Partition, Replica, Topic, TopicName},
        topic_config::TopicConfigs,
    },
};

/// Proposed by the leader of group 0, which minted the topic id and chose the nodes (see `placement`), or took them
/// from the client's own assignment. Two requests for one name race to the log; the second is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopic {
    pub name: String,
    pub topic: TopicId,
    /// The nodes of each partition's replicas, the preferred leader first.
    pub partitions: Vec<Vec<NodeId>>,
    pub configs: Vec<(String, String)>,
}

impl CreateTopic {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_text(&self.name);
        out.put_uuid(self.topic.0);
        out.put_count(self.partitions.len());
        for nodes in &self.partitions {
            out.put_count(nodes.len());
            for node in nodes {
                out.put_i32(node.0);
            }
        }
        out.put_count(self.configs.len());
        for (name, value) in &self.configs {
            out.put_text(name);
            out.put_text(value);
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let name = from.text()?.to_owned();
        let topic = TopicId(from.uuid()?);
        let partitions = from.list(4, |from| from.list(4, |from| Ok(NodeId(from.i32()?))))?;
        let configs = from.list(4, |from| Ok((from.text()?.to_owned(), from.text()?.to_owned())))?;
        Ok(Self { name, topic, partitions, configs })
    }

    /// Everything that the state of the cluster says about this command, in Kafka's order: the name, then the
    /// partitions, then the configurations. Also what answers a request with `validate_only`.
    pub fn check(&self, state: &MetadataState) -> Result<(TopicName, TopicConfigs), Refusal> {
        let image = &state.image;
        if image.cluster.is_none() {
            return Err(Refusal::NotFormed);
        }
        let name = TopicName::new(&self.name)?;
        if image.topic_by_name(&self.name).is_some() {
            return Err(Refusal::TopicExists);
        }
        if let Some(other) = image.topics.by_collision_key.get(&name.collision_key()) {
            return Err(Refusal::TopicNameCollision(image.topics.by_id[other].name.to_string()));
        }
        if self.topic == TopicId::default() || image.topic(self.topic).is_some() {
            return Err(Refusal::TopicIdInUse(self.topic));
        }
        if self.partitions.is_empty() || self.partitions.len() > TOPIC_PARTITIONS_MAX as usize {
            return Err(Refusal::InvalidPartitions);
        }
        if image.topics.partition_count + self.partitions.len() > CLUSTER_PARTITIONS_MAX {
            return Err(Refusal::TooManyPartitions);
        }
        let replicas = self.partitions[0].len();
        for nodes in &self.partitions {
            let distinct: BTreeSet<&NodeId> = nodes.iter().collect();
            let known = nodes.iter().all(|node| image.nodes.contains_key(node));
            let count_legal = nodes.len() == replicas && (1..=REPLICAS_MAX).contains(&replicas);
            if !count_legal || distinct.len() != nodes.len() || !known {
                return Err(Refusal::InvalidReplicaAssignment);
            }
        }
        let configs = self.configs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Ok((name, TopicConfigs::new(configs)?))
    }

    pub(super) fn apply(self, state: &mut MetadataState, version: ImageVersion) -> Result<MetadataOutcome, Refusal> {
        let (name, configs) = self.check(state)?;
        let partitions = self.partitions.iter().map(|nodes| {
            let group = GroupId(state.next_group);
            state.next_group += 1;
            let replicas = nodes.iter().map(|node| {
                let id = ReplicaId(state.next_replica);
                state.next_replica += 1;
                Replica { id, node: *node, directory: state.image.nodes[node].directory }
            });
            Partition { group, replicas: replicas.collect(), created: Vec::new() }
        });
        let partitions = partitions.collect();
        let topic = Topic { id: self.topic, name, configs_version: version, configs, partitions };
        state.insert_topic(Arc::new(topic));
        state.image.version = version;
        Ok(MetadataOutcome::TopicCreated(self.topic))
    }
}
