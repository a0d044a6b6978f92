//! Who is let in: forged, stale and misdirected links are closed with the right reason and change nothing.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use super::world::*;
use crate::{
    ids::{BootNumber, ClusterId, DirectoryId, LinkId, NodeId, Uuid, WriteNumber},
    io::{Effects, Input},
    limits,
    replication::peer::{
        ControlKind, Hello, Identity, PeerEvent, Peers, Rejection, Seen,
        detector::{Echo, Ping},
        frame::{FrameBuilder, FrameError, Header, Lane, PREFIX_BYTES, Received},
        section::{self, RaftSection},
    },
    rng::Stream,
    time::{Monotonic, Now, Wall},
};

/// One node alone, and a stranger who may send it anything.
struct Door {
    peers: Peers,
    now: Now,
    events: Vec<PeerEvent>,
    closes: Vec<LinkId>,
}

const LINK: LinkId = LinkId(1);

impl Door {
    fn new() -> Self {
        Self::of(identity(A, 1))
    }

    fn of(identity: Identity) -> Self {
        let now = Now { monotonic: at(1000), wall: Wall(0) };
        let mut peers = Peers::new(identity, WriteNumber(10), Stream::new(1, A, "dial", 0));
        peers.set_peers(now, &addresses(&[A, B, C]));
        let mut door = Self { peers, now, events: Vec::new(), closes: Vec::new() };
        door.input(Input::LinkAccepted { link: LINK });
        door
    }

    fn input(&mut self, input: Input) {
        self.peers.handle(self.now, &input);
        let mut effects = Effects::default();
        self.peers.poll(self.now, 0, &mut effects, &mut self.events);
        self.closes.extend(effects.peer_closes);
    }

    fn frame(&mut self, link: LinkId, frame: FrameBuilder, header: &Header) {
        let frame: Bytes = frame.finish(header).concat().into();
        self.input(Input::LinkFrame { link, frame: frame.slice(PREFIX_BYTES..) });
    }

    /// Sends frames on the first link; the reason for which it was closed.
    fn refused(mut self, frames: Vec<(FrameBuilder, Header)>) -> Rejection {
        for (frame, header) in frames {
            self.frame(LINK, frame, &header);
        }
        assert_eq!(self.closes, [LINK]);
        match self.events.pop() {
            Some(PeerEvent::Rejected { link: LINK, reason, .. }) => reason,
            other => panic!("nothing was refused: {other:?}"),
        }
    }

    fn raft_messages(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, PeerEvent::Raft { .. })).count()
    }
}

fn header(number: u64) -> Header {
    Header {
        lane: Lane::Raft,
        cluster: Some(CLUSTER),
        from: B,
        to: A,
        boot: BootNumber(5),
        number,
        wall: Wall(0),
        durable: WriteNumber(3),
        ping: Ping(number),
        echo: None,
        received: [Received::default(); 2],
    }
}

fn hello(link: u64) -> Hello {
    let identity = identity(B, 5);
    Hello {
        directory: identity.directory,
        link: LinkId(link),
        configuration: identity.configuration,
        advertised: identity.advertised,
        rack: None,
        empty: false,
        seen: None,
    }
}

fn greeting(hello: &Hello) -> FrameBuilder {
    let mut frame = FrameBuilder::new();
    hello.encode(&mut frame);
    frame
}

fn with_raft(mut frame: FrameBuilder) -> FrameBuilder {
    RaftSection::new(envelope(1), heartbeat(1)).unwrap().encode(&mut frame);
    frame
}

#[test]
fn a_peer_is_let_in_and_heard() {
    let mut door = Door::new();
    door.frame(LINK, with_raft(greeting(&hello(1))), &header(1));
    door.frame(LINK, with_raft(FrameBuilder::new()), &header(2));
    assert_eq!(door.raft_messages(), 2);
    let said = door.events.iter().find_map(|event| match event {
        PeerEvent::Hello { from, boot, cluster, hello } => Some((*from, *boot, *cluster, hello.clone())),
        _ => None,
    });
    assert_eq!(said, Some((B, BootNumber(5), Some(CLUSTER), hello(1))));
    let seen = door.peers.position_of(B).unwrap();
    assert_eq!(seen, Seen { directory: hello(1).directory, durable: WriteNumber(3) });
}

#[test]
fn whoever_is_not_meant_or_not_known_is_refused() {
    let greet = || greeting(&hello(1));
    let one = |header| Door::new().refused(vec![(greet(), header)]);
    assert_eq!(one(Header { to: C, ..header(1) }), Rejection::WrongReceiver(C));
    assert_eq!(one(Header { from: NodeId(9), ..header(1) }), Rejection::UnknownNode(NodeId(9)));
    assert_eq!(one(Header { from: A, ..header(1) }), Rejection::UnknownNode(A));
    let other = ClusterId(Uuid([8; 16]));
    assert_eq!(one(Header { cluster: Some(other), ..header(1) }), Rejection::WrongCluster(other));
}

#[test]
fn a_link_starts_with_exactly_one_hello() {
    let without = vec![(with_raft(FrameBuilder::new()), header(1))];
    assert_eq!(Door::new().refused(without), Rejection::NoHello);
    assert_eq!(Door::new().refused(vec![(FrameBuilder::new(), header(1))]), Rejection::NoHello);
    let twice = vec![(greeting(&hello(1)), header(1)), (greeting(&hello(1)), header(2))];
    assert_eq!(Door::new().refused(twice), Rejection::SecondHello);
}

#[test]
fn nobody_changes_who_he_is() {
    let then =
        |header| Door::new().refused(vec![(greeting(&hello(1)), self::header(1)), (FrameBuilder::new(), header)]);
    assert_eq!(then(Header { from: C, ..header(2) }), Rejection::Changed);
    assert_eq!(then(Header { boot: BootNumber(6), ..header(2) }), Rejection::Changed);
    assert_eq!(then(Header { lane: Lane::Bulk, ..header(2) }), Rejection::Changed);
    let stale = then(Header { boot: BootNumber(4), ..header(2) });
    assert_eq!(stale, Rejection::StaleBoot { theirs: BootNumber(4), known: BootNumber(5) });
}

#[test]
fn late_bytes_of_an_earlier_process_or_link_are_not_used() {
    let mut door = Door::new();
    let (second, third, fourth) = (LinkId(2), LinkId(3), LinkId(4));
    for link in [second, third, fourth] {
        door.input(Input::LinkAccepted { link });
    }
    door.frame(LINK, greeting(&hello(7)), &header(1));
    // The same process dialled anew; its older link may still deliver.
    door.frame(second, greeting(&hello(8)), &header(1));
    assert_eq!(door.closes, [LINK]);
    door.frame(LINK, with_raft(FrameBuilder::new()), &header(2));
    assert_eq!(door.raft_messages(), 0);
    // An older link that comes later.
    door.frame(third, with_raft(greeting(&hello(6))), &header(1));
    assert_eq!(door.closes, [LINK, third]);
    // A new process of the peer, whose links count anew.
    let boot = BootNumber(6);
    door.frame(fourth, with_raft(greeting(&hello(1))), &Header { boot, ..header(1) });
    assert_eq!(door.closes, [LINK, third, second]);
    door.frame(second, with_raft(FrameBuilder::new()), &header(2));
    assert_eq!(door.raft_messages(), 1);
    assert_eq!(door.peers.boot_of(B), Some(boot));
}

#[test]
fn garbage_closes_the_link_and_says_why() {
    let mut door = Door::new();
    door.input(Input::LinkFrame { link: LINK, frame: Bytes::from_static(b"GET / HTTP/1.1\r\n") });
    assert_eq!(door.closes, [LINK]);
    let Some(PeerEvent::Rejected { from: None, reason, .. }) = door.events.pop() else { panic!("it is refused") };
    assert_eq!(reason, Rejection::Frame(FrameError::Magic(0x4745_5420)));
    assert_eq!(reason.to_string(), "it does not start like a frame of a Kauri node but with 0x47455420");
    door.input(Input::LinkDown { link: LINK });
}

#[test]
fn whoever_says_nothing_is_closed_in_time() {
    let mut door = Door::new();
    let deadline = door.now.monotonic + limits::PEER_HELLO_TIMEOUT;
    while door.closes.is_empty() {
        let next = door.peers.next_deadline().expect("somebody still owes a hello");
        assert!(next > door.now.monotonic && next <= deadline);
        door.now.monotonic = next;
        let mut effects = Effects::default();
        door.peers.poll(door.now, 0, &mut effects, &mut door.events);
        // Dials of the node itself are never answered here, and given up each second.
        door.closes.extend(effects.peer_closes.into_iter().filter(|&link| link == LINK));
    }
    assert_eq!(door.now.monotonic, deadline);
}

#[test]
fn strangers_cannot_hold_links_without_bound() {
    let mut door = Door::new();
    for link in 2..=1000 {
        door.input(Input::LinkAccepted { link: LinkId(link) });
    }
    assert_eq!(door.closes.len(), 1000 - limits::PEER_ACCEPTED_LINKS_MAX);
    door.frame(LINK, with_raft(greeting(&hello(1))), &header(1));
    assert_eq!(door.raft_messages(), 1, "who was there first is served");
}

#[test]
fn a_disk_that_went_back_in_time_is_noticed_before_any_message() {
    let seen = Some(Seen { directory: identity(A, 1).directory, durable: WriteNumber(11) });
    let frames = vec![(with_raft(greeting(&Hello { seen, ..hello(1) })), header(1))];
    let reason = Door::new().refused(frames);
    let expected = Rejection::PositionLost { witness: B, seen: WriteNumber(11), durable: WriteNumber(10) };
    assert_eq!(reason, expected);

    for (directory, durable) in [(identity(A, 1).directory, 10), (DirectoryId(Uuid([9; 16])), 11)] {
        let seen = Some(Seen { directory, durable: WriteNumber(durable) });
        let mut door = Door::new();
        door.frame(LINK, with_raft(greeting(&Hello { seen, ..hello(1) })), &header(1));
        assert_eq!(door.raft_messages(), 1, "an equal position and another directory are no proof of anything");
    }
}

#[test]
fn a_restarted_node_hears_how_far_it_was() {
    let mut world = World::connected(&[A, B]);
    world.node(B).peers.set_durable(WriteNumber(500));
    world.run_for(300);
    world.kill(B, Death::Refused);
    world.run_for(1000);
    // Its disk lost what it had told to be durable.
    world.start_with(identity(B, 2), &[A, B], WriteNumber(499));
    world.run_for(3000);
    let lost = world.take_events(B).into_iter().find_map(|(_, event)| match event {
        PeerEvent::Rejected { from, reason: Rejection::PositionLost { witness, seen, durable }, .. } => {
            Some((from, witness, seen, durable))
        }
        _ => None,
    });
    assert_eq!(lost, Some((Some(A), A, WriteNumber(500), WriteNumber(499))));
    assert!(!world.is_up(B, A));
}

fn wiped(node: NodeId, boot: u64) -> Identity {
    Identity { directory: DirectoryId(Uuid([0xee; 16])), ..identity(node, boot) }
}

#[test]
fn a_node_with_a_new_disk_is_let_in_although_its_boot_numbers_begin_again() {
    let mut world = World::empty(3);
    world.start(identity(A, 1), &[A, B]);
    world.start(identity(B, 7), &[A, B]);
    world.run_for(3000);
    world.node(B).peers.set_durable(WriteNumber(500));
    world.run_for(300);
    assert!(world.is_up(A, B));
    world.kill(B, Death::Refused);
    world.start_with(wiped(B, 1), &[A, B], WriteNumber(2));
    world.run_for(3000);
    assert!(world.is_up(A, B) && world.is_up(B, A));
    let directory = wiped(B, 1).directory;
    let seen = Some(Seen { directory, durable: WriteNumber(2) });
    assert_eq!(world.node(A).peers.position_of(B), seen, "what the old disk held says nothing about the new one");
    assert!(world.node(A).peers.is_up_with(B, directory));
    assert!(!world.node(A).peers.is_up_with(B, identity(B, 7).directory));
}

#[test]
fn a_directory_that_was_replaced_is_not_heard() {
    let mut world = World::connected(&[A, B]);
    let old = identity(B, 1).directory;
    let now = world.now_at(A);
    world.node(A).peers.set_directories(now, [(B, wiped(B, 1).directory, BTreeSet::from([old]))]);
    world.run_for(3000);
    assert!(!world.is_up(A, B), "not even a process that was connected");
    let told = world.take_events(A).into_iter().any(|(_, event)| match event {
        PeerEvent::Rejected { from: Some(B), reason, .. } => reason == Rejection::ReplacedDirectory(old),
        _ => false,
    });
    assert!(told);
    world.kill(B, Death::Refused);
    world.start(wiped(B, 1), &[A, B]);
    world.run_for(3000);
    assert!(world.is_up(A, B));
}

#[test]
fn of_two_processes_with_one_node_id_the_one_that_runs_stays_until_the_metadata_say_otherwise() {
    let mut world = World::connected(&[A, B]);
    let known = identity(B, 1).directory;
    let theirs = wiped(B, 1).directory;
    let mut knock = |registered: DirectoryId, link: u64| {
        let link = LinkId(link);
        let now = world.now_at(A);
        let peers = &mut world.node(A).peers;
        peers.set_directories(now, [(B, registered, BTreeSet::new())]);
        peers.handle(now, &Input::LinkAccepted { link });
        let header = Header { boot: BootNumber(1), ..header(1) };
        let frame: Bytes = greeting(&Hello { directory: theirs, ..hello(1) }).finish(&header).concat().into();
        peers.handle(now, &Input::LinkFrame { link, frame: frame.slice(PREFIX_BYTES..) });
        let (mut effects, mut events) = (Effects::default(), Vec::new());
        peers.poll(now, 0, &mut effects, &mut events);
        events.into_iter().find_map(|event| match event {
            PeerEvent::Rejected { reason, .. } => Some(reason),
            _ => None,
        })
    };
    assert_eq!(knock(known, 900), Some(Rejection::OtherDirectory { theirs, known }));
    assert_eq!(knock(theirs, 901), None);
}

#[test]
fn before_a_cluster_is_formed_only_control_messages_pass() {
    for cluster in [None, Some(CLUSTER)] {
        let mut door = Door::of(Identity { cluster, ..identity(A, 1) });
        let theirs = if cluster.is_none() { Some(CLUSTER) } else { None };
        let mut frame = with_raft(greeting(&hello(1)));
        section::encode_control(ControlKind(3), [Bytes::from_static(b"empty?")], &mut frame);
        door.frame(LINK, frame, &Header { cluster: theirs, ..header(1) });
        assert_eq!(door.raft_messages(), 0);
        assert!(door.events.iter().any(|event| matches!(event, PeerEvent::Control { kind: ControlKind(3), .. })));
        door.peers.set_cluster(CLUSTER);
        door.frame(LINK, with_raft(FrameBuilder::new()), &header(2));
        assert_eq!(door.raft_messages(), 1, "once both know the cluster, replicas may speak");
    }
}

#[test]
fn two_clusters_by_mistake_do_not_dial_each_other_to_death() {
    let mut world = World::empty(1);
    world.start(identity(A, 1), &[A, B]);
    world.start(Identity { cluster: Some(ClusterId(Uuid([8; 16]))), ..identity(B, 1) }, &[A, B]);
    world.run_for(60_000);
    assert!(!world.is_up(A, B) && !world.is_up(B, A));
    assert!(world.node(A).dials < 250, "{} dials in a minute", world.node(A).dials);
}

#[test]
fn a_hello_travels_alone_so_that_it_is_small() {
    let mut door = Door::new();
    let mut effects = Effects::default();
    let mut peers = Peers::new(identity(A, 1), WriteNumber(1), Stream::new(1, A, "dial", 0));
    peers.set_peers(door.now, &addresses(&[A, B]));
    peers.poll(door.now, 0, &mut effects, &mut door.events);
    let links: Vec<LinkId> = effects.peer_dials.drain(..).map(|dial| dial.link).collect();
    links.iter().for_each(|&link| assert!(peers.handle(door.now, &Input::LinkUp { link })));
    // One message for each lane, in the same turn.
    for bytes in [limits::RAFT_LANE_PAYLOAD_BYTES_MAX, 1 << 20] {
        peers.send_control(door.now, B, ControlKind(1), Bytes::from(vec![1; bytes])).unwrap();
    }
    peers.poll(door.now, 0, &mut effects, &mut door.events);
    for link in links {
        let sends = effects.peer_sends.iter().filter(|send| send.link == link);
        let bytes = sends.flat_map(|send| &send.slices).fold(Vec::new(), |sent, slice| [&sent, &slice[..]].concat());
        let first = u32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize;
        assert!(first <= 1024, "the first frame of a link has {first} bytes");
        assert!(bytes.len() > PREFIX_BYTES + first + limits::RAFT_LANE_PAYLOAD_BYTES_MAX, "the message follows");
    }
}

#[test]
fn frames_on_a_link_that_we_dialled_close_it() {
    let mut door = Door::new();
    let mut effects = Effects::default();
    let mut peers = Peers::new(identity(A, 1), WriteNumber(1), Stream::new(1, A, "dial", 0));
    peers.set_peers(door.now, &addresses(&[A, B]));
    peers.poll(door.now, 0, &mut effects, &mut door.events);
    let link = effects.peer_dials[0].link;
    peers.handle(door.now, &Input::LinkUp { link });
    peers.handle(door.now, &Input::LinkFrame { link, frame: Bytes::from_static(b"hello") });
    peers.poll(door.now, 0, &mut effects, &mut door.events);
    assert_eq!(effects.peer_closes, [link]);
    let refused = door
        .events
        .iter()
        .any(|event| matches!(event, PeerEvent::Rejected { from: Some(B), reason: Rejection::WrongWay, .. }));
    assert!(refused);
}

#[test]
fn inputs_for_links_that_are_gone_change_nothing() {
    let mut door = Door::new();
    door.input(Input::LinkDown { link: LINK });
    for link in [LINK, LinkId(77), LinkId(1 << 63 | 999)] {
        door.input(Input::LinkUp { link });
        door.input(Input::LinkWritten { link, bytes: 10 });
        door.input(Input::LinkFrame { link, frame: Bytes::from_static(b"late") });
        door.input(Input::LinkDown { link });
    }
    assert!(door.events.is_empty() && door.closes.is_empty());
    assert!(!door.peers.handle(door.now, &Input::Shutdown));
}

#[test]
fn an_absurd_header_is_survived() {
    let mut door = Door::new();
    let echo = Some(Echo { boot: BootNumber(1), ping: Ping(u64::MAX), hold: Duration::MAX });
    let absurd = Header {
        boot: BootNumber(u64::MAX),
        number: u64::MAX,
        wall: Wall(i64::MIN),
        durable: WriteNumber(u64::MAX),
        ping: Ping(u64::MAX),
        echo,
        received: [Received { link: LinkId(u64::MAX), frame: u64::MAX }; 2],
        ..header(1)
    };
    door.frame(LINK, greeting(&hello(u64::MAX)), &absurd);
    door.now.monotonic = Monotonic(u64::MAX);
    door.frame(LINK, FrameBuilder::new(), &absurd);
    assert!(!door.peers.is_up(B), "an echo of what was never sent proves nothing");
    assert_eq!(door.peers.median_clock_offset(door.now), None);
}
