//! Scenarios of failure detection: a few detectors, virtual time in steps, a network that can be cut per direction.

use std::collections::{BTreeSet, VecDeque};

use super::*;

const STEP: Duration = Duration::from_millis(5);

/// One node of a scenario.
struct Node {
    detector: Detector,
    boot: BootNumber,
    next_ping: Monotonic,
    asleep_until: Monotonic,
    /// Frames that wait until the node runs.
    inbox: Vec<(NodeId, Heard)>,
    verdicts: Vec<(Monotonic, Verdict)>,
}

struct World {
    now: Monotonic,
    nodes: BTreeMap<NodeId, Node>,
    wire: VecDeque<(Monotonic, NodeId, NodeId, Heard)>,
    latency: Duration,
    /// Directions that lose everything.
    cut: BTreeSet<(NodeId, NodeId)>,
}

fn at(milliseconds: u64) -> Monotonic {
    Monotonic(milliseconds * 1_000_000)
}

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

impl World {
    fn new(nodes: &[NodeId]) -> Self {
        let mut world = Self {
            now: at(0),
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            latency: Duration::from_millis(1),
            cut: BTreeSet::new(),
        };
        for (index, &id) in nodes.iter().enumerate() {
            world.start(id, BootNumber(1), nodes, index as u64 * 30);
        }
        world
    }

    fn start(&mut self, id: NodeId, boot: BootNumber, all: &[NodeId], phase_ms: u64) {
        let mut detector = Detector::new(boot);
        detector.set_peers(self.now, all.iter().copied().filter(|&other| other != id));
        self.nodes.insert(
            id,
            Node {
                detector,
                boot,
                next_ping: self.now + Duration::from_millis(phase_ms),
                asleep_until: self.now,
                inbox: Vec::new(),
                verdicts: Vec::new(),
            },
        );
    }

    fn run_until(&mut self, end: Monotonic) {
        while self.now < end {
            self.now = self.now + STEP;
            self.step();
        }
    }

    fn run_for(&mut self, milliseconds: u64) {
        self.run_until(self.now + Duration::from_millis(milliseconds));
    }

    fn step(&mut self) {
        let now = self.now;
        while self.wire.front().is_some_and(|frame| frame.0 <= now) {
            let (_, from, to, heard) = self.wire.pop_front().expect("a frame is there");
            if let Some(node) = self.nodes.get_mut(&to) {
                node.inbox.push((from, heard));
            }
        }
        let all: Vec<NodeId> = self.nodes.keys().copied().collect();
        for (&id, node) in &mut self.nodes {
            if node.asleep_until > now {
                continue;
            }
            for (from, heard) in node.inbox.drain(..) {
                node.detector.handle_frame(now, from, &heard);
            }
            node.verdicts.extend(node.detector.poll(now).map(|verdict| (now, verdict)));
            if node.next_ping <= now {
                node.next_ping = now + limits::PING_INTERVAL;
                for &to in all.iter().filter(|&&to| to != id) {
                    let Stamp { ping, echo } = node.detector.stamp(now, to);
                    if !self.cut.contains(&(id, to)) {
                        self.wire.push_back((now + self.latency, id, to, Heard { boot: node.boot, ping, echo }));
                    }
                }
            }
        }
    }

    fn pause(&mut self, node: NodeId, milliseconds: u64) {
        self.node(node).asleep_until = self.now + Duration::from_millis(milliseconds);
    }

    fn kill(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("the node runs")
    }

    fn cut_both(&mut self, a: NodeId, b: NodeId) {
        self.cut.extend([(a, b), (b, a)]);
    }

    fn is_up(&self, from: NodeId, to: NodeId) -> bool {
        self.nodes[&from].detector.is_up(to)
    }

    /// Verdicts of a node since the last call.
    fn verdicts(&mut self, node: NodeId) -> Vec<(Monotonic, Verdict)> {
        std::mem::take(&mut self.node(node).verdicts)
    }

    /// How long after `since` the node found the other one down.
    fn down_after(&mut self, node: NodeId, other: NodeId, since: Monotonic) -> Duration {
        let verdicts = self.verdicts(node);
        let (when, _) = verdicts
            .iter()
            .find(|(_, verdict)| *verdict == Verdict::Down(other))
            .unwrap_or_else(|| panic!("{node} noticed nothing: {verdicts:?}"));
        when.since(since)
    }
}

fn milliseconds(duration: Duration) -> u128 {
    duration.as_millis()
}

#[test]
fn two_healthy_nodes_are_up_at_once_and_stay_so() {
    let mut world = World::new(&[A, B]);
    world.run_for(300);
    assert!(world.is_up(A, B) && world.is_up(B, A));
    world.run_for(120_000);
    assert_eq!(world.verdicts(A).len(), 1, "up, and nothing else for two minutes");
    assert_eq!(world.verdicts(B).len(), 1);
}

#[test]
fn a_silent_node_is_down_within_600_milliseconds() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    world.kill(B);
    let since = world.now;
    world.run_for(2000);
    let noticed = world.down_after(A, B, since);
    assert!((400..=600).contains(&milliseconds(noticed)), "{noticed:?}");
}

#[test]
fn a_pair_is_up_only_if_both_directions_are() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    world.cut.insert((A, B));
    let since = world.now;
    world.run_for(1000);
    // B hears nothing; A hears B very well, but no echo of what it says itself.
    let (a, b) = (world.down_after(A, B, since), world.down_after(B, A, since));
    assert!(milliseconds(a) <= 700 && milliseconds(b) <= 600, "{a:?} {b:?}");
    world.run_for(10_000);
    assert!(!world.is_up(A, B) && !world.is_up(B, A), "one direction is not enough to come back");
    world.cut.clear();
    world.run_for(300);
    assert!(world.is_up(A, B) && world.is_up(B, A));
}

#[test]
fn a_bridge_sees_both_sides_and_they_do_not_see_each_other() {
    let mut world = World::new(&[A, B, C]);
    world.run_for(1000);
    world.cut_both(A, C);
    world.run_for(5000);
    assert!(!world.is_up(A, C) && !world.is_up(C, A), "B's view of either does not count");
    assert!(world.is_up(A, B) && world.is_up(B, A) && world.is_up(B, C) && world.is_up(C, B));
    assert_eq!(world.verdicts(B).len(), 2, "the bridge saw both come up and nothing else");
}

#[test]
fn a_pause_of_300_milliseconds_is_no_alarm() {
    for phase in 0..20 {
        let mut world = World::new(&[A, B]);
        world.run_for(1000 + phase * 5);
        world.pause(B, 300);
        world.run_for(3000);
        assert_eq!(world.verdicts(A).len(), 1, "phase {phase}");
        assert_eq!(world.verdicts(B).len(), 1, "phase {phase}");
    }
}

#[test]
fn a_long_pause_is_an_alarm_for_the_other_and_not_for_the_one_who_slept() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    world.verdicts(A);
    world.verdicts(B);
    let since = world.now;
    world.pause(B, 3000);
    world.run_for(5000);
    let noticed = world.down_after(A, B, since);
    assert!(milliseconds(noticed) <= 600, "{noticed:?}");
    assert!(world.is_up(A, B));
    assert_eq!(world.verdicts(B), [], "B did not run: A's silence was its own");
}

#[test]
fn slow_turns_do_not_hide_a_dead_peer() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    world.kill(B);
    let since = world.now;
    // A is overloaded: it runs only each 400 ms.
    for _ in 0..6 {
        world.pause(A, 400);
        world.run_for(405);
    }
    let noticed = world.down_after(A, B, since);
    assert!(milliseconds(noticed) <= 1700, "{noticed:?}");
}

#[test]
fn a_lost_connection_that_nobody_answers_is_down_at_once() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    world.kill(B);
    let now = world.now;
    let detector = &mut world.node(A).detector;
    detector.handle_link(now, B, LinkChange::Lost);
    assert_eq!(detector.poll(now).collect::<Vec<_>>(), [], "a lost connection alone is not the end");
    detector.handle_link(now, B, LinkChange::DialFailed);
    assert_eq!(detector.poll(now).collect::<Vec<_>>(), [Verdict::Down(B)]);
}

#[test]
fn a_lost_connection_without_any_answer_is_down_after_a_short_wait() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    world.kill(B);
    let since = world.now;
    world.node(A).detector.handle_link(since, B, LinkChange::Lost);
    assert_eq!(world.nodes[&A].detector.next_deadline(), Some(since + limits::PEER_RELINK_AFTER));
    world.run_for(1000);
    let noticed = world.down_after(A, B, since);
    assert!(milliseconds(noticed) <= 300, "{noticed:?}");
}

#[test]
fn a_connection_that_comes_back_at_once_is_no_alarm() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    for _ in 0..50 {
        let now = world.now;
        world.node(A).detector.handle_link(now, B, LinkChange::Lost);
        world.node(B).detector.handle_link(now, A, LinkChange::Lost);
        // Both ping at once when the link is back.
        for node in world.nodes.values_mut() {
            node.next_ping = now;
        }
        world.run_for(20);
        for node in world.nodes.values_mut() {
            node.next_ping = now;
        }
        world.run_for(400);
    }
    assert_eq!(world.verdicts(A).len(), 1);
    assert_eq!(world.verdicts(B).len(), 1);
}

#[test]
fn an_echo_from_before_the_loss_does_not_save_the_pair() {
    let mut detector = Detector::new(BootNumber(1));
    detector.set_peers(at(0), [B]);
    let echo = |ping: Ping| Heard {
        boot: BootNumber(7),
        ping,
        echo: Some(Echo { boot: BootNumber(1), ping, hold: Duration::ZERO }),
    };
    let first = detector.stamp(at(10), B).ping;
    detector.handle_frame(at(12), B, &echo(first));
    let second = detector.stamp(at(19), B).ping;
    let third = detector.stamp(at(20), B).ping;
    detector.handle_link(at(21), B, LinkChange::Lost);
    // Late bytes of the lost connection.
    detector.handle_frame(at(25), B, &echo(second));
    detector.handle_link(at(26), B, LinkChange::DialFailed);
    assert_eq!(detector.poll(at(26)).collect::<Vec<_>>(), [Verdict::Up(B), Verdict::Down(B)]);
    detector.handle_frame(at(27), B, &echo(third));
    assert_eq!(detector.poll(at(27)).collect::<Vec<_>>(), [], "nor does it revise the verdict");
    let fourth = detector.stamp(at(28), B).ping;
    detector.handle_frame(at(30), B, &echo(fourth));
    assert_eq!(detector.poll(at(30)).collect::<Vec<_>>(), [Verdict::Up(B)], "what was sent after the verdict counts");
}

#[test]
fn a_new_boot_number_is_a_down_and_then_an_up() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    world.verdicts(A);
    world.kill(B);
    world.run_for(50);
    world.start(B, BootNumber(2), &[A, B], 0);
    world.run_for(1000);
    let verdicts: Vec<Verdict> = world.verdicts(A).into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(verdicts, [Verdict::Down(B), Verdict::Up(B)], "a restart faster than any timeout is still noticed");
    assert_eq!(world.nodes[&A].detector.boot_of(B), Some(BootNumber(2)));
}

#[test]
fn frames_of_an_earlier_process_change_nothing() {
    let mut detector = Detector::new(BootNumber(1));
    detector.set_peers(at(0), [B]);
    let ping = detector.stamp(at(1), B).ping;
    let echo = Some(Echo { boot: BootNumber(1), ping, hold: Duration::ZERO });
    detector.handle_frame(at(2), B, &Heard { boot: BootNumber(5), ping: Ping(1), echo: None });
    detector.handle_frame(at(3), B, &Heard { boot: BootNumber(4), ping: Ping(99), echo });
    assert_eq!(detector.poll(at(3)).collect::<Vec<_>>(), []);
    assert!(!detector.is_up(B));
    assert_eq!(detector.stamp(at(4), B).echo.map(|echo| echo.ping), Some(Ping(1)));
}

#[test]
fn an_echo_for_our_previous_process_or_of_a_ping_never_sent_proves_nothing() {
    let mut detector = Detector::new(BootNumber(2));
    detector.set_peers(at(0), [B]);
    detector.stamp(at(10), B);
    for (boot, ping) in [(BootNumber(1), Ping(at(10).0)), (BootNumber(2), Ping(at(11).0))] {
        let echo = Some(Echo { boot, ping, hold: Duration::ZERO });
        detector.handle_frame(at(12), B, &Heard { boot: BootNumber(1), ping: Ping(1), echo });
    }
    assert!(!detector.is_up(B));
}

#[test]
fn false_alarms_double_the_limit_up_to_the_election_timeout_and_it_decays() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    let mut waits = Vec::new();
    for _ in 0..7 {
        world.verdicts(A);
        let since = world.now;
        world.cut_both(A, B);
        let mut waited = 0;
        while world.is_up(A, B) {
            world.run_for(5);
            waited += 5;
            assert!(waited < 10_000, "a dead pair is found at last");
        }
        waits.push(milliseconds(world.down_after(A, B, since)));
        world.run_for(100);
        world.cut.clear();
        world.run_for(1000);
        assert!(world.is_up(A, B));
    }
    let expected: [u128; 7] = [500, 1000, 2000, 4000, 5000, 5000, 5000];
    for (wait, expected) in waits.iter().zip(expected) {
        assert!(wait.abs_diff(expected) <= 110, "{waits:?}");
    }
    // Four calm periods later the limit is what it was.
    world.run_for(4 * limits::PEER_ALARM_DECAY.as_millis() as u64 + 1000);
    world.verdicts(A);
    world.kill(B);
    let since = world.now;
    world.run_for(6000);
    assert!(milliseconds(world.down_after(A, B, since)) <= 600);
}

#[test]
fn a_cut_longer_than_the_election_timeout_is_no_false_alarm() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    world.cut_both(A, B);
    world.run_for(10_000);
    world.cut.clear();
    world.run_for(1000);
    world.verdicts(A);
    world.kill(B);
    let since = world.now;
    world.run_for(6000);
    assert!(milliseconds(world.down_after(A, B, since)) <= 600);
}

#[test]
fn frames_that_waited_in_a_cut_do_not_revive_a_dead_node() {
    let mut detector = Detector::new(BootNumber(1));
    detector.set_peers(at(0), [B]);
    let mut held = Vec::new();
    for turn in 0..100 {
        let now = at(turn * 10);
        let ping = detector.stamp(now, B).ping;
        let echo = Some(Echo { boot: BootNumber(1), ping, hold: Duration::ZERO });
        let heard = Heard { boot: BootNumber(1), ping: Ping(turn), echo };
        if turn < 30 {
            detector.handle_frame(now, B, &heard);
        } else if turn < 40 {
            held.push(heard);
        }
        detector.poll(now).for_each(drop);
    }
    assert!(!detector.is_up(B));
    for heard in &held {
        detector.handle_frame(at(1000), B, heard);
    }
    assert!(!detector.is_up(B), "these are older than the verdict");
}

#[test]
fn a_peer_that_held_a_ping_for_long_did_not_hear_later_ones() {
    let mut detector = Detector::new(BootNumber(1));
    detector.set_peers(at(0), [B]);
    let heard = |turn: u64, ping, hold| Heard {
        boot: BootNumber(1),
        ping: Ping(turn),
        echo: Some(Echo { boot: BootNumber(1), ping, hold }),
    };
    let mut pings = Vec::new();
    for turn in 0..60 {
        let now = at(turn * 10);
        pings.push(detector.stamp(now, B).ping);
        if turn <= 20 {
            detector.handle_frame(now, B, &heard(turn, pings[turn as usize], Duration::ZERO));
        }
        detector.poll(now).for_each(drop);
    }
    // The peer's frames got lost for a while as well; the first to arrive says that ours were gone all along.
    detector.handle_frame(at(600), B, &heard(60, pings[21], Duration::from_millis(390)));
    let mut verdicts = Vec::new();
    for turn in 60..100 {
        verdicts.extend(detector.poll(at(turn * 10)).map(|verdict| (turn * 10, verdict)));
    }
    assert_eq!(verdicts, [(810, Verdict::Down(B))], "500 ms after the ping that arrived, and one interval");
}

#[test]
fn a_peer_that_never_was_there_is_reported_once() {
    let mut detector = Detector::new(BootNumber(1));
    detector.set_peers(at(0), [B]);
    assert_eq!(detector.next_deadline(), Some(at(500)));
    let mut verdicts = Vec::new();
    for turn in 0..200 {
        verdicts.extend(detector.poll(at(turn * 10)));
    }
    assert_eq!(verdicts, [Verdict::Down(B)]);
    detector.set_peers(at(2000), [C]);
    assert_eq!(detector.next_deadline(), Some(at(2500)), "a forgotten peer needs no attention");
}

#[test]
fn every_third_frame_lost_is_no_alarm() {
    let mut world = World::new(&[A, B]);
    world.run_for(1000);
    // One direction is gone for 100 of each 300 ms.
    for _ in 0..200 {
        world.cut.insert((A, B));
        world.run_for(100);
        world.cut.clear();
        world.run_for(200);
    }
    assert_eq!(world.verdicts(A).len(), 1);
    assert_eq!(world.verdicts(B).len(), 1);
}
