//! State transfer as the group sees it.

use raft::prelude::MessageType;

use super::super::{
    MembershipStep, ReplicationState, Role, SnapshotError, SnapshotOffer, SnapshotOutcome, SnapshotPosition,
};
use super::cluster::Cluster;
use super::member::Member;
use crate::{
    ids::{LogIndex, ReplicaId, Term},
    limits,
};

/// Member 3 is behind the log that 1 and 2 kept.
fn behind() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.transfers = false;
    cluster.elect(1);
    cluster.isolate(3);
    for data in ["a", "b", "c", "d"] {
        cluster.propose(1, data);
        cluster.settle();
    }
    for id in [1, 2] {
        cluster.group(id).beat();
        cluster.settle();
        cluster.member(id).checkpoint(0);
        cluster.member(id).sync_all();
    }
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    cluster
}

#[test]
fn a_member_behind_the_log_is_offered_the_state() {
    let mut cluster = behind();
    assert_eq!(cluster.member(1).snapshots_wanted, [ReplicaId(3)].into());
    assert_eq!(cluster.sent(MessageType::MsgSnapshot), 0, "nothing is made up");
    cluster.member(1).provide_snapshots();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.sent(MessageType::MsgSnapshot), 1);

    let offer = cluster.member(3).offers.pop_front().expect("an offer");
    assert_eq!(offer.from, ReplicaId(1));
    assert!(cluster.member(3).install(&offer));
    cluster.group(1).report_snapshot(ReplicaId(3), SnapshotOutcome::Installed);
    cluster.propose(1, "e");
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(3), ["e"]);
    assert_eq!(cluster.state(3), cluster.state(1));

    // The switch is what a restart finds.
    cluster.member(3).crash(0);
    cluster.member(3).start();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(3), ["e"]);
    assert_eq!(cluster.state(3), cluster.state(1));
}

/// With a snapshot half installed, raft-rs panics when it campaigns. Ours takes part on its old state meanwhile.
#[test]
fn p1_a_replica_votes_and_campaigns_while_a_snapshot_is_under_way() {
    let mut cluster = behind();
    cluster.member(1).provide_snapshots();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.member(3).offers.len(), 1);

    cluster.isolate(1);
    cluster.group(3).ignore_lease(true);
    cluster.group(3).campaign();
    cluster.settle();
    assert_ne!(cluster.group(3).role(), Role::Leader, "refused: its log is behind");
    for _ in 0..4 * limits::ELECTION_TICKS {
        cluster.group(3).tick();
        cluster.settle();
    }
    cluster.elect(2);
    // The offer of the former leader is still good: what it holds was committed.
    let offer = cluster.member(3).offers.pop_front().unwrap();
    assert!(cluster.member(3).install(&offer));
    cluster.tick(4 * limits::HEARTBEAT_TICKS);
    cluster.member(2).provide_snapshots();
    cluster.tick(4 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.state(3), cluster.state(2));
}

/// Until it is told how a transfer ended, raft-rs sends nothing at all to that member.
#[test]
fn p13_a_transfer_that_failed_is_reported_and_repeated() {
    let mut cluster = behind();
    cluster.member(1).provide_snapshots();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    let state = |cluster: &mut Cluster| cluster.group(1).progress_of(ReplicaId(3)).unwrap().state;
    assert_eq!(state(&mut cluster), ReplicationState::Snapshot);
    cluster.member(3).offers.clear();
    cluster.tick(4 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.sent(MessageType::MsgSnapshot), 1, "it waits");
    assert_eq!(state(&mut cluster), ReplicationState::Snapshot);

    cluster.group(1).report_snapshot(ReplicaId(3), SnapshotOutcome::Failed);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    cluster.member(1).provide_snapshots();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.sent(MessageType::MsgSnapshot), 2);
    assert_eq!(cluster.member(3).offers.len(), 1);
}

/// A snapshot whose membership does not name its receiver is refused by it and sent again, for ever.
#[test]
fn a_snapshot_names_its_receiver() {
    let mut cluster = Cluster::new(2);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.settle();
    let refused = cluster.group(1).provide_snapshot(ReplicaId(3), bytes::Bytes::new());
    assert_eq!(refused, Err(SnapshotError::NotMember(ReplicaId(3))), "it would predate the membership of 3");
    let refused = cluster.group(2).provide_snapshot(ReplicaId(1), bytes::Bytes::new());
    assert_eq!(refused, Err(SnapshotError::NotLeader { leader: Some(ReplicaId(1)) }));

    cluster.members.insert(3, Member::newcomer(3, [1, 2], 1));
    cluster.group(1).propose_membership(&[MembershipStep::AddLearner(ReplicaId(3))]).unwrap();
    cluster.tick(4 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.sent(MessageType::MsgSnapshot), 1, "one was enough");
    assert!(cluster.group(3).membership().contains(ReplicaId(3)));
}

/// While a state is fetched its leader goes on, and may forget what follows the announced place.
#[test]
fn a_later_state_than_the_announced_one_is_followed_by_entries() {
    let mut cluster = behind();
    cluster.member(1).provide_snapshots();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    let announced = cluster.member(3).offers.pop_front().expect("an offer");
    cluster.propose(1, "e");
    cluster.settle();
    cluster.member(1).checkpoint(0);
    cluster.member(1).sync_all();
    let leader = cluster.group(1);
    let index = leader.applied();
    let position = SnapshotPosition { index, term: leader.log().log_term(index) };
    let later = SnapshotOffer { position, data: cluster.member(1).image(0).to_bytes(), ..announced.clone() };
    assert!(position.index > announced.position.index);

    let stranger = SnapshotPosition { index: LogIndex(position.index.0 + 1), ..position };
    cluster.group(1).installed(ReplicaId(3), stranger);
    let state = |cluster: &mut Cluster| cluster.group(1).progress_of(ReplicaId(3)).unwrap().state;
    assert_eq!(state(&mut cluster), ReplicationState::Snapshot, "it has no such entry itself");

    assert!(cluster.member(3).install(&later));
    assert_eq!(cluster.group(3).leader(), Some(ReplicaId(1)), "it stays with the leader that it followed");
    cluster.member(3).outbox.clear();
    cluster.group(1).installed(ReplicaId(3), position);
    cluster.propose(1, "f");
    cluster.settle();
    assert_eq!(cluster.applied(3), ["f"]);
    assert_eq!(cluster.sent(MessageType::MsgSnapshot), 1, "it was not announced again");
    cluster.group(1).installed(ReplicaId(3), position);
    cluster.propose(1, "g");
    cluster.settle();
    cluster.group(1).beat();
    cluster.settle();
    assert_eq!(cluster.state(3), cluster.state(1), "a report that comes twice changes nothing");
}

/// The first entry behind the new state may be asked of it at once.
#[test]
fn a_replica_that_switched_says_so_itself() {
    let mut cluster = behind();
    cluster.member(1).provide_snapshots();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    let offer = cluster.member(3).offers.pop_front().expect("an offer");
    assert!(cluster.member(3).install(&offer));
    cluster.settle();
    assert_ne!(cluster.group(1).progress_of(ReplicaId(3)).unwrap().state, ReplicationState::Snapshot);
}

#[test]
fn only_a_newer_state_of_a_known_term_is_switched_to() {
    let mut cluster = behind();
    let term = cluster.group(1).term();
    let last = cluster.group(1).last_index();
    let commit = cluster.group(3).commit_index();
    let may = |cluster: &mut Cluster, id, index, term| cluster.group(id).may_switch(SnapshotPosition { index, term });
    assert!(may(&mut cluster, 3, last, term));
    assert!(!may(&mut cluster, 3, commit, term), "it is here");
    assert!(!may(&mut cluster, 3, last, Term(term.0 + 1)), "a vote of that term could be forgotten");
    assert!(!may(&mut cluster, 1, LogIndex(last.0 + 1), term), "it leads");
    assert!(!may(&mut cluster, 2, last, term), "its log has the entry");
}

/// What this replica has already needs no transfer: raft-rs answers with what is committed.
#[test]
fn a_snapshot_of_what_is_there_is_no_offer() {
    let mut cluster = behind();
    cluster.member(1).provide_snapshots();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    let snapshot =
        cluster.delivered.iter().find(|message| message.get_msg_type() == MessageType::MsgSnapshot).unwrap().clone();
    let offer = cluster.member(3).offers.pop_front().unwrap();
    cluster.member(3).install(&offer);
    cluster.group(3).step(snapshot).unwrap();
    cluster.member(3).pump();
    assert!(cluster.member(3).offers.is_empty());
    assert!(cluster.member(3).outbox.iter().any(|answer| {
        answer.get_msg_type() == MessageType::MsgAppendResponse && answer.index >= offer.position.index.0
    }));
}
