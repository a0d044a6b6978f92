//! Proposals and leadership transfer: what only a leader does.

use bytes::Bytes;
use raft::prelude::{Entry, Message, MessageType};

use super::{Group, ReadError, ReadToken};
use crate::{
    ids::{LogIndex, ReplicaId, Term},
    limits,
};

/// Why a proposal is not taken. Nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("this replica does not lead its group")]
    NotLeader { leader: Option<ReplicaId> },
    /// Soon another replica leads, or this one again.
    #[error("leadership is being handed over")]
    Transferring,
    /// Try again when something was applied.
    #[error("too much is proposed that is not applied")]
    Busy,
    #[error("a command of {0} bytes is too large")]
    TooLarge(usize),
}

/// Why leadership is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this replica does not lead its group")]
    NotLeader { leader: Option<ReplicaId> },
    #[error("replica {0} is not a voter other than the leader")]
    NotAnotherVoter(ReplicaId),
}

impl Group {
    /// Appends commands, each a context and a payload, as one step. Returns their term and the index of the first; they
    /// are committed there or, in another term, not at all.
    pub fn propose(&mut self, commands: Vec<(Bytes, Bytes)>) -> Result<(Term, LogIndex), ProposeError> {
        assert!(!commands.is_empty(), "a proposal holds at least one command");
        self.check_proposal(commands.iter().map(|(context, data)| context.len() + data.len()))?;
        let entries = commands.into_iter().map(|(context, data)| Entry { context, data, ..Entry::default() }).collect();
        self.append_proposal(entries)
    }

    fn check_proposal(&self, sizes: impl Iterator<Item = usize>) -> Result<(), ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        if self.node.raft.lead_transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        let mut bytes = self.unapplied_bytes();
        let is_idle = bytes == 0;
        for size in sizes {
            if size > limits::RAFT_ENTRY_BYTES_MAX {
                return Err(ProposeError::TooLarge(size));
            }
            bytes += size;
        }
        // Whatever it is, a proposal to an idle group is taken: it may be larger than the budget.
        if !is_idle && bytes > limits::GROUP_PROPOSED_BYTES_MAX {
            return Err(ProposeError::Busy);
        }
        Ok(())
    }

    /// One step for all entries: raft-rs then neither copies nor sends them one by one.
    pub(super) fn append_proposal(&mut self, entries: Vec<Entry>) -> Result<(Term, LogIndex), ProposeError> {
        if !self.is_leader() {
            // raft-rs would forward it, unasked.
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        let first = self.last_index().next();
        let mut message = Message { from: self.replica.0, entries, ..Message::default() };
        message.set_msg_type(MessageType::MsgPropose);
        match self.raft(|node| node.step(message)) {
            Ok(()) => Ok((self.term(), first)),
            Err(raft::Error::ProposalDropped) => Err(ProposeError::Transferring),
            Err(error) => panic!("raft-rs refuses a leader's proposal for nothing else: {error}"),
        }
    }

    /// Asks for a linearizable read; `token` comes back in [`super::GroupOutput::reads_ready`] once the applied state
    /// may be read, or in [`super::GroupOutput::reads_failed`].
    pub fn read_index(&mut self, token: ReadToken) -> Result<(), ReadError> {
        if !self.is_leader() {
            return Err(ReadError::NotLeader { leader: self.leader() });
        }
        self.reads.join(token)
    }

    /// Starts a round of heartbeats for the reads that wait. A leader that has not committed in its term does not know
    /// yet what is committed; its reads wait.
    pub(super) fn start_read_round(&mut self) {
        if !self.is_leader() || !self.commit_is_current_term() {
            return;
        }
        if let Some(round) = self.reads.start_round() {
            self.raft(|node| node.read_index(round.to_le_bytes().to_vec()));
        }
    }

    /// Hands leadership to another voter. Until it took over, or for an election timeout, nothing can be proposed.
    pub fn transfer_leader(&mut self, to: ReplicaId) -> Result<(), TransferError> {
        if !self.is_leader() {
            return Err(TransferError::NotLeader { leader: self.leader() });
        }
        if to == self.replica || !self.membership.is_voter(to) {
            return Err(TransferError::NotAnotherVoter(to));
        }
        self.raft(|node| node.transfer_leader(to.0));
        Ok(())
    }
}
