//! What is left when a majority of a group is gone for good: decides what can be kept, and keeps it.
//!
//! Works on the data directories of nodes that do not run. [`Directory::read`] reads one without changing it, [`Plan`] is
//! what all of them together mean, and [`carry_out`] makes the best copy of each lost group go on alone, in its own
//! directory. Nothing else of a directory changes but for what any start of its node changes.
//!
//! Invariant: nothing is given up that Raft could still make good; who calls says so explicitly. Does not own files: it is
//! given a function that carries out disk operations.

mod metadata;
pub mod plan;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use slog::Logger;

pub use self::metadata::PartitionName;
use self::plan::{Alone, Copy, GroupPlan, Verdict, decide};
pub use crate::broker::{NotRebuilt, Rebuilt};
use crate::{
    broker::{Rebuild, RebuildOrder, RebuildStep, Start},
    config::{Endpoint, NodeConfig, PeerConfig},
    ids::{ClusterId, DirectoryId, GroupId, LogIndex, NodeId, Offset, OperationId, ReplicaId},
    io::{Directory as DirectoryName, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName},
    limits,
    log::{identity::Identity, record::EntryKind, wal::WalConfig},
    metadata::MetadataImage,
    replication::group::named_by_change,
    startup::{Startup, Survey, SurveyedGroup},
    time::{Monotonic, Now, Wall},
};

/// Carries out an operation in one of the directories, by its number.
pub type Disks<'a> = dyn FnMut(usize, DiskAction) -> Result<DiskOutput, DiskError> + 'a;

/// A data directory as it was read.
pub struct Directory {
    pub identity: Identity,
    content: Result<BTreeMap<GroupId, SurveyedGroup>, Exit>,
}

/// Why directories cannot be looked at together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("directories {first} and {second} are copies of each other: give one of them")]
    Twice { first: usize, second: usize },
    #[error("directories {first} and {second} belong to different clusters, {one} and {other}")]
    Clusters { first: usize, second: usize, one: ClusterId, other: ClusterId },
}

/// What all directories together mean.
#[derive(Debug)]
pub struct Plan {
    pub directories: Vec<DirectoryPlan>,
    /// In the order of their ids: the metadata group, if it is here, comes first.
    pub groups: Vec<GroupPlan>,
    /// Partitions of which no directory has a copy.
    pub absent: Vec<GroupId>,
    /// Of partitions that would go on alone.
    offsets: BTreeMap<GroupId, Offsets>,
    names: BTreeMap<GroupId, PartitionName>,
    places: BTreeMap<(GroupId, ReplicaId), NodeId>,
}

/// What a plan means in records, as far as that can be told without applying anything: batches that are refused when they
/// are applied, because they came twice, are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// After the last record that is kept.
    pub end: Offset,
    /// Records in entries that the copy has and gives up; not those in entries whose payload is lost.
    pub given_up: u64,
}

#[derive(Debug)]
pub struct DirectoryPlan {
    pub node: NodeId,
    pub id: DirectoryId,
    /// Why nothing in it can be used.
    pub unreadable: Option<Exit>,
    /// Another directory took its place: its node would not start with it any more.
    pub replaced: bool,
}

/// Time that passes when nothing else happens; more than anything waits for.
const IDLE: std::time::Duration = std::time::Duration::from_secs(1);
/// Idle moments after which nothing is believed to come any more.
const IDLE_MAX: u32 = 60;

impl Directory {
    /// Reads a directory. `number` is what `disks` shall be called with. A directory that cannot be read is a finding, not
    /// a failure.
    pub fn read(identity: Identity, number: usize, disks: &mut Disks<'_>, logger: &Logger) -> Self {
        let config = wal_config(&identity, number, disks);
        let survey = Survey::new(&identity, config, logger.clone());
        let content = Driver::default().drive(survey, number, disks);
        Self { identity, content }
    }

    fn groups(&self) -> impl Iterator<Item = (&GroupId, &SurveyedGroup)> {
        self.content.iter().flatten()
    }
}

impl Plan {
    /// Decides. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Unfit`] if these directories must not be looked at together.
    pub fn new(given: &[Directory]) -> Result<Self, Unfit> {
        check(given)?;
        let mut image = metadata::committed_image(given);
        let ids: BTreeSet<GroupId> = given.iter().flat_map(Directory::groups).map(|(group, _)| *group).collect();
        let mut places = BTreeMap::new();
        let mut groups = Vec::new();
        // In this order: the metadata group comes first, and says more if all of its log is going to count.
        for id in ids.iter().copied() {
            if image.is_deleted(id) {
                continue;
            }
            let here = given.iter().enumerate().filter_map(|(number, directory)| {
                let group = directory.content.as_ref().ok()?.get(&id)?;
                places.insert((id, group.start.replica), directory.identity.node);
                Some(copy(number, !is_replaced(directory, &image), group))
            });
            let copies: Vec<Copy<'_>> = here.collect();
            let group = decide(id, &copies);
            if let (GroupId::METADATA, Verdict::Alone(alone)) = (id, &group.verdict) {
                image = metadata::image_at(given, alone.directory, alone.end.0);
            }
            groups.push(group);
        }
        let latest = metadata::latest_image(given);
        metadata::add_places(&latest, given, &mut places);
        metadata::add_places(&image, given, &mut places);
        // A topic that is perhaps not committed gives names, but its partitions are not called lost.
        let committed = metadata::names(&image);
        let absent = committed.keys().copied().filter(|id| !ids.contains(id)).collect();
        let mut names = metadata::names(&latest);
        names.extend(committed);
        let directories = given.iter().map(|directory| DirectoryPlan {
            node: directory.identity.node,
            id: directory.identity.directory,
            unreadable: directory.content.as_ref().err().cloned(),
            replaced: is_replaced(directory, &image),
        });
        let mut plan =
            Self { directories: directories.collect(), groups, absent, offsets: BTreeMap::new(), names, places };
        plan.offsets = plan.alone().filter_map(|(id, alone)| Some((id, offsets(given, id, alone)?))).collect();
        Ok(plan)
    }

    /// The groups that would go on alone.
    pub fn alone(&self) -> impl Iterator<Item = (GroupId, &Alone)> {
        self.groups.iter().filter_map(|group| match &group.verdict {
            Verdict::Alone(alone) => Some((group.group, alone)),
            Verdict::Sound | Verdict::NoCopy => None,
        })
    }

    /// What clients call the group; `None` for the metadata group, and where the metadata are not known.
    pub fn name(&self, group: GroupId) -> Option<&PartitionName> {
        self.names.get(&group)
    }

    /// Of a partition that would go on alone.
    pub fn offsets(&self, group: GroupId) -> Option<Offsets> {
        self.offsets.get(&group).copied()
    }

    /// The node that a replica is or was on.
    pub fn node_of(&self, group: GroupId, replica: ReplicaId) -> Option<NodeId> {
        self.places.get(&(group, replica)).copied()
    }
}

/// Another directory took the place of this one.
fn is_replaced(directory: &Directory, image: &MetadataImage) -> bool {
    let node = image.node(directory.identity.node);
    node.is_some_and(|node| node.replaced.contains(&directory.identity.directory))
}

fn check(directories: &[Directory]) -> Result<(), Unfit> {
    for (second, directory) in directories.iter().enumerate() {
        for (first, other) in directories[..second].iter().enumerate() {
            if other.identity.directory == directory.identity.directory {
                return Err(Unfit::Twice { first, second });
            }
            if let (Some(one), Some(other)) = (other.identity.cluster, directory.identity.cluster)
                && one != other
            {
                return Err(Unfit::Clusters { first, second, one, other });
            }
        }
    }
    Ok(())
}

fn offsets(given: &[Directory], id: GroupId, alone: &Alone) -> Option<Offsets> {
    let content = given[alone.directory].content.as_ref().ok()?;
    let group = content.get(&id).filter(|group| group.creation.topic.is_some())?;
    let begin = group.log.as_ref().map_or(Offset(0), crate::log::segment::LogImage::end_offset);
    let end = alone.end.0;
    let elsewhere = |index: LogIndex| {
        let (number, _) = alone.fills.get(&index)?;
        given[*number].content.as_ref().ok()?.get(&id)?.records.get(&index).copied()
    };
    let count = |first: LogIndex, last: LogIndex| -> u64 {
        let here = group.records.range(first..=last).map(|(_, count)| u64::from(*count));
        let filled = alone.fills.keys().filter(|index| (first..=last).contains(index));
        here.sum::<u64>() + filled.filter_map(|index| elsewhere(*index)).map(u64::from).sum::<u64>()
    };
    let kept = if group.start.applied < end { count(group.start.applied.next(), end) } else { 0 };
    let given_up = alone.dropped.map_or(0, |(first, last)| count(first, last));
    Some(Offsets { end: Offset(begin.0 + i64::try_from(kept).ok()?), given_up })
}

/// What matters about a copy for the decision.
fn copy(directory: usize, belongs: bool, group: &SurveyedGroup) -> Copy<'_> {
    let (start, log) = (&group.start, &group.start.log);
    let mut named: BTreeSet<ReplicaId> = group.creation.members.iter().map(|member| member.replica).collect();
    let commit = start.hard_state.commit.max(start.applied).min(log.last_log_index());
    let mut changes = Vec::new();
    let mut knows_all = true;
    for index in (start.applied.0 + 1..=log.last_log_index().0).map(LogIndex) {
        let kind = log.kind(index);
        if kind == EntryKind::Normal {
            continue;
        }
        match group.kept.get(&index).filter(|kept| kept.term == log.log_term(index)) {
            Some(kept) => {
                named.extend(named_by_change(kind, &kept.payload.data));
                if index <= commit && knows_all {
                    changes.push((kind, &kept.payload.data));
                }
            }
            // The payload is lost: what follows from later ones is not known either.
            None => knows_all = false,
        }
    }
    Copy {
        directory,
        belongs,
        start,
        membership: start.membership.after(changes),
        named,
        unfinished: group.log.as_ref().is_some_and(crate::log::segment::LogImage::is_ahead),
    }
}

/// Carries out a plan: each group that shall go on alone does, in its own directory. `wall`: the present time.
///
/// # Errors
///
/// A directory's disk fails, or its node would not start. Groups that were dealt with before stay so, and the same again
/// goes on from there.
pub fn carry_out(
    plan: &Plan,
    directories: &[Directory],
    disks: &mut Disks<'_>,
    wall: Wall,
    logger: &Logger,
) -> Result<BTreeMap<GroupId, Result<Rebuilt, NotRebuilt>>, (usize, Exit)> {
    let mut done = BTreeMap::new();
    for (number, directory) in directories.iter().enumerate() {
        let here = plan.alone().filter(|(_, alone)| alone.directory == number);
        let orders: Vec<RebuildOrder> = here
            .map(|(group, alone)| RebuildOrder {
                group,
                replica: alone.replica,
                end: alone.end,
                term: alone.term,
                fills: alone.fills.clone(),
                removed: alone.removed.clone(),
            })
            .collect();
        if orders.is_empty() {
            continue;
        }
        let failed = |exit| (number, exit);
        let config = node_config(&directory.identity, number, disks);
        let mut driver = Driver { now: Now { monotonic: Monotonic(0), wall }, pending: Vec::new() };
        let start = driver.drive(Startup::new(config, logger.clone()), number, disks).map_err(failed)?;
        done.extend(driver.drive(Rebuild::new(start, orders), number, disks).map_err(failed)?);
    }
    Ok(done)
}

fn wal_config(identity: &Identity, number: usize, disks: &mut Disks<'_>) -> WalConfig {
    let file_bytes = wal_file_bytes(number, disks);
    WalConfig { file_bytes, budget_bytes: budget_bytes(file_bytes), key: identity.wal_key }
}

fn budget_bytes(file_bytes: u64) -> u64 {
    limits::WAL_BUDGET_BYTES.max(limits::WAL_FILES_MIN * file_bytes)
}

/// How large the node makes the files of its log, as far as that can be seen: some may be larger.
fn wal_file_bytes(number: usize, disks: &mut Disks<'_>) -> u64 {
    let Ok(DiskOutput::List(files)) = disks(number, DiskAction::List { directory: DirectoryName::Wal }) else {
        return limits::WAL_FILE_BYTES;
    };
    let sizes = files.into_iter().filter(|(file, _)| matches!(file, FileName::Wal(_))).map(|(_, bytes)| bytes);
    let is_legal =
        |bytes: &u64| *bytes >= NodeConfig::WAL_FILE_BYTES_MIN && bytes.is_multiple_of(limits::WAL_BLOCK_BYTES as u64);
    sizes.filter(is_legal).min().unwrap_or(limits::WAL_FILE_BYTES)
}

/// A node that starts, but never runs: nobody is talked to.
fn node_config(identity: &Identity, number: usize, disks: &mut Disks<'_>) -> NodeConfig {
    let nowhere = Endpoint { host: "localhost".to_owned(), port: 1 };
    let own = PeerConfig { node: identity.node, address: nowhere.to_string(), voter: true };
    let mut config = NodeConfig::new(identity.node, vec![own], nowhere, 0);
    config.wal_file_bytes = wal_file_bytes(number, disks);
    config.wal_budget_bytes = budget_bytes(config.wal_file_bytes);
    config
}

/// Carries out disk operations one after the other, and lets time pass as fast as anything waits for it.
#[derive(Debug, Default)]
struct Driver {
    now: Now,
    /// Operations that are to be carried out: of what was driven before, if that handed them on.
    pending: Vec<DiskOperation>,
}

/// Something that waits for disk operations and time only.
trait Offline {
    type Outcome;

    fn handle(&mut self, now: Now, operation: OperationId, result: Result<DiskOutput, DiskError>) -> Result<(), Exit>;

    fn poll(&mut self, now: Now, effects: &mut Effects, disks: &mut Disks<'_>) -> Result<Option<Self::Outcome>, Exit>;
}

impl Offline for Survey {
    type Outcome = BTreeMap<GroupId, SurveyedGroup>;

    fn handle(&mut self, _: Now, operation: OperationId, result: Result<DiskOutput, DiskError>) -> Result<(), Exit> {
        Self::handle(self, operation, &result)
    }

    fn poll(&mut self, _: Now, effects: &mut Effects, _: &mut Disks<'_>) -> Result<Option<Self::Outcome>, Exit> {
        Self::poll(self, effects)
    }
}

impl Offline for Startup {
    type Outcome = Start;

    fn handle(&mut self, now: Now, operation: OperationId, result: Result<DiskOutput, DiskError>) -> Result<(), Exit> {
        Self::handle(self, now, operation, result)
    }

    fn poll(&mut self, now: Now, effects: &mut Effects, _: &mut Disks<'_>) -> Result<Option<Self::Outcome>, Exit> {
        Self::poll(self, now, effects)
    }
}

impl Offline for Rebuild {
    type Outcome = BTreeMap<GroupId, Result<Rebuilt, NotRebuilt>>;

    fn handle(&mut self, now: Now, operation: OperationId, result: Result<DiskOutput, DiskError>) -> Result<(), Exit> {
        Self::handle(self, now, operation, result)
    }

    fn poll(&mut self, now: Now, effects: &mut Effects, disks: &mut Disks<'_>) -> Result<Option<Self::Outcome>, Exit> {
        loop {
            match Self::poll(self, now, effects)? {
                RebuildStep::Waiting => return Ok(None),
                RebuildStep::Done(done) => return Ok(Some(done)),
                RebuildStep::Elsewhere { directory, read } => {
                    let action = read.action().expect("nothing is looked for elsewhere that is empty");
                    let bytes = disks(directory, action).map(|output| match output {
                        DiskOutput::Read(bytes) => bytes,
                        DiskOutput::Done | DiskOutput::List(_) => panic!("a read is answered by bytes"),
                    });
                    self.supply(now, bytes);
                }
            }
        }
    }
}

impl Driver {
    /// Runs it to its end.
    fn drive<T: Offline>(&mut self, mut what: T, number: usize, disks: &mut Disks<'_>) -> Result<T::Outcome, Exit> {
        let mut idle = 0;
        loop {
            for operation in std::mem::take(&mut self.pending) {
                let result = disks(number, operation.action);
                what.handle(self.now, operation.id, result)?;
            }
            let mut effects = Effects::default();
            let outcome = what.poll(self.now, &mut effects, disks)?;
            self.pending.extend(effects.wal.into_iter().chain(effects.disk));
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
            if !self.pending.is_empty() {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle > IDLE_MAX {
                return Err(Exit::Refused("the disk has no room for what is to be written: make some".to_owned()));
            }
            self.now.monotonic = self.now.monotonic + IDLE;
        }
    }
}
