//! Linearizable reads across replicas.

use raft::prelude::MessageType;

use super::super::{ReadError, ReadToken, Role};
use super::cluster::Cluster;
use crate::{ids::ReplicaId, limits};

#[test]
fn a_read_is_confirmed_by_a_majority_and_waits_for_apply() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let (_, index) = cluster.propose(1, "a");
    cluster.member(1).holds_apply = true;
    cluster.settle();
    cluster.group(1).read_index(ReadToken(1)).unwrap();
    cluster.settle();
    assert!(cluster.member(1).reads_ready.is_empty(), "what it has to see is not applied");
    cluster.member(1).holds_apply = false;
    cluster.settle();
    assert_eq!(cluster.member(1).reads_ready, [(ReadToken(1), index)]);
}

/// With leases, raft-rs let a former leader answer beside a new one, without any clock being wrong.
#[test]
fn p8_a_former_leader_answers_no_read() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    cluster.elect(2);
    cluster.propose(2, "newer");
    cluster.settle();
    assert_eq!(cluster.group(1).role(), Role::Leader, "it does not know yet");
    cluster.group(1).read_index(ReadToken(1)).unwrap();
    cluster.settle();
    assert!(cluster.member(1).reads_ready.is_empty());
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert!(cluster.member(1).reads_ready.is_empty());
    assert_eq!(cluster.member(1).reads_failed, [ReadToken(1)]);
    let refused = cluster.group(1).read_index(ReadToken(2));
    assert_eq!(refused, Err(ReadError::NotLeader { leader: Some(ReplicaId(2)) }));
}

#[test]
fn reads_share_rounds() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let heartbeats = cluster.sent(MessageType::MsgHeartbeat);
    for token in 0..100 {
        cluster.group(1).read_index(ReadToken(token)).unwrap();
    }
    cluster.settle();
    assert_eq!(cluster.member(1).reads_ready.len(), 100);
    assert_eq!(cluster.sent(MessageType::MsgHeartbeat), heartbeats + 2, "one to each follower");
}

/// raft-rs drops a read of a leader that has not committed in its term; here it waits.
#[test]
fn a_read_of_a_new_leader_waits_for_its_first_commit() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.lost.insert(MessageType::MsgAppendResponse);
    cluster.elect(2);
    cluster.group(2).read_index(ReadToken(1)).unwrap();
    cluster.settle();
    assert!(cluster.member(2).reads_ready.is_empty());
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.member(2).reads_ready.len(), 1);
}

#[test]
fn a_round_whose_messages_were_lost_is_repeated_by_the_next_heartbeat() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.lost.insert(MessageType::MsgHeartbeat);
    cluster.group(1).read_index(ReadToken(1)).unwrap();
    cluster.settle();
    assert!(cluster.member(1).reads_ready.is_empty());
    cluster.heal();
    cluster.group(1).beat();
    cluster.settle();
    assert_eq!(cluster.member(1).reads_ready.len(), 1);
}

#[test]
fn the_only_voter_confirms_its_reads_itself() {
    let mut cluster = Cluster::new(1);
    cluster.tick(1);
    cluster.group(1).read_index(ReadToken(1)).unwrap();
    cluster.settle();
    assert_eq!(cluster.member(1).reads_ready.len(), 1);
}
