//! Replacing a group by a transferred state.
//!
//! Invariant: the record of the switch is behind everything the old group wrote, and holds what a restart needs; the new
//! group comes to be when it is durable, from the same start.

use bytes::Bytes;
use slog::{info, warn};

#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    broker::{Broker, Machine, quarantine::Transferred},
    command::{ImageError, StateMachine},
    ids::{GroupId, ReplicaId, WriteNumber},
    io::Exit,
    limits::SEGMENT_FLUSH_BYTES,
    log::{
        checkpoint::{GroupSection, MachineImage},
        record::WalRecord,
    },
    metadata::MetadataState,
    partition::PartitionState,
    replication::{
        group::{Group, GroupStart, SnapshotPosition},
        transfer::receiver::Complete,
    },
    rng::Stream,
    time::Now,
};

/// A state whose record is on its way to the disk.
#[derive(Debug)]
pub(super) struct Switching {
    write: WriteNumber,
    position: SnapshotPosition,
    start: GroupStart,
    state: State,
    /// As bytes.
    image: Bytes,
    /// Whom the old group followed.
    leader: Option<ReplicaId>,
}

/// The state machine that was transferred.
#[derive(Debug)]
pub(in crate::broker) enum State {
    Metadata(MetadataState),
    Partition(PartitionState),
}

/// A planted bug.
fn loses_last_chunk() -> bool {
    #[cfg(feature = "mutants")]
    return Mutant::TransferLosesLastChunk.is_planted();
    #[cfg(not(feature = "mutants"))]
    false
}

impl State {
    pub(in crate::broker) fn restore(machine: &Machine, image: &[u8]) -> Result<Self, ImageError> {
        Ok(match machine {
            Machine::Metadata(_) => Self::Metadata(MetadataState::restore_image(image)?),
            Machine::Partition(_) => Self::Partition(PartitionState::restore_image(image)?),
        })
    }
}

impl Broker {
    /// Appends the record of the switch once everything of the snapshot is on the disk, but for as much as the record may
    /// carry, and Raft's state allows it.
    pub(super) fn try_switch(&mut self, now: Now, id: GroupId) {
        let replica = self.replicas.get_mut(&id).expect("the caller looked it up");
        let receiver = self.transfers.receivers.get_mut(&id).expect("the caller looked it up");
        let head = receiver.head().expect("it is complete");
        let position = head.position;
        if let Some(partition) = replica.partition()
            && partition.log.unsynced_bytes() >= SEGMENT_FLUSH_BYTES as u64
        {
            // The leader's log grows meanwhile: this does not wait for its turn.
            self.live_logs.want(id);
            return;
        }
        // Reads of the old log would end in the new one.
        if !replica.group.may_switch(position) || self.reads.reads_entries_of(id) {
            return;
        }
        let Complete { head, image } = receiver.complete();
        let state = match State::restore(&replica.machine, &image) {
            Ok(state) => state,
            Err(error) => {
                warn!(self.logger, "a transferred state cannot be read"; "group" => id.0, "reason" => %error);
                receiver.discard(now.monotonic);
                return;
            }
        };
        // A former leader may have sent more than this one has applied: the log is ahead of the new state then, too.
        if let (State::Partition(state), Some(partition)) = (&state, replica.partition_mut())
            && (state.log_start() != partition.log.log_start()
                || !partition.log.applied_to(state.next_offset(), head.end.bytes))
            && !loses_last_chunk()
        {
            warn!(self.logger, "a transferred state does not fit the batches that came with it"; "group" => id.0);
            receiver.discard(now.monotonic);
            return;
        }
        let start = replica.group.switch(position, head.membership, &head.removed);
        let log = replica.partition_mut().map(|partition| {
            let mut slices = Vec::new();
            partition.log.image().encode(&mut slices);
            slices
        });
        let section = GroupSection {
            group: id,
            replica: start.replica,
            // Everything up to the record that holds this section is reflected: whoever reads it knows its place.
            write: WriteNumber(0),
            creation: replica.creation.encode().into(),
            term: start.hard_state.term,
            vote: start.hard_state.vote.unwrap_or(ReplicaId(0)),
            commit: position.index,
            applied: position.index,
            truncated: position.index,
            truncated_term: position.term,
            membership: start.membership.encode().into(),
            introduced: start.introduced.clone(),
            removed: start.removed.clone(),
            image: MachineImage::Inline(image.clone()),
            log,
            entries: Vec::new(),
            quarantine: None,
        };
        let bytes = section.encode().slices.concat();
        let leader = replica.group.leader();
        replica.suspended = true;
        let write = self.wal.append([WalRecord::Switch { group: id, replica: start.replica, state: bytes.into() }]);
        self.checkpoints.changed = true;
        self.transfers.switching.insert(id, Switching { write, position, start, state, image, leader });
    }

    /// Groups whose record of the switch is on the disk come to be anew.
    pub(in crate::broker) fn finish_switches(&mut self, now: Now, durable: WriteNumber) {
        #[cfg(feature = "mutants")]
        let durable = if Mutant::SwitchBeforeSync.is_planted() { WriteNumber(u64::MAX) } else { durable };
        let ready: Vec<GroupId> = self
            .transfers
            .switching
            .iter()
            .filter(|(_, switching)| switching.write <= durable)
            .map(|(id, _)| *id)
            .collect();
        for id in ready {
            let switching = self.transfers.switching.remove(&id).expect("its key was just listed");
            self.finish_switch(now, id, switching);
        }
    }

    fn finish_switch(&mut self, now: Now, id: GroupId, switching: Switching) {
        let Switching { position, mut start, state, image, leader, .. } = switching;
        let replica = self.replicas.get_mut(&id).expect("a group that is removed is not switched any more");
        // By now everything that the old log holds is placed and durable.
        start.keep_behind(replica.group.log(), replica.group.commit_index());
        let timeouts = Stream::new(self.config.seed, self.config.node, "election", id.0);
        let mut group = match Group::new(start, timeouts, &self.logger) {
            Ok(group) => group,
            Err(error) => {
                let reason = format!("the state transferred to group {id} contradicts itself: {error}");
                self.exit.get_or_insert(Exit::Refused(reason));
                return;
            }
        };
        group.ignore_lease(replica.campaign.is_some());
        if let Some(leader) = leader {
            group.resume_under(leader);
        }
        info!(self.logger, "a replica switched to a transferred state"; "group" => id.0, "index" => position.index.0,
            "term" => position.term.0);
        replica.group = group;
        replica.suspended = false;
        replica.transferred = Some(Transferred { index: position.index, image, captured: None });
        self.transfers.received += 1;
        match (&mut replica.machine, state) {
            (Machine::Metadata(metadata), State::Metadata(state)) => {
                *metadata = state;
                self.image_moved = true;
            }
            (Machine::Partition(partition), State::Partition(state)) => {
                partition.state = state;
                assert!(
                    partition.state.next_offset() == partition.log.applied_offset() || loses_last_chunk(),
                    "checked before the switch"
                );
            }
            (Machine::Metadata(_), State::Partition(_)) | (Machine::Partition(_), State::Metadata(_)) => {
                unreachable!("a state is restored for the machine that it replaces")
            }
        }
        if let Some(receiver) = self.transfers.receivers.get_mut(&id) {
            receiver.installed(now.monotonic, position);
        }
        self.watch.wake(id);
        if leader.is_none() {
            self.miss_leader(now, id, false);
        }
        self.mark(id);
    }
}
