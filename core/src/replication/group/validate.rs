//! Which messages of a peer may be stepped.
//!
//! raft-rs trusts its input: it panics on unknown enum numbers, on entries that are not contiguous, on a commit index
//! behind its log, and obeys replicas that were never members. Everything it assumes about a message is checked here,
//! before it sees the message. Dropping a message is always safe in Raft.

use std::collections::BTreeSet;

use raft::prelude::{Entry, EntryType, Message, MessageType};

use super::{Membership, ready::membership_change};
use crate::{
    ids::{LogIndex, ReplicaId, Term},
    limits,
};

/// Terms become leader epochs of 32 bits.
const TERM_MAX: u64 = i32::MAX as u64;
/// Far above any index, far below an overflow.
const INDEX_MAX: u64 = 1 << 60;
/// Contexts of messages (not of entries) are a round of reads or the mark of a leadership transfer.
const CONTEXT_BYTES_MAX: usize = 64;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("message type {0} is unknown, or never travels between replicas")]
    Type(i32),
    #[error("the message is for replica {0}")]
    Receiver(ReplicaId),
    #[error("replica {0} is not known in this group")]
    Stranger(ReplicaId),
    #[error("term {0} is out of range")]
    Term(u64),
    #[error("index {0} is out of range")]
    Index(u64),
    #[error("the message holds something that its type does not have")]
    Excess,
    #[error("an entry has the unknown type {0}")]
    EntryType(i32),
    #[error("an entry with index {found} stands where {expected} belongs")]
    EntryIndex { found: u64, expected: u64 },
    #[error("an entry of term {found} cannot follow one of term {before} in a message of term {message}")]
    EntryTerm { found: u64, before: u64, message: u64 },
    #[error("an entry of {0} bytes is too large")]
    EntrySize(usize),
    #[error("an entry is no membership change although its type says so")]
    EntryChange,
    #[error("everything up to {commit} is committed, but this log, which was acknowledged, ends at {last}")]
    CommitBehindLog { commit: LogIndex, last: LogIndex },
    #[error("entries up to {index} are acknowledged that were never sent")]
    Acknowledgement { index: LogIndex },
    #[error("a snapshot needs a place that agrees with the log and a membership that names its receiver")]
    Snapshot,
}

/// What a message is checked against.
pub(super) struct Receiver<'a> {
    pub(super) replica: ReplicaId,
    pub(super) known: &'a BTreeSet<ReplicaId>,
    pub(super) term: Term,
    pub(super) last: LogIndex,
    pub(super) is_leader: bool,
}

impl Receiver<'_> {
    /// The type of a message that raft-rs can take.
    pub(super) fn check(&self, message: &Message) -> Result<MessageType, Invalid> {
        let message_type = MessageType::try_from(message.msg_type).map_err(|_| Invalid::Type(message.msg_type))?;
        if !travels(message_type) {
            return Err(Invalid::Type(message.msg_type));
        }
        self.check_sender(message)?;
        check_numbers(message)?;
        check_parts(message, message_type)?;
        let is_current = message.term >= self.term.0;
        match message_type {
            MessageType::MsgAppend => check_entries(message)?,
            MessageType::MsgHeartbeat => {
                // A leader names at most what this replica acknowledged.
                if is_current && message.commit > self.last.0 {
                    let commit = LogIndex(message.commit);
                    return Err(Invalid::CommitBehindLog { commit, last: self.last });
                }
            }
            MessageType::MsgAppendResponse => {
                if self.is_leader && message.term == self.term.0 && !message.reject && message.index > self.last.0 {
                    return Err(Invalid::Acknowledgement { index: LogIndex(message.index) });
                }
            }
            MessageType::MsgSnapshot => self.check_snapshot(message)?,
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgTransferLeader
            | MessageType::MsgTimeoutNow
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse => {}
        }
        Ok(message_type)
    }

    fn check_sender(&self, message: &Message) -> Result<(), Invalid> {
        let sender = ReplicaId(message.from);
        if message.to != self.replica.0 {
            return Err(Invalid::Receiver(ReplicaId(message.to)));
        }
        if sender == self.replica || !self.known.contains(&sender) {
            return Err(Invalid::Stranger(sender));
        }
        Ok(())
    }

    fn check_snapshot(&self, message: &Message) -> Result<(), Invalid> {
        let metadata = message.get_snapshot().get_metadata();
        let membership = Membership::from_conf_state(metadata.get_conf_state()).ok_or(Invalid::Snapshot)?;
        let has_place = (1..=INDEX_MAX).contains(&metadata.index) && (1..=message.term).contains(&metadata.term);
        if has_place && membership.contains(self.replica) { Ok(()) } else { Err(Invalid::Snapshot) }
    }
}

/// Proposals, reads and transfers are asked of the leader's node by other means; the rest are steps of a replica with
/// itself.
fn travels(message_type: MessageType) -> bool {
    match message_type {
        MessageType::MsgAppend
        | MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgSnapshot
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => true,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => false,
    }
}

fn check_numbers(message: &Message) -> Result<(), Invalid> {
    // Term 0 would make it a step of a replica with itself.
    if message.term == 0 || message.term > TERM_MAX {
        return Err(Invalid::Term(message.term));
    }
    for term in [message.log_term, message.commit_term] {
        if term > TERM_MAX {
            return Err(Invalid::Term(term));
        }
    }
    for index in [message.index, message.commit, message.reject_hint] {
        if index > INDEX_MAX {
            return Err(Invalid::Index(index));
        }
    }
    Ok(())
}

fn check_parts(message: &Message, message_type: MessageType) -> Result<(), Invalid> {
    let excess = (!message.entries.is_empty() && message_type != MessageType::MsgAppend)
        || (message.snapshot.is_some() && message_type != MessageType::MsgSnapshot)
        || message.context.len() > CONTEXT_BYTES_MAX
        // Features of raft-rs that are not used: a replica that asks for a snapshot, and priorities of candidates.
        || message.request_snapshot != 0
        || message.priority != 0
        || message.deprecated_priority != 0;
    if excess { Err(Invalid::Excess) } else { Ok(()) }
}

fn check_entries(message: &Message) -> Result<(), Invalid> {
    // raft-rs takes term 0 for that of every index outside its log: such an append would match anywhere.
    if message.log_term == 0 {
        return Err(Invalid::Term(0));
    }
    let mut before = message.log_term;
    for (entry, expected) in message.entries.iter().zip(message.index + 1..) {
        check_entry(entry)?;
        if entry.index != expected {
            return Err(Invalid::EntryIndex { found: entry.index, expected });
        }
        if entry.term == 0 || entry.term < before || entry.term > message.term {
            return Err(Invalid::EntryTerm { found: entry.term, before, message: message.term });
        }
        before = entry.term;
    }
    Ok(())
}

fn check_entry(entry: &Entry) -> Result<(), Invalid> {
    let entry_type = EntryType::try_from(entry.entry_type).map_err(|_| Invalid::EntryType(entry.entry_type))?;
    let bytes = entry.data.len() + entry.context.len();
    if bytes > limits::RAFT_ENTRY_BYTES_MAX {
        return Err(Invalid::EntrySize(bytes));
    }
    match entry_type {
        EntryType::EntryNormal => Ok(()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            let change = membership_change(entry_type, &entry.data).ok_or(Invalid::EntryChange)?;
            let is_known = raft::prelude::ConfChangeTransition::try_from(change.transition).is_ok()
                && change
                    .changes
                    .iter()
                    .all(|step| raft::prelude::ConfChangeType::try_from(step.change_type).is_ok() && step.node_id != 0);
            if is_known { Ok(()) } else { Err(Invalid::EntryChange) }
        }
    }
}
