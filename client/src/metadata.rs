//! What the client knows of the cluster: brokers, topics, leaders.
//!
//! Invariant: a partition's leader never goes back to a lower leader epoch (KIP-320), however answers of different
//! brokers overtake each other; a topic that was created again under the same name starts over.

use std::collections::BTreeMap;

use kauri_protocol::{
    error::ErrorCode,
    messages::{MetadataResponse, leader::NodeEndpoint, metadata::MetadataResponseTopic},
    wire::{Str, Uuid},
};

/// A broker and where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: i32,
    pub host: String,
    pub port: u16,
    pub rack: Option<Str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Why nothing is known of the topic, if so.
    pub error: ErrorCode,
    pub id: Uuid,
    pub partitions: BTreeMap<i32, Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub leader: Option<i32>,
    /// -1 if the broker does not say.
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
}

/// See the module head.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    pub cluster_id: Option<Str>,
    pub controller: Option<i32>,
    pub nodes: BTreeMap<i32, Node>,
    pub topics: BTreeMap<Str, Topic>,
}

impl Metadata {
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let partition = self.topics.get(topic)?.partitions.get(&partition)?;
        partition.leader.filter(|leader| self.nodes.contains_key(leader))
    }

    /// The leader and its epoch (-1 if it is not known), for those who have the name as it stands in the map: its bytes
    /// are then compared as they are.
    pub(crate) fn leader_of(&self, topic: &Str, partition: i32) -> Option<(i32, i32)> {
        let partition = self.topics.get(topic)?.partitions.get(&partition)?;
        let leader = partition.leader.filter(|leader| self.nodes.contains_key(leader))?;
        Some((leader, partition.leader_epoch))
    }

    /// -1 if it is not known.
    pub fn leader_epoch(&self, topic: &str, partition: i32) -> i32 {
        let topic = self.topics.get(topic);
        topic.and_then(|topic| topic.partitions.get(&partition)).map_or(-1, |partition| partition.leader_epoch)
    }

    /// Learns where brokers are from an error that names a leader (KIP-951). What is known already stays.
    pub fn learn_nodes(&mut self, endpoints: &[NodeEndpoint]) {
        for endpoint in endpoints {
            let Ok(port) = u16::try_from(endpoint.port) else { continue };
            self.nodes.entry(endpoint.node_id).or_insert_with(|| Node {
                id: endpoint.node_id,
                host: endpoint.host.to_string(),
                port,
                rack: endpoint.rack.as_ref().map(Str::detached),
            });
        }
    }

    /// Learns from an error that names the current leader (KIP-951). Returns whether that was news.
    pub fn learn_leader(&mut self, topic: &str, partition: i32, leader: i32, leader_epoch: i32) -> bool {
        let Some(partition) = self.topics.get_mut(topic).and_then(|topic| topic.partitions.get_mut(&partition)) else {
            return false;
        };
        if leader < 0 || leader_epoch <= partition.leader_epoch {
            return false;
        }
        partition.leader = Some(leader);
        partition.leader_epoch = leader_epoch;
        true
    }

    /// Takes in an answer.
    pub fn update(&mut self, response: MetadataResponse) {
        let nodes = response.brokers.into_iter().filter_map(|broker| {
            let port = u16::try_from(broker.port).ok()?;
            Some((
                broker.node_id,
                Node {
                    id: broker.node_id,
                    host: broker.host.to_string(),
                    port,
                    rack: broker.rack.as_ref().map(Str::detached),
                },
            ))
        });
        self.nodes = nodes.collect();
        self.cluster_id = response.cluster_id.as_ref().map(Str::detached).or(self.cluster_id.take());
        self.controller = Some(response.controller_id).filter(|id| *id >= 0);
        for topic in response.topics {
            let Some(name) = topic.name.as_ref().map(Str::detached) else { continue };
            let before = self.topics.remove(&name).filter(|before| before.id == topic.topic_id);
            self.topics.insert(name, Topic::new(topic, before));
        }
    }
}

impl Topic {
    fn new(topic: MetadataResponseTopic, before: Option<Self>) -> Self {
        let mut partitions = before.map(|before| before.partitions).unwrap_or_default();
        for answer in topic.partitions {
            let partition = Partition {
                leader: Some(answer.leader_id).filter(|id| *id >= 0),
                leader_epoch: answer.leader_epoch,
                replicas: answer.replica_nodes,
                in_sync: answer.isr_nodes,
            };
            let known = partitions.entry(answer.partition_index).or_insert_with(|| partition.clone());
            if answer.leader_epoch < 0 || answer.leader_epoch >= known.leader_epoch {
                *known = partition;
            }
        }
        Self { error: topic.error_code, id: topic.topic_id, partitions }
    }
}

#[cfg(test)]
mod tests {
    use kauri_protocol::messages::metadata::{MetadataResponseBroker, MetadataResponsePartition};

    use super::*;

    fn answer(id: Uuid, leader_id: i32, leader_epoch: i32) -> MetadataResponse {
        let broker = |node_id| MetadataResponseBroker { node_id, host: Str::from("h"), port: 9, ..Default::default() };
        MetadataResponse {
            brokers: vec![broker(1), broker(2)],
            topics: vec![MetadataResponseTopic {
                name: Some(Str::from("t")),
                topic_id: id,
                partitions: vec![MetadataResponsePartition { leader_id, leader_epoch, ..Default::default() }],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn an_outdated_answer_does_not_bring_an_old_leader_back() {
        let id = Uuid([1; 16]);
        let mut metadata = Metadata::default();
        metadata.update(answer(id, 1, 5));
        metadata.update(answer(id, 2, 6));
        metadata.update(answer(id, 1, 5));
        assert_eq!(metadata.leader("t", 0), Some(2));
        assert!(metadata.learn_leader("t", 0, 1, 7));
        assert!(!metadata.learn_leader("t", 0, 2, 7), "not newer");
        metadata.update(answer(id, 2, 6));
        assert_eq!(metadata.leader("t", 0), Some(1));
        metadata.update(answer(Uuid([2; 16]), 2, 0));
        assert_eq!(metadata.leader("t", 0), Some(2), "a topic created again starts over");
    }
}
