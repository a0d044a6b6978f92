//! What must hold: one property per file, and the file has the property's name.
//!
//! Two views: [`inside`] looks into the nodes while they run, and the rest judges what clients did and saw, when the run
//! is over. A check answers with the first thing that is wrong, in the fewest words that show it. Invariant: an
//! operation whose outcome is unknown may have happened or not, and no check holds either against the cluster.

mod log;

pub mod inside;

pub mod acknowledged_lost;
pub mod duplicate;
pub mod equal_segment_bytes;
pub mod failed_yet_written;
pub mod floor;
pub mod high_watermark_monotonic;
pub mod inconsistent_offsets;
pub mod list_offsets_linearizable;
pub mod may_stop;
pub mod never_refused;
pub mod never_sent;
pub mod offsets_dense;
pub mod order;
pub mod progress_after_heal;
pub mod refilled;
pub mod segments_verify;

pub use log::Log;

use crate::{failure::Failure, history::History};

type Check = fn(&History, &Log) -> Result<(), Failure>;

/// The checks of a history, in the order in which their findings explain most.
const CHECKS: [Check; 9] = [
    inconsistent_offsets::check,
    duplicate::check,
    order::check,
    never_refused::check,
    never_sent::check,
    failed_yet_written::check,
    offsets_dense::check,
    high_watermark_monotonic::check,
    list_offsets_linearizable::check,
];

/// Judges a history. `is_read_to_the_end` says whether consumers read everything there is: only then does a record that
/// nobody read mean anything.
pub fn history(history: &History, is_read_to_the_end: bool) -> Result<(), Failure> {
    let log = Log::of(history);
    if is_read_to_the_end {
        acknowledged_lost::check(history, &log)?;
    }
    CHECKS.iter().try_for_each(|check| check(history, &log))
}

/// Histories written by hand, for the tests of the checks.
#[cfg(test)]
mod story {
    use kauri_core::ids::Offset;

    use super::{Check, Log};
    use crate::{
        history::{History, Partition, Read, Source, Value},
        time::Instant,
    };

    pub(super) const P: Partition = Partition(3);

    /// A history in the making. Every line happens one nanosecond after the one before.
    #[derive(Clone, Default)]
    pub(super) struct Story {
        pub(super) history: History,
        now: u64,
    }

    pub(super) fn value(producer: u32, number: u32) -> Value {
        Value { producer, number }
    }

    impl Story {
        pub(super) fn now(&mut self) -> Instant {
            self.now += 1;
            Instant(self.now)
        }

        pub(super) fn acknowledged(mut self, producer: u32, number: u32, offset: i64) -> Self {
            let (invoked, at) = (self.now(), self.now());
            let send = self.history.send(P, value(producer, number), invoked);
            self.history.acknowledge(send, Offset(offset), at);
            self
        }

        pub(super) fn failed(mut self, producer: u32, number: u32) -> Self {
            let (invoked, at) = (self.now(), self.now());
            let send = self.history.send(P, value(producer, number), invoked);
            self.history.fail(send, at);
            self
        }

        pub(super) fn unknown(mut self, producer: u32, number: u32) -> Self {
            let invoked = self.now();
            self.history.send(P, value(producer, number), invoked);
            self
        }

        /// A consumer reads values from an offset on, and is told a high watermark.
        pub(super) fn read(self, consumer: u32, from: i64, values: &[(u32, u32)], high_watermark: i64) -> Self {
            self.read_of(Source::Followed, consumer, from, values, high_watermark)
        }

        pub(super) fn read_of(
            mut self,
            source: Source,
            consumer: u32,
            from: i64,
            values: &[(u32, u32)],
            high_watermark: i64,
        ) -> Self {
            let at = self.now();
            let records = values.iter().zip(from..).map(|((p, n), offset)| (Offset(offset), value(*p, *n))).collect();
            let high_watermark = Some(Offset(high_watermark));
            self.history.read(Read { consumer, partition: P, at, records, high_watermark, source });
            self
        }

        pub(super) fn probed(mut self, answer: i64) -> Self {
            let (invoked, at) = (self.now(), self.now());
            let probe = self.history.probe(P, invoked);
            self.history.answer(probe, Offset(answer), at);
            self
        }

        #[track_caller]
        pub(super) fn passes(self, check: Check) {
            assert_eq!(check(&self.history, &Log::of(&self.history)), Ok(()));
        }

        #[track_caller]
        pub(super) fn caught_by(self, check: Check, explanation: &str) {
            let failure = check(&self.history, &Log::of(&self.history)).expect_err("the history is bad");
            assert_eq!(failure.explanation, explanation);
        }
    }
}
