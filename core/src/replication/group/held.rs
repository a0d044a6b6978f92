//! A group that takes no part any more, because an entry cannot be applied here.
//!
//! Owns its way out of leadership, and what its caller needs to apply entries once more. Invariant: nothing of the log or
//! of the hard state is given up; whoever starts the group anew goes on as if the process had ended.

use raft::INVALID_ID;

use super::{Group, Payload};
use crate::{
    ids::{LogIndex, Term},
    log::{
        read::EntryRead,
        record::{EntryKind, EntryLocation},
    },
};

/// What is in the log at an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Nothing that a state machine is shown.
    NoCommand,
    InMemory(Payload),
    /// The payloads from this index on, as far as they are on disk only and up to a bound.
    OnDisk(Vec<EntryRead>),
    /// It is compacted or lost.
    Gone,
}

impl Group {
    /// Follows nobody, in the same term and with the same vote. Messages that wait are dropped. From now on the caller
    /// neither ticks nor steps this group.
    pub fn stand_down(&mut self) {
        self.raft(|node| {
            let term = node.raft.term;
            node.raft.become_follower(term, INVALID_ID);
        });
        self.outbox.clear();
    }

    /// The entry at `index`, which the log reaches up to; at most `bytes` to read from disk, but at least one entry.
    pub fn stored(&self, index: LogIndex, bytes: u64) -> Stored {
        let log = self.log();
        if index <= log.truncated_index() {
            return Stored::Gone;
        }
        if log.kind(index) != EntryKind::Normal || log.entry_bytes(index) == 0 {
            return Stored::NoCommand;
        }
        if let Some(payload) = log.payload(index) {
            return Stored::InMemory(payload);
        }
        let read = |(index, location): (LogIndex, EntryLocation)| {
            let term: Term = log.log_term(index);
            EntryRead { group: self.group, index, term, location }
        };
        let reads: Vec<EntryRead> = (index.0..).map(LogIndex).zip(log.locations(index, bytes)).map(read).collect();
        if reads.is_empty() { Stored::Gone } else { Stored::OnDisk(reads) }
    }

    /// The next entry behind `index` that is on disk only.
    pub fn next_on_disk(&self, index: LogIndex) -> Option<LogIndex> {
        let log = self.log();
        (index.0.max(log.truncated_index().0) + 1..=log.last_log_index().0)
            .map(LogIndex)
            .find(|index| !log.is_faulty(*index) && log.payload(*index).is_none())
    }
}
