//! `kauri server`: one node of a cluster.

use std::path::PathBuf;

use clap::Args;
use kauri_core::config::NodeConfig;
use slog::{Logger, info, o};

use super::{
    failure::Failure,
    running::{self, Running},
    say,
};
use crate::{
    driver::{Core, DataDirectory, NodeSetup},
    logging::Log,
    settings::{Key, Layer, ServerSettings},
};

/// Runs one node of a cluster until it is asked to stop
#[derive(Debug, Args)]
#[command(after_help = "Every flag may also stand in the file (--data-dir as data_dir) or in the environment \
                        (KAURI_DATA_DIR); flags override the environment, and that the file.\n\n\
                        Examples:\n  \
                        kauri server --config /etc/kauri.toml\n  \
                        kauri server --config /etc/kauri.toml --check-config\n  \
                        kauri server --node 1 --nodes 1=127.0.0.1:9192 --data-dir /var/lib/kauri")]
pub(super) struct Server {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only check the configuration and say what it amounts to
    #[arg(long)]
    check_config: bool,
    /// The id of this node
    #[arg(long, value_name = "ID")]
    node: Option<String>,
    /// Where this node keeps its data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// All nodes of the cluster and where their peers reach them, with /learner behind those that do not vote
    #[arg(long, value_name = "ID=HOST:PORT,...")]
    nodes: Option<String>,
    /// Where to listen for clients [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Where to listen for peers [default: this node's address in --nodes]
    #[arg(long, value_name = "HOST:PORT")]
    peer_listen: Option<String>,
    /// The address that clients are told [default: that of --listen]
    #[arg(long, value_name = "HOST:PORT")]
    advertised: Option<String>,
    /// The rack this node stands in
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// Whether topics are created when clients first use them [default: true]
    #[arg(long, value_name = "BOOL")]
    auto_create_topics: Option<String>,
    /// Partitions of topics created without a number [default: 1]
    #[arg(long, value_name = "N")]
    default_partitions: Option<String>,
    /// Replicas of topics created without a number [default: 3, or fewer with fewer nodes]
    #[arg(long, value_name = "N")]
    default_replication_factor: Option<String>,
    /// Size of one file of the write-ahead log [default: 67108864]
    #[arg(long, value_name = "BYTES")]
    wal_file_bytes: Option<String>,
    /// What all files of the write-ahead log may take [default: 4294967296]
    #[arg(long, value_name = "BYTES")]
    wal_budget_bytes: Option<String>,
    /// Size of one file of a partition's log [default: 1073741824]
    #[arg(long, value_name = "BYTES")]
    segment_bytes: Option<String>,
    /// How fast files are read to find damage; 0: not at all [default: 8388608]
    #[arg(long, value_name = "BYTES")]
    scrub_bytes_per_second: Option<String>,
    /// human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warning, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Server {
    pub(super) fn run<C: Core>(
        self,
        new_core: impl FnOnce(NodeConfig, Logger) -> C + Send + 'static,
    ) -> Result<(), Failure> {
        let check_only = self.check_config;
        let settings = self.settings()?;
        if check_only {
            DataDirectory::check(&settings.data_directory)?;
            return say(&summary(&settings));
        }
        let ServerSettings { config, data_directory, listen, peer_listen, log_format, log_level } = settings;
        let data_directory = DataDirectory::open(&data_directory)?;
        let client_listener = running::listen("--listen", &listen)?;
        let peer_listener = running::listen("--peer-listen", &peer_listen)?;

        let log = Log::to_standard_error(log_format, log_level).map_err(Failure::System)?;
        let logger = log.logger.new(o!("broker" => config.node.0));
        info!(logger, "starting"; "version" => super::version(), "clients" => %listen, "peers" => %peer_listen,
            "data_dir" => %data_directory.path().display());
        let mut running = Running::new(logger.clone());
        let name = format!("node-{}", config.node);
        let setup = NodeSetup { name, data_directory, client_listener, peer_listener, logger: logger.clone() };
        running.start(config, setup, new_core)?;
        let result = running.run(
            || {
                info!(logger, "serving");
                Ok(())
            },
            |_| info!(logger, "not serving yet: a majority of the voters is needed"),
        );
        log.flush();
        result
    }

    fn settings(self) -> Result<ServerSettings, Failure> {
        let file = match &self.config {
            Some(path) => Layer::from_file(path)?,
            None => Layer::default(),
        };
        // Variables that are no text cannot be ours.
        let variables = std::env::vars_os();
        let variables =
            variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let environment = Layer::from_environment(variables)?;
        Ok(ServerSettings::new([file, environment, self.flags()], running::seed()?)?)
    }

    fn flags(self) -> Layer {
        Layer::default()
            .with_flag(Key::Node, self.node)
            .with_flag(Key::DataDirectory, self.data_dir)
            .with_flag(Key::Nodes, self.nodes)
            .with_flag(Key::Listen, self.listen)
            .with_flag(Key::PeerListen, self.peer_listen)
            .with_flag(Key::Advertised, self.advertised)
            .with_flag(Key::Rack, self.rack)
            .with_flag(Key::AutoCreateTopics, self.auto_create_topics)
            .with_flag(Key::DefaultPartitions, self.default_partitions)
            .with_flag(Key::DefaultReplicationFactor, self.default_replication_factor)
            .with_flag(Key::WalFileBytes, self.wal_file_bytes)
            .with_flag(Key::WalBudgetBytes, self.wal_budget_bytes)
            .with_flag(Key::SegmentBytes, self.segment_bytes)
            .with_flag(Key::ScrubBytesPerSecond, self.scrub_bytes_per_second)
            .with_flag(Key::LogFormat, self.log_format)
            .with_flag(Key::LogLevel, self.log_level)
    }
}

fn summary(settings: &ServerSettings) -> String {
    let voters = settings.config.peers.iter().filter(|peer| peer.voter).count();
    format!(
        "The configuration is fine: node {} of {} ({voters} voting), data in {}, clients at {} (told {}), peers at {}.\n",
        settings.config.node,
        settings.config.peers.len(),
        settings.data_directory.display(),
        settings.listen,
        settings.config.advertised,
        settings.peer_listen,
    )
}
