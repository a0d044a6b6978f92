//! Draws from the named random streams of a run.
//!
//! Invariant: whoever draws owns the stream of its own name, so that removing one fault, node or client from a plan
//! leaves every other draw as it was. Whole numbers only: no draw depends on a platform's floating point.

use kauri_core::{ids::NodeId, rng::Stream};

use crate::time::Span;

/// One named stream, with the distributions that the simulator uses.
#[derive(Clone, Debug)]
pub struct Dice(Stream);

/// A chance in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chance(pub u32);

impl Chance {
    pub const NEVER: Self = Self(0);

    pub const fn percent(percent: u32) -> Self {
        Self(percent * 10_000)
    }
}

impl Dice {
    /// The stream of (seed, purpose, a, b): `a` and `b` are for example the two ends of a link.
    pub fn new(seed: u64, purpose: &str, a: usize, b: usize) -> Self {
        let node = NodeId(i32::try_from(a).expect("sites are few"));
        Self(Stream::new(seed, node, purpose, b as u64))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "an empty range holds no number");
        low + self.below(high - low + 1)
    }

    /// An index into something of `length` elements.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.index(from.len())]
    }

    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    pub fn chance(&mut self, chance: Chance) -> bool {
        // An event that cannot happen draws nothing, which keeps fault-free runs cheap; the stream is its own.
        chance.0 > 0 && self.below(1_000_000) < u64::from(chance.0)
    }

    pub fn span(&mut self, low: Span, high: Span) -> Span {
        Span(self.range(low.0, high.0))
    }

    /// Exponentially distributed around `mean`, cut at 20 times the mean.
    pub fn exponential(&mut self, mean: Span) -> Span {
        // -ln(u) for u in (0, 1] in fixed point with 16 bits behind the point: the position of the highest bit gives
        // the whole number of halvings, the bits behind it are interpolated linearly (error below 9 % of a halving).
        let draw = self.next_u64() | 1;
        let halvings = u64::from(draw.leading_zeros());
        let fraction = if halvings >= 63 { 0 } else { (draw << (halvings + 1)) >> 48 };
        let halvings_16 = (halvings << 16) + (0x1_0000 - fraction);
        // ln 2 = 45426 / 65536.
        let scaled = (u128::from(mean.0) * u128::from(halvings_16) * 45_426) >> 32;
        Span(u64::try_from(scaled).unwrap_or(u64::MAX).min(mean.0.saturating_mul(20)))
    }

    /// Pareto distributed with exponent 1 from `low` on, cut at `high`: half of the draws below twice `low`, one in a
    /// hundred above a hundred times `low`.
    pub fn heavy_tail(&mut self, low: Span, high: Span) -> Span {
        let draw = self.below(1 << 32) + 1;
        let scaled = (u128::from(low.0) << 32) / u128::from(draw);
        Span(u64::try_from(scaled).unwrap_or(u64::MAX).min(high.0))
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.index(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exponential_draw_has_its_mean() {
        let mut dice = Dice::new(1, "test", 0, 0);
        let mean = Span::milliseconds(10);
        let total: u64 = (0..20_000).map(|_| dice.exponential(mean).0).sum();
        let measured = total / 20_000;
        assert!((mean.0 * 9 / 10..mean.0 * 11 / 10).contains(&measured), "{measured}");
    }

    #[test]
    fn a_heavy_tail_is_cut_at_both_ends_and_reaches_far() {
        let mut dice = Dice::new(1, "test", 0, 1);
        let (low, high) = (Span::microseconds(100), Span::seconds(1));
        let draws: Vec<Span> = (0..10_000).map(|_| dice.heavy_tail(low, high)).collect();
        assert!(draws.iter().all(|span| (low..=high).contains(span)));
        assert!(draws.iter().any(|span| *span > Span::milliseconds(50)));
        let short = draws.iter().filter(|span| **span < Span(low.0 * 2)).count();
        assert!((4_500..5_500).contains(&short), "{short}");
    }

    #[test]
    fn what_never_happens_draws_nothing() {
        let mut dice = Dice::new(1, "test", 0, 2);
        let mut untouched = dice.clone();
        assert!(!dice.chance(Chance::NEVER));
        assert_eq!(dice.next_u64(), untouched.next_u64());
    }
}
