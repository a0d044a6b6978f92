//! The log of every partition, as all readers together saw it.
//!
//! Invariant: of two different values at one offset the first one read stays here;
//! [`super::inconsistent_offsets`] tells of the other.

use std::collections::BTreeMap;

use kauri_core::ids::Offset;

use crate::history::{History, Partition, Value};

/// What was read, by partition and offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    partitions: BTreeMap<Partition, BTreeMap<Offset, Value>>,
}

impl Log {
    pub fn of(history: &History) -> Self {
        let mut partitions: BTreeMap<Partition, BTreeMap<Offset, Value>> = BTreeMap::new();
        for read in history.reads() {
            let log = partitions.entry(read.partition).or_default();
            for (offset, value) in &read.records {
                log.entry(*offset).or_insert(*value);
            }
        }
        Self { partitions }
    }

    pub fn at(&self, partition: Partition, offset: Offset) -> Option<Value> {
        self.partitions.get(&partition)?.get(&offset).copied()
    }

    /// All that was read, partition by partition, in the order of offsets.
    pub fn records(&self) -> impl Iterator<Item = (Partition, Offset, Value)> + '_ {
        self.partitions
            .iter()
            .flat_map(|(partition, log)| log.iter().map(|(offset, value)| (*partition, *offset, *value)))
    }
}
