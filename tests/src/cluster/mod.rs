//! Clusters of separate processes.
//!
//! Each node is a `kauri server` with a configuration file, a data directory and a log in one temporary directory, which
//! is removed at the end, unless the thread panics.

mod node;
mod ports;
mod power;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

pub use self::{
    node::Node,
    ports::free as free_ports,
    power::{DiskKind, Keep, PowerDisk},
};
use crate::{
    kafka::{self, Connection},
    patience::until,
};

/// A cluster that forms, or starts again, needs much less; the machine may be busy.
pub const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long one look at a node may take: somebody else may have its port and say nothing.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);
/// Attempts to find ports that nobody takes meanwhile.
const ATTEMPTS: usize = 5;

/// What a cluster is made of.
#[derive(Debug, Default)]
pub struct Setup {
    /// Further lines for each node's configuration file.
    pub configuration: String,
    /// Whether the power of its disks can be cut, and what they are like then.
    pub disks: Option<DiskKind>,
    /// Another binary than the usual one.
    pub binary: Option<PathBuf>,
    /// Variables for its processes.
    pub environment: Vec<(&'static str, String)>,
}

#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    directory: Option<TempDir>,
}

impl Cluster {
    /// Starts so many nodes and waits until they serve.
    pub fn start(nodes: usize) -> Self {
        Self::start_with(nodes, "")
    }

    /// With further lines for each node's configuration file.
    pub fn start_with(nodes: usize, configuration: &str) -> Self {
        Self::start_as(nodes, &Setup { configuration: configuration.to_owned(), ..Setup::default() })
    }

    pub fn start_as(nodes: usize, setup: &Setup) -> Self {
        Self::start_on(nodes, setup, || ports::free(2 * nodes))
    }

    /// On ports that are proposed anew for each attempt: those of clients first, then those of peers.
    fn start_on(nodes: usize, setup: &Setup, mut propose: impl FnMut() -> Vec<u16>) -> Self {
        for _ in 0..ATTEMPTS {
            let mut cluster = Self::configure(nodes, setup, &propose());
            cluster.nodes.iter_mut().for_each(Node::start);
            if cluster.becomes_ready() {
                return cluster;
            }
        }
        panic!("ports that are free are taken by others again and again");
    }

    fn configure(nodes: usize, setup: &Setup, ports: &[u16]) -> Self {
        let directory = TempDir::with_prefix("kauri-tests-").expect("a temporary directory can be made");
        let (clients, peers) = ports.split_at(nodes);
        let peers: Vec<(i32, u16)> = (1..).zip(peers.iter().copied()).collect();
        let nodes = peers.iter().zip(clients);
        let nodes =
            nodes.map(|((id, _), client)| Node::configure(directory.path(), *id, *client, &peers, setup)).collect();
        Self { nodes, directory: Some(directory) }
    }

    /// Whether all nodes serve; false if a port was taken before a node bound it.
    fn becomes_ready(&mut self) -> bool {
        until("a cluster that serves", READY_PATIENCE, || {
            for node in &mut self.nodes {
                if let Some(status) = node.ended() {
                    let log = fs::read_to_string(&node.log).expect("a node that was started has a log");
                    if log.contains("Address already in use") {
                        return Some(false);
                    }
                    panic!("node {} ended while it should start, with {status}:\n{log}", node.id);
                }
            }
            self.serves().then_some(true)
        })
    }

    /// Waits until every node knows all nodes.
    pub fn wait_until_ready(&mut self) {
        assert!(self.becomes_ready(), "a port that a node had before is taken");
    }

    fn serves(&self) -> bool {
        self.nodes.iter().all(|node| {
            let metadata = Connection::open(&node.address).and_then(|mut connection| {
                connection.stream.set_read_timeout(Some(LOOK_PATIENCE))?;
                kafka::metadata(&mut connection, &[])
            });
            metadata.is_ok_and(|metadata| metadata.brokers.len() == self.nodes.len() && metadata.controller_id >= 0)
        })
    }

    /// For clients: all addresses, with commas.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<&str> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        addresses.join(",")
    }

    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("it is only taken at the end").path()
    }

    pub fn node(&mut self, id: i32) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).unwrap_or_else(|| panic!("there is a node {id}"))
    }

    /// The most memory that each node's process ever had.
    pub fn peak_memory_bytes(&self) -> Vec<u64> {
        self.nodes.iter().map(Node::peak_memory_bytes).collect()
    }

    /// Every node must still be the process that was started.
    pub fn assert_all_running(&mut self) {
        for node in &mut self.nodes {
            assert!(node.is_running(), "node {} ended: see {}", node.id, node.log.display());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        let directory = self.directory.take().expect("it is only taken here");
        if std::thread::panicking() {
            let kept = directory.keep();
            eprintln!("data and logs of the cluster are kept in {}", kept.display());
            for line in complaints(&kept) {
                eprintln!("{line}");
            }
        }
    }
}

/// What the nodes complained about last, for whoever reads only the output.
fn complaints(directory: &Path) -> Vec<String> {
    const LINES: usize = 20;
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut logs: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    let mut lines = Vec::new();
    for log in logs {
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        // Every record says how severe it is; what does not is a panic or the sentence of an exit.
        let all: Vec<&str> =
            text.lines().filter(|line| !line.contains(" INFO ") && !line.contains(" DEBUG ")).collect();
        lines.push(format!("--- {}, {} warnings and errors", log.display(), all.len()));
        lines.extend(all[all.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()));
    }
    lines
}

/// The `kauri` binary: the one named by KAURI_BINARY, or else the one built with this program.
pub fn binary() -> PathBuf {
    match std::env::var_os("KAURI_BINARY") {
        Some(path) => PathBuf::from(path),
        None => beside_this_program("kauri", "build it with `cargo build --release -p kauri`"),
    }
}

fn beside_this_program(name: &str, what_to_do: &str) -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let mut directory = program.parent().expect("a program lies in a directory");
    if directory.ends_with("deps") {
        directory = directory.parent().expect("deps lies in the directory of a profile");
    }
    let binary = directory.join(name);
    assert!(binary.is_file(), "{} does not exist: {what_to_do}", binary.display());
    binary
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_cluster_whose_ports_are_taken_starts_on_others() {
        for position in 0..2 {
            let taken: Vec<u16> = ports::free(2);
            let held = TcpListener::bind(("127.0.0.1", taken[position])).expect("it was free a moment ago");
            let mut proposals = [taken].into_iter();
            let mut cluster =
                Cluster::start_on(1, &Setup::default(), || proposals.next().unwrap_or_else(|| ports::free(2)));
            assert_ne!(cluster.nodes[0].address, held.local_addr().expect("it is bound").to_string());
            assert!(proposals.next().is_none(), "the ports that were taken were tried");
            cluster.assert_all_running();
        }
    }
}
