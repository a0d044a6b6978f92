//! The keys of a configuration, once: their names in a file, in the environment and as flags.

/// What may be configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Node,
    DataDirectory,
    Nodes,
    Listen,
    PeerListen,
    Advertised,
    Rack,
    AutoCreateTopics,
    DefaultPartitions,
    DefaultReplicationFactor,
    WalFileBytes,
    WalBudgetBytes,
    SegmentBytes,
    ScrubBytesPerSecond,
    LogFormat,
    LogLevel,
}

/// What a value looks like in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Number,
    Switch,
    Nodes,
}

impl Key {
    pub const ALL: [Self; 16] = [
        Self::Node,
        Self::DataDirectory,
        Self::Nodes,
        Self::Listen,
        Self::PeerListen,
        Self::Advertised,
        Self::Rack,
        Self::AutoCreateTopics,
        Self::DefaultPartitions,
        Self::DefaultReplicationFactor,
        Self::WalFileBytes,
        Self::WalBudgetBytes,
        Self::SegmentBytes,
        Self::ScrubBytesPerSecond,
        Self::LogFormat,
        Self::LogLevel,
    ];

    /// As in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::DataDirectory => "data_dir",
            Self::Nodes => "nodes",
            Self::Listen => "listen",
            Self::PeerListen => "peer_listen",
            Self::Advertised => "advertised",
            Self::Rack => "rack",
            Self::AutoCreateTopics => "auto_create_topics",
            Self::DefaultPartitions => "default_partitions",
            Self::DefaultReplicationFactor => "default_replication_factor",
            Self::WalFileBytes => "wal_file_bytes",
            Self::WalBudgetBytes => "wal_budget_bytes",
            Self::SegmentBytes => "segment_bytes",
            Self::ScrubBytesPerSecond => "scrub_bytes_per_second",
            Self::LogFormat => "log_format",
            Self::LogLevel => "log_level",
        }
    }

    /// As in the environment: `KAURI_DATA_DIR`.
    pub fn variable(self) -> String {
        format!("KAURI_{}", self.name().to_uppercase())
    }

    /// As a flag: `--data-dir`.
    pub fn flag(self) -> String {
        format!("--{}", self.name().replace('_', "-"))
    }

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Nodes => Kind::Nodes,
            Self::AutoCreateTopics => Kind::Switch,
            Self::Node
            | Self::DefaultPartitions
            | Self::DefaultReplicationFactor
            | Self::WalFileBytes
            | Self::WalBudgetBytes
            | Self::SegmentBytes
            | Self::ScrubBytesPerSecond => Kind::Number,
            Self::DataDirectory
            | Self::Listen
            | Self::PeerListen
            | Self::Advertised
            | Self::Rack
            | Self::LogFormat
            | Self::LogLevel => Kind::Text,
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a whole number",
            Self::Switch => "true or false",
            Self::Nodes => "a list of tables, written [[nodes]]",
        }
    }
}
