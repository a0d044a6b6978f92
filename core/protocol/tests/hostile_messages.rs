//! Messages that lie. Whatever arrives, decoding returns, does not panic, and takes memory in proportion to the bytes
//! that arrived.
//!
//! An allocator that counts is the witness: it measures the peak per thread, so tests do not disturb each other.

#[path = "support/counting.rs"]
mod counting;
mod support;

use bytes::Bytes;
use counting::peak_of;
use kauri_protocol::messages::{MetadataRequest, ProduceRequest, Request, Response};
use kauri_protocol::records::{BatchBuilder, BatchView, Compression, NO_PRODUCER};
use kauri_protocol::wire::DecodeError;
use kauri_protocol::{API_TABLE, Api, Message, Reader, RequestHeader, ResponseHeader, Writer};
use proptest::prelude::*;
use support::{Random, write_struct};

/// Memory that decoding a frame of `length` bytes may take.
fn allowance(length: usize) -> usize {
    // Beside the budget there is only the reference count of the frame.
    16 * length + Reader::BUDGET_BASE_BYTES + 256
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Request,
    Response,
}

struct Outcome {
    result: Result<(), DecodeError>,
    peak: usize,
}

fn decode(api: &Api, direction: Direction, version: i16, frame: &Bytes) -> Outcome {
    let (result, peak) = peak_of(|| {
        let mut reader = Reader::new(frame.clone());
        match direction {
            Direction::Request => Request::decode(api.key, &mut reader, version).map(drop),
            Direction::Response => Response::decode(api.key, &mut reader, version).map(drop),
        }
    });
    let allowance = allowance(frame.len());
    assert!(
        peak <= allowance,
        "{} {direction:?} version {version}: {peak} bytes for a frame of {}",
        api.name,
        frame.len()
    );
    Outcome { result, peak }
}

fn every_message(mut check: impl FnMut(&Api, Direction, i16)) {
    for api in API_TABLE {
        for version in api.supported.min..=api.supported.max {
            for direction in [Direction::Request, Direction::Response] {
                check(api, direction, version);
            }
        }
    }
}

fn valid(api: &Api, direction: Direction, version: i16, random: &mut Random) -> Vec<u8> {
    let structure = match direction {
        Direction::Request => Request::schema(api.key),
        Direction::Response => Response::schema(api.key),
    };
    let mut frame = Vec::new();
    write_struct(&mut frame, structure, version, api.is_flexible(version), random);
    frame
}

#[test]
fn four_bytes_cannot_ask_for_two_billion_topics() {
    let decode = |bytes: &'static [u8], version| {
        peak_of(|| MetadataRequest::decode(&mut Reader::new(Bytes::from_static(bytes)), version).unwrap_err())
    };
    let (error, peak) = decode(&[0x7f, 0xff, 0xff, 0xff], 1);
    assert_eq!(error, DecodeError::CountExceedsBytes { count: i32::MAX as usize, remaining: 0 });
    assert_eq!(peak, 0);
    let (error, peak) = decode(&[0xff, 0xff, 0xff, 0xff, 0x0f], 12);
    assert_eq!(error, DecodeError::CountExceedsBytes { count: u32::MAX as usize - 1, remaining: 0 });
    assert_eq!(peak, 0);

    // The same deeper inside: null transactional id, acks, timeout, then topics.
    let produce = Bytes::from_static(&[0, 0, 1, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3]);
    let (result, peak) = peak_of(|| ProduceRequest::decode(&mut Reader::new(produce), 9));
    assert!(matches!(result, Err(DecodeError::CountExceedsBytes { .. })));
    assert_eq!(peak, 0);
}

#[test]
fn a_well_formed_frame_of_tiny_elements_is_over_budget() {
    // A mebibyte of empty topics takes two bytes each on the wire and fifty in memory.
    let mut frame = Writer::new();
    frame.put_unsigned_varint(500_001);
    frame.put_slice(&[1, 0].repeat(500_000));
    frame.put_slice(&[0, 0, 0, 0]);
    let frame = frame.into_bytes();
    let metadata = API_TABLE.iter().find(|api| api.name == "Metadata").unwrap();
    let Outcome { result, peak } = decode(metadata, Direction::Request, 9, &frame);
    assert!(matches!(result, Err(DecodeError::OverBudget { .. })), "{result:?}");
    assert!(peak < 1024, "refused before anything was allocated");
}

#[test]
fn zeros_behind_any_count_stay_within_the_allowance() {
    // Zeros are empty strings, arrays and structures: the smallest elements there are. The count is put at every early
    // position.
    const ZEROS: usize = 4096;
    every_message(|api, direction, version| {
        for position in 0..24 {
            for element_bytes in [1, 2, 3, 5, 8, 13, 21] {
                let count = (ZEROS / element_bytes) as u32;
                let mut frame = Writer::new();
                frame.put_slice(&vec![0; position]);
                match api.is_flexible(version) {
                    true => frame.put_unsigned_varint(count + 1),
                    false => frame.put_u32(count),
                }
                frame.put_slice(&[0; ZEROS]);
                decode(api, direction, version, &frame.into_bytes());
            }
        }
    });
}

#[test]
fn a_frame_cut_anywhere_is_an_error() {
    every_message(|api, direction, version| {
        let mut random = Random(version as u64);
        let frame = Bytes::from(valid(api, direction, version, &mut random));
        assert_eq!(decode(api, direction, version, &frame).result, Ok(()));
        for length in 0..frame.len() {
            let result = decode(api, direction, version, &frame.slice(..length)).result;
            assert!(result.is_err(), "{} {direction:?} version {version} cut at {length}", api.name);
        }
    });
}

#[test]
fn versions_outside_of_the_table_are_refused() {
    for api in API_TABLE {
        for version in [api.supported.min - 1, api.supported.max + 1, i16::MIN, i16::MAX] {
            let error = DecodeError::UnsupportedVersion { api: api.name, version };
            let mut reader = Reader::new(Bytes::from_static(&[0; 64]));
            assert_eq!(Request::decode(api.key, &mut reader, version), Err(error.clone()));
            assert_eq!(Response::decode(api.key, &mut reader, version), Err(error));
        }
    }
}

#[test]
fn a_decompression_bomb_takes_little_more_than_its_limit() {
    const LIMIT: usize = 1 << 20;
    // What a decoder holds beside its output: tables, and blocks of up to 4 MiB of LZ4.
    const DECODER: usize = 128 * 1024;
    let zeros = vec![0; 64 * LIMIT];
    for compression in Compression::ALL.into_iter().skip(1) {
        let mut builder = BatchBuilder::new(compression);
        builder.append(0, None, Some(&zeros), &[]).unwrap();
        let bomb = BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap();
        let (result, peak) = peak_of(|| bomb.records(LIMIT).err());
        assert!(result.is_some());
        // Growing by doubling, the output exists twice while it moves.
        assert!(peak <= 4 * LIMIT + DECODER, "{compression}: {peak}");
    }
}

/// One lie in a frame.
#[derive(Debug, Clone)]
enum Mutation {
    Flip { at: usize, bit: u8 },
    Overwrite { at: usize, with: Vec<u8> },
    Insert { at: usize, with: Vec<u8> },
    Remove { at: usize, count: usize },
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let interesting = prop_oneof![
        Just(vec![0xff; 4]),
        Just(vec![0x7f, 0xff, 0xff, 0xff]),
        Just(vec![0x80, 0, 0, 0]),
        Just(vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        Just(vec![0, 0, 0x10, 0]),
        Just(vec![0xff, 0x7f]),
        prop::collection::vec(any::<u8>(), 1..8),
    ];
    let at = || 0usize..4096;
    let mutation = prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        (at(), interesting.clone()).prop_map(|(at, with)| Mutation::Overwrite { at, with }),
        (at(), interesting).prop_map(|(at, with)| Mutation::Insert { at, with }),
        (at(), 1usize..20).prop_map(|(at, count)| Mutation::Remove { at, count }),
    ];
    prop::collection::vec(mutation, 1..5)
}

fn mutate(frame: &mut Vec<u8>, mutations: &[Mutation]) {
    for mutation in mutations {
        let length = frame.len();
        match mutation {
            Mutation::Flip { at, bit } if length > 0 => frame[at % length] ^= 1 << bit,
            Mutation::Overwrite { at, with } if length > 0 => {
                let at = at % length;
                let count = with.len().min(length - at);
                frame[at..at + count].copy_from_slice(&with[..count]);
            }
            Mutation::Insert { at, with } => {
                let at = at % (length + 1);
                frame.splice(at..at, with.iter().copied());
            }
            Mutation::Remove { at, count } if length > 0 => {
                let at = at % length;
                frame.drain(at..(at + count).min(length));
            }
            Mutation::Flip { .. } | Mutation::Overwrite { .. } | Mutation::Remove { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn mutated_messages_stay_within_the_allowance(seed: u64, mutations in mutations()) {
        every_message(|api, direction, version| {
            let mut frame = valid(api, direction, version, &mut Random(seed));
            mutate(&mut frame, &mutations);
            decode(api, direction, version, &frame.into());
        });
    }

    #[test]
    fn random_bytes_stay_within_the_allowance(frame in prop::collection::vec(any::<u8>(), 0..200)) {
        let frame = Bytes::from(frame);
        every_message(|api, direction, version| {
            decode(api, direction, version, &frame);
        });
    }

    #[test]
    fn random_small_numbers_stay_within_the_allowance(frame in prop::collection::vec(0u8..6, 0..400)) {
        let frame = Bytes::from(frame);
        every_message(|api, direction, version| {
            decode(api, direction, version, &frame);
        });
    }

    #[test]
    fn random_headers_never_panic(frame in prop::collection::vec(any::<u8>(), 0..64), version: i16) {
        let frame = Bytes::from(frame);
        RequestHeader::decode(&mut Reader::new(frame.clone())).ok();
        for api in API_TABLE {
            ResponseHeader::decode(&mut Reader::new(frame.clone()), api.key, version).ok();
            let mut named = Writer::new();
            named.put_i16(api.key.into());
            named.put_slice(&frame);
            RequestHeader::decode(&mut Reader::new(named.into_bytes())).ok();
        }
    }
}
