//! The loop that takes work out of raft-rs.

use raft::prelude::{ConfChange, ConfChangeV2, Entry};
use raft::{INVALID_ID, prelude::EntryType};
use raft_proto::ConfChangeI;

use super::{Group, GroupOutput, HardState, ReadyNumber, Write, log_view::kind_of};
use crate::{
    ids::{LogIndex, ReplicaId, Term, WriteNumber},
    log::record::{EntryRecord, WalRecord},
};

impl Group {
    /// Hands out everything there is to do. Called after any other call; cheap if nothing happened.
    pub fn poll(&mut self, out: &mut GroupOutput) {
        loop {
            self.start_read_round();
            self.tend_membership();
            self.serve_log_reads();
            if !self.node.has_ready() {
                break;
            }
            self.handle_ready(out);
        }
        self.hold_back();
        // raft-rs walks over a hash map of members; for each of them, though, its order counts.
        self.outbox.sort_by_key(|message| message.to);
        out.messages.append(&mut self.outbox);
        self.log_reads.poll(out);
        out.snapshots_wanted.extend(self.node.mut_store().take_snapshots_wanted());
        if let Some(offer) = self.snapshot_offer.take() {
            out.snapshot_offer = Some(offer);
        }
        out.memberships.append(&mut self.applied_memberships);
        self.reads.poll(self.applied, out);
        if let Some(change) = self.take_role_change() {
            out.role = Some(change);
        }
    }

    /// The records of `number` are in the WAL's write `write`, which may not be durable yet.
    pub fn wrote(&mut self, number: ReadyNumber, write: WriteNumber) {
        self.queue.wrote(number, write);
    }

    /// Every write of the WAL up to this one is durable.
    pub fn durable(&mut self, write: WriteNumber) {
        self.durable = self.durable.max(write);
        self.settle();
        self.settle_repairs();
    }

    /// Takes what is durable out of the queue.
    fn settle(&mut self) {
        while let Some(mut step) = self.queue.pop(self.durable) {
            self.raft(|node| node.on_persist_ready(step.number.0));
            self.outbox.append(&mut step.messages);
        }
    }

    fn handle_ready(&mut self, out: &mut GroupOutput) {
        let (number, mut now, mut after_write, entries, read_states, hard_state) = self.raft(|node| {
            let mut ready = node.ready();
            assert!(ready.snapshot().is_empty(), "a snapshot rebuilds the group and never reaches raft-rs");
            // At this point the hard state is the one this step stores, commit index included.
            let hard_state = node.raft.hard_state();
            let now = ready.take_messages();
            let after_write = ready.take_persisted_messages();
            let entries = ready.take_entries();
            let read_states = ready.take_read_states();
            let number = ReadyNumber(ready.number());
            // Committed entries are stubs here; see apply.rs.
            node.mut_store().append(&entries);
            node.advance_append_async(ready);
            (number, now, after_write, entries, read_states, hard_state)
        });

        for state in read_states {
            let round = u64::from_le_bytes(state.request_ctx.try_into().expect("every round is named by us"));
            self.reads.confirm(round, LogIndex(state.index));
        }

        let hard_state = HardState {
            term: Term(hard_state.term),
            vote: (hard_state.vote != INVALID_ID).then_some(ReplicaId(hard_state.vote)),
            commit: LogIndex(hard_state.commit),
        };
        let changes_vote = (hard_state.term, hard_state.vote) != (self.written.term, self.written.vote);
        let mut records = Vec::new();
        for entry in entries {
            self.meet_members_of(&entry);
            records.push(WalRecord::Entry(EntryRecord {
                group: self.group,
                index: LogIndex(entry.index),
                term: Term(entry.term),
                kind: kind_of(entry.get_entry_type()),
                context: entry.context,
                data: entry.data,
            }));
        }
        // The commit index alone is not worth a write; it goes along with the next one.
        if changes_vote || (!records.is_empty() && hard_state.commit > self.written.commit) {
            self.written = hard_state;
            records.push(self.hard_state_record());
        }

        // A leader may send entries before they are durable, but nothing may be sent in a term that is not. With one
        // voter, election and first messages fall into one step: after a crash, the term would be used twice.
        if changes_vote || self.queue.holds_vote() {
            after_write.append(&mut now);
        }
        self.outbox.append(&mut now);
        self.queue.push(number, !records.is_empty(), changes_vote, after_write);
        if !records.is_empty() {
            out.writes.push(Write { number, records });
        }
        self.settle();
    }

    /// Replicas named by a membership change in the log may speak before it is applied.
    fn meet_members_of(&mut self, entry: &Entry) {
        let Some(change) = membership_change(entry.get_entry_type(), &entry.data) else { return };
        for step in &change.changes {
            self.introduce(ReplicaId(step.node_id));
        }
    }
}

/// The membership change in an entry, if it is one. An entry whose bytes are no change changes nothing, on every
/// replica alike.
pub(super) fn membership_change(entry_type: EntryType, data: &[u8]) -> Option<ConfChangeV2> {
    match entry_type {
        EntryType::EntryNormal => None,
        EntryType::EntryConfChange => prost::Message::decode(data).ok().map(ConfChange::into_v2),
        EntryType::EntryConfChangeV2 => prost::Message::decode(data).ok(),
    }
}
