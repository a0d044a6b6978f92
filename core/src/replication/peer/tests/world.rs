//! A few [`Peers`] connected in memory: virtual time, streams with latency that can be cut per direction, reset in
//! the middle of a frame, or lose and repeat frames; processes that are paused, killed and started again.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use bytes::Bytes;
use raft::prelude::{Entry, Message, MessageType};

use crate::{
    config::Endpoint,
    ids::{BootNumber, ClusterId, DirectoryId, GroupId, LinkId, NodeId, ReplicaId, Uuid, WriteNumber},
    io::{Effects, Input},
    replication::peer::{Envelope, Identity, NotSent, PeerEvent, Peers, frame::PREFIX_BYTES},
    rng::Stream,
    time::{Monotonic, Now, Wall},
};

pub(super) const A: NodeId = NodeId(1);
pub(super) const B: NodeId = NodeId(2);
pub(super) const C: NodeId = NodeId(3);
pub(super) const CLUSTER: ClusterId = ClusterId(Uuid([7; 16]));

/// How the world answers who wants to reach a process that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// The host lives: its connections are reset, new ones refused.
    Refused,
    /// The host lives but answers no new connection; the old ones are reset.
    Reset,
    /// The host is gone: nothing answers.
    Silent,
}

pub(super) struct Node {
    pub(super) peers: Peers,
    pub(super) identity: Identity,
    pub(super) durable: WriteNumber,
    /// Bytes that wait for its WAL.
    pub(super) backlog: usize,
    wall_offset: i64,
    inbox: Vec<Input>,
    asleep_until: Monotonic,
    /// Everything the node's peers reported, with the time.
    pub(super) events: Vec<(Monotonic, PeerEvent)>,
    pub(super) dials: usize,
    /// Frames sent, of both lanes.
    pub(super) frames: usize,
}

#[derive(Clone, Copy)]
struct Connection {
    from: NodeId,
    /// The dialler's process: what comes back for another one is lost.
    from_boot: BootNumber,
    to: NodeId,
    link: LinkId,
    /// The link as the receiver names it, once it was accepted.
    accepted: Option<LinkId>,
    open: bool,
}

#[derive(Debug)]
enum Happening {
    /// A dial arrives.
    Knock,
    /// The dialler learns that it was accepted.
    Welcome,
    /// A frame arrives.
    Frame(Bytes),
    /// The dialler's socket took bytes.
    Written(usize),
    /// One end learns that the connection is gone.
    Gone { at_dialler: bool },
}

pub(super) struct World {
    pub(super) now: Monotonic,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    dead: BTreeMap<NodeId, (Node, Death)>,
    connections: BTreeMap<u64, Connection>,
    heap: BinaryHeap<Reverse<(Monotonic, u64)>>,
    happenings: BTreeMap<u64, (u64, Happening)>,
    counter: u64,
    /// Directions in which nothing moves; what is under way moves on when they are mended.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    pub(super) latency: Duration,
    /// In 1/100 of all frames: lost, repeated, or followed by a reset.
    pub(super) lost: u64,
    pub(super) repeated: u64,
    pub(super) reset: u64,
    dice: Stream,
}

pub(super) fn at(milliseconds: u64) -> Monotonic {
    Monotonic(milliseconds * 1_000_000)
}

pub(super) fn identity(node: NodeId, boot: u64) -> Identity {
    Identity {
        node,
        boot: BootNumber(boot),
        directory: DirectoryId(Uuid([node.0 as u8; 16])),
        cluster: Some(CLUSTER),
        configuration: 42,
        advertised: Endpoint { host: format!("node-{node}"), port: 9092 },
        rack: None,
    }
}

pub(super) fn addresses(nodes: &[NodeId]) -> BTreeMap<NodeId, String> {
    nodes.iter().map(|&node| (node, format!("node-{node}:9192"))).collect()
}

impl World {
    pub(super) fn new(nodes: &[NodeId]) -> Self {
        let mut world = Self::empty(1);
        for &node in nodes {
            world.start(identity(node, 1), nodes);
        }
        world
    }

    /// Nodes that found each other.
    pub(super) fn connected(nodes: &[NodeId]) -> Self {
        let mut world = Self::new(nodes);
        world.run_for(1000);
        for &node in nodes {
            world.take_events(node);
        }
        world
    }

    pub(super) fn empty(seed: u64) -> Self {
        Self {
            now: at(1000),
            nodes: BTreeMap::new(),
            dead: BTreeMap::new(),
            connections: BTreeMap::new(),
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            counter: 0,
            cut: BTreeSet::new(),
            latency: Duration::from_micros(300),
            lost: 0,
            repeated: 0,
            reset: 0,
            dice: Stream::new(seed, NodeId(0), "world", 0),
        }
    }

    pub(super) fn start(&mut self, identity: Identity, peers: &[NodeId]) {
        self.start_with(identity, peers, WriteNumber(10));
    }

    pub(super) fn start_with(&mut self, identity: Identity, peers: &[NodeId], durable: WriteNumber) {
        let id = identity.node;
        let jitter = Stream::new(1, id, "dial", identity.boot.0);
        let mut node = Node {
            peers: Peers::new(identity.clone(), durable, jitter),
            identity,
            durable,
            backlog: 0,
            wall_offset: 0,
            inbox: Vec::new(),
            asleep_until: self.now,
            events: Vec::new(),
            dials: 0,
            frames: 0,
        };
        node.peers.set_peers(self.now_of(0), &addresses(peers));
        self.dead.remove(&id);
        self.nodes.insert(id, node);
        self.turn(id);
    }

    /// Starts a killed process again, with the next boot number.
    pub(super) fn restart(&mut self, node: NodeId, peers: &[NodeId]) {
        let (dead, _) = self.dead.remove(&node).expect("only the dead start again");
        let boot = BootNumber(dead.identity.boot.0 + 1);
        self.start_with(Identity { boot, ..dead.identity }, peers, dead.durable);
    }

    pub(super) fn kill(&mut self, node: NodeId, death: Death) {
        let killed = self.nodes.remove(&node).expect("the node runs");
        self.dead.insert(node, (killed, death));
        let of_node = |connection: &Connection| connection.open && (connection.from == node || connection.to == node);
        let mut links: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| of_node(connection)).map(|(&id, _)| id).collect();
        for id in links.drain(..) {
            if death != Death::Silent {
                self.reset_connection(id);
            }
        }
    }

    /// Resets one connection in both directions: what is under way on it never arrives whole.
    fn reset_connection(&mut self, id: u64) {
        self.connections.get_mut(&id).expect("it exists").open = false;
        self.happenings.retain(|_, (of, happening)| *of != id || matches!(happening, Happening::Gone { .. }));
        self.schedule(id, Happening::Gone { at_dialler: true });
        self.schedule(id, Happening::Gone { at_dialler: false });
    }

    /// Resets the connections that one node dialled to another.
    pub(super) fn reset_dialled(&mut self, from: NodeId, to: NodeId) {
        let dialled = |connection: &Connection| connection.open && (connection.from, connection.to) == (from, to);
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, connection)| dialled(connection)).map(|(&id, _)| id).collect();
        for id in ids {
            self.reset_connection(id);
        }
    }

    /// Resets every connection between two nodes.
    pub(super) fn reset_between(&mut self, a: NodeId, b: NodeId) {
        self.reset_dialled(a, b);
        self.reset_dialled(b, a);
    }

    pub(super) fn pause(&mut self, node: NodeId, milliseconds: u64) {
        self.node(node).asleep_until = self.now + Duration::from_millis(milliseconds);
    }

    pub(super) fn set_wall(&mut self, node: NodeId, offset_ms: i64) {
        self.node(node).wall_offset = offset_ms;
    }

    pub(super) fn cut_both(&mut self, a: NodeId, b: NodeId) {
        self.cut.extend([(a, b), (b, a)]);
    }

    pub(super) fn node(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("the node runs")
    }

    pub(super) fn now_of(&self, wall_offset: i64) -> Now {
        let wall = Wall(1_700_000_000_000 + (self.now.0 / 1_000_000) as i64 + wall_offset);
        Now { monotonic: self.now, wall }
    }

    pub(super) fn now_at(&self, node: NodeId) -> Now {
        self.now_of(self.nodes[&node].wall_offset)
    }

    pub(super) fn is_up(&self, from: NodeId, to: NodeId) -> bool {
        self.nodes[&from].peers.is_up(to)
    }

    pub(super) fn take_events(&mut self, node: NodeId) -> Vec<(Monotonic, PeerEvent)> {
        std::mem::take(&mut self.node(node).events)
    }

    /// Ups (true) and downs (false) that `node` reported about `other`, and when.
    pub(super) fn verdicts(&mut self, node: NodeId, other: NodeId) -> Vec<(Monotonic, bool)> {
        let verdict = |(when, event): (Monotonic, PeerEvent)| match event {
            PeerEvent::Up(up) if up == other => Some((when, true)),
            PeerEvent::Down(down) if down == other => Some((when, false)),
            PeerEvent::Up(_)
            | PeerEvent::Down(_)
            | PeerEvent::Unreachable(_)
            | PeerEvent::Hello { .. }
            | PeerEvent::Raft { .. }
            | PeerEvent::Control { .. }
            | PeerEvent::Rejected { .. } => None,
        };
        self.take_events(node).into_iter().filter_map(verdict).collect()
    }

    /// Indexes of the Raft messages that arrived at a node.
    pub(super) fn messages(&mut self, node: NodeId) -> Vec<u64> {
        let message = |(_, event)| match event {
            PeerEvent::Raft { message, .. } => Some(message.index),
            PeerEvent::Up(_)
            | PeerEvent::Down(_)
            | PeerEvent::Unreachable(_)
            | PeerEvent::Hello { .. }
            | PeerEvent::Control { .. }
            | PeerEvent::Rejected { .. } => None,
        };
        self.take_events(node).into_iter().filter_map(message).collect()
    }

    pub(super) fn send(&mut self, from: NodeId, to: NodeId, group: u64, message: Message) -> Result<(), NotSent> {
        let now = self.now_at(from);
        self.node(from).peers.send_raft(now, to, envelope(group), message)
    }

    /// One turn of a node: everything in its inbox, then its effects.
    pub(super) fn turn(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.asleep_until > self.now {
            return;
        }
        let wall = Wall(1_700_000_000_000 + (self.now.0 / 1_000_000) as i64 + node.wall_offset);
        let now = Now { monotonic: self.now, wall };
        for input in std::mem::take(&mut node.inbox) {
            assert!(node.peers.handle(now, &input), "links are the peers' business");
        }
        let (mut effects, mut events) = (Effects::default(), Vec::new());
        node.peers.poll(now, node.backlog, &mut effects, &mut events);
        assert!(node.peers.next_deadline().is_none_or(|next| next > self.now), "a poll leaves nothing that is due");
        node.events.extend(events.into_iter().map(|event| (self.now, event)));
        self.carry_out(id, effects);
    }

    fn carry_out(&mut self, id: NodeId, effects: Effects) {
        let boot = self.nodes[&id].identity.boot;
        for dial in effects.peer_dials {
            assert_eq!(dial.address, format!("node-{}:9192", dial.node));
            self.counter += 1;
            let connection =
                Connection { from: id, from_boot: boot, to: dial.node, link: dial.link, accepted: None, open: true };
            self.connections.insert(self.counter, connection);
            self.node(id).dials += 1;
            self.schedule(self.counter, Happening::Knock);
        }
        for send in effects.peer_sends {
            let connection = self.connection_of(id, send.link).expect("frames go to links that are there");
            let mut bytes: Bytes = send.slices.concat().into();
            let total = bytes.len();
            while !bytes.is_empty() {
                let prefix = bytes.split_to(PREFIX_BYTES);
                let frame = bytes.split_to(u32::from_be_bytes(prefix[..].try_into().unwrap()) as usize);
                self.node(id).frames += 1;
                self.launch(connection, frame);
            }
            self.schedule(connection, Happening::Written(total));
        }
        for link in effects.peer_closes {
            let Some(connection) = self.connection_of(id, link) else { continue };
            let at_dialler = self.connections[&connection].from != id;
            self.connections.get_mut(&connection).expect("just found").open = false;
            self.schedule(connection, Happening::Gone { at_dialler });
        }
    }

    fn launch(&mut self, connection: u64, frame: Bytes) {
        if !self.connections[&connection].open {
            return;
        }
        let fate = self.dice.below(100);
        if fate < self.lost {
            return;
        }
        if fate < self.lost + self.repeated {
            self.schedule(connection, Happening::Frame(frame.clone()));
        }
        self.schedule(connection, Happening::Frame(frame));
        if (100 - self.reset..100).contains(&fate) {
            self.reset_connection(connection);
        }
    }

    /// By the name of the link at this node.
    fn connection_of(&self, node: NodeId, link: LinkId) -> Option<u64> {
        let named = |connection: &Connection| {
            (connection.from == node && connection.link == link)
                || (connection.to == node && connection.accepted == Some(link))
        };
        // Numbers of links start anew with each process: the newest connection is meant.
        self.connections.iter().rev().find(|(_, connection)| named(connection)).map(|(&id, _)| id)
    }

    fn schedule(&mut self, connection: u64, happening: Happening) {
        self.counter += 1;
        self.happenings.insert(self.counter, (connection, happening));
        self.heap.push(Reverse((self.now + self.latency, self.counter)));
    }

    pub(super) fn run_for(&mut self, milliseconds: u64) {
        let end = self.now + Duration::from_millis(milliseconds);
        loop {
            let due = |node: &Node| node.peers.next_deadline().map(|next| next.max(node.asleep_until));
            let wake = self.nodes.iter().filter_map(|(&id, node)| due(node).map(|next| (next, id))).min();
            let next = self.heap.peek().map(|&Reverse((when, _))| when);
            match (wake, next) {
                (Some((when, id)), next) if next.is_none_or(|next| when < next) && when <= end => {
                    self.now = self.now.max(when);
                    self.turn(id);
                }
                (_, Some(when)) if when <= end => {
                    self.now = self.now.max(when);
                    let Reverse((_, number)) = self.heap.pop().expect("just peeked");
                    if let Some((connection, happening)) = self.happenings.remove(&number) {
                        self.happen(connection, happening);
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Gives an input to a process, now or when it wakes.
    fn give(&mut self, node: NodeId, input: Input) {
        self.node(node).inbox.push(input);
        self.turn(node);
    }

    fn happen(&mut self, id: u64, happening: Happening) {
        let connection = self.connections[&id];
        let Connection { from, to, link, accepted, open, .. } = connection;
        let dialler_lives = self.nodes.get(&from).is_some_and(|node| node.identity.boot == connection.from_boot);
        let towards_dialler =
            matches!(happening, Happening::Welcome | Happening::Written(_) | Happening::Gone { at_dialler: true });
        let path = if towards_dialler { (to, from) } else { (from, to) };
        let held =
            self.cut.contains(&path) || (matches!(happening, Happening::Knock) && self.cut.contains(&(to, from)));
        if held && !matches!(happening, Happening::Written(_)) {
            // Sent again by the transport until the path is mended.
            self.counter += 1;
            self.happenings.insert(self.counter, (id, happening));
            self.heap.push(Reverse((self.now + Duration::from_millis(50), self.counter)));
            return;
        }
        match happening {
            Happening::Knock if !open => {}
            Happening::Knock if self.nodes.contains_key(&to) => {
                self.counter += 1;
                let accepted = LinkId(self.counter);
                self.connections.get_mut(&id).expect("it exists").accepted = Some(accepted);
                self.give(to, Input::LinkAccepted { link: accepted });
                self.schedule(id, Happening::Welcome);
            }
            Happening::Welcome if open && dialler_lives => self.give(from, Input::LinkUp { link }),
            Happening::Welcome => {}
            Happening::Knock => {
                let refused = self.dead.get(&to).is_none_or(|(_, death)| *death == Death::Refused);
                if refused && dialler_lives {
                    self.connections.get_mut(&id).expect("it exists").open = false;
                    self.give(from, Input::LinkDown { link });
                }
            }
            Happening::Frame(frame) => {
                if let Some(link) = accepted.filter(|_| self.nodes.contains_key(&to)) {
                    self.give(to, Input::LinkFrame { link, frame });
                }
            }
            Happening::Written(bytes) if open && dialler_lives => self.give(from, Input::LinkWritten { link, bytes }),
            Happening::Written(_) => {}
            Happening::Gone { at_dialler: true } if dialler_lives => self.give(from, Input::LinkDown { link }),
            Happening::Gone { at_dialler: true } => {}
            Happening::Gone { at_dialler: false } => {
                if let Some(link) = accepted.filter(|_| self.nodes.contains_key(&to)) {
                    self.give(to, Input::LinkDown { link });
                }
            }
        }
    }
}

pub(super) fn envelope(group: u64) -> Envelope {
    Envelope { group: GroupId(group), from: ReplicaId(1), to: ReplicaId(2), epoch: 0 }
}

pub(super) fn heartbeat(index: u64) -> Message {
    Message { msg_type: MessageType::MsgHeartbeat as i32, from: 1, to: 2, index, ..Message::default() }
}

pub(super) fn append(index: u64, payload_bytes: usize) -> Message {
    let data = Bytes::from(vec![index as u8; payload_bytes]);
    let entry = Entry { term: 1, index: index + 1, data, ..Entry::default() };
    Message {
        msg_type: MessageType::MsgAppend as i32,
        from: 1,
        to: 2,
        index,
        entries: vec![entry],
        ..Message::default()
    }
}
