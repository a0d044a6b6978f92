//! Commands on their way into a group's log.
//!
//! Owns the queue of a group, and the account of what all groups that this node leads have queued or proposed and not
//! applied: [`limits::SHARD_PROPOSED_BYTES_MAX`](crate::limits::SHARD_PROPOSED_BYTES_MAX). Past it no produce request is
//! started, so that clients wait, each with its own window full. A leader that cannot commit steps down and gives its
//! share back: groups without a majority hold the others up for an election timeout at most.
//!
//! Invariant: the bytes of a queue are those of its proposals, and the account is the sum of what was reported last for
//! each group.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::replica::Owner;
use crate::{ids::GroupId, limits::SHARD_PROPOSED_BYTES_MAX};

/// A command to be proposed.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) kind: u8,
    pub(super) data: Bytes,
    pub(super) owner: Owner,
}

/// Commands of one group that wait for budget, or for the group to be ready for them.
#[derive(Debug, Default)]
pub(super) struct ProposalQueue {
    proposals: VecDeque<Proposal>,
    bytes: usize,
}

impl ProposalQueue {
    pub(super) fn push(&mut self, proposal: Proposal) {
        self.bytes += proposal.data.len();
        self.proposals.push_back(proposal);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Proposal> {
        self.proposals.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.proposals.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.proposals.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes out the first `count`.
    pub(super) fn take(&mut self, count: usize) -> impl Iterator<Item = Proposal> {
        let taken: VecDeque<Proposal> = self.proposals.drain(..count).collect();
        self.bytes -= taken.iter().map(|proposal| proposal.data.len()).sum::<usize>();
        taken.into_iter()
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Proposal> {
        self.take(self.proposals.len())
    }

    /// Lets the proposals that `is_last` is true of wait behind all others; else the order stays.
    pub(super) fn put_last(&mut self, is_last: impl Fn(&Proposal) -> bool) {
        self.proposals.make_contiguous().sort_by_key(is_last);
    }

    /// Drops the proposals that `keep` is false of.
    pub(super) fn retain(&mut self, keep: impl Fn(&Proposal) -> bool) {
        self.proposals.retain(keep);
        self.bytes = self.proposals.iter().map(|proposal| proposal.data.len()).sum();
    }
}

/// What the groups that this node leads have queued, or proposed and not applied.
#[derive(Debug, Default)]
pub(super) struct ProposedBytes {
    by_group: BTreeMap<GroupId, usize>,
    total: usize,
}

impl ProposedBytes {
    pub(super) fn report(&mut self, group: GroupId, bytes: usize) {
        let before = match bytes {
            0 => self.by_group.remove(&group),
            _ => self.by_group.insert(group, bytes),
        };
        self.total = self.total - before.unwrap_or(0) + bytes;
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    pub(super) fn has_room(&self) -> bool {
        self.total < SHARD_PROPOSED_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_knows_its_bytes() {
        let mut queue = ProposalQueue::default();
        for length in 1..=10 {
            queue.push(Proposal { kind: length, data: Bytes::from(vec![0; length.into()]), owner: Owner::Nobody });
        }
        assert_eq!((queue.len(), queue.bytes()), (10, 55));
        assert_eq!(queue.take(4).map(|proposal| proposal.data.len()).sum::<usize>(), 10);
        assert_eq!(queue.bytes(), 45);
        queue.put_last(|proposal| proposal.kind < 7);
        assert_eq!(queue.iter().map(|proposal| proposal.kind).collect::<Vec<_>>(), [7, 8, 9, 10, 5, 6]);
        queue.retain(|proposal| proposal.kind % 2 == 0);
        assert_eq!((queue.len(), queue.bytes()), (3, 24));
        assert_eq!(queue.take_all().count(), 3);
        assert_eq!((queue.is_empty(), queue.bytes()), (true, 0));
    }

    #[test]
    fn the_account_is_the_sum_of_the_last_reports() {
        let mut account = ProposedBytes::default();
        account.report(GroupId(1), SHARD_PROPOSED_BYTES_MAX - 1);
        assert!(account.has_room());
        account.report(GroupId(2), 1);
        assert!(!account.has_room());
        account.report(GroupId(1), 10);
        assert_eq!(account.total(), 11);
        account.report(GroupId(1), 0);
        account.report(GroupId(2), 0);
        assert_eq!(account.total(), 0);
        assert!(account.by_group.is_empty());
    }
}
