//! What Kauri relies on: the bytes never change, decoding copies no payload, and raft-rs's codec trait agrees.

use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;
use raft_proto::{
    ConfChangeI, conf_state_eq, new_conf_change_single,
    prelude::{
        ConfChange, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, HardState,
        Message, MessageType, Snapshot, SnapshotMetadata,
    },
};

fn entry(index: u64, data: Bytes) -> Entry {
    let mut entry = Entry { index, term: 7, data, context: Bytes::from_static(b"header"), ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    entry
}

fn append() -> Message {
    let mut message = Message {
        to: 2,
        from: 1,
        term: 7,
        log_term: 6,
        index: 41,
        entries: vec![entry(42, Bytes::from_static(b"abc")), entry(43, Bytes::new())],
        commit: 40,
        commit_term: 6,
        reject: true,
        reject_hint: 39,
        context: Bytes::from_static(b"ctx"),
        priority: -1,
        ..Message::default()
    };
    message.set_msg_type(MessageType::MsgAppend);
    message.set_snapshot(Snapshot {
        data: Bytes::from_static(b"image"),
        metadata: Some(SnapshotMetadata { conf_state: Some((vec![1, 2], vec![3]).into()), index: 9, term: 2 }),
    });
    message
}

#[test]
fn a_message_survives_encoding() {
    let message = append();
    let frame = Bytes::from(message.encode_to_vec());
    assert_eq!(Message::decode(frame).unwrap(), message);
}

#[test]
fn decoding_from_a_frame_copies_no_payload() {
    let payload = Bytes::from(vec![b'x'; 100_000]);
    let mut message = append();
    message.entries = vec![entry(42, payload)];
    let frame = Bytes::from(message.encode_to_vec());
    let within = frame.as_ptr_range();

    let decoded = Message::decode(frame.clone()).unwrap();

    let data = &decoded.entries[0].data;
    assert_eq!(data.len(), 100_000);
    assert!(within.contains(&data.as_ptr()), "the entry's data lies in the frame");
    assert!(within.contains(&decoded.entries[0].context.as_ptr()), "and so does its context");
}

#[test]
fn the_bytes_on_the_wire_are_these() {
    let mut small = Entry { term: 3, index: 300, data: Bytes::from_static(b"d"), ..Entry::default() };
    small.context = Bytes::from_static(b"c");
    assert_eq!(small.encode_to_vec(), [0x10, 3, 0x18, 0xac, 2, 0x22, 1, b'd', 0x32, 1, b'c']);

    let hard_state = HardState { term: 1, vote: 2, commit: 3 };
    assert_eq!(hard_state.encode_to_vec(), [0x08, 1, 0x10, 2, 0x18, 3]);

    let vote = Message { msg_type: 5, to: 2, from: 1, term: 4, commit_term: 3, priority: 1, ..Message::default() };
    assert_eq!(vote.encode_to_vec(), [0x08, 5, 0x10, 2, 0x18, 1, 0x20, 4, 0x78, 3, 0x80, 1, 1]);

    let change = ConfChangeV2 {
        transition: ConfChangeTransition::Explicit as i32,
        changes: vec![new_conf_change_single(9, ConfChangeType::AddLearnerNode)],
        context: Bytes::new(),
    };
    assert_eq!(change.encode_to_vec(), [0x08, 2, 0x12, 4, 0x08, 2, 0x10, 9]);
}

#[test]
fn the_codec_that_raft_calls_writes_and_reads_the_same_bytes() {
    let message = append();
    let bytes = message.write_to_bytes().unwrap();
    assert_eq!(bytes, message.encode_to_vec());
    assert_eq!(message.compute_size() as usize, bytes.len());
    assert_eq!(Message::parse_from_bytes(&bytes).unwrap(), message);

    let mut read = Message::default();
    read.merge_from_bytes(&bytes).unwrap();
    assert_eq!(read, message);
    assert!(read.merge_from_bytes(&bytes[..bytes.len() - 1]).is_err(), "a truncated message is an error, not a panic");
}

#[test]
fn a_change_of_one_step_is_made_at_once_and_others_are_joint() {
    let step = |node| new_conf_change_single(node, ConfChangeType::AddNode);
    let change = |transition: ConfChangeTransition, changes| ConfChangeV2 {
        transition: transition as i32,
        changes,
        context: Bytes::new(),
    };
    assert_eq!(change(ConfChangeTransition::Auto, vec![step(1)]).enter_joint(), None);
    assert_eq!(change(ConfChangeTransition::Auto, vec![step(1), step(2)]).enter_joint(), Some(true));
    assert_eq!(change(ConfChangeTransition::Explicit, vec![step(1)]).enter_joint(), Some(false));
    assert!(change(ConfChangeTransition::Auto, vec![]).leave_joint());
    assert!(!change(ConfChangeTransition::Explicit, vec![]).leave_joint());

    let old = ConfChange { change_type: ConfChangeType::RemoveNode as i32, node_id: 4, ..ConfChange::default() };
    assert_eq!(old.as_v2().changes, [new_conf_change_single(4, ConfChangeType::RemoveNode)]);
}

#[test]
fn members_in_another_order_are_the_same_membership() {
    let membership = |voters: &[u64]| ConfState::from((voters.to_vec(), vec![9]));
    assert!(conf_state_eq(&membership(&[1, 2, 3]), &membership(&[3, 1, 2])));
    assert!(!conf_state_eq(&membership(&[1, 2, 3]), &membership(&[1, 2, 4])));
    assert!(!conf_state_eq(&membership(&[1, 2]), &membership(&[1, 2, 3])));
}
