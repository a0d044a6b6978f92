//! What the wall clocks of other nodes say, compared with ours.
//!
//! Invariant: nothing here ever decides about safety. A leader asks before it proposes to drop data because of time,
//! and refuses while its own clock is far from the median of a reachable majority.

use std::time::Duration;

use crate::time::{Monotonic, Now, Wall};

/// What a peer's wall clock said, at a time on our monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockSample {
    wall: Wall,
    at: Monotonic,
}

impl ClockSample {
    /// From a frame that arrived now; `round_trip` is what the echo in it measured. Half of it is taken for the way.
    pub(super) fn new(now: Now, wall: Wall, round_trip: Duration) -> Self {
        Self { wall: Wall(wall.0.saturating_add(milliseconds(round_trip / 2))), at: now.monotonic }
    }

    /// How far the peer's clock is ahead of ours, in milliseconds.
    pub(super) fn offset(&self, now: Now) -> i64 {
        let theirs = self.wall.0.saturating_add(milliseconds(now.monotonic.since(self.at)));
        theirs.saturating_sub(now.wall.0)
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The median of offsets, ours (0) included by the caller; between the two middle ones if their number is even, so
/// that two clocks that disagree are both wrong. `None` without any.
pub(super) fn median(mut offsets: Vec<i64>) -> Option<i64> {
    offsets.sort_unstable();
    let middle = offsets.len() / 2;
    let upper = *offsets.get(middle)?;
    if offsets.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = offsets[middle - 1];
    Some(i64::try_from((i128::from(lower) + i128::from(upper)) / 2).expect("a mean lies between two numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_ages_with_the_monotonic_clock() {
        let then = Now { monotonic: Monotonic(1_000_000_000), wall: Wall(5_000) };
        let sample = ClockSample::new(then, Wall(8_000), Duration::from_millis(20));
        assert_eq!(sample.offset(then), 3_010);
        let later = Now { monotonic: Monotonic(3_000_000_000), wall: Wall(7_000) };
        assert_eq!(sample.offset(later), 3_010);
        let jumped = Now { wall: Wall(4_007_000), ..later };
        assert_eq!(sample.offset(jumped), -3_996_990, "our own jump shows at once");
    }

    #[test]
    fn clocks_at_the_ends_of_time_are_just_far_away() {
        let now = Now { monotonic: Monotonic(u64::MAX), wall: Wall(i64::MIN) };
        let sample = ClockSample::new(Now::default(), Wall(i64::MAX), Duration::MAX);
        assert_eq!(sample.offset(now), i64::MAX);
        assert_eq!(median(vec![i64::MAX, i64::MIN, i64::MAX, i64::MAX]), Some(i64::MAX));
    }

    #[test]
    fn one_wrong_clock_of_three_does_not_move_the_median() {
        assert_eq!(median(vec![0, 40, 31_536_000_000]), Some(40));
        assert_eq!(median(vec![0, 31_536_000_000]), Some(15_768_000_000), "of two, neither is right");
        assert_eq!(median(vec![]), None);
    }
}
