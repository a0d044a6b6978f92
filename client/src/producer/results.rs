//! What became of records, kept until it is taken.

use std::collections::VecDeque;

use kauri_protocol::wire::Str;

use super::record::{Delivered, ProduceFailure, SendId};

/// A record in a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) id: SendId,
    pub(super) timestamp: i64,
}

/// A batch that is written or given up.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) topic: Str,
    pub(super) partition: i32,
    pub(super) records: Vec<Accepted>,
    pub(super) outcome: Result<Written, ProduceFailure>,
    /// Memory that is accounted for until the last result was taken.
    pub(super) charge: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Of the batch's first record.
    pub(super) base_offset: Option<i64>,
    /// Replaces the records' own timestamps.
    pub(super) append_time: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Results {
    finished: VecDeque<Finished>,
    /// How many results of the first batch were taken.
    taken: usize,
}

impl Results {
    pub(super) fn push(&mut self, finished: Finished) {
        assert!(!finished.records.is_empty(), "a batch has records");
        self.finished.push_back(finished);
    }

    /// The next result, and the memory that is free now.
    pub(super) fn take(&mut self) -> Option<(SendId, Result<Delivered, ProduceFailure>, usize)> {
        let first = self.finished.front()?;
        let record = first.records[self.taken];
        let result = match &first.outcome {
            Ok(written) => Ok(Delivered {
                topic: first.topic.clone(),
                partition: first.partition,
                offset: written.base_offset.map(|base| base.saturating_add(self.taken as i64)),
                timestamp: written.append_time.unwrap_or(record.timestamp),
            }),
            Err(failure) => Err(failure.clone()),
        };
        self.taken += 1;
        let mut freed = 0;
        if self.taken == first.records.len() {
            freed = first.charge;
            self.taken = 0;
            self.finished.pop_front();
        }
        Some((record.id, result, freed))
    }
}
