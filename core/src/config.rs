//! What a node is told at its start: who it is, who its peers are, and the few values an operator may choose.
//!
//! Invariant: a [`NodeConfig`] that passed [`NodeConfig::check`] needs no further check anywhere. Does not own where
//! the values come from (a file, the environment, a simulator), nor anything that replicas must agree on: that is
//! proposed to the group and becomes its state.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use bytes::Bytes;

use crate::{ids::NodeId, limits};

/// A host and a port, as clients and peers dial it. An IPv6 address is kept without its brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub host: String,
    pub port: u16,
}

/// One node named in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub node: NodeId,
    /// `host:port` of its listener for peers. May change from one start to the next.
    pub address: String,
    /// Whether it votes in the metadata group when the cluster forms; the others learn.
    pub voter: bool,
}

/// The configuration of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    pub node: NodeId,
    /// Every configured node, this one included.
    pub peers: Vec<PeerConfig>,
    /// Where clients are told to connect to.
    pub advertised: Endpoint,
    /// Kafka's broker.rack.
    pub rack: Option<String>,
    /// The source of every random stream of this start. Drivers draw it from the system, simulators choose it.
    pub seed: u64,
    /// Kafka's auto.create.topics.enable.
    pub auto_create_topics: bool,
    /// Kafka's num.partitions.
    pub default_partitions: i32,
    /// Kafka's default.replication.factor. At least 1 and at most the number of configured nodes.
    pub default_replication_factor: i16,
    /// Size of one WAL file.
    pub wal_file_bytes: u64,
    /// What all WAL files may take. At least [`limits::WAL_FILES_MIN`] files.
    pub wal_budget_bytes: u64,
    /// How much the WAL grows until a checkpoint is taken; `None`: an eighth of its budget.
    pub checkpoint_bytes: Option<u64>,
    /// A checkpoint is taken after this time if anything changed.
    pub checkpoint_interval: Duration,
    /// Kafka's log.segment.bytes: the size at which a segment is finished.
    pub segment_bytes: u64,
    /// How fast files are read to find damage; zero: not at all.
    pub scrub_bytes_per_second: u64,
    /// Time between two rounds of that.
    pub scrub_interval: Duration,
    /// Names this build. An entry that a build could not apply is tried again by a build of another name.
    pub build: String,
    /// This build panics when it applies a command that holds these bytes. Set by simulations and tests only: they show
    /// what becomes of the replica then.
    pub poison: Option<Bytes>,
}

/// Why a configuration is refused. Each is a sentence an operator can act on; they name the thing, and whoever read
/// the configuration adds where it came from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("node ids start at 0, and {0} is below")]
    NegativeNode(NodeId),
    #[error("node {0} is configured twice")]
    DuplicateNode(NodeId),
    #[error("the list of nodes does not name this node, {0}")]
    SelfMissing(NodeId),
    #[error("no node is a voter: at least one must be")]
    NoVoter,
    #[error("{0} nodes are voters, but the metadata group has at most {max}", max = limits::METADATA_VOTERS_MAX)]
    TooManyVoters(usize),
    #[error("the default number of partitions is {0}, but must lie between 1 and {max}", max = limits::TOPIC_PARTITIONS_MAX)]
    Partitions(i32),
    #[error("the default replication factor is {factor}, but must lie between 1 and {max}")]
    ReplicationFactor { factor: i16, max: usize },
    #[error(
        "a WAL file of {0} bytes is too small or not a multiple of {block}: use a multiple of at least {min}",
        block = limits::WAL_BLOCK_BYTES,
        min = NodeConfig::WAL_FILE_BYTES_MIN
    )]
    WalFileBytes(u64),
    #[error("a WAL budget of {budget} bytes is too small: {files} files of {file} bytes are the least", files = limits::WAL_FILES_MIN)]
    WalBudgetBytes { budget: u64, file: u64 },
    #[error("a segment of {0} bytes is out of range: use {min} to {max}", min = NodeConfig::SEGMENT_BYTES_MIN, max = NodeConfig::SEGMENT_BYTES_MAX)]
    SegmentBytes(u64),
}

/// Why a text is not an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not HOST:PORT")]
pub struct EndpointError(pub String);

impl NodeConfig {
    /// What this build calls itself.
    pub const BUILD: &'static str = concat!("kauri ", env!("CARGO_PKG_VERSION"));
    /// Holds the largest batch and two full writes, see the relations in [`limits`].
    pub const WAL_FILE_BYTES_MIN: u64 = 40 << 20;
    /// Kafka's lower bound is 1 MiB as well.
    pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
    /// Positions within a segment are 32 bits wide and signed in Kafka's tools.
    pub const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

    /// The defaults for a node among `peers`: replication factor 3, or fewer where there are fewer nodes.
    pub fn new(node: NodeId, peers: Vec<PeerConfig>, advertised: Endpoint, seed: u64) -> Self {
        let default_replication_factor = i16::try_from(peers.len().clamp(1, 3)).expect("at most 3");
        Self {
            node,
            peers,
            advertised,
            rack: None,
            seed,
            auto_create_topics: true,
            default_partitions: 1,
            default_replication_factor,
            wal_file_bytes: limits::WAL_FILE_BYTES,
            wal_budget_bytes: limits::WAL_BUDGET_BYTES,
            checkpoint_bytes: None,
            checkpoint_interval: limits::CHECKPOINT_INTERVAL,
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            scrub_bytes_per_second: limits::SCRUB_BYTES_PER_SECOND,
            scrub_interval: limits::SCRUB_INTERVAL,
            build: Self::BUILD.to_owned(),
            poison: None,
        }
    }

    /// The growth of the WAL after which a checkpoint is due.
    pub fn checkpoint_after_bytes(&self) -> u64 {
        self.checkpoint_bytes.unwrap_or(self.wal_budget_bytes / 8)
    }

    /// The first thing wrong with this configuration, if anything is.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut nodes = BTreeSet::new();
        for peer in &self.peers {
            if peer.node.0 < 0 {
                return Err(ConfigError::NegativeNode(peer.node));
            }
            if !nodes.insert(peer.node) {
                return Err(ConfigError::DuplicateNode(peer.node));
            }
        }
        if !nodes.contains(&self.node) {
            return Err(ConfigError::SelfMissing(self.node));
        }
        match self.peers.iter().filter(|peer| peer.voter).count() {
            0 => return Err(ConfigError::NoVoter),
            voters if voters > limits::METADATA_VOTERS_MAX => return Err(ConfigError::TooManyVoters(voters)),
            _ => {}
        }
        if !(1..=limits::TOPIC_PARTITIONS_MAX).contains(&self.default_partitions) {
            return Err(ConfigError::Partitions(self.default_partitions));
        }
        let replicas_max = limits::REPLICAS_MAX.min(self.peers.len());
        if !usize::try_from(self.default_replication_factor).is_ok_and(|factor| (1..=replicas_max).contains(&factor)) {
            return Err(ConfigError::ReplicationFactor { factor: self.default_replication_factor, max: replicas_max });
        }
        if self.wal_file_bytes < Self::WAL_FILE_BYTES_MIN
            || !self.wal_file_bytes.is_multiple_of(limits::WAL_BLOCK_BYTES as u64)
        {
            return Err(ConfigError::WalFileBytes(self.wal_file_bytes));
        }
        if self.wal_budget_bytes / limits::WAL_FILES_MIN < self.wal_file_bytes {
            return Err(ConfigError::WalBudgetBytes { budget: self.wal_budget_bytes, file: self.wal_file_bytes });
        }
        if !(Self::SEGMENT_BYTES_MIN..=Self::SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return Err(ConfigError::SegmentBytes(self.segment_bytes));
        }
        Ok(())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(error)?,
            // More than one colon without brackets: where the address ends is a guess, and guesses are refused.
            None if host.contains([':', ']']) => return Err(error()),
            None => host,
        };
        if host.is_empty() {
            return Err(error());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

const _: () = assert!(NodeConfig::WAL_FILE_BYTES_MIN > limits::BATCH_BYTES_MAX as u64 + (1 << 20));
const _: () = assert!(NodeConfig::WAL_FILE_BYTES_MIN > limits::WAL_WRITE_BYTES_MAX as u64 * 2);

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: i32) -> PeerConfig {
        PeerConfig { node: NodeId(node), address: format!("127.0.0.1:{}", 9192 + node), voter: true }
    }

    fn three() -> NodeConfig {
        NodeConfig::new(NodeId(1), vec![peer(1), peer(2), peer(3)], "localhost:9092".parse().unwrap(), 7)
    }

    #[test]
    fn the_defaults_are_accepted() {
        assert_eq!(three().check(), Ok(()));
        assert_eq!(three().default_replication_factor, 3);
        let alone = NodeConfig::new(NodeId(0), vec![peer(0)], "localhost:9092".parse().unwrap(), 7);
        assert_eq!(alone.check(), Ok(()));
        assert_eq!(alone.default_replication_factor, 1);
    }

    #[test]
    fn each_mistake_is_named() {
        let check = |change: fn(&mut NodeConfig), sentence: &str| {
            let mut config = three();
            change(&mut config);
            assert_eq!(config.check().unwrap_err().to_string(), sentence);
        };
        check(|c| c.peers[2].node = NodeId(-3), "node ids start at 0, and -3 is below");
        check(|c| c.peers[2].node = NodeId(2), "node 2 is configured twice");
        check(|c| c.node = NodeId(4), "the list of nodes does not name this node, 4");
        check(|c| c.peers.iter_mut().for_each(|p| p.voter = false), "no node is a voter: at least one must be");
        check(
            |c| c.peers.extend([peer(4), peer(5), peer(6)]),
            "6 nodes are voters, but the metadata group has at most 5",
        );
        check(|c| c.default_partitions = 0, "the default number of partitions is 0, but must lie between 1 and 10000");
        check(
            |c| c.default_replication_factor = 4,
            "the default replication factor is 4, but must lie between 1 and 3",
        );
        check(
            |c| c.wal_file_bytes = 4096,
            "a WAL file of 4096 bytes is too small or not a multiple of 4096: use a multiple of at least 41943040",
        );
        check(
            |c| c.wal_budget_bytes = 8 * c.wal_file_bytes - 1,
            "a WAL budget of 536870911 bytes is too small: 8 files of 67108864 bytes are the least",
        );
        check(|c| c.segment_bytes = 5, "a segment of 5 bytes is out of range: use 1048576 to 2147483647");
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let ok = |text: &str, host: &str, port| {
            assert_eq!(text.parse(), Ok(Endpoint { host: host.to_owned(), port }));
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        };
        ok("localhost:9092", "localhost", 9092);
        ok("10.0.0.1:1", "10.0.0.1", 1);
        ok("[::1]:9092", "::1", 9092);
        for text in ["", "localhost", ":9092", "localhost:", "localhost:65536", "::1:9092", "[::1:9092", "[]:1"] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError(text.to_owned())), "{text}");
        }
    }
}
