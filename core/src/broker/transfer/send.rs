//! Answering replicas that fetch what they missed.

use bytes::Bytes;
use slog::{debug, error, info, warn};

use super::ANSWER;
use crate::{
    broker::{Broker, Machine},
    command::StateMachine,
    ids::{GroupId, NodeId, Offset, ReplicaId},
    limits::{TRANSFER_ANSWER_BYTES_MAX, TRANSFER_IMAGE_BYTES_MAX, TRANSFER_IMAGES_BYTES_MAX, TRANSFER_READS_MAX},
    log::segment::{Read, ReadError, ReadResult},
    replication::{
        group::{SnapshotOutcome, SnapshotPosition},
        transfer::{
            message::{Announcement, Answer, Ask, LogEnd, Question, Refusal, Reply, SnapshotHead, SnapshotNumber},
            sender::Ended,
        },
    },
    time::{Monotonic, Now},
};

/// An answer that waits for the disk.
#[derive(Debug)]
pub(in crate::broker) struct PendingAnswer {
    node: NodeId,
    question: Question,
    from: Offset,
    end: LogEnd,
}

impl Broker {
    /// A member needs a state instead of entries: that starts the transfer, and nothing else.
    pub(in crate::broker) fn announce_state(&mut self, id: GroupId, to: ReplicaId) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let (log_start, end) = match &replica.machine {
            Machine::Metadata(_) => (Offset(0), LogEnd::default()),
            Machine::Partition(partition) => (partition.state.log_start(), end_of(&partition.log, &partition.state)),
        };
        let data = Announcement { log_start, end }.encode();
        if let Err(error) = replica.group.provide_snapshot(to, data) {
            // The role changed since, or the members did: Raft asks again if it has to.
            debug!(self.logger, "no state is announced"; "group" => id.0, "to" => to.0, "reason" => %error);
        }
    }

    /// Raft's message that starts a transfer leaves.
    pub(in crate::broker) fn state_announced(&mut self, now: Monotonic, id: GroupId, to: ReplicaId) {
        self.transfers.senders.entry(id).or_default().announced(now, to);
    }

    /// Raft is told of transfers whose receivers fell silent.
    pub(in crate::broker) fn expire_transfers(&mut self, now: Monotonic) {
        let mut failed = Vec::new();
        self.transfers.senders.retain(|id, sender| {
            failed.extend(sender.expire(now).into_iter().map(|replica| (*id, replica)));
            !sender.is_empty()
        });
        for (id, replica) in failed {
            info!(self.logger, "nothing is heard of a state transfer"; "group" => id.0, "to" => replica.0);
            self.report_ended(id, replica, Ended::Failed);
        }
    }

    fn report_ended(&mut self, id: GroupId, to: ReplicaId, ended: Ended) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        match ended {
            Ended::Installed(position) => replica.group.installed(to, position),
            Ended::Failed => replica.group.report_snapshot(to, SnapshotOutcome::Failed),
        }
        self.mark(id);
    }

    pub(in crate::broker) fn heard_transfer_question(&mut self, now: Now, from: NodeId, bytes: &Bytes) {
        let question = match Question::decode(bytes) {
            Ok(question) => question,
            Err(error) => {
                warn!(self.logger, "a question of a state transfer cannot be read"; "from" => from.0,
                    "reason" => %error);
                return;
            }
        };
        let Some(replica) = self.replicas.get(&question.group) else { return };
        if replica.node_of(question.from) != Some(from) || question.to != replica.group.replica() {
            return;
        }
        // Without a leader somebody may have lost an entry, and lead only with the state that has it: any state is one
        // that was committed.
        let others_lead = !replica.group.is_leader() && replica.group.leader().is_some();
        let reply = if others_lead {
            Some(Reply::Refused(Refusal::NotLeader))
        } else if replica.suspended {
            Some(Reply::Refused(Refusal::Busy))
        } else if !replica.group.membership().contains(question.from) {
            Some(Reply::Refused(Refusal::NotMember))
        } else {
            self.reply(now.monotonic, from, &question)
        };
        if let Some(reply) = reply {
            self.answer_question(from, &question, reply);
        }
    }

    fn answer_question(&mut self, node: NodeId, question: &Question, reply: Reply) {
        let Question { group, from, to, number, .. } = *question;
        self.transfers.answers.push((node, Answer { group, from: to, to: from, number, reply }));
    }

    /// The answer, unless it waits for the disk.
    fn reply(&mut self, now: Monotonic, node: NodeId, question: &Question) -> Option<Reply> {
        let (id, asking) = (question.group, question.from);
        let sender = self.transfers.senders.entry(id).or_default();
        match question.ask {
            Ask::Batches { from, upper, bytes_max } => {
                sender.asked(now, asking);
                self.batches_for(node, question, from, upper, bytes_max)
            }
            Ask::Snapshot => {
                sender.asked(now, asking);
                Some(self.snapshot_for(now, id, asking))
            }
            Ask::Image { snapshot, offset, bytes_max } => {
                sender.asked(now, asking);
                let bytes_max = TRANSFER_ANSWER_BYTES_MAX.min(bytes_max as usize);
                Some(match sender.image(asking, snapshot, offset, bytes_max) {
                    Some(bytes) => Reply::Image { snapshot, offset, bytes },
                    None => Reply::Refused(Refusal::Gone),
                })
            }
            Ask::Installed { position } => {
                info!(self.logger, "a replica caught up by state transfer"; "group" => id.0, "replica" => asking.0,
                    "index" => position.index.0);
                Some(self.transfer_ended(id, asking, Ended::Installed(position)))
            }
            Ask::GaveUp => Some(self.transfer_ended(id, asking, Ended::Failed)),
        }
    }

    fn transfer_ended(&mut self, id: GroupId, replica: ReplicaId, ended: Ended) -> Reply {
        let sender = self.transfers.senders.get_mut(&id).expect("whoever asks is remembered");
        let ended = sender.ended(replica, ended);
        if sender.is_empty() {
            self.transfers.senders.remove(&id);
        }
        if let Some(ended) = ended {
            self.report_ended(id, replica, ended);
        }
        Reply::Noted
    }

    fn batches_for(
        &mut self,
        node: NodeId,
        question: &Question,
        from: Offset,
        upper: Offset,
        bytes_max: u32,
    ) -> Option<Reply> {
        let busy = self.transfers.reads >= TRANSFER_READS_MAX;
        let replica = self.replicas.get_mut(&question.group).expect("the caller looked it up");
        let Some(partition) = replica.partition_mut() else { return Some(Reply::Refused(Refusal::NoBatches)) };
        let end = end_of(&partition.log, &partition.state);
        let upper = upper.min(end.next_offset);
        if from >= upper {
            return Some(Reply::Batches { from, end, batches: Vec::new() });
        }
        let max_bytes = TRANSFER_ANSWER_BYTES_MAX.min(bytes_max as usize);
        match partition.log.read(Read { from, upper, max_bytes, at_least_one: true }) {
            ReadResult::Ready(batches) => Some(Reply::Batches { from, end, batches: batches.slices }),
            ReadResult::NeedsDisk(plan) if busy => {
                partition.log.cancel_read(plan);
                Some(Reply::Refused(Refusal::Busy))
            }
            ReadResult::NeedsDisk(plan) => {
                self.transfers.reads += 1;
                let pending = PendingAnswer { node, question: question.clone(), from, end };
                self.start_transfer_read(question.group, plan, Box::new(pending));
                None
            }
            ReadResult::Empty => Some(Reply::Batches { from, end, batches: Vec::new() }),
            ReadResult::OutOfRange => Some(Reply::Refused(Refusal::NoBatches)),
            ReadResult::Damaged => Some(Reply::Refused(Refusal::Unreadable)),
        }
    }

    /// A read for a transfer is over, with batches or without any.
    pub(in crate::broker) fn transfer_read_ended(
        &mut self,
        pending: &PendingAnswer,
        result: Result<Vec<Bytes>, Option<ReadError>>,
    ) {
        self.transfers.reads -= 1;
        let PendingAnswer { node, question, from, end } = pending;
        let reply = match result {
            Ok(batches) => Reply::Batches { from: *from, end: *end, batches },
            Err(error) => {
                if let Some(error) = error {
                    warn!(self.logger, "a read for a state transfer failed"; "group" => question.group.0,
                        "reason" => %error);
                }
                Reply::Refused(Refusal::Unreadable)
            }
        };
        self.answer_question(*node, question, reply);
    }

    /// The state as it is now, for a replica that is close to it.
    fn snapshot_for(&mut self, now: Monotonic, id: GroupId, asking: ReplicaId) -> Reply {
        let kept: usize = self.transfers.senders.values().map(|sender| sender.image_bytes()).sum();
        let replica = self.replicas.get(&id).expect("the caller looked it up");
        let mut image = Vec::new();
        let (log_start, end) = match &replica.machine {
            Machine::Metadata(state) => {
                state.encode_image(&mut image);
                (Offset(0), LogEnd::default())
            }
            Machine::Partition(partition) => {
                partition.state.encode_image(&mut image);
                (partition.state.log_start(), end_of(&partition.log, &partition.state))
            }
        };
        if image.len() > TRANSFER_IMAGE_BYTES_MAX {
            error!(self.logger, "a state is too large to be transferred"; "group" => id.0, "bytes" => image.len());
            return Reply::Refused(Refusal::TooLarge);
        }
        if kept + image.len() > TRANSFER_IMAGES_BYTES_MAX {
            return Reply::Refused(Refusal::Busy);
        }
        let index = replica.group.applied();
        self.transfers.last_snapshot += 1;
        let head = SnapshotHead {
            snapshot: SnapshotNumber(self.transfers.last_snapshot),
            position: SnapshotPosition { index, term: replica.group.log().log_term(index) },
            membership: replica.group.membership().clone(),
            removed: replica.group.removed().clone(),
            log_start,
            end,
            image_bytes: image.len() as u64,
            image_crc: crc32c::crc32c(&image),
        };
        let sender = self.transfers.senders.get_mut(&id).expect("whoever asks is remembered");
        sender.keep(now, asking, &head, Bytes::from(image));
        Reply::Snapshot(Box::new(head))
    }

    pub(super) fn send_answers(&mut self, now: Now) {
        for (node, answer) in std::mem::take(&mut self.transfers.answers) {
            let refused = Answer { reply: Reply::Refused(Refusal::Busy), ..answer };
            let parts = Answer { reply: answer.reply, ..refused.clone() }.encode();
            if self.peers.send_control_parts(now, node, ANSWER, parts).is_err() {
                // What is small may get through; if not, it is asked again after a while.
                let _ = self.peers.send_control_parts(now, node, ANSWER, refused.encode());
            }
        }
    }
}

/// The end of what is applied.
fn end_of(log: &crate::log::segment::PartitionLog, state: &crate::partition::PartitionState) -> LogEnd {
    LogEnd { next_offset: state.next_offset(), bytes: log.applied_bytes() }
}
