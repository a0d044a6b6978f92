//! What a partition remembers of idempotent producers (KIP-98), so that a repeated batch is written once.
//!
//! Invariant: for each producer the newest epoch, and in it the last five batches at most, the newest last; sequence
//! numbers follow each other without a gap, wrapping from 2^31 - 1 to 0. The number of producers is bounded: past
//! [`PRODUCERS_MAX`] the one whose last batch lies furthest back in the log is forgotten (the same one on every replica,
//! whatever clocks say). A forgotten producer may go on with any sequence number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kauri_protocol::{error::ErrorCode, records::Producer};

use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{Offset, ProducerEpoch, ProducerId},
    limits::{PRODUCER_BATCHES, PRODUCERS_MAX},
    time::Wall,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: BTreeMap<ProducerId, State>,
    /// The same producers by the place of their last batch.
    by_age: BTreeSet<(Offset, ProducerId)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    epoch: ProducerEpoch,
    last: Wall,
    batches: VecDeque<Batch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Batch {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: Offset,
    /// What the producer was answered, if the topic stamps records itself.
    log_append_time: Option<Wall>,
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// It was written before, here.
    Duplicate {
        base_offset: Offset,
        log_append_time: Option<Wall>,
    },
    Reject(ErrorCode),
}

impl Producers {
    /// Judges a batch of an idempotent producer whose records have sequences from `producer.base_sequence` to
    /// `last_sequence`.
    pub fn judge(&self, producer: Producer, last_sequence: i32) -> Verdict {
        let Some(known) = self.by_id.get(&ProducerId(producer.id)) else { return Verdict::Accept };
        let epoch = ProducerEpoch(producer.epoch);
        if epoch < known.epoch {
            return Verdict::Reject(ErrorCode::InvalidProducerEpoch);
        }
        if epoch > known.epoch {
            return if producer.base_sequence == 0 {
                Verdict::Accept
            } else {
                Verdict::Reject(ErrorCode::OutOfOrderSequenceNumber)
            };
        }
        let same =
            |batch: &&Batch| batch.first_sequence == producer.base_sequence && batch.last_sequence == last_sequence;
        if let Some(batch) = known.batches.iter().find(same) {
            return Verdict::Duplicate { base_offset: batch.base_offset, log_append_time: batch.log_append_time };
        }
        let last = known.batches.back().expect("a producer is known by its batches");
        let expected = if last.last_sequence == i32::MAX { 0 } else { last.last_sequence + 1 };
        if producer.base_sequence == expected {
            Verdict::Accept
        } else {
            Verdict::Reject(ErrorCode::OutOfOrderSequenceNumber)
        }
    }

    /// Remembers a batch that was accepted.
    pub fn wrote(
        &mut self,
        producer: Producer,
        last_sequence: i32,
        base_offset: Offset,
        stamp: Wall,
        log_append_time: Option<Wall>,
    ) {
        let id = ProducerId(producer.id);
        let epoch = ProducerEpoch(producer.epoch);
        let state = self.by_id.entry(id).or_insert_with(|| State { epoch, last: stamp, batches: VecDeque::new() });
        if let Some(batch) = state.batches.back() {
            self.by_age.remove(&(batch.base_offset, id));
        }
        state.last = stamp;
        self.by_age.insert((base_offset, id));
        if state.epoch != epoch {
            state.epoch = epoch;
            state.batches.clear();
        }
        if state.batches.len() == PRODUCER_BATCHES {
            state.batches.pop_front();
        }
        state.batches.push_back(Batch {
            first_sequence: producer.base_sequence,
            last_sequence,
            base_offset,
            log_append_time,
        });
        if self.by_id.len() > PRODUCERS_MAX {
            let (_, oldest) = self.by_age.pop_first().expect("there are more than the limit");
            self.by_id.remove(&oldest);
        }
    }

    /// Forgets producers whose last batch was stamped before `before`.
    pub fn expire(&mut self, before: Wall) {
        let by_age = &mut self.by_age;
        self.by_id.retain(|id, state| {
            let keep = state.last >= before;
            if !keep && let Some(batch) = state.batches.back() {
                by_age.remove(&(batch.base_offset, *id));
            }
            keep
        });
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_count(self.by_id.len());
        for (id, state) in &self.by_id {
            out.put_i64(id.0);
            out.put_i16(state.epoch.0);
            out.put_i64(state.last.0);
            out.put_u8(u8::try_from(state.batches.len()).expect("at most five"));
            for batch in &state.batches {
                out.put_u32(batch.first_sequence.cast_unsigned());
                out.put_u32(batch.last_sequence.cast_unsigned());
                out.put_i64(batch.base_offset.0);
                out.put_bool(batch.log_append_time.is_some());
                out.put_i64(batch.log_append_time.unwrap_or_default().0);
            }
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let mut producers = Self::default();
        for _ in 0..from.count(19)? {
            let id = ProducerId(from.i64()?);
            let epoch = ProducerEpoch(from.i16()?);
            let last = Wall(from.i64()?);
            let count = usize::from(from.u8()?);
            if count == 0 || count > PRODUCER_BATCHES {
                return Err(CodecError::Value("the batches of a producer"));
            }
            let mut batches = VecDeque::with_capacity(count);
            for _ in 0..count {
                let first_sequence = from.u32()?.cast_signed();
                let last_sequence = from.u32()?.cast_signed();
                let base_offset = Offset(from.i64()?);
                let has_time = from.bool()?;
                let time = Wall(from.i64()?);
                let log_append_time = has_time.then_some(time);
                batches.push_back(Batch { first_sequence, last_sequence, base_offset, log_append_time });
            }
            let newest = batches.back().map_or(Offset(0), |batch: &Batch| batch.base_offset);
            producers.by_age.insert((newest, id));
            if producers.by_id.insert(id, State { epoch, last, batches }).is_some() {
                return Err(CodecError::Value("a producer that is there twice"));
            }
        }
        Ok(producers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn producer(epoch: i16, base_sequence: i32) -> Producer {
        Producer { id: 7, epoch, base_sequence }
    }

    /// A partition that has seen batches of one record each with these sequences, in epoch 3, at offsets from 100 on.
    fn after(sequences: &[i32]) -> Producers {
        let mut producers = Producers::default();
        for (&sequence, offset) in sequences.iter().zip(100..) {
            producers.wrote(producer(3, sequence), sequence, Offset(offset), Wall(offset), None);
        }
        producers
    }

    fn duplicate_at(offset: i64) -> Verdict {
        Verdict::Duplicate { base_offset: Offset(offset), log_append_time: None }
    }

    const OUT_OF_ORDER: Verdict = Verdict::Reject(ErrorCode::OutOfOrderSequenceNumber);

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        assert_eq!(Producers::default().judge(producer(0, 17), 17), Verdict::Accept);
    }

    #[test]
    fn an_older_epoch_is_fenced() {
        assert_eq!(after(&[0]).judge(producer(2, 1), 1), Verdict::Reject(ErrorCode::InvalidProducerEpoch));
    }

    #[test]
    fn a_newer_epoch_begins_at_zero() {
        assert_eq!(after(&[0, 1]).judge(producer(4, 0), 0), Verdict::Accept);
        assert_eq!(after(&[0, 1]).judge(producer(4, 2), 2), OUT_OF_ORDER);
    }

    #[test]
    fn the_next_sequence_is_accepted_and_a_gap_is_not() {
        assert_eq!(after(&[0, 1]).judge(producer(3, 2), 9), Verdict::Accept);
        assert_eq!(after(&[0, 1]).judge(producer(3, 3), 3), OUT_OF_ORDER);
    }

    #[test]
    fn the_last_five_batches_are_recognised_and_older_ones_are_out_of_order() {
        let producers = after(&[0, 1, 2, 3, 4, 5]);
        for sequence in 1..=5 {
            assert_eq!(producers.judge(producer(3, sequence), sequence), duplicate_at(100 + i64::from(sequence)));
        }
        assert_eq!(producers.judge(producer(3, 0), 0), OUT_OF_ORDER);
        assert_eq!(producers.judge(producer(3, 4), 5), OUT_OF_ORDER, "other bounds are another batch");
    }

    #[test]
    fn sequences_wrap_from_the_largest_to_zero() {
        assert_eq!(after(&[i32::MAX - 1, i32::MAX]).judge(producer(3, 0), 4), Verdict::Accept);
        let mut producers = Producers::default();
        // A batch that wraps inside: its last sequence is small.
        producers.wrote(producer(0, i32::MAX), 1, Offset(0), Wall(0), None);
        assert_eq!(producers.judge(producer(0, 2), 2), Verdict::Accept);
        assert_eq!(producers.judge(producer(0, i32::MAX), 1), duplicate_at(0));
    }

    #[test]
    fn silent_producers_expire() {
        let mut producers = after(&[0, 1]);
        producers.expire(Wall(101));
        assert_eq!(producers.len(), 1, "its last batch was stamped 101");
        producers.expire(Wall(102));
        assert!(producers.is_empty());
    }

    /// What the table in Kafka's documentation says, without bounds and without cleverness.
    #[derive(Default)]
    struct Model(Vec<(i16, i32, i32, i64)>);

    impl Model {
        fn judge(&self, epoch: i16, first: i32, last: i32) -> Verdict {
            let Some(&(newest, _, end, _)) = self.0.last() else { return Verdict::Accept };
            let recent: Vec<_> = self.0.iter().rev().take_while(|b| b.0 == newest).take(5).collect();
            if epoch < newest {
                Verdict::Reject(ErrorCode::InvalidProducerEpoch)
            } else if epoch > newest {
                if first == 0 { Verdict::Accept } else { OUT_OF_ORDER }
            } else if let Some(batch) = recent.iter().find(|b| (b.1, b.2) == (first, last)) {
                duplicate_at(batch.3)
            } else if i64::from(first) == (i64::from(end) + 1) % (1 << 31) {
                Verdict::Accept
            } else {
                OUT_OF_ORDER
            }
        }
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_naive_model(
            start in prop_oneof![Just(0), Just(i32::MAX - 7)],
            steps in proptest::collection::vec((0i16..3, -7i64..3, 0i64..3), 1..60),
        ) {
            let mut producers = Producers::default();
            let mut model = Model::default();
            let mut next = i64::from(start);
            for ((epoch, back, records), offset) in steps.into_iter().zip(0..) {
                let first = ((next + back).rem_euclid(1 << 31)) as i32;
                let first = if epoch > model.0.last().map_or(0, |b| b.0) && back == 0 { 0 } else { first };
                let last = ((i64::from(first) + records) % (1 << 31)) as i32;
                let verdict = producers.judge(producer(epoch, first), last);
                prop_assert_eq!(verdict, model.judge(epoch, first, last));
                if verdict == Verdict::Accept {
                    producers.wrote(producer(epoch, first), last, Offset(offset), Wall(offset), None);
                    model.0.push((epoch, first, last, offset));
                    next = i64::from(last) + 1;
                }
                let mut bytes = Vec::new();
                producers.encode(&mut bytes);
                prop_assert_eq!(Producers::decode(&mut Decoder::new(&bytes)), Ok(producers.clone()));
            }
        }
    }
}
