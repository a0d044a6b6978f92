//! Replicas that met an entry which this build cannot apply.
//!
//! Such a replica is held before that entry: it does not tick, vote, or take or propose anything for as long as the
//! process runs, and a record says so, which holds it after a restart, too, unless that is of another build. Everything
//! else on the node goes on. What its waiters hear is what they hear of a leader that is gone.
//!
//! Its state machine is good for nothing after a panic, so it is made again while the group is suspended: from where
//! the newest checkpoint, or a transferred state, has it, by the entries that were applied since. Then checkpoints take the
//! group in as any other, with all entries behind in them, so that it keeps no file of the WAL from being used again.
//!
//! Invariants: no checkpoint holds a state that a panic left behind, because it waits for a group that is suspended. The
//! record is durable before a state is made again: should that be impossible, the node ends, and its next start, which
//! replays up to the entry, finds the group held. So no entry ends a node twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use kauri_protocol::error::ErrorCode;
use slog::{error, info, warn};

use super::{
    Broker, Machine,
    apply::{Poisonous, apply_to_state, entry_of},
    reads::Reads,
    runs::Run,
    transfer::State,
};
use crate::{
    api::Event,
    command::Entry,
    ids::{CheckpointNumber, GroupId, LogIndex, OperationId, ReplicaId, Term, WriteNumber},
    io::{DiskError, DiskOperation, DiskOutput, Effects, Exit, OperationIds},
    log::{
        checkpoint::{Checkpoint, FoundSection, Quarantine, Read, Reader, SectionPayload},
        read::EntryRead,
        record::{EntryKind, WalRecord},
    },
    metadata::MetadataState,
    partition::PartitionState,
    replication::group::{Group, Payload, Stored},
    time::Now,
};

/// Entries that are read from disk at once.
const READ_BYTES: u64 = 4 << 20;

/// Where a replica is held.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) index: LogIndex,
    /// The build that could not apply the entry.
    pub(crate) build: Bytes,
    /// It was found by the replay of this start, and no record says so yet.
    pub(crate) found: Option<Met>,
}

/// What was found at an entry.
#[derive(Clone, Debug)]
pub(crate) struct Met {
    pub(crate) poisonous: Poisonous,
    /// The command was not shown to the state machine, which is as the entry before left it.
    pub(crate) is_intact: bool,
}

impl Hold {
    pub(super) fn quarantine(&self) -> Quarantine {
        Quarantine { index: self.index, build: self.build.clone() }
    }
}

/// The machine's image that came with a transferred state.
#[derive(Clone, Debug)]
pub(crate) struct Transferred {
    /// Up to here everything is in it.
    pub(crate) index: LogIndex,
    pub(crate) image: Bytes,
    /// The last checkpoint that the group was added to since.
    pub(crate) captured: Option<CheckpointNumber>,
}

/// Replicas whose state is to be made again, or whose entries behind are to be read, one at a time.
#[derive(Debug, Default)]
pub(super) struct Quarantines {
    waiting: BTreeMap<GroupId, Waiting>,
    current: Option<Rebuild>,
}

#[derive(Debug)]
struct Waiting {
    /// Of the record.
    write: WriteNumber,
    is_intact: bool,
}

#[derive(Debug)]
struct Rebuild {
    group: GroupId,
    /// The replica was removed; what is being read is awaited all the same.
    is_gone: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Checkpoint(Box<Reader>),
    Entries(Box<Entries>),
}

#[derive(Debug)]
struct Entries {
    /// `None`: the replica has it.
    state: Option<State>,
    /// What `state` has.
    applied: LogIndex,
    /// Entries of the checkpoint; no payload: nothing that a state machine is shown.
    carried: BTreeMap<LogIndex, (Term, Option<Payload>)>,
    /// What was read; `None`: it is not what was written.
    payloads: BTreeMap<LogIndex, Option<Payload>>,
    reads: BTreeMap<OperationId, Run>,
    damaged: Vec<EntryRead>,
    /// Entries up to this one were asked for.
    asked: LogIndex,
}

impl Quarantines {
    /// The replica is removed.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.waiting.remove(&group);
        if let Some(rebuild) = self.current.as_mut().filter(|rebuild| rebuild.group == group) {
            rebuild.is_gone = true;
        }
    }

    /// False if the operation is none of these.
    pub(super) fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> bool {
        match &mut self.current {
            Some(Rebuild { stage: Stage::Checkpoint(reader), .. }) => reader.handle(operation, result),
            Some(Rebuild { stage: Stage::Entries(entries), .. }) => entries.handle(operation, result),
            None => false,
        }
    }
}

impl Entries {
    /// What is behind a state that is whole up to `applied`.
    fn behind(applied: LogIndex) -> Self {
        Self {
            state: None,
            applied,
            carried: BTreeMap::new(),
            payloads: BTreeMap::new(),
            reads: BTreeMap::new(),
            damaged: Vec::new(),
            asked: applied,
        }
    }

    /// Asks for entries that are on disk only.
    fn read(&mut self, wanted: Vec<EntryRead>, ids: &mut OperationIds, reads: &mut Reads) {
        self.asked = wanted.last().map_or(self.asked, |read| self.asked.max(read.index));
        let mut runs: Vec<Run> = Vec::new();
        for (place, read) in wanted.into_iter().enumerate() {
            if !runs.last_mut().is_some_and(|run| run.extend(place, read)) {
                runs.push(Run::of(place, read));
            }
        }
        for run in runs {
            let id = ids.next_id();
            reads.issue(DiskOperation { id, action: run.action() });
            self.reads.insert(id, run);
        }
    }

    fn from(state: State, applied: LogIndex) -> Self {
        Self { state: Some(state), ..Self::behind(applied) }
    }

    fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> bool {
        let Some(run) = self.reads.remove(&operation) else { return false };
        let bytes = match result {
            Ok(DiskOutput::Read(bytes)) => bytes.clone(),
            Ok(DiskOutput::Done | DiskOutput::List(_)) => unreachable!("a read returns bytes"),
            Err(_) => Bytes::new(),
        };
        for (_, read) in &run.entries {
            let payload = read.check(run.slice(&bytes, read)).ok();
            if payload.is_none() {
                self.damaged.push(*read);
            }
            self.payloads.insert(read.index, payload.map(|(context, data)| Payload { context, data }));
        }
        true
    }

    /// The next entry to apply: its term, and its payload unless it is no command; or what has to be read before.
    fn next(&mut self, group: &Group) -> Result<Next, String> {
        let index = self.applied.next();
        let log = group.log();
        // What was not committed when the checkpoint was taken may have been overwritten since.
        let is_in_force = |term: Term| index <= log.truncated_index() || log.log_term(index) == term;
        if let Some((term, payload)) = self.carried.remove(&index)
            && is_in_force(term)
        {
            return Ok(payload.map_or(Next::NoCommand, |payload| Next::Command(term, payload)));
        }
        match self.payloads.remove(&index) {
            // Several are read together, and what Raft appended for itself lies between commands.
            Some(Some(payload)) if !is_command(log.kind(index), &payload) => return Ok(Next::NoCommand),
            Some(Some(payload)) => return Ok(Next::Command(log.log_term(index), payload)),
            Some(None) => return Err(format!("entry {index} cannot be read")),
            None => {}
        }
        match group.stored(index, READ_BYTES) {
            Stored::NoCommand => Ok(Next::NoCommand),
            Stored::InMemory(payload) => Ok(Next::Command(log.log_term(index), payload)),
            Stored::OnDisk(reads) => Ok(Next::Read(reads)),
            Stored::Gone => Err(format!("entry {index} is not there any more")),
        }
    }
}

enum Next {
    NoCommand,
    Command(Term, Payload),
    Read(Vec<EntryRead>),
}

impl State {
    fn empty(machine: &Machine) -> Self {
        match machine {
            Machine::Metadata(_) => Self::Metadata(MetadataState::new()),
            Machine::Partition(_) => Self::Partition(PartitionState::new()),
        }
    }

    /// What comes of it was told when it was applied first.
    fn apply_again(&mut self, entry: &Entry) -> Result<(), Poisonous> {
        match self {
            Self::Metadata(state) => apply_to_state(state, entry, None).map(drop),
            Self::Partition(state) => apply_to_state(state, entry, None).map(drop),
        }
    }
}

impl Broker {
    /// Takes up what the start found: replicas that are held, by a record or because the replay met the entry again.
    pub(super) fn take_up_holds(&mut self, now: Now) {
        let held: Vec<(GroupId, Hold)> =
            self.replicas.iter().filter_map(|(id, replica)| Some((*id, replica.hold.clone()?))).collect();
        for (id, hold) in held {
            match hold.found {
                Some(Met { poisonous, is_intact }) => self.quarantine(now, id, &poisonous, is_intact),
                None => {
                    warn!(self.logger, "a replica is held before an entry that this build cannot apply";
                        "group" => id.0, "index" => hold.index.0, "build" => &self.config.build);
                    let replica = self.replicas.get_mut(&id).expect("its key was just listed");
                    // The checkpoint was taken before it was held, and names places of entries that replay does not reach.
                    if replica.group.next_on_disk(replica.group.applied()).is_some() {
                        replica.suspended = true;
                        self.quarantines.waiting.insert(id, Waiting { write: WriteNumber(0), is_intact: true });
                    }
                }
            }
        }
    }

    /// An entry cannot be applied. `is_intact`: the state is as the entry before left it.
    pub(super) fn quarantine(&mut self, now: Now, id: GroupId, poisonous: &Poisonous, is_intact: bool) {
        let Poisonous { index, term, what } = poisonous;
        let replica = self.replicas.get_mut(&id).expect("its entry was applied");
        error!(self.logger, "an entry cannot be applied: its replica is held before it until another build is started";
            "group" => id.0, "topic" => replica.creation.topic.map(|(topic, partition)| format!("{topic}-{partition}")),
            "index" => index.0, "term" => term.0, "what" => what, "build" => &self.config.build);
        let own = replica.group.replica();
        let build = Bytes::from(self.config.build.clone());
        let record = WalRecord::Quarantine { group: id, replica: own, index: *index, build: build.clone() };
        let write = self.wal.append([record]);
        self.checkpoints.changed = true;
        replica.hold = Some(Hold { index: *index, build, found: None });
        replica.suspended = true;
        replica.campaign = None;
        replica.group.stand_down();
        let confirming = std::mem::take(&mut replica.confirming);
        let owners = replica.take_all();
        let change = replica.group.take_role_change();
        if let Some(change) = change {
            self.role_changed(now, id, change);
        }
        for (owner, never_proposed) in owners {
            self.fail_owner(owner, never_proposed);
        }
        for waiter in confirming.into_values() {
            let result = Err(ErrorCode::NotLeaderOrFollower);
            self.events.push_back((waiter.request, Event::Confirmed { part: waiter.part, result }));
        }
        self.watch.wake(id);
        self.report_proposed(id);
        self.transfers.forget(id);
        self.quarantines.waiting.insert(id, Waiting { write, is_intact });
    }

    /// Goes on with making states again.
    pub(super) fn advance_quarantines(&mut self, effects: &mut Effects) {
        loop {
            let Some(mut rebuild) = self.quarantines.current.take().or_else(|| self.next_rebuild()) else { return };
            let id = rebuild.group;
            match self.advance_rebuild(&mut rebuild, effects) {
                Ok(true) => {}
                Ok(false) => {
                    self.quarantines.current = Some(rebuild);
                    return;
                }
                Err(why) => {
                    let reason = format!(
                        "group {id} holds an entry that this build cannot apply, and its state before that cannot be made \
                         again while the node runs: {why}; the next start goes on without it"
                    );
                    self.exit.get_or_insert(Exit::Refused(reason));
                }
            }
        }
    }

    /// The first one whose record is durable.
    fn next_rebuild(&mut self) -> Option<Rebuild> {
        let durable = self.wal.durable();
        let waiting = &mut self.quarantines.waiting;
        let group = waiting.iter().find(|(_, waiting)| waiting.write <= durable).map(|(id, _)| *id)?;
        let Waiting { is_intact, .. } = waiting.remove(&group).expect("its key was just found");
        let replica = self.replicas.get(&group).expect("a group that is removed does not wait");
        let stage = if is_intact {
            Stage::Entries(Box::new(Entries::behind(replica.group.applied())))
        } else if let Some(Transferred { index, image, .. }) = &replica.transferred {
            let state = State::restore(&replica.machine, image).expect("it was restored before");
            Stage::Entries(Box::new(Entries::from(state, *index)))
        } else if let Some(reader) = self.checkpoints.reader_of_newest() {
            Stage::Checkpoint(Box::new(reader))
        } else {
            Stage::Entries(Box::new(self.created_entries(group)))
        };
        Some(Rebuild { group, is_gone: false, stage })
    }

    /// No checkpoint has the group yet.
    fn created_entries(&self, id: GroupId) -> Entries {
        let replica = &self.replicas[&id];
        Entries::from(State::empty(&replica.machine), LogIndex::TRUNCATED_AT_CREATION)
    }

    /// True when it is over.
    fn advance_rebuild(&mut self, rebuild: &mut Rebuild, effects: &mut Effects) -> Result<bool, String> {
        let id = rebuild.group;
        loop {
            match &mut rebuild.stage {
                Stage::Checkpoint(reader) => match reader.poll(effects, &mut self.ids) {
                    Read::Waiting => return Ok(false),
                    Read::Whole(_) | Read::Unusable(_) if rebuild.is_gone => return Ok(true),
                    Read::Unusable(why) => return Err(why.to_string()),
                    Read::Whole(checkpoint) => {
                        let replica = &self.replicas[&id];
                        let found = from_checkpoint(*checkpoint, id, replica.group.replica(), &replica.machine)?;
                        let entries = found.unwrap_or_else(|| self.created_entries(id));
                        rebuild.stage = Stage::Entries(Box::new(entries));
                    }
                },
                Stage::Entries(entries) if !entries.reads.is_empty() => return Ok(false),
                Stage::Entries(_) if rebuild.is_gone => return Ok(true),
                Stage::Entries(entries) => return self.advance_entries(id, entries),
            }
        }
    }

    fn advance_entries(&mut self, id: GroupId, entries: &mut Entries) -> Result<bool, String> {
        let Self { replicas, ids, reads, .. } = self;
        let replica = replicas.get_mut(&id).expect("the rebuild is told when it is removed");
        if let Some(mut state) = entries.state.take() {
            while entries.applied < replica.group.applied() {
                match entries.next(&replica.group)? {
                    Next::NoCommand => {}
                    Next::Command(term, Payload { context, data }) => {
                        let index = entries.applied.next();
                        entry_of(index, term, &context, data)
                            .and_then(|entry| state.apply_again(&entry))
                            .map_err(|poisonous| format!("entry {index}: {}", poisonous.what))?;
                    }
                    Next::Read(wanted) => {
                        entries.state = Some(state);
                        entries.read(wanted, ids, reads);
                        return Ok(false);
                    }
                }
                entries.applied = entries.applied.next();
            }
            match (&mut replica.machine, state) {
                (Machine::Metadata(metadata), State::Metadata(state)) => *metadata = state,
                (Machine::Partition(partition), State::Partition(state)) => {
                    let (made, stored) = (state.next_offset(), partition.log.applied_offset());
                    if made != stored {
                        return Err(format!("it ends at offset {made}, and what is stored at {stored}"));
                    }
                    partition.state = state;
                }
                (Machine::Metadata(_), State::Partition(_)) | (Machine::Partition(_), State::Metadata(_)) => {
                    unreachable!("a state is restored for the machine that it replaces")
                }
            }
        }
        // What lies behind comes into memory, and so into every checkpoint.
        for (index, payload) in std::mem::take(&mut entries.payloads) {
            if let Some(payload) = payload {
                let term = replica.group.log().log_term(index);
                replica.group.supply(index, term, payload);
            }
        }
        if let Some(index) = replica.group.next_on_disk(entries.asked.max(entries.applied))
            && let Stored::OnDisk(wanted) = replica.group.stored(index, READ_BYTES)
        {
            entries.read(wanted, ids, reads);
            return Ok(false);
        }
        replica.suspended = false;
        // Nobody looked at it meanwhile.
        self.image_moved |= id == GroupId::METADATA;
        let hold = replica.hold.as_ref().expect("a replica is held until the process ends");
        info!(self.logger, "a replica that is held has its state and all entries behind"; "group" => id.0,
            "applied" => entries.applied.0, "held_at" => hold.index.0);
        for read in std::mem::take(&mut entries.damaged) {
            self.entry_damaged(&read);
        }
        Ok(true)
    }
}

#[cfg(test)]
impl Broker {
    /// A checkpoint is taken in the next turn.
    pub(crate) fn take_checkpoint(&mut self) {
        self.checkpoint_soon();
    }

    /// Nothing that is on the disk stays in memory.
    pub(crate) fn evict_all(&mut self, id: GroupId) {
        self.replicas.get_mut(&id).expect("the group is on this node").group.evict(usize::MAX);
    }

    /// Proposes what only a newer build understands.
    pub(crate) fn propose_newer(&mut self, id: GroupId) {
        use crate::command::{CommandHeader, FEATURE_LEVEL, WaiterToken};
        let group = &mut self.replicas.get_mut(&id).expect("the group is on this node").group;
        let (level, origin, token) = (FEATURE_LEVEL + 1, group.replica(), WaiterToken::NONE);
        let header = CommandHeader { kind: 200, level, origin, token, stamp: crate::time::Wall(0) };
        group.propose(vec![(header.encode(), Bytes::from_static(b"newer"))]).expect("this replica leads");
        self.mark(id);
    }
}

/// Whether a state machine is shown it: not a change of members, nor what a new leader appends.
fn is_command(kind: EntryKind, payload: &Payload) -> bool {
    kind == EntryKind::Normal && payload.bytes() > 0
}

/// What a checkpoint has of a replica; `None`: nothing.
fn from_checkpoint(
    checkpoint: Checkpoint,
    group: GroupId,
    own: ReplicaId,
    machine: &Machine,
) -> Result<Option<Entries>, String> {
    let of_replica = |found: &FoundSection| found.section.group == group && found.section.replica == own;
    let Some(FoundSection { section, image, .. }) = checkpoint.sections.into_iter().find(of_replica) else {
        return Ok(None);
    };
    let state = State::restore(machine, &image).map_err(|error| error.to_string())?;
    let mut entries = Entries::from(state, section.applied);
    for (entry, index) in section.entries.into_iter().zip((section.truncated.0 + 1..).map(LogIndex)) {
        let payload = match entry.payload {
            SectionPayload::Inline { context, data, .. } => Payload { context, data },
            SectionPayload::Located(_) | SectionPayload::Lost(_) => continue,
        };
        let command = is_command(entry.kind, &payload).then_some(payload);
        entries.carried.insert(index, (entry.term, command));
    }
    Ok(Some(entries))
}
