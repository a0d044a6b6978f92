//! Which nodes get the replicas of a new topic.
//!
//! Invariant: a pure function of image, demand and a number that spreads ties; nodes that are down are chosen only if
//! there are too few others, and never for so many replicas that the partition could not be led. In this order: the replicas of a partition lie in as many racks as there are; the topic's replicas and its preferred leaders
//! are spread evenly over the nodes, one more or less; what cannot be even within the topic goes to the nodes that
//! have least of all topics together.
//!
//! A node gets its share of each topic rather than all of the next one: a node that comes back empty does not become
//! the place of everything new. Moving what exists is not decided here.

use std::collections::{BTreeMap, VecDeque};

use super::{image::MetadataImage, node::Node, refusal::Refusal};
use crate::{
    ids::NodeId,
    limits::{REPLICAS_MAX, TOPIC_PARTITIONS_MAX},
};

/// What a topic is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Numbers { partitions: i32, replication_factor: i16 },
    Assigned(Vec<Vec<NodeId>>),
}

impl Demand {
    pub fn numbers(partitions: i32, replication_factor: i16) -> Self {
        Self(Kind::Numbers { partitions, replication_factor })
    }

    /// The nodes of each partition, as the client wants them, the preferred leader first.
    pub fn assigned<'a>(partitions: impl IntoIterator<Item = &'a [i32]>) -> Self {
        let nodes = |nodes: &[i32]| nodes.iter().map(|node| NodeId(*node)).collect();
        Self(Kind::Assigned(partitions.into_iter().map(nodes).collect()))
    }

    pub fn partitions(&self) -> i32 {
        match &self.0 {
            Kind::Numbers { partitions, .. } => *partitions,
            Kind::Assigned(assigned) => i32::try_from(assigned.len()).unwrap_or(i32::MAX),
        }
    }

    pub fn replication_factor(&self) -> i16 {
        match &self.0 {
            Kind::Numbers { replication_factor, .. } => *replication_factor,
            Kind::Assigned(assigned) => {
                let first = assigned.first().map_or(0, Vec::len);
                i16::try_from(first).unwrap_or(i16::MAX)
            }
        }
    }
}

/// The nodes of each partition's replicas, the preferred leader first. `spread` may be any number; different ones give
/// different placements of the same quality.
pub fn place(image: &MetadataImage, demand: &Demand, spread: u64) -> Result<Vec<Vec<NodeId>>, Refusal> {
    Placer::new(image).place(demand, spread)
}

/// Places several topics that come together: each sees the ones before it, as if they were in the image.
#[derive(Clone, Debug)]
pub struct Placer {
    image: MetadataImage,
    /// Replicas and leaderships of each node, of all topics.
    loads: BTreeMap<NodeId, (usize, usize)>,
}

impl Placer {
    pub fn new(image: &MetadataImage) -> Self {
        let mut placer = Self { image: image.clone(), loads: BTreeMap::new() };
        for partition in image.topics().flat_map(|topic| &topic.partitions) {
            placer.add(partition.replicas.iter().map(|replica| replica.node));
        }
        placer
    }

    fn add(&mut self, replicas: impl Iterator<Item = NodeId>) {
        for (rank, node) in replicas.enumerate() {
            let (replicas, leaders) = self.loads.entry(node).or_default();
            *replicas += 1;
            *leaders += usize::from(rank == 0);
        }
    }

    /// See [`place`].
    pub fn place(&mut self, demand: &Demand, spread: u64) -> Result<Vec<Vec<NodeId>>, Refusal> {
        let assignment = assign(&self.image, &self.loads, demand, spread)?;
        assignment.iter().for_each(|partition| self.add(partition.iter().copied()));
        Ok(assignment)
    }
}

fn assign(
    image: &MetadataImage,
    loads: &BTreeMap<NodeId, (usize, usize)>,
    demand: &Demand,
    spread: u64,
) -> Result<Vec<Vec<NodeId>>, Refusal> {
    match &demand.0 {
        Kind::Assigned(assigned) => {
            let known = assigned.iter().flatten().all(|node| image.node(*node).is_some());
            if known { Ok(assigned.clone()) } else { Err(Refusal::InvalidReplicaAssignment) }
        }
        Kind::Numbers { partitions, replication_factor } => {
            if !(1..=TOPIC_PARTITIONS_MAX).contains(partitions) {
                return Err(Refusal::InvalidPartitions);
            }
            let factor = usize::try_from(*replication_factor).unwrap_or(0);
            let mut nodes: Vec<&Node> = image.nodes().filter(|node| node.is_live()).collect();
            let live = nodes.len();
            if factor > live && factor < live * 2 {
                nodes.extend(down(image, loads, factor - live));
                nodes.sort_by_key(|node| node.id);
            }
            if factor == 0 || factor > nodes.len().min(REPLICAS_MAX) {
                let live = i32::try_from(live).expect("a cluster has at most a thousand nodes");
                return Err(Refusal::InvalidReplicationFactor { asked: i32::from(*replication_factor), live });
            }
            let mut plan = Plan::new(&nodes, loads, spread);
            for _ in 0..*partitions {
                plan.add_partition(factor);
            }
            plan.even_out_replicas();
            plan.even_out_leaders();
            Ok(plan.into_assignment())
        }
    }
}

/// Registered nodes that are down, those with the fewest replicas first. They take their replicas up when they are back, as
/// in Kafka, where brokers that are fenced count for the replication factor.
fn down<'a>(
    image: &'a MetadataImage,
    loads: &BTreeMap<NodeId, (usize, usize)>,
    count: usize,
) -> impl Iterator<Item = &'a Node> {
    let mut down: Vec<&Node> = image.nodes().filter(|node| !node.is_live() && node.registration.is_some()).collect();
    down.sort_by_key(|node| (loads.get(&node.id).copied().unwrap_or_default(), node.id));
    down.into_iter().take(count)
}

/// A node by its place in [`Plan::nodes`].
type Place = usize;

/// How much a node has.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// Of the topic that is being placed.
    topic: usize,
    /// Of all topics, this one included.
    total: usize,
}

/// A replica that goes elsewhere.
#[derive(Clone, Copy, Debug)]
struct Move {
    partition: usize,
    from: Place,
    to: Place,
}

struct Plan {
    nodes: Vec<NodeId>,
    /// The rack of each node, as a number. Nodes that name none are racks of their own.
    racks: Vec<usize>,
    replicas: Vec<Load>,
    leaders: Vec<Load>,
    /// The replicas of each partition; the first one leads.
    partitions: Vec<Vec<Place>>,
    spread: u64,
}

impl Plan {
    fn new(candidates: &[&Node], loads: &BTreeMap<NodeId, (usize, usize)>, spread: u64) -> Self {
        let nodes: Vec<NodeId> = candidates.iter().map(|node| node.id).collect();
        let mut names = BTreeMap::new();
        let racks = candidates.iter().enumerate().map(|(place, node)| match node.rack() {
            None => place,
            Some(rack) => *names.entry(rack).or_insert(place),
        });
        let loads = || nodes.iter().map(|node| loads.get(node).copied().unwrap_or_default());
        Self {
            racks: racks.collect(),
            replicas: loads().map(|(total, _)| Load { topic: 0, total }).collect(),
            leaders: loads().map(|(_, total)| Load { topic: 0, total }).collect(),
            partitions: Vec::new(),
            nodes,
            spread,
        }
    }

    /// Chooses the replicas of one more partition, each time the best node that is left.
    fn add_partition(&mut self, factor: usize) {
        let number = self.partitions.len() as u64;
        let mut chosen: Vec<Place> = Vec::with_capacity(factor);
        for _ in 0..factor {
            let free = (0..self.nodes.len()).filter(|place| !chosen.contains(place));
            let best = free.min_by_key(|&place| {
                let shared = chosen.iter().filter(|other| self.racks[**other] == self.racks[place]).count();
                let load = self.replicas[place];
                (shared, load.topic, load.total, self.tie(number, place))
            });
            chosen.push(best.expect("there are at least as many nodes as replicas"));
        }
        for &place in &chosen {
            self.replicas[place].add();
        }
        let first = (0..factor).min_by_key(|&rank| {
            let place = chosen[rank];
            (self.leaders[place].topic, self.leaders[place].total, self.tie(number, place))
        });
        chosen.swap(0, first.expect("a partition has a replica"));
        self.leaders[chosen[0]].add();
        self.partitions.push(chosen);
    }

    /// Moves replicas from nodes with more to nodes with less where the racks allow it, if need be over other nodes, which
    /// take one and give one away. Choosing one partition after the other leaves little to do here.
    fn even_out_replicas(&mut self) {
        for _ in 0..self.rounds() {
            let Some(path) = self.uneven_replicas() else { return };
            for Move { partition, from, to } in path {
                if !self.may_move(&self.partitions[partition], from, to) {
                    // An earlier step moved another replica of the same partition: the next search sees that.
                    break;
                }
                let rank = self.partitions[partition].iter().position(|place| *place == from);
                let rank = rank.expect("the move was found to be possible");
                self.partitions[partition][rank] = to;
                self.replicas[from].remove();
                self.replicas[to].add();
                if rank == 0 {
                    self.leaders[from].remove();
                    self.leaders[to].add();
                }
            }
        }
    }

    /// Whether the replica of a partition at one node may lie at another one instead.
    fn may_move(&self, partition: &[Place], from: Place, to: Place) -> bool {
        let in_rack = |rack: usize| {
            let others = partition.iter().filter(|place| **place != from);
            others.filter(|place| self.racks[**place] == rack).count()
        };
        partition.contains(&from) && !partition.contains(&to) && in_rack(self.racks[to]) <= in_rack(self.racks[from])
    }

    /// The shortest way to make a node with more have one replica less and a node with less one more, the last step first:
    /// so each node on the way takes one before it gives one away.
    fn uneven_replicas(&self) -> Option<Vec<Move>> {
        let mut held = vec![Vec::new(); self.nodes.len()];
        for (number, partition) in self.partitions.iter().enumerate() {
            partition.iter().for_each(|place| held[*place].push(number));
        }
        let places = 0..self.nodes.len();
        for from in places.clone() {
            let is_end = |to: Place| self.replicas[from].exceeds(self.replicas[to]);
            if !places.clone().any(is_end) {
                continue;
            }
            let mut reached: Vec<Option<(usize, Place)>> = vec![None; self.nodes.len()];
            let mut queue = VecDeque::from([from]);
            while let Some(place) = queue.pop_front() {
                for &partition in &held[place] {
                    for to in places.clone().filter(|to| *to != from) {
                        if reached[to].is_some() || !self.may_move(&self.partitions[partition], place, to) {
                            continue;
                        }
                        reached[to] = Some((partition, place));
                        if is_end(to) {
                            let steps = path(&reached, from, to).into_iter();
                            let step = |(partition, to): (usize, Place)| {
                                let (_, from) = reached[to].expect("it is on the path");
                                Move { partition, from, to }
                            };
                            return Some(steps.map(step).collect());
                        }
                        queue.push_back(to);
                    }
                }
            }
        }
        None
    }

    /// Hands leadership on along partitions that both nodes have, from nodes with more to nodes with less.
    fn even_out_leaders(&mut self) {
        for _ in 0..self.rounds() {
            let Some(path) = self.uneven_leaders() else { return };
            for (partition, to) in path {
                let rank = self.partitions[partition].iter().position(|place| *place == to);
                let from = self.partitions[partition][0];
                self.partitions[partition].swap(0, rank.expect("the path leads along replicas"));
                self.leaders[from].remove();
                self.leaders[to].add();
            }
        }
    }

    /// The shortest way to hand one leadership from a node with more to a node with less, partition by partition, last
    /// step first: each step gives the partition to a node, which has just given one away or has too few.
    fn uneven_leaders(&self) -> Option<Vec<(usize, Place)>> {
        let mut led = vec![Vec::new(); self.nodes.len()];
        for (number, partition) in self.partitions.iter().enumerate() {
            led[partition[0]].push(number);
        }
        for from in 0..self.nodes.len() {
            let mut reached: Vec<Option<(usize, Place)>> = vec![None; self.nodes.len()];
            let mut queue = VecDeque::from([from]);
            while let Some(place) = queue.pop_front() {
                for &partition in &led[place] {
                    for &to in &self.partitions[partition][1..] {
                        if to == from || reached[to].is_some() {
                            continue;
                        }
                        reached[to] = Some((partition, place));
                        if self.leaders[from].exceeds(self.leaders[to]) {
                            return Some(path(&reached, from, to));
                        }
                        queue.push_back(to);
                    }
                }
            }
        }
        None
    }

    /// More than enough rounds for what is left to even out, and a bound whatever the racks look like.
    fn rounds(&self) -> usize {
        4 * self.nodes.len() + 16
    }

    /// Orders nodes that are equally good, differently for each partition, so that neighbours vary.
    fn tie(&self, partition: u64, place: Place) -> u64 {
        // The finalizer of SplitMix64.
        let mut mixed = self.spread ^ (partition << 32) ^ place as u64;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn into_assignment(self) -> Vec<Vec<NodeId>> {
        let nodes = |places: &Vec<Place>| places.iter().map(|place| self.nodes[*place]).collect();
        self.partitions.iter().map(nodes).collect()
    }
}

impl Load {
    fn add(&mut self) {
        self.topic += 1;
        self.total += 1;
    }

    fn remove(&mut self) {
        self.topic -= 1;
        self.total -= 1;
    }

    /// Whether moving one from here to `other` makes it more even: within the topic, or over all topics without making
    /// the topic less even. Each such move makes one of the two sums of squares smaller, so that moving ends.
    fn exceeds(self, other: Self) -> bool {
        self.topic > other.topic + 1 || self.topic == other.topic + 1 && self.total > other.total + 1
    }
}

/// The steps that lead from `from` to `to`, the last one first.
fn path(reached: &[Option<(usize, Place)>], from: Place, to: Place) -> Vec<(usize, Place)> {
    let mut steps = Vec::new();
    let mut place = to;
    while place != from {
        let (partition, before) = reached[place].expect("every step was reached from the one before");
        steps.push((partition, place));
        place = before;
    }
    steps
}

#[cfg(test)]
mod tests;
