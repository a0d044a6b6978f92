//! The accessor methods that raft-rs calls.
//!
//! raft-rs is written against two code generators at once and reaches most fields through methods. Only the methods
//! it uses, and their obvious counterparts, are here. Getters of enum fields (derived by prost under the field's own
//! name) panic here on unknown numbers, under the `get_` name, because raft-rs has no way to take an error:
//! validation comes first.

use bytes::Bytes;

use crate::messages::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
    HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};

macro_rules! number {
    ($field:ident: $type:ty, $get:ident, $set:ident) => {
        #[inline]
        pub fn $get(&self) -> $type {
            self.$field
        }

        #[inline]
        pub fn $set(&mut self, value: $type) {
            self.$field = value;
        }
    };
}

// The setter is derived by prost.
macro_rules! enumeration {
    ($field:ident: $type:ty, $get:ident) => {
        /// # Panics
        /// On a number that names no variant.
        #[inline]
        pub fn $get(&self) -> $type {
            <$type>::try_from(self.$field).expect("enum fields are validated before they are used")
        }
    };
}

macro_rules! bytes {
    ($field:ident, $get:ident, $set:ident, $take:ident) => {
        #[inline]
        pub fn $get(&self) -> &[u8] {
            &self.$field
        }

        #[inline]
        pub fn $set(&mut self, value: Bytes) {
            self.$field = value;
        }

        #[inline]
        pub fn $take(&mut self) -> Bytes {
            ::std::mem::take(&mut self.$field)
        }
    };
}

macro_rules! repeated {
    ($field:ident: $type:ty, $get:ident, $set:ident, $mut:ident, $take:ident) => {
        #[inline]
        pub fn $get(&self) -> &[$type] {
            &self.$field
        }

        #[inline]
        pub fn $set(&mut self, value: Vec<$type>) {
            self.$field = value;
        }

        #[inline]
        pub fn $mut(&mut self) -> &mut Vec<$type> {
            &mut self.$field
        }

        #[inline]
        pub fn $take(&mut self) -> Vec<$type> {
            ::std::mem::take(&mut self.$field)
        }
    };
}

macro_rules! nested {
    ($field:ident: $type:ty, $default:ident, $has:ident, $get:ident, $set:ident, $mut:ident, $take:ident) => {
        #[inline]
        pub fn $has(&self) -> bool {
            self.$field.is_some()
        }

        /// The field, or the empty message if it is absent.
        #[inline]
        pub fn $get(&self) -> &$type {
            self.$field.as_ref().unwrap_or(&$default)
        }

        #[inline]
        pub fn $set(&mut self, value: $type) {
            self.$field = Some(value);
        }

        #[inline]
        pub fn $mut(&mut self) -> &mut $type {
            self.$field.get_or_insert_default()
        }

        #[inline]
        pub fn $take(&mut self) -> $type {
            self.$field.take().unwrap_or_default()
        }
    };
}

impl Entry {
    enumeration!(entry_type: EntryType, get_entry_type);
    number!(term: u64, get_term, set_term);
    number!(index: u64, get_index, set_index);
    bytes!(data, get_data, set_data, take_data);
    bytes!(context, get_context, set_context, take_context);
}

impl SnapshotMetadata {
    nested!(conf_state: ConfState, NO_MEMBERS, has_conf_state, get_conf_state, set_conf_state, mut_conf_state, take_conf_state);
    number!(index: u64, get_index, set_index);
    number!(term: u64, get_term, set_term);
}

impl Snapshot {
    bytes!(data, get_data, set_data, take_data);
    nested!(metadata: SnapshotMetadata, NOWHERE, has_metadata, get_metadata, set_metadata, mut_metadata, take_metadata);

    /// A snapshot at no index stands for none.
    pub fn is_empty(&self) -> bool {
        self.get_metadata().index == 0
    }
}

impl Message {
    enumeration!(msg_type: MessageType, get_msg_type);
    number!(to: u64, get_to, set_to);
    number!(from: u64, get_from, set_from);
    number!(term: u64, get_term, set_term);
    number!(log_term: u64, get_log_term, set_log_term);
    number!(index: u64, get_index, set_index);
    repeated!(entries: Entry, get_entries, set_entries, mut_entries, take_entries);
    number!(commit: u64, get_commit, set_commit);
    nested!(snapshot: Snapshot, NO_SNAPSHOT, has_snapshot, get_snapshot, set_snapshot, mut_snapshot, take_snapshot);
    number!(reject: bool, get_reject, set_reject);
    number!(reject_hint: u64, get_reject_hint, set_reject_hint);
    bytes!(context, get_context, set_context, take_context);
    number!(request_snapshot: u64, get_request_snapshot, set_request_snapshot);
    number!(commit_term: u64, get_commit_term, set_commit_term);
    number!(priority: i64, get_priority, set_priority);
}

impl HardState {
    number!(term: u64, get_term, set_term);
    number!(vote: u64, get_vote, set_vote);
    number!(commit: u64, get_commit, set_commit);
}

impl ConfState {
    repeated!(voters: u64, get_voters, set_voters, mut_voters, take_voters);
    repeated!(learners: u64, get_learners, set_learners, mut_learners, take_learners);
    repeated!(voters_outgoing: u64, get_voters_outgoing, set_voters_outgoing, mut_voters_outgoing, take_voters_outgoing);
    repeated!(learners_next: u64, get_learners_next, set_learners_next, mut_learners_next, take_learners_next);
    number!(auto_leave: bool, get_auto_leave, set_auto_leave);
}

impl ConfChange {
    number!(id: u64, get_id, set_id);
    enumeration!(change_type: ConfChangeType, get_change_type);
    number!(node_id: u64, get_node_id, set_node_id);
    bytes!(context, get_context, set_context, take_context);
}

impl ConfChangeSingle {
    enumeration!(change_type: ConfChangeType, get_change_type);
    number!(node_id: u64, get_node_id, set_node_id);
}

impl ConfChangeV2 {
    enumeration!(transition: ConfChangeTransition, get_transition);
    repeated!(changes: ConfChangeSingle, get_changes, set_changes, mut_changes, take_changes);
    bytes!(context, get_context, set_context, take_context);
}

static NO_MEMBERS: ConfState = ConfState {
    voters: Vec::new(),
    learners: Vec::new(),
    voters_outgoing: Vec::new(),
    learners_next: Vec::new(),
    auto_leave: false,
};
static NOWHERE: SnapshotMetadata = SnapshotMetadata { conf_state: None, index: 0, term: 0 };
static NO_SNAPSHOT: Snapshot = Snapshot { data: Bytes::new(), metadata: None };
