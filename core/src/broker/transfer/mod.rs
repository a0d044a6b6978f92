//! State transfer on this node: which replicas fetch what they missed, and which are fetched from.
//!
//! Connects the machines of [`crate::replication::transfer`] with groups, logs, peers and the WAL. Invariant: a group
//! that is about to be replaced stands still from the moment the record of the switch is appended until it is durable;
//! nothing of the new state is shown, and nothing of it acknowledged, before that.

mod receive;
mod send;
mod switch;

use std::collections::BTreeMap;

use self::switch::Switching;
pub(super) use self::{send::PendingAnswer, switch::State};
use super::Broker;
use crate::{
    ids::{GroupId, LogIndex, NodeId},
    limits::TRANSFERS_MAX,
    replication::{
        peer::ControlKind,
        transfer::{message::Answer, receiver::Receiver, sender::Sender},
    },
    time::{Monotonic, Now, earliest},
};

pub(super) const QUESTION: ControlKind = ControlKind(32);
pub(super) const ANSWER: ControlKind = ControlKind(33);

#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// To this node, at most [`TRANSFERS_MAX`].
    receivers: BTreeMap<GroupId, Receiver>,
    /// Announced, and waiting for their turn; where the announced states stand.
    waiting: BTreeMap<GroupId, LogIndex>,
    /// Groups whose new state is on its way into the WAL.
    switching: BTreeMap<GroupId, Switching>,
    /// From this node.
    senders: BTreeMap<GroupId, Sender>,
    /// Answers to be sent.
    answers: Vec<(NodeId, Answer)>,
    /// Reads from the disk for answers.
    reads: usize,
    last_question: u64,
    /// Switches since the start.
    pub(super) received: u64,
    last_snapshot: u64,
}

impl Transfers {
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.receivers.values().map(Receiver::next_deadline).fold(None, earliest)
    }

    /// Entries of the group behind this index are wanted by a replica that is about to switch to a state of this one.
    pub(super) fn pinned(&self, group: GroupId) -> Option<LogIndex> {
        self.senders.get(&group)?.pinned()
    }

    /// Replicas of this node that fetch what they missed.
    pub(super) fn receiving(&self) -> usize {
        self.receivers.len() + self.switching.len()
    }

    /// The group is gone from this node.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.receivers.remove(&group);
        self.waiting.remove(&group);
        self.switching.remove(&group);
        self.senders.remove(&group);
    }

    /// This node does not lead the group any more: a later leadership announces anew.
    pub(super) fn stop_sending(&mut self, group: GroupId) {
        self.senders.remove(&group);
    }

    fn has_room(&self) -> bool {
        self.receivers.len() < TRANSFERS_MAX
    }
}

impl Broker {
    /// Called in every turn: questions and answers go out, complete transfers are switched to.
    pub(super) fn advance_transfers(&mut self, now: Now) {
        self.advance_receivers(now);
        self.send_answers(now);
    }
}

#[cfg(test)]
impl Broker {
    /// Replicas of this node that fetch what they missed.
    pub(crate) fn receiving(&self) -> usize {
        self.transfers.receiving()
    }

    /// Forgets all of the group's log that is applied, as if a checkpoint had been taken and nobody needed it.
    pub(crate) fn compact_group(&mut self, id: GroupId) {
        let replica = self.replicas.get_mut(&id).expect("the group is on this node");
        let applied = replica.group.applied();
        replica.group.compact(applied);
    }
}
