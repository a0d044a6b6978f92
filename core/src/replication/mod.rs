//! Replication: Raft groups, and what lies between two nodes below them. The only module that names the raft crate;
//! knows bytes, not Kafka.

pub mod group;
pub mod peer;
pub mod repair;
pub mod segment_repair;
pub mod transfer;

/// A message between two replicas, to be carried and not to be looked into.
pub type RaftMessage = raft::prelude::Message;

/// Whether a message announces a state that its receiver has to fetch.
pub fn announces_state(message: &RaftMessage) -> bool {
    message.msg_type == raft::prelude::MessageType::MsgSnapshot as i32
}

/// Whether a message asks for a vote and carries nothing else, so that keeping it costs next to nothing.
pub fn asks_for_vote_only(message: &RaftMessage) -> bool {
    use raft::prelude::MessageType;

    let asks_for_vote = message.msg_type == MessageType::MsgRequestPreVote as i32
        || message.msg_type == MessageType::MsgRequestVote as i32;
    asks_for_vote && message.entries.is_empty() && message.snapshot.is_none() && message.context.is_empty()
}
