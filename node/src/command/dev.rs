//! `kauri dev`: a whole cluster in one process, for trying things out and for tests.
//!
//! Each node has its own listeners, data directory and threads; they talk through real sockets.

use std::{
    fs, io,
    net::TcpListener,
    path::{Path, PathBuf},
};

use clap::Args;
use kauri_core::{
    config::{Endpoint, NodeConfig, PeerConfig},
    ids::NodeId,
    limits,
};
use slog::{Logger, o};

use super::{
    failure::Failure,
    running::{self, Running},
    say,
};
use crate::{
    driver::{Core, DataDirectory, DataDirectoryError, NodeSetup},
    logging::Log,
    settings::{LogFormat, LogLevel},
};

const HOST: &str = "127.0.0.1";
const NODES_DEFAULT: u16 = 3;
/// Files that the write-ahead log of a node may take.
const WAL_FILES: u64 = 16;

/// Runs a whole cluster in this process until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        kauri dev                                three nodes on 127.0.0.1:9092 to 9094\n  \
                        kauri dev --nodes 1 --port 19092         one node on another port\n  \
                        kauri dev --ephemeral                    forget everything at the end")]
pub(super) struct Dev {
    /// How many nodes [default: 3, or as many as the data directory holds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: Option<u16>,
    /// The first node listens on this port of 127.0.0.1, the others on those that follow; 0 takes any free ones
    #[arg(long, value_name = "PORT", default_value_t = 9092)]
    port: u16,
    /// Where to keep the data of all nodes [default: kauri/dev in the user's state directory]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Keep the data in a temporary directory and remove it at the end
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// How severe a record must be to be logged: error, warning, info or debug
    #[arg(long, value_name = "LEVEL", default_value = "warning")]
    log_level: LogLevel,
    /// How records are logged: human or json
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    log_format: LogFormat,
}

impl Dev {
    pub(super) fn run<C: Core>(
        self,
        new_core: impl Fn(NodeConfig, Logger) -> C + Clone + Send + 'static,
    ) -> Result<(), Failure> {
        let directory = Directory::choose(self.data_dir.clone(), self.ephemeral)?;
        refuse_server_directory(directory.path())?;
        let nodes = self.count(directory.path())?;
        // All ports are bound before the first node starts: a cluster that lacks a node helps nobody.
        let client_listeners = self.client_listeners(nodes)?;
        let peer_listeners = peer_listeners(nodes)?;
        let configs = configs(&client_listeners, &peer_listeners)?;

        let log = Log::to_standard_error(self.log_format, self.log_level.0).map_err(Failure::System)?;
        let mut running = Running::new(log.logger.clone());
        let bootstrap: Vec<String> = configs.iter().map(|config| config.advertised.to_string()).collect();
        for ((config, client_listener), peer_listener) in configs.into_iter().zip(client_listeners).zip(peer_listeners)
        {
            let name = format!("node-{}", config.node);
            let data_directory = DataDirectory::open(&directory.path().join(&name))?;
            let logger = log.logger.new(o!("broker" => config.node.0));
            let setup = NodeSetup { name, data_directory, client_listener, peer_listener, logger };
            running.start(config, setup, new_core.clone())?;
        }
        let result = running.run(
            || say(&directory.greeting(&bootstrap)),
            |nodes| {
                let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
                slog::warn!(log.logger, "still waiting for nodes to serve"; "nodes" => nodes.join(","));
            },
        );
        log.flush();
        result
    }

    /// How many nodes to start. A data directory that was used before must be used with the same number.
    fn count(&self, directory: &Path) -> Result<u16, Failure> {
        let found = (1u16..).take_while(|node| directory.join(format!("node-{node}")).is_dir()).count();
        match (self.nodes, u16::try_from(found).unwrap_or(u16::MAX)) {
            (None, 0) => Ok(NODES_DEFAULT),
            (None, found) => Ok(found),
            (Some(nodes), 0) => Ok(nodes),
            (Some(nodes), found) if nodes == found => Ok(nodes),
            (Some(nodes), found) => {
                Err(Failure::OtherCluster { nodes: nodes.into(), directory: directory.to_owned(), found: found.into() })
            }
        }
    }

    fn client_listeners(&self, nodes: u16) -> Result<Vec<TcpListener>, Failure> {
        let port = |node: u16| match self.port {
            0 => Some(0),
            first => first.checked_add(node),
        };
        let ports: Option<Vec<u16>> = (0..nodes).map(port).collect();
        let ports = ports.ok_or_else(|| Failure::Ports {
            first: self.port,
            nodes: nodes.into(),
            last: usize::from(self.port) + usize::from(nodes) - 1,
        })?;
        ports.into_iter().map(|port| running::listen("--port", &endpoint(port))).collect()
    }
}

/// A server keeps its data where a cluster has only the directories of its nodes. It refuses a directory with others
/// in it, so that it would never start again.
fn refuse_server_directory(directory: &Path) -> Result<(), Failure> {
    match ["identity", "wal"].iter().any(|name| directory.join(name).exists()) {
        true => Err(Failure::ServerDirectory { directory: directory.to_owned() }),
        false => Ok(()),
    }
}

/// Any free ports: where peers listen is no part of what a cluster remembers.
fn peer_listeners(nodes: u16) -> Result<Vec<TcpListener>, Failure> {
    (0..nodes).map(|_| TcpListener::bind((HOST, 0)).map_err(Failure::System)).collect()
}

fn configs(client_listeners: &[TcpListener], peer_listeners: &[TcpListener]) -> Result<Vec<NodeConfig>, Failure> {
    let count = peer_listeners.len();
    // An even number of voters tolerates no more failures than the odd number below it.
    let voters = limits::METADATA_VOTERS_MAX.min(if count.is_multiple_of(2) { count - 1 } else { count });
    let mut peers = Vec::with_capacity(count);
    for (position, listener) in peer_listeners.iter().enumerate() {
        let address = endpoint(port(listener)?).to_string();
        peers.push(PeerConfig { node: node_id(position), address, voter: position < voters });
    }
    let mut configs = Vec::with_capacity(count);
    for (position, listener) in client_listeners.iter().enumerate() {
        let advertised = endpoint(port(listener)?);
        let mut config = NodeConfig::new(node_id(position), peers.clone(), advertised, running::seed()?);
        // Several nodes share one disk, which is seldom a server's.
        config.wal_file_bytes = NodeConfig::WAL_FILE_BYTES_MIN;
        config.wal_budget_bytes = WAL_FILES * NodeConfig::WAL_FILE_BYTES_MIN;
        configs.push(config);
    }
    configs.iter().for_each(|config| config.check().expect("a cluster made here is configured well"));
    Ok(configs)
}

fn node_id(position: usize) -> NodeId {
    NodeId(i32::try_from(position + 1).expect("there are at most 64 nodes"))
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { host: HOST.to_owned(), port }
}

fn port(listener: &TcpListener) -> Result<u16, Failure> {
    Ok(listener.local_addr().map_err(Failure::System)?.port())
}

/// Where the nodes' data directories are.
enum Directory {
    Kept(PathBuf),
    /// Removed at the end.
    Ephemeral(PathBuf),
}

impl Directory {
    fn choose(named: Option<PathBuf>, ephemeral: bool) -> Result<Self, Failure> {
        if ephemeral {
            let path = std::env::temp_dir().join(format!("kauri-dev-{:016x}", running::seed()?));
            let unusable = |error| DataDirectoryError::Unusable { path: path.clone(), error };
            fs::create_dir(&path).map_err(unusable)?;
            return Ok(Self::Ephemeral(path));
        }
        let path = match named {
            Some(path) => path,
            None => default_directory(|name| std::env::var_os(name).map(PathBuf::from)).ok_or(Failure::NoHome)?,
        };
        // Where it is should be said in full, whatever directory the process was started in.
        Ok(Self::Kept(std::path::absolute(&path).map_err(|error| DataDirectoryError::Unusable { path, error })?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) | Self::Ephemeral(path) => path,
        }
    }

    fn greeting(&self, bootstrap: &[String]) -> String {
        let (count, all, one) = (bootstrap.len(), bootstrap.join(","), &bootstrap[0]);
        let nodes = if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
        let data = match self {
            Self::Kept(path) => format!("{} (used again at the next start)", path.display()),
            Self::Ephemeral(path) => format!("{} (removed at the end)", path.display()),
        };
        format!(
            r#"Kauri {version} is ready: {nodes}.

  bootstrap servers  {all}
  data               {data}

Try it with kcat:
  echo hello | kcat -P -b {one} -t greetings
  kcat -C -b {one} -t greetings -e

with Python (pip install kafka-python):
  python3 -c 'from kafka import KafkaProducer as P; p = P(bootstrap_servers="{one}"); p.send("greetings", b"hello").get(10)'
  python3 -c 'from kafka import KafkaConsumer as C; c = C("greetings", bootstrap_servers="{one}", group_id=None, auto_offset_reset="earliest", consumer_timeout_ms=3000); [print(r.value) for r in c]'

with Python (pip install confluent-kafka):
  python3 -c 'from confluent_kafka import Producer as P; p = P({{"bootstrap.servers": "{one}"}}); p.produce("greetings", b"hello"); p.flush(10)'

Ctrl-C stops it.
"#,
            version = env!("CARGO_PKG_VERSION"),
        )
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        match self {
            Self::Kept(_) => {}
            Self::Ephemeral(path) => match fs::remove_dir_all(&*path) {
                Ok(()) => {}
                // What stays behind is in the system's temporary directory.
                Err(error) => drop(io::Write::write_all(
                    &mut io::stderr(),
                    format!("{} could not be removed: {error}\n", path.display()).as_bytes(),
                )),
            },
        }
    }
}

/// A state directory per user, as the XDG base directory specification has it.
fn default_directory(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("kauri/dev"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_directory_is_the_users() {
        let directory = |variables: &[(&str, &str)]| {
            default_directory(|name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value))
            })
        };
        assert_eq!(directory(&[("HOME", "/home/a")]), Some("/home/a/.local/state/kauri/dev".into()));
        assert_eq!(directory(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "/x")]), Some("/x/kauri/dev".into()));
        assert_eq!(directory(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "x")]), directory(&[("HOME", "/home/a")]));
        assert_eq!(directory(&[]), None);
    }

    #[test]
    fn a_cluster_of_any_size_is_configured() {
        for (nodes, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
            let configs = configs(&peer_listeners(nodes).unwrap(), &peer_listeners(nodes).unwrap()).unwrap();
            assert_eq!(configs.len(), usize::from(nodes));
            assert_eq!(configs[0].peers.iter().filter(|peer| peer.voter).count(), voters);
            assert_ne!(configs[0].seed, configs.last().unwrap().seed + u64::from(nodes == 1));
        }
    }
}
