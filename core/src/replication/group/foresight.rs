//! Where changes of membership lead that a log holds and that were not applied.
//!
//! For who looks at a log without running its group. Invariant: says what a running group would find, because it asks the
//! same code.

use std::collections::BTreeSet;

use bytes::Bytes;
use raft::prelude::EntryType;
use slog::Logger;

use super::{
    Group, GroupStart, HardState, LogView, Membership, TERM_AT_CREATION, log_view::kind_of, ready::membership_change,
};
use crate::{
    ids::{GroupId, LogIndex, ReplicaId},
    log::record::EntryKind,
    rng::Stream,
};

fn entry_type(kind: EntryKind) -> EntryType {
    let all = [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
    all.into_iter().find(|entry_type| kind_of(*entry_type) == kind).expect("each kind has a type")
}

impl Membership {
    /// The membership after these changes, the payloads of entries in their order. One that raft-rs refuses changes
    /// nothing, as when it is applied.
    #[must_use]
    pub fn after<'a>(&self, changes: impl IntoIterator<Item = (EntryKind, &'a Bytes)>) -> Self {
        let applied = LogIndex::TRUNCATED_AT_CREATION;
        let start = GroupStart {
            group: GroupId::METADATA,
            // Whoever it is; it never speaks.
            replica: ReplicaId(u64::MAX),
            hard_state: HardState { term: TERM_AT_CREATION, vote: None, commit: applied },
            log: LogView::at_creation(),
            applied,
            membership: self.clone(),
            introduced: BTreeSet::new(),
            removed: BTreeSet::new(),
        };
        let silent = Logger::root(slog::Discard, slog::o!());
        let timeouts = Stream::new(0, crate::ids::NodeId(0), "foresight", 0);
        let Ok(mut group) = Group::new(start, timeouts, &silent) else { return self.clone() };
        let mut membership = self.clone();
        for (kind, data) in changes {
            let Some(change) = membership_change(entry_type(kind), data) else { continue };
            if let Ok(conf_state) = group.raft(|node| node.apply_conf_change(&change)) {
                membership = Self::from_conf_state(&conf_state).expect("raft-rs keeps its members in order");
            }
        }
        membership
    }
}

/// The replicas that a change of membership names.
pub fn named_by_change(kind: EntryKind, data: &[u8]) -> BTreeSet<ReplicaId> {
    let changes = membership_change(entry_type(kind), data).map(|change| change.changes).unwrap_or_default();
    changes.iter().filter(|change| change.node_id != 0).map(|change| ReplicaId(change.node_id)).collect()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use raft::prelude::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

    use super::*;

    fn change(steps: &[(ConfChangeType, u64)]) -> Bytes {
        let transition =
            if steps.len() == 1 { ConfChangeTransition::Auto } else { ConfChangeTransition::Explicit } as i32;
        let single = |&(change_type, node_id): &(ConfChangeType, u64)| ConfChangeSingle {
            change_type: change_type as i32,
            node_id,
        };
        let transition = if steps.is_empty() { ConfChangeTransition::Auto as i32 } else { transition };
        let changes = steps.iter().map(single).collect();
        ConfChangeV2 { transition, changes, ..ConfChangeV2::default() }.encode_to_vec().into()
    }

    fn ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
        ids.iter().map(|id| ReplicaId(*id)).collect()
    }

    #[test]
    fn changes_lead_where_a_group_would_go() {
        let before = Membership::new(ids(&[1, 2, 3]), []);
        let add = change(&[(ConfChangeType::AddLearnerNode, 9)]);
        let swap = change(&[(ConfChangeType::AddNode, 9), (ConfChangeType::RemoveNode, 3)]);
        let leave = change(&[]);
        let after = |changes: &[&Bytes]| before.after(changes.iter().map(|data| (EntryKind::ConfChangeV2, *data)));
        assert_eq!(after(&[]), before);
        assert_eq!(after(&[&add]), Membership::new(ids(&[1, 2, 3]), ids(&[9])));
        let joint = Membership { voters_outgoing: ids(&[1, 2, 3]), ..Membership::new(ids(&[1, 2, 9]), []) };
        assert_eq!(after(&[&add, &swap]), joint);
        assert_eq!(after(&[&add, &swap, &leave]), Membership::new(ids(&[1, 2, 9]), []));
        assert_eq!(after(&[&leave]), before, "what a group refuses changes nothing");
        assert_eq!(after(&[&Bytes::from_static(b"\xff\xff")]), before);
        assert_eq!(named_by_change(EntryKind::ConfChangeV2, &swap), ids(&[3, 9]));
        assert_eq!(Membership::default().after([(EntryKind::ConfChangeV2, &add)]), Membership::default());
    }
}
