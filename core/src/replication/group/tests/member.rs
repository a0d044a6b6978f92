//! One replica with its disk and its applied state.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use raft::prelude::Message;
use slog::{Discard, Logger};

use super::super::{
    Committed, Fetch, Group, GroupOutput, GroupStart, Membership, MembershipApplied, ReadToken, RoleChange,
    SnapshotOffer,
};
use super::disk::{Disk, Image};
use crate::{
    command::{CommandHeader, WaiterToken},
    ids::{GroupId, LogIndex, NodeId, ReplicaId, Term},
    log::read::EntryRead,
    rng::Stream,
    time::Wall,
};

pub(super) const GROUP: GroupId = GroupId(7);

/// A state machine whose state is what was applied, as a hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) hash: u64,
    pub(super) commands: u64,
}

impl State {
    fn apply(&mut self, data: &[u8]) {
        self.hash = fnv(self.hash, &data[..data.len().min(32)]);
        self.hash = fnv(self.hash, &(data.len() as u64).to_le_bytes());
        self.commands += 1;
    }
}

pub(super) fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AppliedEntry {
    pub(super) index: LogIndex,
    pub(super) term: Term,
    pub(super) data: Bytes,
    pub(super) state: State,
}

pub(super) struct Member {
    pub(super) id: ReplicaId,
    pub(super) group_id: GroupId,
    seed: u64,
    boots: u64,
    /// None while crashed or destroyed.
    pub(super) group: Option<Group>,
    pub(super) disk: Disk,
    pub(super) state: State,
    /// Everything applied since the last start.
    pub(super) applied: Vec<AppliedEntry>,
    pub(super) outbox: VecDeque<Message>,
    pub(super) fetches: VecDeque<Fetch>,
    /// Reads are answered at once, unless a test wants to see them wait.
    pub(super) holds_fetches: bool,
    /// Whether committed entries are left alone.
    pub(super) holds_apply: bool,
    pub(super) reads_ready: Vec<(ReadToken, LogIndex)>,
    pub(super) reads_failed: Vec<ReadToken>,
    pub(super) roles: Vec<RoleChange>,
    pub(super) memberships: Vec<MembershipApplied>,
    pub(super) offers: VecDeque<SnapshotOffer>,
    pub(super) snapshots_wanted: BTreeSet<ReplicaId>,
}

pub(super) fn created_image(membership: &Membership) -> Image {
    let start = GroupStart::created(GROUP, ReplicaId(1), membership.clone());
    Image {
        applied: start.applied,
        truncated: start.log.truncated_index(),
        truncated_term: start.hard_state.term,
        membership: membership.clone(),
        introduced: BTreeSet::new(),
        removed: BTreeSet::new(),
        state: State::default(),
    }
}

fn newcomer_image(introduced: BTreeSet<ReplicaId>) -> Image {
    Image {
        applied: LogIndex(0),
        truncated: LogIndex(0),
        truncated_term: Term(0),
        membership: Membership::default(),
        introduced,
        removed: BTreeSet::new(),
        state: State::default(),
    }
}

/// A command as the shard would propose it.
pub(super) fn command(data: impl Into<Bytes>) -> (Bytes, Bytes) {
    let header = CommandHeader { kind: 1, level: 1, origin: ReplicaId(1), token: WaiterToken::NONE, stamp: Wall(0) };
    (header.encode(), data.into())
}

impl Member {
    pub(super) fn created(id: u64, membership: &Membership, seed: u64) -> Self {
        Self::with_image(ReplicaId(id), created_image(membership), seed)
    }

    pub(super) fn newcomer(id: u64, introduced: impl IntoIterator<Item = u64>, seed: u64) -> Self {
        let introduced = introduced.into_iter().map(ReplicaId).collect();
        Self::with_image(ReplicaId(id), newcomer_image(introduced), seed)
    }

    fn with_image(id: ReplicaId, image: Image, seed: u64) -> Self {
        let mut member = Self {
            id,
            group_id: GROUP,
            seed,
            boots: 0,
            group: None,
            disk: Disk::new(id, image),
            state: State::default(),
            applied: Vec::new(),
            outbox: VecDeque::new(),
            fetches: VecDeque::new(),
            holds_fetches: false,
            holds_apply: false,
            reads_ready: Vec::new(),
            reads_failed: Vec::new(),
            roles: Vec::new(),
            memberships: Vec::new(),
            offers: VecDeque::new(),
            snapshots_wanted: BTreeSet::new(),
        };
        member.start();
        member
    }

    pub(super) fn start(&mut self) {
        let (start, state) = self.disk.recover(self.group_id);
        self.start_from(start, state);
    }

    fn start_from(&mut self, start: GroupStart, state: State) {
        self.boots += 1;
        // A node's stream would start anew too: what differs between boots is the history.
        let stream = Stream::new(self.seed, NodeId(self.id.0 as i32), "election", GROUP.0);
        let logger = Logger::root(Discard, slog::o!());
        self.group = Some(Group::new(start, stream, &logger).expect("what the disk holds is consistent"));
        self.state = state;
        self.applied.clear();
    }

    pub(super) fn crash(&mut self, kept_writes: usize) {
        self.group = None;
        self.disk.crash(kept_writes);
        self.outbox.clear();
        self.fetches.clear();
        self.offers.clear();
        self.snapshots_wanted.clear();
    }

    pub(super) fn group(&mut self) -> &mut Group {
        self.group.as_mut().expect("the replica runs")
    }

    pub(super) fn is_running(&self) -> bool {
        self.group.is_some()
    }

    pub(super) fn is_leader(&self) -> bool {
        self.group.as_ref().is_some_and(Group::is_leader)
    }

    /// Takes what the group has to do, until nothing is left: writes are queued, not synced; messages wait in the
    /// outbox; committed entries are applied.
    pub(super) fn pump(&mut self) {
        let mut out = GroupOutput::default();
        loop {
            let Some(group) = self.group.as_mut() else { return };
            group.poll(&mut out);
            let idle = out.is_empty();
            for write in out.writes.drain(..) {
                let (number, placed) = self.disk.append(write.records);
                group.wrote(write.number, number);
                for (index, term, location) in placed {
                    group.placed(index, term, location);
                }
            }
            self.outbox.extend(out.messages.drain(..));
            self.fetches.extend(out.fetches.drain(..));
            self.reads_ready.append(&mut out.reads_ready);
            self.reads_failed.append(&mut out.reads_failed);
            self.memberships.append(&mut out.memberships);
            self.snapshots_wanted.extend(out.snapshots_wanted.drain(..));
            self.offers.extend(out.snapshot_offer.take());
            self.roles.extend(out.role.take());
            if !self.holds_fetches {
                self.answer_fetches();
            }
            let applied = !self.holds_apply && self.apply();
            if idle && !applied {
                return;
            }
        }
    }

    pub(super) fn answer_fetches(&mut self) {
        while let Some(fetch) = self.fetches.pop_front() {
            let mut payloads = Vec::new();
            for ((index, term), location) in (fetch.first.0..).map(LogIndex).zip(fetch.terms).zip(fetch.locations) {
                let payload = self.disk.read(&location);
                if payload.is_none() {
                    let group = self.group_id;
                    self.group().damaged(&EntryRead { group, index, term, location });
                }
                payloads.push(payload);
            }
            self.group().fetched_partly(fetch.first, payloads);
        }
    }

    fn apply(&mut self) -> bool {
        let group = self.group.as_mut().expect("the replica runs");
        let before = group.applied();
        match group.next_committed(64 << 10).expect("commands are ours") {
            Committed::Entries(entries) => {
                for entry in &entries {
                    self.state.apply(&entry.data);
                    self.applied.push(AppliedEntry {
                        index: entry.index,
                        term: entry.term,
                        data: entry.data.clone(),
                        state: self.state,
                    });
                }
                group.applied_to(entries.last().expect("never empty").index);
                true
            }
            Committed::Reading | Committed::None => group.applied() > before,
        }
    }

    /// Makes the next `count` writes durable.
    pub(super) fn sync(&mut self, count: usize) {
        let durable = self.disk.sync(count);
        if let Some(group) = self.group.as_mut() {
            group.durable(durable);
        }
        self.pump();
    }

    pub(super) fn sync_all(&mut self) {
        while self.disk.unsynced() > 0 {
            self.sync(usize::MAX >> 1);
        }
    }

    /// The state as of now, keeping `kept` applied entries in the log.
    pub(super) fn image(&self, kept: u64) -> Image {
        let group = self.group.as_ref().expect("the replica runs");
        let applied = group.applied();
        let truncated = LogIndex(applied.0.saturating_sub(kept)).max(group.log().truncated_index());
        Image {
            applied,
            truncated,
            truncated_term: group.log().log_term(truncated),
            membership: group.membership().clone(),
            introduced: group.known.clone(),
            removed: group.removed().clone(),
            state: self.state,
        }
    }

    /// A checkpoint, and a shorter log.
    pub(super) fn checkpoint(&mut self, kept: u64) {
        let image = self.image(kept);
        let truncated = image.truncated;
        self.disk.checkpoint(image);
        self.group().compact(truncated);
    }

    pub(super) fn provide_snapshots(&mut self) {
        while let Some(to) = self.snapshots_wanted.pop_first() {
            let data = self.image(0).to_bytes();
            // The role may have changed since it was wanted, and so may the members.
            let _ = self.group().provide_snapshot(to, data);
        }
    }

    /// Switches to the state that was offered; the transfer itself is nothing here. Whether it was still of use.
    pub(super) fn install(&mut self, offer: &SnapshotOffer) -> bool {
        self.pump();
        if !self.group().may_switch(offer.position) {
            return false;
        }
        let group = self.group.take().expect("the replica runs");
        let leader = group.leader();
        let mut start = group.switch(offer.position, offer.membership.clone(), &BTreeSet::new());
        start.keep_behind(group.log(), group.commit_index());
        let state = Image::state_from_bytes(&offer.data);
        self.disk.switch(Image {
            applied: offer.position.index,
            truncated: offer.position.index,
            truncated_term: offer.position.term,
            membership: start.membership.clone(),
            introduced: start.introduced.clone(),
            removed: start.removed.clone(),
            state,
        });
        self.fetches.clear();
        self.outbox.clear();
        // The group stands still until the switch is durable.
        self.disk.sync(usize::MAX >> 1);
        self.start_from(start, state);
        if let Some(leader) = leader {
            self.group().resume_under(leader);
        }
        self.pump();
        true
    }
}
