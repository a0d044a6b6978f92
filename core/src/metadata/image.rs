//! The immutable image of the cluster that a node reads.
//!
//! The replicated state hands out clones of the image it holds; a clone costs a few reference counts. Whoever keeps an
//! older one compares it with a newer one by [`MetadataImage::changes_since`], which skips what is shared.
//!
//! Invariant: every group id below the counter belongs to exactly one live topic or is in `deleted`. So a group is
//! known to be deleted only if an image proves it; an image that merely does not list a group proves nothing.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    creation::{GroupCreation, GroupMember},
    node::Node,
    topic::{Partition, Topic, TopicName},
};
use crate::ids::{ClusterId, DirectoryId, GroupId, ImageVersion, NodeId, PartitionIndex, ReplicaId, TopicId};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataImage {
    pub(super) version: ImageVersion,
    pub(super) cluster: Option<ClusterId>,
    pub(super) nodes: Arc<BTreeMap<NodeId, Arc<Node>>>,
    pub(super) topics: Arc<Topics>,
    pub(super) deleted: Arc<DeletedGroups>,
}

/// All topics, by what they are looked up with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topics {
    pub(super) by_id: BTreeMap<TopicId, Arc<Topic>>,
    pub(super) by_name: BTreeMap<TopicName, TopicId>,
    /// Collision key (see [`TopicName::collision_key`]) to the topic that has it.
    pub(super) by_collision_key: BTreeMap<Arc<str>, TopicId>,
    /// The group of a topic's first partition to the topic; the groups of the others follow it.
    pub(super) by_first_group: BTreeMap<GroupId, TopicId>,
    pub(super) partition_count: usize,
}

/// Ids of the groups of deleted topics, as ranges: first to last, both included, never touching each other. Groups of
/// a topic have consecutive ids, so that the set stays small however many topics come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeletedGroups(pub(super) BTreeMap<GroupId, GroupId>);

impl MetadataImage {
    /// What a node knows before it heard of any cluster.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The index of the entry that last changed what readers see. Zero: nothing yet.
    pub fn version(&self) -> ImageVersion {
        self.version
    }

    /// `None` until the cluster is formed.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node).map(Arc::as_ref)
    }

    /// All members in the order of their id, up or not.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.values().map(Arc::as_ref)
    }

    /// Where the replicas of the metadata group shall be, in the order of the nodes.
    pub fn metadata_members(&self) -> Vec<GroupMember> {
        let member = |node: &Node| GroupMember {
            replica: node.metadata_replica,
            node: node.id,
            directory: node.directory,
            voter: node.voter,
        };
        self.nodes().map(member).collect()
    }

    pub fn is_live(&self, node: NodeId) -> bool {
        self.node(node).is_some_and(Node::is_live)
    }

    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.by_id.get(&id)
    }

    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.by_name.get(name).map(|id| &self.topics.by_id[id])
    }

    /// All topics in the order of their names.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.by_name.values().map(|id| &self.topics.by_id[id])
    }

    /// Partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.topics.partition_count
    }

    pub fn partition(&self, topic: TopicId, index: PartitionIndex) -> Option<&Partition> {
        self.topic(topic)?.partition(index)
    }

    /// The topic and partition of a live group.
    pub fn topic_of_group(&self, group: GroupId) -> Option<(&Arc<Topic>, PartitionIndex)> {
        let (first, topic) = self.topics.by_first_group.range(..=group).next_back()?;
        let topic = &self.topics.by_id[topic];
        let index = PartitionIndex(i32::try_from(group.0 - first.0).ok()?);
        topic.partition(index).map(|_| (topic, index))
    }

    /// Proof that the group existed and its topic was deleted.
    pub fn is_deleted(&self, group: GroupId) -> bool {
        self.deleted.contains(group)
    }

    /// What the first replicas of a live group start from.
    pub fn creation(&self, group: GroupId) -> Option<GroupCreation> {
        let (topic, index) = self.topic_of_group(group)?;
        topic.creation(index)
    }

    /// What changed between `earlier` and this image. Costs a walk over both topic lists, and nothing for topics that
    /// did not change.
    pub fn changes_since(&self, earlier: &Self) -> MetadataDelta {
        let mut delta = MetadataDelta { from: earlier.version, to: self.version, ..MetadataDelta::default() };
        if !Arc::ptr_eq(&self.topics, &earlier.topics) {
            differences(&earlier.topics.by_id, &self.topics.by_id, |before, after| match (before, after) {
                (None, Some(after)) => delta.created.push(Arc::clone(after)),
                (Some(before), None) => delta.deleted.push(Arc::clone(before)),
                (Some(_), Some(after)) => delta.changed.push(Arc::clone(after)),
                (None, None) => {}
            });
        }
        if !Arc::ptr_eq(&self.nodes, &earlier.nodes) {
            differences(&earlier.nodes, &self.nodes, |before, after| {
                delta.nodes.extend(after.or(before).map(|node| node.id));
            });
        }
        delta
    }
}

impl Topics {
    /// Adds a topic whose id, name and collision key are free, and whose groups are new and follow each other.
    pub(super) fn insert(&mut self, topic: Arc<Topic>) {
        let (first, last) = topic.groups();
        assert_eq!(last.0 - first.0 + 1, topic.partitions.len() as u64, "the groups of a topic follow each other");
        self.partition_count += topic.partitions.len();
        let replaced = self.by_name.insert(topic.name.clone(), topic.id).is_some()
            | self.by_collision_key.insert(topic.name.collision_key(), topic.id).is_some()
            | self.by_first_group.insert(first, topic.id).is_some()
            | self.by_id.insert(topic.id, topic).is_some();
        assert!(!replaced, "a new topic shares nothing with one that exists");
    }

    /// Removes a topic that exists; its first and last group.
    pub(super) fn remove(&mut self, id: TopicId) -> (GroupId, GroupId) {
        let topic = self.by_id.remove(&id).expect("the caller looked the topic up");
        let (first, last) = topic.groups();
        self.partition_count -= topic.partitions.len();
        let removed = self.by_name.remove(&topic.name).is_some()
            & self.by_collision_key.remove(&topic.name.collision_key()).is_some()
            & self.by_first_group.remove(&first).is_some();
        assert!(removed, "every index of the topics names every topic");
        (first, last)
    }

    /// First and last group of every topic, in no particular order.
    pub(super) fn groups(&self) -> impl Iterator<Item = (GroupId, GroupId)> {
        self.by_id.values().map(|topic| topic.groups())
    }
}

impl Topic {
    /// The groups of the first and the last partition.
    fn groups(&self) -> (GroupId, GroupId) {
        let (Some(first), Some(last)) = (self.partitions.first(), self.partitions.last()) else {
            unreachable!("a topic has at least one partition")
        };
        (first.group, last.group)
    }

    /// What the first replicas of a partition's group start from.
    pub fn creation(&self, index: PartitionIndex) -> Option<GroupCreation> {
        let partition = self.partition(index)?;
        let member = |replica: &super::topic::Replica| GroupMember {
            replica: replica.id,
            node: replica.node,
            directory: replica.directory,
            voter: true,
        };
        Some(GroupCreation {
            group: partition.group,
            topic: Some((self.id, index)),
            members: partition.created_with().iter().map(member).collect(),
            configs: self.configs.clone(),
        })
    }
}

/// What changed from one image to a later one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataDelta {
    pub from: ImageVersion,
    pub to: ImageVersion,
    pub created: Vec<Arc<Topic>>,
    /// As they are now.
    pub changed: Vec<Arc<Topic>>,
    /// As they were.
    pub deleted: Vec<Arc<Topic>>,
    /// Nodes that joined, left or changed.
    pub nodes: Vec<NodeId>,
}

impl MetadataDelta {
    pub fn is_empty(&self) -> bool {
        self.created.is_empty() && self.changed.is_empty() && self.deleted.is_empty() && self.nodes.is_empty()
    }

    /// Groups of new and changed topics that a node with this data directory must host, and its replica of each: one
    /// that the creation names, or one that joins later and starts empty. The caller skips what it hosts already.
    pub fn creations(&self, node: NodeId, directory: DirectoryId) -> impl Iterator<Item = (GroupCreation, ReplicaId)> {
        self.created.iter().chain(&self.changed).flat_map(move |topic| {
            let hosted = topic.partitions.iter().zip(0..).filter_map(move |(partition, index)| {
                let here = |replica: &&super::topic::Replica| (replica.node, replica.directory) == (node, directory);
                Some((index, partition.replicas.iter().find(here)?.id))
            });
            hosted.filter_map(|(index, replica)| Some((topic.creation(PartitionIndex(index))?, replica)))
        })
    }

    /// Groups that are deleted for good. The caller skips what it does not host.
    pub fn deletions(&self) -> impl Iterator<Item = GroupId> {
        self.deleted.iter().flat_map(|topic| topic.partitions.iter().map(|partition| partition.group))
    }
}

impl DeletedGroups {
    pub fn contains(&self, group: GroupId) -> bool {
        self.0.range(..=group).next_back().is_some_and(|(_, last)| group <= *last)
    }

    /// Adds the groups from `first` to `last`, joining ranges that touch.
    pub(super) fn insert(&mut self, mut first: GroupId, mut last: GroupId) {
        assert!(first <= last, "a range of groups holds at least one");
        assert!(
            self.0.range(..=last).next_back().is_none_or(|(_, before)| *before < first),
            "a group is deleted only once"
        );
        if let Some((start, end)) = self.0.range(..first).next_back().map(|(start, end)| (*start, *end))
            && end.0 + 1 == first.0
        {
            self.0.remove(&start);
            first = start;
        }
        if let Some(end) = self.0.remove(&GroupId(last.0 + 1)) {
            last = end;
        }
        self.0.insert(first, last);
    }
}

/// Walks two sorted maps side by side and names every key whose values are not the same allocation or differ.
fn differences<K: Ord, V: PartialEq>(
    before: &BTreeMap<K, Arc<V>>,
    after: &BTreeMap<K, Arc<V>>,
    mut found: impl FnMut(Option<&Arc<V>>, Option<&Arc<V>>),
) {
    let mut before = before.iter().peekable();
    let mut after = after.iter().peekable();
    loop {
        match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some((old_key, old)), Some((new_key, new))) if old_key == new_key => {
                if !Arc::ptr_eq(old, new) && old != new {
                    found(Some(old), Some(new));
                }
                before.next();
                after.next();
            }
            (Some((old_key, old)), new) if new.is_none_or(|(new_key, _)| old_key < new_key) => {
                found(Some(old), None);
                before.next();
            }
            (_, Some((_, new))) => {
                found(None, Some(new));
                after.next();
            }
            (Some(_), None) => unreachable!("the arm before takes every old key without a new one"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn deleted_groups_are_a_set_of_ranges(lengths in proptest::collection::vec((1u64..4, 0u64..3), 1..20), order: Vec<prop::sample::Index>) {
            // Disjoint ranges with gaps, inserted in any order.
            let mut next = 1;
            let mut ranges = Vec::new();
            for (length, gap) in lengths {
                ranges.push((next, next + length - 1));
                next += length + gap;
            }
            let all: BTreeSet<u64> = ranges.iter().flat_map(|(first, last)| *first..=*last).collect();
            let mut deleted = DeletedGroups::default();
            for pick in order {
                if !ranges.is_empty() {
                    let (first, last) = ranges.swap_remove(pick.index(ranges.len()));
                    deleted.insert(GroupId(first), GroupId(last));
                }
            }
            for (first, last) in ranges {
                deleted.insert(GroupId(first), GroupId(last));
            }
            for group in 0..next + 2 {
                prop_assert_eq!(deleted.contains(GroupId(group)), all.contains(&group));
            }
            let runs = all.iter().filter(|group| !all.contains(&(**group - 1))).count();
            prop_assert_eq!(deleted.0.len(), runs, "ranges that touch are one");
        }

        #[test]
        fn differences_are_those_of_the_maps(before: BTreeMap<u8, u8>, after: BTreeMap<u8, u8>) {
            let arcs = |map: &BTreeMap<u8, u8>| map.iter().map(|(k, v)| (*k, Arc::new((*k, *v)))).collect::<BTreeMap<_, _>>();
            let mut found = BTreeSet::new();
            differences(&arcs(&before), &arcs(&after), |old, new| {
                assert!(found.insert(old.or(new).unwrap().0));
                assert_ne!(old, new);
            });
            let keys = before.keys().chain(after.keys());
            let expected: BTreeSet<u8> = keys.filter(|key| before.get(key) != after.get(key)).copied().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
