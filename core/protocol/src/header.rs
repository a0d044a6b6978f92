//! The headers in front of every request and response.
//!
//! A request header is version 2 if the request is flexible, else 1; its client id is never compact. Which version a
//! response header has is decided by the table of APIs.

use bytes::Bytes;

use crate::api::ApiKey;
use crate::messages::{Message, RequestMessage};
use crate::wire::{Context, DecodeError, EncodeError, Reader, Str, Wire, Writer};

const NOT_FLEXIBLE: Context = Context { version: 1, flexible: false };

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    pub api_key: ApiKey,
    /// Supported, except for ApiVersions: there an unknown version must be answered, not refused (KIP-511).
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<Str>,
}

impl RequestHeader {
    /// Reads the header and leaves `reader` at the body.
    ///
    /// For an unknown version of ApiVersions only the first three fields are read, because nothing behind them is
    /// known; the caller checks [`RequestHeader::version_is_supported`] before it reads a body. An unknown version of
    /// any other API is an error, to which Kafka's answer is a closed connection.
    pub fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let key = reader.i16()?;
        let api_version = reader.i16()?;
        let correlation_id = reader.i32()?;
        let api_key = ApiKey::try_from(key).map_err(|unknown| DecodeError::UnknownApiKey { key: unknown.key })?;
        let api = api_key.api();
        let mut header = Self { api_key, api_version, correlation_id, client_id: None };
        if !header.version_is_supported() {
            return if api_key == ApiKey::ApiVersions {
                Ok(header)
            } else {
                Err(DecodeError::UnsupportedVersion { api: api.name, version: api_version })
            };
        }
        header.client_id = Option::decode(reader, NOT_FLEXIBLE)?;
        if api.request_header_version(api_version) >= 2 {
            reader.tagged_fields(|_, _| Ok(false))?;
        }
        Ok(header)
    }

    pub fn encode(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.put_i16(self.api_key.into());
        writer.put_i16(self.api_version);
        writer.put_i32(self.correlation_id);
        self.client_id.encode(writer, NOT_FLEXIBLE)?;
        if self.api_key.api().request_header_version(self.api_version) >= 2 {
            writer.put_unsigned_varint(0);
        }
        Ok(())
    }

    #[must_use]
    pub fn version_is_supported(&self) -> bool {
        self.api_key.api().supported.contains(self.api_version)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeader {
    pub correlation_id: i32,
}

impl ResponseHeader {
    /// Reads the header of the response to a request of `api_version`.
    pub fn decode(reader: &mut Reader, api_key: ApiKey, api_version: i16) -> Result<Self, DecodeError> {
        let correlation_id = reader.i32()?;
        if api_key.api().response_header_version(api_version) >= 1 {
            reader.tagged_fields(|_, _| Ok(false))?;
        }
        Ok(Self { correlation_id })
    }

    pub fn encode(&self, writer: &mut Writer, api_key: ApiKey, api_version: i16) {
        writer.put_i32(self.correlation_id);
        if api_key.api().response_header_version(api_version) >= 1 {
            writer.put_unsigned_varint(0);
        }
    }
}

/// A whole request as it goes to the socket: length, header, body.
pub fn request_frame<M: RequestMessage>(
    request: &M,
    api_version: i16,
    correlation_id: i32,
    client_id: Option<Str>,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut writer = Writer::for_frame();
    RequestHeader { api_key: M::API.key, api_version, correlation_id, client_id }.encode(&mut writer)?;
    request.encode(&mut writer, api_version)?;
    writer.into_frame()
}

/// A whole response as it goes to the socket: length, header, body.
pub fn response_frame<M: Message>(
    response: &M,
    api_version: i16,
    correlation_id: i32,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut writer = Writer::for_frame();
    ResponseHeader { correlation_id }.encode(&mut writer, M::API.key, api_version);
    response.encode(&mut writer, api_version)?;
    writer.into_frame()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &'static [u8]) -> Result<(RequestHeader, usize), DecodeError> {
        let mut reader = Reader::new(Bytes::from_static(bytes));
        RequestHeader::decode(&mut reader).map(|header| (header, reader.remaining()))
    }

    #[test]
    fn the_client_id_is_never_compact() {
        // Metadata 9 is flexible: a 16-bit length for the client id, then tagged fields, then the body.
        let (header, rest) = decode(b"\0\x03\0\x09\0\0\0\x07\0\x02hi\0body").unwrap();
        assert_eq!(header.client_id, Some(Str::from("hi")));
        assert_eq!((header.correlation_id, rest), (7, 4));
    }

    #[test]
    fn an_unknown_version_of_api_versions_is_read_as_far_as_it_is_known() {
        let (header, _) = decode(b"\0\x12\0\x63\0\0\0\x07\xff\xff\xff\xff").unwrap();
        assert_eq!((header.api_key, header.api_version, header.correlation_id), (ApiKey::ApiVersions, 99, 7));
        assert!(!header.version_is_supported());
    }

    #[test]
    fn unknown_keys_and_versions_are_refused() {
        assert_eq!(decode(b"\x03\xe8\0\0\0\0\0\x07\xff\xff"), Err(DecodeError::UnknownApiKey { key: 1000 }));
        assert_eq!(
            decode(b"\0\x03\0\x63\0\0\0\x07\xff\xff"),
            Err(DecodeError::UnsupportedVersion { api: "Metadata", version: 99 })
        );
        // Advertised for the sake of librdkafka, but refused.
        assert_eq!(
            decode(b"\0\0\0\x02\0\0\0\x07\xff\xff"),
            Err(DecodeError::UnsupportedVersion { api: "Produce", version: 2 })
        );
    }

    #[test]
    fn headers_survive_their_bytes() {
        for api in crate::API_TABLE {
            for api_version in api.supported.min..=api.supported.max {
                let header = RequestHeader {
                    api_key: api.key,
                    api_version,
                    correlation_id: -5,
                    client_id: Some(Str::from("größe")),
                };
                let mut writer = Writer::new();
                header.encode(&mut writer).unwrap();
                let mut reader = Reader::new(writer.into_bytes());
                assert_eq!(RequestHeader::decode(&mut reader), Ok(header));
                assert_eq!(reader.finish(), Ok(()));

                let mut writer = Writer::new();
                ResponseHeader { correlation_id: 9 }.encode(&mut writer, api.key, api_version);
                let mut reader = Reader::new(writer.into_bytes());
                assert_eq!(
                    ResponseHeader::decode(&mut reader, api.key, api_version),
                    Ok(ResponseHeader { correlation_id: 9 })
                );
                assert_eq!(reader.finish(), Ok(()));
            }
        }
    }
}
