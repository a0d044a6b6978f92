//! Leaders bring the membership of their groups to where the metadata want it.
//!
//! A replica that shall be there is added as a learner, which is empty and fetches the state; when it has caught up, one
//! joint change makes it a voter and removes the one whose place it takes. Every step is found by comparing the applied
//! membership with the newest metadata, so that it does not matter who led when, or who crashed.
//!
//! Invariants: no voter is removed before the one that takes its place can vote; replica ids only grow, so that metadata
//! whose highest id of a group is lower than one which the group knows are outdated, and nothing is done by them; a
//! leader never removes itself.

use std::collections::BTreeSet;

use slog::{debug, info};

use super::{Broker, Machine, Replica};
use crate::{
    ids::{GroupId, ReplicaId},
    metadata::MetadataImage,
    replication::group::{Group, Membership, MembershipApplied, MembershipStep},
};

/// Changes that are proposed per look, so that a node with many replicas is not filled with all of them at once.
const CHANGES_MAX: usize = 100;

/// Who shall belong to a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Target {
    voters: BTreeSet<ReplicaId>,
    learners: BTreeSet<ReplicaId>,
}

impl Target {
    fn of(image: &MetadataImage, id: GroupId, replica: &Replica) -> Option<Self> {
        match &replica.machine {
            Machine::Metadata(_) => {
                let members = image.metadata_members();
                let of = |voter| members.iter().filter(move |member| member.voter == voter).map(|m| m.replica);
                Some(Self { voters: of(true).collect(), learners: of(false).collect() })
            }
            Machine::Partition(_) => {
                let (topic, index) = image.topic_of_group(id)?;
                let replicas = &topic.partition(index)?.replicas;
                Some(Self { voters: replicas.iter().map(|replica| replica.id).collect(), learners: BTreeSet::new() })
            }
        }
    }

    fn contains(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.learners.contains(&replica)
    }

    fn newest(&self) -> Option<ReplicaId> {
        self.voters.last().max(self.learners.last()).copied()
    }

    /// What to propose next; nothing if all is as it shall be, or has to be waited for.
    fn next_steps(&self, own: ReplicaId, group: &GroupView<'_>) -> Vec<MembershipStep> {
        let GroupView { membership, removed, .. } = *group;
        let newest_known = membership.members().last().max(removed.last()).copied();
        if membership.is_joint() || self.newest() < newest_known {
            return Vec::new();
        }
        let all = self.voters.iter().chain(&self.learners);
        // One that the group removed never comes back: its place waits until its node gets another one.
        let can_come = |replica: &ReplicaId| !membership.contains(*replica) && !removed.contains(replica);
        if let Some(missing) = all.copied().find(can_come) {
            return vec![MembershipStep::AddLearner(missing)];
        }
        // Whoever does not vote is missed by nobody.
        if let Some(extra) = membership.learners.iter().find(|replica| !self.contains(**replica)) {
            return vec![MembershipStep::Remove(*extra)];
        }
        let mut extra = membership.voters.iter().copied().filter(|replica| !self.contains(*replica) && *replica != own);
        let waits: Vec<ReplicaId> =
            self.voters.iter().copied().filter(|replica| membership.learners.contains(replica)).collect();
        if waits.is_empty() {
            return extra.next().map(MembershipStep::Remove).into_iter().collect();
        }
        let ready = waits.into_iter().filter(|replica| (group.has_caught_up)(*replica));
        ready
            .flat_map(|replica| {
                let removal = extra.next().map(MembershipStep::Remove);
                [Some(MembershipStep::Promote(replica)), removal].into_iter().flatten()
            })
            .collect()
    }
}

/// What the leader of a group knows of it.
struct GroupView<'a> {
    membership: &'a Membership,
    removed: &'a BTreeSet<ReplicaId>,
    has_caught_up: &'a dyn Fn(ReplicaId) -> bool,
}

impl<'a> GroupView<'a> {
    fn of(group: &'a Group, has_caught_up: &'a dyn Fn(ReplicaId) -> bool) -> Self {
        Self { membership: group.membership(), removed: group.removed(), has_caught_up }
    }
}

impl Broker {
    /// Looked after now and then, for groups that shall not have the members they were created with.
    pub(super) fn tend_memberships(&mut self) {
        let Self { image, replicas, dirty, logger, shutdown, .. } = self;
        if shutdown.has_begun() {
            return;
        }
        let mut proposed = 0;
        for (id, replica) in replicas.iter_mut().filter(|(_, replica)| replica.has_moved && !replica.stands_still()) {
            if !replica.is_serving() || proposed >= CHANGES_MAX {
                continue;
            }
            let Some(target) = Target::of(image, *id, replica) else { continue };
            let group = &replica.group;
            let steps = target.next_steps(group.replica(), &GroupView::of(group, &|id| group.has_caught_up(id)));
            if steps.is_empty() {
                continue;
            }
            match replica.group.propose_membership(&steps) {
                Ok((_, index)) => {
                    info!(logger, "a change of members is proposed"; "group" => id.0, "index" => index.0,
                        "steps" => ?steps);
                    dirty.insert(*id);
                    proposed += 1;
                }
                // Whatever stands in the way, as a change or a leader's handing over that is under way, it is looked at
                // again.
                Err(error) => {
                    debug!(logger, "a change of members has to wait"; "group" => id.0, "reason" => %error);
                }
            }
        }
    }

    /// A change is in force here.
    pub(super) fn membership_applied(&mut self, id: GroupId, change: &MembershipApplied) {
        let Some(replica) = self.replicas.get(&id) else { return };
        info!(self.logger, "the members of a group changed"; "group" => id.0, "index" => change.index.0,
            "voters" => ?change.membership.voters.iter().map(|id| id.0).collect::<Vec<_>>(),
            "learners" => ?change.membership.learners.iter().map(|id| id.0).collect::<Vec<_>>());
        self.checkpoints.changed = true;
        // The log of the metadata group is what tells this node that its directory was replaced: the image follows in
        // this turn, and ends it.
        if change.removed && replica.partition().is_some() {
            self.remove_group(id, "it was removed from the group");
        }
    }
}

#[cfg(test)]
mod tests {
    use MembershipStep::{AddLearner, Promote, Remove};

    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
        ids.iter().map(|id| ReplicaId(*id)).collect()
    }

    fn steps(target: &[u64], membership: &Membership, removed: &[u64], caught_up: &[u64]) -> Vec<MembershipStep> {
        let target = Target { voters: ids(target), learners: BTreeSet::new() };
        let has_caught_up = |replica: ReplicaId| caught_up.contains(&replica.0);
        let removed = ids(removed);
        let view = GroupView { membership, removed: &removed, has_caught_up: &has_caught_up };
        target.next_steps(ReplicaId(1), &view)
    }

    fn members(voters: &[u64], learners: &[u64]) -> Membership {
        Membership::new(ids(voters), ids(learners))
    }

    #[test]
    fn a_replica_learns_before_it_takes_the_place_of_another() {
        let target = &[1, 2, 9];
        assert_eq!(steps(target, &members(&[1, 2, 3], &[]), &[], &[]), [AddLearner(ReplicaId(9))]);
        assert_eq!(steps(target, &members(&[1, 2, 3], &[9]), &[], &[]), [], "it is being filled");
        let swap = [Promote(ReplicaId(9)), Remove(ReplicaId(3))];
        assert_eq!(steps(target, &members(&[1, 2, 3], &[9]), &[], &[9]), swap);
        let joint = Membership { voters_outgoing: ids(&[1, 2, 3]), ..members(&[1, 2, 9], &[]) };
        assert_eq!(steps(target, &joint, &[], &[9]), []);
        assert_eq!(steps(target, &members(&[1, 2, 9], &[]), &[3], &[9]), []);
    }

    #[test]
    fn outdated_metadata_change_nothing() {
        assert_eq!(steps(&[1, 2, 3], &members(&[1, 2, 9], &[]), &[3], &[]), []);
        assert_eq!(steps(&[1, 2, 3], &members(&[1, 2, 3], &[9]), &[], &[]), []);
        assert_eq!(steps(&[1, 2, 3], &members(&[1, 2, 3], &[]), &[9], &[]), []);
    }

    #[test]
    fn a_node_that_is_wiped_again_while_it_is_filled() {
        let target = &[1, 2, 12];
        assert_eq!(steps(target, &members(&[1, 2, 3], &[9]), &[], &[]), [AddLearner(ReplicaId(12))]);
        assert_eq!(steps(target, &members(&[1, 2, 3], &[9, 12]), &[], &[]), [Remove(ReplicaId(9))]);
        let swap = [Promote(ReplicaId(12)), Remove(ReplicaId(3))];
        assert_eq!(steps(target, &members(&[1, 2, 3], &[12]), &[9], &[12]), swap);
    }

    #[test]
    fn a_group_that_lost_all_others_takes_in_those_that_are_replaced() {
        let alone = members(&[2], &[]);
        assert_eq!(steps(&[1, 2, 3], &alone, &[1, 3], &[]), [], "replicas that are gone are not asked for");
        assert_eq!(steps(&[2, 3, 9], &alone, &[1, 3], &[]), [AddLearner(ReplicaId(9))]);
        assert_eq!(steps(&[2, 3, 9], &members(&[2], &[9]), &[1, 3], &[9]), [Promote(ReplicaId(9))]);
        assert_eq!(steps(&[2, 9, 10], &members(&[2, 9], &[]), &[1, 3], &[]), [AddLearner(ReplicaId(10))]);
    }

    #[test]
    fn two_nodes_are_swapped_one_after_the_other_or_at_once() {
        let (target, membership) = (&[1, 2, 3, 10, 11], members(&[1, 2, 3, 4, 5], &[10, 11]));
        assert_eq!(steps(target, &membership, &[], &[11]), [Promote(ReplicaId(11)), Remove(ReplicaId(4))]);
        let both = [Promote(ReplicaId(10)), Remove(ReplicaId(4)), Promote(ReplicaId(11)), Remove(ReplicaId(5))];
        assert_eq!(steps(target, &membership, &[], &[10, 11]), both);
    }

    #[test]
    fn learners_of_the_metadata_are_replaced_too() {
        let target = Target { voters: ids(&[1, 2]), learners: ids(&[9]) };
        let removed = BTreeSet::new();
        let next = |membership: &Membership| {
            let view = GroupView { membership, removed: &removed, has_caught_up: &|_| false };
            target.next_steps(ReplicaId(1), &view)
        };
        assert_eq!(next(&members(&[1, 2], &[3])), [AddLearner(ReplicaId(9))]);
        assert_eq!(next(&members(&[1, 2], &[3, 9])), [Remove(ReplicaId(3))]);
        assert_eq!(next(&members(&[1, 2], &[9])), []);
    }
}
