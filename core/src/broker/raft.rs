//! Drives the Raft groups: ticks, messages, writes, commits.

use slog::{debug, warn};

use super::{Broker, apply::Poisonous, replica::Owner, slowdown};
#[cfg(feature = "mutants")]
use crate::mutants::Mutant;
use crate::{
    api::Event,
    ids::{GroupId, NodeId, ReplicaId, WriteNumber},
    io::Effects,
    limits,
    log::record::WalEvent,
    replication::{
        RaftMessage, announces_state, asks_for_vote_only,
        group::{ApplyError, Committed, ReadError, ReadToken, Role, RoleChange},
        peer::Envelope,
    },
    time::Now,
};

/// Payload handed to a state machine at once.
const APPLY_BYTES: usize = 4 << 20;
/// Groups send and expect this until membership changes.
const FIRST_EPOCH: u32 = 1;

impl Broker {
    pub(super) fn tick_if_due(&mut self, now: Now) {
        if now.monotonic < self.tick_at {
            return;
        }
        // A node that was paused ticks once, not for all the time it missed: it cannot know what it missed.
        self.tick_at = now.monotonic + limits::TICK;
        self.ticks += 1;
        for (id, replica) in self.replicas.iter_mut().filter(|(_, replica)| !replica.stands_still()) {
            replica.group.tick();
            if replica.group.has_unacknowledged() {
                replica.group.beat();
            }
            // A leader that does not serve may have been refused what it had to propose first.
            let waits = !replica.queue.is_empty() && replica.is_serving();
            if waits || replica.group.has_work() || (replica.group.is_leader() && !replica.is_serving()) {
                self.dirty.insert(*id);
            }
        }
        self.expire_transfers(now.monotonic);
        self.tick_duties(now);
    }

    pub(super) fn take_wal_events(&mut self, now: Now) {
        let mut durable = None;
        for event in self.wal_events.drain(..) {
            match event {
                WalEvent::Placed { group, index, term, location } => {
                    if let Some(replica) = self.replicas.get_mut(&group) {
                        replica.group.placed(index, term, location);
                    }
                }
                WalEvent::Durable(write) => durable = Some(write),
                WalEvent::Full => {
                    warn!(self.logger, "the disk is full: produce requests are refused until there is room");
                    self.wal_full = true;
                }
                WalEvent::Room => self.wal_full = false,
            }
        }
        let Some(write) = durable else { return };
        let later = self.writing.split_off(&WriteNumber(write.0 + 1));
        for group in std::mem::replace(&mut self.writing, later).into_values().flatten() {
            if let Some(replica) = self.replicas.get_mut(&group) {
                replica.group.durable(write);
                self.dirty.insert(group);
            }
        }
        self.finish_switches(now, write);
    }

    pub(super) fn advance_groups(&mut self, now: Now, effects: &mut Effects) {
        let fill = self.wal.fill();
        let all =
            slowdown::is_slow(fill).then(|| self.replicas.values().map(|replica| replica.group.unapplied_bytes()));
        self.unapplied_while_slow = all.map(Iterator::sum);
        while let Some(group) = self.dirty.pop_first() {
            self.advance_group(now, group, effects);
        }
    }

    fn advance_group(&mut self, now: Now, id: GroupId, effects: &mut Effects) {
        if self.replicas.get(&id).is_some_and(|replica| replica.stands_still()) {
            return;
        }
        let mut out = std::mem::take(&mut self.group_output);
        // Every pass may make another necessary: an entry that is applied frees budget for proposals.
        for pass in 0.. {
            let Some(replica) = self.replicas.get_mut(&id).filter(|replica| !replica.stands_still()) else { break };
            if replica.is_serving() {
                let before = replica.group.unapplied_bytes();
                // What all groups together may have is looked at only when that is less than they may have each.
                let room = match self.unapplied_while_slow {
                    Some(all) => slowdown::allowed(self.wal.fill(), limits::SHARD_PROPOSED_BYTES_MAX)
                        .saturating_sub(all.saturating_sub(before)),
                    None => limits::GROUP_PROPOSED_BYTES_MAX,
                };
                let until_full = before.saturating_add(usize::try_from(self.wal.room_bytes()).unwrap_or(usize::MAX));
                let allowed = slowdown::allowed(self.wal.fill(), limits::GROUP_PROPOSED_BYTES_MAX);
                let allowed = allowed.min(room).min(until_full);
                replica.propose_queued(Self::wall(now), allowed);
                if let Some(all) = &mut self.unapplied_while_slow {
                    *all += replica.group.unapplied_bytes().saturating_sub(before);
                }
            }
            replica.group.poll(&mut out);
            if pass > 0 && out.is_empty() {
                break;
            }
            for write in out.writes.drain(..) {
                let number = self.wal.append(write.records);
                self.checkpoints.changed = true;
                replica.group.wrote(write.number, number);
                self.writing.entry(number).or_default().insert(id);
            }
            let mut announced = Vec::new();
            for message in out.messages.drain(..) {
                let to = ReplicaId(message.to);
                if announces_state(&message) {
                    announced.push(to);
                }
                // A replica without a node is gone with its disk.
                let Some(node) = replica.node_of(to) else { continue };
                let envelope = Envelope { group: id, from: replica.group.replica(), to, epoch: FIRST_EPOCH };
                if self.peers.send_raft(now, node, envelope, message).is_err() {
                    replica.group.unreachable(to);
                }
            }
            let fetches: Vec<_> = out.fetches.drain(..).collect();
            let reads_ready: Vec<_> = out.reads_ready.drain(..).collect();
            let reads_failed: Vec<_> = out.reads_failed.drain(..).collect();
            let role = out.role.take();
            let snapshots_wanted: Vec<_> = out.snapshots_wanted.drain(..).collect();
            let offer = out.snapshot_offer.take();
            let memberships: Vec<_> = out.memberships.drain(..).collect();
            out.clear();
            for to in announced {
                self.state_announced(now.monotonic, id, to);
            }
            for to in snapshots_wanted {
                self.announce_state(id, to);
            }
            if let Some(offer) = offer {
                self.transfer_announced(now, id, &offer);
            }
            for fetch in fetches {
                self.read_entries(id, fetch, effects);
            }
            if let Some(change) = role {
                self.role_changed(now, id, change);
            }
            for change in memberships {
                self.membership_applied(id, &change);
            }
            self.apply_committed(now, id);
            self.start_serving(now, id);
            for (token, _) in reads_ready {
                self.confirmed(id, token);
            }
            for token in reads_failed {
                self.confirm_failed(id, token);
            }
        }
        out.clear();
        self.group_output = out;
        self.fail_lost_proposals(id);
        self.report_proposed(id);
    }

    fn apply_committed(&mut self, now: Now, id: GroupId) {
        loop {
            let Some(replica) = self.replicas.get_mut(&id) else { return };
            if self.tails_full && replica.partition().is_some() {
                self.held_back.insert(id);
                return;
            }
            match replica.group.next_committed(APPLY_BYTES) {
                Ok(Committed::Entries(entries)) => {
                    let mut last = None;
                    let mut poisonous = None;
                    for entry in &entries {
                        match self.apply(now, id, entry) {
                            Ok(()) => last = Some(entry.index),
                            Err(found) => {
                                poisonous = Some(found);
                                break;
                            }
                        }
                    }
                    let Some(replica) = self.replicas.get_mut(&id) else { return };
                    if let Some(last) = last {
                        replica.group.applied_to(last);
                    }
                    #[cfg(feature = "mutants")]
                    if let Some(poisonous) = &poisonous
                        && Mutant::PoisonSkipped.is_planted()
                    {
                        replica.group.applied_to(poisonous.index);
                        continue;
                    }
                    if let Some(poisonous) = poisonous {
                        return self.quarantine(now, id, &poisonous, false);
                    }
                }
                Ok(Committed::Reading | Committed::None) => return,
                Err(ApplyError::Header { index, error }) => {
                    let term = replica.group.log().log_term(index);
                    let poisonous = Poisonous { index, term, what: error.to_string() };
                    return self.quarantine(now, id, &poisonous, true);
                }
            }
        }
    }

    /// A new leader serves once its own first entry, and so everything before it, is applied.
    fn start_serving(&mut self, now: Now, id: GroupId) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        if replica.group.is_leader() && !replica.is_serving() && replica.group.applied_is_current_term() {
            let ready = self.prepare_leader(now, id);
            if ready && let Some(replica) = self.replicas.get_mut(&id) {
                replica.served_term = Some(replica.group.term());
                self.dirty.insert(id);
                self.watch.wake(id);
            }
        }
    }

    pub(super) fn role_changed(&mut self, now: Now, id: GroupId, change: RoleChange) {
        debug!(self.logger, "role changed"; "group" => id.0, "term" => change.term.0, "role" => ?change.role, "leader" => change.leader.map(|leader| leader.0));
        let replica = self.replicas.get_mut(&id).expect("its own poll reported this");
        replica.served_term = None;
        replica.handing_over = false;
        replica.configured = None;
        replica.preferred_since = None;
        replica.preferred_offers = 0;
        let leads = change.role == Role::Leader;
        if !leads {
            self.transfers.stop_sending(id);
        }
        replica.led_since = leads.then_some(now.monotonic);
        let leader = change.leader.and_then(|leader| replica.node_of(leader));
        self.watch.wake(id);
        self.follow_leader(now, id, change.term, leader, leads);
    }

    /// Tells everybody whose command cannot be decided in this term any more.
    fn fail_lost_proposals(&mut self, id: GroupId) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        for (owner, never_proposed) in replica.take_failed() {
            self.fail_owner(owner, never_proposed);
        }
    }

    pub(super) fn fail_owner(&mut self, owner: Owner, never_proposed: bool) {
        match owner {
            Owner::Nobody => {}
            // Retriable either way; an idempotent producer repeats the batch without writing it twice.
            Owner::Produce(waiter) => self.events.push_back((
                waiter.request,
                Event::Appended {
                    part: waiter.part,
                    outcome: Err(kauri_protocol::error::ErrorCode::NotLeaderOrFollower),
                },
            )),
            Owner::Call(call) if never_proposed => self.calls.not_proposed(call),
            Owner::Call(call) => self.calls.lost(call),
            Owner::Liveness(node) => self.liveness_settled(node),
            Owner::Forwarded { node, call } => self.answer_forwarded_failure(node, call, never_proposed),
        }
    }

    /// Asks a majority whether this node still leads; the waiter gets the high watermark of then or later.
    pub(crate) fn confirm(
        &mut self,
        group: GroupId,
        waiter: crate::api::Waiter,
    ) -> Result<(), kauri_protocol::error::ErrorCode> {
        use kauri_protocol::error::ErrorCode;
        let replica = self.replicas.get_mut(&group).ok_or(ErrorCode::NotLeaderOrFollower)?;
        self.reads.last_token += 1;
        let token = ReadToken(self.reads.last_token);
        replica.group.read_index(token).map_err(|error| match error {
            ReadError::NotLeader { .. } => ErrorCode::NotLeaderOrFollower,
            ReadError::Busy => ErrorCode::OffsetNotAvailable,
        })?;
        replica.confirming.insert(token, waiter);
        self.mark(group);
        Ok(())
    }

    fn confirmed(&mut self, id: GroupId, token: ReadToken) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let Some(waiter) = replica.confirming.remove(&token) else { return };
        let Some(partition) = replica.partition() else { return };
        let result = Ok(partition.state.next_offset());
        self.events.push_back((waiter.request, Event::Confirmed { part: waiter.part, result }));
    }

    fn confirm_failed(&mut self, id: GroupId, token: ReadToken) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let Some(waiter) = replica.confirming.remove(&token) else { return };
        let result = Err(kauri_protocol::error::ErrorCode::NotLeaderOrFollower);
        self.events.push_back((waiter.request, Event::Confirmed { part: waiter.part, result }));
    }

    /// A message of another node's replica.
    pub(super) fn step(&mut self, from: NodeId, envelope: Envelope, message: RaftMessage) {
        let Some(replica) = self.replicas.get_mut(&envelope.group) else {
            self.keep_early(from, envelope, message);
            return;
        };
        let known = envelope.to == replica.group.replica()
            && envelope.epoch == FIRST_EPOCH
            && replica.node_of(envelope.from) == Some(from);
        if !known {
            return;
        }
        if replica.stands_still() {
            return;
        }
        // The metadata group goes on, and so does what Raft itself appends: it is little.
        let is_data = || message.entries.iter().any(|entry| !entry.data.is_empty());
        if slowdown::is_full(self.wal.fill())
            && replica.partition().is_some()
            && replica.group.would_only_lengthen(&message)
            && is_data()
        {
            debug!(self.logger, "an append was dropped, because the write-ahead log is full"; "group" => envelope.group.0);
            return;
        }
        if let Err(refused) = replica.group.step(message) {
            debug!(self.logger, "a message was dropped"; "group" => envelope.group.0, "from" => from.0, "reason" => %refused);
        }
        self.dirty.insert(envelope.group);
    }

    /// The first replica of a new topic to hear of it campaigns at once, often before others have heard of it too. Their
    /// votes wait for them; otherwise the next in rank would be elected, and hand over a moment later.
    fn keep_early(&mut self, from: NodeId, envelope: Envelope, message: RaftMessage) {
        // Anything else is sent again, and what carries bytes would keep its frame in memory.
        let is_kept = asks_for_vote_only(&message);
        let may_come =
            !self.image.is_deleted(envelope.group) && !self.destroyed.contains(&(envelope.group, envelope.to));
        let room = self.early.len() < limits::EARLY_VOTES_MAX || self.early.contains_key(&envelope.group);
        if is_kept && may_come && room {
            self.early.insert(envelope.group, (from, envelope, message));
        }
    }

    /// A replica that somebody asked for its vote already came to be.
    pub(super) fn take_early(&mut self, group: GroupId) {
        if let Some((from, envelope, message)) = self.early.remove(&group) {
            self.step(from, envelope, message);
        }
    }
}
