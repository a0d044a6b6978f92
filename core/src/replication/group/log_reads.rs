//! Payloads that have to be read back from disk: for members that lag, and for apply.
//!
//! Invariant: one read per first index is under way, and their number is bounded. A delivery that finds no room is
//! dropped; raft-rs tries again with the member's next answer.

use std::collections::BTreeMap;

use raft::GetEntriesContext;

use super::{Fetch, Group, GroupOutput, Payload};
use crate::{
    ids::{LogIndex, Term},
    limits,
};

#[derive(Debug, Default)]
pub(super) struct LogReads {
    under_way: BTreeMap<LogIndex, UnderWay>,
    to_start: Vec<Fetch>,
}

#[derive(Debug)]
struct UnderWay {
    /// Terms of the entries that are read, to tell later whether they are still those of the log.
    terms: Vec<Term>,
    /// Deliveries that go on when the payloads are there.
    deliveries: Vec<GetEntriesContext>,
}

impl LogReads {
    pub(super) fn poll(&mut self, out: &mut GroupOutput) {
        out.fetches.append(&mut self.to_start);
    }
}

impl Group {
    /// Starts reads for entries that raft-rs wanted to send.
    pub(super) fn serve_log_reads(&mut self) {
        loop {
            let reads = self.node.mut_store().take_reads();
            if reads.is_empty() {
                return;
            }
            if !self.is_leader() {
                // Only leaders send entries, and this log may be about to be truncated.
                return;
            }
            for read in reads {
                let log = self.node.store();
                let is_there = read.first <= log.truncated_index() || log.payload(read.first).is_some();
                if is_there {
                    self.raft(|node| node.on_entries_fetched(read.context));
                } else {
                    self.fetch(read.first, Some(read.context));
                }
            }
        }
    }

    /// Reads payloads from `first` on, unless that is under way; `delivery` goes on afterwards.
    pub(super) fn fetch(&mut self, first: LogIndex, delivery: Option<GetEntriesContext>) {
        let reads = &mut self.log_reads;
        if let Some(under_way) = reads.under_way.get_mut(&first) {
            if under_way.deliveries.len() < limits::RAFT_FETCH_WAITERS_MAX {
                under_way.deliveries.extend(delivery);
            }
            return;
        }
        if reads.under_way.len() >= limits::RAFT_FETCHES_MAX {
            return;
        }
        let log = self.node.store();
        let locations = log.locations(first, limits::RAFT_MESSAGE_BYTES_MAX);
        if locations.is_empty() {
            // It is lost here: who waits for it is served by another leader.
            return;
        }
        let terms: Vec<_> = (first.0..).map(LogIndex).take(locations.len()).map(|index| log.log_term(index)).collect();
        let deliveries = delivery.into_iter().collect();
        reads.under_way.insert(first, UnderWay { terms: terms.clone(), deliveries });
        reads.to_start.push(Fetch { first, terms, locations });
    }

    /// Answers a [`Fetch`] with as many payloads as it named places, each checked against its CRC.
    pub fn fetched(&mut self, first: LogIndex, payloads: Vec<Payload>) {
        self.fetched_partly(first, payloads.into_iter().map(Some).collect());
    }

    /// Answers a [`Fetch`] of which some payloads are not what was written, after [`Group::damaged`] was told of them.
    pub fn fetched_partly(&mut self, first: LogIndex, payloads: Vec<Option<Payload>>) {
        let under_way = self.log_reads.under_way.remove(&first).expect("a read is answered once");
        assert_eq!(payloads.len(), under_way.terms.len(), "a read is answered as a whole");
        let log = self.node.mut_store();
        for ((index, term), payload) in (first.0..).map(LogIndex).zip(under_way.terms).zip(payloads) {
            if let Some(payload) = payload {
                log.supply(index, term, payload);
            }
        }
        // What is compacted now is replaced by a state, and what moved is read where it lies.
        for delivery in under_way.deliveries {
            self.raft(|node| node.on_entries_fetched(delivery));
        }
        self.node.mut_store().release_fetched();
    }

    /// A [`Fetch`] failed. It is started again when the entries are needed again.
    pub fn fetch_failed(&mut self, first: LogIndex) {
        self.log_reads.under_way.remove(&first).expect("a read is answered once");
    }
}
