//! How much may be under way to one peer, and how much of what peers sent may wait here.
//!
//! Invariants: what is unacknowledged at a peer is at most [`limits::PEER_WINDOW_BYTES`] (and
//! [`limits::PEER_GROUP_WINDOW_BYTES`] per group) plus the one message that crossed the limit; the receiver holds at
//! most [`limits::PEER_BACKLOG_BYTES_MAX`] plus one message that its WAL did not take yet. What exceeds a window is
//! dropped, never queued: Raft sends it again. Peer sockets are always read, so that a heartbeat never waits behind
//! what does not fit.

use std::collections::{BTreeMap, VecDeque};

use crate::{ids::GroupId, limits, replication::peer::frame::Lane};

/// Messages under way to one peer, on both lanes.
#[derive(Debug, Default)]
pub(super) struct SendWindow {
    /// Per lane in the order of sending.
    charges: [VecDeque<Charge>; 2],
    /// Per group and lane.
    groups: BTreeMap<GroupId, [usize; 2]>,
    total: usize,
}

#[derive(Debug)]
struct Charge {
    /// Number of the frame on its link, counted from 1.
    frame: u64,
    group: Option<GroupId>,
    bytes: usize,
}

impl SendWindow {
    /// Whether another message may be sent, for a group or for none.
    pub(super) fn admits(&self, group: Option<GroupId>) -> bool {
        let of_group = group.and_then(|group| self.groups.get(&group)).map_or(0, |lanes| lanes.iter().sum());
        self.total < limits::PEER_WINDOW_BYTES && of_group < limits::PEER_GROUP_WINDOW_BYTES
    }

    /// Whether messages of this group are under way on this lane. Later ones must not overtake them on the other.
    pub(super) fn holds(&self, lane: Lane, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|lanes| lanes[lane.index()] > 0)
    }

    pub(super) fn is_idle(&self, lane: Lane) -> bool {
        self.charges[lane.index()].is_empty()
    }

    pub(super) fn charge(&mut self, lane: Lane, frame: u64, group: Option<GroupId>, bytes: usize) {
        self.charges[lane.index()].push_back(Charge { frame, group, bytes });
        self.total += bytes;
        if let Some(group) = group {
            self.groups.entry(group).or_default()[lane.index()] += bytes;
        }
    }

    /// The peer has the frames of the present link of a lane up to this number; true if that is news.
    pub(super) fn acknowledged(&mut self, lane: Lane, frame: u64) -> bool {
        let mut news = false;
        while self.charges[lane.index()].front().is_some_and(|charge| charge.frame <= frame) {
            let charge = self.charges[lane.index()].pop_front().expect("the front was just looked at");
            self.release(lane, &charge);
            news = true;
        }
        news
    }

    /// The link of a lane is gone, and with it whatever was on it.
    pub(super) fn link_lost(&mut self, lane: Lane) {
        for charge in std::mem::take(&mut self.charges[lane.index()]) {
            self.release(lane, &charge);
        }
    }

    fn release(&mut self, lane: Lane, charge: &Charge) {
        self.total -= charge.bytes;
        if let Some(group) = charge.group {
            let lanes = self.groups.get_mut(&group).expect("a group with charges has its sum");
            lanes[lane.index()] -= charge.bytes;
            if lanes.iter().all(|&bytes| bytes == 0) {
                self.groups.remove(&group);
            }
        }
    }
}

/// Received appends that are not yet durable, of all peers together.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// At the last poll: what waited for the WAL, and what was handed on then.
    waiting: usize,
    /// Admitted since.
    added: usize,
}

impl Backlog {
    /// What was admitted is handed on now; what was handed on before is done or in `waiting`.
    pub(super) fn handed_on(&mut self, waiting: usize) {
        *self = Self { waiting: waiting.saturating_add(self.added), added: 0 };
    }

    /// Whether an append of this size is to be handed on; counts it if so.
    pub(super) fn admit(&mut self, bytes: usize) -> bool {
        let room = self.waiting.saturating_add(self.added) < limits::PEER_BACKLOG_BYTES_MAX;
        if room {
            self.added += bytes;
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn group(number: u64) -> Option<GroupId> {
        Some(GroupId(number))
    }

    #[test]
    fn a_group_that_fills_its_window_does_not_stop_the_others() {
        let mut window = SendWindow::default();
        let mut frame = 0;
        while window.admits(group(1)) {
            frame += 1;
            window.charge(Lane::Bulk, frame, group(1), MIB);
        }
        assert_eq!(frame as usize * MIB, limits::PEER_GROUP_WINDOW_BYTES);
        assert!(window.admits(group(2)) && window.admits(None));
        assert!(window.acknowledged(Lane::Bulk, 1));
        assert!(window.admits(group(1)));
        assert!(!window.acknowledged(Lane::Bulk, 1), "the same acknowledgement again is no news");
    }

    #[test]
    fn the_window_of_the_peer_bounds_all_groups_together() {
        let mut window = SendWindow::default();
        for number in 1.. {
            if !window.admits(group(number)) {
                break;
            }
            window.charge(Lane::Bulk, number, group(number), 3 * MIB);
        }
        assert!(window.total >= limits::PEER_WINDOW_BYTES && window.total < limits::PEER_WINDOW_BYTES + 3 * MIB);
        assert!(!window.admits(None));
        window.link_lost(Lane::Bulk);
        assert!(window.admits(None) && window.is_idle(Lane::Bulk));
        assert_eq!((window.total, window.groups.len()), (0, 0), "nothing is charged for ever");
    }

    #[test]
    fn a_batch_larger_than_any_window_is_admitted_beside_others() {
        let mut window = SendWindow::default();
        window.charge(Lane::Bulk, 1, group(1), MIB);
        assert!(window.admits(group(2)));
        window.charge(Lane::Bulk, 2, group(2), limits::BATCH_BYTES_MAX);
        assert!(!window.admits(group(3)));
    }

    #[test]
    fn lanes_are_acknowledged_apart() {
        let mut window = SendWindow::default();
        window.charge(Lane::Raft, 1, group(1), 10);
        window.charge(Lane::Bulk, 1, group(1), 20);
        assert!(window.acknowledged(Lane::Raft, 5));
        assert!(!window.holds(Lane::Raft, GroupId(1)));
        assert!(window.holds(Lane::Bulk, GroupId(1)));
    }

    #[test]
    fn appends_are_dropped_while_the_wal_is_behind_and_not_after() {
        let mut backlog = Backlog::default();
        let mut handed_on = 0;
        while backlog.admit(MIB) {
            handed_on += MIB;
        }
        assert_eq!(handed_on, limits::PEER_BACKLOG_BYTES_MAX);
        backlog.handed_on(0);
        assert!(!backlog.admit(1), "handed on, but the WAL cannot have it yet");
        backlog.handed_on(limits::PEER_BACKLOG_BYTES_MAX);
        assert!(!backlog.admit(1), "the WAL has it, and is behind");
        backlog.handed_on(0);
        assert!(backlog.admit(1));
    }
}
