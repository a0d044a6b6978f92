//! Partitions whose logs hold something in memory, or have something on its way to the disk.
//!
//! Invariant: the sums here are those of what each log had when it was settled last, and a log that changed is settled
//! before its turn ends. So nothing that is asked every turn costs more the more partitions there are; all of them are
//! looked at only now and then, to choose what is written next. Does not choose: that is
//! [`crate::log::segment::writes_due`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    ids::GroupId,
    limits::{SHARD_TAIL_BYTES_MAX, STARTUP_TAIL_BYTES_MAX},
    log::segment::{PartitionLog, Writes},
    time::Monotonic,
};

/// Partitions are looked at this often when nothing was written meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Many partitions are looked at less often: a look at all of them takes the same share of time.
const LOOK_INTERVAL_PER_LOG: Duration = Duration::from_micros(20);
/// The same for a look that is wanted soon.
const LOOK_SOON_PER_LOG: Duration = Duration::from_micros(5);
/// Groups that have nothing in memory are looked at with the others, for their Raft entries.
const LOOK_INTERVAL_PER_GROUP: Duration = Duration::from_micros(5);

#[derive(Debug)]
pub(super) struct LiveLogs {
    logs: BTreeMap<GroupId, Live>,
    /// Changed since they were settled.
    touched: BTreeSet<GroupId>,
    memory: usize,
    /// What all logs may have in memory. More than usual after a start that found more.
    memory_max: usize,
    unsynced: u64,
    writing: usize,
    /// What the last look chose, without what was begun since.
    chosen: VecDeque<GroupId>,
    /// So many of them are written whatever syncs were spent.
    at_once: usize,
    /// Memory is short: what was chosen is written whatever it costs.
    urgent: bool,
    /// Something waits for these to be on disk.
    wanted: BTreeSet<GroupId>,
    looked_at: Monotonic,
    look_at: Monotonic,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    /// When the last batch came.
    appended: Monotonic,
    memory: usize,
    unsynced: u64,
    is_writing: bool,
}

impl LiveLogs {
    /// After a start nobody knows which logs hold something.
    pub(super) fn new(now: Monotonic, groups: impl Iterator<Item = GroupId>) -> Self {
        let mut live = Self {
            logs: BTreeMap::new(),
            touched: BTreeSet::new(),
            memory: 0,
            memory_max: STARTUP_TAIL_BYTES_MAX + SHARD_TAIL_BYTES_MAX,
            unsynced: 0,
            writing: 0,
            chosen: VecDeque::new(),
            at_once: 0,
            urgent: false,
            wanted: BTreeSet::new(),
            looked_at: now,
            look_at: now,
        };
        groups.for_each(|group| live.appended(group, now));
        live
    }

    /// Batches were appended.
    pub(super) fn appended(&mut self, group: GroupId, at: Monotonic) {
        let nothing = Live { appended: at, memory: 0, unsynced: 0, is_writing: false };
        self.logs.entry(group).or_insert(nothing).appended = at;
        self.touched.insert(group);
    }

    /// It has something to do: an operation of its files is over, or bytes of them are to be replaced.
    pub(super) fn wake(&mut self, group: GroupId) {
        let nothing = Live { appended: Monotonic(0), memory: 0, unsynced: 0, is_writing: false };
        self.logs.entry(group).or_insert(nothing);
        self.touched.insert(group);
        self.look_soon();
    }

    /// Something waits for what it holds to be on disk. Whoever waits says so in every turn.
    pub(super) fn want(&mut self, group: GroupId) {
        self.wanted.insert(group);
    }

    /// The next one that something waits for.
    pub(super) fn next_wanted(&mut self) -> Option<GroupId> {
        self.wanted.pop_first()
    }

    /// The log may have changed, or be gone.
    pub(super) fn touch(&mut self, group: GroupId) {
        self.touched.insert(group);
    }

    pub(super) fn take_touched(&mut self) -> BTreeSet<GroupId> {
        std::mem::take(&mut self.touched)
    }

    /// Takes up what a log has now; without a log, or with one that has nothing left, it is forgotten.
    pub(super) fn settle(&mut self, group: GroupId, log: Option<&PartitionLog>) {
        let Some(known) = self.logs.get_mut(&group) else { return };
        self.memory -= known.memory;
        self.unsynced -= known.unsynced;
        self.writing -= usize::from(known.is_writing);
        let Some(log) = log else {
            self.logs.remove(&group);
            return;
        };
        known.memory = log.memory_bytes();
        known.unsynced = log.unsynced_bytes();
        known.is_writing = log.is_writing();
        self.memory += known.memory;
        self.unsynced += known.unsynced;
        self.writing += usize::from(known.is_writing);
        // Nothing is left to be written, followed or dropped: it costs nothing until the next batch.
        if known.memory == 0 && known.unsynced == 0 && !known.is_writing && !log.is_mending() {
            self.logs.remove(&group);
        }
    }

    /// When the last batch of a log came; `None` if it holds nothing.
    pub(super) fn last_append(&self, group: GroupId) -> Option<Monotonic> {
        self.logs.get(&group).map(|live| live.appended)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.logs.keys().copied()
    }

    /// Groups with the bytes that are not on disk.
    pub(super) fn unsynced_each(&self) -> impl Iterator<Item = (GroupId, u64)> {
        self.logs.iter().map(|(group, live)| (*group, live.unsynced))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// What all logs hold in memory.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Logs have as much in memory as they may.
    pub(super) fn is_full(&self) -> bool {
        self.memory > self.memory_max
    }

    /// Bytes of all logs that are not on disk.
    pub(super) fn unsynced(&self) -> u64 {
        self.unsynced
    }

    /// Logs with a write or a sync under way.
    pub(super) fn writing(&self) -> usize {
        self.writing
    }

    pub(super) fn look_at(&self) -> Monotonic {
        self.look_at
    }

    /// A look at all logs was taken, of a node with so many groups.
    pub(super) fn looked(&mut self, now: Monotonic, groups: usize, writes: Writes) {
        let many = |each: Duration, count: usize| each.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        // What is left from the start goes down to what is usual, and there is room for new batches meanwhile.
        self.memory_max = self.memory_max.min(self.memory + SHARD_TAIL_BYTES_MAX / 2).max(SHARD_TAIL_BYTES_MAX);
        self.looked_at = now;
        self.look_at =
            now + LOOK_INTERVAL + many(LOOK_INTERVAL_PER_LOG, self.logs.len()) + many(LOOK_INTERVAL_PER_GROUP, groups);
        self.chosen = writes.groups.into();
        self.at_once = writes.at_once;
        self.urgent = writes.urgent;
    }

    /// Room was made, or is wanted.
    pub(super) fn look_soon(&mut self) {
        let pause = LOOK_SOON_PER_LOG.saturating_mul(u32::try_from(self.logs.len()).unwrap_or(u32::MAX));
        self.look_at = self.look_at.min(self.looked_at + pause);
    }

    /// Whether memory is short, so that what was chosen is written whatever it costs.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether the next one that was chosen waits for nothing.
    pub(super) fn is_next_at_once(&self) -> bool {
        self.urgent || self.at_once > 0
    }

    /// Something was chosen that is not being written yet.
    pub(super) fn has_chosen(&self) -> bool {
        !self.chosen.is_empty()
    }

    /// The next one that was chosen to be written.
    pub(super) fn next_chosen(&mut self) -> Option<GroupId> {
        self.at_once = self.at_once.saturating_sub(1);
        self.chosen.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_many_partitions_are_rare_and_at_few_ones_frequent() {
        let now = Monotonic(0) + Duration::from_secs(1);
        let mut many = LiveLogs::new(now, (0..10_000).map(GroupId));
        assert_eq!(many.look_at(), now, "after a start at once");
        many.looked(now, 10_000, Writes::default());
        assert!(many.look_at().since(now) >= Duration::from_millis(250));
        many.wake(GroupId(1));
        assert!(many.look_at().since(now) >= Duration::from_millis(50), "ten thousand completions are not ten looks");

        let mut few = LiveLogs::new(now, (0..3).map(GroupId));
        few.looked(now, 3, Writes::default());
        assert!(few.look_at().since(now) >= LOOK_INTERVAL);
        few.wake(GroupId(1));
        assert!(
            few.look_at().since(now) < Duration::from_millis(1),
            "a busy partition does not wait for its next write"
        );
    }

    #[test]
    fn what_a_start_found_may_be_more_than_usual_but_not_for_ever() {
        let now = Monotonic(0);
        let mut live = LiveLogs::new(now, std::iter::empty());
        live.memory = STARTUP_TAIL_BYTES_MAX;
        live.looked(now, 0, Writes::default());
        assert!(!live.is_full(), "there is room for what comes");
        live.memory += SHARD_TAIL_BYTES_MAX;
        assert!(live.is_full());
        live.memory = 0;
        live.looked(now, 0, Writes::default());
        live.memory = SHARD_TAIL_BYTES_MAX;
        assert!(!live.is_full());
        live.memory += 1;
        assert!(live.is_full(), "as if it had never been more");
    }

    #[test]
    fn a_log_that_is_gone_is_forgotten() {
        let now = Monotonic(0);
        let mut live = LiveLogs::new(now, [GroupId(1), GroupId(2)].into_iter());
        assert_eq!(live.take_touched().len(), 2);
        live.touch(GroupId(1));
        for group in live.take_touched() {
            live.settle(group, None);
        }
        assert_eq!(live.groups().collect::<Vec<_>>(), [GroupId(2)]);
        assert_eq!((live.memory(), live.unsynced(), live.writing()), (0, 0, 0));
    }
}
