//! Planted bugs, to see whether the simulator finds them. Compiled only with the feature `mutants`, which no release has.
//!
//! Invariant: at most one bug is planted in a process, and none unless someone asked for it by name. A bug is one guarded
//! branch at the place that it breaks.

use std::sync::atomic::{AtomicU8, Ordering};

/// One bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The WAL calls a write durable when it is done and its sync is not.
    AcknowledgeBeforeSync,
    /// A failed sync of the WAL is taken for one that succeeded.
    SyncErrorIgnored,
}

/// The place in [`Mutant::ALL`] counted from 1; zero is none.
static PLANTED: AtomicU8 = AtomicU8::new(0);

impl Mutant {
    pub const ALL: &'static [Self] = &[Self::AcknowledgeBeforeSync, Self::SyncErrorIgnored];

    pub fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeBeforeSync => "acknowledge-before-sync",
            Self::SyncErrorIgnored => "sync-error-ignored",
        }
    }

    /// Plants this bug instead of any other.
    pub fn plant(self) {
        PLANTED.store(self.number(), Ordering::Relaxed);
    }

    pub fn is_planted(self) -> bool {
        PLANTED.load(Ordering::Relaxed) == self.number()
    }

    fn number(self) -> u8 {
        let place = Self::ALL.iter().position(|known| *known == self).expect("every bug is listed");
        u8::try_from(place + 1).expect("few bugs")
    }
}
