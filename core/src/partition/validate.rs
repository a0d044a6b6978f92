//! What is checked of a producer's batch before it is proposed: everything that needs no state.

use bytes::Bytes;
use kauri_protocol::{
    error::ErrorCode,
    records::{BatchError, BatchView, Compression, TimestampType},
};

use crate::{limits::BATCH_BYTES_MAX, metadata::TopicConfigs, time::Wall};

/// What a topic asks of batches, from the image.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub message_bytes_max: usize,
    pub log_append_time: bool,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
}

/// Why a batch is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub code: ErrorCode,
    pub message: String,
}

impl Rules {
    pub fn of(configs: &TopicConfigs) -> Self {
        Self {
            message_bytes_max: (configs.max_message_bytes() as usize).min(BATCH_BYTES_MAX),
            log_append_time: configs.timestamp_type() == TimestampType::LogAppendTime,
            timestamp_before_max_ms: configs.timestamp_before_max_ms(),
            timestamp_after_max_ms: configs.timestamp_after_max_ms(),
        }
    }
}

/// The records of one partition in a Produce request of `version`: exactly one whole batch (KIP-98), of format 2, with
/// a valid checksum, as a producer may send it.
pub fn validate(records: Bytes, version: i16, rules: Rules, wall: Wall) -> Result<Bytes, Invalid> {
    let invalid = |code, message: &str| Err(Invalid { code, message: message.to_owned() });
    if records.is_empty() {
        return invalid(ErrorCode::InvalidRecord, "there is no record batch");
    }
    let view = BatchView::new(records).map_err(refuse)?;
    let header = view.header();
    if header.batch_bytes > rules.message_bytes_max {
        let message =
            format!("the batch has {} bytes and the topic allows {}", header.batch_bytes, rules.message_bytes_max);
        return Err(Invalid { code: ErrorCode::MessageTooLarge, message });
    }
    view.validate_crc().map_err(refuse)?;
    if header.attributes.is_control() {
        return invalid(ErrorCode::InvalidRecord, "clients must not write control records");
    }
    if header.attributes.is_transactional() {
        return invalid(ErrorCode::InvalidTxnState, "Kauri does not support transactions yet");
    }
    if header.record_count < 1 || !header.is_dense() {
        return invalid(ErrorCode::InvalidRecord, "the batch's count of records does not match its offsets");
    }
    // Compressed records are not looked into: that would cost a core at full speed, and a batch that lies about them hurts
    // its readers only, who check it. Offsets come from the header, here and on every replica.
    if let Err(error) = view.validate_records() {
        let message = format!("the batch does not hold the records that its header counts: {error}");
        return Err(Invalid { code: ErrorCode::InvalidRecord, message });
    }
    let producer = header.producer;
    if producer.id >= 0 && (producer.epoch < 0 || producer.base_sequence < 0) {
        return invalid(ErrorCode::InvalidRecord, "a producer id comes with an epoch and a sequence number");
    }
    // Parsing made sure that the codec is known.
    if version < 7 && header.attributes.compression() == Ok(Compression::Zstd) {
        return invalid(ErrorCode::UnsupportedCompressionType, "zstd needs version 7 of Produce");
    }
    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        return invalid(ErrorCode::InvalidTimestamp, "only the broker stamps batches with its own time");
    }
    if !rules.log_append_time {
        let newest = header.max_timestamp;
        if newest.saturating_sub(wall.0) > rules.timestamp_after_max_ms {
            return invalid(ErrorCode::InvalidTimestamp, "a record's timestamp is too far in the future");
        }
        if wall.0.saturating_sub(newest) > rules.timestamp_before_max_ms {
            return invalid(ErrorCode::InvalidTimestamp, "the records' timestamps are too old");
        }
    }
    Ok(view.bytes().clone())
}

fn refuse(error: BatchError) -> Invalid {
    let code = match error {
        BatchError::UnsupportedMagic { .. } | BatchError::TrailingBytes { .. } => ErrorCode::InvalidRecord,
        BatchError::UnknownCompression { .. } | BatchError::CompressionNotBuilt { .. } => {
            ErrorCode::UnsupportedCompressionType
        }
        BatchError::Truncated { .. }
        | BatchError::InvalidLength { .. }
        | BatchError::InvalidOffsets { .. }
        | BatchError::InvalidRecordCount { .. }
        | BatchError::ChecksumMismatch { .. }
        | BatchError::DamagedCompression { .. }
        | BatchError::OverLimit { .. }
        | BatchError::InvalidVarint
        | BatchError::InvalidRecordLength { .. }
        | BatchError::InvalidOffsetDelta { .. }
        | BatchError::InvalidTimestamp { .. }
        | BatchError::TooLarge => ErrorCode::CorruptMessage,
    };
    Invalid { code, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use kauri_protocol::records::{BatchBuilder, Producer};

    use super::*;

    const RULES: Rules = Rules {
        message_bytes_max: 1000,
        log_append_time: false,
        timestamp_before_max_ms: 5_000,
        timestamp_after_max_ms: 1_000,
    };
    const NOW: Wall = Wall(10_000);

    fn batch(compression: Compression, producer: Producer, timestamp: i64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(compression);
        builder.append(timestamp, None, Some(&Bytes::from_static(b"value")), &[]).unwrap();
        builder.build(producer).unwrap().to_vec()
    }

    fn plain() -> Vec<u8> {
        batch(Compression::None, Producer::default(), NOW.0)
    }

    /// Three records whose header is changed, with a checksum that fits.
    fn lying(change: impl FnOnce(&mut Vec<u8>)) -> Option<ErrorCode> {
        let mut builder = BatchBuilder::new(Compression::None);
        for _ in 0..3 {
            builder.append(NOW.0, None, Some(&Bytes::from_static(b"value")), &[]).unwrap();
        }
        let mut bytes = builder.build(Producer::default()).unwrap().to_vec();
        change(&mut bytes);
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        check(bytes, 11)
    }

    #[test]
    fn a_count_that_lies_is_refused() {
        let count = |bytes: &mut Vec<u8>, count: u8| {
            bytes[26] = count - 1;
            bytes[60] = count;
        };
        assert_eq!(lying(|_| {}), None);
        assert_eq!(lying(|bytes| count(bytes, 2)), Some(ErrorCode::InvalidRecord), "more records than counted");
        assert_eq!(lying(|bytes| count(bytes, 4)), Some(ErrorCode::InvalidRecord), "fewer");
        assert_eq!(lying(|bytes| bytes[61] = 200), Some(ErrorCode::InvalidRecord), "a length beyond the batch");
    }

    fn check(bytes: Vec<u8>, version: i16) -> Option<ErrorCode> {
        validate(Bytes::from(bytes), version, RULES, NOW).err().map(|invalid| invalid.code)
    }

    #[test]
    fn what_a_producer_sends_is_accepted() {
        assert_eq!(check(plain(), 3), None);
        assert_eq!(check(batch(Compression::Zstd, Producer { id: 1, epoch: 0, base_sequence: 0 }, NOW.0), 7), None);
    }

    #[test]
    fn each_fault_has_its_code() {
        let with = |change: fn(&mut Vec<u8>)| {
            let mut bytes = plain();
            change(&mut bytes);
            check(bytes, 11)
        };
        assert_eq!(with(Vec::clear), Some(ErrorCode::InvalidRecord));
        assert_eq!(with(|b| b.truncate(70)), Some(ErrorCode::CorruptMessage));
        assert_eq!(with(|b| b.extend(plain())), Some(ErrorCode::InvalidRecord), "two batches");
        assert_eq!(with(|b| b[16] = 1), Some(ErrorCode::InvalidRecord), "an old format");
        assert_eq!(with(|b| *b.last_mut().unwrap() ^= 1), Some(ErrorCode::CorruptMessage));
        assert_eq!(check(vec![0; 2000], 11), Some(ErrorCode::InvalidRecord));
        assert_eq!(
            check(batch(Compression::Zstd, Producer::default(), NOW.0), 6),
            Some(ErrorCode::UnsupportedCompressionType)
        );
        assert_eq!(
            check(batch(Compression::None, Producer::default(), NOW.0 + 1001), 11),
            Some(ErrorCode::InvalidTimestamp)
        );
        assert_eq!(
            check(batch(Compression::None, Producer::default(), NOW.0 - 5001), 11),
            Some(ErrorCode::InvalidTimestamp)
        );
        let half = Producer { id: 1, epoch: -1, base_sequence: -1 };
        assert_eq!(check(batch(Compression::None, half, NOW.0), 11), Some(ErrorCode::InvalidRecord));
    }
}
