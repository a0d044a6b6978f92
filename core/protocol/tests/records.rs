//! Record batches as their users see them: clients that build and read them, a broker that patches them.

use bytes::Bytes;
use kauri_protocol::records::{
    BatchBuilder, BatchHeader, BatchKind, BatchView, Batches, Compression, NO_PRODUCER, Producer, Record, TimestampType,
};
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;

fn batch(compression: Compression, values: &[&str]) -> BatchView {
    let mut builder = BatchBuilder::new(compression);
    for (index, value) in values.iter().enumerate() {
        builder.append(1_000 + index as i64, None, Some(value.as_bytes()), &[]).unwrap();
    }
    BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap()
}

fn records(batch: &BatchView) -> Vec<Record> {
    batch.records(LIMIT).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn what_a_producer_writes_a_consumer_reads_in_every_compression() {
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(compression);
        let headers: [(&[u8], Option<&[u8]>); 4] =
            [(b"trace", Some(b"1")), (b"trace", Some(b"2")), (b"", None), (b"\xff\xfe", Some(b""))];
        builder.append(2_000, Some(b"key"), Some(b"value"), &headers).unwrap();
        builder.append(1_500, None, None, &[]).unwrap();
        builder.append(2_500, Some(b""), Some(&[7; 100_000]), &[]).unwrap();
        let producer = Producer { id: 9, epoch: 3, base_sequence: 40 };
        let batch = BatchView::new(builder.build(producer).unwrap()).unwrap();

        batch.validate_crc().unwrap();
        let header = batch.header();
        assert_eq!(header.attributes.compression(), Ok(compression));
        assert_eq!((header.base_timestamp, header.max_timestamp), (2_000, 2_500));
        assert_eq!((header.record_count, header.last_offset(), header.last_sequence()), (3, 2, 42));
        assert!(header.is_dense());
        assert_eq!(header.producer, producer);
        assert_eq!(batch.bytes().len() < 10_000, compression != Compression::None, "{compression}");

        let records = records(&batch);
        assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(records.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [2_000, 1_500, 2_500]);
        assert_eq!(records[0].key.as_deref(), Some(&b"key"[..]));
        let read: Vec<_> = records[0].headers.iter().map(|header| (header.key, header.value)).collect();
        let written = headers.map(|(key, value)| (Bytes::from_static(key), value.map(Bytes::from_static)));
        assert_eq!(read, written, "duplicates, order and keys that are not text are kept");
        assert_eq!((&records[1].key, &records[1].value), (&None, &None));
        assert_eq!(records[2].key.as_deref(), Some(&b""[..]));
    }
}

#[test]
fn uncompressed_records_are_slices_of_the_batch() {
    let batch = batch(Compression::None, &["hello"]);
    let value = records(&batch)[0].value.clone().unwrap();
    assert!(batch.bytes().as_ptr_range().contains(&value.as_ptr()));
}

#[test]
fn the_broker_assigns_offset_and_epoch_outside_of_the_checksum() {
    let batch = batch(Compression::Lz4, &["a", "b"]);
    let patched = batch.patched(100, 7, None);
    assert_eq!(patched.slices()[1].as_ptr(), batch.body().as_ptr(), "the body is not copied");

    let patched = BatchView::new(patched.to_bytes()).unwrap();
    patched.validate_crc().unwrap();
    assert_eq!(patched.header().checksum, batch.header().checksum);
    assert_eq!((patched.header().base_offset, patched.header().partition_leader_epoch), (100, 7));
    assert_eq!(records(&patched).iter().map(|record| record.offset).collect::<Vec<_>>(), [100, 101]);
}

#[test]
fn log_append_time_is_the_timestamp_of_every_record() {
    for compression in Compression::ALL {
        let batch = batch(compression, &["a", "b", "c"]);
        let patched = BatchView::new(batch.patched(5, 1, Some(777_000)).to_bytes()).unwrap();
        patched.validate_crc().unwrap();
        assert_eq!(patched.header().attributes.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(patched.header().attributes.compression(), Ok(compression));
        assert!(records(&patched).iter().all(|record| record.timestamp == 777_000));
        assert_eq!(patched.header().base_timestamp, batch.header().base_timestamp);
    }
}

#[test]
fn a_producer_can_send_a_batch_again_under_a_new_epoch() {
    let batch = batch(Compression::Zstd, &["a"]);
    let producer = Producer { id: 1, epoch: 2, base_sequence: 0 };
    let header = batch.restamp_producer(producer);
    let stamped = BatchView::new([&header[..], &batch.body()].concat().into()).unwrap();
    stamped.validate_crc().unwrap();
    assert_eq!(stamped.header().producer, producer);
    assert_eq!(records(&stamped), records(&batch));
}

#[test]
fn sequences_wrap_to_zero() {
    let header = |base_sequence, last_offset_delta| BatchHeader {
        producer: Producer { id: 1, epoch: 0, base_sequence },
        last_offset_delta,
        ..*batch(Compression::None, &["a"]).header()
    };
    assert_eq!(header(i32::MAX - 1, 1).last_sequence(), i32::MAX);
    assert_eq!(header(i32::MAX - 1, 2).last_sequence(), 0);
    assert_eq!(header(-1, 2).last_sequence(), -1);
}

#[test]
fn markers_are_control_batches() {
    let mut builder = BatchBuilder::with_kind(Compression::None, BatchKind::TransactionMarker);
    builder.append(5, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]), &[]).unwrap();
    let marker = BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap();
    assert!(marker.header().attributes.is_control() && marker.header().attributes.is_transactional());
}

#[test]
fn a_fetch_that_ends_inside_a_batch_yields_the_whole_ones() {
    let batches = [batch(Compression::None, &["a"]), batch(Compression::Gzip, &["b", "c"])];
    let mut bytes = batches.iter().flat_map(|batch| batch.bytes().to_vec()).collect::<Vec<_>>();
    bytes.extend_from_slice(&batches[0].bytes()[..30]);
    let mut iterator = Batches::new(bytes.into());
    let read: Vec<_> = iterator.by_ref().map(Result::unwrap).collect();
    assert_eq!(read, batches);
    assert_eq!(iterator.remaining(), 30);
}

#[test]
fn bare_snappy_is_read_too() {
    let plain = batch(Compression::None, &["some value", "and another value"]);
    let packed = snap::raw::Encoder::new().compress_vec(&plain.body()).unwrap();
    let header = BatchHeader {
        attributes: plain.header().attributes.with_compression(Compression::Snappy),
        batch_bytes: plain.bytes().len() - plain.body().len() + packed.len(),
        ..*plain.header()
    };
    let bare = BatchView::new([&header.encode()[..], &packed].concat().into()).unwrap();
    assert_eq!(records(&bare), records(&plain));
}

type OwnedRecord = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn any_record() -> impl Strategy<Value = OwnedRecord> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    (
        0i64..1 << 50,
        prop::option::of(bytes()),
        prop::option::of(bytes()),
        prop::collection::vec((bytes(), prop::option::of(bytes())), 0..4),
    )
}

proptest! {
    #[test]
    fn any_records_survive(
        written in prop::collection::vec(any_record(), 1..20),
        compression in prop::sample::select(Compression::ALL.to_vec()),
    ) {
        let mut builder = BatchBuilder::new(compression);
        for (timestamp, key, value, headers) in &written {
            let headers: Vec<_> = headers.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
            let room = BatchBuilder::record_bytes_max(key.as_deref(), value.as_deref(), &headers);
            let before = builder.len();
            builder.append(*timestamp, key.as_deref(), value.as_deref(), &headers).unwrap();
            prop_assert!(builder.len() - before <= room);
        }
        let batch = BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap();
        batch.validate_crc().unwrap();
        let read: Vec<OwnedRecord> = records(&batch)
            .into_iter()
            .map(|record| {
                let owned = |bytes: Option<Bytes>| bytes.map(|bytes| bytes.to_vec());
                let headers = record.headers.iter().map(|header| (header.key.to_vec(), owned(header.value)));
                (record.timestamp, owned(record.key), owned(record.value), headers.collect())
            })
            .collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn derived_checksums_are_those_of_the_bytes(
        offset in 0i64..1 << 60,
        epoch: i32,
        timestamp: i64,
        size in 0usize..5000,
    ) {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append(timestamp, None, Some(&vec![3; size]), &[]).unwrap();
        let batch = BatchView::new(builder.build(NO_PRODUCER).unwrap()).unwrap();
        let patched = BatchView::new(batch.patched(offset, epoch, Some(timestamp)).to_bytes()).unwrap();
        prop_assert_eq!(patched.validate_crc(), Ok(()));
    }
}
