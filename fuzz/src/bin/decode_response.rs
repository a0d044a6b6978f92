//! Responses as a client receives them. The input begins with the API key and version that the client asked with.

use std::process::ExitCode;

use bytes::Bytes;
use kauri_fuzz::{fuzz, peak_of};
use kauri_protocol::messages::Response;
use kauri_protocol::{ApiKey, DecodeError, EncodeError, Reader, Writer};

fn main() -> ExitCode {
    fuzz("decode_response", include_str!("../../corpus/decode_response.txt"), |input| {
        let Some((prefix, body)) = input.split_first_chunk::<4>() else {
            return;
        };
        let Ok(api_key) = ApiKey::try_from(i16::from_be_bytes([prefix[0], prefix[1]])) else {
            return;
        };
        let version = i16::from_be_bytes([prefix[2], prefix[3]]);
        let frame = Bytes::copy_from_slice(body);
        let (decoded, peak) = peak_of(|| Response::decode(api_key, &mut Reader::new(frame.clone()), version));
        assert!(peak <= 16 * body.len() + Reader::BUDGET_BASE_BYTES + 256, "{peak} bytes for {}", body.len());
        let Ok(response) = decoded else {
            return;
        };
        let mut writer = Writer::new();
        match response.encode(&mut writer, version) {
            Ok(()) => {
                match Response::decode(api_key, &mut Reader::new(writer.into_bytes()), version) {
                    // Unknown tags and bytes behind the end pay for memory, and they are gone.
                    Err(DecodeError::OverBudget { .. }) => {}
                    again => assert_eq!(again, Ok(response)),
                }
            }
            // Kafka refuses long strings where the wire has room for them.
            Err(EncodeError::TooLong { .. }) => {}
            Err(error) => panic!("{error}: {response:?}"),
        }
    })
}
