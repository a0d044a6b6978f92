//! Properties of placements, over clusters of all shapes.

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    config::Endpoint,
    ids::{BootNumber, DirectoryId, GroupId, ReplicaId, TopicId, Uuid},
    metadata::{
        node::Registration,
        topic::{Partition, Replica, Topic, TopicName},
    },
};

/// A cluster of live nodes 1, 2, ... in these racks; no rack for the empty name.
fn cluster(racks: &[&str]) -> MetadataImage {
    let node = |(rack, id): (&&str, i32)| {
        let registration = Registration {
            boot: BootNumber(1),
            advertised: Endpoint { host: "host".to_owned(), port: 1 },
            rack: (!rack.is_empty()).then(|| (*rack).to_owned()),
        };
        let node = Node {
            id: NodeId(id),
            voter: true,
            directory: DirectoryId(Uuid([id as u8; 16])),
            replaced: Vec::new(),
            metadata_replica: ReplicaId(id as u64),
            registration: Some(registration),
            up: true,
        };
        (node.id, Arc::new(node))
    };
    let nodes = racks.iter().zip(1..).map(node).collect();
    MetadataImage { nodes: Arc::new(nodes), ..MetadataImage::empty() }
}

fn add_topic(image: &mut MetadataImage, number: u8, assignment: &[Vec<NodeId>]) {
    let first = image.partition_count() as u64 + 1;
    let partition = |(nodes, group): (&Vec<NodeId>, u64)| {
        let replica = |node: &NodeId| Replica { id: ReplicaId(1), node: *node, directory: DirectoryId::default() };
        Partition { group: GroupId(group), replicas: nodes.iter().map(replica).collect(), created: Vec::new() }
    };
    let topic = Topic {
        id: TopicId(Uuid([number; 16])),
        name: TopicName::new(&format!("topic-{number}")).unwrap(),
        configs_version: Default::default(),
        configs: Default::default(),
        partitions: assignment.iter().zip(first..).map(partition).collect(),
    };
    Arc::make_mut(&mut image.topics).insert(Arc::new(topic));
}

fn numbers(image: &MetadataImage, partitions: i32, factor: i16) -> Result<Vec<Vec<NodeId>>, Refusal> {
    place(image, &Demand::numbers(partitions, factor), 0)
}

/// Largest minus smallest count over the nodes.
fn unevenness<'a>(image: &MetadataImage, placed: impl Iterator<Item = &'a NodeId>) -> usize {
    let mut counts: BTreeMap<NodeId, usize> = image.nodes().map(|node| (node.id, 0)).collect();
    for node in placed {
        *counts.get_mut(node).expect("only nodes of the cluster are chosen") += 1;
    }
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

fn racks_of(image: &MetadataImage, nodes: &[NodeId]) -> usize {
    nodes.iter().map(|node| image.node(*node).unwrap().rack().unwrap()).collect::<BTreeSet<_>>().len()
}

#[test]
fn what_is_impossible_is_refused() {
    let image = cluster(&["", "", ""]);
    for partitions in [0, -1, TOPIC_PARTITIONS_MAX + 1] {
        assert_eq!(numbers(&image, partitions, 1), Err(Refusal::InvalidPartitions));
    }
    for factor in [0, -1, 4] {
        let refusal = Refusal::InvalidReplicationFactor { asked: i32::from(factor), live: 3 };
        assert_eq!(numbers(&image, 1, factor), Err(refusal));
    }
    let refusal = Refusal::InvalidReplicationFactor { asked: 6, live: 9 };
    assert_eq!(numbers(&cluster(&[""; 9]), 1, 6), Err(refusal), "more replicas than any group may have");
}

fn take_down(image: &mut MetadataImage, node: i32) {
    let nodes = Arc::make_mut(&mut image.nodes);
    Arc::make_mut(nodes.get_mut(&NodeId(node)).unwrap()).up = false;
}

#[test]
fn a_node_that_is_down_gets_nothing_while_there_are_enough_others() {
    let mut image = cluster(&["", "", ""]);
    take_down(&mut image, 2);
    assert!(!numbers(&image, 20, 2).unwrap().iter().flatten().any(|node| *node == NodeId(2)));
}

#[test]
fn nodes_that_are_down_count_as_long_as_a_majority_of_each_partition_is_up() {
    let mut image = cluster(&["", "", "", "", ""]);
    take_down(&mut image, 2);
    take_down(&mut image, 4);
    for partition in numbers(&image, 20, 5).unwrap() {
        assert_eq!(partition.len(), 5);
    }
    for partition in numbers(&image, 20, 4).unwrap() {
        assert_eq!(
            partition.iter().filter(|node| image.is_live(**node)).count(),
            3,
            "no more of the others than it takes"
        );
    }
    take_down(&mut image, 1);
    let refusal = Refusal::InvalidReplicationFactor { asked: 4, live: 2 };
    assert_eq!(numbers(&image, 1, 4), Err(refusal), "nobody could lead it");
    for partition in numbers(&image, 20, 3).unwrap() {
        assert_eq!(partition.iter().filter(|node| image.is_live(**node)).count(), 2);
    }
}

#[test]
fn a_node_that_never_registered_does_not_count() {
    let mut image = cluster(&["", "", ""]);
    let nodes = Arc::make_mut(&mut image.nodes);
    Arc::make_mut(nodes.get_mut(&NodeId(2)).unwrap()).registration = None;
    assert_eq!(numbers(&image, 1, 3), Err(Refusal::InvalidReplicationFactor { asked: 3, live: 2 }));
}

#[test]
fn an_assignment_of_the_client_is_taken_as_it_is() {
    let image = cluster(&["", "", ""]);
    let demand = Demand::assigned([&[3, 1][..], &[2, 3]]);
    assert_eq!((demand.partitions(), demand.replication_factor()), (2, 2));
    assert_eq!(place(&image, &demand, 7), Ok(vec![vec![NodeId(3), NodeId(1)], vec![NodeId(2), NodeId(3)]]));
    assert_eq!(place(&image, &Demand::assigned([&[4][..]]), 7), Err(Refusal::InvalidReplicaAssignment));
    assert_eq!(Demand::assigned([]).replication_factor(), 0);
}

#[test]
fn replicas_of_a_partition_lie_in_different_racks() {
    let image = cluster(&["a", "a", "a", "a", "b", "c"]);
    for nodes in numbers(&image, 50, 3).unwrap() {
        assert_eq!(racks_of(&image, &nodes), 3);
    }
    for nodes in numbers(&image, 50, 5).unwrap() {
        assert_eq!(racks_of(&image, &nodes), 3, "more replicas than racks");
    }
}

#[test]
fn a_node_that_comes_back_empty_gets_its_share_and_no_more() {
    let mut image = cluster(&["", ""]);
    let old = numbers(&image, 100, 1).unwrap();
    image = cluster(&["", "", ""]);
    add_topic(&mut image, 1, &old);
    let placed = numbers(&image, 30, 1).unwrap();
    assert_eq!(placed.iter().flatten().filter(|node| **node == NodeId(3)).count(), 10);
    let single = numbers(&image, 1, 1).unwrap();
    assert_eq!(single, [[NodeId(3)]], "what cannot be shared goes to who has least");
}

#[test]
fn neighbours_vary() {
    let image = cluster(&[""; 6]);
    let pairs: BTreeSet<Vec<NodeId>> = numbers(&image, 60, 2).unwrap().into_iter().collect();
    assert!(pairs.len() > 12, "when a node dies, its leaderships go to many: {pairs:?}");
}

#[test]
fn a_large_topic_is_placed_quickly_and_evenly() {
    let image = cluster(&["a", "b", "c"].repeat(34));
    let placed = numbers(&image, TOPIC_PARTITIONS_MAX, 3).unwrap();
    assert!(unevenness(&image, placed.iter().flatten()) <= 1);
    assert!(unevenness(&image, placed.iter().map(|nodes| &nodes[0])) <= 1);
}

/// Places topics of so many partitions and replicas, with these ties, one after the other, and looks at all of them.
fn check_even(nodes: usize, racks: usize, topics: Vec<(i32, i16, u64)>) -> Result<(), TestCaseError> {
    // Racks of equal size, or none at all.
    let names = ["a", "b", "c", "d"];
    let names: Vec<&str> = (0..nodes).map(|node| if racks == 0 { "" } else { names[node % racks] }).collect();
    let equal = racks == 0 || nodes.is_multiple_of(racks);
    let mut image = cluster(&names);
    let mut all = Vec::new();
    for ((partitions, factor, spread), number) in topics.into_iter().zip(1..) {
        let demand = Demand::numbers(partitions, factor.min(nodes as i16));
        let placed = place(&image, &demand, spread).unwrap();
        prop_assert_eq!(&placed, &place(&image, &demand, spread).unwrap(), "deterministic");
        prop_assert_eq!(placed.len(), partitions as usize);
        for nodes in &placed {
            prop_assert_eq!(nodes.len(), usize::from(demand.replication_factor() as u16));
            prop_assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len());
            if racks > 0 {
                let distinct = names.iter().collect::<BTreeSet<_>>().len();
                prop_assert_eq!(racks_of(&image, nodes), distinct.min(nodes.len()));
            }
        }
        if equal {
            prop_assert!(unevenness(&image, placed.iter().flatten()) <= 1);
            prop_assert!(unevenness(&image, placed.iter().map(|nodes| &nodes[0])) <= 1);
        }
        add_topic(&mut image, number, &placed);
        all.extend(placed);
        // Over all topics racks may get in the way, and leaders of single replicas are where the replicas are.
        if equal {
            let allowed = if racks == 0 { 1 } else { 2 };
            prop_assert!(unevenness(&image, all.iter().flatten()) <= allowed, "over all topics");
            if all.iter().all(|nodes| nodes.len() > 1) {
                prop_assert!(unevenness(&image, all.iter().map(|nodes| &nodes[0])) <= 2, "over all topics");
            }
        }
    }
    Ok(())
}

/// Here no replica could go from the fullest node to the emptiest one: each partition of one had the other, too, or the
/// racks were in the way.
#[test]
fn replicas_go_over_other_nodes_where_they_cannot_go_at_once() {
    let topics = vec![
        (6, 4, 3_890_559_912_208_106_391),
        (15, 1, 15_952_000_307_159_726_338),
        (20, 3, 7_406_422_177_198_700_379),
        (34, 4, 6_775_909_970_569_680_577),
        (9, 2, 5_748_184_696_688_718_007),
    ];
    check_even(9, 3, topics).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn placements_are_even(
        nodes in 1usize..12,
        racks in 0usize..5,
        topics in proptest::collection::vec((1i32..40, 1i16..6, any::<u64>()), 1..12),
    ) {
        check_even(nodes, racks, topics)?;
    }
}
