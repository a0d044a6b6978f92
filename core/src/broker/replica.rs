//! One replica on this node: its Raft group, its state machine, and who waits for what was proposed.
//!
//! Invariant: a waiter is answered once: by the response of its own entry (same replica, term and token), or with an
//! error when this replica's term or role changes. Proposals beyond the group's byte budget wait in a queue, which
//! together with those of other groups has a budget of its own (see [`super::proposals`]).

use std::collections::BTreeMap;

use super::{
    places::Places,
    proposals::{Proposal, ProposalQueue},
    quarantine::{Hold, Transferred},
};
use crate::{
    api::Waiter,
    command::{CommandHeader, FEATURE_LEVEL, WaiterToken},
    ids::{ImageVersion, NodeId, ReplicaId, Term},
    limits::{GROUP_PROPOSED_BYTES_MAX, PROPOSAL_ENTRIES_MAX},
    log::segment::PartitionLog,
    metadata::{GroupCreation, MetadataState},
    partition::PartitionState,
    replication::{
        group::{Group, ProposeError, ReadToken},
        peer::campaign::Campaign,
    },
    time::{Monotonic, Wall},
};

/// See the module head.
pub(crate) struct Replica {
    /// Where this one runs.
    node: NodeId,
    pub(super) group: Group,
    pub(super) creation: GroupCreation,
    pub(super) places: Places,
    /// The group shall not have the members, or not all of them, that it was created with.
    pub(super) has_moved: bool,
    pub(super) machine: Machine,
    /// A transferred state is about to take this one's place: the group is left alone until it has.
    pub(super) suspended: bool,
    /// An entry cannot be applied here: the group is left alone for as long as this process runs.
    pub(super) hold: Option<Hold>,
    /// The machine's image that a transfer brought, until a checkpoint holds one that is as new.
    pub(super) transferred: Option<Transferred>,
    pub(super) queue: ProposalQueue,
    pub(super) proposed: BTreeMap<WaiterToken, Proposed>,
    /// Owners of commands that were refused, to be told.
    refused: Vec<Owner>,
    next_token: u64,
    pub(super) confirming: BTreeMap<ReadToken, Waiter>,
    /// Runs while no leader is known.
    pub(super) campaign: Option<Campaign>,
    /// The term in which this replica, as leader, has applied its own first entry. Nothing else makes it serve: a term
    /// that passed meanwhile ends that, however short it was and whoever led it.
    pub(super) served_term: Option<Term>,
    /// Since when this replica leads.
    pub(super) led_since: Option<Monotonic>,
    /// The image version of the last Configure that this leadership proposed.
    pub(super) configured: Option<ImageVersion>,
    /// A shutdown asked another replica to lead.
    pub(super) handing_over: bool,
    /// Since when the preferred leader could take over.
    pub(super) preferred_since: Option<Monotonic>,
    /// How often this leadership was offered to it, in vain so far.
    pub(super) preferred_offers: u32,
}

pub(crate) enum Machine {
    Metadata(MetadataState),
    Partition(Box<Partition>),
}

pub(crate) struct Partition {
    pub(crate) state: PartitionState,
    pub(crate) log: PartitionLog,
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
    /// What the leader of the metadata group says about a node being up.
    Liveness(NodeId),
    /// A call that another node forwarded to us.
    Forwarded {
        node: NodeId,
        call: u64,
    },
}

impl Replica {
    pub(crate) fn new(node: NodeId, group: Group, creation: GroupCreation, machine: Machine) -> Self {
        Self {
            node,
            group,
            places: Places::of_creation(&creation),
            has_moved: false,
            creation,
            machine,
            suspended: false,
            hold: None,
            transferred: None,
            queue: ProposalQueue::default(),
            proposed: BTreeMap::new(),
            refused: Vec::new(),
            next_token: 0,
            confirming: BTreeMap::new(),
            campaign: None,
            served_term: None,
            led_since: None,
            configured: None,
            handing_over: false,
            preferred_since: None,
            preferred_offers: 0,
        }
    }

    /// What the start says beside the rest.
    pub(crate) fn found_at_start(&mut self, hold: Option<Hold>, transferred: Option<Transferred>) {
        self.hold = hold;
        self.transferred = transferred;
    }

    /// Neither ticks, nor votes, nor takes anything.
    pub(super) fn stands_still(&self) -> bool {
        self.suspended || self.hold.is_some()
    }

    /// The machine is not what the entries up to the applied one made of it.
    pub(super) fn is_rebuilding(&self) -> bool {
        self.suspended && self.hold.is_some()
    }

    /// Leads, has applied its own first entry, and has the configuration it needs.
    pub(super) fn is_serving(&self) -> bool {
        self.served_term == Some(self.group.term()) && self.group.is_leader()
    }

    /// Where a replica of the group runs, if it runs at all. Another one that was placed on this node is gone with a disk
    /// that this node had, though the members, or the places known so far, may still name it.
    pub(super) fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        if replica == self.group.replica() {
            return Some(self.node);
        }
        self.places.node_of(replica).filter(|node| *node != self.node)
    }

    /// The metadata place the group's replicas there. `has_moved`: they are not those of the creation.
    pub(super) fn place(&mut self, places: Places, has_moved: bool) {
        for (replica, _) in places.ranked() {
            // It may speak before this replica hears that it was added.
            self.group.introduce(replica);
        }
        self.places = places;
        self.has_moved = has_moved;
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

    /// Puts what waits into the log, as far as the budget goes: one message to Raft for all of it. `producers_max`: what
    /// may be proposed and not applied for another batch of a producer to join it.
    pub(super) fn propose_queued(&mut self, wall: Wall, producers_max: usize) {
        let is_produce = |proposal: &Proposal| matches!(proposal.owner, Owner::Produce(_));
        if producers_max < GROUP_PROPOSED_BYTES_MAX && self.queue.iter().any(is_produce) {
            // What keeps the group and the cluster going does not wait behind batches that are held back.
            self.queue.put_last(is_produce);
        }
        loop {
            let mut bytes = self.group.unapplied_bytes();
            let mut count = 0;
            for proposal in self.queue.iter().take(PROPOSAL_ENTRIES_MAX) {
                let max = if is_produce(proposal) { producers_max } else { GROUP_PROPOSED_BYTES_MAX };
                let with_it = bytes + proposal.data.len() + CommandHeader::BYTES;
                // At least one: a group with room takes a command that is larger than the budget.
                let fits = if count == 0 { bytes < max } else { with_it <= max };
                if !fits {
                    break;
                }
                bytes = with_it;
                count += 1;
            }
            if count == 0 {
                return;
            }
            let first_token = self.next_token + 1;
            let entries = self.queue.iter().take(count).zip(first_token..).map(|(proposal, token)| {
                let header = CommandHeader {
                    kind: proposal.kind,
                    level: FEATURE_LEVEL,
                    origin: self.group.replica(),
                    token: WaiterToken(token),
                    stamp: wall,
                };
                (header.encode(), proposal.data.clone())
            });
            let entries = entries.collect();
            match self.group.propose(entries) {
                Ok((term, _)) => {
                    for (proposal, token) in self.queue.take(count).zip(first_token..) {
                        if proposal.owner != Owner::Nobody {
                            self.proposed.insert(WaiterToken(token), Proposed { term, owner: proposal.owner });
                        }
                        self.next_token = token;
                    }
                }
                Err(ProposeError::Busy) => return,
                // Another replica leads, or will in a moment: nothing of this is in the log. Who waits is told, and
                // tries again at the new leader.
                Err(ProposeError::NotLeader { .. } | ProposeError::Transferring) => {
                    self.refused.extend(self.queue.take_all().map(|proposal: Proposal| proposal.owner));
                    return;
                }
                Err(ProposeError::TooLarge(_)) => unreachable!("what is queued was checked against smaller limits"),
            }
        }
    }

    /// What counts as proposed by this node: nothing that another leader sent.
    pub(super) fn proposed_bytes(&self) -> usize {
        self.queue.bytes() + if self.group.is_leader() { self.group.unapplied_bytes() } else { 0 }
    }

    /// Whether the configuration of this version, or a newer one, is in force.
    pub(super) fn is_configured(&self, version: ImageVersion) -> bool {
        match &self.machine {
            Machine::Metadata(_) => true,
            Machine::Partition(partition) => partition.state.configured_version().is_some_and(|known| known >= version),
        }
    }

    /// Everybody who waits, because the replica ends.
    pub(super) fn take_all(&mut self) -> Vec<(Owner, bool)> {
        let proposed = std::mem::take(&mut self.proposed).into_values().map(|proposed| (proposed.owner, false));
        proposed.chain(self.queue.take_all().map(|proposal| (proposal.owner, true))).collect()
    }

    /// Everybody who waits for a command of another term, or of a leadership that is over; `true` with those whose
    /// command was never in a log.
    pub(super) fn take_failed(&mut self) -> Vec<(Owner, bool)> {
        let leads = self.group.is_leader();
        let term = self.group.term();
        let mut failed: Vec<_> = self.refused.drain(..).map(|owner| (owner, true)).collect();
        if self.proposed.values().any(|proposed| !leads || proposed.term != term) {
            self.proposed.retain(|_, proposed| {
                let keep = leads && proposed.term == term;
                if !keep {
                    failed.push((proposed.owner, false));
                }
                keep
            });
        }
        if !leads {
            failed.extend(self.queue.take_all().map(|proposal| (proposal.owner, true)));
        }
        failed
    }
}
