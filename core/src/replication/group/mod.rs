//! One Raft group as one replica sees it.
//!
//! Owns raft-rs's node, the view of the log that it reads, and everything that raft-rs leaves to its user: what may
//! be sent before which write is durable, which messages are fit to be stepped, which entries are applied next, who
//! the members are, which reads are confirmed.
//!
//! Invariant: nothing else calls raft-rs. It panics on misuse and on malformed messages, and draws its election
//! timeouts from the operating system; [`Group`] keeps both away. A `Group` shares no state with anything, so a
//! caller may contain a panic of one by dropping it.
//!
//! Does not own the disk, the network or a clock: it hands out what to write and to send, and is told what was
//! written, what arrived and that a tick has passed. Knows entries as bytes and never looks at payloads.

mod apply;
mod changes;
mod election_timeout;
mod faulty;
mod foresight;
#[allow(clippy::module_inception, reason = "the type this module is about has a file of its own")]
mod group;
mod held;
mod log_reads;
mod log_view;
mod membership;
mod output;
mod payload;
mod persist_queue;
mod progress;
mod propose;
mod read_index;
mod ready;
mod section;
mod snapshot;
mod start;
mod step;
mod term_runs;
mod validate;

#[cfg(test)]
mod tests;

pub use apply::{ApplyError, Committed};
pub use changes::{MembershipError, MembershipStep};
pub use faulty::{Copy, Damage, FaultyEntry};
pub use foresight::named_by_change;
pub use group::Group;
pub use held::Stored;
pub use log_view::LogView;
pub use membership::{Membership, MembershipDecodeError};
pub use output::{Fetch, GroupOutput, MembershipApplied, ReadyNumber, Role, RoleChange, Write};
pub use payload::Payload;
pub use progress::{ReplicaProgress, ReplicationState};
pub use propose::{ProposeError, TransferError};
pub use read_index::{ReadError, ReadToken};
pub use section::{EntryFileName, InlineEntry, SectionParts, SectionStartError};
pub use snapshot::{SnapshotError, SnapshotOffer, SnapshotOutcome, SnapshotPosition};
pub use start::{GroupStart, HardState, StartError, TERM_AT_CREATION};
pub use step::Refused;
pub use validate::Invalid;
