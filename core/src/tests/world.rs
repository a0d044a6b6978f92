//! Whole nodes with a clock that only this world moves, disks in memory and links without latency.
//!
//! Invariant: nothing happens but what a test asks for or a deadline of a node calls for, always in the same order;
//! and a node that was polled until it was silent has nothing left to do (a turn that leaves work behind fails here).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use slog::{Discard, Logger, o};

use super::disk::Disk;
use crate::{
    broker::{Depth, GroupInspection, Inspection},
    config::{NodeConfig, PeerConfig},
    ids::{ConnectionId, GroupId, LinkId, NodeId},
    io::{DiskOperation, Effects, Exit, Input, PeerSend},
    limits,
    replication::group::Role,
    shard::Shard,
    time::{Monotonic, Now, Wall},
};

/// Rounds of one moment after which nodes are believed to keep each other busy for ever.
const ROUNDS_MAX: usize = 100_000;

pub(super) struct World {
    pub(super) now: Monotonic,
    /// What the wall clocks of all nodes showed at the start.
    pub(super) epoch: i64,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    links: BTreeMap<(NodeId, LinkId), (NodeId, LinkId)>,
    /// Pairs between which nothing gets through, in this direction.
    pub(super) cuts: BTreeSet<(NodeId, NodeId)>,
    pub(super) clients: BTreeMap<ConnectionId, Client>,
    next_link: u64,
    next_connection: u64,
    /// Slices of everything that a node writes to its WAL and sends to peers and clients, while somebody looks.
    pub(super) seen: Option<(NodeId, Seen)>,
    pub(super) change_config: fn(&mut NodeConfig),
}

pub(super) struct Node {
    pub(super) shard: Option<Shard>,
    pub(super) disk: Disk,
    inbox: VecDeque<Input>,
    operations: VecDeque<DiskOperation>,
    /// Disk operations wait.
    pub(super) disk_held: bool,
    pub(super) exit: Option<Exit>,
    starts: u64,
}

#[derive(Default)]
pub(super) struct Client {
    pub(super) node: NodeId,
    /// Sent by the node and not looked at.
    pub(super) received: Vec<u8>,
    /// Does not read: the node hears of no written byte.
    pub(super) stuck: bool,
    pub(super) closed: bool,
    pub(super) next_correlation: i32,
    /// Requests that were sent and not answered, in order: correlation id, API and version.
    pub(super) asked: VecDeque<(i32, i16)>,
    pub(super) credit: usize,
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) wal: Vec<Bytes>,
    pub(super) peers: Vec<Bytes>,
    pub(super) clients: Vec<Bytes>,
}

impl World {
    /// Nodes 1 to `nodes`, started from empty disks.
    pub(super) fn new(nodes: i32) -> Self {
        Self::with_config(nodes, |_| {})
    }

    pub(super) fn with_config(nodes: i32, change_config: fn(&mut NodeConfig)) -> Self {
        let mut world = Self {
            now: Monotonic(1_000_000_000),
            epoch: 1_700_000_000_000,
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            cuts: BTreeSet::new(),
            clients: BTreeMap::new(),
            next_link: 1,
            next_connection: 1,
            seen: None,
            change_config,
        };
        for node in 1..=nodes {
            world.nodes.insert(
                NodeId(node),
                Node {
                    shard: None,
                    disk: Disk::default(),
                    inbox: VecDeque::new(),
                    operations: VecDeque::new(),
                    disk_held: false,
                    exit: None,
                    starts: 0,
                },
            );
        }
        for node in 1..=nodes {
            world.start(NodeId(node));
        }
        world
    }

    /// A cluster that serves clients on every node.
    pub(super) fn formed(nodes: i32) -> Self {
        Self::formed_with(nodes, |_| {})
    }

    pub(super) fn formed_with(nodes: i32, change_config: fn(&mut NodeConfig)) -> Self {
        let mut world = Self::with_config(nodes, change_config);
        world.run_until_formed();
        world
    }

    pub(super) fn run_until_formed(&mut self) {
        let all = self.nodes.len();
        self.run_until("all nodes are registered and up", |world| {
            world.nodes.keys().all(|node| {
                world.nodes[node].shard.as_ref().and_then(Shard::broker).is_some_and(|broker| {
                    broker.listed_nodes().count() == all && broker.leader_of(GroupId::METADATA).is_some()
                })
            })
        });
    }

    fn config(&self, node: NodeId) -> NodeConfig {
        let peers = self.nodes.keys().map(|&node| PeerConfig { node, address: format!("n{node}:1"), voter: true });
        let advertised = format!("host{node}:9092").parse().unwrap();
        let seed = 7 + self.nodes[&node].starts;
        let mut config = NodeConfig::new(node, peers.collect(), advertised, seed);
        config.wal_file_bytes = NodeConfig::WAL_FILE_BYTES_MIN;
        (self.change_config)(&mut config);
        config
    }

    pub(super) fn start(&mut self, id: NodeId) {
        let config = self.config(id);
        let node = self.nodes.get_mut(&id).unwrap();
        assert!(node.shard.is_none(), "it is not running");
        node.starts += 1;
        node.exit = None;
        node.shard = Some(Shard::new(config, Logger::root(Discard, o!())));
    }

    /// What a process on this disk finds, before anything else happens.
    pub(super) fn recovered(&self, id: NodeId, mut disk: Disk) -> Result<Inspection, Exit> {
        let mut shard = Shard::new(self.config(id), Logger::root(Discard, o!()));
        loop {
            let mut effects = Effects::default();
            shard.poll(self.clocks(), &mut effects);
            if let Some(exit) = effects.exit {
                return Err(exit);
            }
            if let Some(inspection) = shard.inspect(Depth::Deep) {
                return Ok(inspection);
            }
            assert!(!effects.is_empty(), "a start waits for its disk only");
            for operation in effects.wal.into_iter().chain(effects.disk) {
                let result = disk.run(operation.action);
                shard.handle(self.clocks(), Input::Disk { operation: operation.id, result });
            }
        }
    }

    /// Disk operations that were issued and not carried out.
    pub(super) fn pending(&self, node: NodeId) -> usize {
        self.nodes[&node].operations.len()
    }

    /// The process ends at once: links and connections break, what was written stays.
    pub(super) fn kill(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.shard = None;
        node.inbox.clear();
        node.disk_held = false;
        for operation in std::mem::take(&mut node.operations) {
            let _ = node.disk.run(operation.action);
        }
        let gone: Vec<_> = self.links.keys().filter(|(node, _)| *node == id).copied().collect();
        for link in gone {
            self.drop_link(link.0, link.1);
        }
        for client in self.clients.values_mut().filter(|client| client.node == id) {
            client.closed = true;
        }
    }

    fn drop_link(&mut self, node: NodeId, link: LinkId) {
        let Some((peer, peer_link)) = self.links.remove(&(node, link)) else { return };
        self.links.remove(&(peer, peer_link));
        self.input(peer, Input::LinkDown { link: peer_link });
    }

    /// Nothing gets through between the two any more, and nobody is told.
    pub(super) fn cut(&mut self, a: NodeId, b: NodeId) {
        self.cuts.insert((a, b));
        self.cuts.insert((b, a));
    }

    /// Cuts a node off from all others.
    pub(super) fn isolate(&mut self, node: NodeId) {
        let others: Vec<NodeId> = self.nodes.keys().copied().filter(|other| *other != node).collect();
        others.into_iter().for_each(|other| self.cut(node, other));
    }

    pub(super) fn input(&mut self, node: NodeId, input: Input) {
        let node = self.nodes.get_mut(&node).unwrap();
        if node.shard.is_some() {
            node.inbox.push_back(input);
        }
    }

    pub(super) fn connect(&mut self, node: NodeId) -> ConnectionId {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.clients.insert(connection, Client { node, credit: limits::CLIENT_WINDOW_BYTES, ..Client::default() });
        self.input(node, Input::ClientConnected { connection });
        connection
    }

    pub(super) fn clocks(&self) -> Now {
        let wall = Wall(self.epoch + i64::try_from(self.now.0 / 1_000_000).unwrap());
        Now { monotonic: self.now, wall }
    }

    /// Lets everything happen that happens at this moment.
    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            for id in &ids {
                moved |= self.turn(*id);
            }
            if !moved {
                for id in ids {
                    self.check_silent(id);
                }
                return;
            }
        }
        panic!("nodes keep each other busy");
    }

    fn turn(&mut self, id: NodeId) -> bool {
        let now = self.clocks();
        let node = self.nodes.get_mut(&id).unwrap();
        if !node.disk_held {
            while let Some(operation) = node.operations.pop_front() {
                let result = node.disk.run(operation.action);
                node.inbox.push_back(Input::Disk { operation: operation.id, result });
            }
        }
        let Some(shard) = &mut node.shard else { return false };
        let due = shard.next_deadline().is_some_and(|at| at <= now.monotonic);
        let is_new = shard.broker().is_none() && node.exit.is_none();
        if node.inbox.is_empty() && !due && !is_new {
            return false;
        }
        let had_input = !node.inbox.is_empty();
        for input in node.inbox.drain(..) {
            shard.handle(now, input);
        }
        let mut effects = Effects::default();
        shard.poll(now, &mut effects);
        let acted = had_input || due || !effects.is_empty();
        self.carry_out(id, effects);
        acted
    }

    /// A node that has no input and no deadline must have nothing to do.
    fn check_silent(&mut self, id: NodeId) {
        let now = self.clocks();
        let Some(shard) = &mut self.nodes.get_mut(&id).unwrap().shard else { return };
        let mut effects = Effects::default();
        shard.poll(now, &mut effects);
        let left = [
            ("WAL", effects.wal.len()),
            ("disk", effects.disk.len()),
            ("peers", effects.peer_sends.len()),
            ("clients", effects.client_sends.len()),
        ];
        assert!(effects.is_empty(), "node {id} left work behind: {left:?} {:?}", effects.disk);
    }

    fn carry_out(&mut self, id: NodeId, effects: Effects) {
        if let Some(exit) = effects.exit {
            self.kill(id);
            self.nodes.get_mut(&id).unwrap().exit = Some(exit);
            return;
        }
        if let Some((_, seen)) = self.seen.as_mut().filter(|(node, _)| *node == id) {
            for operation in &effects.wal {
                if let crate::io::DiskAction::Write { slices, .. } = &operation.action {
                    seen.wal.extend(slices.iter().cloned());
                }
            }
            seen.peers.extend(effects.peer_sends.iter().flat_map(|send| send.slices.iter().cloned()));
            seen.clients.extend(effects.client_sends.iter().flat_map(|send| send.slices.iter().cloned()));
        }
        let node = self.nodes.get_mut(&id).unwrap();
        node.operations.extend(effects.wal);
        node.operations.extend(effects.disk);
        for dial in effects.peer_dials {
            let reachable = self.nodes[&dial.node].shard.is_some() && !self.cuts.contains(&(id, dial.node));
            if reachable {
                let link = LinkId(self.next_link);
                self.next_link += 1;
                self.links.insert((id, dial.link), (dial.node, link));
                self.links.insert((dial.node, link), (id, dial.link));
                self.input(dial.node, Input::LinkAccepted { link });
                self.input(id, Input::LinkUp { link: dial.link });
            } else if self.nodes[&dial.node].shard.is_none() {
                self.input(id, Input::LinkDown { link: dial.link });
            }
        }
        for PeerSend { link, slices } in effects.peer_sends {
            let Some(&(to, to_link)) = self.links.get(&(id, link)) else { continue };
            let bytes = Bytes::from(slices.concat());
            self.input(id, Input::LinkWritten { link, bytes: bytes.len() });
            if !self.cuts.contains(&(id, to)) {
                for frame in frames(bytes) {
                    self.input(to, Input::LinkFrame { link: to_link, frame });
                }
            }
        }
        for link in effects.peer_closes {
            self.drop_link(id, link);
        }
        for send in effects.client_sends {
            let Some(client) = self.clients.get_mut(&send.connection) else { continue };
            let bytes = send.slices.concat();
            client.received.extend_from_slice(&bytes);
            if !client.stuck {
                self.input(id, Input::ClientWritten { connection: send.connection, bytes: bytes.len() });
            }
        }
        for (connection, credit) in effects.client_credits {
            if let Some(client) = self.clients.get_mut(&connection) {
                client.credit += credit;
            }
        }
        for connection in effects.client_closes.into_iter().chain(effects.client_aborts) {
            if let Some(client) = self.clients.get_mut(&connection) {
                client.closed = true;
            }
            self.input(id, Input::ClientClosed { connection });
        }
    }

    /// Moves the clock to the next deadline of any node, but not past `end`.
    fn advance(&mut self, end: Monotonic) {
        let deadlines =
            self.nodes.values().filter_map(|node| node.shard.as_ref()?.next_deadline()).filter(|at| *at > self.now);
        self.now = deadlines.min().unwrap_or(end).min(end);
        self.settle();
    }

    pub(super) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.settle();
        while self.now < end {
            self.advance(end);
        }
    }

    /// Runs until `condition` holds; how long that took.
    pub(super) fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        let end = start + Duration::from_secs(60);
        self.settle();
        while !condition(self) {
            let exits =
                || self.nodes.iter().filter_map(|(id, node)| Some((id, node.exit.as_ref()?))).collect::<Vec<_>>();
            assert!(self.now < end, "within a minute {what}; ended: {:?}", exits());
            self.advance(end);
        }
        self.now.since(start)
    }

    pub(super) fn inspect(&self, node: NodeId) -> Inspection {
        self.nodes[&node].shard.as_ref().and_then(|shard| shard.inspect(Depth::Deep)).expect("the node runs")
    }

    pub(super) fn groups(&self, node: NodeId) -> BTreeMap<GroupId, GroupInspection> {
        let Some(inspection) = self.nodes[&node].shard.as_ref().and_then(|shard| shard.inspect(Depth::Deep)) else {
            return BTreeMap::new();
        };
        inspection.groups.into_iter().map(|group| (group.group, group)).collect()
    }

    /// The node that leads and serves a group, in the highest term if there are two.
    pub(super) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads = |node: &NodeId| {
            let group = self.groups(*node).remove(&group)?;
            (group.role == Role::Leader && group.serving).then_some((group.term, *node))
        };
        self.nodes.keys().filter_map(leads).max().map(|(_, node)| node)
    }

    pub(super) fn run_until_led(&mut self, group: GroupId) -> NodeId {
        self.run_until("the group has a leader that serves", |world| world.leader(group).is_some());
        self.leader(group).unwrap()
    }

    /// All replicas of a group hold the same, and nothing is under way.
    pub(super) fn run_until_equal(&mut self, group: GroupId) {
        self.run_until("replicas are equal", |world| {
            let mut replicas = world.nodes.keys().filter_map(|node| world.groups(*node).remove(&group));
            let Some(first) = replicas.next() else { return false };
            first.applied == first.last
                && replicas.all(|other| {
                    (other.applied, other.state_hash, other.content) == (first.applied, first.state_hash, first.content)
                })
        });
    }

    /// Nobody waits for anything on any node.
    pub(super) fn assert_nothing_waits(&mut self) {
        self.run_for(Duration::from_secs(1));
        for node in self.nodes.values() {
            let Some(inspection) = node.shard.as_ref().and_then(|shard| shard.inspect(Depth::Deep)) else { continue };
            assert_eq!(inspection.outstanding, Default::default(), "on node {}", inspection.node);
        }
    }
}

fn frames(mut bytes: Bytes) -> Vec<Bytes> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes.split_to(4)[..].try_into().unwrap());
        frames.push(bytes.split_to(length as usize));
    }
    frames
}

impl World {
    /// One turn of every node with what arrived so far; `victim` comes first and executes at most one disk operation,
    /// so that a test can stop it between any two.
    pub(super) fn step(&mut self, victim: NodeId) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().filter(|id| *id != victim).collect();
        let node = self.nodes.get_mut(&victim).unwrap();
        if let Some(operation) = node.operations.pop_front() {
            let result = node.disk.run(operation.action);
            node.inbox.push_back(Input::Disk { operation: operation.id, result });
        }
        node.disk_held = true;
        let mut moved = self.turn(victim);
        self.nodes.get_mut(&victim).unwrap().disk_held = false;
        for id in ids {
            moved |= self.turn(id);
        }
        if !moved {
            let deadlines = self.nodes.values().filter_map(|node| node.shard.as_ref()?.next_deadline());
            self.now = deadlines.min().unwrap_or(self.now).max(self.now);
        }
    }
}
