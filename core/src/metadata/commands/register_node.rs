//! A node started and says where it is.

use super::MetadataOutcome;
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{DirectoryId, ImageVersion, NodeId},
    metadata::{node::Registration, refusal::Refusal, state::MetadataState},
};

/// Sent by every node after it started, until it is answered. A data directory that is not the registered one is
/// refused: it replaces nothing by itself (see [`super::ReplaceNode`]). Success means that the node is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterNode {
    pub node: NodeId,
    pub directory: DirectoryId,
    pub registration: Registration,
}

impl RegisterNode {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_i32(self.node.0);
        out.put_uuid(self.directory.0);
        self.registration.encode(out);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            node: NodeId(from.i32()?),
            directory: DirectoryId(from.uuid()?),
            registration: Registration::decode(from)?,
        })
    }

    pub(super) fn apply(self, state: &mut MetadataState, version: ImageVersion) -> Result<MetadataOutcome, Refusal> {
        let Self { node, directory, registration } = self;
        let known = state.member(node)?;
        if known.replaced.contains(&directory) {
            return Err(Refusal::ReplacedDirectory { node, registered: known.directory, offered: directory });
        }
        if known.directory != directory {
            return Err(Refusal::UnknownDirectory { node, registered: known.directory, offered: directory });
        }
        if !registration.is_legal() {
            return Err(Refusal::InvalidEndpoint);
        }
        state.check_boot(node, registration.boot)?;
        let unchanged = known.up && known.registration.as_ref() == Some(&registration);
        if !unchanged {
            state.change_node(node, version, |node| {
                node.registration = Some(registration);
                node.up = true;
            });
        }
        Ok(state.registered(node))
    }
}
