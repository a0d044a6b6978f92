//! Fetching what a replica of this node missed.

use bytes::Bytes;
use slog::{error, info, warn};

use super::{QUESTION, Transfers};
use crate::{
    broker::{Broker, Replica},
    ids::{GroupId, LogIndex, NodeId, ReplicaId},
    limits::SEGMENT_WRITE_BYTES_MAX,
    log::segment::AheadError,
    replication::{
        group::SnapshotOffer,
        transfer::{
            message::{Announcement, Answer, LogEnd, Question},
            receiver::{Local, Receiver, Standing, Taken},
        },
    },
    time::{Monotonic, Now},
};

/// Without a leader, each member is asked for so long: it may be behind itself.
const SOURCE_TURN: std::time::Duration = std::time::Duration::from_secs(10);

impl Broker {
    /// A leader announced a state, because its log no longer reaches back to the end of ours.
    pub(in crate::broker) fn transfer_announced(&mut self, now: Now, id: GroupId, offer: &SnapshotOffer) {
        let target = offer.position.index;
        let announcement = match Announcement::decode(&offer.data) {
            Ok(announcement) => announcement,
            Err(error) => {
                warn!(self.logger, "an announced state cannot be read"; "group" => id.0, "reason" => %error);
                return;
            }
        };
        if self.transfers.switching.contains_key(&id) {
            return;
        }
        if let Some(receiver) = self.transfers.receivers.get_mut(&id) {
            receiver.announced(target);
            return;
        }
        info!(self.logger, "a replica is behind the log of its leader and fetches the state"; "group" => id.0,
            "leader" => offer.from.0, "index" => target.0, "next_offset" => announcement.end.next_offset.0);
        self.transfers.waiting.insert(id, target);
        self.start_waiting(now);
    }

    /// An entry is lost here, and members that have its state no longer have it in their logs.
    pub(in crate::broker) fn transfer_wanted(&mut self, now: Now, id: GroupId, index: LogIndex) {
        if self.transfers.switching.contains_key(&id) || self.transfers.receivers.contains_key(&id) {
            return;
        }
        info!(self.logger, "a lost entry is in no log any more: the state is fetched"; "group" => id.0,
            "index" => index.0);
        self.transfers.waiting.insert(id, index);
        self.start_waiting(now);
    }

    fn start_waiting(&mut self, now: Now) {
        while self.transfers.has_room()
            && let Some((id, target)) = self.transfers.waiting.pop_first()
        {
            // Raft may have brought it meanwhile.
            if let Some(replica) = self.replicas.get(&id)
                && reached(replica) < target
            {
                let receiver = Receiver::new(now.monotonic, id, replica.group.replica(), target);
                self.transfers.receivers.insert(id, receiver);
            }
        }
    }

    pub(super) fn advance_receivers(&mut self, now: Now) {
        let ids: Vec<GroupId> = self.transfers.receivers.keys().copied().collect();
        for id in ids {
            let Some(replica) = self.replicas.get(&id) else {
                self.transfers.receivers.remove(&id);
                continue;
            };
            let local = local(replica, self.source(now.monotonic, replica), self.tails_full);
            if self.transfers.switching.contains_key(&id) {
                continue;
            }
            let receiver = self.transfers.receivers.get_mut(&id).expect("its key was just listed");
            match receiver.standing(now.monotonic, &local) {
                Standing::UnderWay => {}
                Standing::Complete => self.try_switch(now, id),
                Standing::Reported => {
                    self.transfers.receivers.remove(&id);
                    continue;
                }
                standing @ (Standing::Needless | Standing::Stuck) => {
                    info!(self.logger, "a state transfer ends without a switch"; "group" => id.0, "why" => ?standing,
                        "at" => receiver.describe(), "log" => ?local.log, "room" => local.room,
                        "from" => ?local.source);
                    let receiver = self.transfers.receivers.remove(&id).expect("looked at above");
                    if let Some(source) = local.source {
                        let question = receiver.give_up(source, &mut self.transfers.last_question);
                        // If it gets lost, the leader takes the silence for the same.
                        self.send_question(now, &question);
                    }
                    continue;
                }
            }
            let Transfers { receivers, last_question, .. } = &mut self.transfers;
            let receiver = receivers.get_mut(&id).expect("it is removed above only");
            if let Some(question) = receiver.poll(now.monotonic, &local, last_question)
                && !self.send_question(now, &question)
                && let Some(receiver) = self.transfers.receivers.get_mut(&id)
            {
                receiver.not_sent(now.monotonic);
            }
        }
        self.start_waiting(now);
    }

    /// Who is asked: the leader. Without one, a replica that lost an entry asks the other members in turn, because it may
    /// be the one that has to lead: it does not without that entry, and the others not without what it has behind it.
    fn source(&self, now: Monotonic, replica: &Replica) -> Option<ReplicaId> {
        let own = replica.group.replica();
        if let Some(leader) = replica.group.leader() {
            return Some(leader).filter(|leader| *leader != own);
        }
        replica.group.first_faulty()?;
        let is_up = |member: &ReplicaId| replica.node_of(*member).is_some_and(|node| self.peers.is_up(node));
        let members = replica.group.membership().members();
        let others: Vec<ReplicaId> = members.into_iter().filter(|member| *member != own).filter(is_up).collect();
        let turn = usize::try_from(now.0 / SOURCE_TURN.as_nanos() as u64).expect("a count of seconds");
        others.get(turn.checked_rem(others.len())?).copied()
    }

    fn send_question(&mut self, now: Now, question: &Question) -> bool {
        let node = self.replicas.get(&question.group).and_then(|replica| replica.node_of(question.to));
        node.is_some_and(|node| self.peers.send_control(now, node, QUESTION, question.encode()).is_ok())
    }

    pub(in crate::broker) fn heard_transfer_answer(&mut self, now: Now, from: NodeId, bytes: &Bytes) {
        let answer = match Answer::decode(bytes) {
            Ok(answer) => answer,
            Err(error) => {
                warn!(self.logger, "an answer of a state transfer cannot be read"; "from" => from.0, "reason" => %error);
                return;
            }
        };
        let id = answer.group;
        let (Some(replica), Some(receiver)) = (self.replicas.get_mut(&id), self.transfers.receivers.get_mut(&id))
        else {
            return;
        };
        if replica.node_of(answer.from) != Some(from) || answer.to != replica.group.replica() {
            return;
        }
        let local = local(replica, None, self.tails_full);
        let Some(Taken::Append { from: _, batches }) = receiver.answer(now.monotonic, &local, answer) else { return };
        let partition = replica.partition_mut().expect("a group without segments asks for no batches");
        match partition.log.append_ahead(now.monotonic, &batches) {
            Ok(_) => {
                self.live_logs.appended(id, now.monotonic);
            }
            Err(AheadError::Damaged(damage)) => {
                error!(self.logger, "a partition's files differ from what its leader has"; "group" => id.0,
                    "reason" => %damage);
                self.exit.get_or_insert(damage.into());
            }
            Err(error) => {
                warn!(self.logger, "transferred batches are refused"; "group" => id.0, "from" => from.0,
                    "reason" => %error);
                receiver.reject(now.monotonic);
            }
        }
    }
}

/// Up to here the log brings what is committed by itself.
fn reached(replica: &Replica) -> LogIndex {
    let commit = replica.group.commit_index();
    replica.group.first_faulty().map_or(commit, |first| commit.min(LogIndex(first.0 - 1)))
}

fn local(replica: &Replica, source: Option<ReplicaId>, tails_full: bool) -> Local {
    let log = replica.partition().map(|partition| &partition.log);
    Local {
        source,
        commit: reached(replica),
        log: log.map(|log| LogEnd { next_offset: log.next_offset(), bytes: log.bytes() }),
        room: !tails_full && log.is_none_or(|log| log.unwritten_bytes() < SEGMENT_WRITE_BYTES_MAX as u64),
    }
}
