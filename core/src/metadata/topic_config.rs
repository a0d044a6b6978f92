//! The configurations of a topic: one table of names, types, defaults and what Kauri does with them.
//!
//! Invariant: a [`TopicConfigs`] holds names of [`TABLE`] only, each with a legal value in its canonical spelling, so
//! that the typed getters below cannot fail. What is not set explicitly has Kafka's default; defaults are not stored.

use std::collections::BTreeMap;

use kauri_protocol::records::TimestampType;

use super::refusal::Refusal;
use crate::{
    codec::{CodecError, Decoder, Encode},
    limits::{BATCH_BYTES_MAX, CONFIG_VALUE_BYTES_MAX},
};

/// One known configuration.
#[derive(Debug)]
pub struct ConfigKey {
    pub name: &'static str,
    pub kind: ConfigKind,
    pub default: &'static str,
    pub effect: Effect,
    /// One sentence for DescribeConfigs.
    pub documentation: &'static str,
}

/// Type and range of a value. Ranges include both ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ConfigKind {
    Boolean,
    /// A boolean that may only be false: what it switches on does not exist.
    Off,
    Int(i32, i32),
    Long(i64, i64),
    Double(f64, f64),
    /// One word of these.
    Choice(&'static [&'static str]),
    /// A comma-separated list of these words, at least one.
    Words(&'static [&'static str]),
    /// A comma-separated list of anything.
    List,
    Text,
}

/// What setting a configuration does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Kauri does what Kafka's documentation says.
    Honoured,
    /// Stored and shown, so that tools which set it work; changes nothing.
    Stored,
    /// As `Stored`, and no longer shown by Kafka unless it was set.
    Removed,
}

/// The type numbers of DescribeConfigs (KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum DescribedType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// One configuration as DescribeConfigs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedConfig {
    pub name: &'static str,
    pub value: String,
    /// Where the value comes from, in Kafka's numbers: 1 the topic, 4 the broker's own configuration, 5 the default.
    pub source: i8,
    pub read_only: bool,
    pub kind: DescribedType,
    pub documentation: &'static str,
}

use ConfigKind::{Boolean, Choice, Double, Int, List, Long, Off, Text, Words};
use Effect::{Honoured, Removed, Stored};

const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
const RETENTION_BYTES: &str = "retention.bytes";
const RETENTION_MS: &str = "retention.ms";
const SEGMENT_BYTES: &str = "segment.bytes";
const SEGMENT_MS: &str = "segment.ms";
const TIMESTAMP_AFTER_MAX_MS: &str = "message.timestamp.after.max.ms";
const TIMESTAMP_BEFORE_MAX_MS: &str = "message.timestamp.before.max.ms";
const TIMESTAMP_TYPE: &str = "message.timestamp.type";

const fn key(
    name: &'static str,
    kind: ConfigKind,
    default: &'static str,
    effect: Effect,
    documentation: &'static str,
) -> ConfigKey {
    ConfigKey { name, kind, default, effect, documentation }
}

const FOREVER: &str = "9223372036854775807";
const DURATION: ConfigKind = Long(0, i64::MAX);

/// Every configuration a topic can have, sorted by name. Names and defaults are those of Kafka 4.
#[rustfmt::skip]
pub static TABLE: &[ConfigKey] = &[
    key("cleanup.policy", Words(&["compact", "delete"]), "delete", Stored, "Whether old segments are deleted, compacted, or both."),
    key("compression.gzip.level", Int(-1, 9), "-1", Stored, "Batches are stored as producers compressed them."),
    key("compression.lz4.level", Int(1, 17), "9", Stored, "Batches are stored as producers compressed them."),
    key("compression.type", Choice(&["gzip", "lz4", "producer", "snappy", "uncompressed", "zstd"]), "producer", Stored, "Batches are stored as producers compressed them."),
    key("compression.zstd.level", Int(-131_072, 22), "3", Stored, "Batches are stored as producers compressed them."),
    key("delete.retention.ms", DURATION, "86400000", Stored, "How long a tombstone of a compacted topic stays, in milliseconds."),
    key("file.delete.delay.ms", DURATION, "60000", Stored, "Has no effect."),
    key("flush.messages", Long(1, i64::MAX), FOREVER, Stored, "Has no effect: every acknowledged record is flushed."),
    key("flush.ms", DURATION, FOREVER, Stored, "Has no effect: every acknowledged record is flushed."),
    key("follower.replication.throttled.replicas", List, "", Stored, "Has no effect."),
    key("index.interval.bytes", Int(0, i32::MAX), "4096", Stored, "Has no effect."),
    key("leader.replication.throttled.replicas", List, "", Stored, "Has no effect."),
    key("local.retention.bytes", Long(-2, i64::MAX), "-2", Stored, "Has no effect: there is no remote storage."),
    key("local.retention.ms", Long(-2, i64::MAX), "-2", Stored, "Has no effect: there is no remote storage."),
    key("max.compaction.lag.ms", Long(1, i64::MAX), FOREVER, Stored, "When a record must have been compacted, in milliseconds."),
    key(MAX_MESSAGE_BYTES, Int(0, BATCH_BYTES_MAX as i32), "1048588", Honoured, "Largest record batch, after compression."),
    key("message.downconversion.enable", Boolean, "true", Removed, "Has no effect."),
    key("message.format.version", Text, "3.0-IV1", Removed, "Has no effect."),
    key(TIMESTAMP_AFTER_MAX_MS, DURATION, "3600000", Honoured, "How far a record's timestamp may lie ahead of the broker's clock, in milliseconds."),
    key(TIMESTAMP_BEFORE_MAX_MS, DURATION, FOREVER, Honoured, "How far a record's timestamp may lie behind the broker's clock, in milliseconds."),
    key("message.timestamp.difference.max.ms", DURATION, FOREVER, Removed, "Has no effect."),
    key(TIMESTAMP_TYPE, Choice(&["CreateTime", "LogAppendTime"]), "CreateTime", Honoured, "Whether producers or the broker stamp records."),
    key("min.cleanable.dirty.ratio", Double(0.0, 1.0), "0.5", Stored, "Share of a compacted log that must be dirty before it is cleaned."),
    key("min.compaction.lag.ms", DURATION, "0", Stored, "How long a record stays uncompacted at least, in milliseconds."),
    key(MIN_INSYNC_REPLICAS, Int(1, i32::MAX), "1", Stored, "Every write is on disk on a majority of the replicas before it is acknowledged."),
    key("preallocate", Boolean, "false", Stored, "Has no effect."),
    key("remote.log.copy.disable", Off, "false", Stored, "There is no remote storage."),
    key("remote.log.delete.on.disable", Off, "false", Stored, "There is no remote storage."),
    key("remote.storage.enable", Off, "false", Stored, "There is no remote storage."),
    key(RETENTION_BYTES, Long(-1, i64::MAX), "-1", Stored, "Bytes of a partition that are kept; -1 keeps all."),
    key(RETENTION_MS, Long(-1, i64::MAX), "604800000", Stored, "How long records are kept, in milliseconds; -1 keeps them forever."),
    key(SEGMENT_BYTES, Int(1 << 20, i32::MAX), "1073741824", Honoured, "Size of a segment file."),
    key("segment.index.bytes", Int(4, i32::MAX), "10485760", Stored, "Has no effect."),
    key("segment.jitter.ms", DURATION, "0", Stored, "Has no effect."),
    key(SEGMENT_MS, Long(1, i64::MAX), "604800000", Stored, "When a segment is closed though it is not full, in milliseconds."),
    key("unclean.leader.election.enable", Boolean, "false", Stored, "Has no effect: no election loses acknowledged records."),
];

/// The known configuration of this name.
pub fn find(name: &str) -> Option<&'static ConfigKey> {
    TABLE.binary_search_by(|key| key.name.cmp(name)).ok().map(|position| &TABLE[position])
}

impl ConfigKind {
    pub fn described(self) -> DescribedType {
        match self {
            Boolean | Off => DescribedType::Boolean,
            Int(..) => DescribedType::Int,
            Long(..) => DescribedType::Long,
            Double(..) => DescribedType::Double,
            Choice(_) | Text => DescribedType::String,
            Words(_) | List => DescribedType::List,
        }
    }

    /// The one spelling in which a legal value is stored; `None` if the value is not legal.
    fn canonical(self, value: &str) -> Option<String> {
        let value = value.trim();
        if value.len() > CONFIG_VALUE_BYTES_MAX {
            return None;
        }
        match self {
            Boolean => value.to_ascii_lowercase().parse::<bool>().ok().map(|value| value.to_string()),
            Off => value.eq_ignore_ascii_case("false").then(|| "false".to_owned()),
            Int(min, max) => {
                let number = value.parse::<i32>().ok()?;
                (min..=max).contains(&number).then(|| number.to_string())
            }
            Long(min, max) => {
                let number = value.parse::<i64>().ok()?;
                (min..=max).contains(&number).then(|| number.to_string())
            }
            Double(min, max) => {
                let number = value.parse::<f64>().ok()?;
                (min..=max).contains(&number).then(|| number.to_string())
            }
            Choice(words) => words.contains(&value).then(|| value.to_owned()),
            Words(words) => {
                let mut given: Vec<&str> = value.split(',').map(str::trim).collect();
                given.sort_unstable();
                given.dedup();
                given.iter().all(|word| words.contains(word)).then(|| given.join(","))
            }
            List | Text => Some(value.to_owned()),
        }
    }
}

/// What was set explicitly for one topic, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicConfigs(BTreeMap<&'static str, String>);

impl TopicConfigs {
    /// Checks names and values. A name given twice has its last value.
    pub fn new<'a>(configs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Refusal> {
        let mut checked = BTreeMap::new();
        for (name, value) in configs {
            // A refused name goes back to its sender; no more of it than a name can have.
            let shown = || name.chars().take(100).collect::<String>();
            let key = find(name).ok_or_else(|| Refusal::UnknownConfig(shown()))?;
            let value = key.kind.canonical(value).ok_or_else(|| Refusal::InvalidConfigValue(shown()))?;
            checked.insert(key.name, value);
        }
        Ok(Self(checked))
    }

    /// What was set, sorted by name.
    pub fn explicit(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    pub fn is_explicit(&self, key: &ConfigKey) -> bool {
        self.0.contains_key(key.name)
    }

    /// The value in force: what was set, or the default.
    pub fn value(&self, key: &ConfigKey) -> &str {
        self.0.get(key.name).map_or(key.default, String::as_str)
    }

    /// Every configuration of the topic in the order of the names, defaults included. What Kafka has removed is shown
    /// only where it was set.
    pub fn describe(&self) -> impl Iterator<Item = DescribedConfig> {
        TABLE.iter().filter(|key| key.effect != Removed || self.is_explicit(key)).map(|key| DescribedConfig {
            name: key.name,
            value: self.value(key).to_owned(),
            source: if self.is_explicit(key) { 1 } else { 5 },
            read_only: false,
            kind: key.kind.described(),
            documentation: key.documentation,
        })
    }

    pub fn max_message_bytes(&self) -> u32 {
        u32::try_from(self.number(MAX_MESSAGE_BYTES)).expect("the table allows nothing negative")
    }

    pub fn timestamp_type(&self) -> TimestampType {
        match self.named(TIMESTAMP_TYPE) {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        }
    }

    /// Milliseconds a record's timestamp may lie behind the clock.
    pub fn timestamp_before_max_ms(&self) -> i64 {
        self.number(TIMESTAMP_BEFORE_MAX_MS)
    }

    /// Milliseconds a record's timestamp may lie ahead of the clock.
    pub fn timestamp_after_max_ms(&self) -> i64 {
        self.number(TIMESTAMP_AFTER_MAX_MS)
    }

    /// Size of a segment file, if it was set for this topic; the node's default otherwise.
    pub fn segment_bytes(&self) -> Option<u64> {
        self.0
            .get(SEGMENT_BYTES)
            .map(|value| value.parse().expect("only numbers in the range of the table were let in"))
    }

    pub fn segment_ms(&self) -> i64 {
        self.number(SEGMENT_MS)
    }

    /// -1: without limit.
    pub fn retention_bytes(&self) -> i64 {
        self.number(RETENTION_BYTES)
    }

    /// -1: forever.
    pub fn retention_ms(&self) -> i64 {
        self.number(RETENTION_MS)
    }

    pub fn min_insync_replicas(&self) -> i64 {
        self.number(MIN_INSYNC_REPLICAS)
    }

    fn named(&self, name: &str) -> &str {
        self.value(find(name).expect("asked with names of the table only"))
    }

    fn number(&self, name: &str) -> i64 {
        self.named(name).parse().expect("only numbers in the range of the table were let in")
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_count(self.0.len());
        for (name, value) in &self.0 {
            out.put_text(name);
            out.put_text(value);
        }
    }

    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let pairs = from.list(4, |from| Ok((from.text()?, from.text()?)))?;
        Self::new(pairs).map_err(|_| CodecError::Value("a topic configuration"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn single(name: &str, value: &str) -> Result<String, Refusal> {
        Ok(TopicConfigs::new([(name, value)])?.0.into_values().next().unwrap())
    }

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_legal() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        for key in TABLE {
            assert_eq!(key.kind.canonical(key.default).as_deref(), Some(key.default), "{}", key.name);
            assert!(!key.documentation.is_empty());
        }
    }

    #[test]
    fn values_are_stored_in_one_spelling() {
        assert_eq!(single("cleanup.policy", "delete, compact,delete").unwrap(), "compact,delete");
        assert_eq!(single("preallocate", "TRUE").unwrap(), "true");
        assert_eq!(single("retention.ms", " +0100 ").unwrap(), "100");
        assert_eq!(single("min.cleanable.dirty.ratio", "0.10").unwrap(), "0.1");
    }

    #[test]
    fn unknown_names_and_illegal_values_are_refused() {
        assert_eq!(single("no.such.thing", "1"), Err(Refusal::UnknownConfig("no.such.thing".to_owned())));
        for (name, value) in [
            ("cleanup.policy", "shred"),
            ("cleanup.policy", ""),
            ("compression.type", "GZIP"),
            ("max.message.bytes", "-1"),
            ("max.message.bytes", "2147483647"),
            ("segment.bytes", "14"),
            ("retention.ms", "-2"),
            ("retention.ms", "9223372036854775808"),
            ("min.cleanable.dirty.ratio", "NaN"),
            ("preallocate", "yes"),
            ("remote.storage.enable", "true"),
            ("leader.replication.throttled.replicas", &"x,".repeat(3000)),
        ] {
            assert_eq!(single(name, value), Err(Refusal::InvalidConfigValue(name.to_owned())), "{name}={value}");
        }
    }

    #[test]
    fn what_is_not_set_has_kafkas_default() {
        let configs = TopicConfigs::new([("retention.ms", "-1"), ("message.timestamp.type", "LogAppendTime")]).unwrap();
        assert_eq!(configs.retention_ms(), -1);
        assert_eq!(configs.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(configs.max_message_bytes(), 1_048_588);
        assert_eq!(configs.segment_bytes(), None);
        assert_eq!(configs.explicit().count(), 2);
    }

    #[test]
    fn a_description_has_every_configuration_and_its_source() {
        let configs = TopicConfigs::new([("retention.ms", "5"), ("message.downconversion.enable", "false")]).unwrap();
        let described: Vec<_> = configs.describe().collect();
        let find = |name| described.iter().find(|config| config.name == name);
        let retention = find("retention.ms").unwrap();
        assert_eq!((retention.value.as_str(), retention.source, retention.kind), ("5", 1, DescribedType::Long));
        let policy = find("cleanup.policy").unwrap();
        assert_eq!((policy.value.as_str(), policy.source, policy.kind), ("delete", 5, DescribedType::List));
        assert_eq!(find("message.downconversion.enable").map(|config| config.source), Some(1));
        assert_eq!(find("message.format.version"), None, "removed by Kafka, and not set here");
    }
}
