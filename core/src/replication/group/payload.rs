//! The bytes of an entry.

use bytes::{BufMut, Bytes, BytesMut};

use crate::limits;

/// Context and data of one entry, shared with whoever else holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    pub context: Bytes,
    pub data: Bytes,
}

impl Payload {
    pub fn bytes(&self) -> usize {
        self.context.len() + self.data.len()
    }

    /// A small payload in an allocation of its own. A slice keeps the whole frame alive that it came in, and a small
    /// entry that stays in memory must not hold on to a megabyte. Large payloads stay shared.
    pub fn detached(self) -> Self {
        if self.bytes() >= limits::BATCH_SHARED_BYTES_MIN || self.bytes() == 0 {
            return self;
        }
        let mut copy = BytesMut::with_capacity(self.bytes());
        copy.put_slice(&self.context);
        copy.put_slice(&self.data);
        let mut data = copy.freeze();
        let context = data.split_to(self.context.len());
        Self { context, data }
    }
}
