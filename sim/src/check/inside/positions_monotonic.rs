//! Within one process, term, commit, applied index and offsets of a replica never go back, and nothing is applied that
//! is not committed.

use std::collections::BTreeMap;

use kauri_core::ids::GroupId;

use crate::{
    core::{GroupView, NodeView},
    failure::Failure,
};

#[derive(Debug)]
pub struct PositionsMonotonic {
    last: Vec<BTreeMap<GroupId, GroupView>>,
}

impl PositionsMonotonic {
    pub fn new(nodes: usize) -> Self {
        Self { last: vec![BTreeMap::new(); nodes] }
    }

    pub fn node_started(&mut self, node: usize) {
        self.last[node].clear();
    }

    pub fn look(&mut self, node: usize, view: &NodeView) -> Result<(), Failure> {
        for group in &view.groups {
            let failure = |what: &str, before: &dyn std::fmt::Display, now: &dyn std::fmt::Display| {
                let explanation = format!("{what} of group {} on node {node} went from {before} to {now}", group.group);
                Err(Failure::new("positions_monotonic", explanation))
            };
            if group.applied > group.commit {
                return failure("the commit index below the applied one", &group.applied, &group.commit);
            }
            let Some(before) = self.last[node].insert(group.group, *group) else { continue };
            if before.replica != group.replica {
                continue;
            }
            if group.term < before.term {
                return failure("the term", &before.term, &group.term);
            }
            if group.commit < before.commit {
                return failure("the commit index", &before.commit, &group.commit);
            }
            if group.applied < before.applied {
                return failure("the applied index", &before.applied, &group.applied);
            }
            if let (Some(old), Some(new)) = (before.partition, group.partition) {
                if new.next_offset < old.next_offset {
                    return failure("the next offset", &old.next_offset, &new.next_offset);
                }
                if new.log_start < old.log_start {
                    return failure("the log start offset", &old.log_start, &new.log_start);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kauri_core::ids::{LogIndex, Offset, ReplicaId, Term};

    use super::{super::story::*, *};
    use crate::core::PartitionView;

    #[test]
    fn each_step_back_caught_by() {
        let back = [
            GroupView { term: Term(1), ..group() },
            GroupView { commit: LogIndex(9), applied: LogIndex(9), ..group() },
            GroupView { applied: LogIndex(9), ..group() },
            GroupView { applied: LogIndex(11), ..group() },
            GroupView { partition: Some(PartitionView { log_start: Offset(0), next_offset: Offset(7) }), ..group() },
        ];
        for view in back {
            let mut check = PositionsMonotonic::new(1);
            assert_eq!(check.look(0, &node(group())), Ok(()));
            assert!(check.look(0, &node(view)).is_err(), "{view:?}");
        }
    }

    #[test]
    fn a_restart_and_another_replica_may_be_behind() {
        let behind = GroupView { commit: LogIndex(3), applied: LogIndex(3), ..group() };
        let mut check = PositionsMonotonic::new(2);
        assert_eq!(check.look(0, &node(group())), Ok(()));
        assert_eq!(check.look(1, &node(behind)), Ok(()));
        check.node_started(0);
        assert_eq!(check.look(0, &node(behind)), Ok(()));
        let newer = GroupView { replica: ReplicaId(9), commit: LogIndex(1), applied: LogIndex(1), ..group() };
        assert_eq!(check.look(0, &node(newer)), Ok(()));
    }
}
