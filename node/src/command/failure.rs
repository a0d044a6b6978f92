//! How a command fails: a sentence and an exit code.

use std::{io, path::PathBuf, process::ExitCode};

use kauri_core::{config::Endpoint, io::Exit};

use crate::{
    driver::{DataDirectoryError, NodeEnd},
    settings::SettingsError,
};

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Settings(#[from] SettingsError),
    #[error("--data-dir: {0}")]
    DataDirectory(#[from] DataDirectoryError),
    #[error("--data-dir is needed: neither XDG_STATE_HOME nor HOME says where to keep data")]
    NoHome,
    #[error("--nodes {nodes}: {directory} holds a cluster of {found}; use --nodes {found}, or another --data-dir")]
    OtherCluster { nodes: usize, directory: PathBuf, found: usize },
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
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Settings(_) | Self::NoHome | Self::OtherCluster { .. } | Self::Ports { .. } => 2,
            Self::NodeEnded { end: NodeEnd::Exit(Exit::Refused(_)), .. } => 3,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::DataDirectory(_)
            | Self::Listen { .. }
            | Self::System(_)
            | Self::Output(_)
            | Self::NodeEnded { .. }
            | Self::NotStopped { .. } => 1,
        })
    }
}
