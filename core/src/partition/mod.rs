//! The state machine of one topic-partition: which offset a batch gets, and whether it gets one.
//!
//! Invariant: everything is decided when an entry is applied, by all replicas alike; offsets are dense in the order of
//! the log and never given twice. What needs no state is checked before a batch is proposed ([`validate`]). Does not
//! store batches: an accepted one is handed to its owner as an [`crate::log::segment::AppliedBatch`].

mod epochs;
mod producers;
mod state;
mod validate;

pub use epochs::LeaderEpochs;
pub use producers::{Producers, Verdict};
pub use state::{AppendOutcome, ApplyConfig, PartitionCommand, PartitionState};
pub use validate::{Invalid, Rules, validate};
