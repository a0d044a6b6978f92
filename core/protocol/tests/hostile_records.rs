//! Record batches that lie: about lengths, counts, offsets, timestamps, and how much they unpack to.

use bytes::Bytes;
use kauri_protocol::records::{BatchBuilder, BatchError, BatchView, Batches, Compression, HEADER_BYTES, NO_PRODUCER};
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

fn batch(compression: Compression, values: &[&str]) -> BatchView {
    let mut builder = BatchBuilder::new(compression);
    for (index, value) in values.iter().enumerate() {
        builder.append(1_000 + index as i64, None, Some(value.as_bytes()), &[]).unwrap();
    }
    BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap()
}

/// `batch` with some bytes changed, and a length and a checksum that fit.
fn forged(batch: &BatchView, change: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut bytes = batch.bytes().to_vec();
    change(&mut bytes);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let checksum = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    bytes.into()
}

#[test]
fn headers_that_lie_are_refused() {
    let valid = batch(Compression::None, &["a"]);
    let parse = |change: fn(&mut Vec<u8>)| {
        let mut bytes = valid.bytes().to_vec();
        change(&mut bytes);
        BatchView::new(bytes.into()).unwrap_err()
    };
    let length = valid.bytes().len();
    assert_eq!(parse(|bytes| bytes.truncate(60)), BatchError::Truncated { needed: HEADER_BYTES, available: 60 });
    assert_eq!(parse(|bytes| bytes.truncate(65)), BatchError::Truncated { needed: length, available: 65 });
    assert_eq!(parse(|bytes| bytes.push(0)), BatchError::TrailingBytes { count: 1 });
    assert_eq!(parse(|bytes| bytes[8..12].fill(0xff)), BatchError::InvalidLength { length: -1 });
    assert_eq!(parse(|bytes| bytes[11] = 48), BatchError::InvalidLength { length: 48 });
    assert_eq!(parse(|bytes| bytes[16] = 1), BatchError::UnsupportedMagic { magic: 1 });
    assert_eq!(parse(|bytes| bytes[22] = 5), BatchError::UnknownCompression { code: 5 });
    assert_eq!(parse(|bytes| bytes[23] = 0x80), BatchError::InvalidOffsets { base_offset: 0, delta: i32::MIN });
    let overflow = |bytes: &mut Vec<u8>| {
        bytes[..8].copy_from_slice(&i64::MAX.to_be_bytes());
        bytes[26] = 1;
    };
    assert_eq!(parse(overflow), BatchError::InvalidOffsets { base_offset: i64::MAX, delta: 1 });
}

#[test]
fn a_record_count_beyond_the_body_is_refused_before_any_record() {
    let valid = batch(Compression::None, &["a"]);
    let lie = forged(&valid, |bytes| {
        bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    });
    let body_bytes = valid.body().len();
    assert_eq!(BatchView::new(lie), Err(BatchError::InvalidRecordCount { count: i32::MAX, body_bytes }));

    // Compressed, the count cannot be checked before; the records end the lie.
    let valid = batch(Compression::Zstd, &["a"]);
    let lie = forged(&valid, |bytes| {
        bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    });
    let results: Vec<_> = BatchView::new(lie).unwrap().records(LIMIT).unwrap().collect();
    assert_eq!(results.len(), 2);
    assert!(results[0].is_ok());
    assert_eq!(results[1], Err(BatchError::Truncated { needed: 1, available: 0 }));
}

#[test]
fn a_damaged_byte_is_found_by_the_checksum() {
    let valid = batch(Compression::None, &["hello"]);
    let mut bytes = valid.bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let damaged = BatchView::new(bytes.into()).unwrap();
    assert!(matches!(damaged.validate_crc(), Err(BatchError::ChecksumMismatch { .. })));
}

#[test]
fn records_that_lie_are_refused() {
    let error_of = |record: &[u8]| {
        let valid = batch(Compression::None, &["long enough"]);
        let bytes = forged(&valid, |bytes| {
            bytes.truncate(HEADER_BYTES);
            bytes.push((record.len() * 2) as u8);
            bytes.extend_from_slice(record);
        });
        BatchView::new(bytes).unwrap().records(LIMIT).unwrap().next().unwrap().unwrap_err()
    };
    // Attributes, timestamp delta, offset delta, key length, value length, header count.
    assert_eq!(error_of(&[0, 0, 2, 1, 1, 0]), BatchError::InvalidOffsetDelta { delta: 1 });
    assert_eq!(error_of(&[0, 0, 1, 1, 1, 0]), BatchError::InvalidOffsetDelta { delta: -1 });
    assert_eq!(error_of(&[0, 0, 0, 3, 1, 0]), BatchError::InvalidRecordLength { length: -2 });
    assert_eq!(error_of(&[0, 0, 0, 20, 1, 0]), BatchError::Truncated { needed: 10, available: 2 });
    assert_eq!(error_of(&[0, 0, 0, 1, 1, 1]), BatchError::InvalidRecordLength { length: -1 });
    assert_eq!(error_of(&[0, 0, 0, 1, 1, 0, 9]), BatchError::TrailingBytes { count: 1 });
    let headers_max = [0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(error_of(&headers_max), BatchError::Truncated { needed: 1, available: 0 });
}

#[test]
fn offsets_within_a_batch_ascend() {
    let valid = batch(Compression::None, &["a", "b"]);
    let repeated = forged(&valid, |bytes| {
        let record = bytes[HEADER_BYTES..].len() / 2;
        bytes.truncate(HEADER_BYTES + record);
        bytes.extend_from_within(HEADER_BYTES..);
    });
    let results: Vec<_> = BatchView::new(repeated).unwrap().records(LIMIT).unwrap().collect();
    assert_eq!(results[1], Err(BatchError::InvalidOffsetDelta { delta: 0 }));
    assert_eq!(results.len(), 2);
}

#[test]
fn timestamps_that_overflow_are_refused() {
    let valid = batch(Compression::None, &["a", "b"]);
    let hostile = forged(&valid, |bytes| {
        bytes[27..35].copy_from_slice(&i64::MAX.to_be_bytes());
    });
    let results: Vec<_> = BatchView::new(hostile).unwrap().records(LIMIT).unwrap().collect();
    assert_eq!(results[1], Err(BatchError::InvalidTimestamp { base: i64::MAX, delta: 1 }));
}

#[test]
fn decompression_stops_at_the_limit() {
    let zeros = vec![0; 10 * LIMIT];
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(compression);
        builder.append(0, None, Some(&zeros), &[]).unwrap();
        let bomb = BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap();
        let error = bomb.records(LIMIT).err();
        assert_eq!(error, Some(BatchError::OverLimit { limit_bytes: LIMIT }), "{compression}");
        assert!(bomb.records(11 * LIMIT).is_ok(), "{compression}");
    }
}

#[test]
fn damaged_compressed_data_are_an_error() {
    for compression in Compression::ALL.into_iter().skip(1) {
        let valid = batch(compression, &["some value", "and another value"]);
        // More than an end mark, whose absence not every library minds.
        let damaged = forged(&valid, |bytes| bytes.truncate(bytes.len() - 10));
        let error = BatchView::new(damaged).unwrap().records(LIMIT).err();
        assert_eq!(error, Some(BatchError::DamagedCompression { compression }));
    }
}

#[test]
fn a_small_snappy_block_cannot_claim_much() {
    let bomb = forged(&batch(Compression::None, &["a"]), |bytes| {
        bytes[22] = Compression::Snappy as u8;
        bytes.truncate(HEADER_BYTES);
        // Claims almost a mebibyte in five bytes.
        bytes.extend_from_slice(&[0xff, 0xff, 0x3f, 0, 0]);
    });
    let error = BatchView::new(bomb).unwrap().records(LIMIT).err();
    assert_eq!(error, Some(BatchError::DamagedCompression { compression: Compression::Snappy }));
}

proptest! {
    #[test]
    fn hostile_batches_never_panic(
        position in 0usize..400,
        bytes in prop::collection::vec(any::<u8>(), 1..12),
        compression in prop::sample::select(Compression::ALL.to_vec()),
        random in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let valid = batch(compression, &["some value", "another", "and some more to compress, to compress"]);
        let hostile = forged(&valid, |target| {
            let start = position % target.len();
            let count = bytes.len().min(target.len() - start);
            target[start..start + count].copy_from_slice(&bytes[..count]);
        });
        for bytes in [hostile, random.into()] {
            for batch in Batches::new(bytes).flatten() {
                batch.validate_crc().ok();
                if let Ok(records) = batch.records(LIMIT) {
                    for record in records.flatten() {
                        record.headers.iter().for_each(drop);
                    }
                }
            }
        }
    }
}
