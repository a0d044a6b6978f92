//! How a WAL that fills up holds producers back, so that checkpoints can keep pace.
//!
//! Pure: from how full the WAL is to how many bytes of producers may be proposed and not applied, and whether a follower
//! takes appends. Only what producers send is held back: hard states, elections, membership and the metadata group go
//! on whatever the WAL holds.

use crate::{
    limits::{WAL_SLOW_FROM, WAL_SLOW_REST_PART, WAL_SLOWEST_FROM},
    log::wal::Fill,
};

const FULL: u32 = 1000;

/// Producers have less than the whole budget.
pub(super) fn is_slow(fill: Fill) -> bool {
    fill.0 > WAL_SLOW_FROM
}

/// Nothing more of producers is written.
pub(super) fn is_full(fill: Fill) -> bool {
    fill.0 >= FULL
}

/// What producers may have of a budget of proposed bytes: all of it up to 70 %, from there on less and less, a small
/// rest from 95 % on, and nothing once the WAL is full.
pub(super) fn allowed(fill: Fill, budget: usize) -> usize {
    let rest = budget / WAL_SLOW_REST_PART;
    match fill.0 {
        0..=WAL_SLOW_FROM => budget,
        FULL.. => 0,
        WAL_SLOWEST_FROM.. => rest,
        between => {
            let left = (WAL_SLOWEST_FROM - between) as usize;
            let width = (WAL_SLOWEST_FROM - WAL_SLOW_FROM) as usize;
            rest + (budget - rest) / width * left
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{GROUP_PROPOSED_BYTES_MAX, SHARD_PROPOSED_BYTES_MAX};

    #[test]
    fn producers_have_everything_up_to_70_percent_and_little_from_95_on() {
        for budget in [GROUP_PROPOSED_BYTES_MAX, SHARD_PROPOSED_BYTES_MAX] {
            assert_eq!(allowed(Fill(0), budget), budget);
            assert_eq!(allowed(Fill(700), budget), budget);
            assert_eq!(allowed(Fill(825), budget) * 100 / budget, 50, "half way about half");
            assert_eq!(allowed(Fill(950), budget), budget / 64);
            assert_eq!(allowed(Fill(999), budget), budget / 64);
            assert_eq!(allowed(Fill(1000), budget), 0);
            assert_eq!(allowed(Fill(u32::MAX), budget), 0);
        }
        assert!(!is_slow(Fill(700)) && is_slow(Fill(701)));
        assert!(!is_full(Fill(999)) && is_full(Fill(1000)));
    }

    proptest! {
        #[test]
        fn a_fuller_wal_never_allows_more(fill in 0..1100u32, more in 0..200u32, budget in 1usize..1 << 30) {
            let (before, after) = (allowed(Fill(fill), budget), allowed(Fill(fill + more), budget));
            prop_assert!(after <= before && before <= budget);
        }
    }
}
