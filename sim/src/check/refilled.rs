//! A node that lost its disk has all its replicas again, under ids that nobody had before.
//!
//! When all is quiet, the members of every group are exactly the replicas that run, on nodes that agree about them; and no
//! replica that was lost with a disk is a member, or runs. Within the budget this must come true in bounded time.

use std::collections::{BTreeMap, BTreeSet};

use kauri_core::ids::{GroupId, ReplicaId};

use crate::{core::Members, failure::Failure};

/// `nodes`: what each node that runs says of the replicas it has. `lost`: replicas that lay on a wiped disk.
pub fn check(nodes: &[Vec<Members>], lost: &BTreeSet<(GroupId, ReplicaId)>) -> Result<(), Failure> {
    let mut running: BTreeMap<GroupId, BTreeSet<ReplicaId>> = BTreeMap::new();
    for members in nodes.iter().flatten() {
        running.entry(members.group).or_default().insert(members.replica);
    }
    let failure = |explanation| Err(Failure::new("refilled", explanation));
    for (node, members) in nodes.iter().enumerate().flat_map(|(node, all)| all.iter().map(move |one| (node, one))) {
        let Members { group, replica, .. } = members;
        if lost.contains(&(*group, *replica)) {
            return failure(format!("replica {replica} of group {group} runs on node {node} and was lost with a disk"));
        }
        if members.is_joint
            || members.voters.union(&members.learners).copied().collect::<BTreeSet<_>>() != running[group]
        {
            return failure(format!(
                "node {node} says that the voters of group {group} are {:?} and its learners {:?}, but those that run are {:?}",
                members.voters, members.learners, running[group]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(replica: u64, voters: &[u64]) -> Vec<Members> {
        vec![Members {
            group: GroupId(3),
            replica: ReplicaId(replica),
            voters: voters.iter().map(|id| ReplicaId(*id)).collect(),
            learners: BTreeSet::new(),
            is_joint: false,
        }]
    }

    #[test]
    fn members_that_run_and_agree_pass() {
        let nodes = [members(1, &[1, 2]), members(2, &[1, 2]), Vec::new()];
        assert_eq!(check(&nodes, &BTreeSet::from([(GroupId(3), ReplicaId(9)), (GroupId(4), ReplicaId(1))])), Ok(()));
    }

    #[test]
    fn whatever_is_left_of_a_lost_disk_is_caught() {
        let lost = BTreeSet::from([(GroupId(3), ReplicaId(2))]);
        let again = [members(1, &[1, 2]), members(2, &[1, 2])];
        assert!(check(&again, &lost).unwrap_err().explanation.contains("was lost with a disk"));
        let not_removed = [members(1, &[1, 2, 5]), members(5, &[1, 2, 5])];
        assert!(check(&not_removed, &lost).is_err());
        let not_added = [members(1, &[1]), members(5, &[1])];
        assert!(check(&not_added, &lost).is_err());
    }

    #[test]
    fn a_change_that_does_not_end_is_caught() {
        let mut nodes = [members(1, &[1, 2]), members(2, &[1, 2])];
        nodes[0][0].is_joint = true;
        assert!(check(&nodes, &BTreeSet::new()).is_err());
    }
}
