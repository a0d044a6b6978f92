//! Changes of membership.

use raft::prelude::MessageType;

use super::super::{Membership, MembershipError, MembershipStep, Role};
use super::cluster::Cluster;
use super::member::Member;
use crate::{ids::ReplicaId, limits};

use MembershipStep::{AddLearner, Promote, Remove};

fn ids(ids: &[u64]) -> std::collections::BTreeSet<ReplicaId> {
    ids.iter().map(|&id| ReplicaId(id)).collect()
}

impl Cluster {
    /// A replica is placed on another node, and its group's leader adds it.
    fn add_learner(&mut self, leader: u64, id: u64) {
        let others: Vec<u64> = self.members.keys().copied().collect();
        self.members.insert(id, Member::newcomer(id, others, 1));
        self.group(leader).propose_membership(&[AddLearner(ReplicaId(id))]).unwrap();
        self.tick(4 * limits::HEARTBEAT_TICKS);
    }

    fn change(&mut self, leader: u64, steps: &[MembershipStep]) {
        self.group(leader).propose_membership(steps).unwrap();
        self.tick(4 * limits::HEARTBEAT_TICKS);
    }

    fn membership(&mut self, id: u64) -> Membership {
        self.group(id).membership().clone()
    }
}

#[test]
fn a_newcomer_learns_and_then_votes() {
    let mut cluster = Cluster::new(1);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.settle();
    cluster.add_learner(1, 2);
    assert_eq!(cluster.membership(2), Membership::new([ReplicaId(1)], [ReplicaId(2)]));
    assert!(cluster.group(1).has_caught_up(ReplicaId(2)));
    cluster.change(1, &[Promote(ReplicaId(2))]);
    assert_eq!(cluster.membership(2), Membership::new(ids(&[1, 2]), []));
    assert_eq!(cluster.state(1), cluster.state(2), "by state transfer and what followed");
    cluster.propose(1, "b");
    cluster.tick(limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(2), ["b"]);
    cluster.elect(2);
}

#[test]
fn several_replicas_are_swapped_in_one_joint_change() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.add_learner(1, 4);
    cluster.add_learner(1, 5);
    let swap = [Promote(ReplicaId(4)), Remove(ReplicaId(2)), Promote(ReplicaId(5)), Remove(ReplicaId(3))];
    cluster.change(1, &swap);
    assert_eq!(cluster.membership(1), Membership::new(ids(&[1, 4, 5]), []));
    let reported: Vec<_> = cluster.member(1).memberships.iter().map(|change| change.membership.is_joint()).collect();
    assert_eq!(reported, [false, false, true, false], "two learners, the joint membership and its end");
    assert_eq!(cluster.group(1).removed(), &ids(&[2, 3]));
    // A removed replica hears of it as far as it was still sent entries; nobody listens to it any more.
    let strangers = cluster.refused.len();
    cluster.group(2).campaign();
    cluster.settle();
    assert_eq!(cluster.group(1).role(), Role::Leader);
    assert!(cluster.refused.len() >= strangers);
    cluster.propose(1, "b");
    cluster.tick(limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.state(5), cluster.state(1));
}

/// Found by experiment: raft-rs keeps a leader that was removed in office and panics when it next counts itself.
#[test]
fn p9_a_leader_that_was_removed_steps_down() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    // 1 proposes to remove 2; before that is committed, 2 becomes leader with the entry in its log and commits it.
    cluster.lost.insert(MessageType::MsgAppendResponse);
    cluster.group(1).propose_membership(&[Remove(ReplicaId(2))]).unwrap();
    cluster.settle();
    cluster.heal();
    cluster.slow_disks.insert(2);
    cluster.ignore_leases(true);
    cluster.group(2).campaign();
    for _ in 0..20 {
        cluster.settle();
        cluster.member(2).sync(1);
        // More is appended and becomes durable after the removal is applied.
        let _ = cluster.group(2).propose(vec![super::member::command("x")]);
    }
    cluster.member(2).sync_all();
    cluster.settle();
    assert_eq!(cluster.membership(2), Membership::new(ids(&[1, 3]), []));
    assert_eq!(cluster.group(2).role(), Role::Follower);
    let last = cluster.member(2).memberships.last().unwrap();
    assert!(last.removed, "its caller is told to destroy it");
    cluster.tick_elections();
    let leader = cluster.leader().expect("the others go on");
    assert_ne!(leader, 2);
}

#[test]
fn rule_20_what_is_no_safe_change_is_not_proposed() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let refuse = |cluster: &mut Cluster, steps: &[MembershipStep], because| {
        assert_eq!(cluster.group(1).propose_membership(steps), Err(because));
    };
    refuse(&mut cluster, &[], MembershipError::Empty);
    refuse(&mut cluster, &[Remove(ReplicaId(1))], MembershipError::RemovesLeader);
    refuse(&mut cluster, &[Remove(ReplicaId(9))], MembershipError::NotMember(ReplicaId(9)));
    refuse(&mut cluster, &[AddLearner(ReplicaId(2))], MembershipError::Member(ReplicaId(2)));
    refuse(&mut cluster, &[Promote(ReplicaId(9))], MembershipError::NotLearner(ReplicaId(9)));
    refuse(&mut cluster, &[Promote(ReplicaId(2))], MembershipError::NotLearner(ReplicaId(2)));
    let twice = [Remove(ReplicaId(2)), AddLearner(ReplicaId(2))];
    refuse(&mut cluster, &twice, MembershipError::Twice(ReplicaId(2)));

    // One at a time: the second waits until the first is applied.
    cluster.members.insert(4, Member::newcomer(4, [1, 2, 3], 1));
    cluster.transfers = false;
    cluster.group(1).propose_membership(&[AddLearner(ReplicaId(4))]).unwrap();
    refuse(&mut cluster, &[Remove(ReplicaId(2))], MembershipError::InProgress);
    cluster.tick(4 * limits::HEARTBEAT_TICKS);
    refuse(&mut cluster, &[Promote(ReplicaId(4))], MembershipError::NotCaughtUp(ReplicaId(4)));
    cluster.change(1, &[Remove(ReplicaId(4))]);
    refuse(&mut cluster, &[AddLearner(ReplicaId(4))], MembershipError::Reused(ReplicaId(4)));

    let refused = cluster.group(2).propose_membership(&[Remove(ReplicaId(3))]);
    assert_eq!(refused, Err(MembershipError::NotLeader { leader: Some(ReplicaId(1)) }));
}

/// An id that was removed stays known as such after a restart.
#[test]
fn ids_of_removed_replicas_do_not_come_back_after_a_restart() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.change(1, &[Remove(ReplicaId(3))]);
    cluster.member(1).checkpoint(0);
    cluster.member(1).sync_all();
    cluster.member(1).crash(0);
    cluster.member(1).start();
    cluster.elect(1);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    let refused = cluster.group(1).propose_membership(&[AddLearner(ReplicaId(3))]);
    assert_eq!(refused, Err(MembershipError::Reused(ReplicaId(3))));
    cluster.group(1).introduce(ReplicaId(3));
    assert!(!cluster.group(1).known.contains(&ReplicaId(3)), "nor is it listened to");
}

/// raft-rs may forget to leave a joint membership when the leader that entered it is gone.
#[test]
fn rule_21_a_joint_membership_is_left_by_the_next_leader() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.add_learner(1, 4);
    // The joint change is committed and applied by the followers; its proposer vanishes before it can leave it.
    cluster.member(1).holds_apply = true;
    cluster.group(1).propose_membership(&[Promote(ReplicaId(4)), Remove(ReplicaId(3))]).unwrap();
    cluster.settle();
    cluster.group(1).beat();
    cluster.settle();
    assert!(cluster.membership(2).is_joint());
    assert!(!cluster.membership(1).is_joint());
    cluster.isolate(1);
    cluster.elect(2);
    cluster.tick(4 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.membership(2), Membership::new(ids(&[1, 2, 4]), []));
    assert_eq!(cluster.membership(4), Membership::new(ids(&[1, 2, 4]), []));
}

#[test]
fn a_leader_that_the_joint_change_removes_hands_over_before_it_ends() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.add_learner(1, 4);
    // 1 proposes the swap of 2 for 4; 2 becomes leader before it is committed.
    cluster.lost.insert(MessageType::MsgAppendResponse);
    cluster.group(1).propose_membership(&[Promote(ReplicaId(4)), Remove(ReplicaId(2))]).unwrap();
    cluster.settle();
    cluster.heal();
    cluster.ignore_leases(true);
    cluster.group(2).campaign();
    cluster.settle();
    cluster.ignore_leases(false);
    cluster.tick(6 * limits::HEARTBEAT_TICKS);
    let leader = cluster.leader().expect("somebody leads");
    assert_ne!(leader, 2);
    assert_eq!(cluster.membership(leader), Membership::new(ids(&[1, 3, 4]), []));
    let led = cluster.member(2).roles.iter().any(|change| change.role == Role::Leader);
    assert!(led, "it did lead");
    assert!(cluster.sent(MessageType::MsgTimeoutNow) > 0, "and handed over");
}

/// A removed replica keeps its term and may campaign for a while; it must not depose anybody.
#[test]
fn a_removed_replica_disturbs_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(3);
    cluster.change(1, &[Remove(ReplicaId(3))]);
    cluster.heal();
    let term = cluster.group(1).term();
    for id in [1, 2] {
        cluster.group(id).ignore_lease(true);
    }
    cluster.tick_elections();
    assert_eq!((cluster.leader(), cluster.group(1).term()), (Some(1), term));
}
