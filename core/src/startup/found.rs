//! What the WAL says is on this node: groups, their hard states, where their logs end.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    config::NodeConfig,
    ids::{GroupId, Offset, ReplicaId},
    io::{Exit, FileName},
    log::{
        record::{EntryLocation, RecoveredRecord, WalRecord},
        segment::LogSettings,
    },
    metadata::GroupCreation,
    replication::group::{GroupStart, Membership, StartError},
};

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) groups: BTreeMap<GroupId, FoundGroup>,
    /// Groups that were removed from this node for good; their files may be left.
    pub(super) removed: BTreeSet<GroupId>,
}

/// One replica, as far as the WAL tells.
#[derive(Debug)]
pub(super) struct FoundGroup {
    pub(super) creation: GroupCreation,
    pub(super) start: GroupStart,
}

impl Found {
    /// Takes in the next record of the WAL. Payloads are dropped: a replay reads them again.
    pub(super) fn take_in(&mut self, recovered: RecoveredRecord) -> Result<(), Exit> {
        let write = recovered.write;
        let damaged =
            |what: String| Exit::Damaged { file: "wal".to_owned(), offset: 0, what: format!("write {write}: {what}") };
        let unsupported = |what: &str| {
            Err(Exit::Refused(format!(
                "the write-ahead log holds {what} (write {write}), which this build cannot take up; start a newer build"
            )))
        };
        match recovered.record {
            WalRecord::Create { group, replica, creation } => {
                let creation = GroupCreation::decode(&creation)
                    .map_err(|error| damaged(format!("the creation of group {group}: {error}")))?;
                let start = GroupStart::created(group, replica, membership(&creation));
                if self.removed.contains(&group) || self.groups.insert(group, FoundGroup { creation, start }).is_some()
                {
                    return Err(damaged(format!("group {group} is created twice")));
                }
                Ok(())
            }
            WalRecord::Destroy { group, .. } => {
                self.groups.remove(&group);
                self.removed.insert(group);
                Ok(())
            }
            WalRecord::Entry(entry) => {
                let location = recovered.location.expect("recovery locates every entry");
                let Some(found) = self.groups.get_mut(&entry.group) else {
                    return Err(damaged(format!("an entry of group {}, which is not here", entry.group)));
                };
                let log = &mut found.start.log;
                log.recover(entry.index, entry.term, entry.kind, location)
                    .map_err(|error| damaged_entry(location, entry.group, error))
            }
            WalRecord::HardState { group, term, vote, commit, .. } => {
                let Some(found) = self.groups.get_mut(&group) else {
                    return Err(damaged(format!("a hard state of group {group}, which is not here")));
                };
                let state = &mut found.start.hard_state;
                state.term = term;
                state.vote = (vote != ReplicaId(0)).then_some(vote);
                state.commit = commit;
                Ok(())
            }
            WalRecord::Fill(_) => unsupported("a repaired entry"),
            WalRecord::Switch { .. } => unsupported("a transferred state"),
            WalRecord::Quarantine { .. } => unsupported("a quarantined replica"),
            WalRecord::CheckpointDone { .. } => unsupported("a checkpoint"),
        }
    }
}

impl FoundGroup {
    /// Where its batches are, if it is a partition.
    pub(super) fn settings(&self, config: &NodeConfig) -> Option<LogSettings> {
        self.creation.topic?;
        Some(settings(&self.creation, config))
    }
}

/// How the log of a partition is stored on this node.
pub(crate) fn settings(creation: &GroupCreation, config: &NodeConfig) -> LogSettings {
    LogSettings {
        group: creation.group,
        start: Offset(0),
        segment_bytes: creation.configs.segment_bytes().unwrap_or(config.segment_bytes),
    }
}

/// The membership that the replicas of a creation record start with.
pub(crate) fn membership(creation: &GroupCreation) -> Membership {
    let of = |voter: bool| creation.members.iter().filter(move |member| member.voter == voter).map(|m| m.replica);
    Membership::new(of(true), of(false))
}

fn damaged_entry(location: EntryLocation, group: GroupId, error: StartError) -> Exit {
    Exit::Damaged {
        file: FileName::Wal(location.file).path(),
        offset: location.offset,
        what: format!("group {group}: {error}"),
    }
}
