//! What lies between two sites, one direction of it: delay, loss, bandwidth, cuts and clogs.
//!
//! Invariant: one path knows nothing of the opposite one; a cut of one direction leaves the other whole.

use super::Delay;
use crate::{
    bites::{Bite, Bites},
    dice::{Chance, Dice},
    time::{Instant, Span},
};

/// The first retransmission of a lost segment follows after this, each further one after twice the time before.
const RETRANSMISSION: Span = Span::milliseconds(200);
/// A segment is not lost more often than this in a row by loss alone.
const LOSSES_MAX: u32 = 5;

/// How good the path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathQuality {
    pub delay: Delay,
    /// Of one segment.
    pub loss: Chance,
    /// That a segment arrives in two parts, the second later.
    pub fragment: Chance,
    pub bytes_per_microsecond: u64,
}

#[derive(Debug)]
pub(super) struct Path {
    quality: PathQuality,
    delays: Dice,
    losses: Dice,
    fragments: Dice,
    /// When what was sent so far has left.
    free_at: Instant,
    cuts: u32,
    clogs: u32,
}

impl Path {
    pub(super) fn new(seed: u64, from: usize, to: usize, quality: PathQuality) -> Self {
        assert!(quality.bytes_per_microsecond > 0, "a path carries something");
        Self {
            quality,
            delays: Dice::new(seed, "network delay", from, to),
            losses: Dice::new(seed, "network loss", from, to),
            fragments: Dice::new(seed, "network fragment", from, to),
            free_at: Instant::default(),
            cuts: 0,
            clogs: 0,
        }
    }

    pub(super) fn delay(&mut self) -> Span {
        self.quality.delay.draw(&mut self.delays)
    }

    /// When a segment of `bytes` sent now arrives, if nothing cuts its way.
    pub(super) fn arrival(&mut self, now: Instant, bytes: usize, bites: &mut Bites) -> Instant {
        let sent = self.free_at.max(now) + Span(bytes as u64 * 1_000 / self.quality.bytes_per_microsecond);
        self.free_at = sent;
        let mut arrival = sent + self.delay();
        let mut wait = RETRANSMISSION;
        for _ in 0..LOSSES_MAX {
            if !self.losses.chance(self.quality.loss) {
                break;
            }
            bites.add(Bite::Loss);
            arrival = arrival + wait;
            wait = wait * 2;
        }
        arrival
    }

    /// Where to cut a segment of `bytes` in two, if it is to be cut.
    pub(super) fn fragment(&mut self, bytes: usize) -> Option<usize> {
        (bytes > 1 && self.fragments.chance(self.quality.fragment)).then(|| 1 + self.fragments.index(bytes - 1))
    }

    pub(super) fn lose(&mut self, loss: Chance) {
        self.quality.loss = loss;
    }

    pub(super) fn cut(&mut self) {
        self.cuts += 1;
    }

    pub(super) fn mend(&mut self) {
        self.cuts = self.cuts.checked_sub(1).expect("each cut is mended once");
    }

    pub(super) fn clog(&mut self) {
        self.clogs += 1;
    }

    pub(super) fn unclog(&mut self) {
        self.clogs = self.clogs.checked_sub(1).expect("each clog is undone once");
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cuts > 0
    }

    pub(super) fn is_open(&self) -> bool {
        self.cuts == 0 && self.clogs == 0
    }
}
