//! Linearizable reads (Raft thesis, section 6.4).
//!
//! A read asks the leader to confirm that it still is one, at an index that covers everything committed before the
//! read began; the answer waits until that index is applied. One round of heartbeats confirms all reads that wait
//! when it starts; reads that come while it is under way join the next one.
//!
//! Invariant: one round outstanding. Every read ends exactly once: ready, or failed because role or term changed.

use std::collections::{BTreeMap, VecDeque};

use super::GroupOutput;
use crate::{
    ids::{LogIndex, ReplicaId},
    limits,
};

/// Names a read; chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// Why a read is not accepted. Both are worth another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this replica does not lead its group")]
    NotLeader { leader: Option<ReplicaId> },
    #[error("too many reads wait for their confirmation")]
    Busy,
}

#[derive(Debug, Default)]
pub(super) struct ReadIndex {
    last_round: u64,
    /// Confirmed by the round under way.
    under_way: Option<Vec<ReadToken>>,
    /// For the next round.
    joining: Vec<ReadToken>,
    /// Confirmed at an index that is not applied yet.
    confirmed: BTreeMap<LogIndex, Vec<ReadToken>>,
    waiting: usize,
    failed: VecDeque<ReadToken>,
}

impl ReadIndex {
    pub(super) fn join(&mut self, token: ReadToken) -> Result<(), ReadError> {
        if self.waiting >= limits::RAFT_READS_WAITING_MAX {
            return Err(ReadError::Busy);
        }
        self.waiting += 1;
        self.joining.push(token);
        Ok(())
    }

    /// The context of a new round, if one is to be started.
    pub(super) fn start_round(&mut self) -> Option<u64> {
        if self.under_way.is_some() || self.joining.is_empty() {
            return None;
        }
        self.under_way = Some(std::mem::take(&mut self.joining));
        self.last_round += 1;
        Some(self.last_round)
    }

    /// raft-rs confirmed `round` at `index`.
    pub(super) fn confirm(&mut self, round: u64, index: LogIndex) {
        // Rounds of an earlier leadership were failed already.
        if round == self.last_round
            && let Some(tokens) = self.under_way.take()
        {
            self.confirmed.entry(index).or_default().extend(tokens);
        }
    }

    /// Role or term changed: raft-rs forgot the round.
    pub(super) fn fail(&mut self) {
        self.failed.extend(self.under_way.take().into_iter().flatten());
        self.failed.extend(self.joining.drain(..));
        while let Some((_, tokens)) = self.confirmed.pop_first() {
            self.failed.extend(tokens);
        }
        self.waiting = 0;
    }

    pub(super) fn poll(&mut self, applied: LogIndex, out: &mut GroupOutput) {
        out.reads_failed.extend(self.failed.drain(..));
        while let Some(entry) = self.confirmed.first_entry().filter(|entry| *entry.key() <= applied) {
            let index = *entry.key();
            let tokens = entry.remove();
            self.waiting -= tokens.len();
            out.reads_ready.extend(tokens.into_iter().map(|token| (token, index)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_reads_join_the_next_round_and_answers_wait_for_apply() {
        let mut reads = ReadIndex::default();
        let mut out = GroupOutput::default();
        reads.join(ReadToken(1)).unwrap();
        reads.join(ReadToken(2)).unwrap();
        assert_eq!(reads.start_round(), Some(1));
        reads.join(ReadToken(3)).unwrap();
        assert_eq!(reads.start_round(), None, "one round at a time");

        reads.confirm(1, LogIndex(10));
        reads.poll(LogIndex(9), &mut out);
        assert!(out.is_empty(), "the state is not there yet");
        reads.poll(LogIndex(10), &mut out);
        assert_eq!(out.reads_ready, [(ReadToken(1), LogIndex(10)), (ReadToken(2), LogIndex(10))]);

        assert_eq!(reads.start_round(), Some(2));
        reads.confirm(1, LogIndex(11));
        out.clear();
        reads.poll(LogIndex(20), &mut out);
        assert!(out.is_empty(), "an old round confirms nothing that joined later");
        reads.confirm(2, LogIndex(12));
        reads.poll(LogIndex(20), &mut out);
        assert_eq!(out.reads_ready, [(ReadToken(3), LogIndex(12))]);
    }

    #[test]
    fn every_read_fails_once_when_leadership_ends() {
        let mut reads = ReadIndex::default();
        let mut out = GroupOutput::default();
        reads.join(ReadToken(1)).unwrap();
        reads.start_round();
        reads.confirm(1, LogIndex(10));
        reads.join(ReadToken(2)).unwrap();
        reads.start_round();
        reads.join(ReadToken(3)).unwrap();
        reads.fail();
        reads.fail();
        reads.confirm(2, LogIndex(10));
        reads.poll(LogIndex(10), &mut out);
        out.reads_failed.sort();
        assert_eq!(out.reads_failed, [ReadToken(1), ReadToken(2), ReadToken(3)]);
        assert_eq!(out.reads_ready, []);
    }

    #[test]
    fn reads_that_wait_are_bounded() {
        let mut reads = ReadIndex::default();
        for token in 0..limits::RAFT_READS_WAITING_MAX as u64 {
            reads.join(ReadToken(token)).unwrap();
        }
        assert_eq!(reads.join(ReadToken(u64::MAX)), Err(ReadError::Busy));
        reads.fail();
        assert_eq!(reads.join(ReadToken(u64::MAX)), Ok(()));
    }
}
