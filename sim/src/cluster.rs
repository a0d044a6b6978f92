//! Clusters of the real core: [`Shard`], the same that a node ships.

use std::sync::Arc;

use kauri_core::{
    broker::{self, GroupInspection, Inspection},
    config::NodeConfig,
    ids::GroupId,
    io::{Effects, Input},
    metadata::Topic,
    replication::group::{Membership, Role},
    shard::Shard,
    time::{Monotonic, Now},
};
use slog::Logger;

use crate::{
    core::{Core, Depth, GroupView, Led, Members, NodeView, PartitionView},
    plan::Plan,
    run::{self, Outcome},
    trace::Trace,
    workload,
};

/// Runs a plan.
pub fn run(plan: &Plan, logger: Logger, trace: Trace) -> Outcome {
    run::run::<Shard>(plan, workload::clients(plan), logger, trace)
}

impl Core for Shard {
    fn start(config: NodeConfig, logger: Logger) -> Self {
        Self::new(config, logger)
    }

    fn handle(&mut self, now: Now, input: Input) {
        Self::handle(self, now, input);
    }

    fn poll(&mut self, now: Now, effects: &mut Effects) {
        Self::poll(self, now, effects);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        Self::next_deadline(self)
    }

    fn view(&self, depth: Depth, view: &mut NodeView) {
        view.groups.clear();
        view.led.clear();
        // A core that still recovers shows nothing.
        let Some(Inspection { groups, entry_bytes, tail_bytes, wal_queued_bytes, received, repaired, lost, .. }) =
            self.inspect(inspection_depth(depth))
        else {
            return;
        };
        view.buffered_bytes = entry_bytes + tail_bytes + wal_queued_bytes;
        view.states_received = received;
        view.entries_repaired = repaired;
        view.lost = lost;
        view.held = groups.iter().filter(|group| group.held.is_some()).count() as u64;
        for group in groups {
            view.groups.push(group_view(&group));
            if group.role == Role::Leader
                && let Some(Membership { voters, .. }) = group.membership
            {
                view.led.push(Led { group: group.group, voters, is_changing: group.changing });
            }
        }
    }

    fn partitions(&self) -> Vec<(String, i32, GroupId)> {
        let Some(image) = self.image() else { return Vec::new() };
        let of_topic = |topic: &Arc<Topic>| {
            let name = topic.name.to_string();
            let groups: Vec<GroupId> = topic.partitions.iter().map(|partition| partition.group).collect();
            (0..).zip(groups).map(move |(index, group)| (name.clone(), index, group))
        };
        image.topics().flat_map(of_topic).collect()
    }

    fn members(&self) -> Vec<Members> {
        let groups = self.inspect(broker::Depth::Deep).map(|inspection| inspection.groups).unwrap_or_default();
        let members = |group: GroupInspection| {
            let membership = group.membership?;
            Some(Members {
                group: group.group,
                replica: group.replica,
                is_joint: membership.is_joint(),
                voters: membership.voters,
                learners: membership.learners,
            })
        };
        groups.into_iter().filter_map(members).collect()
    }
}

fn inspection_depth(depth: Depth) -> broker::Depth {
    match depth {
        Depth::Shallow => broker::Depth::Shallow,
        Depth::Deep => broker::Depth::Deep,
    }
}

fn group_view(inspected: &GroupInspection) -> GroupView {
    let &GroupInspection {
        group,
        replica,
        role,
        term,
        commit,
        applied,
        last,
        faulty,
        state_hash,
        log_start,
        next_offset,
        ..
    } = inspected;
    GroupView {
        group,
        replica,
        term,
        is_leader: role == Role::Leader,
        commit,
        applied,
        last,
        faulty,
        state_hash,
        partition: (group != GroupId::METADATA).then_some(PartitionView { log_start, next_offset }),
    }
}
