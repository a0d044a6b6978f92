//! What requests see of partitions and nodes.

use kauri_protocol::{error::ErrorCode, messages::leader::NodeEndpoint, wire::Str};

use super::{Broker, Refusal, Replica};
use crate::{
    config::Endpoint,
    ids::{GroupId, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId},
    metadata::Node,
    session::RequestId,
};

/// Who leads a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    pub node: NodeId,
    pub epoch: LeaderEpoch,
}

/// Who leads a partition, and which replicas keep up with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownLeader {
    pub(crate) node: NodeId,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) in_sync: Vec<NodeId>,
}

/// A partition that this node leads, ready to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub group: GroupId,
    pub high_watermark: Offset,
    pub log_start: Offset,
    /// Of the record at the log start; the current epoch if there is none.
    pub log_start_epoch: LeaderEpoch,
    pub leader_epoch: LeaderEpoch,
}

impl Broker {
    /// The group of a partition, if this node leads it, serves it, and `epoch` (what the client believes) fits.
    pub(super) fn led_group(&self, topic: &str, index: i32, epoch: LeaderEpoch) -> Result<GroupId, Refusal> {
        let partition = self
            .image
            .topic_by_name(topic)
            .and_then(|topic| topic.partition(PartitionIndex(index)))
            .ok_or(ErrorCode::UnknownTopicOrPartition)?;
        self.check_led(partition.group, epoch)?;
        Ok(partition.group)
    }

    fn check_led(&self, group: GroupId, epoch: LeaderEpoch) -> Result<&Replica, Refusal> {
        let replica = self.replicas.get(&group).filter(|replica| replica.group.is_leader());
        let Some(replica) = replica else {
            let leader = self.leader_of(group).map(|known| Leader { node: known.node, epoch: known.epoch });
            let leader = leader.filter(|leader| leader.node != self.config.node && self.can_lead(leader.node));
            return Err(Refusal { error: ErrorCode::NotLeaderOrFollower, message: None, leader });
        };
        let current = LeaderEpoch::from_term(replica.group.term());
        if epoch != LeaderEpoch::UNKNOWN && epoch < current {
            return Err(ErrorCode::FencedLeaderEpoch.into());
        }
        if epoch != LeaderEpoch::UNKNOWN && epoch > current {
            return Err(ErrorCode::UnknownLeaderEpoch.into());
        }
        if !replica.is_serving() {
            return Err(ErrorCode::OffsetNotAvailable.into());
        }
        Ok(replica)
    }

    pub(crate) fn fetch_view(&self, topic: &str, index: i32, epoch: LeaderEpoch) -> Result<View, Refusal> {
        let group = self.led_group(topic, index, epoch)?;
        self.fetch_view_of(group, epoch)
    }

    pub(crate) fn fetch_view_of(&self, group: GroupId, epoch: LeaderEpoch) -> Result<View, Refusal> {
        let replica = self.check_led(group, epoch)?;
        let partition = replica.partition().ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let leader_epoch = LeaderEpoch::from_term(replica.group.term());
        let log_start = partition.state.log_start();
        Ok(View {
            group,
            high_watermark: partition.state.next_offset(),
            log_start,
            log_start_epoch: partition.state.epochs().epoch_at(log_start).unwrap_or(leader_epoch),
            leader_epoch,
        })
    }

    /// Wakes the request when the partition moves.
    pub(crate) fn watch(&mut self, topic: &str, index: i32, request: RequestId) {
        let partition = self.image.topic_by_name(topic).and_then(|topic| topic.partition(PartitionIndex(index)));
        if let Some(partition) = partition {
            self.watch.add(partition.group, request);
        }
    }

    /// Wakes the request when a partition of the topic moves or gets a leader; the topic's groups.
    pub(crate) fn watch_topic(&mut self, topic: TopicId, request: RequestId) -> Vec<GroupId> {
        let partitions = self.image.topic(topic).map(|topic| topic.partitions.as_slice()).unwrap_or_default();
        let groups: Vec<GroupId> = partitions.iter().map(|partition| partition.group).collect();
        for group in &groups {
            self.watch.add(*group, request);
        }
        groups
    }

    /// Whether a client that asks now is told who leads the group, and finds it serving if that is this node.
    pub(crate) fn is_led(&self, group: GroupId) -> bool {
        match self.replicas.get(&group) {
            Some(replica) if replica.group.is_leader() => replica.is_serving(),
            Some(_) | None => self.leader_of(group).is_some(),
        }
    }

    /// The newest leader heard of, this node's own replica included.
    pub(crate) fn leader_of(&self, group: GroupId) -> Option<KnownLeader> {
        let gossip = self.leaders.leader(group).map(|known| KnownLeader {
            node: known.node,
            epoch: LeaderEpoch::from_term(known.term),
            in_sync: known.in_sync.clone(),
        });
        let own = self.replicas.get(&group).and_then(|replica| {
            let node = replica.leader_node()?;
            let epoch = LeaderEpoch::from_term(replica.group.term());
            let in_sync = match &gossip {
                Some(gossip) if gossip.epoch == epoch => gossip.in_sync.clone(),
                Some(_) | None => replica.places.nodes().collect(),
            };
            Some(KnownLeader { node, epoch, in_sync })
        });
        match (own, gossip) {
            (Some(own), Some(gossip)) if gossip.epoch > own.epoch => Some(gossip),
            (Some(own), _) => Some(own),
            (None, gossip) => gossip,
        }
    }

    /// Nodes that can take replicas.
    pub(crate) fn live_nodes(&self) -> usize {
        self.image.nodes().filter(|node| node.is_live()).count()
    }

    /// Nodes of the configuration that never registered as far as this node knows. They will when they start.
    pub(crate) fn expected_nodes(&self) -> usize {
        let registered = |node: NodeId| self.image.node(node).is_some_and(|node| node.registration.is_some());
        self.config.peers.iter().filter(|peer| !registered(peer.node)).count()
    }

    pub(crate) fn is_live(&self, node: NodeId) -> bool {
        self.image.is_live(node)
    }

    /// Whether clients shall be sent to the node as a leader: not if this node has just lost it, although it is not
    /// known to be down yet. Clients then ask again soon, where an outdated leader would cost them a timeout.
    pub(crate) fn can_lead(&self, node: NodeId) -> bool {
        self.peers.is_connected(node)
    }

    /// Registered nodes that are up or went down a short while ago, in the order of their ids. librdkafka gives up the
    /// connections of a node that disappears in the same answer that moves its leaders, and then pauses.
    pub(crate) fn listed_nodes(&self) -> impl Iterator<Item = (NodeId, &Endpoint, Option<&str>)> {
        let listed = |node: &&Node| node.is_live() || self.liveness.lately_down.contains(&node.id);
        self.image.nodes().filter(listed).filter_map(|node| {
            let registration = node.registration.as_ref()?;
            Some((node.id, &registration.advertised, registration.rack.as_deref()))
        })
    }

    pub(crate) fn node_endpoint(&self, node: NodeId) -> Option<NodeEndpoint> {
        let (node, endpoint, rack) = self.listed_nodes().find(|(id, ..)| *id == node)?;
        Some(NodeEndpoint {
            node_id: node.0,
            host: Str::from(endpoint.host.as_str()),
            port: i32::from(endpoint.port),
            rack: rack.map(Str::from),
        })
    }
}
