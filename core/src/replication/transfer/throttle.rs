//! How fast a replica fetches: slowly at first, faster as long as that does not bring it to its leader's end soon.
//!
//! Invariant: the rate only rises, and only when a look a second apart showed that the gap would not be closed within a
//! minute. Knows nothing but bytes and time.

use std::time::Duration;

use crate::{
    limits::{TRANSFER_RATE_MAX, TRANSFER_RATE_MIN},
    time::Monotonic,
};

/// Time between two looks at the gap.
const LOOK: Duration = Duration::from_secs(1);
/// A gap that is closed within so long shrinks fast enough.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Throttle {
    /// Bytes per second.
    rate: u64,
    /// What was fetched so far is paid for from here on.
    paid_at: Monotonic,
    looked: Option<(Monotonic, u64)>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self { rate: TRANSFER_RATE_MIN, paid_at: Monotonic(0), looked: None }
    }

    /// When the next bytes may be fetched.
    pub(super) fn ready_at(&self) -> Monotonic {
        self.paid_at
    }

    /// So many bytes came; so many are still missing.
    pub(super) fn fetched(&mut self, now: Monotonic, bytes: usize, gap: u64) {
        let nanos = bytes as u128 * Duration::from_secs(1).as_nanos() / u128::from(self.rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.paid_at = self.paid_at.max(now) + cost;
        match self.looked {
            None => self.looked = Some((now, gap)),
            Some((at, before)) if now.since(at) >= LOOK => {
                let closed = u128::from(before.saturating_sub(gap));
                let in_time = closed * CLOSED_WITHIN.as_nanos() >= u128::from(gap) * now.since(at).as_nanos();
                if !in_time {
                    self.rate = (self.rate * 2).min(TRANSFER_RATE_MAX);
                }
                self.looked = Some((now, gap));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Fetches a MiB whenever that is allowed, while the leader's log grows by so many MiB per second; the seconds until
    /// the gap is closed.
    fn seconds(mut gap: u64, growth: u64) -> Option<u64> {
        let mut throttle = Throttle::new();
        let start = Monotonic(1);
        let mut now = start;
        let mut grown = 0;
        while now.since(start) < Duration::from_secs(3600) {
            now = now.max(throttle.ready_at()) + Duration::from_millis(1);
            let growth = growth * MIB * u64::try_from(now.since(start).as_millis()).unwrap() / 1000;
            gap += growth - grown;
            grown = growth;
            gap = gap.saturating_sub(MIB);
            if gap == 0 {
                return Some(now.since(start).as_secs());
            }
            throttle.fetched(now, MIB as usize, gap);
        }
        None
    }

    #[test]
    fn a_small_gap_is_closed_at_the_first_rate() {
        let seconds = seconds(160 * MIB, 0).unwrap();
        assert!((9..=12).contains(&seconds), "{seconds} s for 160 MiB at 16 MiB/s");
    }

    #[test]
    fn a_gap_that_grows_makes_it_faster() {
        assert!(seconds(100 * MIB, 100).is_some_and(|seconds| seconds < 120), "although 100 MiB come each second");
    }

    #[test]
    fn a_large_gap_takes_about_a_minute_of_speed() {
        let seconds = seconds(100 << 30, 0).unwrap();
        assert!(seconds < 240, "{seconds} s for 100 GiB");
    }

    #[test]
    fn nothing_is_fetched_before_it_is_paid_for() {
        let mut throttle = Throttle::new();
        throttle.fetched(Monotonic(7), TRANSFER_RATE_MIN as usize, 1 << 40);
        assert_eq!(throttle.ready_at(), Monotonic(7) + Duration::from_secs(1));
    }
}
