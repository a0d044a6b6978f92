//! The group itself: its parts, its start, and the one gate to raft-rs.

use std::collections::BTreeSet;

use raft::{
    Config, INVALID_ID, NO_LIMIT, RaftState, RawNode, ReadOnlyOption, StateRole,
    prelude::{HardState as RaftHardState, Message},
};
use slog::{Drain, Level, Logger, o};

use super::{
    GroupStart, HardState, LogView, Membership, MembershipApplied, Payload, Role, RoleChange, SnapshotOffer,
    StartError, election_timeout::ElectionTimeout, faulty::Faulty, log_reads::LogReads, persist_queue::PersistQueue,
    read_index::ReadIndex,
};
use crate::{
    ids::{GroupId, LogIndex, ReplicaId, Term, WriteNumber},
    limits,
    log::record::{EntryLocation, WalRecord},
    rng::Stream,
};

/// One replica of one group. After any call, [`Group::poll`] hands out what there is to do.
pub struct Group {
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) node: RawNode<LogView>,
    pub(super) logger: Logger,
    timeout: ElectionTimeout,
    pub(super) queue: PersistQueue,
    /// Every WAL write up to here is durable.
    pub(super) durable: WriteNumber,
    /// The hard state last handed out for writing.
    pub(super) written: HardState,
    /// Messages that may be sent at once.
    pub(super) outbox: Vec<Message>,
    pub(super) membership: Membership,
    /// The entry that made the membership, or a later one.
    pub(super) membership_since: LogIndex,
    pub(super) applied_memberships: Vec<MembershipApplied>,
    /// Replicas whose messages are listened to.
    pub(super) known: BTreeSet<ReplicaId>,
    pub(super) removed: BTreeSet<ReplicaId>,
    pub(super) reads: ReadIndex,
    pub(super) log_reads: LogReads,
    pub(super) faulty: Faulty,
    pub(super) snapshot_offer: Option<SnapshotOffer>,
    pub(super) lease_ignored: bool,
    /// Entries up to here were handed out for apply.
    pub(super) delivered: LogIndex,
    pub(super) applied: LogIndex,
    /// The term in which this leader, about to leave the membership, tried to hand over.
    pub(super) handed_over_in: Option<Term>,
    /// Role and term at the end of the last call.
    seen: (u64, StateRole),
    reported: RoleChange,
}

impl Group {
    /// Starts a replica. Nothing is campaigned for yet; of a group with one voter, that one becomes leader at its
    /// first tick or by [`Group::campaign`].
    pub fn new(start: GroupStart, timeouts: Stream, logger: &Logger) -> Result<Self, StartError> {
        start.check()?;
        // raft-rs says at info what only its developers want to know; it is let through for those who ask for traces.
        let traces = logger.is_trace_enabled();
        let quiet = logger.clone().filter(move |record| traces || record.level().is_at_least(Level::Warning));
        let logger = Logger::root(quiet.fuse(), o!("group" => start.group.0, "replica" => start.replica.0));
        let commit = start.commit();
        let HardState { term, vote, commit: _ } = start.hard_state;
        let mut log = start.log;
        log.start(
            RaftState::new(
                RaftHardState { term: term.0, vote: vote.map_or(INVALID_ID, |vote| vote.0), commit: commit.0 },
                start.membership.to_conf_state(),
            ),
            start.applied,
        );
        let config = Config {
            id: start.replica.0,
            election_tick: limits::ELECTION_TICKS,
            heartbeat_tick: limits::HEARTBEAT_TICKS,
            min_election_tick: limits::ELECTION_TICKS,
            max_election_tick: 2 * limits::ELECTION_TICKS,
            applied: start.applied.0,
            max_size_per_msg: limits::RAFT_MESSAGE_BYTES_MAX,
            max_inflight_msgs: limits::RAFT_INFLIGHT_MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            // Leases would rest on clocks.
            read_only_option: ReadOnlyOption::Safe,
            // Followers learn the commit index with the next append or heartbeat, because only leaders serve. Of the
            // metadata, though, every node reads its own replica.
            skip_bcast_commit: start.group != GroupId::METADATA,
            // Merging would ignore the size limit of messages; proposals are batched before they come here.
            batch_append: false,
            priority: 0,
            // raft-rs counts payloads of committed entries, which it is not shown; see `unapplied_bytes`.
            max_uncommitted_size: NO_LIMIT,
            max_committed_size_per_ready: NO_LIMIT,
        };
        let node = RawNode::new(&config, log, &logger).expect("what a start needs was checked");
        let mut known = start.membership.members();
        known.extend(start.introduced);
        let mut group = Self {
            group: start.group,
            replica: start.replica,
            node,
            logger,
            timeout: ElectionTimeout::new(timeouts),
            queue: PersistQueue::default(),
            durable: WriteNumber(0),
            written: HardState { term, vote, commit },
            outbox: Vec::new(),
            membership: start.membership,
            membership_since: start.applied,
            applied_memberships: Vec::new(),
            known,
            removed: start.removed,
            reads: ReadIndex::default(),
            log_reads: LogReads::default(),
            faulty: Faulty::default(),
            snapshot_offer: None,
            lease_ignored: false,
            delivered: start.applied,
            applied: start.applied,
            handed_over_in: None,
            seen: (term.0, StateRole::Follower),
            reported: RoleChange { term, role: Role::Follower, leader: None },
        };
        group.raft(|_| ());
        Ok(group)
    }

    /// The only way to change raft-rs's node: afterwards the election timeout is ours again, and reads of a leadership
    /// that ended have failed.
    pub(super) fn raft<R>(&mut self, call: impl FnOnce(&mut RawNode<LogView>) -> R) -> R {
        let result = call(&mut self.node);
        let raft = &mut self.node.raft;
        let ticks = self.timeout.ticks(raft.term, raft.state, raft.leader_id);
        raft.set_randomized_election_timeout(ticks);
        if self.seen != (raft.term, raft.state) {
            self.seen = (raft.term, raft.state);
            self.reads.fail();
            self.node.mut_store().discard_snapshots();
        }
        result
    }

    /// One tick ([`limits::TICK`]) has passed.
    pub fn tick(&mut self) {
        if self.waits_as_single_voter() {
            return;
        }
        if self.is_faulty() {
            self.tick_without_campaign();
            return;
        }
        if self.is_single_voter() && self.role() != Role::Leader {
            // Nobody else could lead: no reason to wait for a timeout.
            self.campaign();
            return;
        }
        self.raft(|node| node.tick());
    }

    /// Heartbeats go out now, if this replica leads.
    pub fn beat(&mut self) {
        self.raft(RawNode::ping);
    }

    /// Tries to become leader, if this replica may.
    pub fn campaign(&mut self) {
        if !self.node.raft.promotable() || self.waits_as_single_voter() || self.is_faulty() {
            return;
        }
        self.raft(|node| node.campaign()).expect("campaigning is refused by doing nothing");
    }

    /// While set, a vote is granted although a leader was heard of recently: the caller knows better.
    pub fn ignore_lease(&mut self, ignore: bool) {
        self.lease_ignored = ignore;
    }

    /// Another replica may speak to this one from now on: the group is about to add it, or already did.
    pub fn introduce(&mut self, replica: ReplicaId) {
        if !self.removed.contains(&replica) {
            self.known.insert(replica);
        }
    }

    /// Whether this replica must not campaign although nobody else can. Were it elected, it would become leader within
    /// the call, and raft-rs requires the leader's log to be durable then. A leader keeps ticking, for its learners.
    pub(super) fn waits_as_single_voter(&self) -> bool {
        self.is_single_voter() && !self.queue.is_empty() && self.role() != Role::Leader
    }

    pub(super) fn is_single_voter(&self) -> bool {
        self.node.raft.promotable() && self.node.raft.prs().is_singleton()
    }

    /// What changed of term, role and leader since this was asked last.
    pub fn take_role_change(&mut self) -> Option<RoleChange> {
        let now = RoleChange { term: self.term(), role: self.role(), leader: self.leader() };
        if now == self.reported {
            return None;
        }
        self.reported = now;
        Some(now)
    }

    /// Whether [`Group::poll`] would hand out anything after a tick. Messages, proposals and reads always need a poll.
    pub fn has_work(&self) -> bool {
        let unreported = RoleChange { term: self.term(), role: self.role(), leader: self.leader() } != self.reported;
        unreported
            || self.node.has_ready()
            || !self.outbox.is_empty()
            || self.membership.is_joint()
            || self.has_held_back()
    }

    /// The WAL laid out an entry of this group.
    pub fn placed(&mut self, index: LogIndex, term: Term, location: EntryLocation) {
        self.node.mut_store().placed(index, term, location);
    }

    /// Forgets the log up to `index`, which is applied and which nothing needs any more: neither a member that shall
    /// be served from the log, nor recovery.
    pub fn compact(&mut self, index: LogIndex) {
        self.node.mut_store().compact(index);
    }

    /// Drops payloads of applied entries from memory until `bytes` are freed; returns how many were.
    pub fn evict(&mut self, bytes: usize) -> usize {
        self.node.mut_store().evict(bytes)
    }

    /// Hands over a payload that is needed before it was asked for, as recovery does. Ignored if it is not needed.
    pub fn supply(&mut self, index: LogIndex, term: Term, payload: Payload) {
        self.node.mut_store().supply(index, term, payload);
    }

    /// A hard state to be written when the occasion is good, if the commit index moved since the last one was. Saves
    /// recovery from waiting for an election; never needed.
    pub fn commit_record(&mut self) -> Option<WalRecord> {
        // A vote goes through the queue, never past it; and no commit index leads the entries handed out.
        let commit = self.commit_index().min(self.log().last_log_index());
        if commit <= self.written.commit || self.queue.holds_unwritten() {
            return None;
        }
        self.written.commit = commit;
        Some(self.hard_state_record())
    }

    pub(super) fn hard_state_record(&self) -> WalRecord {
        WalRecord::HardState {
            group: self.group,
            replica: self.replica,
            term: self.written.term,
            vote: self.written.vote.unwrap_or(ReplicaId(0)),
            commit: self.written.commit,
        }
    }

    pub fn group(&self) -> GroupId {
        self.group
    }

    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    pub fn role(&self) -> Role {
        self.node.raft.state.into()
    }

    pub fn is_leader(&self) -> bool {
        self.role() == Role::Leader
    }

    pub fn leader(&self) -> Option<ReplicaId> {
        match self.node.raft.leader_id {
            INVALID_ID => None,
            leader => Some(ReplicaId(leader)),
        }
    }

    pub fn term(&self) -> Term {
        Term(self.node.raft.term)
    }

    pub fn commit_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.committed)
    }

    /// Up to here this replica's own log is durable.
    pub fn persisted_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.persisted)
    }

    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.node.raft.raft_log.last_index())
    }

    /// Whether an entry of this term is committed. Before, a leader's commit index may be behind what was committed.
    pub fn commit_is_current_term(&self) -> bool {
        self.node.raft.commit_to_current_term()
    }

    /// Whether an entry of this term is applied. Before, a leader serves nothing.
    pub fn applied_is_current_term(&self) -> bool {
        self.node.raft.apply_to_current_term()
    }

    /// The membership in force: the one of the applied log.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Replicas that were members once.
    pub fn removed(&self) -> &BTreeSet<ReplicaId> {
        &self.removed
    }

    /// Bounds and terms of the log as far as it was handed out for writing.
    pub fn log(&self) -> &LogView {
        self.node.store()
    }

    /// Payload bytes that are in the log but not applied: what the budget for proposals counts.
    pub fn unapplied_bytes(&self) -> usize {
        self.log().unapplied_bytes() + self.node.raft.raft_log.unstable.entries_size
    }

    /// Payload bytes of entries kept in memory.
    pub fn cached_bytes(&self) -> usize {
        self.log().cached_bytes()
    }
}
