//! What a replica acknowledges it holds intact: an entry that its disk lost may not be counted by anyone until it is
//! whole again.
//!
//! Read off the frames that leave a node, and only while a replica of it knows of a loss. A loss counts if it was there
//! at the look before and still is: one that was found or repaired in between says nothing about what was sent when.

use std::collections::BTreeMap;

use kauri_core::ids::{GroupId, LogIndex, ReplicaId};

use crate::{core::NodeView, failure::Failure};

/// What a replica says to hold: its log up to and including this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub index: LogIndex,
}

#[derive(Debug)]
pub struct AcknowledgedIsIntact {
    /// For each node the replicas that lost entries, and the first of these, as of the last look.
    faulty: Vec<BTreeMap<GroupId, (ReplicaId, LogIndex)>>,
}

impl AcknowledgedIsIntact {
    pub fn new(nodes: usize) -> Self {
        Self { faulty: vec![BTreeMap::new(); nodes] }
    }

    pub fn node_started(&mut self, node: usize) {
        self.faulty[node].clear();
    }

    pub fn look(&mut self, node: usize, view: &NodeView) {
        let faulty = view.groups.iter().filter_map(|group| Some((group.group, (group.replica, group.faulty?))));
        self.faulty[node].clear();
        self.faulty[node].extend(faulty);
    }

    /// Whether what this node sends is to be shown to [`AcknowledgedIsIntact::check`].
    pub fn is_watched(&self, node: usize) -> bool {
        !self.faulty[node].is_empty()
    }

    /// `now` is the node at the end of the turn in which it sent this.
    pub fn check(&self, node: usize, acknowledged: &[Acknowledged], now: &NodeView) -> Result<(), Failure> {
        for Acknowledged { group, replica, index } in acknowledged {
            let Some((lost_by, lost)) = self.faulty[node].get(group) else { continue };
            let is_still_lost = now
                .groups
                .iter()
                .any(|view| (view.group, view.replica, view.faulty) == (*group, *replica, Some(*lost)));
            if lost_by == replica && is_still_lost && index >= lost {
                let explanation = format!(
                    "replica {replica} of group {group} on node {node} acknowledges entry {index}, and has lost {lost}"
                );
                return Err(Failure::new("acknowledged_is_intact", explanation));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::story::*, *};
    use crate::core::GroupView;

    fn acknowledged(index: u64) -> [Acknowledged; 1] {
        [Acknowledged { group: GroupId(7), replica: ReplicaId(1), index: LogIndex(index) }]
    }

    #[test]
    fn a_lost_entry_that_is_acknowledged_caught_by() {
        let lost = node(GroupView { faulty: Some(LogIndex(11)), ..group() });
        let mut check = AcknowledgedIsIntact::new(1);
        check.look(0, &lost);
        assert_eq!(check.check(0, &acknowledged(10), &lost), Ok(()));
        for index in [11, 12] {
            let failure = check.check(0, &acknowledged(index), &lost).unwrap_err();
            let expected = format!("replica 1 of group 7 on node 0 acknowledges entry {index}, and has lost 11");
            assert_eq!(failure.explanation, expected);
        }
    }

    #[test]
    fn what_was_repaired_or_just_found_or_is_another_replicas_passes() {
        let lost = node(GroupView { faulty: Some(LogIndex(11)), ..group() });
        let whole = node(group());
        let mut check = AcknowledgedIsIntact::new(1);
        check.look(0, &whole);
        assert!(!check.is_watched(0));
        assert_eq!(check.check(0, &acknowledged(12), &lost), Ok(()));
        check.look(0, &lost);
        assert!(check.is_watched(0));
        assert_eq!(check.check(0, &acknowledged(12), &whole), Ok(()));
        let other = [Acknowledged { replica: ReplicaId(2), ..acknowledged(12)[0] }];
        assert_eq!(check.check(0, &other, &lost), Ok(()));
        check.node_started(0);
        assert_eq!(check.check(0, &acknowledged(12), &lost), Ok(()));
    }
}
