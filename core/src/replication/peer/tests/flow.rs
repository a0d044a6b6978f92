//! How messages travel: together, in order where it matters, and never more than the windows allow.

use bytes::Bytes;

use super::world::*;
use crate::{
    limits,
    replication::peer::{ControlKind, NotSent, PeerEvent},
};

const MIB: usize = 1 << 20;

#[test]
fn everything_of_a_turn_is_one_frame() {
    let mut world = World::connected(&[A, B]);
    let before = world.node(A).frames;
    for index in 0..1000 {
        world.send(A, B, index, heartbeat(index)).unwrap();
    }
    world.turn(A);
    assert_eq!(world.node(A).frames - before, 1);
    world.run_for(50);
    assert_eq!(world.messages(B), (0..1000).collect::<Vec<u64>>());
}

#[test]
fn a_turn_with_more_than_a_frame_becomes_several() {
    let mut world = World::connected(&[A, B]);
    let before = world.node(A).frames;
    for index in 0..60 {
        world.send(A, B, index, append(index, 60 << 10)).unwrap();
    }
    world.turn(A);
    assert_eq!(world.node(A).frames - before, 4, "3.5 MiB in frames of at most 1 MiB");
    world.run_for(50);
    assert_eq!(world.messages(B), (0..60).collect::<Vec<u64>>());
}

#[test]
fn an_append_never_overtakes_an_earlier_one_of_its_group() {
    let mut world = World::connected(&[A, B]);
    for index in 1..=6 {
        let size = if index % 2 == 1 { MIB } else { 10 };
        world.send(A, B, 1, append(index, size)).unwrap();
    }
    world.send(A, B, 1, heartbeat(99)).unwrap();
    world.send(A, B, 2, append(50, 10)).unwrap();
    world.turn(A);
    world.run_for(50);
    let arrived = world.messages(B);
    let of_group: Vec<u64> = arrived.iter().copied().filter(|index| *index < 50).collect();
    assert_eq!(of_group, [1, 2, 3, 4, 5, 6]);
    let place = |index| arrived.iter().position(|&arrived| arrived == index).unwrap();
    assert!(place(99) < place(1) && place(50) < place(1), "heartbeats and other groups do not wait for bulk");
}

#[test]
fn a_receiver_that_takes_nothing_is_sent_a_bounded_amount() {
    let mut world = World::connected(&[A, B]);
    world.pause(B, 400);
    let mut sent = 0;
    let mut refused = 0;
    for round in 0..100 {
        for group in 1..=10 {
            match world.send(A, B, group, append(round, MIB)) {
                Ok(()) => sent += MIB,
                Err(error) => {
                    assert_eq!(error, NotSent::WindowFull);
                    refused += 1;
                }
            }
        }
        world.turn(A);
        world.run_for(1);
    }
    assert!(sent.abs_diff(limits::PEER_WINDOW_BYTES) <= MIB, "{sent}");
    assert!(refused > 0);
    world.run_for(1000);
    world.send(A, B, 1, append(500, MIB)).expect("what arrived makes room");
    assert!(world.verdicts(A, B).is_empty());
}

#[test]
fn acknowledgements_keep_a_sender_going_without_waiting_for_pings() {
    let mut world = World::connected(&[A, B]);
    let begin = world.now;
    let mut index = 0;
    while index < 256 {
        while index < 256 && world.send(A, B, 1, append(index, MIB)).is_ok() {
            index += 1;
        }
        world.turn(A);
        world.run_for(1);
    }
    let taken = world.now.since(begin);
    assert!(taken.as_millis() < 200, "256 MiB through a window of 8 MiB took {taken:?}");
    world.run_for(20);
    assert_eq!(world.messages(B), (0..256).collect::<Vec<u64>>());
}

#[test]
fn a_raft_lane_that_nobody_reads_does_not_grow() {
    let mut world = World::connected(&[A, B]);
    world.cut_both(A, B);
    world.latency = std::time::Duration::from_secs(3600);
    let mut bytes = 0;
    for index in 0..1_000_000 {
        let mut message = heartbeat(index);
        message.context = Bytes::from(vec![0; 1000]);
        match world.send(A, B, 1, message) {
            Ok(()) => bytes += 1000,
            Err(error) => {
                assert_eq!(error, NotSent::WindowFull);
                break;
            }
        }
    }
    assert!(bytes <= limits::RAFT_LANE_UNSENT_BYTES_MAX && bytes > limits::RAFT_LANE_UNSENT_BYTES_MAX / 2);
}

#[test]
fn without_a_link_nothing_is_queued() {
    let mut world = World::new(&[A]);
    assert_eq!(world.send(A, B, 1, heartbeat(1)), Err(NotSent::UnknownNode));
    let now = world.now_at(A);
    world.node(A).peers.set_peers(now, &addresses(&[A, B]));
    assert_eq!(world.send(A, B, 1, heartbeat(1)), Err(NotSent::NoLink));
    let huge = Bytes::from(vec![0; limits::PEER_FRAME_BYTES_MAX]);
    assert_eq!(world.node(A).peers.send_control(now, B, ControlKind(1), huge), Err(NotSent::TooLarge));
}

#[test]
fn control_messages_of_any_size_arrive() {
    let mut world = World::connected(&[A, B]);
    let sizes = [0, 100, 64 << 10, MIB, 16 * MIB];
    for (kind, size) in sizes.into_iter().enumerate() {
        let now = world.now_at(A);
        let bytes = Bytes::from(vec![kind as u8; size]);
        world.node(A).peers.send_control(now, B, ControlKind(kind as u16), bytes).unwrap();
    }
    world.turn(A);
    world.run_for(100);
    let mut arrived: Vec<(u16, usize)> = world
        .take_events(B)
        .into_iter()
        .filter_map(|(_, event)| match event {
            PeerEvent::Control { from, kind, bytes } if from == A => Some((kind.0, bytes.len())),
            _ => None,
        })
        .collect();
    arrived.sort_unstable();
    assert_eq!(arrived, sizes.into_iter().enumerate().map(|(kind, size)| (kind as u16, size)).collect::<Vec<_>>());
}

#[test]
fn appends_are_dropped_before_raft_while_the_wal_is_behind_and_heartbeats_are_not() {
    let mut world = World::connected(&[A, B]);
    world.node(B).backlog = limits::PEER_BACKLOG_BYTES_MAX;
    world.turn(B);
    world.send(A, B, 1, append(1, 100)).unwrap();
    world.send(A, B, 1, heartbeat(2)).unwrap();
    world.turn(A);
    world.run_for(50);
    assert_eq!(world.messages(B), [2]);
    world.node(B).backlog = 0;
    world.turn(B);
    world.send(A, B, 1, append(3, 100)).unwrap();
    world.turn(A);
    world.run_for(50);
    assert_eq!(world.messages(B), [3]);
}

#[test]
fn a_bulk_link_without_progress_is_dialled_anew_and_the_pair_stays_up() {
    let mut world = World::connected(&[A, B]);
    world.lost = 100;
    world.send(A, B, 1, append(1, MIB)).unwrap();
    world.turn(A);
    world.lost = 0;
    let dials = world.node(A).dials;
    world.run_for(limits::PEER_BULK_STALL.as_millis() as u64 - 500);
    assert_eq!(world.node(A).dials, dials);
    world.run_for(1000);
    assert_eq!(world.node(A).dials, dials + 1);
    assert!(world.verdicts(A, B).is_empty());
    world.send(A, B, 1, append(2, MIB)).unwrap();
    world.turn(A);
    world.run_for(50);
    assert_eq!(world.messages(B), [2]);
}

#[test]
fn the_median_of_the_clocks_needs_a_majority() {
    let mut world = World::connected(&[A, B, C]);
    let offset = |world: &World, node| world.nodes[&node].peers.median_clock_offset(world.now_at(node));
    assert!(offset(&world, A).unwrap().abs() <= 2);
    let year = 365 * 24 * 3600 * 1000;
    world.set_wall(A, year);
    world.run_for(300);
    assert!((offset(&world, A).unwrap() + year).abs() <= 2, "A is wrong and sees it");
    assert!(offset(&world, B).unwrap().abs() <= 2, "B is not moved by A");
    world.kill(C, Death::Refused);
    world.run_for(300);
    assert!((offset(&world, B).unwrap() - year / 2).abs() <= 2, "of two, neither is right");
    world.kill(A, Death::Refused);
    world.run_for(300);
    assert_eq!(offset(&world, B), None);
}
