//! Messages of other replicas.

use raft::prelude::{Message, MessageType};

use super::{Group, Invalid, Payload, Role, validate::Receiver};
use crate::limits;

/// Why a message was dropped. Dropping is always safe: whoever sent it tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("malformed or misdirected: {0}")]
    Invalid(#[from] Invalid),
    /// An answer of a replica that is not a member, or no longer.
    #[error("the sender is not a member")]
    NotMember,
    /// Too many entries wait to be applied.
    #[error("too much is waiting to be applied")]
    Full,
    /// The only voter may not campaign before its log is durable.
    #[error("the log is not durable yet")]
    NotDurable,
    /// A replica that lost a payload must not lead.
    #[error("an entry of the log is lost here")]
    Faulty,
}

impl Group {
    /// Takes a message of another replica, from the envelope of a peer. Never panics, whatever it is.
    pub fn step(&mut self, mut message: Message) -> Result<(), Refused> {
        let receiver = Receiver {
            replica: self.replica,
            known: &self.known,
            term: self.term(),
            last: self.last_index(),
            is_leader: self.is_leader(),
        };
        let message_type = receiver.check(&message)?;
        match message_type {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => self.step_vote_request(message),
            MessageType::MsgSnapshot => self.step_snapshot(message),
            MessageType::MsgTimeoutNow if self.waits_as_single_voter() => Err(Refused::NotDurable),
            MessageType::MsgTimeoutNow if self.is_faulty() => Err(Refused::Faulty),
            MessageType::MsgAppend => {
                if self.is_full_for(&message) {
                    return Err(Refused::Full);
                }
                for entry in &mut message.entries {
                    let payload = Payload { context: entry.take_context(), data: entry.take_data() }.detached();
                    entry.context = payload.context;
                    entry.data = payload.data;
                }
                self.step_checked(message)
            }
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgAppendResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgTransferLeader
            | MessageType::MsgTimeoutNow
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp
            | MessageType::MsgRequestPreVoteResponse => self.step_checked(message),
        }
    }

    pub(super) fn step_checked(&mut self, message: Message) -> Result<(), Refused> {
        match self.raft(|node| node.step(message)) {
            Ok(()) => Ok(()),
            Err(raft::Error::StepPeerNotFound) => Err(Refused::NotMember),
            Err(error) => panic!("raft-rs refuses nothing else that was checked: {error}"),
        }
    }

    /// raft-rs ignores vote requests for an election timeout after it heard of a leader. Where the caller knows that
    /// the leader's node is down, that time counts as over, for this message only: were it left so, this replica
    /// would campaign against the one it just voted for.
    fn step_vote_request(&mut self, message: Message) -> Result<(), Refused> {
        if !self.lease_ignored || self.role() == Role::Leader {
            return self.step_checked(message);
        }
        let elapsed = self.node.raft.election_elapsed;
        let expired = elapsed.max(limits::ELECTION_TICKS);
        self.node.raft.election_elapsed = expired;
        let result = self.step_checked(message);
        // A granted vote or a new term has reset it.
        if self.node.raft.election_elapsed == expired {
            self.node.raft.election_elapsed = elapsed;
        }
        result
    }

    /// Whether an append would only make a log longer that is too far ahead of what is applied. An append that may
    /// truncate or be rejected always passes: the leader must learn where the logs part.
    fn is_full_for(&self, message: &Message) -> bool {
        self.would_only_lengthen(message) && self.unapplied_bytes() >= limits::GROUP_UNAPPLIED_BYTES_MAX
    }

    /// Whether a message appends behind the end of this log and does nothing else. Such a message may be dropped: the
    /// leader sends it again.
    pub fn would_only_lengthen(&self, message: &Message) -> bool {
        let last = self.last_index().0;
        message.msg_type == MessageType::MsgAppend as i32
            && !message.entries.is_empty()
            && message.term == self.term().0
            && message.index == last
            && self.node.raft.raft_log.match_term(message.index, message.log_term)
    }
}
