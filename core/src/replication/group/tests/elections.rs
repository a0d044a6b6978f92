//! Elections: our timeouts, the lease, the only voter.

use raft::prelude::MessageType;

use super::super::{GroupStart, Membership, Role, RoleChange};
use super::cluster::Cluster;
use super::member::Member;
use crate::{
    ids::{ReplicaId, Term},
    limits,
};

#[test]
fn a_cluster_elects_a_leader_and_replicates() {
    let mut cluster = Cluster::new(3);
    cluster.tick_elections();
    let leader = cluster.leader().expect("somebody leads");
    cluster.propose(leader, "a");
    cluster.propose(leader, "b");
    cluster.tick(limits::HEARTBEAT_TICKS);
    for id in 1..=3 {
        assert_eq!(cluster.applied(id), ["a", "b"]);
        assert_eq!(cluster.group(id).leader(), Some(ReplicaId(leader)));
    }
    let term = cluster.group(leader).term();
    assert!(term > Term(1), "the term of the creation belongs to nobody");
    let change = RoleChange { term, role: Role::Leader, leader: Some(ReplicaId(leader)) };
    assert_eq!(cluster.member(leader).roles.last(), Some(&change));
    assert!(cluster.group(leader).applied_is_current_term());
}

/// The timeout is drawn from the group's stream alone: raft-rs draws its own from the operating system at every
/// change of role, which must never show.
#[test]
fn rule_3_election_timeouts_come_from_the_stream() {
    let ticks_to_campaign = |seed| {
        let mut member = Member::created(1, &Membership::new([1, 2, 3].map(ReplicaId), []), seed);
        let mut ticks = Vec::new();
        for _ in 0..6 {
            let mut passed = 0;
            while member.outbox.is_empty() {
                member.group().tick();
                member.pump();
                member.sync_all();
                passed += 1;
            }
            member.outbox.clear();
            // Everybody refuses: a new timeout is drawn.
            for from in [2, 3] {
                let mut refusal = raft::prelude::Message { from, to: 1, term: 1, reject: true, ..Default::default() };
                refusal.set_msg_type(MessageType::MsgRequestPreVoteResponse);
                member.group().step(refusal).unwrap();
            }
            ticks.push(passed);
        }
        ticks
    };
    for seed in 0..20 {
        let ticks = ticks_to_campaign(seed);
        assert_eq!(ticks, ticks_to_campaign(seed), "the same stream gives the same timeouts");
        let range = limits::ELECTION_TICKS..=2 * limits::ELECTION_TICKS;
        assert!(ticks.iter().all(|ticks| range.contains(ticks)), "{ticks:?}");
    }
    assert_ne!(ticks_to_campaign(1), ticks_to_campaign(2), "and another one others");
}

#[test]
fn a_vote_is_refused_while_a_leader_was_heard_of_unless_the_lease_is_ignored() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);

    cluster.group(2).campaign();
    cluster.settle();
    assert_ne!(cluster.group(2).role(), Role::Leader, "3 heard of 1 just now");

    // Only for the requests stepped while it is set, and each of them: a first one that was ignored changes nothing.
    cluster.group(3).ignore_lease(true);
    cluster.group(2).campaign();
    cluster.settle();
    assert_eq!(cluster.group(2).role(), Role::Leader);
}

#[test]
fn ignoring_a_lease_does_not_make_the_voter_campaign() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    cluster.lost.insert(MessageType::MsgRequestPreVoteResponse);
    cluster.group(3).ignore_lease(true);
    cluster.group(2).campaign();
    cluster.settle();
    // The candidate never hears the answer; the voter waits for its own timeout as before.
    for _ in 0..limits::ELECTION_TICKS - 1 {
        cluster.group(3).tick();
        cluster.settle();
    }
    assert_eq!(cluster.group(3).role(), Role::Follower);
}

#[test]
fn a_leader_is_not_disturbed_by_a_candidate_although_leases_are_ignored() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let term = cluster.group(1).term();
    cluster.group(1).ignore_lease(true);
    cluster.group(2).campaign();
    cluster.settle();
    assert_eq!((cluster.group(1).role(), cluster.group(1).term()), (Role::Leader, term));
}

#[test]
fn a_leader_without_a_majority_steps_down() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    cluster.tick(2 * limits::ELECTION_TICKS);
    assert_ne!(cluster.group(1).role(), Role::Leader);
}

#[test]
fn rule_17_the_only_voter_leads_from_its_first_tick_on() {
    let mut cluster = Cluster::new(1);
    cluster.tick(1);
    assert_eq!(cluster.group(1).role(), Role::Leader);
    cluster.propose(1, "a");
    cluster.settle();
    cluster.member(1).crash(0);
    cluster.member(1).start();
    cluster.group(1).campaign();
    cluster.settle();
    assert_eq!(cluster.group(1).role(), Role::Leader);
    assert_eq!(cluster.applied(1), ["a"]);
}

/// A newcomer knows no members: it must neither win an election of its own nor take part in one it was not told of.
#[test]
fn a_newcomer_cannot_campaign() {
    let mut member = Member::newcomer(9, [1], 1);
    for _ in 0..4 * limits::ELECTION_TICKS {
        member.group().tick();
        member.pump();
    }
    member.group().campaign();
    member.pump();
    assert_eq!(member.group().role(), Role::Follower);
    assert_eq!(member.group().term(), Term(0));
    assert!(member.outbox.is_empty());
}

#[test]
fn all_first_members_start_alike() {
    let membership = Membership::new([1, 2].map(ReplicaId), [ReplicaId(3)]);
    let starts: Vec<_> = (1..=3)
        .map(|id| GroupStart::created(super::member::GROUP, ReplicaId(id), membership.clone()))
        .map(|start| (start.hard_state, start.log.truncated_index(), start.log.last_log_index(), start.applied))
        .collect();
    assert_eq!(starts[0], starts[1]);
    assert_eq!(starts[0], starts[2]);
}

/// raft-rs walks over hash maps, whose order is no promise of anybody.
#[test]
fn rule_6_messages_are_ordered_by_receiver() {
    let mut cluster = Cluster::with(Membership::new([31, 2, 17, 5, 23].map(ReplicaId), []));
    cluster.elect(2);
    let mut out = super::super::GroupOutput::default();
    cluster.group(2).beat();
    cluster.group(2).poll(&mut out);
    let receivers: Vec<_> = out.messages.iter().map(|message| message.to).collect();
    assert_eq!(receivers, [5, 17, 23, 31]);
}
