//! The codec trait that raft-rs asks of its messages.
//!
//! raft 0.7.0 is bound to the trait of the `protobuf` crate whatever codec is chosen: it measures entries with it and
//! encodes membership changes through it. Here that trait is a thin face over prost; no byte is parsed by the
//! `protobuf` crate, whose parser has an advisory (RUSTSEC-2024-0437).

use std::any::Any;

use protobuf::{
    Clear, CodedInputStream, CodedOutputStream, ProtobufError, ProtobufResult, UnknownFields,
    reflect::MessageDescriptor,
};

use crate::messages::{
    ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, HardState, Message, Snapshot, SnapshotMetadata,
};

macro_rules! codec {
    ($($type:ty),* $(,)?) => {
        $(
            impl Clear for $type {
                fn clear(&mut self) {
                    ::prost::Message::clear(self);
                }
            }

            impl protobuf::Message for $type {
                fn descriptor(&self) -> &'static MessageDescriptor {
                    Self::descriptor_static()
                }

                fn is_initialized(&self) -> bool {
                    true
                }

                fn merge_from(&mut self, stream: &mut CodedInputStream<'_>) -> ProtobufResult<()> {
                    let mut bytes = Vec::new();
                    while !stream.eof()? {
                        bytes.push(stream.read_raw_byte()?);
                    }
                    self.merge_from_bytes(&bytes)
                }

                fn merge_from_bytes(&mut self, bytes: &[u8]) -> ProtobufResult<()> {
                    ::prost::Message::merge(self, bytes).map_err(|error| ProtobufError::IoError(error.into()))
                }

                fn write_to_with_cached_sizes(&self, stream: &mut CodedOutputStream<'_>) -> ProtobufResult<()> {
                    stream.write_raw_bytes(&::prost::Message::encode_to_vec(self))
                }

                fn write_to_bytes(&self) -> ProtobufResult<Vec<u8>> {
                    Ok(::prost::Message::encode_to_vec(self))
                }

                fn compute_size(&self) -> u32 {
                    u32::try_from(::prost::Message::encoded_len(self)).unwrap_or(u32::MAX)
                }

                fn get_cached_size(&self) -> u32 {
                    self.compute_size()
                }

                fn get_unknown_fields(&self) -> &UnknownFields {
                    static NONE: UnknownFields = UnknownFields { fields: None };
                    &NONE
                }

                /// Unknown fields are dropped when a message is decoded; there is nothing to change.
                fn mut_unknown_fields(&mut self) -> &mut UnknownFields {
                    panic!("messages keep no unknown fields")
                }

                fn as_any(&self) -> &dyn Any {
                    self
                }

                fn new() -> Self {
                    Self::default()
                }

                fn default_instance() -> &'static Self {
                    static EMPTY: ::std::sync::OnceLock<$type> = ::std::sync::OnceLock::new();
                    EMPTY.get_or_init(Self::default)
                }
            }
        )*
    };
}

codec!(ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, HardState, Message, Snapshot, SnapshotMetadata);
