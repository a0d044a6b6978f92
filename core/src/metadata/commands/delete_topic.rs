//! A topic and all its records go.

use super::MetadataOutcome;
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{ImageVersion, TopicId},
    metadata::{refusal::Refusal, state::MetadataState},
};

/// By id, never by name: a name may belong to another topic by the time the command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteTopic {
    pub topic: TopicId,
}

impl DeleteTopic {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.put_uuid(self.topic.0);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self { topic: TopicId(from.uuid()?) })
    }

    pub(super) fn apply(self, state: &mut MetadataState, version: ImageVersion) -> Result<MetadataOutcome, Refusal> {
        if !state.remove_topic(self.topic) {
            return Err(Refusal::UnknownTopic(self.topic));
        }
        state.image.version = version;
        Ok(MetadataOutcome::TopicDeleted(self.topic))
    }
}
