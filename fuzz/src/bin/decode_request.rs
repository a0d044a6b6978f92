//! Requests as a listener receives them.

use std::process::ExitCode;

use bytes::Bytes;
use kauri_fuzz::{fuzz, peak_of};
use kauri_protocol::messages::Request;
use kauri_protocol::{DecodeError, EncodeError, Reader, RequestHeader, Writer};

fn main() -> ExitCode {
    fuzz("decode_request", include_str!("../../corpus/decode_request.txt"), |input| {
        let frame = Bytes::copy_from_slice(input);
        let (decoded, peak) = peak_of(|| decode(&frame));
        assert!(peak <= 16 * input.len() + Reader::BUDGET_BASE_BYTES + 256, "{peak} bytes for {}", input.len());
        let Ok((header, request)) = decoded else {
            return;
        };
        let mut writer = Writer::new();
        header.encode(&mut writer).expect("its version is supported");
        match request.encode(&mut writer, header.api_version) {
            Ok(()) => match decode(&writer.into_bytes()) {
                // Unknown tags and bytes behind the end pay for memory, and they are gone.
                Err(DecodeError::OverBudget { .. }) => {}
                again => assert_eq!(again, Ok((header, request))),
            },
            // Kafka refuses long strings where the wire has room for them.
            Err(EncodeError::TooLong { .. }) => {}
            Err(error) => panic!("{error}: {request:?}"),
        }
    })
}

fn decode(frame: &Bytes) -> Result<(RequestHeader, Request), DecodeError> {
    let mut reader = Reader::new(frame.clone());
    let header = RequestHeader::decode(&mut reader)?;
    let request = Request::decode(header.api_key, &mut reader, header.api_version)?;
    Ok((header, request))
}
