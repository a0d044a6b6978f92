//! The replicated state of a partition, and what its commands do.

use bytes::Bytes;
use kauri_protocol::{
    error::ErrorCode,
    records::{BatchHeader, BatchView, TimestampType},
};

use super::{LeaderEpochs, Producers, Verdict};
use crate::{
    codec::{self, CodecError, Decoder, Encode},
    command::{ApplyOutput, Entry, ImageError, StateMachine},
    ids::{ImageVersion, LeaderEpoch, Offset},
    log::segment::AppliedBatch,
    metadata::TopicConfigs,
    time::Wall,
};

/// What can be done to a partition. Kinds and bytes are on every replica's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionCommand {
    /// One record batch, as the producer sent it.
    Append(Bytes),
    /// The topic's configuration changed: everything of it that influences apply.
    Configure { version: ImageVersion, config: ApplyConfig },
    /// Forget producers whose last batch was stamped before.
    ExpireProducers { before: Wall },
}

/// The values that influence apply: equal on all replicas, because they come by a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyConfig {
    pub message_bytes_max: u32,
    pub log_append_time: bool,
}

/// Where a batch is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendOutcome {
    pub base_offset: Offset,
    /// Set if the topic stamps records itself.
    pub log_append_time: Option<Wall>,
    pub log_start_offset: Offset,
}

/// See the module head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    configured: Option<(ImageVersion, ApplyConfig)>,
    log_start: Offset,
    next_offset: Offset,
    epochs: LeaderEpochs,
    producers: Producers,
}

const IMAGE_VERSION: u8 = 1;
const COMMAND_VERSION: u8 = 1;

mod kind {
    pub(super) const APPEND: u8 = 1;
    pub(super) const CONFIGURE: u8 = 2;
    pub(super) const EXPIRE_PRODUCERS: u8 = 3;
}

impl PartitionCommand {
    /// Goes into the header of the entry.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Append(_) => kind::APPEND,
            Self::Configure { .. } => kind::CONFIGURE,
            Self::ExpireProducers { .. } => kind::EXPIRE_PRODUCERS,
        }
    }

    /// The payload of the entry. A batch stays the slice it is.
    pub fn into_data(self) -> Bytes {
        let mut out = vec![COMMAND_VERSION];
        match self {
            Self::Append(batch) => return batch,
            Self::Configure { version, config } => {
                out.put_u64(version.0);
                config.encode(&mut out);
            }
            Self::ExpireProducers { before } => out.put_i64(before.0),
        }
        Bytes::from(out)
    }

    /// How many records a command adds if it is accepted, by its kind and payload.
    pub fn record_count(kind: u8, data: &[u8]) -> u32 {
        let header = (kind == kind::APPEND).then(|| BatchHeader::parse(data).ok()).flatten();
        header.map_or(0, |header| u32::try_from(header.record_count).unwrap_or(0))
    }

    pub fn decode(kind: u8, data: &Bytes) -> Result<Self, CodecError> {
        if kind == kind::APPEND {
            return Ok(Self::Append(data.clone()));
        }
        let mut from = Decoder::new(data);
        from.version("a partition command", COMMAND_VERSION)?;
        let command = match kind {
            kind::CONFIGURE => {
                let version = ImageVersion(from.u64()?);
                Self::Configure { version, config: ApplyConfig::decode(&mut from)? }
            }
            kind::EXPIRE_PRODUCERS => Self::ExpireProducers { before: Wall(from.i64()?) },
            _ => return Err(CodecError::Value("the kind of a partition command")),
        };
        from.finish()?;
        Ok(command)
    }
}

impl ApplyConfig {
    pub fn of(configs: &TopicConfigs) -> Self {
        Self {
            message_bytes_max: configs.max_message_bytes(),
            log_append_time: configs.timestamp_type() == TimestampType::LogAppendTime,
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.put_u32(self.message_bytes_max);
        out.put_bool(self.log_append_time);
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        Ok(Self { message_bytes_max: from.u32()?, log_append_time: from.bool()? })
    }
}

impl Default for PartitionState {
    fn default() -> Self {
        Self::new()
    }
}

impl PartitionState {
    /// An empty partition, before its first Configure.
    pub fn new() -> Self {
        Self {
            configured: None,
            log_start: Offset(0),
            next_offset: Offset(0),
            epochs: LeaderEpochs::default(),
            producers: Producers::default(),
        }
    }

    pub fn log_start(&self) -> Offset {
        self.log_start
    }

    /// The applied end: Kafka's high watermark on the leader.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    pub fn epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// The image that the configuration in force was taken from.
    pub fn configured_version(&self) -> Option<ImageVersion> {
        self.configured.map(|(version, _)| version)
    }

    /// What a leader has to propose when its image says `configs` of `version`; nothing if that is in force, or newer.
    pub fn configure(&self, version: ImageVersion, configs: &TopicConfigs) -> Option<PartitionCommand> {
        let outdated = self.configured_version().is_none_or(|known| known < version);
        outdated.then(|| PartitionCommand::Configure { version, config: ApplyConfig::of(configs) })
    }

    /// As a checkpoint with a planted bug remembers it.
    #[cfg(feature = "mutants")]
    pub(crate) fn without_producers(&self) -> Self {
        Self { producers: Producers::default(), ..self.clone() }
    }

    /// Equal on two replicas exactly if their states are (but for collisions). For checks, never for decisions.
    pub fn state_hash(&self) -> u64 {
        let mut image = Vec::new();
        self.encode_image(&mut image);
        codec::hash(&image)
    }

    fn append(
        &mut self,
        entry: &Entry,
        batch: Bytes,
        batches: &mut Vec<AppliedBatch>,
    ) -> Result<AppendOutcome, ErrorCode> {
        let (_, config) = self.configured.expect("a leader proposes nothing before a Configure is applied");
        let allocation_bytes = batch.len();
        let view = BatchView::new(batch).expect("a leader proposes only batches that it has checked");
        let header = *view.header();
        if header.batch_bytes > config.message_bytes_max as usize {
            return Err(ErrorCode::MessageTooLarge);
        }
        let log_append_time = config.log_append_time.then_some(entry.header.stamp);
        let idempotent = header.producer.id >= 0;
        if idempotent {
            match self.producers.judge(header.producer, header.last_sequence()) {
                Verdict::Accept => {}
                Verdict::Duplicate { base_offset, log_append_time } => {
                    return Ok(AppendOutcome { base_offset, log_append_time, log_start_offset: self.log_start });
                }
                Verdict::Reject(error) => return Err(error),
            }
        }
        let base_offset = self.next_offset;
        let leader_epoch = LeaderEpoch::from_term(entry.term);
        let records = u32::try_from(header.record_count).expect("a leader proposes only batches that it has checked");
        let patched = view.patch_header(base_offset.0, leader_epoch.0, log_append_time.map(|time| time.0));
        self.epochs.wrote(leader_epoch, base_offset);
        if idempotent {
            let last = header.last_sequence();
            self.producers.wrote(header.producer, last, base_offset, entry.header.stamp, log_append_time);
        }
        self.next_offset = base_offset.plus(records);
        batches.push(AppliedBatch {
            header: Bytes::copy_from_slice(&patched),
            body: view.body(),
            base_offset,
            records,
            max_timestamp: log_append_time.map_or(header.max_timestamp, |time| time.0),
            leader_epoch,
            allocation_bytes,
        });
        Ok(AppendOutcome { base_offset, log_append_time, log_start_offset: self.log_start })
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        from.version("an image of a partition", IMAGE_VERSION)?;
        let configured = if from.bool()? {
            let version = ImageVersion(from.u64()?);
            Some((version, ApplyConfig::decode(from)?))
        } else {
            None
        };
        let state = Self {
            configured,
            log_start: Offset(from.i64()?),
            next_offset: Offset(from.i64()?),
            epochs: LeaderEpochs::decode(from)?,
            producers: Producers::decode(from)?,
        };
        if state.log_start < Offset(0) || state.log_start > state.next_offset {
            return Err(CodecError::Value("the offsets of a partition"));
        }
        Ok(state)
    }
}

impl StateMachine for PartitionState {
    type Response = Result<AppendOutcome, ErrorCode>;

    fn apply(&mut self, entry: &Entry, out: &mut ApplyOutput<Self::Response>) {
        let command = PartitionCommand::decode(entry.header.kind, &entry.data)
            .expect("committed commands were encoded by a leader of a level that this replica understands");
        match command {
            PartitionCommand::Append(batch) => {
                let outcome = self.append(entry, batch, &mut out.batches);
                out.respond(entry, outcome);
            }
            PartitionCommand::Configure { version, config } => {
                if self.configured_version().is_none_or(|known| known < version) {
                    self.configured = Some((version, config));
                }
            }
            PartitionCommand::ExpireProducers { before } => self.producers.expire(before),
        }
    }

    fn encode_image(&self, out: &mut Vec<u8>) {
        out.put_u8(IMAGE_VERSION);
        out.put_bool(self.configured.is_some());
        if let Some((version, config)) = self.configured {
            out.put_u64(version.0);
            config.encode(out);
        }
        out.put_i64(self.log_start.0);
        out.put_i64(self.next_offset.0);
        self.epochs.encode(out);
        self.producers.encode(out);
    }

    fn restore_image(image: &[u8]) -> Result<Self, ImageError> {
        let mut from = Decoder::new(image);
        let state = Self::decode(&mut from);
        let offset = image.len() - from.remaining();
        state
            .and_then(|state| from.finish().map(|()| state))
            .map_err(|_| ImageError::Damaged { offset, what: "the state of a partition" })
    }
}

#[cfg(test)]
mod tests {
    use kauri_protocol::records::{BatchBuilder, Compression, Producer};
    use proptest::prelude::*;

    use super::*;
    use crate::{
        command::{CommandHeader, WaiterToken},
        ids::{LogIndex, ReplicaId, Term},
    };

    fn batch(producer: Producer, records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        for record in 0..records {
            let value = Bytes::from(format!("value {record}"));
            builder.append(1000 + record as i64, None, Some(&value), &[]).unwrap();
        }
        builder.build(producer).unwrap()
    }

    fn entry(index: u64, term: u64, stamp: i64, command: PartitionCommand) -> Entry {
        let header = CommandHeader {
            kind: command.kind(),
            level: 1,
            origin: ReplicaId(1),
            token: WaiterToken(index),
            stamp: Wall(stamp),
        };
        Entry { index: LogIndex(index), term: Term(term), header, data: command.into_data() }
    }

    fn configure(version: u64, message_bytes_max: u32, log_append_time: bool) -> PartitionCommand {
        let config = ApplyConfig { message_bytes_max, log_append_time };
        PartitionCommand::Configure { version: ImageVersion(version), config }
    }

    fn apply(
        state: &mut PartitionState,
        entry: &Entry,
    ) -> (Option<Result<AppendOutcome, ErrorCode>>, Vec<AppliedBatch>) {
        let mut out = ApplyOutput::default();
        state.apply(entry, &mut out);
        (out.responses.pop().map(|response| response.response), out.batches)
    }

    fn idempotent(epoch: i16, base_sequence: i32) -> Producer {
        Producer { id: 5, epoch, base_sequence }
    }

    #[test]
    fn offsets_are_dense_and_a_repeated_batch_gets_the_same() {
        let mut state = PartitionState::new();
        apply(&mut state, &entry(2, 1, 0, configure(1, 1 << 20, false)));
        let first = entry(3, 1, 0, PartitionCommand::Append(batch(idempotent(0, 0), 3)));
        let (outcome, batches) = apply(&mut state, &first);
        assert_eq!(outcome.unwrap().unwrap().base_offset, Offset(0));
        assert_eq!(batches[0].records, 3);
        let (outcome, batches) =
            apply(&mut state, &entry(4, 2, 0, PartitionCommand::Append(batch(idempotent(0, 3), 2))));
        assert_eq!(outcome.unwrap().unwrap().base_offset, Offset(3));
        assert_eq!(batches[0].leader_epoch, LeaderEpoch(2));
        let (outcome, batches) = apply(&mut state, &entry(5, 2, 0, first_again()));
        assert_eq!(outcome.unwrap().unwrap().base_offset, Offset(0));
        assert!(batches.is_empty(), "it is in the log already");
        assert_eq!(state.next_offset(), Offset(5));
        assert_eq!(state.epochs().epoch_at(Offset(2)), Some(LeaderEpoch(1)));
        assert_eq!(state.epochs().epoch_at(Offset(3)), Some(LeaderEpoch(2)));

        fn first_again() -> PartitionCommand {
            PartitionCommand::Append(batch(idempotent(0, 0), 3))
        }
    }

    #[test]
    fn the_log_holds_offset_epoch_and_append_time_in_a_batch_whose_checksum_is_valid() {
        let mut state = PartitionState::new();
        apply(&mut state, &entry(2, 1, 0, configure(1, 1 << 20, true)));
        apply(&mut state, &entry(3, 1, 0, PartitionCommand::Append(batch(Producer::default(), 4))));
        let append = entry(4, 9, 77_000, PartitionCommand::Append(batch(Producer::default(), 2)));
        let (outcome, batches) = apply(&mut state, &append);
        assert_eq!(outcome.unwrap().unwrap().log_append_time, Some(Wall(77_000)));
        let bytes = Bytes::from([&batches[0].header[..], &batches[0].body[..]].concat());
        let view = BatchView::new(bytes).unwrap();
        view.validate_crc().unwrap();
        assert_eq!(view.header().base_offset, 4);
        assert_eq!(view.header().partition_leader_epoch, 9);
        assert_eq!(view.header().max_timestamp, 77_000);
    }

    #[test]
    fn an_older_configuration_is_ignored_and_a_large_batch_refused() {
        let mut state = PartitionState::new();
        apply(&mut state, &entry(2, 1, 0, configure(5, 100, false)));
        apply(&mut state, &entry(3, 1, 0, configure(4, 1 << 20, false)));
        let (outcome, _) = apply(&mut state, &entry(4, 1, 0, PartitionCommand::Append(batch(Producer::default(), 9))));
        assert_eq!(outcome, Some(Err(ErrorCode::MessageTooLarge)));
        assert_eq!(state.next_offset(), Offset(0));
    }

    proptest! {
        #[test]
        fn replicas_and_images_agree_whatever_is_applied(
            steps in proptest::collection::vec((0..4i64, 0..2i16, 0..6i32, 1..4usize, 0..50i64, any::<bool>()), 0..40),
        ) {
            let mut a = PartitionState::new();
            let mut b = PartitionState::new();
            let start = entry(2, 1, 0, configure(1, 1 << 20, false));
            apply(&mut a, &start);
            apply(&mut b, &start);
            for ((id, epoch, base_sequence, records, stamp, expire), index) in steps.into_iter().zip(3..) {
                let command = if expire {
                    PartitionCommand::ExpireProducers { before: Wall(stamp) }
                } else {
                    let producer = Producer { id: id - 1, epoch: if id == 0 { -1 } else { epoch }, base_sequence: if id == 0 { -1 } else { base_sequence } };
                    PartitionCommand::Append(batch(producer, records))
                };
                let entry = entry(index, 1 + index / 10, stamp, command);
                let before = a.next_offset();
                let (outcome, batches) = apply(&mut a, &entry);
                prop_assert_eq!(apply(&mut b, &entry).0, outcome);
                if let [batch] = &batches[..] {
                    prop_assert_eq!(batch.base_offset, before);
                    prop_assert_eq!(a.next_offset(), before.plus(batch.records));
                } else {
                    prop_assert_eq!(a.next_offset(), before);
                }
                let mut image = Vec::new();
                b.encode_image(&mut image);
                b = PartitionState::restore_image(&image).unwrap();
                prop_assert_eq!(&a, &b);
                prop_assert_eq!(a.state_hash(), b.state_hash());
            }
        }
    }
}
