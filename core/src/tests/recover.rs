//! Clusters that lost a majority of their disks for good.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kauri_protocol::error::ErrorCode;
use slog::{Discard, Logger, o};

use super::{client::*, disk::Disk, world::World};
use crate::{
    ids::{GroupId, NodeId, Offset},
    io::{DiskAction, DiskError, DiskOutput, Exit, FileName},
    log::identity::Identity,
    recover::{
        Directory, Plan, carry_out,
        plan::{Alone, Verdict},
    },
};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// The disks of these nodes, as an operator would hand them to the command.
fn plan(world: &mut World, nodes: &[NodeId]) -> (Vec<Directory>, Plan) {
    let logger = Logger::root(Discard, o!());
    let mut directories = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let bytes: Bytes = world.nodes[node].disk.bytes(FileName::Identity);
        let identity = Identity::decode(&bytes).unwrap();
        let mut disks = |number: usize, action: DiskAction| {
            let is_reading = matches!(action, DiskAction::Read { .. } | DiskAction::List { .. });
            assert!(is_reading, "a plan changes nothing, and wants {action:?}");
            run(world, nodes[number], action)
        };
        directories.push(Directory::read(identity, number, &mut disks, &logger));
    }
    let plan = Plan::new(&directories).unwrap();
    (directories, plan)
}

fn run(world: &mut World, node: NodeId, action: DiskAction) -> Result<DiskOutput, DiskError> {
    world.nodes.get_mut(&node).unwrap().disk.run(action)
}

/// Carries the plan out; at most so many disk operations.
fn recover(world: &mut World, nodes: &[NodeId], operations_max: usize) -> Result<usize, Exit> {
    let (directories, plan) = plan(world, nodes);
    let mut operations = 0;
    let now = world.clocks().wall;
    let mut disks = |number: usize, action: DiskAction| {
        operations += 1;
        if operations > operations_max { Err(DiskError::Io { errno: 5 }) } else { run(world, nodes[number], action) }
    };
    let done = carry_out(&plan, &directories, &mut disks, now, &Logger::root(Discard, o!()));
    done.map(|done| {
        assert_eq!(done.len(), plan.alone().count());
        for (group, outcome) in done {
            outcome.unwrap_or_else(|reason| panic!("group {group}: {reason}"));
        }
        operations
    })
    .map_err(|(_, exit)| exit)
}

fn alone(plan: &Plan) -> BTreeMap<GroupId, Alone> {
    plan.alone().map(|(group, alone)| (group, alone.clone())).collect()
}

impl World {
    /// Everything that was acknowledged is on all disks, and all nodes are stopped.
    fn stopped_with_records(records: &[&str]) -> Self {
        let mut world = Self::formed(3);
        let leader = world.create_topic(3);
        let connection = world.connect(leader);
        for record in records {
            assert_eq!(world.produce(connection, batch(&[record])).error_code, ErrorCode::None);
        }
        world.run_until_equal(GROUP);
        world.run_for(Duration::from_secs(1));
        NODES.into_iter().for_each(|node| world.kill(node));
        world
    }

    fn lose_disk(&mut self, node: NodeId) -> Disk {
        std::mem::take(&mut self.nodes.get_mut(&node).unwrap().disk)
    }

    fn run_until_three_vote(&mut self, group: GroupId) {
        self.run_until("three replicas vote", |world| {
            let groups = NODES.map(|node| world.groups(node).remove(&group));
            groups.iter().all(|found| {
                let membership = found.as_ref().and_then(|found| found.membership.clone());
                membership
                    .is_some_and(|found| found.voters.len() == 3 && !found.is_joint() && found.learners.is_empty())
            })
        });
        self.run_until_equal(group);
    }
}

#[test]
fn the_last_disk_goes_on_alone_and_refills_the_others() {
    for survivor in NODES {
        let mut world = World::stopped_with_records(&["a", "b", "c"]);
        let others: Vec<NodeId> = NODES.into_iter().filter(|node| *node != survivor).collect();
        others.iter().for_each(|node| drop(world.lose_disk(*node)));

        let (_, before) = plan(&mut world, &[survivor]);
        assert_eq!(alone(&before).keys().copied().collect::<Vec<_>>(), [GroupId::METADATA, GROUP]);
        assert_eq!(before.name(GROUP).unwrap().to_string(), "story-0");
        for alone in alone(&before).values() {
            assert_eq!((alone.dropped, alone.all_here, alone.removed.len()), (None, false, 2));
        }
        recover(&mut world, &[survivor], usize::MAX).unwrap();
        let (_, after) = plan(&mut world, &[survivor]);
        assert!(after.groups.iter().all(|group| group.verdict == Verdict::Sound), "{:?}", after.groups);

        NODES.into_iter().for_each(|node| world.start(node));
        assert_eq!(world.run_until_led(GROUP), survivor, "nobody else has anything");
        world.run_until_three_vote(GroupId::METADATA);
        world.run_until_three_vote(GROUP);
        assert_eq!(world.read_all(), ["a", "b", "c"]);
        let leader = world.run_until_led(GROUP);
        let connection = world.connect(leader);
        assert_eq!(world.produce(connection, batch(&["d"])).error_code, ErrorCode::None);
        world.run_until_equal(GROUP);

        // What was empty counts: the disk that was left may go now.
        world.kill(survivor);
        world.run_until_led(GROUP);
        assert_eq!(world.read_all(), ["a", "b", "c", "d"]);
    }
}

/// Five replicas, three disks gone, and what is left is damaged in different places.
#[test]
fn two_damaged_disks_fill_each_other() {
    let mut world = World::with_config(5, |_| {});
    world.run_until_formed();
    let leader = world.create_topic(5);
    let connection = world.connect(leader);
    let values: Vec<String> = (0..8).map(|number| format!("{number}").repeat(200)).collect();
    for value in &values {
        assert_eq!(world.produce(connection, batch(&[value])).error_code, ErrorCode::None);
    }
    world.run_until_equal(GROUP);
    world.run_for(Duration::from_secs(1));
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    nodes.iter().for_each(|node| world.kill(*node));
    let left = [NodeId(4), NodeId(5)];
    nodes.iter().filter(|node| !left.contains(node)).for_each(|node| drop(world.lose_disk(*node)));
    for (number, node) in left.into_iter().enumerate() {
        let places: Vec<_> = world.payloads(node, GROUP).into_values().collect();
        for place in places.into_iter().skip(2 + number).step_by(2).take(3) {
            world.damage_payload(node, place);
        }
    }
    let (_, before) = plan(&mut world, &left);
    let found = alone(&before);
    assert_eq!((found[&GROUP].fills.len(), found[&GROUP].dropped), (3, None));
    assert_eq!(before.offsets(GROUP).unwrap().end, Offset(8));
    recover(&mut world, &left, usize::MAX).unwrap();
    assert_eq!(plan(&mut world, &left).1.alone().count(), 0);

    // The other one is in the way of nobody, but of no use either until it is emptied.
    let host = left[found[&GROUP].directory];
    let other = *left.iter().find(|node| **node != host).unwrap();
    drop(world.lose_disk(other));
    nodes.iter().for_each(|node| world.start(*node));
    assert_eq!(world.run_until_led(GROUP), host);
    assert_eq!(world.read_all(), values);
    world.run_until_equal(GROUP);
}

#[test]
fn an_entry_that_all_disks_lost_ends_the_log() {
    let mut world = World::stopped_with_records(&["a", "b", "c", "d"]);
    let lost = *world.payloads(NodeId(1), GROUP).keys().nth(3).unwrap();
    for node in NODES {
        let place = world.payloads(node, GROUP)[&lost];
        world.damage_payload(node, place);
    }
    let (_, before) = plan(&mut world, &NODES);
    let found = alone(&before);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [GROUP], "the metadata are whole");
    let alone = &found[&GROUP];
    assert_eq!((alone.end.0.next(), alone.dropped.unwrap().0, alone.all_here), (lost, lost, true));
    assert_eq!(before.groups[1].group, GROUP);
    assert!(before.groups[1].commit > lost, "what follows was committed");
    let offsets = before.offsets(GROUP).unwrap();
    assert_eq!((offsets.end, offsets.given_up), (Offset(2), 1), "d is given up because c is lost");
    recover(&mut world, &NODES, usize::MAX).unwrap();
    assert_eq!(plan(&mut world, &NODES).1.alone().count(), 0);

    NODES.into_iter().for_each(|node| world.start(node));
    let host = NODES[alone.directory];
    assert_eq!(world.run_until_led(GROUP), host);
    let expected = ["a", "b"];
    assert_eq!(world.read_all(), expected, "everything before it");
    // Two replicas were given up: their nodes get new ones with new disks, one after the other.
    for node in NODES.into_iter().filter(|node| *node != host) {
        world.kill(node);
        world.lose_disk(node);
        world.start(node);
        world.run_until("it is refilled", |world| {
            let replica = world.groups(node).remove(&GROUP).map(|found| found.replica);
            let membership = world.groups(host).remove(&GROUP).and_then(|found| found.membership);
            replica.is_some_and(|replica| membership.is_some_and(|found| found.voters.contains(&replica)))
        });
    }
    world.run_until_three_vote(GROUP);
    assert_eq!(world.read_all(), expected);
}

/// Disks that turn up later, after others went on without them, change nothing for those.
#[test]
fn old_disks_that_come_back_are_not_listened_to() {
    let mut world = World::stopped_with_records(&["a", "b"]);
    let survivor = NodeId(2);
    let old = world.nodes[&NodeId(3)].disk.clone();
    drop(world.lose_disk(NodeId(1)));
    recover(&mut world, &[survivor], usize::MAX).unwrap();
    world.nodes.get_mut(&NodeId(3)).unwrap().disk = old;
    NODES.into_iter().for_each(|node| world.start(node));
    assert_eq!(world.run_until_led(GROUP), survivor);
    let connection = world.connect(survivor);
    assert_eq!(world.produce(connection, batch(&["c"])).error_code, ErrorCode::None);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.leader(GROUP), Some(survivor), "the old replica neither leads nor disturbs");
    assert_eq!(world.read_all(), ["a", "b", "c"]);
}

#[test]
fn nothing_is_done_while_a_majority_is_left() {
    let mut world = World::stopped_with_records(&["a"]);
    let (_, all) = plan(&mut world, &NODES);
    assert!(all.groups.iter().all(|group| group.verdict == Verdict::Sound));
    world.lose_disk(NodeId(2));
    let (_, two) = plan(&mut world, &[NodeId(1), NodeId(3)]);
    assert_eq!(two.alone().count(), 0);
    assert_eq!(two.groups.len(), 2);
}

#[test]
fn a_crash_at_any_operation_leaves_what_starts_or_is_recovered_again() {
    let survivor = NodeId(2);
    let mut whole = World::stopped_with_records(&["a", "b"]);
    let disk = whole.nodes[&survivor].disk.clone();
    let operations = recover(&mut whole, &[survivor], usize::MAX).unwrap();
    assert!(operations > 10);
    let mut world = World::new(3);
    NODES.into_iter().for_each(|node| world.kill(node));
    for moment in 0..operations {
        NODES.into_iter().for_each(|node| drop(world.lose_disk(node)));
        world.nodes.get_mut(&survivor).unwrap().disk = disk.clone();
        assert!(recover(&mut world, &[survivor], moment).is_err(), "after {moment} operations");
        recover(&mut world, &[survivor], usize::MAX).unwrap();
        let (_, after) = plan(&mut world, &[survivor]);
        assert_eq!(after.alone().count(), 0, "after {moment} operations");
    }
    NODES.into_iter().for_each(|node| world.start(node));
    world.run_until_led(GROUP);
    assert_eq!(world.read_all(), ["a", "b"], "the last of these crashes was as late as any can be");
}
