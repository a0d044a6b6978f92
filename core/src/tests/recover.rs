//! Clusters that lost a majority of their disks for good.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use kauri_protocol::error::ErrorCode;
use slog::{Discard, Logger, o};

use super::{client::*, disk::Disk, world::World};
use crate::{
    ids::{GroupId, NodeId},
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
