//! Record batches as producers send them and consumers read them.

use std::process::ExitCode;

use bytes::Bytes;
use kauri_fuzz::{fuzz, peak_of};
use kauri_protocol::records::{BatchView, Batches, HEADER_BYTES};

const LIMIT: usize = 64 * 1024;
/// What decompressors of Rust code hold beside their output.
const DECODER_BYTES: usize = 512 * 1024;

fn main() -> ExitCode {
    fuzz("record_batch", include_str!("../../corpus/record_batch.txt"), |input| {
        for batch in Batches::new(Bytes::copy_from_slice(input)).flatten() {
            check(&batch);
        }
        // Once more with a length and a checksum that fit, so that mutations are not all found by these.
        if input.len() >= HEADER_BYTES {
            let mut repaired = input.to_vec();
            let length = (input.len() - 12) as u32;
            repaired[8..12].copy_from_slice(&length.to_be_bytes());
            let checksum = crc32c::crc32c(&repaired[21..]);
            repaired[17..21].copy_from_slice(&checksum.to_be_bytes());
            if let Ok(batch) = BatchView::new(repaired.into()) {
                batch.validate_crc().expect("it was computed");
                check(&batch);
            }
        }
    })
}

fn check(batch: &BatchView) {
    let header = batch.header();
    assert_eq!(&header.encode()[..16], &batch.bytes()[..16]);
    let (records, peak) = peak_of(|| batch.records(LIMIT));
    assert!(peak <= 4 * LIMIT + DECODER_BYTES, "{peak} bytes at a limit of {LIMIT}");
    if let Ok(records) = records {
        let mut last = header.base_offset - i64::from(header.base_offset > i64::MIN);
        for record in records.flatten() {
            assert!(record.offset >= header.base_offset && record.offset <= header.last_offset());
            assert!(record.offset > last || record.offset == i64::MIN);
            last = record.offset;
            assert_eq!(record.headers.iter().count(), record.headers.len());
        }
    }
    if batch.validate_crc().is_ok() {
        for log_append_time in [None, Some(1_700_000_000_000)] {
            let patched = batch.patched(1 << 40, 9, log_append_time).to_bytes();
            let patched = BatchView::new(patched).expect("only offset, epoch and time changed");
            patched.validate_crc().expect("the checksum was derived");
            assert_eq!(patched.body(), batch.body());
        }
    }
}
