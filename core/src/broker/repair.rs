//! Repair of lost payloads on this node: asking for its own, and answering others.
//!
//! Connects [`crate::replication::repair`] with groups, peers, reads and the WAL. Invariant: a payload counts as
//! repaired only when its record is durable; until then the group treats it as lost.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use slog::{error, info, warn};

use super::{Broker, reads::Purpose};
use crate::{
    ids::{GroupId, NodeId, ReplicaId},
    limits::{REPAIR_QUESTIONS_MAX, REPAIR_READS_MAX},
    log::{read::EntryRead, record::EntryFile},
    replication::{
        group::{Copy, Damage, Payload},
        peer::ControlKind,
        repair::{
            asking::{Asking, Next},
            message::{Answer, Question, Refusal, Reply},
        },
    },
    time::{Monotonic, Now, earliest},
};

pub(super) const QUESTION: ControlKind = ControlKind(34);
pub(super) const ANSWER: ControlKind = ControlKind(35);

#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// Groups of this node that lost entries.
    asking: BTreeMap<GroupId, Asking>,
    /// Of those, the ones of which it was said that an entry is nowhere.
    lost: BTreeSet<GroupId>,
    last_question: u64,
    /// Answers to be sent.
    answers: Vec<(NodeId, Answer)>,
    /// Reads from the disk for answers.
    reads: usize,
    /// Entries since the start.
    pub(super) repaired: u64,
}

/// Who waits for a read of an entry that another replica lost.
#[derive(Debug)]
pub(super) struct AskedFor {
    node: NodeId,
    question: Question,
}

impl Repairs {
    pub(super) fn next_deadline(&self) -> Option<Monotonic> {
        self.asking.values().map(Asking::next_deadline).fold(None, earliest)
    }

    /// The group is gone from this node.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.asking.remove(&group);
        self.lost.remove(&group);
    }

    /// Groups with entries of which no member holds the payload, as far as is known.
    pub(super) fn lost(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.lost.iter().copied()
    }
}

impl Broker {
    /// Replicas that start with lost entries ask for them.
    pub(super) fn start_repairs(&mut self) {
        let faulty: Vec<GroupId> =
            self.replicas.iter().filter(|(_, replica)| replica.group.is_faulty()).map(|(id, _)| *id).collect();
        for id in faulty {
            let group = &self.replicas[&id].group;
            warn!(self.logger, "payloads of the write-ahead log are damaged and will be fetched from other replicas";
                "group" => id.0, "entries" => group.faulty().count(),
                "first" => group.first_faulty().map(|index| index.0));
            self.repairs.asking.insert(id, Asking::default());
        }
    }

    /// Called in every turn.
    pub(super) fn advance_repairs(&mut self, now: Now) {
        let ids: Vec<GroupId> = self.repairs.asking.keys().copied().collect();
        for id in ids {
            self.advance_repair(now, id);
        }
        for (node, answer) in std::mem::take(&mut self.repairs.answers) {
            let refused = Answer { reply: Reply::Refused(Refusal::Busy), ..answer };
            let parts = Answer { reply: answer.reply, ..refused.clone() }.encode();
            if self.peers.send_control_parts(now, node, ANSWER, parts).is_err() {
                // What is small may get through; if not, another member is asked after a while.
                let _ = self.peers.send_control_parts(now, node, ANSWER, refused.encode());
            }
        }
    }

    fn advance_repair(&mut self, now: Now, id: GroupId) {
        // A member that cannot be reached is passed over at once, so a round may end within one turn.
        loop {
            let Some(replica) = self.replicas.get(&id).filter(|replica| replica.group.is_faulty()) else {
                if self.repairs.asking.remove(&id).is_some() {
                    info!(self.logger, "the log of a replica is whole again"; "group" => id.0);
                }
                self.repairs.lost.remove(&id);
                return;
            };
            let busy = self.repairs.asking.values().filter(|asking| asking.is_waiting()).count();
            let asking = self.repairs.asking.get_mut(&id).expect("its key was just listed");
            let Some(entry) = replica.group.faulty().next().filter(|_| !replica.stands_still()) else { return };
            if busy >= REPAIR_QUESTIONS_MAX && !asking.is_waiting() {
                return;
            }
            let own = replica.group.replica();
            let others: BTreeSet<ReplicaId> =
                replica.group.membership().members().into_iter().filter(|member| *member != own).collect();
            let (group, last) = ((id, own), &mut self.repairs.last_question);
            match asking.poll(now.monotonic, group, entry, &others, last) {
                Next::Wait => return,
                Next::Ask(question) => {
                    let node = replica.node_of(question.to);
                    let sent = node
                        .is_some_and(|node| self.peers.send_control(now, node, QUESTION, question.encode()).is_ok());
                    if !sent {
                        self.repairs.asking.get_mut(&id).expect("it was just polled").not_sent();
                    }
                }
                Next::Compacted => {
                    self.repairs.lost.remove(&id);
                    self.transfer_wanted(now, id, entry.index);
                }
                Next::Nowhere => {
                    if self.repairs.lost.insert(id) {
                        error!(self.logger, "an entry is lost: no other replica holds it, so this one stands still before it";
                            "group" => id.0, "index" => entry.index.0, "term" => entry.term.0,
                            "alone" => replica.group.is_lost_alone());
                    }
                }
                Next::Unknown => {}
            }
        }
    }

    pub(super) fn heard_repair_answer(&mut self, from: NodeId, bytes: &Bytes) {
        let answer = match Answer::decode(bytes) {
            Ok(answer) => answer,
            Err(error) => {
                warn!(self.logger, "an answer with a payload cannot be read"; "from" => from.0, "reason" => %error);
                return;
            }
        };
        let id = answer.group;
        let (Some(replica), Some(asking)) = (self.replicas.get_mut(&id), self.repairs.asking.get_mut(&id)) else {
            return;
        };
        let is_for_us = replica.node_of(answer.from) == Some(from) && answer.to == replica.group.replica();
        if !is_for_us || replica.stands_still() {
            return;
        }
        let sender = answer.from;
        let Some((entry, payload)) = asking.answer(answer) else { return };
        match replica.group.repair(entry.index, entry.term, payload) {
            Some(record) => {
                info!(self.logger, "an entry is repaired"; "group" => id.0, "index" => entry.index.0, "from" => sender.0);
                let write = self.wal.append([record]);
                self.checkpoints.changed = true;
                replica.group.wrote_repair(entry.index, write);
                self.writing.entry(write).or_default().insert(id);
                self.repairs.repaired += 1;
            }
            None => {
                warn!(self.logger, "a payload is not that of the entry that is missing"; "group" => id.0,
                    "index" => entry.index.0, "from" => sender.0);
            }
        }
    }

    pub(super) fn heard_repair_question(&mut self, from: NodeId, bytes: &Bytes) {
        let question = match Question::decode(bytes) {
            Ok(question) => question,
            Err(error) => {
                warn!(self.logger, "a question for a payload cannot be read"; "from" => from.0, "reason" => %error);
                return;
            }
        };
        let Some(replica) = self.replicas.get(&question.group) else { return };
        if replica.node_of(question.from) != Some(from) || question.to != replica.group.replica() {
            return;
        }
        let entry = question.entry;
        let reply = match replica.group.copy_of(entry.index, entry.term, entry.crc) {
            _ if replica.suspended => Reply::Refused(Refusal::Busy),
            Copy::Payload(payload) => Reply::Payload(payload),
            Copy::OnDisk(_) if self.repairs.reads >= REPAIR_READS_MAX => Reply::Refused(Refusal::Busy),
            Copy::OnDisk(read) => {
                self.repairs.reads += 1;
                self.read_for_repair(read, AskedFor { node: from, question });
                return;
            }
            Copy::Compacted => Reply::Refused(Refusal::Compacted),
            Copy::Faulty => Reply::Refused(Refusal::Lost),
            Copy::Absent => Reply::Refused(Refusal::Absent),
        };
        self.answer_repair(from, &question, reply);
    }

    fn answer_repair(&mut self, node: NodeId, question: &Question, reply: Reply) {
        let Question { group, from, to, number, .. } = *question;
        self.repairs.answers.push((node, Answer { group, from: to, to: from, number, reply }));
    }

    fn read_for_repair(&mut self, read: EntryRead, asked: AskedFor) {
        let id = self.ids.next_id();
        let action = read.action().expect("an entry without a payload is not on disk only");
        self.reads.start(id, action, Purpose::Repair { read, asked: Box::new(asked) });
    }

    /// A read for another replica is over.
    pub(super) fn repair_read_ended(&mut self, read: &EntryRead, asked: &AskedFor, payload: Option<Payload>) {
        self.repairs.reads -= 1;
        let reply = match payload {
            Some(payload) => Reply::Payload(payload),
            None => {
                self.entry_damaged(read);
                // Perhaps it moved meanwhile.
                Reply::Refused(Refusal::Busy)
            }
        };
        self.answer_repair(asked.node, &asked.question, reply);
    }

    /// What was read for an entry of this node is not what was written there.
    pub(super) fn entry_damaged(&mut self, read: &EntryRead) {
        if let EntryFile::Wal(file) = read.location.file {
            self.wal.avoid(file);
        }
        let Some(replica) = self.replicas.get_mut(&read.group) else { return };
        let damage = replica.group.damaged(read);
        let file = read.location.file.name().path();
        match damage {
            Damage::Needless => return,
            Damage::Compacted => {
                warn!(self.logger, "an applied entry is damaged: the log begins behind it from now on"; "file" => file,
                    "offset" => read.location.offset, "group" => read.group.0, "index" => read.index.0);
                // The next start must not need it.
                self.checkpoint_soon();
            }
            Damage::Faulty => {
                warn!(self.logger, "an entry is damaged and will be fetched from another replica"; "file" => file,
                    "offset" => read.location.offset, "group" => read.group.0, "index" => read.index.0);
                self.repairs.asking.entry(read.group).or_default();
            }
        }
        self.mark(read.group);
    }
}
