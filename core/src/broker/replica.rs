//! One replica on this node: its Raft group, its state machine, and who waits for what was proposed.
//!
//! Invariant: a waiter is answered once: by the response of its own entry (same replica, term and token), or with an
//! error when this replica's term or role changes. Proposals beyond the byte budget wait in a queue whose size is
//! bounded by what clients may have outstanding.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{
    api::Waiter,
    command::{CommandHeader, FEATURE_LEVEL, WaiterToken},
    ids::{GroupId, ImageVersion, NodeId, ReplicaId, Term},
    limits::{GROUP_PROPOSED_BYTES_MAX, PROPOSAL_ENTRIES_MAX},
    log::segment::PartitionLog,
    metadata::{GroupCreation, MetadataState},
    partition::PartitionState,
    replication::{
        group::{Group, ReadToken},
        peer::Campaign,
    },
    time::{Monotonic, Wall},
};

/// See the module head.
pub(super) struct Replica {
    pub(super) group: Group,
    pub(super) creation: GroupCreation,
    pub(super) machine: Machine,
    /// Proposals that wait for budget, or for the group to be ready for them.
    pub(super) queue: VecDeque<Proposal>,
    pub(super) proposed: BTreeMap<WaiterToken, Proposed>,
    next_token: u64,
    pub(super) confirming: BTreeMap<ReadToken, Waiter>,
    /// Runs while no leader is known.
    pub(super) campaign: Option<Campaign>,
    /// The next entries to apply are being read from the WAL.
    pub(super) apply_reads: usize,
    /// A leader's own first entry is applied: it serves.
    pub(super) serving: bool,
    /// The image version of the last Configure that this leadership proposed.
    pub(super) configured: Option<ImageVersion>,
    /// Since when the preferred leader could take over.
    pub(super) preferred_since: Option<Monotonic>,
}

pub(super) enum Machine {
    Metadata(MetadataState),
    Partition(Box<Partition>),
}

pub(super) struct Partition {
    pub(super) state: PartitionState,
    pub(super) log: PartitionLog,
}

/// A command to be proposed.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) kind: u8,
    pub(super) data: Bytes,
    pub(super) owner: Owner,
}

/// A command that is in the log of this term.
#[derive(Debug)]
pub(super) struct Proposed {
    pub(super) term: Term,
    pub(super) owner: Owner,
}

/// Who waits for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    /// One partition of a client's produce request.
    Produce(Waiter),
    /// A call of this node to the metadata group.
    Call(u64),
    /// A call that another node forwarded to us.
    Forwarded {
        node: NodeId,
        call: u64,
    },
}

impl Replica {
    pub(super) fn new(group: Group, creation: GroupCreation, machine: Machine) -> Self {
        Self {
            group,
            creation,
            machine,
            queue: VecDeque::new(),
            proposed: BTreeMap::new(),
            next_token: 0,
            confirming: BTreeMap::new(),
            campaign: None,
            apply_reads: 0,
            serving: false,
            configured: None,
            preferred_since: None,
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.group.group()
    }

    pub(super) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.creation.member(replica).map(|member| member.node)
    }

    /// The node that leads the group, as far as this replica knows.
    pub(super) fn leader_node(&self) -> Option<NodeId> {
        self.node_of(self.group.leader()?)
    }

    pub(super) fn partition(&self) -> Option<&Partition> {
        match &self.machine {
            Machine::Partition(partition) => Some(partition),
            Machine::Metadata(_) => None,
        }
    }

    pub(super) fn partition_mut(&mut self) -> Option<&mut Partition> {
        match &mut self.machine {
            Machine::Partition(partition) => Some(partition),
            Machine::Metadata(_) => None,
        }
    }

    /// Puts what waits into the log, as far as the budget goes: one message to Raft for all of it.
    pub(super) fn propose_queued(&mut self, wall: Wall) {
        while !self.queue.is_empty() && self.group.unapplied_bytes() < GROUP_PROPOSED_BYTES_MAX {
            let mut entries = Vec::new();
            let mut owners = Vec::new();
            let mut bytes = self.group.unapplied_bytes();
            while entries.len() < PROPOSAL_ENTRIES_MAX && bytes < GROUP_PROPOSED_BYTES_MAX {
                let Some(proposal) = self.queue.pop_front() else { break };
                let token = match proposal.owner {
                    Owner::Nobody => WaiterToken::NONE,
                    Owner::Produce(_) | Owner::Call(_) | Owner::Forwarded { .. } => {
                        self.next_token += 1;
                        WaiterToken(self.next_token)
                    }
                };
                let header = CommandHeader {
                    kind: proposal.kind,
                    level: FEATURE_LEVEL,
                    origin: self.group.replica(),
                    token,
                    stamp: wall,
                };
                bytes += proposal.data.len() + CommandHeader::BYTES;
                entries.push((header.encode(), proposal.data));
                owners.push((token, proposal.owner));
            }
            match self.group.propose(entries) {
                Ok((term, _)) => {
                    for (token, owner) in owners {
                        if token != WaiterToken::NONE {
                            self.proposed.insert(token, Proposed { term, owner });
                        }
                    }
                }
                // The role has changed, or leadership is being handed over: nothing of it is in the log. Who waits is
                // told when the change is reported, and clients try again at the new leader.
                Err(_) => {
                    for (token, owner) in owners {
                        if token != WaiterToken::NONE {
                            self.proposed.insert(token, Proposed { term: Term(0), owner });
                        }
                    }
                    return;
                }
            }
        }
    }

    /// Everybody who waits for a command of another term, or of a leadership that is over; `true` with those whose
    /// command was never in a log.
    pub(super) fn take_failed(&mut self) -> Vec<(Owner, bool)> {
        let leads = self.group.is_leader();
        let term = self.group.term();
        let mut failed = Vec::new();
        self.proposed.retain(|_, proposed| {
            let keep = leads && proposed.term == term;
            if !keep {
                failed.push((proposed.owner, proposed.term == Term(0)));
            }
            keep
        });
        if !leads {
            failed.extend(self.queue.drain(..).map(|proposal| (proposal.owner, true)));
        }
        failed
    }
}
