//! Every request and response, one file per API.
//!
//! Structures and fields carry the names of Kafka's own schemas, so that Kafka's documentation explains them. A field that is not on the
//! wire in a version has its default after decoding. Nothing here has behaviour: a message is data.

use crate::api::{Api, ApiKey, with_api_table};
use crate::schema::Struct;
use crate::wire::{Context, DecodeError, EncodeError, Reader, Writer};

pub mod api_versions;
pub mod create_topics;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod fetch;
pub mod find_coordinator;
pub mod init_producer_id;
pub mod leader;
pub mod list_offsets;
pub mod metadata;
pub mod produce;

/// The request or response of an API.
pub trait Message: Sized {
    const API: &'static Api;
    const STRUCT: &'static Struct;

    /// Reads the body, header excluded. Bytes behind it are left to the caller, see [`Reader::finish`].
    fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError>;

    /// Writes the body, header excluded.
    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError>;
}

/// A request, which knows the type of its response.
pub trait RequestMessage: Message {
    type Response: Message;
}

pub(crate) fn decode_context(api: &'static Api, version: i16) -> Result<Context, DecodeError> {
    if api.supported.contains(version) {
        Ok(Context {
            version,
            flexible: api.is_flexible(version),
        })
    } else {
        Err(DecodeError::UnsupportedVersion {
            api: api.name,
            version,
        })
    }
}

pub(crate) fn encode_context(api: &'static Api, version: i16) -> Result<Context, EncodeError> {
    if api.supported.contains(version) {
        Ok(Context {
            version,
            flexible: api.is_flexible(version),
        })
    } else {
        Err(EncodeError::UnsupportedVersion {
            api: api.name,
            version,
        })
    }
}

macro_rules! declare_message_enums {
    ($($name:ident = $key:literal, $module:ident::{$request:ident, $response:ident},
        supported $min:literal ..= $max:literal, advertised from $advertised:literal, flexible from $flexible:literal;)*) => {
        $(pub use $module::{$request, $response};)*

        declare_message_enums! { @ "The body of any request." Request $($name $request)* }
        declare_message_enums! { @ "The body of any response." Response $($name $response)* }
    };
    (@ $about:literal $enum:ident $($name:ident $message:ident)*) => {
        #[doc = $about]
        #[derive(Debug, Clone, PartialEq)]
        pub enum $enum {
            $($name($message),)*
        }

        impl $enum {
            pub fn decode(api_key: ApiKey, reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
                match api_key {
                    $(ApiKey::$name => $message::decode(reader, version).map(Self::$name),)*
                }
            }

            pub fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
                match self {
                    $(Self::$name(message) => message.encode(writer, version),)*
                }
            }

            #[must_use]
            pub const fn api_key(&self) -> ApiKey {
                match self {
                    $(Self::$name(_) => ApiKey::$name,)*
                }
            }

            /// The fields of the API's message.
            #[must_use]
            pub const fn schema(api_key: ApiKey) -> &'static Struct {
                match api_key {
                    $(ApiKey::$name => <$message as Message>::STRUCT,)*
                }
            }
        }

        $(impl From<$message> for $enum {
            fn from(message: $message) -> Self {
                Self::$name(message)
            }
        })*
    };
}
with_api_table!(declare_message_enums);
