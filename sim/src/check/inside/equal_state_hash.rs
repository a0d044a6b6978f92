//! Replicas that applied the same entries are in the same state (Raft section 5.3, state machine safety).
//!
//! Two replicas that committed different entries at one index differ in it, so this is agreement on commits as well.

use std::collections::BTreeMap;

use kauri_core::ids::{GroupId, LogIndex};

use crate::{core::NodeView, failure::Failure};

/// States of one group that are remembered: replicas further apart meet again later.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub struct EqualStateHash {
    states: BTreeMap<GroupId, BTreeMap<LogIndex, (u64, usize)>>,
}

impl EqualStateHash {
    pub fn look(&mut self, node: usize, view: &NodeView) -> Result<(), Failure> {
        for group in &view.groups {
            let Some(hash) = group.state_hash else { continue };
            let states = self.states.entry(group.group).or_default();
            let (first, at) = *states.entry(group.applied).or_insert((hash, node));
            if first != hash {
                let explanation = format!(
                    "at index {} of group {} the state is {first:016x} on node {at} and {hash:016x} on node {node}",
                    group.applied, group.group
                );
                return Err(Failure::new("equal_state_hash", explanation));
            }
            if states.len() > REMEMBERED {
                states.pop_first();
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
    fn other_states_at_one_index_are_caught() {
        let mut check = EqualStateHash::default();
        assert_eq!(check.look(0, &node(GroupView { state_hash: Some(5), ..group() })), Ok(()));
        let failure = check.look(1, &node(GroupView { state_hash: Some(6), ..group() })).unwrap_err();
        assert!(failure.explanation.contains("index 10 of group 7"), "{failure}");
    }

    #[test]
    fn other_indexes_groups_and_equal_states_pass() {
        let mut check = EqualStateHash::default();
        let first = GroupView { state_hash: Some(5), ..group() };
        let later = GroupView { state_hash: Some(6), applied: LogIndex(11), ..group() };
        let elsewhere = GroupView { state_hash: Some(6), group: GroupId(8), ..group() };
        for (at, view) in [(0, first), (1, first), (1, later), (2, elsewhere), (0, later)] {
            assert_eq!(check.look(at, &node(view)), Ok(()));
        }
    }
}
