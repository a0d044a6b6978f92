//! kill -9 while an idempotent producer writes with acks=all: of the node that leads, and of all nodes.
//!
//! Afterwards every acknowledged record is in the log once and in order. Measured is how long a partition has no
//! leader, how long a producer of librdkafka goes without an acknowledgement, and how long a restart takes.

use std::time::{Duration, Instant};

use super::{Extent, writer::Writer};
use crate::{
    cluster::{Cluster, Node},
    kafka::{Client, Connection, metadata},
    patience::until,
};

const TOPIC: &str = "killed";
const PARTITIONS: i32 = 6;
const PATIENCE: Duration = Duration::from_secs(60);
/// Records of each partition acknowledged before a kill. A writer has up to 200 outstanding per partition, so this many
/// after a kill were not all on their way before.
const RECORDS: u64 = 500;

fn rounds(extent: Extent) -> usize {
    match extent {
        Extent::Quick => 3,
        Extent::Full => 20,
    }
}

pub(super) fn leader(extent: Extent) {
    let (mut cluster, mut writer) = start();
    let mut without_leader = Vec::new();
    let mut without_acknowledgement = Vec::new();
    for round in 0..rounds(extent) {
        let partition = i32::try_from(round).expect("few rounds") % PARTITIONS;
        settle(&cluster, &mut writer, TOPIC, PARTITIONS);
        let mut client = Client::new(&cluster.bootstrap(), PATIENCE);
        let leader = client.leader_id(TOPIC, partition);
        let led: Vec<i32> = (0..PARTITIONS).filter(|led| client.leader_id(TOPIC, *led) == leader).collect();
        let survivor = cluster.nodes.iter().find(|node| node.id != leader).expect("there are three nodes");
        let mut survivor = Connection::open(&survivor.address).expect("a node that runs takes connections");
        writer.report();

        let killed = Instant::now();
        cluster.node(leader).kill();
        for partition in &led {
            until("another leader", PATIENCE, || other_leader(&mut survivor, *partition, leader));
        }
        let gap = killed.elapsed();
        let gaps = writer.wait_for(RECORDS, PATIENCE);
        let longest = led.iter().map(|partition| gaps[*partition as usize]).max();
        let longest = longest.expect("it led one partition at least");
        println!(
            "round {round}: node {leader} killed, which led {} partitions; all led again after {} ms; longest time without acknowledgement {} ms",
            led.len(),
            gap.as_millis(),
            longest.as_millis()
        );
        without_leader.push(gap);
        without_acknowledgement.push(longest);
        cluster.node(leader).start();
        cluster.wait_until_ready();
    }
    let verified = writer.verify(&cluster, TOPIC, PARTITIONS);
    cluster.assert_all_running();
    summary("time without a leader", &without_leader);
    summary("time without acknowledgement", &without_acknowledgement);
    println!("{} records, {} acknowledged: each once and in order", verified.records, verified.acknowledged);
}

pub(super) fn all(extent: Extent) {
    let (mut cluster, mut writer) = start();
    let mut until_ready = Vec::new();
    let mut until_acknowledgement = Vec::new();
    for round in 0..rounds(extent) {
        settle(&cluster, &mut writer, TOPIC, PARTITIONS);
        cluster.nodes.iter_mut().for_each(Node::kill);
        let started = Instant::now();
        cluster.nodes.iter_mut().for_each(Node::start);
        cluster.wait_until_ready();
        let ready = started.elapsed();
        writer.wait_for(RECORDS, PATIENCE);
        let acknowledged = started.elapsed();
        println!(
            "round {round}: all nodes killed and started; all ready after {} ms; records acknowledged after {} ms",
            ready.as_millis(),
            acknowledged.as_millis()
        );
        until_ready.push(ready);
        until_acknowledgement.push(acknowledged);
    }
    let verified = writer.verify(&cluster, TOPIC, PARTITIONS);
    cluster.assert_all_running();
    summary("restart until all nodes are ready", &until_ready);
    summary("restart until records are acknowledged", &until_acknowledgement);
    println!("{} records, {} acknowledged: each once and in order", verified.records, verified.acknowledged);
}

fn start() -> (Cluster, Writer) {
    let cluster = Cluster::start(3);
    Client::new(&cluster.bootstrap(), PATIENCE).create_topic(TOPIC, PARTITIONS, 3);
    let writer = Writer::start(&cluster, TOPIC, PARTITIONS);
    (cluster, writer)
}

/// Waits until every partition has a leader and all its replicas in sync, and the writer gets on.
pub(super) fn settle(cluster: &Cluster, writer: &mut Writer, topic: &str, partitions: i32) {
    for node in &cluster.nodes {
        until("partitions in sync", PATIENCE, || {
            let answer = metadata(&mut Connection::open(&node.address).ok()?, &[topic]).ok()?;
            let found = &answer.topics.first()?.partitions;
            let in_sync = found.iter().filter(|partition| partition.leader_id >= 0 && partition.isr_nodes.len() == 3);
            (in_sync.count() == partitions as usize).then_some(())
        });
    }
    writer.wait_for(RECORDS, PATIENCE);
}

/// Whether a node names a leader other than the one that was killed.
fn other_leader(connection: &mut Connection, partition: i32, killed: i32) -> Option<()> {
    let answer = metadata(connection, &[TOPIC]).expect("a node that runs answers");
    let found = answer.topics.first()?.partitions.iter().find(|found| found.partition_index == partition)?;
    (found.leader_id >= 0 && found.leader_id != killed).then_some(())
}

pub(super) fn summary(what: &str, times: &[Duration]) {
    let mut times: Vec<u128> = times.iter().map(Duration::as_millis).collect();
    times.sort_unstable();
    println!("{what}: median {} ms, longest {} ms of {}", times[times.len() / 2], times[times.len() - 1], times.len());
}
