//! What the metadata group says, as far as directories hold it: names of partitions, places of replicas.
//!
//! For sentences, and to know directories that were replaced. Invariant: whatever is missing or damaged only makes this
//! know less.

use std::{collections::BTreeMap, fmt};

use super::Directory;
use crate::{
    command::{ApplyOutput, CommandHeader, Entry, StateMachine},
    ids::{GroupId, LogIndex, NodeId, PartitionIndex, ReplicaId},
    log::record::EntryKind,
    metadata::{MetadataImage, MetadataState, TopicName},
    startup::SurveyedGroup,
};

/// A partition as clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionName {
    pub topic: TopicName,
    pub partition: PartitionIndex,
}

impl fmt::Display for PartitionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// The newest image that any directory knows to be committed.
pub(super) fn committed_image(directories: &[Directory]) -> MetadataImage {
    let commit = |group: &SurveyedGroup| group.start.hard_state.commit.min(group.start.log.last_log_index());
    let images = copies(directories).map(|copy| image_of(copy, commit(copy), directories));
    images.max_by_key(MetadataImage::version).unwrap_or_default()
}

/// What would be said if the log that ends latest were committed, as its last entries mostly are: a node hears of that a
/// little later than of the entries.
pub(super) fn latest_image(directories: &[Directory]) -> MetadataImage {
    let last = |group: &SurveyedGroup| {
        let last = group.start.log.last_log_index();
        (group.start.log.log_term(last), last)
    };
    let latest = copies(directories).max_by_key(|copy| last(copy));
    latest.map(|copy| image_of(copy, last(copy).1, directories)).unwrap_or_default()
}

/// The image that the copy in one of the directories has when everything up to `end` is applied.
pub(super) fn image_at(directories: &[Directory], number: usize, end: LogIndex) -> MetadataImage {
    let content = directories[number].content.as_ref().ok();
    let copy = content.and_then(|content| content.get(&GroupId::METADATA));
    copy.map(|copy| image_of(copy, end, directories)).unwrap_or_default()
}

fn copies(directories: &[Directory]) -> impl Iterator<Item = &SurveyedGroup> {
    directories.iter().filter_map(|directory| directory.content.as_ref().ok()?.get(&GroupId::METADATA))
}

/// Payloads that this copy lost may come from any other.
fn image_of(group: &SurveyedGroup, end: LogIndex, directories: &[Directory]) -> MetadataImage {
    let (start, log) = (&group.start, &group.start.log);
    let mut state = match &group.machine {
        Some(image) => MetadataState::restore_image(image).unwrap_or_default(),
        None => MetadataState::new(),
    };
    for index in (start.applied.0 + 1..=end.0).map(LogIndex) {
        let location = log.location(index);
        let is_empty = location.is_some_and(|place| place.context_length == 0 && place.data_length == 0);
        if log.kind(index) != EntryKind::Normal || is_empty {
            continue;
        }
        let term = log.log_term(index);
        let all = std::iter::once(group).chain(copies(directories));
        let mut kept = all.filter_map(|copy| copy.kept.get(&index).filter(|kept| kept.term == term));
        let Some(kept) = kept.next() else { break };
        let Ok(header) = CommandHeader::decode(&kept.payload.context) else { break };
        let entry = Entry { index, term, header, data: kept.payload.data.clone() };
        state.apply(&entry, &mut ApplyOutput::default());
    }
    state.image().clone()
}

pub(super) fn names(image: &MetadataImage) -> BTreeMap<GroupId, PartitionName> {
    let partitions =
        image.topics().flat_map(|topic| {
            let index = (0..).map(PartitionIndex);
            topic.partitions.iter().zip(index).map(|(partition, index)| {
                (partition.group, PartitionName { topic: topic.name.clone(), partition: index })
            })
        });
    partitions.collect()
}

/// Where replicas are or were. What `places` knows already is not changed.
pub(super) fn add_places(
    image: &MetadataImage,
    directories: &[Directory],
    places: &mut BTreeMap<(GroupId, ReplicaId), NodeId>,
) {
    for member in image.metadata_members() {
        places.entry((GroupId::METADATA, member.replica)).or_insert(member.node);
    }
    for partition in image.topics().flat_map(|topic| &topic.partitions) {
        for replica in partition.replicas.iter().chain(partition.created_with()) {
            places.entry((partition.group, replica.id)).or_insert(replica.node);
        }
    }
    for (id, group) in directories.iter().flat_map(Directory::groups) {
        for member in &group.creation.members {
            places.entry((*id, member.replica)).or_insert(member.node);
        }
    }
}
