//! Which partitions to write when a shard's memory runs short.

use crate::ids::GroupId;

/// The fewest of `candidates` (groups with their unwritten bytes) that hold `bytes` together, largest first: all of
/// them if they hold less. Small tails stay in memory instead of costing a sync each.
pub fn fewest_to_write(candidates: impl IntoIterator<Item = (GroupId, u64)>, bytes: u64) -> Vec<GroupId> {
    let mut candidates: Vec<_> = candidates.into_iter().filter(|(_, unwritten)| *unwritten > 0).collect();
    candidates.sort_by_key(|&(group, unwritten)| (std::cmp::Reverse(unwritten), group));
    let mut freed = 0;
    let enough = candidates.iter().position(|(_, unwritten)| {
        freed += unwritten;
        freed >= bytes
    });
    candidates.truncate(enough.map_or(usize::MAX, |last| last + 1));
    candidates.into_iter().map(|(group, _)| group).collect()
}

#[cfg(test)]
mod tests {
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
}
