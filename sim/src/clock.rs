//! The two clocks of one node, which may be wrong.
//!
//! Invariant: the monotonic clock never goes backwards within a process and runs at a constant rate from start to
//! start; the wall clock may be anything.

use kauri_core::time::{Monotonic, Now, Wall};

use crate::time::Instant;

/// The true wall clock when a run begins: 2025-01-01 00:00 UTC, in milliseconds.
pub const EPOCH_MILLISECONDS: i64 = 1_735_689_600_000;

/// The clocks of one node.
#[derive(Clone, Debug)]
pub struct Clock {
    /// What the wall clock is ahead of the truth.
    offset_milliseconds: i64,
    /// What the wall clock gains in addition, in parts per million.
    drift_ppm: i64,
    /// How much faster than true time the monotonic clock runs, in parts per million.
    rate_ppm: i64,
    /// The monotonic clock when the process started.
    monotonic_start: u64,
    started: Instant,
}

impl Clock {
    pub fn new(offset_milliseconds: i64, drift_ppm: i64, rate_ppm: i64) -> Self {
        assert!((-500_000..=500_000).contains(&rate_ppm), "a clock runs at half to one and a half of its speed");
        Self { offset_milliseconds, drift_ppm, rate_ppm, monotonic_start: 0, started: Instant::default() }
    }

    /// A process starts: its monotonic clock shows `start` nanoseconds.
    pub fn restart(&mut self, now: Instant, start: u64) {
        self.monotonic_start = start;
        self.started = now;
    }

    /// The wall clock jumps.
    pub fn jump(&mut self, milliseconds: i64) {
        self.offset_milliseconds = self.offset_milliseconds.saturating_add(milliseconds);
    }

    pub fn read(&self, now: Instant) -> Now {
        let true_milliseconds = i64::try_from(now.0 / 1_000_000).expect("runs are short");
        let wall = EPOCH_MILLISECONDS
            .saturating_add(true_milliseconds)
            .saturating_add(true_milliseconds * self.drift_ppm / 1_000_000)
            .saturating_add(self.offset_milliseconds);
        Now { monotonic: self.monotonic(now), wall: Wall(wall.max(0)) }
    }

    fn monotonic(&self, now: Instant) -> Monotonic {
        let elapsed = i128::from(now.since(self.started).0);
        let shown = elapsed * (1_000_000 + i128::from(self.rate_ppm)) / 1_000_000;
        Monotonic(self.monotonic_start + u64::try_from(shown).expect("elapsed time is positive and runs are short"))
    }

    /// The first true time at which the monotonic clock shows `deadline` or more.
    pub fn when(&self, deadline: Monotonic) -> Instant {
        let shown = u128::from(deadline.0.saturating_sub(self.monotonic_start));
        let rate = u128::try_from(1_000_000 + self.rate_ppm).expect("at least half speed");
        let elapsed = (shown * 1_000_000).div_ceil(rate);
        Instant(self.started.0.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    #[test]
    fn a_deadline_is_reached_when_it_says() {
        for rate in [-300_000, -7, 0, 13, 250_000] {
            let mut clock = Clock::new(0, 0, rate);
            clock.restart(Instant(1_000_003), 77);
            for deadline in [78, 1_000, 999_999_937, 123_456_789_012] {
                let at = clock.when(Monotonic(deadline));
                assert!(clock.read(at).monotonic >= Monotonic(deadline), "{rate} {deadline}");
                assert!(clock.read(Instant(at.0 - 2)).monotonic < Monotonic(deadline), "{rate} {deadline}");
            }
        }
    }

    #[test]
    fn a_wall_clock_jumps_by_years_and_the_monotonic_one_does_not_notice() {
        let mut clock = Clock::new(0, 0, 0);
        let now = Instant::default() + Span::seconds(10);
        let before = clock.read(now);
        clock.jump(-5 * 365 * 86_400_000);
        let after = clock.read(now);
        assert_eq!(after.monotonic, before.monotonic);
        assert!(after.wall < before.wall);
        clock.jump(i64::MIN);
        assert_eq!(clock.read(now).wall, Wall(0));
    }
}
