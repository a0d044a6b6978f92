//! Which groups are on this node: what the metadata says comes to be, and what it proves deleted goes.
//!
//! Invariant: a replica comes to be only by a creation record that names this node with this data directory, and that
//! record is in the WAL before anything of the replica is. It goes only on proof: its topic is deleted, or the group's own
//! log removed it. An image that does not list a group, or a replica, proves nothing.

use std::collections::BTreeSet;

use bytes::Bytes;
use slog::{error, info};

use super::{Broker, Machine, Partition, Replica, places::Places};
use crate::{
    ids::{GroupId, ImageVersion, ReplicaId},
    log::{record::WalRecord, segment::PartitionLog},
    metadata::{GroupCreation, MetadataState},
    partition::PartitionState,
    replication::group::Group,
    rng::Stream,
    startup::{first_start, settings},
    time::Now,
};

impl Broker {
    /// Takes over what the metadata group's state shows now.
    pub(super) fn follow_image(&mut self, now: Now) {
        let Some(image) = self.metadata_image().cloned() else { return };
        let first = self.image.version() == ImageVersion(0);
        let delta = image.changes_since(&self.image);
        self.image = image;
        if first || !delta.nodes.is_empty() {
            self.follow_nodes(now);
        }
        let creations: Vec<(GroupCreation, ReplicaId)> =
            delta.creations(self.config.node, self.identity.directory).collect();
        for (creation, replica) in creations {
            // A replica that was removed is not there again because an old image is: it would vote with an empty log.
            if !self.replicas.contains_key(&creation.group) && !self.destroyed.contains(&(creation.group, replica)) {
                self.create_group(now, creation, replica);
            }
        }
        let mut deleted: BTreeSet<GroupId> = delta.deletions().collect();
        if first {
            // Topics that came and went while this node was away are in no difference.
            deleted.extend(self.replicas.keys().filter(|group| self.image.is_deleted(**group)));
        }
        for group in &deleted {
            assert!(self.image.is_deleted(*group), "a group goes only on proof");
            self.remove_group(*group, "its topic is deleted");
        }
        self.leaders.forget(deleted);
        self.destroyed.retain(|(group, _)| !self.image.is_deleted(*group));
        // Whoever is not in the image by now asked for another node's vote, or is yet to come.
        self.early.retain(|group, _| !self.image.is_deleted(*group) && self.image.topic_of_group(*group).is_none());
        // Leaders propose what changed for their groups, or could not be prepared without the image.
        for topic in delta.changed.iter().chain(&delta.created) {
            for partition in &topic.partitions {
                if let Some(replica) = self.replicas.get_mut(&partition.group) {
                    replica.place(Places::of_partition(partition), partition.has_moved());
                    if !replica.is_configured(topic.configs_version) {
                        replica.served_term = None;
                    }
                    self.dirty.insert(partition.group);
                }
            }
        }
        self.calls.image_moved(self.image.version());
    }

    /// A replica of this node begins to exist: one that the creation of its group names, or one that joins later.
    pub(super) fn create_group(&mut self, now: Now, creation: GroupCreation, replica: ReplicaId) {
        let id = creation.group;
        self.wal.append([WalRecord::Create { group: id, replica, creation: Bytes::from(creation.encode()) }]);
        self.checkpoints.changed = true;
        let start = first_start(&creation, replica);
        let timeouts = Stream::new(self.config.seed, self.config.node, "election", id.0);
        let group = match Group::new(start, timeouts, &self.logger) {
            Ok(group) => group,
            Err(error) => {
                // The command that made the topic checks what this would refuse.
                error!(self.logger, "a group cannot be created"; "group" => id.0, "reason" => %error);
                return;
            }
        };
        let machine = if creation.topic.is_some() {
            let log = PartitionLog::new(settings(&creation, &self.config));
            Machine::Partition(Box::new(Partition { state: PartitionState::new(), log }))
        } else {
            Machine::Metadata(MetadataState::new())
        };
        self.replicas.insert(id, Replica::new(self.config.node, group, creation, machine));
        self.miss_leader(now, id, false);
        self.take_early(id);
        self.mark(id);
    }

    /// It is proven that the replica is not needed any more: it ends, and its files go.
    pub(super) fn remove_group(&mut self, id: GroupId, why: &str) {
        let Some(mut replica) = self.replicas.remove(&id) else { return };
        let own = replica.group.replica();
        info!(self.logger, "a replica is removed"; "group" => id.0, "replica" => own.0, "why" => why);
        let write = self.wal.append([WalRecord::Destroy { group: id, replica: own }]);
        self.checkpoints.changed = true;
        self.checkpoints.replica_removed(id, own);
        for (owner, never_proposed) in replica.take_all() {
            self.fail_owner(owner, never_proposed);
        }
        for (_, waiter) in std::mem::take(&mut replica.confirming) {
            let result = Err(kauri_protocol::error::ErrorCode::UnknownTopicOrPartition);
            self.events.push_back((waiter.request, crate::api::Event::Confirmed { part: waiter.part, result }));
        }
        self.watch.wake(id);
        self.report_proposed(id);
        self.dirty.remove(&id);
        self.live_logs.touch(id);
        self.transfers.forget(id);
        self.repairs.forget(id);
        self.quarantines.forget(id);
        self.segment_repairs.forget(id);
        self.destroyed.insert((id, own));
        if let Machine::Partition(partition) = replica.machine {
            self.removals.add(write, partition.log.remove());
        }
    }
}
