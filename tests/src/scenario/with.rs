//! A cluster for the time that some other command runs.

use std::process::{Command, ExitCode};

use crate::cluster::Cluster;

pub(super) fn run(nodes: &str, command: &[&str]) -> ExitCode {
    let nodes = nodes.parse().unwrap_or_else(|_| panic!("\"{nodes}\" is no number of nodes"));
    let mut cluster = Cluster::start(nodes);
    let status = Command::new(command[0])
        .args(&command[1..])
        .env("KAURI_BOOTSTRAP", cluster.bootstrap())
        .status()
        .unwrap_or_else(|error| panic!("{} cannot be run: {error}", command[0]));
    // Keeps data and logs, because something about the cluster made the command fail.
    assert!(status.success(), "{} failed with {status}", command.join(" "));
    cluster.assert_all_running();
    for node in &mut cluster.nodes {
        let status = node.terminate();
        assert!(status.success(), "node {} ended with {status} after SIGTERM: see {}", node.id, node.log.display());
    }
    ExitCode::SUCCESS
}
