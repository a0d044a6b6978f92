//! Which leader epoch each offset was written in.
//!
//! Invariant: epochs and their start offsets both grow, strictly and not. An epoch in which nothing was written has no
//! place here. Their number is bounded: past [`LEADER_EPOCHS_MAX`] the second oldest is joined to the oldest, so that
//! every offset of the log still has an epoch. What is asked about the one that was joined is answered with an older
//! epoch that ends later: a client then believes more of what it has read than it might, never less, and only about
//! records written a thousand elections ago.

use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{LeaderEpoch, Offset},
    limits::LEADER_EPOCHS_MAX,
};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs(Vec<(LeaderEpoch, Offset)>);

impl LeaderEpochs {
    /// A batch is written at `offset` in `epoch`.
    pub fn wrote(&mut self, epoch: LeaderEpoch, offset: Offset) {
        match self.0.last() {
            Some(&(last, _)) if last == epoch => {}
            Some(&(last, start)) => {
                assert!(last < epoch && start <= offset, "terms and offsets of a log only grow");
                self.0.push((epoch, offset));
                if self.0.len() > LEADER_EPOCHS_MAX {
                    self.0.remove(1);
                }
            }
            None => self.0.push((epoch, offset)),
        }
    }

    /// The largest epoch that is not above `epoch`, and the offset where it ended (KIP-320). `None` if every epoch
    /// known is above.
    pub fn end_of(&self, epoch: LeaderEpoch, next: Offset) -> Option<(LeaderEpoch, Offset)> {
        let behind = self.0.partition_point(|&(known, _)| known <= epoch);
        let (found, _) = self.0[..behind].last()?;
        Some((*found, self.0.get(behind).map_or(next, |&(_, start)| start)))
    }

    /// The epoch in which the record at `offset` was written.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let behind = self.0.partition_point(|&(_, start)| start <= offset);
        Some(self.0[..behind].last()?.0)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_count(self.0.len());
        for (epoch, start) in &self.0 {
            out.put_i32(epoch.0);
            out.put_i64(start.0);
        }
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let epochs = from.list(12, |from| Ok((LeaderEpoch(from.i32()?), Offset(from.i64()?))))?;
        if epochs.len() > LEADER_EPOCHS_MAX
            || !epochs.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
        {
            return Err(CodecError::Value("the leader epochs of a partition"));
        }
        Ok(Self(epochs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn their_number_is_bounded_and_every_offset_keeps_one() {
        let mut epochs = LeaderEpochs::default();
        let count = LEADER_EPOCHS_MAX as i32 + 500;
        for epoch in 1..=count {
            epochs.wrote(LeaderEpoch(epoch), Offset(i64::from(epoch) * 10));
        }
        assert_eq!(epochs.0.len(), LEADER_EPOCHS_MAX);
        assert_eq!(epochs.epoch_at(Offset(10)), Some(LeaderEpoch(1)));
        assert_eq!(epochs.epoch_at(Offset(3000)), Some(LeaderEpoch(1)), "joined to the oldest");
        assert_eq!(epochs.epoch_at(Offset(i64::from(count) * 10)), Some(LeaderEpoch(count)));
        let mut bytes = Vec::new();
        epochs.encode(&mut bytes);
        assert_eq!(LeaderEpochs::decode(&mut Decoder::new(&bytes)).unwrap(), epochs);
    }

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let mut epochs = LeaderEpochs::default();
        for (epoch, offset) in [(2, 0), (2, 5), (4, 10), (7, 10 + 20)] {
            epochs.wrote(LeaderEpoch(epoch), Offset(offset));
        }
        let end = |epoch| epochs.end_of(LeaderEpoch(epoch), Offset(50));
        assert_eq!(end(1), None);
        assert_eq!(end(2), Some((LeaderEpoch(2), Offset(10))));
        assert_eq!(end(3), Some((LeaderEpoch(2), Offset(10))));
        assert_eq!(end(4), Some((LeaderEpoch(4), Offset(30))));
        assert_eq!(end(9), Some((LeaderEpoch(7), Offset(50))));
        assert_eq!(epochs.epoch_at(Offset(9)), Some(LeaderEpoch(2)));
        assert_eq!(epochs.epoch_at(Offset(10)), Some(LeaderEpoch(4)));
    }
}
