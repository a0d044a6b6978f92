//! What checkpoint and WAL say is on this node: groups, their hard states, where their logs end.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use bytes::Bytes;

#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    broker::{Hold, Transferred},
    config::NodeConfig,
    ids::{CheckpointNumber, GroupId, LogIndex, Offset, ReplicaId, WriteNumber},
    io::{Exit, FileName},
    limits::SEGMENT_PROVE_CHUNKS,
    log::{
        checkpoint::{Checkpoint, CheckpointDone, FoundSection, GroupSection, MachineImage, Quarantine},
        record::{EntryFile, EntryLocation, PayloadState, RecoveredRecord, WalRecord},
        segment::{LogImage, LogSettings},
    },
    metadata::GroupCreation,
    replication::group::{GroupStart, InlineEntry, Membership, StartError},
};

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) groups: BTreeMap<GroupId, FoundGroup>,
    /// Replicas that were removed from this node for good; their files may be left.
    pub(super) removed: BTreeSet<(GroupId, ReplicaId)>,
    /// Checkpoints that records name.
    done: Vec<CheckpointDone>,
}

/// One replica, as far as checkpoint and WAL tell.
#[derive(Debug)]
pub(super) struct FoundGroup {
    pub(super) creation: GroupCreation,
    pub(super) start: GroupStart,
    /// Records of WAL writes up to this one are in what follows already.
    pub(super) write: WriteNumber,
    /// The state as of `start.applied`; `None`: it begins empty.
    pub(super) restored: Option<Restored>,
    /// Entries behind that, in order.
    pub(super) inline: Vec<InlineEntry>,
    /// The replica was held when the process ended.
    pub(super) quarantine: Option<Quarantine>,
    /// The replica is held.
    pub(super) hold: Option<Hold>,
}

/// The states that a section holds.
#[derive(Debug)]
pub(super) struct Restored {
    pub(super) machine: Bytes,
    pub(super) log: Option<LogImage>,
    /// Where they were found.
    pub(super) file: FileName,
    /// Up to here everything is in them.
    pub(super) applied: LogIndex,
}

impl Found {
    /// What a checkpoint says. `is_here`: whether a file is there that entries may lie in.
    pub(super) fn from_checkpoint(
        checkpoint: &mut Checkpoint,
        is_here: impl Fn(EntryFile) -> bool,
    ) -> Result<Self, Exit> {
        let file = FileName::Checkpoint(checkpoint.done.number);
        let mut found = Self { removed: checkpoint.destroyed.clone(), ..Self::default() };
        for section in &mut checkpoint.sections {
            let id = section.section.group;
            // It was removed after its turn in the checkpoint.
            if found.removed.contains(&(id, section.section.replica)) {
                continue;
            }
            let group = FoundGroup::from_section(section, &is_here, file).map_err(|what| Exit::Damaged {
                file: file.path(),
                offset: 0,
                what: format!("group {id}: {what}"),
            })?;
            found.groups.insert(id, group);
        }
        Ok(found)
    }

    /// Whether a record names this checkpoint, and it is the one that was meant.
    pub(super) fn names(&self, done: &CheckpointDone) -> bool {
        self.done.contains(done)
    }

    pub(super) fn newest_named(&self) -> CheckpointNumber {
        self.done.iter().map(|done| done.number).max().unwrap_or_default()
    }

    /// Takes in the next record of the WAL. Payloads are dropped: a replay reads them again.
    pub(super) fn take_in(&mut self, recovered: RecoveredRecord) -> Result<(), Exit> {
        let write = recovered.write;
        let damaged =
            |what: String| Exit::Damaged { file: "wal".to_owned(), offset: 0, what: format!("write {write}: {what}") };
        match recovered.record {
            WalRecord::Create { group, replica, creation } => self.create(group, replica, &creation).map_err(damaged),
            WalRecord::Destroy { group, replica } => {
                if self.groups.get(&group).is_some_and(|found| found.start.replica == replica) {
                    self.groups.remove(&group);
                }
                self.removed.insert((group, replica));
                Ok(())
            }
            WalRecord::Entry(entry) => {
                let location = recovered.location.expect("recovery locates every entry");
                let is_lost = recovered.payload == PayloadState::Damaged;
                let Some(found) = self.group_of_record(entry.group, write, "an entry").map_err(damaged)? else {
                    if is_lost && let Some(found) = self.groups.get_mut(&entry.group) {
                        found.start.lose(entry.index, entry.term, location);
                    }
                    return Ok(());
                };
                let log = &mut found.start.log;
                let taken = if is_lost {
                    log.recover_damaged(entry.index, entry.term, entry.kind, location)
                } else {
                    log.recover(entry.index, entry.term, entry.kind, location)
                };
                taken.map_err(|error| damaged_entry(location, entry.group, error))
            }
            WalRecord::Fill(entry) => {
                let location = recovered.location.expect("recovery locates every entry");
                let Some(found) = self.group_of_record(entry.group, write, "a payload").map_err(damaged)? else {
                    return Ok(());
                };
                match recovered.payload {
                    PayloadState::Intact => found.start.fill(entry.index, entry.term, location),
                    // It repairs nothing any more: what it was to repair is as it was.
                    PayloadState::Damaged => {}
                }
                Ok(())
            }
            WalRecord::HardState { group, term, vote, commit, .. } => {
                let Some(found) = self.group_of_record(group, write, "a hard state").map_err(damaged)? else {
                    return Ok(());
                };
                let state = &mut found.start.hard_state;
                state.term = term;
                state.vote = (vote != ReplicaId(0)).then_some(vote);
                state.commit = commit;
                Ok(())
            }
            WalRecord::Switch { group, state, .. } => self.switch(group, write, &state).map_err(damaged),
            WalRecord::Quarantine { group, replica, index, build } => {
                let found = self.group_of_record(group, write, "a quarantine").map_err(damaged)?;
                if let Some(found) = found.filter(|found| found.start.replica == replica) {
                    found.quarantine = Some(Quarantine { index, build });
                }
                Ok(())
            }
            WalRecord::CheckpointDone { checkpoint } => {
                let done = CheckpointDone::decode(&checkpoint)
                    .map_err(|error| damaged(format!("the record of a checkpoint: {error}")))?;
                self.done.push(done);
                Ok(())
            }
        }
    }

    fn create(&mut self, group: GroupId, replica: ReplicaId, creation: &[u8]) -> Result<(), String> {
        let creation =
            GroupCreation::decode(creation).map_err(|error| format!("the creation of group {group}: {error}"))?;
        if let Some(known) = self.groups.get(&group) {
            // A checkpoint may have been taken between the creation and the write that holds its record.
            if known.restored.is_some() && known.start.replica == replica {
                return Ok(());
            }
            return Err(format!("group {group} is created twice"));
        }
        if self.removed.contains(&(group, replica)) {
            // Removed again behind this, and the checkpoint knows it.
            return Ok(());
        }
        let start = first_start(&creation, replica);
        self.groups.insert(group, FoundGroup::created(creation, start));
        Ok(())
    }

    /// Whether a replica of the group was here once.
    fn is_removed(&self, group: GroupId) -> bool {
        self.removed.range((group, ReplicaId(0))..).next().is_some_and(|(removed, _)| *removed == group)
    }

    /// The group that a record of a write belongs to; `None` if the record is to be passed over.
    fn group_of_record(
        &mut self,
        group: GroupId,
        write: WriteNumber,
        what: &str,
    ) -> Result<Option<&mut FoundGroup>, String> {
        if !self.groups.contains_key(&group) {
            return if self.is_removed(group) {
                Ok(None)
            } else {
                Err(format!("{what} of group {group}, which is not here"))
            };
        }
        Ok(self.groups.get_mut(&group).filter(|found| write > found.write))
    }

    /// The state of a group was replaced by a transferred one.
    fn switch(&mut self, group: GroupId, write: WriteNumber, state: &Bytes) -> Result<(), String> {
        if self.group_of_record(group, write, "a transferred state")?.is_none() {
            return Ok(());
        }
        let what = |error: String| format!("the transferred state of group {group}: {error}");
        let (section, placed) = GroupSection::decode(state).map_err(|error| what(error.to_string()))?;
        let MachineImage::Inline(image) = section.image.clone() else {
            return Err(what("its image lies in a file".to_owned()));
        };
        if section.group != group || !placed.is_empty() || section.quarantine.is_some() {
            return Err(what("it holds what it cannot hold".to_owned()));
        }
        let mut found = FoundSection { section, image, placed: Vec::new() };
        let mut found =
            FoundGroup::from_section(&mut found, |_| true, FileName::Wal(Default::default())).map_err(what)?;
        // What lies behind the new state in the log before is kept, as it was when the state was switched to.
        let before = self.groups.remove(&group).expect("a group that is not here was handled above");
        found.start.keep_behind(&before.start.log, before.start.hard_state.commit);
        // Records come in their order, so that all that follow count, also those of the same write: a start copies into
        // one write what earlier ones held.
        self.groups.insert(group, FoundGroup { write: before.write, inline: before.inline, ..found });
        Ok(())
    }
}

impl FoundGroup {
    fn created(creation: GroupCreation, start: GroupStart) -> Self {
        let write = WriteNumber(0);
        Self { creation, start, write, restored: None, inline: Vec::new(), quarantine: None, hold: None }
    }

    fn from_section(
        found: &mut FoundSection,
        is_here: impl Fn(EntryFile) -> bool,
        file: FileName,
    ) -> Result<Self, String> {
        let creation =
            GroupCreation::decode(&found.section.creation).map_err(|error| format!("its creation: {error}"))?;
        let (start, inline) = GroupStart::from_section(found, is_here).map_err(|error| error.to_string())?;
        let log = match mem::take(&mut found.section.log) {
            Some(slices) => {
                let bytes = match slices.as_slice() {
                    [one] => one.clone(),
                    slices => slices.concat().into(),
                };
                Some(LogImage::decode(bytes).map_err(|error| error.to_string())?)
            }
            None => None,
        };
        let restored = Restored { machine: mem::take(&mut found.image), log, file, applied: found.section.applied };
        let (write, quarantine) = (found.section.write, found.section.quarantine.take());
        Ok(Self { creation, start, write, restored: Some(restored), inline, quarantine, hold: None })
    }

    /// Whether the replica stays held: by a record of this very build, of an entry that is not applied.
    pub(super) fn judge_quarantine(&mut self, build: &str) {
        let quarantine = self.quarantine.take();
        let stays = quarantine.filter(|known| known.build == build && known.index > self.start.applied);
        self.hold = stays.map(|Quarantine { index, build }| Hold { index, build, found: None });
    }

    /// The state that a transfer brought, which no checkpoint holds.
    pub(super) fn transferred(&self) -> Option<Transferred> {
        let restored = self.restored.as_ref().filter(|restored| matches!(restored.file, FileName::Wal(_)))?;
        Some(Transferred { index: restored.applied, image: restored.machine.clone(), captured: None })
    }

    /// Where its batches are, if it is a partition.
    pub(super) fn settings(&self, config: &NodeConfig) -> Option<LogSettings> {
        self.creation.topic?;
        Some(settings(&self.creation, config))
    }

    /// What of its log lies in segments and in the checkpoint.
    pub(super) fn take_log(&mut self) -> Option<LogImage> {
        self.restored.as_mut().and_then(|restored| restored.log.take())
    }
}

/// How the log of a partition is stored on this node.
pub(crate) fn settings(creation: &GroupCreation, config: &NodeConfig) -> LogSettings {
    LogSettings {
        group: creation.group,
        start: Offset(0),
        segment_bytes: creation.configs.segment_bytes().unwrap_or(config.segment_bytes),
        prove_chunks: SEGMENT_PROVE_CHUNKS,
    }
}

/// What a replica starts from that has nothing yet: with the first membership if the creation of its group names it,
/// and else empty, knowing nobody but those who may tell it more.
pub(crate) fn first_start(creation: &GroupCreation, replica: ReplicaId) -> GroupStart {
    #[cfg(feature = "mutants")]
    if Mutant::LaterReplicaStartsAsMember.is_planted() {
        return GroupStart::created(creation.group, replica, membership(creation));
    }
    if creation.member(replica).is_some() {
        GroupStart::created(creation.group, replica, membership(creation))
    } else {
        let introduced = creation.members.iter().map(|member| member.replica).collect();
        GroupStart::newcomer(creation.group, replica, introduced)
    }
}

/// The membership that the replicas of a creation record start with.
fn membership(creation: &GroupCreation) -> Membership {
    let of = |voter: bool| creation.members.iter().filter(move |member| member.voter == voter).map(|m| m.replica);
    Membership::new(of(true), of(false))
}

fn damaged_entry(location: EntryLocation, group: GroupId, error: StartError) -> Exit {
    Exit::Damaged {
        file: location.file.name().path(),
        offset: location.offset,
        what: format!("group {group}: {error}"),
    }
}
