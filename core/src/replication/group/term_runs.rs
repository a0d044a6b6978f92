//! The terms of a log, run by run.
//!
//! Raft asks for the term of an index all the time, and a log of millions of entries has a handful of terms.
//! Invariant: runs have strictly increasing first indexes and strictly increasing terms.

use crate::ids::{LogIndex, Term};

#[derive(Clone, Debug)]
pub(super) struct TermRuns {
    /// First index and term of each run; the first run starts at the truncated index.
    runs: Vec<(LogIndex, Term)>,
}

impl TermRuns {
    pub(super) fn starting_at(index: LogIndex, term: Term) -> Self {
        Self { runs: vec![(index, term)] }
    }

    /// Term of `index`, which lies at or behind the start.
    pub(super) fn term(&self, index: LogIndex) -> Term {
        let behind = self.runs.partition_point(|&(first, _)| first <= index);
        assert!(behind > 0, "terms are asked for within the log only");
        self.runs[behind - 1].1
    }

    /// `index` follows what was pushed last.
    pub(super) fn push(&mut self, index: LogIndex, term: Term) {
        let &(first, last) = self.runs.last().expect("there is always the run of the truncated index");
        assert!(index > first && term >= last, "terms never decrease along a log: {term} at {index} follows {last}");
        if term > last {
            self.runs.push((index, term));
        }
    }

    /// Forgets the terms of `index` and everything behind.
    pub(super) fn truncate(&mut self, index: LogIndex) {
        let kept = self.runs.partition_point(|&(first, _)| first < index);
        assert!(kept > 0, "the truncated index is never overwritten");
        self.runs.truncate(kept);
    }

    /// Forgets the terms before `index`.
    pub(super) fn compact(&mut self, index: LogIndex) {
        let behind = self.runs.partition_point(|&(first, _)| first <= index);
        assert!(behind > 0, "logs are compacted forwards");
        self.runs.drain(..behind - 1);
        self.runs[0].0 = index;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain list of terms.
        #[test]
        fn runs_answer_like_a_list(steps in prop::collection::vec((0u8..8, 0u64..3, 0u64..20), 1..60)) {
            let mut terms = vec![1u64];
            let mut start = 5u64;
            let mut runs = TermRuns::starting_at(LogIndex(start), Term(1));
            for (kind, more, place) in steps {
                let end = start + terms.len() as u64;
                match kind {
                    0 => {
                        let to = start + place % terms.len() as u64;
                        terms.drain(..(to - start) as usize);
                        start = to;
                        runs.compact(LogIndex(to));
                    }
                    1 if terms.len() > 1 => {
                        let from = start + 1 + place % (terms.len() as u64 - 1);
                        terms.truncate((from - start) as usize);
                        runs.truncate(LogIndex(from));
                    }
                    _ => {
                        let term = terms.last().unwrap() + more;
                        terms.push(term);
                        runs.push(LogIndex(end), Term(term));
                    }
                }
                for (i, &term) in terms.iter().enumerate() {
                    prop_assert_eq!(runs.term(LogIndex(start + i as u64)), Term(term));
                }
            }
        }
    }
}
