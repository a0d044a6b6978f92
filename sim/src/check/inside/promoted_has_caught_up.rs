//! A replica that becomes a voter holds what its group had applied before the change was proposed.
//!
//! Nothing would be lost at once if it did not: an empty voter counts for nothing. But the group calls itself whole, gives
//! up the replica whose place was taken, and has one copy less than it says.

use std::collections::{BTreeMap, BTreeSet};

use kauri_core::ids::{GroupId, LogIndex, ReplicaId, Term};

use crate::{core::NodeView, failure::Failure};

/// What the newest leader of a group had when no change of members was under way.
#[derive(Debug)]
struct Settled {
    term: Term,
    voters: BTreeSet<ReplicaId>,
    applied: LogIndex,
}

#[derive(Debug, Default)]
pub struct PromotedHasCaughtUp {
    settled: BTreeMap<GroupId, Settled>,
    /// Replicas that were seen to have become voters, and what each must hold, until it was looked at.
    promoted: BTreeMap<(GroupId, ReplicaId), LogIndex>,
}

impl PromotedHasCaughtUp {
    /// `is_damaged`: the disk of the node lost or hid something since it was empty, so that a replica there may have less
    /// than it said.
    pub fn look(&mut self, node: usize, view: &NodeView, is_damaged: bool) -> Result<(), Failure> {
        for group in &view.groups {
            let Some(needed) = self.promoted.remove(&(group.group, group.replica)) else { continue };
            if group.last < needed && !is_damaged {
                let explanation = format!(
                    "replica {} of group {} on node {node} votes and its log ends at {}; {needed} was applied before",
                    group.replica, group.group, group.last
                );
                return Err(Failure::new("promoted_has_caught_up", explanation));
            }
        }
        for led in &view.led {
            let Some(group) = view.groups.iter().find(|group| group.group == led.group) else { continue };
            let settled = self.settled.get(&led.group).filter(|settled| settled.term <= group.term);
            if let Some(settled) = settled {
                // One that was told to vote before is one that this leader, or another, has looked at.
                for replica in led.voters.difference(&settled.voters) {
                    self.promoted.insert((led.group, *replica), settled.applied);
                }
            }
            let is_newest = settled.is_some() || !self.settled.contains_key(&led.group);
            if is_newest && !led.is_changing {
                let before = settled.map(|settled| settled.applied).unwrap_or_default();
                let applied = before.max(group.applied);
                self.settled.insert(led.group, Settled { term: group.term, voters: led.voters.clone(), applied });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::story::*, *};
    use crate::core::{GroupView, Led};

    /// A leader with these voters.
    fn leader(voters: &[u64], applied: u64, is_changing: bool) -> NodeView {
        let applied = LogIndex(applied);
        let group = GroupView { is_leader: true, applied, commit: applied, last: applied, ..group() };
        let voters = voters.iter().map(|id| ReplicaId(*id)).collect();
        NodeView { led: vec![Led { group: group.group, voters, is_changing }], ..node(group) }
    }

    fn promoted(last: u64) -> NodeView {
        node(GroupView { replica: ReplicaId(9), last: LogIndex(last), ..group() })
    }

    #[test]
    fn an_empty_voter_caught_by() {
        let mut check = PromotedHasCaughtUp::default();
        assert_eq!(check.look(0, &leader(&[1, 2, 3], 10, false), false), Ok(()));
        assert_eq!(check.look(0, &leader(&[1, 2, 3], 12, true), false), Ok(()));
        assert_eq!(check.look(0, &leader(&[1, 2, 9], 13, true), false), Ok(()));
        let failure = check.look(2, &promoted(5), false).unwrap_err();
        assert_eq!(
            failure.explanation,
            "replica 9 of group 7 on node 2 votes and its log ends at 5; 10 was applied before"
        );
    }

    #[test]
    fn one_that_has_what_was_applied_or_lost_its_disk_since_passes() {
        for (last, is_damaged) in [(10, false), (5, true)] {
            let mut check = PromotedHasCaughtUp::default();
            assert_eq!(check.look(0, &leader(&[1, 2, 3], 10, false), false), Ok(()));
            assert_eq!(check.look(0, &leader(&[1, 2, 9], 20, false), false), Ok(()));
            assert_eq!(check.look(2, &promoted(last), is_damaged), Ok(()));
        }
    }

    #[test]
    fn those_that_voted_from_the_beginning_may_be_behind() {
        let mut check = PromotedHasCaughtUp::default();
        assert_eq!(check.look(0, &leader(&[1, 2, 9], 10, false), false), Ok(()));
        assert_eq!(check.look(2, &promoted(0), false), Ok(()));
    }
}
