//! Clusters of formations in memory: messages are delivered, lost, repeated and delayed; nodes crash and are wiped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::{
    config::{Endpoint, PeerConfig},
    ids::BootNumber,
    log::wal::WalKey,
};

struct Node {
    formation: Formation,
    identity: Identity,
    config: NodeConfig,
    /// Being made durable.
    pending: Option<FormationRecord>,
    refused: Option<String>,
}

struct World {
    nodes: BTreeMap<NodeId, Node>,
    network: VecDeque<(NodeId, NodeId, Bytes)>,
    now: Now,
    wiped: u8,
    /// Every (cluster, directory) that was ever durable together.
    ledger: BTreeSet<(ClusterId, DirectoryId)>,
}

fn config(node: i32, nodes: &[(i32, bool)]) -> NodeConfig {
    let peers =
        nodes.iter().map(|&(id, voter)| PeerConfig { node: NodeId(id), address: String::new(), voter }).collect();
    NodeConfig::new(NodeId(node), peers, Endpoint { host: "h".to_owned(), port: 1 }, 7)
}

fn identity(node: i32, directory: u8) -> Identity {
    Identity {
        node: NodeId(node),
        directory: DirectoryId(Uuid([directory; 16])),
        boot: BootNumber(1),
        wal_key: WalKey(1),
        has_wal: false,
        cluster: None,
        formation: Bytes::new(),
    }
}

fn start(config: &NodeConfig, identity: &Identity, now: Now) -> Formation {
    let seed = u64::from(identity.directory.0.0[0]);
    Formation::new(now, config, identity, Stream::new(seed, config.node, "formation", identity.boot.0)).unwrap()
}

impl World {
    fn new(nodes: &[(i32, bool)]) -> Self {
        let now = Now::default();
        let node = |&(id, _): &(i32, bool)| {
            let config = config(id, nodes);
            let identity = identity(id, id as u8);
            let formation = start(&config, &identity, now);
            (NodeId(id), Node { formation, identity, config, pending: None, refused: None })
        };
        Self {
            nodes: nodes.iter().map(node).collect(),
            network: VecDeque::new(),
            now,
            wiped: 100,
            ledger: BTreeSet::new(),
        }
    }

    fn poll(&mut self, id: i32) {
        let node = self.nodes.get_mut(&NodeId(id)).unwrap();
        for step in node.formation.poll(self.now) {
            match step {
                Step::MakeDurable(record) => node.pending = Some(record),
                Step::Send { to, bytes } => self.network.push_back((NodeId(id), to, bytes)),
                Step::Refuse(sentence) => node.refused = Some(sentence),
                Step::Warn(_) => {}
            }
        }
    }

    fn sync(&mut self, id: i32) {
        let node = self.nodes.get_mut(&NodeId(id)).unwrap();
        if let Some(record) = node.pending.take() {
            self.ledger.insert((record.cluster, node.identity.directory));
            node.identity.cluster = Some(record.cluster);
            node.identity.formation = record.encode();
            node.formation.durable();
        }
        self.poll(id);
    }

    /// The process ends and starts again; what was not durable is gone.
    fn crash(&mut self, id: i32) {
        let node = self.nodes.get_mut(&NodeId(id)).unwrap();
        node.pending = None;
        node.identity.boot.0 += 1;
        node.formation = start(&node.config, &node.identity, self.now);
        self.hello(id);
    }

    fn wipe(&mut self, id: i32) {
        self.wiped += 1;
        let node = self.nodes.get_mut(&NodeId(id)).unwrap();
        node.identity = identity(id, self.wiped);
        node.refused = None;
        self.crash(id);
    }

    /// The node introduces itself to all others, and they to it.
    fn hello(&mut self, id: i32) {
        let about = |node: &Node| (configuration_hash(&node.config), node.identity.cluster.is_none());
        let (configuration, empty) = about(&self.nodes[&NodeId(id)]);
        let others: Vec<i32> = self.nodes.keys().map(|node| node.0).filter(|node| *node != id).collect();
        for other in others {
            self.nodes.get_mut(&NodeId(other)).unwrap().formation.hello(NodeId(id), configuration, empty);
            let (theirs, their_empty) = about(&self.nodes[&NodeId(other)]);
            self.nodes.get_mut(&NodeId(id)).unwrap().formation.hello(NodeId(other), theirs, their_empty);
            self.poll(other);
        }
        self.poll(id);
    }

    fn deliver(&mut self, place: usize, keep: bool) {
        if self.network.is_empty() {
            return;
        }
        let place = place % self.network.len();
        let (from, to, bytes) = if keep { self.network[place].clone() } else { self.network.remove(place).unwrap() };
        if let Some(node) = self.nodes.get_mut(&to) {
            node.formation.message(from, &bytes).unwrap();
            self.poll(to.0);
        }
    }

    /// Time passes without faults until nothing moves.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.now.monotonic = self.now.monotonic + ASK_INTERVAL;
            let ids: Vec<i32> = self.nodes.keys().map(|node| node.0).collect();
            for id in &ids {
                self.poll(*id);
            }
            while !self.network.is_empty() || self.nodes.values().any(|node| node.pending.is_some()) {
                self.deliver(0, false);
                for id in &ids {
                    self.sync(*id);
                }
            }
        }
    }

    fn clusters(&self) -> BTreeSet<ClusterId> {
        self.nodes.values().filter_map(|node| node.identity.cluster).collect()
    }
}

const THREE: &[(i32, bool)] = &[(1, true), (2, true), (3, false)];

#[test]
fn empty_nodes_form_one_cluster_and_the_others_learn() {
    let mut world = World::new(THREE);
    world.settle();
    assert_eq!(world.clusters().len(), 1);
    let record = world.nodes[&NodeId(3)].formation.record().unwrap();
    let members: Vec<_> = record.members.iter().map(|member| (member.node.0, member.voter)).collect();
    assert_eq!(members, THREE);
}

#[test]
fn one_node_alone_is_a_cluster() {
    let mut world = World::new(&[(7, true)]);
    world.settle();
    assert_eq!(world.clusters().len(), 1);
}

#[test]
fn nothing_forms_while_a_node_is_missing_or_configured_otherwise() {
    let mut world = World::new(THREE);
    let absent = world.nodes.remove(&NodeId(3)).unwrap();
    world.settle();
    assert!(world.clusters().is_empty());
    world.nodes.insert(NodeId(3), absent);
    let other = config(3, &[(1, true), (2, true), (3, true)]);
    let node = world.nodes.get_mut(&NodeId(3)).unwrap();
    node.formation = start(&other, &node.identity, world.now);
    world.settle();
    assert!(world.clusters().is_empty());
}

#[test]
fn a_record_that_was_not_durable_was_never_sent() {
    let mut world = World::new(THREE);
    world.now.monotonic = world.now.monotonic + ASK_INTERVAL;
    world.poll(1);
    while !world.network.is_empty() {
        world.deliver(0, false);
    }
    assert!(world.nodes[&NodeId(1)].pending.is_some());
    world.crash(1);
    world.settle();
    assert_eq!(world.clusters().len(), 1);
}

#[test]
fn a_node_that_missed_the_record_gets_it_when_it_comes_back() {
    let mut world = World::new(THREE);
    let late = world.nodes.remove(&NodeId(3)).unwrap();
    world.nodes.insert(NodeId(3), late);
    world.poll(1);
    while !world.network.is_empty() {
        world.deliver(0, false);
    }
    world.sync(1);
    world.network.clear();
    for id in [1, 2, 3] {
        world.crash(id);
    }
    world.settle();
    assert_eq!(world.clusters().len(), 1);
    assert!(world.nodes.values().all(|node| node.identity.cluster.is_some()));
}

#[test]
fn a_node_that_every_message_missed_asks_for_the_record() {
    let mut world = World::new(THREE);
    world.settle();
    let node = world.nodes.get_mut(&NodeId(3)).unwrap();
    node.identity.cluster = None;
    node.formation = start(&node.config, &node.identity, world.now);
    assert!(world.nodes[&NodeId(3)].formation.record().is_none());
    world.settle();
    assert!(world.nodes[&NodeId(3)].formation.record().is_some());
}

#[test]
fn a_wiped_node_joins_the_cluster_that_there_is_and_forms_none() {
    let mut world = World::new(THREE);
    world.settle();
    let before = world.clusters();
    for id in [1, 3] {
        world.wipe(id);
        world.settle();
        assert_eq!(world.clusters(), before);
        let node = &world.nodes[&NodeId(id)];
        assert_eq!((node.refused.as_ref(), node.identity.cluster.is_some()), (None, true));
        assert!(node.formation.is_replacement());
    }
    assert!(!world.nodes[&NodeId(2)].formation.is_replacement());
    world.crash(1);
    assert!(world.nodes[&NodeId(1)].formation.is_replacement(), "it still is after a restart");
}

/// The record reached one node only; another one has promised itself to the wiped minter's new directory.
#[test]
fn a_minter_that_was_wiped_releases_who_promised_itself_to_it() {
    let mut world = World::new(&[(1, true), (2, true), (3, true)]);
    world.poll(1);
    while !world.network.is_empty() {
        world.deliver(0, false);
    }
    world.sync(1);
    world.network.retain(|(_, to, _)| to.0 == 2);
    while !world.network.is_empty() {
        world.deliver(0, false);
    }
    world.sync(2);
    world.network.clear();
    let before = world.clusters();
    world.wipe(1);
    world.network.retain(|(_, to, _)| to.0 == 3);
    world.now.monotonic = world.now.monotonic + ASK_INTERVAL;
    world.poll(1);
    world.network.retain(|(from, to, _)| (from.0, to.0) == (1, 3));
    while !world.network.is_empty() {
        world.deliver(0, false);
    }
    world.settle();
    assert_eq!(world.clusters(), before);
    assert!(world.nodes.values().all(|node| node.identity.cluster.is_some()));
}

proptest! {
    #[test]
    fn directories_never_belong_to_two_clusters(
        steps in proptest::collection::vec((0u8..12, 1i32..4, any::<u8>()), 0..120),
    ) {
        let mut world = World::new(THREE);
        for (kind, id, place) in steps {
            world.now.monotonic = world.now.monotonic + Duration::from_millis(70);
            match kind {
                0..=3 => world.deliver(place.into(), false),
                4 => world.deliver(place.into(), true),
                5 | 6 => world.poll(id),
                7 | 8 => world.sync(id),
                9 => { world.network.pop_front(); }
                10 => world.crash(id),
                _ => {
                    // A wiped node's links are new: what it sent before does not arrive after its first hello there,
                    // but what others sent it may.
                    if place % 8 == 0 {
                        world.network.retain(|(from, _, _)| from.0 != id);
                        world.wipe(id);
                    }
                }
            }
            let directories: BTreeSet<DirectoryId> = world.ledger.iter().map(|(_, directory)| *directory).collect();
            prop_assert_eq!(directories.len(), world.ledger.len(), "a directory belongs to one cluster");
        }
    }
}
