//! How a command fails: a sentence and an exit code.

use std::{io, path::PathBuf, process::ExitCode};

use kauri_client::{
    admin::AdminError,
    consumer::PartitionError,
    offsets::OffsetError,
    producer::{ProduceFailure, SendError},
};
use kauri_core::{config::Endpoint, io::Exit};
use kauri_protocol::records::BatchError;

use super::lines::LineError;
use crate::{
    driver::{DataDirectoryError, NodeEnd},
    settings::SettingsError,
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error("--data-dir: {0}")]
    DataDirectory(#[from] DataDirectoryError),
    #[error("--data-dir is needed: neither XDG_STATE_HOME nor HOME says where to keep data")]
    NoHome,
    #[error("--nodes {nodes}: {directory} holds a cluster of {found}; use --nodes {found}, or another --data-dir")]
    OtherCluster { nodes: usize, directory: PathBuf, found: usize },
    #[error(
        "--data-dir: {directory} holds the data of one server, and a cluster of nodes there would spoil it; name another"
    )]
    ServerDirectory { directory: PathBuf },
    #[error("--port {first}: {nodes} nodes need the ports up to {last}, and there are none above 65535")]
    Ports { first: u16, nodes: usize, last: usize },
    #[error("{flag}: {endpoint} cannot be listened on: {error}")]
    Listen { flag: &'static str, endpoint: Endpoint, error: io::Error },
    #[error("the system refuses what a node needs: {0}")]
    System(io::Error),
    #[error("standard output cannot be written: {0}")]
    Output(io::Error),
    #[error("{}{end}", node.map_or_else(String::new, |node| format!("node {node}: ")))]
    NodeEnded { node: Option<i32>, end: NodeEnd },
    #[error("the nodes did not stop within {seconds} s and were given up; nothing that was acknowledged is lost")]
    NotStopped { seconds: u64 },
    #[error(
        "asked to stop once more, the nodes were given up before they had stopped; nothing that was acknowledged is lost"
    )]
    Hurried,
    #[error("--bootstrap: {0}")]
    Cluster(AdminError),
    #[error("topic {topic} could not be {action}: {error}")]
    Topic { action: &'static str, topic: String, error: AdminError },
    #[error("topic {0} does not exist")]
    NoTopic(String),
    #[error("--partition {partition}: topic {topic} has only the partitions 0 to {}", .partitions - 1)]
    NoPartition { topic: String, partition: i32, partitions: usize },
    #[error("the end of partition {partition} of topic {topic} is not known: {error}")]
    NoEnd { topic: String, partition: i32, error: OffsetError },
    #[error("standard input cannot be read: {0}")]
    Input(io::Error),
    #[error("line {number}: {error}")]
    Line { number: u64, error: LineError },
    #[error("record {number} was not sent: {error}")]
    NotSent { number: u64, error: SendError },
    #[error("record {number} was not written: {error}")]
    NotWritten { number: u64, error: ProduceFailure },
    #[error("{0}")]
    NotRead(PartitionError),
    #[error(
        "partition {partition} of topic {topic} could not be read for {seconds} s: {last}; see whether its brokers are up, \
         or give them longer with --timeout"
    )]
    NotReadInTime { topic: String, partition: i32, seconds: u64, last: String },
    #[error("a batch of records is damaged: {0}")]
    DamagedBatch(BatchError),
    #[error("{0} records were not written")]
    BenchFailures(u64),
    #[error("{} cannot be read: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("damaged places: {0}; restore this directory from a copy, or the node from the other replicas")]
    DamageFound(usize),
    #[error("--data-dir: a node runs on {}; stop it first", path.display())]
    NodeRuns { path: PathBuf },
    #[error("--data-dir: {} and {} are the same directory, or one is a copy of the other; give one of them", first.display(), second.display())]
    SameDirectory { first: PathBuf, second: PathBuf },
    #[error("--data-dir: {} and {} belong to different clusters", first.display(), second.display())]
    DirectoriesOfClusters { first: PathBuf, second: PathBuf },
    #[error("nothing was changed; give --yes to go on with what is left, and lose what is lost")]
    NoConsent,
    #[error("none of these directories can be read")]
    NothingReadable,
    #[error("{}: {exit}; groups that are not done are as they were, and the same command goes on", path.display())]
    RecoverStopped { path: PathBuf, exit: Exit },
    #[error("groups that were not recovered: {0}")]
    NotRecovered(usize),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Settings(_)
            | Self::NoHome
            | Self::OtherCluster { .. }
            | Self::Ports { .. }
            | Self::SameDirectory { .. }
            | Self::DirectoriesOfClusters { .. }
            | Self::DataDirectory(DataDirectoryError::NotADirectory { .. }) => 2,
            Self::NodeRuns { .. }
            | Self::NoConsent
            | Self::ServerDirectory { .. }
            | Self::NodeEnded { end: NodeEnd::Exit(Exit::Refused(_)), .. } => 3,
            Self::DataDirectory(_)
            | Self::Listen { .. }
            | Self::System(_)
            | Self::Output(_)
            | Self::NodeEnded { .. }
            | Self::NotStopped { .. }
            | Self::Hurried
            | Self::Cluster(_)
            | Self::Topic { .. }
            | Self::NoTopic(_)
            | Self::NoPartition { .. }
            | Self::NoEnd { .. }
            | Self::Input(_)
            | Self::Line { .. }
            | Self::NotSent { .. }
            | Self::NotWritten { .. }
            | Self::NotRead(_)
            | Self::NotReadInTime { .. }
            | Self::DamagedBatch(_)
            | Self::BenchFailures(_)
            | Self::File { .. }
            | Self::DamageFound(_)
            | Self::NothingReadable
            | Self::RecoverStopped { .. }
            | Self::NotRecovered(_) => 1,
        })
    }
}
