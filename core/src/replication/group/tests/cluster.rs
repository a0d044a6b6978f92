//! Several replicas and a network that delivers at once, for stories with few steps.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use raft::prelude::{Message, MessageType};

use super::super::{Membership, Role, SnapshotOutcome};
use super::member::{Member, State, command};
use crate::{
    ids::{LogIndex, ReplicaId, Term},
    limits,
};

pub(super) struct Cluster {
    pub(super) members: BTreeMap<u64, Member>,
    /// Links that lose everything.
    pub(super) cut: BTreeSet<(u64, u64)>,
    /// Types of messages that are lost everywhere.
    pub(super) lost: BTreeSet<MessageType>,
    /// Disks that do not sync by themselves.
    pub(super) slow_disks: BTreeSet<u64>,
    /// Everything that was delivered.
    pub(super) delivered: Vec<Message>,
    pub(super) refused: Vec<super::super::Refused>,
    /// Whether offered snapshots are installed at once.
    pub(super) transfers: bool,
}

impl Cluster {
    pub(super) fn new(voters: u64) -> Self {
        Self::with(Membership::new((1..=voters).map(ReplicaId), []))
    }

    pub(super) fn with(membership: Membership) -> Self {
        let members = membership.members().iter().map(|id| (id.0, Member::created(id.0, &membership, 1))).collect();
        Self {
            members,
            cut: BTreeSet::new(),
            lost: BTreeSet::new(),
            slow_disks: BTreeSet::new(),
            delivered: Vec::new(),
            refused: Vec::new(),
            transfers: true,
        }
    }

    pub(super) fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).expect("a member of the test")
    }

    pub(super) fn group(&mut self, id: u64) -> &mut super::super::Group {
        self.member(id).group()
    }

    /// No link between `id` and anybody.
    pub(super) fn isolate(&mut self, id: u64) {
        for other in self.members.keys().copied().filter(|&other| other != id) {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.lost.clear();
    }

    /// Delivers, syncs and applies until nothing moves.
    pub(super) fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "the cluster comes to rest");
            let mut moved = false;
            let ids: Vec<u64> = self.members.keys().copied().collect();
            for id in ids {
                self.member(id).pump();
                if !self.slow_disks.contains(&id) && self.member(id).disk.unsynced() > 0 {
                    self.member(id).sync_all();
                    moved = true;
                }
                if self.transfers {
                    self.transfer(id);
                }
                while let Some(message) = self.member(id).outbox.pop_front() {
                    moved = true;
                    self.deliver(message);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn transfer(&mut self, id: u64) {
        if !self.member(id).is_running() {
            return;
        }
        self.member(id).provide_snapshots();
        while let Some(offer) = self.member(id).offers.pop_front() {
            self.member(id).install(&offer);
            let leader = self.member(offer.from.0);
            if leader.is_running() {
                leader.group().report_snapshot(ReplicaId(id), SnapshotOutcome::Installed);
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        if self.cut.contains(&(message.from, message.to)) || self.lost.contains(&message.get_msg_type()) {
            return;
        }
        // As from a frame.
        let message = Message::decode(Bytes::from(message.encode_to_vec())).expect("what was encoded");
        self.delivered.push(message.clone());
        if let Some(member) = self.members.get_mut(&message.to)
            && member.is_running()
            && let Err(refused) = member.group().step(message)
        {
            self.refused.push(refused);
        }
    }

    pub(super) fn tick(&mut self, ticks: usize) {
        for _ in 0..ticks {
            for member in self.members.values_mut().filter(|member| member.is_running()) {
                member.group().tick();
            }
            self.settle();
        }
    }

    /// Makes `id` leader, at rest: by a transfer if somebody leads that it can reach.
    pub(super) fn elect(&mut self, id: u64) {
        match self.leader().filter(|&leader| leader != id && !self.cut.contains(&(leader, id))) {
            Some(leader) => {
                self.group(leader).transfer_leader(ReplicaId(id)).expect("the leader hands over");
                self.settle();
            }
            None => {
                self.ignore_leases(true);
                self.group(id).campaign();
                self.settle();
                self.ignore_leases(false);
            }
        }
        assert_eq!(self.group(id).role(), Role::Leader, "{id} was elected");
    }

    pub(super) fn ignore_leases(&mut self, ignore: bool) {
        for member in self.members.values_mut().filter(|member| member.is_running()) {
            member.group().ignore_lease(ignore);
        }
    }

    pub(super) fn leader(&self) -> Option<u64> {
        let leaders = self.members.iter().filter(|(_, member)| member.is_leader());
        leaders.max_by_key(|(_, member)| member.group.as_ref().map(|group| group.term())).map(|(&id, _)| id)
    }

    pub(super) fn propose(&mut self, id: u64, data: &'static str) -> (Term, LogIndex) {
        let proposed = self.group(id).propose(vec![command(data)]).expect("the leader takes proposals");
        self.member(id).pump();
        proposed
    }

    /// The data of everything `id` applied since its start.
    pub(super) fn applied(&self, id: u64) -> Vec<String> {
        let applied = &self.members[&id].applied;
        applied.iter().map(|entry| String::from_utf8(entry.data.to_vec()).expect("text")).collect()
    }

    pub(super) fn state(&self, id: u64) -> State {
        self.members[&id].state
    }

    pub(super) fn sent(&self, message_type: MessageType) -> usize {
        self.delivered.iter().filter(|message| message.get_msg_type() == message_type).count()
    }

    /// Long enough for any election.
    pub(super) fn tick_elections(&mut self) {
        self.tick(4 * limits::ELECTION_TICKS);
    }
}
