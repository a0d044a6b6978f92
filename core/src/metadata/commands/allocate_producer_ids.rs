//! A node needs producer ids to hand out to idempotent producers.

use super::MetadataOutcome;
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{NodeId, ProducerId},
    limits::PRODUCER_ID_BLOCK_MAX,
    metadata::{refusal::Refusal, state::MetadataState},
};

/// A block is used up by one start of one node; what is left of it when the node stops is lost, which 2^63 ids can
/// afford. Readers of the image do not see it, so the image keeps its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocateProducerIds {
    pub node: NodeId,
    pub count: u32,
}

impl AllocateProducerIds {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i32(self.node.0);
        out.put_u32(self.count);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self { node: NodeId(from.i32()?), count: from.u32()? })
    }

    pub(super) fn apply(self, state: &mut MetadataState) -> Result<MetadataOutcome, Refusal> {
        state.member(self.node)?;
        if !(1..=PRODUCER_ID_BLOCK_MAX).contains(&self.count) {
            return Err(Refusal::InvalidProducerIdBlock);
        }
        let first = state.next_producer_id;
        state.next_producer_id = first.checked_add(i64::from(self.count)).ok_or(Refusal::ProducerIdsExhausted)?;
        Ok(MetadataOutcome::ProducerIds { first: ProducerId(first), count: self.count })
    }
}
