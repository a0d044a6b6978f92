//! The replicated state of the metadata group.
//!
//! It is the current [`MetadataImage`] and the counters behind it. Commands change it in `commands/`; this file owns
//! the changes they share, and its image on disk.
//!
//! Invariant: group ids, replica ids and producer ids come from counters that only grow, so that none is ever given
//! out twice, not even after its owner was deleted.

use std::sync::Arc;

use super::{
    commands::{FormCluster, MetadataCommand, MetadataOutcome, MetadataResponse},
    creation::GroupCreation,
    image::{MetadataImage, Topics},
    node::Node,
    refusal::Refusal,
    topic::Topic,
};
use crate::{
    codec::{CodecError, Decoder, Encode},
    command::{ApplyOutput, Entry, FEATURE_LEVEL, ImageError, StateMachine},
    ids::{BootNumber, ClusterId, GroupId, ImageVersion, NodeId, TopicId},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataState {
    pub(super) image: MetadataImage,
    pub(super) next_group: u64,
    pub(super) next_replica: u64,
    pub(super) next_producer_id: i64,
}

const VERSION: u8 = 2;

impl Default for MetadataState {
    fn default() -> Self {
        Self::new()
    }
}

impl MetadataState {
    /// The state before the first command.
    pub fn new() -> Self {
        Self { image: MetadataImage::empty(), next_group: 1, next_replica: 1, next_producer_id: 0 }
    }

    /// The present image, as cheap to clone as a few pointers.
    pub fn image(&self) -> &MetadataImage {
        &self.image
    }

    /// What a new leader of the group has to propose before anything else: the forming of the cluster, unless that
    /// was applied already. `creation` is the record that this replica of group 0 was created from.
    pub fn on_leader(&self, cluster: ClusterId, creation: &GroupCreation) -> Option<MetadataCommand> {
        let command = FormCluster { cluster, members: creation.members.clone() };
        self.image.cluster.is_none().then_some(MetadataCommand::FormCluster(command))
    }

    /// Equal on two replicas exactly if their states are (but for collisions). For checks, never for decisions.
    pub fn state_hash(&self) -> u64 {
        let mut image = Vec::new();
        self.encode_image(&mut image);
        crate::codec::hash(&image)
    }

    pub(super) fn member(&self, node: NodeId) -> Result<&Arc<Node>, Refusal> {
        if self.image.cluster.is_none() {
            return Err(Refusal::NotFormed);
        }
        self.image.nodes.get(&node).ok_or(Refusal::UnknownNode(node))
    }

    /// Refuses what an earlier start of a node asked for.
    pub(super) fn check_boot(&self, node: NodeId, offered: BootNumber) -> Result<(), Refusal> {
        match &self.member(node)?.registration {
            Some(known) if known.boot > offered => Err(Refusal::StaleBoot { node, registered: known.boot, offered }),
            Some(_) | None => Ok(()),
        }
    }

    /// What a node is told that belongs to the cluster.
    pub(super) fn registered(&self, node: NodeId) -> MetadataOutcome {
        let replica = self.image.nodes[&node].metadata_replica;
        MetadataOutcome::NodeRegistered { replica, members: self.image.metadata_members() }
    }

    pub(super) fn change_node(&mut self, node: NodeId, version: ImageVersion, change: impl FnOnce(&mut Node)) {
        let nodes = Arc::make_mut(&mut self.image.nodes);
        let node = nodes.get_mut(&node).expect("the command looked the node up before it changes it");
        change(Arc::make_mut(node));
        self.image.version = version;
    }

    pub(super) fn insert_topic(&mut self, topic: Arc<Topic>) {
        Arc::make_mut(&mut self.image.topics).insert(topic);
    }

    pub(super) fn remove_topic(&mut self, topic: TopicId) -> bool {
        if self.image.topic(topic).is_none() {
            return false;
        }
        let (first, last) = Arc::make_mut(&mut self.image.topics).remove(topic);
        Arc::make_mut(&mut self.image.deleted).insert(first, last);
        true
    }

    /// What [`MetadataImage`] promises about group ids, and that the counters are ahead of everything in use.
    fn is_consistent(&self) -> bool {
        let deleted = self.image.deleted.0.iter().map(|(first, last)| (*first, *last));
        let mut ranges: Vec<_> = self.image.topics.groups().chain(deleted).collect();
        ranges.sort_unstable();
        let mut next = 1;
        for (first, last) in ranges {
            if first.0 != next || last < first || last.0 == u64::MAX {
                return false;
            }
            next = last.0 + 1;
        }
        let partitions = self.image.topics.by_id.values().flat_map(|topic| &topic.partitions);
        let replicas = partitions.flat_map(|partition| partition.replicas.iter().chain(&partition.created));
        next == self.next_group
            && replicas.map(|replica| replica.id.0).max().unwrap_or(0) < self.next_replica
            && self.image.nodes.values().all(|node| node.metadata_replica.0 < self.next_replica)
            && self.next_producer_id >= 0
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        from.version("an image of the metadata", VERSION)?;
        let version = ImageVersion(from.u64()?);
        let cluster = if from.bool()? { Some(ClusterId(from.uuid()?)) } else { None };
        let nodes = from.list(35, |from| Node::decode(from).map(|node| (node.id, Arc::new(node))))?;
        let mut topics = Topics::default();
        for _ in 0..from.count(34)? {
            let topic = Topic::decode(from)?;
            let first = topic.partitions.first().ok_or(CodecError::Value("the partitions of a topic"))?.group;
            let mut groups = topic.partitions.iter().enumerate();
            let consecutive = groups.all(|(i, partition)| first.0.checked_add(i as u64) == Some(partition.group.0));
            let taken = topics.by_id.contains_key(&topic.id)
                || topics.by_collision_key.contains_key(&topic.name.collision_key())
                || topics.by_first_group.contains_key(&first);
            if !consecutive || taken {
                return Err(CodecError::Value("a topic"));
            }
            topics.insert(Arc::new(topic));
        }
        let deleted = from.list(16, |from| Ok((GroupId(from.u64()?), GroupId(from.u64()?))))?;
        let state = Self {
            image: MetadataImage {
                version,
                cluster,
                nodes: Arc::new(nodes.into_iter().collect()),
                topics: Arc::new(topics),
                deleted: Arc::new(super::image::DeletedGroups(deleted.into_iter().collect())),
            },
            next_group: from.u64()?,
            next_replica: from.u64()?,
            next_producer_id: from.i64()?,
        };
        if !state.is_consistent() {
            return Err(CodecError::Value("the ids of an image of the metadata"));
        }
        Ok(state)
    }
}

impl StateMachine for MetadataState {
    type Response = MetadataResponse;

    fn apply(&mut self, entry: &Entry, out: &mut ApplyOutput<MetadataResponse>) {
        assert!(entry.header.level <= FEATURE_LEVEL, "a command above this replica's level halts the replica");
        let command = MetadataCommand::decode(entry.header.kind, &entry.data)
            .expect("committed commands were encoded by a leader of a level that this replica understands");
        let version = ImageVersion(entry.index.0);
        let result = command.apply(self, version);
        out.respond(entry, MetadataResponse { version: self.image.version, result });
    }

    fn encode_image(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put_u64(self.image.version.0);
        out.put_bool(self.image.cluster.is_some());
        if let Some(cluster) = self.image.cluster {
            out.put_uuid(cluster.0);
        }
        out.put_count(self.image.nodes.len());
        for node in self.image.nodes.values() {
            node.encode(out);
        }
        out.put_count(self.image.topics.by_id.len());
        for topic in self.image.topics.by_id.values() {
            topic.encode(out);
        }
        out.put_count(self.image.deleted.0.len());
        for (first, last) in &self.image.deleted.0 {
            out.put_u64(first.0);
            out.put_u64(last.0);
        }
        out.put_u64(self.next_group);
        out.put_u64(self.next_replica);
        out.put_i64(self.next_producer_id);
    }

    fn restore_image(image: &[u8]) -> Result<Self, ImageError> {
        let mut from = Decoder::new(image);
        let state = Self::decode(&mut from);
        state.and_then(|state| from.finish().map(|()| state)).map_err(|error| error.into_image_error(&from, image))
    }
}

#[cfg(test)]
mod tests;
