//! Which payloads of entries are lost for good, as far as this node goes: damaged, and neither repaired, nor replaced, nor
//! in a state that the node starts from.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    ids::{FileSequence, GroupId, LogIndex, Term},
    log::checkpoint::GroupSection,
};

/// What of a write matters here, in the order of its records.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    /// An entry that replaces others.
    Replaces {
        group: GroupId,
        index: LogIndex,
    },
    /// The payload at this place is damaged.
    Lost {
        key: EntryKey,
        offset: u64,
    },
    Filled {
        key: EntryKey,
    },
    /// Everything up to here is in a state.
    Applied {
        group: GroupId,
        index: LogIndex,
    },
    Gone {
        group: GroupId,
    },
}

/// An entry and what its payload was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryKey {
    pub(super) group: GroupId,
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) crc: u32,
}

/// Finds the marks of one file. A log that only grows has none.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The newest entry of each group so far.
    last: BTreeMap<GroupId, LogIndex>,
}

impl Marks {
    pub(super) fn entry(&mut self, key: EntryKey, offset: u64, intact: bool, marks: &mut Vec<Mark>) {
        let EntryKey { group, index, .. } = key;
        let follows = self.last.insert(group, index).is_some_and(|last| last < index);
        if !follows {
            marks.push(Mark::Replaces { group, index });
        }
        if !intact {
            marks.push(Mark::Lost { key, offset });
        }
    }

    pub(super) fn switch(group: GroupId, state: &Bytes, marks: &mut Vec<Mark>) {
        if let Ok((section, _)) = GroupSection::decode(state) {
            marks.push(Mark::Applied { group, index: section.applied });
        }
    }
}

/// What is lost, while the writes of a log are walked through in their order.
#[derive(Debug, Default)]
pub(super) struct Lost {
    groups: BTreeMap<GroupId, BTreeMap<LogIndex, (EntryKey, FileSequence, u64)>>,
}

impl Lost {
    pub(super) fn take(&mut self, file: FileSequence, mark: Mark) {
        match mark {
            Mark::Lost { key, offset } => {
                self.groups.entry(key.group).or_default().insert(key.index, (key, file, offset));
            }
            Mark::Replaces { group, index } => {
                if let Some(lost) = self.groups.get_mut(&group) {
                    drop(lost.split_off(&index));
                }
            }
            Mark::Filled { key } => {
                if let Some(lost) = self.groups.get_mut(&key.group)
                    && lost.get(&key.index).is_some_and(|(known, _, _)| *known == key)
                {
                    lost.remove(&key.index);
                }
            }
            Mark::Applied { group, index } => self.is_applied(group, index),
            Mark::Gone { group } => drop(self.groups.remove(&group)),
        }
    }

    pub(super) fn is_applied(&mut self, group: GroupId, index: LogIndex) {
        if let Some(lost) = self.groups.get_mut(&group) {
            *lost = lost.split_off(&index.next());
        }
    }

    pub(super) fn is_elsewhere(&mut self, group: GroupId, index: LogIndex) {
        if let Some(lost) = self.groups.get_mut(&group) {
            lost.remove(&index);
        }
    }

    /// Where the lost payloads lay.
    pub(super) fn places(&self) -> BTreeSet<(FileSequence, u64)> {
        self.groups.values().flat_map(BTreeMap::values).map(|(_, file, offset)| (*file, *offset)).collect()
    }
}
