//! The leader of group 0 saw a node go or come back.

use super::MetadataOutcome;
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{BootNumber, ImageVersion, NodeId},
    metadata::{refusal::Refusal, state::MetadataState},
};

/// Names the boot number that was observed, so that a "down" which was on its way while the node started again does
/// not hit the new start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetNodeLiveness {
    pub node: NodeId,
    pub boot: BootNumber,
    pub up: bool,
}

impl SetNodeLiveness {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i32(self.node.0);
        out.put_u64(self.boot.0);
        out.put_bool(self.up);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self { node: NodeId(from.i32()?), boot: BootNumber(from.u64()?), up: from.bool()? })
    }

    pub(super) fn apply(self, state: &mut MetadataState, version: ImageVersion) -> Result<MetadataOutcome, Refusal> {
        let Self { node, boot, up } = self;
        let known = state.member(node)?;
        let registered = known.registration.as_ref().map(|registration| registration.boot).unwrap_or_default();
        if registered != boot {
            return Err(Refusal::StaleBoot { node, registered, offered: boot });
        }
        if known.registration.is_some() && known.up != up {
            state.change_node(node, version, |node| node.up = up);
        }
        Ok(MetadataOutcome::LivenessSet)
    }
}
