//! Messages that raft-rs would panic on, or obey although it must not.

use bytes::Bytes;
use proptest::prelude::*;
use raft::prelude::{ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};

use super::super::{Invalid, Refused, Role};
use super::cluster::Cluster;
use super::member::command;
use crate::{
    ids::{LogIndex, ReplicaId, Term},
    limits,
};

/// A follower with a leader and one applied command.
fn follower() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.tick(limits::HEARTBEAT_TICKS);
    cluster
}

fn message(message_type: MessageType, term: u64) -> Message {
    let mut message = Message { from: 1, to: 2, term, ..Message::default() };
    message.set_msg_type(message_type);
    message
}

fn append(cluster: &mut Cluster, entries: Vec<(u64, u64)>) -> Message {
    let (term, last) = (cluster.group(2).term(), cluster.group(2).last_index());
    let mut message = message(MessageType::MsgAppend, term.0);
    message.index = last.0;
    message.log_term = term.0;
    message.entries = entries.into_iter().map(|(index, term)| Entry { index, term, ..Entry::default() }).collect();
    message
}

fn refuse(cluster: &mut Cluster, message: Message, because: Invalid) {
    let before = (cluster.group(2).term(), cluster.group(2).last_index(), cluster.group(2).leader());
    assert_eq!(cluster.group(2).step(message), Err(Refused::Invalid(because)));
    cluster.member(2).pump();
    let after = (cluster.group(2).term(), cluster.group(2).last_index(), cluster.group(2).leader());
    assert_eq!(before, after);
}

#[test]
fn p6a_unknown_message_types() {
    let mut cluster = follower();
    let unknown = Message { msg_type: 77, ..message(MessageType::MsgAppend, 2) };
    refuse(&mut cluster, unknown, Invalid::Type(77));
}

#[test]
fn p6b_unknown_entry_types() {
    let mut cluster = follower();
    let (term, next) = (cluster.group(2).term().0, cluster.group(2).last_index().next().0);
    let mut unknown = append(&mut cluster, vec![(next, term)]);
    unknown.entries[0].entry_type = 9;
    refuse(&mut cluster, unknown, Invalid::EntryType(9));

    let mut no_change = append(&mut cluster, vec![(next, term)]);
    no_change.entries[0].set_entry_type(EntryType::EntryConfChangeV2);
    no_change.entries[0].data = Bytes::from_static(&[0xff]);
    refuse(&mut cluster, no_change, Invalid::EntryChange);

    let mut unknown_step = append(&mut cluster, vec![(next, term)]);
    unknown_step.entries[0].set_entry_type(EntryType::EntryConfChangeV2);
    unknown_step.entries[0].data = Bytes::from_static(&[0x12, 4, 0x08, 9, 0x10, 3]);
    refuse(&mut cluster, unknown_step, Invalid::EntryChange);
}

/// Proposals, reads and the steps of a replica with itself do not travel. Empty ones would panic, forwarded ones would
/// bypass every check.
#[test]
fn p6c_types_that_do_not_travel() {
    let mut cluster = follower();
    for message_type in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgPropose,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
    ] {
        let term = cluster.group(2).term().0;
        refuse(&mut cluster, message(message_type, term), Invalid::Type(message_type as i32));
    }
}

#[test]
fn p6e_entries_that_are_not_contiguous() {
    let mut cluster = follower();
    let (term, next) = (cluster.group(2).term().0, cluster.group(2).last_index().next().0);
    let gap = append(&mut cluster, vec![(next, term), (next + 2, term)]);
    refuse(&mut cluster, gap, Invalid::EntryIndex { found: next + 2, expected: next + 1 });
    let ahead = append(&mut cluster, vec![(next + 1, term)]);
    refuse(&mut cluster, ahead, Invalid::EntryIndex { found: next + 1, expected: next });
    let back = append(&mut cluster, vec![(next, term - 1)]);
    refuse(&mut cluster, back, Invalid::EntryTerm { found: term - 1, before: term, message: term });
    let future = append(&mut cluster, vec![(next, term + 1)]);
    refuse(&mut cluster, future, Invalid::EntryTerm { found: term + 1, before: term, message: term });
}

/// raft-rs takes term, leader and log from a replica that was never a member.
#[test]
fn p6f_strangers_are_not_obeyed() {
    let mut cluster = follower();
    for message_type in [
        MessageType::MsgAppend,
        MessageType::MsgHeartbeat,
        MessageType::MsgRequestVote,
        MessageType::MsgRequestPreVote,
        MessageType::MsgTimeoutNow,
    ] {
        for from in [0, 2, 66] {
            let stranger = Message { from, ..message(message_type, 99) };
            refuse(&mut cluster, stranger, Invalid::Stranger(ReplicaId(from)));
        }
    }
    let misdirected = Message { to: 3, ..message(MessageType::MsgHeartbeat, 99) };
    refuse(&mut cluster, misdirected, Invalid::Receiver(ReplicaId(3)));

    // One that the group is about to add may lead before this replica applies the change.
    cluster.group(2).introduce(ReplicaId(66));
    let introduced = Message { from: 66, ..message(MessageType::MsgHeartbeat, 99) };
    cluster.group(2).step(introduced).unwrap();
    assert_eq!((cluster.group(2).term(), cluster.group(2).leader()), (Term(99), Some(ReplicaId(66))));
}

#[test]
fn answers_of_replicas_that_are_not_members_are_refused() {
    let mut cluster = follower();
    cluster.group(1).introduce(ReplicaId(66));
    let term = cluster.group(1).term().0;
    let answer = Message { from: 66, to: 1, ..message(MessageType::MsgAppendResponse, term) };
    assert_eq!(cluster.group(1).step(answer), Err(Refused::NotMember));
}

#[test]
fn numbers_that_would_overflow() {
    let mut cluster = follower();
    let term = cluster.group(2).term().0;
    refuse(&mut cluster, message(MessageType::MsgRequestVote, u64::MAX), Invalid::Term(u64::MAX));
    refuse(&mut cluster, message(MessageType::MsgHeartbeat, 0), Invalid::Term(0));
    let matches_anywhere = Message { index: 99, commit: 99, ..message(MessageType::MsgAppend, term) };
    refuse(&mut cluster, matches_anywhere, Invalid::Term(0));
    let hint = Message { reject: true, reject_hint: u64::MAX, ..message(MessageType::MsgAppendResponse, term) };
    refuse(&mut cluster, hint, Invalid::Index(u64::MAX));
    let place = Message { index: u64::MAX, log_term: 1, ..message(MessageType::MsgAppend, term) };
    refuse(&mut cluster, place, Invalid::Index(u64::MAX));
}

#[test]
fn a_leader_believes_no_acknowledgement_of_what_it_never_sent() {
    let mut cluster = follower();
    let (term, beyond) = (cluster.group(1).term().0, cluster.group(1).last_index().0 + 5);
    let answer = Message { from: 2, to: 1, index: beyond, ..message(MessageType::MsgAppendResponse, term) };
    let refused = Refused::Invalid(Invalid::Acknowledgement { index: LogIndex(beyond) });
    assert_eq!(cluster.group(1).step(answer), Err(refused));
}

#[test]
fn parts_that_a_type_does_not_have() {
    let mut cluster = follower();
    let term = cluster.group(2).term().0;
    let with_entries = Message { entries: vec![Entry::default()], ..message(MessageType::MsgHeartbeat, term) };
    refuse(&mut cluster, with_entries, Invalid::Excess);
    let asks_for_snapshot = Message { request_snapshot: 3, ..message(MessageType::MsgAppendResponse, term) };
    refuse(&mut cluster, asks_for_snapshot, Invalid::Excess);
    let high_priority = Message { priority: 5, ..message(MessageType::MsgRequestVote, term + 1) };
    refuse(&mut cluster, high_priority, Invalid::Excess);
    let long_context = Message { context: vec![0; 65].into(), ..message(MessageType::MsgHeartbeat, term) };
    refuse(&mut cluster, long_context, Invalid::Excess);
}

#[test]
fn snapshots_without_a_place_or_without_us() {
    let mut cluster = follower();
    let term = cluster.group(2).term().0;
    let snapshot = |voters: Vec<u64>, index, snapshot_term| Message {
        snapshot: Some(Snapshot {
            data: Bytes::new(),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(ConfState::from((voters, vec![]))),
                index,
                term: snapshot_term,
            }),
        }),
        ..message(MessageType::MsgSnapshot, term)
    };
    refuse(&mut cluster, message(MessageType::MsgSnapshot, term), Invalid::Snapshot);
    refuse(&mut cluster, snapshot(vec![1, 3], 100, term), Invalid::Snapshot);
    refuse(&mut cluster, snapshot(vec![1, 2, 2], 100, term), Invalid::Snapshot);
    refuse(&mut cluster, snapshot(vec![1, 2], 0, term), Invalid::Snapshot);
    refuse(&mut cluster, snapshot(vec![1, 2], 100, term + 1), Invalid::Snapshot);
}

#[test]
fn small_entries_do_not_hold_on_to_the_frame_they_came_in() {
    let mut cluster = follower();
    let frame = Bytes::from(vec![b'x'; 1 << 20]);
    let (term, next) = (cluster.group(2).term().0, cluster.group(2).last_index().next().0);
    let mut message = append(&mut cluster, vec![(next, term), (next + 1, term)]);
    let (context, _) = command("");
    message.entries[0].context = context.clone();
    message.entries[0].data = frame.slice(..100);
    message.entries[1].context = context;
    message.entries[1].data = frame.slice(100..100 + limits::BATCH_SHARED_BYTES_MIN);
    message.commit = next + 1;
    let within = frame.as_ptr_range();
    cluster.group(2).step(message).unwrap();
    cluster.settle();
    let applied = &cluster.member(2).applied;
    let [.., small, large] = applied.as_slice() else { panic!("both are applied") };
    assert_eq!((small.data.len(), large.data.len()), (100, limits::BATCH_SHARED_BYTES_MIN));
    assert!(!within.contains(&small.data.as_ptr()), "copied");
    assert!(within.contains(&large.data.as_ptr()), "shared");
}

/// A follower that applies slowly takes no more than its bound, but still learns where its log has to be cut.
#[test]
fn a_follower_that_lags_with_apply_drops_appends() {
    let mut cluster = follower();
    cluster.member(2).holds_apply = true;
    let (term, next) = (cluster.group(2).term().0, cluster.group(2).last_index().next().0);
    let block = Bytes::from(vec![0; limits::BATCH_BYTES_MAX / 2]);
    let mut index = next;
    let refused = loop {
        let mut message = append(&mut cluster, vec![(index, term)]);
        message.entries[0].data = block.clone();
        match cluster.group(2).step(message) {
            Ok(()) => index += 1,
            Err(refused) => break refused,
        }
        cluster.member(2).pump();
        assert!(index < next + 10, "the bound holds");
    };
    assert_eq!(refused, Refused::Full);

    let mut replacing = append(&mut cluster, vec![(next, term + 1)]);
    replacing.index = next - 1;
    replacing.term = term + 1;
    cluster.group(2).step(replacing).unwrap();
    assert_eq!(cluster.group(2).last_index(), LogIndex(next));
}

prop_compose! {
    fn numbers()(small in 0u64..12, large in any::<u64>(), which in 0u8..20) -> u64 {
        if which == 0 { large } else { small }
    }
}

prop_compose! {
    fn any_entry()(
        entry_type in -1i32..4,
        term in numbers(),
        index in numbers(),
        data in prop::collection::vec(any::<u8>(), 0..12),
        context in prop::collection::vec(any::<u8>(), 0..3),
    ) -> Entry {
        Entry { entry_type, term, index, data: data.into(), context: context.into(), sync_log: false }
    }
}

prop_compose! {
    fn any_message()(
        (msg_type, to, from) in (-1i32..20, 1u64..4, 0u64..5),
        (term, log_term, index, commit, commit_term) in (numbers(), numbers(), numbers(), numbers(), numbers()),
        mut entries in prop::collection::vec(any_entry(), 0..4),
        (contiguous, reject, reject_hint) in (any::<bool>(), any::<bool>(), numbers()),
        snapshot in prop::option::of((numbers(), numbers(), prop::collection::vec(0u64..5, 0..4))),
        context in prop::collection::vec(any::<u8>(), 0..9),
    ) -> Message {
        if contiguous {
            for (i, entry) in entries.iter_mut().enumerate() {
                entry.index = index.wrapping_add(1 + i as u64);
                entry.term = log_term;
            }
        }
        Message {
            msg_type, to, from, term, log_term, index, commit, commit_term, entries, reject, reject_hint,
            context: context.into(),
            snapshot: snapshot.map(|(index, term, voters)| Snapshot {
                data: Bytes::new(),
                metadata: Some(SnapshotMetadata { conf_state: Some((voters, vec![]).into()), index, term }),
            }),
            ..Message::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever arrives, in whatever order and role: an error or nothing, never a panic.
    #[test]
    fn no_message_makes_a_group_panic(
        messages in prop::collection::vec((any_message(), 0u8..12), 1..60),
        role in 0u8..3,
    ) {
        let mut cluster = Cluster::new(3);
        match role {
            0 => cluster.elect(2),
            1 => cluster.elect(1),
            _ => {}
        }
        let member = cluster.member(2);
        member.holds_apply = true;
        for (message, what) in messages {
            let message = Message { to: if what == 0 { message.to } else { 2 }, ..message };
            let _ = member.group().step(message);
            match what {
                1 => member.group().tick(),
                2 => member.group().campaign(),
                3 => drop(member.group().propose(vec![command("x")])),
                4 => member.sync(1),
                _ => {}
            }
            member.pump();
        }
        prop_assert!(member.group().term() < Term(1 << 31));
        let _ = member.group().role() == Role::Leader;
    }
}
