//! A node loses its data directory while an idempotent producer writes with acks=all: each node in turn, so that in the
//! end no disk of the beginning is left.
//!
//! After each loss the node is started on an empty directory, is refilled by the others, and `kauri topic describe` shows
//! it in sync again; partitions that it did not lead keep their leader's epoch all along. Afterwards every acknowledged
//! record is in the log once and in order, also with one of the other nodes gone, and `kauri log verify` finds nothing.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use super::{
    Extent,
    kill::{settle, summary},
    writer::Writer,
};
use crate::{
    cluster::{self, Cluster},
    kafka::{Client, Connection, metadata},
    patience::until,
};

const TOPIC: &str = "wiped";
const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);
/// A node gets everything that was ever written, while others write as fast as they can.
const REFILL_PATIENCE: Duration = Duration::from_secs(300);
const RECORDS: u64 = 500;

pub(super) fn run(extent: Extent) {
    let rounds = match extent {
        Extent::Quick => 1,
        Extent::Full => 12,
    };
    let mut cluster = Cluster::start(3);
    Client::new(&cluster.bootstrap(), PATIENCE).create_topic(TOPIC, PARTITIONS, 3);
    let mut writer = Writer::start(&cluster, TOPIC, PARTITIONS);
    let mut until_refilled = Vec::new();
    for round in 0..rounds {
        let victim = 1 + round % 3;
        settle(&cluster, &mut writer, TOPIC, PARTITIONS);
        let witness = cluster.nodes.iter().find(|node| node.id != victim).expect("there are three nodes");
        let witness = witness.address.clone();
        let before = until("partitions led by their preferred replicas", PATIENCE, || preferred_leaders(&witness));

        cluster.node(victim).kill();
        until("a node that is missed", PATIENCE, || (in_sync(&witness, TOPIC, victim) == 0).then_some(()));
        let node = cluster.node(victim);
        fs::remove_dir_all(&node.data_directory).expect("a data directory can be removed");
        let started = Instant::now();
        node.start();
        let all = PARTITIONS as usize;
        until("a node that is refilled", REFILL_PATIENCE, || (in_sync(&witness, TOPIC, victim) == all).then_some(()));
        let refilled = started.elapsed();
        let after = leaders(&witness);
        let mut kept = 0;
        for (partition, (leader, epoch)) in before.into_iter().filter(|(_, (leader, _))| *leader != victim) {
            assert_eq!(after[&partition], (leader, epoch), "{TOPIC}-{partition} was led by another node all along");
            kept += 1;
        }
        writer.wait_for(RECORDS, PATIENCE);
        cluster.wait_until_ready();
        println!(
            "round {round}: node {victim} lost its disk; in sync again after {} ms; {kept} partitions kept leader and epoch",
            refilled.as_millis()
        );
        until_refilled.push(refilled);
    }
    settle(&cluster, &mut writer, TOPIC, PARTITIONS);
    // With one of them gone, everything that was acknowledged lies on disks that were empty once.
    cluster.node(2).kill();
    let verified = writer.verify(&cluster, TOPIC, PARTITIONS);
    cluster.node(2).start();
    cluster.wait_until_ready();
    cluster.assert_all_running();
    for node in &mut cluster.nodes {
        let status = node.terminate();
        assert!(status.success(), "node {} ended with {status} after SIGTERM", node.id);
        verify_log(&node.data_directory);
    }
    summary("from the start on an empty disk to in sync", &until_refilled);
    println!("{} records, {} acknowledged: each once and in order", verified.records, verified.acknowledged);
}

/// Leader and its epoch, by partition, once the first replica of each leads it: nobody hands leadership over then.
fn preferred_leaders(address: &str) -> Option<BTreeMap<i32, (i32, i32)>> {
    let mut connection = Connection::open(address).expect("a node that runs takes connections");
    let answer = metadata(&mut connection, &[TOPIC]).expect("a node that runs answers");
    let partitions = &answer.topics.first().expect("it was asked for").partitions;
    let is_preferred = partitions.iter().all(|found| found.replica_nodes.first() == Some(&found.leader_id));
    is_preferred.then(|| leaders(address))
}

/// Leader and its epoch, by partition, as a node tells.
fn leaders(address: &str) -> BTreeMap<i32, (i32, i32)> {
    let mut connection = Connection::open(address).expect("a node that runs takes connections");
    let answer = metadata(&mut connection, &[TOPIC]).expect("a node that runs answers");
    let partitions = &answer.topics.first().expect("it was asked for").partitions;
    partitions.iter().map(|found| (found.partition_index, (found.leader_id, found.leader_epoch))).collect()
}

/// Of how many partitions of a topic `kauri topic describe` shows the node in sync.
pub(super) fn in_sync(bootstrap: &str, topic: &str, node: i32) -> usize {
    let output = Command::new(cluster::binary())
        .args(["topic", "describe", topic, "--bootstrap", bootstrap])
        .env_clear()
        .output()
        .expect("the binary can be run");
    let text = String::from_utf8(output.stdout).expect("it writes text");
    assert!(output.status.success(), "kauri topic describe: {}", String::from_utf8_lossy(&output.stderr));
    let nodes = text.lines().filter_map(|line| Some(line.split_once("in sync ")?.1));
    nodes.filter(|nodes| nodes.split(',').any(|word| word.parse() == Ok(node))).count()
}

/// `kauri log verify` finds nothing.
pub(super) fn verify_log(data_directory: &Path) {
    let output = Command::new(cluster::binary())
        .args(["log", "verify", "--data-dir"])
        .arg(data_directory)
        .env_clear()
        .output()
        .expect("the binary can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "kauri log verify of {}: {said}", data_directory.display());
}
