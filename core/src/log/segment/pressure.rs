//! Which partitions to write, and when.
//!
//! Invariants: while there is room in memory, segments cost a few syncs per second and one for each
//! [`SEGMENT_WRITE_BYTES_MAX`], and no more, whatever the number of partitions: those with the most to write go first,
//! so a sync covers much, and small tails wait in memory (a checkpoint carries them). Only when memory runs short does
//! room matter more than syncs. And nobody waits for ever behind those that are busier: a tail that fills a write is
//! written at once, the oldest first. Nothing here is needed for durability: the write-ahead log holds every batch.

use std::{cmp::Reverse, time::Duration};

use crate::{
    ids::GroupId,
    limits::{SEGMENT_FLUSH_BYTES, SEGMENT_SYNCS_PER_SECOND, SEGMENT_WRITE_BYTES_MAX, SHARD_TAIL_BYTES_MAX},
    time::Monotonic,
};

/// Bytes that wait longer than this are written even if they are few, as syncs are to spare.
const DIRTY_MAX: Duration = Duration::from_secs(30);
const SYNC_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / SEGMENT_SYNCS_PER_SECOND as u64);
/// Syncs that memory enforced hold later ones back for no longer than this.
const SYNC_DEBT_MAX: Duration = Duration::from_secs(2);

/// One partition with something to write.
#[derive(Clone, Copy, Debug)]
pub struct Unwritten {
    pub group: GroupId,
    pub bytes: u64,
    /// Since when, if it is known.
    pub since: Option<Monotonic>,
}

/// What to write now, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    pub groups: Vec<GroupId>,
    /// So many of them at once, whatever syncs were spent lately.
    pub at_once: usize,
    /// Memory is short: whatever it costs.
    pub urgent: bool,
}

/// Chooses partitions to write. `memory` is what all tails of the shard hold; `held` says that frames which tails keep
/// alive must go.
pub fn writes_due(unwritten: &[Unwritten], memory: usize, held: bool, now: Monotonic) -> Writes {
    let is_full = |candidate: &&Unwritten| candidate.bytes >= SEGMENT_WRITE_BYTES_MAX as u64;
    let mut full: Vec<&Unwritten> = unwritten.iter().filter(is_full).collect();
    full.sort_by_key(|candidate| (candidate.since, candidate.group));
    let mut groups: Vec<GroupId> = full.iter().map(|candidate| candidate.group).collect();
    let at_once = groups.len();

    let others = unwritten.iter().filter(|candidate| !is_full(candidate));
    let sizes = || others.clone().map(|candidate| (candidate.group, candidate.bytes));
    let urgent = held || memory > SHARD_TAIL_BYTES_MAX / 4 * 3;
    if held {
        groups.extend(fewest_to_write(sizes(), u64::MAX));
    } else if memory > SHARD_TAIL_BYTES_MAX / 2 {
        let excess = (memory - SHARD_TAIL_BYTES_MAX / 2) as u64;
        let left = excess.saturating_sub((at_once * SEGMENT_WRITE_BYTES_MAX) as u64);
        if left > 0 {
            groups.extend(fewest_to_write(sizes(), left));
        }
    } else {
        groups.extend(fewest_to_write(sizes().filter(|(_, bytes)| *bytes >= SEGMENT_FLUSH_BYTES as u64), u64::MAX));
        let mut old: Vec<_> = others
            .clone()
            .filter(|candidate| candidate.bytes > 0 && candidate.bytes < SEGMENT_FLUSH_BYTES as u64)
            .filter_map(|candidate| Some((candidate.since?, candidate.group)))
            .filter(|(since, _)| now.since(*since) >= DIRTY_MAX)
            .collect();
        old.sort_unstable();
        groups.extend(old.into_iter().map(|(_, group)| group));
    }
    Writes { groups, at_once, urgent }
}

/// The fewest of `candidates` (groups with their unwritten bytes) that hold `bytes` together, largest first: all of
/// them if they hold less. Small tails stay in memory instead of costing a sync each.
pub fn fewest_to_write(candidates: impl IntoIterator<Item = (GroupId, u64)>, bytes: u64) -> Vec<GroupId> {
    let mut candidates: Vec<_> = candidates.into_iter().filter(|(_, unwritten)| *unwritten > 0).collect();
    candidates.sort_by_key(|&(group, unwritten)| (Reverse(unwritten), group));
    let mut freed = 0;
    let enough = candidates.iter().position(|(_, unwritten)| {
        freed += unwritten;
        freed >= bytes
    });
    candidates.truncate(enough.map_or(usize::MAX, |last| last + 1));
    candidates.into_iter().map(|(group, _)| group).collect()
}

/// Spreads syncs over time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncPace {
    /// What was synced so far is paid for by then.
    paid_at: Monotonic,
}

impl SyncPace {
    /// When a write that will be synced may begin.
    pub fn allowed_at(&self) -> Monotonic {
        self.paid_at
    }

    /// Whether a write that will be synced may begin.
    pub fn allows(&self, now: Monotonic) -> bool {
        self.paid_at <= now
    }

    /// So many syncs were begun.
    pub fn spend(&mut self, now: Monotonic, syncs: usize) {
        let syncs = u32::try_from(syncs).unwrap_or(u32::MAX);
        let paid_at = self.paid_at.max(now) + SYNC_INTERVAL.saturating_mul(syncs);
        self.paid_at = paid_at.min(now + SYNC_DEBT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_largest_tails_go_first_and_no_more_than_needed() {
        let tails = [(1, 10), (2, 500), (3, 0), (4, 90), (5, 90)].map(|(group, bytes)| (GroupId(group), bytes));
        let chosen = |bytes| fewest_to_write(tails, bytes).into_iter().map(|group| group.0).collect::<Vec<_>>();
        assert_eq!(chosen(1), [2]);
        assert_eq!(chosen(500), [2]);
        assert_eq!(chosen(501), [2, 4]);
        assert_eq!(chosen(10_000), [2, 4, 5, 1]);
    }

    #[test]
    fn what_is_small_waits_and_the_oldest_of_it_goes_first() {
        let minute = Monotonic(0) + Duration::from_secs(60);
        let tail = |group, bytes, seconds| Unwritten {
            group: GroupId(group),
            bytes,
            since: Some(Monotonic(0) + Duration::from_secs(seconds)),
        };
        let tails =
            [tail(1, 10, 20), tail(2, 2 << 20, 59), tail(3, 900_000, 50), tail(4, 700, 5), tail(5, 3 << 20, 50)];
        let writes = writes_due(&tails, 1 << 20, false, minute);
        assert_eq!(writes, Writes { groups: [5, 2, 4, 1].map(GroupId).to_vec(), at_once: 0, urgent: false });
    }

    /// Replicas that fetch a state wait when they have a full write in memory, and have the next one soon after it was
    /// written: so the largest tail is always that of the one that was written last.
    #[test]
    fn nobody_waits_for_ever_behind_those_that_are_busier() {
        let full = SEGMENT_WRITE_BYTES_MAX as u64;
        let mut tails: BTreeMap<u64, (u64, Monotonic)> = (1..=4).map(|group| (group, (full, Monotonic(0)))).collect();
        let mut written: BTreeMap<u64, u64> = BTreeMap::new();
        for look in 1..=100 {
            let now = Monotonic(0) + Duration::from_millis(50) * look;
            let unwritten: Vec<_> = tails
                .iter()
                .map(|(group, (bytes, since))| Unwritten { group: GroupId(*group), bytes: *bytes, since: Some(*since) })
                .collect();
            let writes = writes_due(&unwritten, 0, false, now);
            assert_eq!(writes.at_once, 4, "a full write is worth its sync");
            // The disk takes one at a time.
            let first = writes.groups[0].0;
            tails.insert(first, (full + look as u64, now));
            *written.entry(first).or_default() += 1;
        }
        assert_eq!(written, (1..=4).map(|group| (group, 25)).collect());
    }

    #[test]
    fn full_writes_go_first_when_memory_is_short_too() {
        let tail = |group, bytes, at| Unwritten { group: GroupId(group), bytes, since: Some(Monotonic(at)) };
        let full = SEGMENT_WRITE_BYTES_MAX as u64;
        let tails = [tail(1, 3 << 20, 1), tail(2, 2 * full, 3), tail(3, full, 2), tail(4, 5 << 20, 1)];
        let memory = SHARD_TAIL_BYTES_MAX / 2 + 2 * SEGMENT_WRITE_BYTES_MAX;
        let chosen = |memory, held| {
            let writes = writes_due(&tails, memory, held, Monotonic(4));
            (writes.groups.into_iter().map(|group| group.0).collect::<Vec<_>>(), writes.at_once)
        };
        assert_eq!(chosen(memory, false), (vec![3, 2], 2));
        assert_eq!(chosen(memory + 1, false), (vec![3, 2, 4], 2));
        assert_eq!(chosen(memory, true), (vec![3, 2, 4, 1], 2));
    }

    /// Syncs per second, and the most memory in use, with so many partitions that take so many bytes per second each.
    /// A write is over at once, and costs the sync of its data, for each file now and then that of its side file.
    fn run(partitions: u64, bytes_per_second: u64) -> (f64, usize) {
        let mut tails: BTreeMap<GroupId, (u64, Monotonic)> = BTreeMap::new();
        let (mut pace, mut syncs, mut most) = (SyncPace::default(), 0, 0);
        let seconds = 600;
        for look in 0..seconds * 20 {
            let now = Monotonic(0) + Duration::from_millis(50) * look;
            for group in 0..partitions {
                let tail = tails.entry(GroupId(group)).or_insert((0, now));
                tail.0 += bytes_per_second / 20;
            }
            let memory = tails.values().map(|(bytes, _)| *bytes as usize).sum::<usize>();
            let unwritten: Vec<_> =
                tails.iter().map(|(&group, &(bytes, since))| Unwritten { group, bytes, since: Some(since) }).collect();
            let writes = writes_due(&unwritten, memory, false, now);
            for group in writes.groups.into_iter().take(8) {
                if writes.urgent || pace.allows(now) {
                    tails.remove(&group);
                    pace.spend(now, 1);
                    syncs += 1;
                }
            }
            most = most.max(memory);
        }
        (f64::from(syncs) / f64::from(seconds), most)
    }

    #[test]
    fn many_partitions_cost_few_syncs() {
        // Two thousand partitions with 20 bytes each second: they fit into memory for longer than the test runs.
        let (syncs, memory) = run(2_000, 20);
        assert!(syncs <= f64::from(SEGMENT_SYNCS_PER_SECOND) * 1.1, "{syncs} syncs per second");
        assert!(memory <= SHARD_TAIL_BYTES_MAX / 2);
        // With 200 bytes, 0.4 MB/s: memory runs short, and the largest of 24 kB on average are written.
        let (syncs, memory) = run(2_000, 200);
        assert!(syncs <= 10.0, "{syncs} syncs per second");
        assert!(memory <= SHARD_TAIL_BYTES_MAX);
        // A hundred with 100 kB each second, 10 MB/s: writes of about a megabyte.
        let (syncs, memory) = run(100, 100_000);
        assert!(syncs <= 20.0, "{syncs} syncs per second");
        assert!(memory <= SHARD_TAIL_BYTES_MAX);
    }
}
