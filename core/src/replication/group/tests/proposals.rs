//! Proposals: who takes them, how much, and when they fail.

use bytes::Bytes;
use prost::Message as _;
use raft::prelude::MessageType;

use super::super::{ProposeError, Role, TransferError};
use super::cluster::Cluster;
use super::member::{GROUP, command};
use crate::{
    ids::{GroupId, LogIndex, ReplicaId},
    limits,
};

/// raft-rs's own batching merges appends past the size limit; several commands in one step are split by it instead.
#[test]
fn p7_messages_keep_their_size_limit() {
    let mut cluster = Cluster::new(2);
    cluster.elect(1);
    let batch = Bytes::from(vec![0; 200 << 10]);
    cluster.isolate(2);
    for _ in 0..8 {
        cluster.group(1).propose((0..4).map(|_| command(batch.clone())).collect()).unwrap();
        cluster.settle();
    }
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.member(2).applied.len(), 32);
    let largest = cluster.delivered.iter().map(|message| message.encoded_len() as u64).max().unwrap();
    assert!(largest <= limits::RAFT_MESSAGE_BYTES_MAX + 4096, "{largest}");
    let appends = cluster.delivered.iter().filter(|message| message.entries.len() > 1).count();
    assert!(appends > 0, "and several entries share a message");
}

/// raft-rs forwards a follower's proposal to the leader, silently.
#[test]
fn p10_a_follower_takes_no_proposal() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let delivered = cluster.delivered.len();
    let refused = cluster.group(2).propose(vec![command("a")]);
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(ReplicaId(1)) }));
    cluster.settle();
    assert_eq!(cluster.delivered.len(), delivered, "nothing is forwarded");
}

/// raft-rs's own limit counts payloads of committed entries, which it is only shown without: it would never drain.
#[test]
fn p12_the_budget_for_proposals_drains_as_entries_are_applied() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let batch = Bytes::from(vec![0; 1 << 20]);
    let budget = limits::GROUP_PROPOSED_BYTES_MAX >> 20;
    for _ in 0..3 {
        cluster.member(1).holds_apply = true;
        let mut taken = 0;
        while cluster.group(1).propose(vec![command(batch.clone())]).is_ok() {
            taken += 1;
            cluster.settle();
        }
        assert_eq!(taken, budget - 1, "headers count too");
        assert_eq!(cluster.group(1).propose(vec![command(batch.clone())]), Err(ProposeError::Busy));
        cluster.member(1).holds_apply = false;
        cluster.settle();
        assert_eq!(cluster.group(1).unapplied_bytes(), 0);
    }
}

#[test]
fn the_largest_command_is_taken_by_an_idle_group_and_a_larger_one_by_none() {
    let mut cluster = Cluster::new(1);
    cluster.tick(1);
    let largest = Bytes::from(vec![0; limits::BATCH_BYTES_MAX]);
    cluster.group(1).propose(vec![command(largest)]).unwrap();
    cluster.settle();
    assert_eq!(cluster.member(1).applied.len(), 1);
    let larger = Bytes::from(vec![0; limits::RAFT_ENTRY_BYTES_MAX]);
    assert!(matches!(cluster.group(1).propose(vec![command(larger)]), Err(ProposeError::TooLarge(_))));
}

#[test]
fn commands_of_one_proposal_stand_in_the_log_in_order() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let commands = ["a", "b", "c"].map(command).to_vec();
    let (term, first) = cluster.group(1).propose(commands).unwrap();
    cluster.tick(limits::HEARTBEAT_TICKS);
    let applied = &cluster.member(2).applied;
    let places: Vec<_> = applied.iter().map(|entry| (entry.index, entry.term, entry.data.clone())).collect();
    let place = |offset, data: &'static str| (LogIndex(first.0 + offset), term, Bytes::from(data));
    assert_eq!(places, [place(0, "a"), place(1, "b"), place(2, "c")]);
}

#[test]
fn leadership_is_handed_over_and_nothing_is_proposed_meanwhile() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    assert_eq!(
        cluster.group(2).transfer_leader(ReplicaId(1)),
        Err(TransferError::NotLeader { leader: Some(ReplicaId(1)) })
    );
    for nobody in [1, 66] {
        let refused = TransferError::NotAnotherVoter(ReplicaId(nobody));
        assert_eq!(cluster.group(1).transfer_leader(ReplicaId(nobody)), Err(refused));
    }
    cluster.group(1).transfer_leader(ReplicaId(3)).unwrap();
    assert_eq!(cluster.group(1).propose(vec![command("a")]), Err(ProposeError::Transferring));
    cluster.settle();
    assert_eq!(cluster.group(3).role(), Role::Leader);
    assert_eq!(cluster.group(1).leader(), Some(ReplicaId(3)));
}

#[test]
fn a_transfer_that_fails_ends_after_an_election_timeout() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.lost.insert(MessageType::MsgTimeoutNow);
    cluster.group(1).transfer_leader(ReplicaId(3)).unwrap();
    cluster.tick(limits::ELECTION_TICKS);
    assert_eq!(cluster.group(1).role(), Role::Leader);
    cluster.propose(1, "a");
    cluster.settle();
    assert_eq!(cluster.applied(1), ["a"]);
}

/// Whoever waits learns that its entry may have been replaced.
#[test]
fn rule_23_the_end_of_a_leadership_is_reported() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    let (term, index) = cluster.propose(1, "lost");
    cluster.settle();
    cluster.elect(2);
    cluster.propose(2, "kept");
    cluster.member(1).roles.clear();
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    let change = *cluster.member(1).roles.last().expect("a change");
    assert!(change.term > term && change.role == Role::Follower);
    assert_eq!(change.leader, Some(ReplicaId(2)));
    assert_eq!(cluster.applied(1), ["kept"]);
    assert_ne!(cluster.group(1).log().log_term(index), term, "its place was taken");
}

/// A new leader knows what is committed only after an entry of its own term is.
#[test]
fn rule_24_a_new_leader_does_not_know_the_commit_index_yet() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let (_, index) = cluster.propose(1, "a");
    cluster.settle();
    cluster.lost.insert(MessageType::MsgAppend);
    cluster.elect(2);
    assert!(cluster.group(2).commit_index() < index, "committed by 1, which 2 was not told");
    assert!(!cluster.group(2).commit_is_current_term());
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert!(cluster.group(2).commit_is_current_term() && cluster.group(2).applied_is_current_term());
    assert_eq!(cluster.applied(2), ["a"]);
}

#[test]
fn every_node_hears_at_once_what_the_metadata_group_committed() {
    for (group, hears) in [(GROUP, false), (GroupId::METADATA, true)] {
        let mut cluster = Cluster::new(3);
        for member in cluster.members.values_mut() {
            member.group_id = group;
            member.start();
        }
        cluster.elect(1);
        cluster.propose(1, "a");
        cluster.settle();
        assert_eq!(cluster.applied(1), ["a"]);
        assert_eq!(cluster.applied(2) == ["a"], hears, "group {group}, before any heartbeat");
    }
}

/// From the producer's frame to the WAL, the followers' frames and apply: one allocation.
#[test]
fn a_large_payload_is_never_copied() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let batch = Bytes::from(vec![7; limits::BATCH_SHARED_BYTES_MIN]);
    let group = cluster.group(1);
    group.propose(vec![command(batch.clone())]).unwrap();
    let mut out = super::super::GroupOutput::default();
    group.poll(&mut out);
    let sent: Vec<_> = out.messages.iter().flat_map(|message| &message.entries).map(|entry| &entry.data).collect();
    assert_eq!(sent.len(), 2);
    let written = out.writes.iter().flat_map(|write| &write.records).find_map(|record| match record {
        crate::log::record::WalRecord::Entry(entry) => Some(&entry.data),
        _ => None,
    });
    for data in sent.into_iter().chain(written) {
        assert_eq!(data.as_ptr(), batch.as_ptr());
    }
    assert_eq!(group.log().payload(group.last_index()).unwrap().data.as_ptr(), batch.as_ptr());
}

#[test]
fn how_much_a_member_lacks_is_counted_in_entries_and_in_bytes() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let before = cluster.group(1).last_index();
    let batch = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..8 {
        cluster.group(1).propose(vec![command(batch.clone())]).unwrap();
        cluster.settle();
    }
    let group = cluster.group(1);
    assert!(group.lacks_at_most(before, 8, 9 << 20));
    assert!(!group.lacks_at_most(before, 7, 9 << 20), "too many entries");
    assert!(!group.lacks_at_most(before, 1000, 7 << 20), "few entries may be many bytes");
    assert!(group.lacks_at_most(LogIndex(before.0 + 4), 1000, 5 << 20));
    assert!(group.lacks_at_most(group.last_index(), 0, 0));
}
