//! The settings of one server, read from its layers.

use std::{collections::BTreeMap, fmt, io, path::PathBuf, str::FromStr};

use kauri_core::{
    config::{ConfigError, Endpoint, NodeConfig, PeerConfig},
    ids::NodeId,
};
use slog::Level;

use super::{
    key::Key,
    layer::{Layer, Origin},
};

/// What `kauri server` needs to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    pub config: NodeConfig,
    pub data_directory: PathBuf,
    /// Where to listen for clients.
    pub listen: Endpoint,
    /// Where to listen for peers.
    pub peer_listen: Endpoint,
    pub log_format: LogFormat,
    pub log_level: Level,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// What is wrong with a configuration. Each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("--config: {path} cannot be read: {error}")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{origin}: {message}")]
    Syntax { origin: Origin, message: String },
    #[error("{origin}: there is no key \"{key}\"{}", meant(.nearest.as_deref()))]
    UnknownKey { origin: Origin, key: String, nearest: Option<String> },
    #[error("there is no environment variable {name}{}", meant(.nearest.as_deref()))]
    UnknownVariable { name: String, nearest: Option<String> },
    #[error("{origin}: {key} must be {expected}, not {found}")]
    WrongType { origin: Origin, key: String, expected: &'static str, found: &'static str },
    #[error("{origin}: a node needs {key}")]
    NodeKeyMissing { origin: Origin, key: &'static str },
    #[error("{origin}: {key} must be {expected}, and \"{text}\" is not")]
    Value { origin: Origin, key: &'static str, expected: &'static str, text: String },
    #[error("{key} is missing: set it in the configuration file, with {variable}, or with {flag}")]
    Missing { key: &'static str, variable: String, flag: String },
    #[error(
        "advertised is missing: clients cannot connect to {listen}, so they must be told another address, \
         with advertised in the configuration file, KAURI_ADVERTISED, or --advertised"
    )]
    AdvertisedMissing { listen: Endpoint },
    #[error("{origin}: clients cannot connect to {endpoint}, so they cannot be told that address")]
    AdvertisedUnreachable { origin: Origin, endpoint: Endpoint },
    #[error("{origin}: node {node} cannot be reached at {address}: port 0 is none")]
    PeerPort { origin: Origin, node: NodeId, address: String },
    #[error("{origin}: nodes {first} and {second} cannot both be at {address}")]
    PeersAtOnePlace { origin: Origin, first: NodeId, second: NodeId, address: String },
    #[error("{0}")]
    Config(#[from] ConfigError),
}

impl ServerSettings {
    /// `layers` override each other in their order. `seed` is the source of the node's randomness.
    pub fn new(layers: impl IntoIterator<Item = Layer>, seed: u64) -> Result<Self, SettingsError> {
        let mut layer = Layer::default();
        layers.into_iter().for_each(|upper| layer.overlay(upper));
        let values = Values(layer);

        let node = NodeId(values.required(Key::Node, "a number from 0 to 2147483647")?);
        let peers: Vec<PeerConfig> = values.all(Key::Nodes, "ID=HOST:PORT or ID=HOST:PORT/learner")?;
        if peers.is_empty() {
            return Err(missing(Key::Nodes));
        }
        let data_directory: PathBuf = values.required(Key::DataDirectory, "a path")?;
        let default_listen = Endpoint { host: "127.0.0.1".to_owned(), port: 9092 };
        let listen: Endpoint = values.optional(Key::Listen, ENDPOINT)?.unwrap_or(default_listen);
        let advertised = match values.optional(Key::Advertised, ENDPOINT)? {
            Some(endpoint) if !can_be_dialled(&endpoint) => {
                let origin = values.origin(Key::Advertised);
                return Err(SettingsError::AdvertisedUnreachable { origin, endpoint });
            }
            Some(advertised) => advertised,
            None if !can_be_dialled(&listen) => return Err(SettingsError::AdvertisedMissing { listen }),
            None => listen.clone(),
        };
        let peer_listen = match values.optional(Key::PeerListen, ENDPOINT)? {
            Some(peer_listen) => peer_listen,
            // A node usually listens where its peers dial it. That it is listed is checked below.
            None => match peers.iter().find(|peer| peer.node == node) {
                Some(peer) => peer.address.parse().expect("addresses of nodes were parsed"),
                None => return Err(ConfigError::SelfMissing(node).into()),
            },
        };

        let mut config = NodeConfig::new(node, peers, advertised, seed);
        config.rack = values.optional(Key::Rack, "a name")?;
        values.replace(&mut config.auto_create_topics, Key::AutoCreateTopics, "true or false")?;
        values.replace(&mut config.default_partitions, Key::DefaultPartitions, NUMBER)?;
        values.replace(&mut config.default_replication_factor, Key::DefaultReplicationFactor, NUMBER)?;
        values.replace(&mut config.wal_file_bytes, Key::WalFileBytes, NUMBER)?;
        values.replace(&mut config.wal_budget_bytes, Key::WalBudgetBytes, NUMBER)?;
        values.replace(&mut config.segment_bytes, Key::SegmentBytes, NUMBER)?;
        values.replace(&mut config.scrub_bytes_per_second, Key::ScrubBytesPerSecond, NUMBER)?;
        config.check()?;
        values.check_addresses(&config.peers)?;

        Ok(Self {
            config,
            data_directory,
            listen,
            peer_listen,
            log_format: values.optional(Key::LogFormat, LogFormat::NAMES)?.unwrap_or_default(),
            log_level: values.optional(Key::LogLevel, LogLevel::NAMES)?.map_or(Level::Info, |LogLevel(level)| level),
        })
    }
}

const ENDPOINT: &str = "HOST:PORT";
const NUMBER: &str = "a whole number that is not too large";

struct Values(Layer);

impl Values {
    fn all<T: Parse>(&self, key: Key, expected: &'static str) -> Result<Vec<T>, SettingsError> {
        let values = self.0.values.get(&key).map_or(&[][..], Vec::as_slice);
        let parse = |(text, origin): &(String, Origin)| {
            T::parse(text).ok_or_else(|| SettingsError::Value {
                origin: origin.clone(),
                key: key.name(),
                expected,
                text: text.clone(),
            })
        };
        values.iter().map(parse).collect()
    }

    /// Where a value that is there was written.
    fn origin(&self, key: Key) -> Origin {
        let (_, origin) = self.0.values[&key].last().expect("a value was found here");
        origin.clone()
    }

    /// Whether peers can dial each node where it is said to be, and find that node there and no other.
    fn check_addresses(&self, peers: &[PeerConfig]) -> Result<(), SettingsError> {
        let mut places: BTreeMap<&str, NodeId> = BTreeMap::new();
        // Each is parsed from the value in the same place.
        for (peer, (_, origin)) in peers.iter().zip(&self.0.values[&Key::Nodes]) {
            let (node, address, origin) = (peer.node, peer.address.clone(), origin.clone());
            let endpoint: Endpoint = address.parse().expect("addresses of nodes were parsed");
            if endpoint.port == 0 {
                return Err(SettingsError::PeerPort { origin, node, address });
            }
            if let Some(first) = places.insert(&peer.address, node) {
                return Err(SettingsError::PeersAtOnePlace { origin, first, second: node, address });
            }
        }
        Ok(())
    }

    fn optional<T: Parse>(&self, key: Key, expected: &'static str) -> Result<Option<T>, SettingsError> {
        Ok(self.all(key, expected)?.pop())
    }

    fn required<T: Parse>(&self, key: Key, expected: &'static str) -> Result<T, SettingsError> {
        self.optional(key, expected)?.ok_or_else(|| missing(key))
    }

    fn replace<T: Parse>(&self, default: &mut T, key: Key, expected: &'static str) -> Result<(), SettingsError> {
        if let Some(value) = self.optional(key, expected)? {
            *default = value;
        }
        Ok(())
    }
}

trait Parse: Sized {
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! parse_from_str {
    ($($type:ty),*) => {$(
        impl Parse for $type {
            fn parse(text: &str) -> Option<Self> {
                Self::from_str(text).ok()
            }
        }
    )*};
}

parse_from_str!(bool, i16, i32, u64, Endpoint, LogFormat, LogLevel);

impl Parse for String {
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Parse for PathBuf {
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }
}

impl Parse for PeerConfig {
    fn parse(text: &str) -> Option<Self> {
        let (id, address) = text.split_once('=')?;
        let (address, voter) = match address.strip_suffix("/learner") {
            Some(address) => (address, false),
            None => (address, true),
        };
        let endpoint = Endpoint::parse(address)?;
        Some(Self { node: NodeId(id.parse().ok()?), address: endpoint.to_string(), voter })
    }
}

/// A text is not one of the names that are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {0}")]
pub struct UnknownName(&'static str);

/// How severe a record must be to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(pub Level);

impl LogFormat {
    const NAMES: &str = "human or json";
}

impl FromStr for LogFormat {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(UnknownName(Self::NAMES)),
        }
    }
}

impl LogLevel {
    const NAMES: &str = "error, warning, info or debug";
}

impl FromStr for LogLevel {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        match text {
            "error" => Ok(Self(Level::Error)),
            "warning" => Ok(Self(Level::Warning)),
            "info" => Ok(Self(Level::Info)),
            "debug" => Ok(Self(Level::Debug)),
            _ => Err(UnknownName(Self::NAMES)),
        }
    }
}

fn missing(key: Key) -> SettingsError {
    SettingsError::Missing { key: key.name(), variable: key.variable(), flag: key.flag() }
}

/// Whether somebody else can connect there. A port of 0 means any free one, and some addresses mean all of this
/// machine's: both are good to listen on only.
fn can_be_dialled(endpoint: &Endpoint) -> bool {
    endpoint.port != 0 && !matches!(endpoint.host.as_str(), "0.0.0.0" | "::" | "[::]" | "*")
}

fn meant(nearest: Option<&str>) -> impl fmt::Display {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}
