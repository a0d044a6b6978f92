//! Nodes that die, pause or restart, links that break: what the others notice, and when.

use std::time::Duration;

use super::world::*;
use crate::{
    ids::{BootNumber, NodeId},
    limits,
    replication::peer::PeerEvent,
    time::Monotonic,
};

/// Milliseconds from `since` until `node` reported `other` down.
fn down_after(world: &mut World, node: NodeId, other: NodeId, since: Monotonic) -> u128 {
    let verdicts = world.verdicts(node, other);
    let down = verdicts.iter().find(|(_, up)| !up);
    down.unwrap_or_else(|| panic!("{node} noticed nothing")).0.since(since).as_millis()
}

#[test]
fn nodes_find_each_other_at_once_and_nothing_happens_afterwards() {
    let mut world = World::new(&[A, B, C]);
    world.run_for(100);
    for (from, to) in [(A, B), (B, A), (A, C), (C, A), (B, C), (C, B)] {
        assert!(world.is_up(from, to), "{from} {to}");
    }
    for node in [A, B, C] {
        let events = world.take_events(node);
        let ups = events.iter().filter(|(_, event)| matches!(event, PeerEvent::Up(_))).count();
        assert!(ups == 2 && events.len() == 4, "two peers said hello and came up: {events:?}");
    }
    world.run_for(60_000);
    for node in [A, B, C] {
        assert!(world.take_events(node).is_empty());
        assert_eq!(world.node(node).dials, 4, "two lanes to two peers");
        let frames = world.node(node).frames;
        assert!((1150..1400).contains(&frames), "ten pings a second to two peers, not {frames}");
    }
}

#[test]
fn a_killed_process_is_down_within_milliseconds() {
    let mut world = World::connected(&[A, B, C]);
    let since = world.now;
    world.kill(B, Death::Refused);
    world.run_for(1000);
    for node in [A, C] {
        let noticed = down_after(&mut world, node, B, since);
        assert!(noticed <= 10, "{noticed} ms");
    }
    assert!(world.is_up(A, C) && world.is_up(C, A));
}

#[test]
fn a_process_whose_connections_were_reset_is_down_within_300_milliseconds() {
    let mut world = World::connected(&[A, B]);
    let since = world.now;
    world.kill(B, Death::Reset);
    world.run_for(1000);
    let noticed = down_after(&mut world, A, B, since);
    assert!((150..=300).contains(&noticed), "{noticed} ms");
}

#[test]
fn a_host_that_fell_silent_is_down_within_600_milliseconds() {
    let mut world = World::connected(&[A, B]);
    let since = world.now;
    world.kill(B, Death::Silent);
    world.run_for(1000);
    let noticed = down_after(&mut world, A, B, since);
    assert!((400..=600).contains(&noticed), "{noticed} ms");
}

#[test]
fn a_pause_of_300_milliseconds_is_no_alarm_and_loses_nothing() {
    for phase in 0..10 {
        let mut world = World::connected(&[A, B]);
        world.run_for(phase * 11);
        world.pause(B, 300);
        world.send(A, B, 1, heartbeat(5)).unwrap();
        world.run_for(2000);
        assert!(world.verdicts(A, B).is_empty());
        assert_eq!(world.messages(B), [5]);
    }
}

#[test]
fn a_one_way_cut_is_down_on_both_sides_and_heals() {
    let mut world = World::connected(&[A, B, C]);
    let since = world.now;
    world.cut.insert((A, B));
    world.run_for(5000);
    for (node, other) in [(A, B), (B, A)] {
        let noticed = down_after(&mut world, node, other, since);
        assert!(noticed <= 700, "{node}: {noticed} ms");
        assert!(!world.is_up(node, other));
    }
    assert!(world.is_up(A, C) && world.is_up(C, B), "the others are not concerned");
    world.cut.clear();
    world.run_for(2500);
    assert!(world.is_up(A, B) && world.is_up(B, A));
}

#[test]
fn a_long_partition_heals_within_a_few_seconds() {
    let mut world = World::connected(&[A, B]);
    world.cut_both(A, B);
    world.run_for(60_000);
    assert!(!world.is_up(A, B));
    assert!(world.node(A).dials < 150, "{} dials in a minute", world.node(A).dials);
    world.cut.clear();
    world.run_for(2500);
    assert!(world.is_up(A, B) && world.is_up(B, A));
    world.take_events(B);
    world.send(A, B, 1, append(1, 1 << 20)).unwrap();
    world.turn(A);
    world.run_for(100);
    assert_eq!(world.messages(B), [1], "the bulk lane is back too");
}

#[test]
fn a_reset_in_the_middle_of_a_frame_loses_that_frame_and_nothing_else() {
    let mut world = World::connected(&[A, B]);
    world.send(A, B, 1, heartbeat(1)).unwrap();
    world.send(A, B, 1, append(2, 1 << 20)).unwrap();
    world.turn(A);
    world.reset_between(A, B);
    world.run_for(50);
    let events = world.take_events(A);
    assert!(events.iter().any(|(_, event)| matches!(event, PeerEvent::Unreachable(node) if *node == B)));
    assert!(!events.iter().any(|(_, event)| matches!(event, PeerEvent::Down(_))), "{events:?}");
    assert_eq!(world.messages(B), []);
    world.send(A, B, 1, heartbeat(3)).unwrap();
    world.send(A, B, 1, append(4, 1 << 20)).unwrap();
    world.turn(A);
    world.run_for(1000);
    assert_eq!(world.messages(B), [3, 4]);
    assert!(world.verdicts(A, B).is_empty());
}

#[test]
fn resets_again_and_again_are_no_alarm_while_the_peer_answers_at_once() {
    let mut world = World::connected(&[A, B]);
    for _ in 0..100 {
        world.run_for(150);
        world.reset_between(A, B);
    }
    world.run_for(1000);
    assert!(world.verdicts(A, B).is_empty());
    assert!(world.verdicts(B, A).is_empty());
}

#[test]
fn a_slow_network_has_time_to_connect_again() {
    for phase in 0..10 {
        let mut world = World::connected(&[A, B]);
        world.latency = Duration::from_millis(40);
        world.run_for(1000 + phase * 13);
        world.reset_dialled(B, A);
        world.run_for(1000);
        assert!(world.verdicts(A, B).is_empty(), "phase {phase}");
        assert!(world.verdicts(B, A).is_empty(), "phase {phase}");
    }
}

#[test]
fn a_link_that_was_silent_from_the_start_is_not_waited_for() {
    let mut world = World::empty(1);
    world.lost = 100;
    world.start(identity(A, 1), &[A, B]);
    world.start(identity(B, 1), &[A, B]);
    world.run_for(1000);
    world.lost = 0;
    world.run_for(limits::PEER_REDIAL_WHILE_DOWN.as_millis() as u64);
    assert!(world.is_up(A, B) && world.is_up(B, A));
}

#[test]
fn a_restart_is_a_down_and_an_up_however_fast_it_is() {
    let mut world = World::connected(&[A, B]);
    world.kill(B, Death::Silent);
    world.run_for(5);
    world.restart(B, &[A, B]);
    world.run_for(1000);
    let verdicts: Vec<bool> = world.verdicts(A, B).into_iter().map(|(_, up)| up).collect();
    assert_eq!(verdicts, [false, true]);
    assert_eq!(world.nodes[&A].peers.boot_of(B), Some(BootNumber(2)));
    assert!(world.is_up(B, A));
}

#[test]
fn a_bridge_keeps_both_sides() {
    let mut world = World::connected(&[A, B, C]);
    world.cut_both(A, C);
    world.run_for(3000);
    assert!(!world.is_up(A, C) && !world.is_up(C, A));
    assert!(world.verdicts(B, A).is_empty() && world.is_up(B, A) && world.is_up(B, C));
}

#[test]
fn a_peer_that_is_forgotten_is_left_alone_and_one_that_moved_is_dialled_again() {
    let mut world = World::connected(&[A, B, C]);
    let now = world.now_at(A);
    world.node(A).peers.set_peers(now, &addresses(&[A, C]));
    world.turn(A);
    let dials = world.node(A).dials;
    world.run_for(5000);
    assert!(world.verdicts(A, B).is_empty());
    assert_eq!(world.node(A).dials, dials);
    assert!(!world.is_up(A, B) && world.is_up(A, C));
    assert!(!world.is_up(B, A), "B hears nothing of A any more");
    let now = world.now_at(A);
    world.node(A).peers.set_peers(now, &addresses(&[A, B, C]));
    world.turn(A);
    world.run_for(2500);
    assert!(world.is_up(A, B) && world.is_up(B, A));
}

#[test]
fn after_any_chaos_everything_works_again() {
    for seed in 0..25 {
        let mut world = World::empty(seed);
        for node in [A, B, C] {
            world.start(identity(node, 1), &[A, B, C]);
        }
        (world.lost, world.repeated, world.reset) = (seed % 7, seed % 5, seed % 3);
        let mut index = 0;
        for round in 0..40 {
            match (seed + round * 7) % 11 {
                0 => world.cut_both(A, B),
                1 => drop(world.cut.insert((B, C))),
                2 => world.reset_between(A, C),
                3 => world.pause(B, 700),
                4 if world.nodes.contains_key(&C) => world.kill(C, Death::Silent),
                5 if world.nodes.contains_key(&C) => world.kill(C, Death::Refused),
                6 | 7 if !world.nodes.contains_key(&C) => world.restart(C, &[A, B, C]),
                _ => world.cut.clear(),
            }
            for _ in 0..5 {
                index += 1;
                for (from, to) in [(A, B), (B, A), (A, C), (B, C)] {
                    // Refused or lost: both happen, and both are right.
                    let size = if index % 3 == 0 { 1 << 20 } else { 100 };
                    world.send(from, to, index % 4, append(index, size)).ok();
                    world.turn(from);
                }
                world.run_for(60);
            }
        }
        world.cut.clear();
        (world.lost, world.repeated, world.reset) = (0, 0, 0);
        if !world.nodes.contains_key(&C) {
            world.restart(C, &[A, B, C]);
        }
        // Silence that was given more time by false alarms may take an election timeout, a stuck bulk link longer.
        world.run_for(limits::PEER_BULK_STALL.as_millis() as u64 + 8000);
        for (from, to) in [(A, B), (B, A), (A, C), (C, A), (B, C), (C, B)] {
            assert!(world.is_up(from, to), "seed {seed}: {from} {to}");
            world.take_events(to);
            for size in [10, 1 << 20] {
                world.send(from, to, 1, append(size as u64, size)).unwrap();
            }
            world.turn(from);
            world.run_for(100);
            let mut messages = world.messages(to);
            messages.sort_unstable();
            assert_eq!(messages, [10, 1 << 20], "seed {seed}: {from} {to}");
        }
    }
}
