//! Two of three data directories are gone for good: `kauri recover` goes on with the third.
//!
//! All nodes are killed at once and two directories removed. The command says what it would do and changes nothing until
//! it is told to; afterwards all three nodes start, two of them on empty directories, everything that was acknowledged is
//! read, the two are refilled, and then the third one may go.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use super::{
    Extent,
    flip::kauri,
    kill::summary,
    wipe::{in_sync, verify_log},
};
use crate::{
    cluster::{self, Cluster, Node},
    kafka::Client,
    patience::until,
};

const TOPIC: &str = "recovered";
const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn run(extent: Extent) {
    let (rounds, records) = match extent {
        Extent::Quick => (2, 2_000),
        Extent::Full => (9, 50_000),
    };
    let mut cluster = Cluster::start(3);
    Client::new(&cluster.bootstrap(), PATIENCE).create_topic(TOPIC, PARTITIONS, 3);
    let mut written: Vec<String> = Vec::new();
    let mut until_refilled = Vec::new();
    for round in 0..rounds {
        // The first round loses the node that minted the cluster.
        let survivor = 1 + (round + 2) % 3;
        let values = (0..records).map(|record| format!("{round}-{record}-{}", "x".repeat(100)));
        write(&cluster, values, &mut written);
        until_in_sync(&mut cluster);
        let directory = cluster.node(survivor).data_directory.clone();
        let running = recover(&directory, &["--dry-run"]);
        assert_eq!(running.status.code(), Some(3), "a node runs there");
        assert!(String::from_utf8_lossy(&running.stderr).contains("a node runs on"));

        cluster.nodes.iter_mut().for_each(Node::kill);
        for node in cluster.nodes.iter().filter(|node| node.id != survivor) {
            fs::remove_dir_all(&node.data_directory).expect("a data directory can be removed");
        }
        let before = content(&directory);
        let planned = recover(&directory, &["--dry-run"]);
        assert_eq!(planned.status.code(), Some(0), "{}", String::from_utf8_lossy(&planned.stderr));
        let text = String::from_utf8(planned.stdout).expect("the plan is text");
        for partition in 0..PARTITIONS {
            assert!(text.contains(&format!("{TOPIC}-{partition} (group")), "{text}");
        }
        assert!(text.contains("goes on alone") && text.contains("MAY BE LOST"), "{text}");
        let refused = recover(&directory, &["--json"]);
        assert_eq!(refused.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&refused.stdout).contains("\"needed\":true"));
        assert!(content(&directory) == before, "a plan changed a file");

        let done = recover(&directory, &["--yes"]);
        let said = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(0), "{}{said}", String::from_utf8_lossy(&done.stderr));
        if round == 0 {
            print!("{said}");
        }
        let again = recover(&directory, &["--yes"]);
        assert_eq!(again.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&again.stdout).contains("There is nothing to do."));
        verify_log(&directory);

        let started = Instant::now();
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.wait_until_ready();
        assert_read(&cluster, &written);
        until_in_sync(&mut cluster);
        let refilled = started.elapsed();
        write(&cluster, (0..100).map(|record| format!("{round}-after-{record}")), &mut written);
        until_in_sync(&mut cluster);

        cluster.node(survivor).kill();
        assert_read(&cluster, &written);
        cluster.node(survivor).start();
        cluster.wait_until_ready();
        println!(
            "round {round}: of three directories that of node {survivor} was left; {} records read, all in sync after {} ms",
            written.len(),
            refilled.as_millis()
        );
        until_refilled.push(refilled);
    }
    cluster.assert_all_running();
    for node in &mut cluster.nodes {
        node.kill();
        verify_log(&node.data_directory);
    }
    summary("from the start on empty disks to in sync", &until_refilled);
}

fn write(cluster: &Cluster, values: impl Iterator<Item = String>, written: &mut Vec<String>) {
    let values: Vec<String> = values.collect();
    let mut lines = values.join("\n");
    lines.push('\n');
    kauri(cluster, TOPIC, &["produce"], lines.into_bytes());
    written.extend(values);
}

fn assert_read(cluster: &Cluster, written: &[String]) {
    let read = kauri(cluster, TOPIC, &["consume", "--exit"], Vec::new());
    let text = String::from_utf8(read.stdout).expect("text was written");
    let (mut read, mut expected): (Vec<&str>, Vec<&str>) =
        (text.lines().collect(), written.iter().map(String::as_str).collect());
    read.sort_unstable();
    expected.sort_unstable();
    assert!(read == expected, "{} records were written and {} read", expected.len(), read.len());
}

/// Every node has a replica of every partition that follows.
fn until_in_sync(cluster: &mut Cluster) {
    let witness = cluster.nodes[0].address.clone();
    let all = PARTITIONS as usize;
    until("all replicas in sync", PATIENCE, || (1..=3).all(|node| in_sync(&witness, TOPIC, node) == all).then_some(()));
}

fn recover(directory: &Path, flags: &[&str]) -> Output {
    let mut command = Command::new(cluster::binary());
    command.args(["recover", "--data-dir"]).arg(directory).args(flags).env_clear();
    command.output().expect("the binary was run before")
}

/// All files below a directory.
fn content(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a data directory can be read") {
            let path = entry.expect("a data directory can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let bytes = fs::read(&path).expect("a file can be read");
                found.insert(path, bytes);
            }
        }
    }
    found
}
