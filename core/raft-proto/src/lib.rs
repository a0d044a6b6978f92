//! The messages that raft-rs exchanges and stores, defined for Kauri.
//!
//! Owns the Rust types behind the names that raft 0.7.0 imports from a crate called `raft-proto`, wire compatible
//! with the protocol buffers of the same field numbers. Payload fields are [`bytes::Bytes`]: cloning an entry or
//! decoding one from a frame shares the bytes instead of copying them. There is no generated code, no build script
//! and no protoc.
//!
//! Does not check what it decodes beyond the encoding: enum fields may hold unknown numbers, and raft-rs panics on
//! those. Whoever takes messages from a peer validates them first.
#![forbid(unsafe_code)]

mod accessors;
mod change;
mod codec;
mod messages;

pub use change::{ConfChangeI, conf_state_eq, new_conf_change_single};

/// The messages by the path that raft-rs uses.
pub mod eraftpb {
    pub use crate::messages::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
        HardState, Message, MessageType, Snapshot, SnapshotMetadata,
    };
}

/// What raft-rs re-exports in its own prelude.
pub mod prelude {
    pub use crate::eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
        HardState, Message, MessageType, Snapshot, SnapshotMetadata,
    };
}
