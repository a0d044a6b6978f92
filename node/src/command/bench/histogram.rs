//! Latencies, counted in buckets whose width grows with the latency.
//!
//! Invariant: a percentile is at most 1/64 above the true one, at a fixed 30 KiB however many were counted.

use std::time::Duration;

/// Buckets per power of two.
const STEPS: usize = 64;
const STEPS_LOG2: u32 = STEPS.trailing_zeros();
const BUCKETS: usize = (u64::BITS - STEPS_LOG2 + 1) as usize * STEPS;

#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    max: Duration,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0, max: Duration::ZERO }
    }

    /// Counts a latency `times` over.
    pub(crate) fn record(&mut self, latency: Duration, times: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += times;
        self.count += times;
        self.max = self.max.max(latency);
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// The latency that `per_mille` of 1000 do not exceed; zero if there are none.
    pub(crate) fn percentile(&self, per_mille: u64) -> Duration {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut counted = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            counted += count;
            if counted >= rank {
                return Duration::from_micros(upper_bound(bucket)).min(self.max);
            }
        }
        Duration::ZERO
    }
}

/// Below `STEPS` each value has a bucket; above, each power of two has `STEPS` buckets.
fn bucket(micros: u64) -> usize {
    let exponent = (u64::BITS - micros.leading_zeros()).saturating_sub(STEPS_LOG2 + 1);
    let mantissa = (micros >> exponent) as usize;
    exponent as usize * STEPS + mantissa
}

/// The largest value in a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let exponent = (bucket / STEPS).saturating_sub(1);
    let mantissa = (bucket - exponent * STEPS) as u64;
    (mantissa << exponent) | ((1 << exponent) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_counted() {
        assert_eq!(Histogram::new().percentile(500), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn percentiles_are_close_and_never_below(
            mut latencies in prop::collection::vec((0..64u32, any::<u64>()).prop_map(|(shift, n)| n >> shift), 1..300),
            per_mille in 1..=1000u64,
        ) {
            let mut histogram = Histogram::new();
            latencies.iter().for_each(|&micros| histogram.record(Duration::from_micros(micros), 1));
            latencies.sort_unstable();
            let rank = (latencies.len() as u64 * per_mille).div_ceil(1000);
            let exact = u128::from(latencies[usize::try_from(rank).unwrap() - 1]);
            let told = histogram.percentile(per_mille).as_micros();
            prop_assert!(told >= exact && told <= exact + exact / 64 + 1, "{told} for {exact}");
            prop_assert_eq!(histogram.max().as_micros(), u128::from(*latencies.last().unwrap()));
        }
    }
}
