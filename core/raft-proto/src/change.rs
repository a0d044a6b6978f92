//! Membership changes: both generations as one, and what a change does to a configuration.

use std::{borrow::Cow, collections::BTreeSet};

use crate::messages::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState};

/// A membership change of either generation.
pub trait ConfChangeI {
    /// The change in the newer form.
    fn as_v2(&self) -> Cow<'_, ConfChangeV2>;

    fn into_v2(self) -> ConfChangeV2;

    /// The change in the older form, if it has it; raft-rs then proposes it so.
    fn as_v1(&self) -> Option<&ConfChange>;
}

impl ConfChangeI for ConfChange {
    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Owned(self.clone().into_v2())
    }

    fn into_v2(self) -> ConfChangeV2 {
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto as i32,
            changes: vec![ConfChangeSingle { change_type: self.change_type, node_id: self.node_id }],
            context: self.context,
        }
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        Some(self)
    }
}

impl ConfChangeI for ConfChangeV2 {
    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Borrowed(self)
    }

    fn into_v2(self) -> ConfChangeV2 {
        self
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        None
    }
}

impl ConfChangeV2 {
    /// Whether this change enters a joint configuration, and if so, whether raft leaves it by itself. More than one
    /// step always goes through a joint configuration (Raft thesis, section 4.3).
    pub fn enter_joint(&self) -> Option<bool> {
        match self.get_transition() {
            ConfChangeTransition::Auto if self.changes.len() <= 1 => None,
            ConfChangeTransition::Auto | ConfChangeTransition::Implicit => Some(true),
            ConfChangeTransition::Explicit => Some(false),
        }
    }

    /// Whether this change leaves a joint configuration: it has neither steps nor a transition.
    pub fn leave_joint(&self) -> bool {
        self.get_transition() == ConfChangeTransition::Auto && self.changes.is_empty()
    }
}

/// One step of a change.
pub fn new_conf_change_single(node_id: u64, change_type: ConfChangeType) -> ConfChangeSingle {
    ConfChangeSingle { change_type: change_type as i32, node_id }
}

/// Whether two memberships are the same; the order of members does not count.
pub fn conf_state_eq(left: &ConfState, right: &ConfState) -> bool {
    let same = |left: &[u64], right: &[u64]| {
        left.len() == right.len() && left.iter().collect::<BTreeSet<_>>() == right.iter().collect::<BTreeSet<_>>()
    };
    same(&left.voters, &right.voters)
        && same(&left.learners, &right.learners)
        && same(&left.voters_outgoing, &right.voters_outgoing)
        && same(&left.learners_next, &right.learners_next)
        && left.auto_leave == right.auto_leave
}

impl From<(Vec<u64>, Vec<u64>)> for ConfState {
    /// A membership of these voters and learners.
    fn from((voters, learners): (Vec<u64>, Vec<u64>)) -> Self {
        Self { voters, learners, ..Self::default() }
    }
}
