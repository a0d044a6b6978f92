//! A term of a group has at most one leader (Raft section 5.2).

use std::collections::BTreeMap;

use kauri_core::ids::{GroupId, ReplicaId, Term};

use crate::{core::NodeView, failure::Failure};

#[derive(Debug, Default)]
pub struct ElectionSafety {
    leaders: BTreeMap<(GroupId, Term), ReplicaId>,
}

impl ElectionSafety {
    pub fn look(&mut self, _node: usize, view: &NodeView) -> Result<(), Failure> {
        for group in view.groups.iter().filter(|group| group.is_leader) {
            let leader = *self.leaders.entry((group.group, group.term)).or_insert(group.replica);
            if leader != group.replica {
                let explanation = format!(
                    "group {} has the leaders {leader} and {} in term {}",
                    group.group, group.replica, group.term
                );
                return Err(Failure::new("election_safety", explanation));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::story::*, *};
    use crate::core::GroupView;

    #[test]
    fn two_leaders_of_one_term_are_caught() {
        let mut check = ElectionSafety::default();
        let leader = GroupView { is_leader: true, ..group() };
        assert_eq!(check.look(0, &node(leader)), Ok(()));
        assert_eq!(check.look(0, &node(leader)), Ok(()));
        let other = GroupView { replica: ReplicaId(2), ..leader };
        assert!(check.look(1, &node(other)).is_err());
    }

    #[test]
    fn a_leader_of_an_old_term_that_does_not_know_passes() {
        let mut check = ElectionSafety::default();
        let old = GroupView { is_leader: true, ..group() };
        let new = GroupView { is_leader: true, replica: ReplicaId(2), term: Term(3), ..group() };
        assert_eq!(check.look(0, &node(old)), Ok(()));
        assert_eq!(check.look(1, &node(new)), Ok(()));
        assert_eq!(check.look(0, &node(old)), Ok(()));
    }
}
